/* NCCL for the CUDA that runs on a CPU: its functions. See nccl_comm.h. */
#include <nccl.h>

#include <sys/random.h>

#include <cstring>
#include <memory>
#include <string>

#include "nccl_comm.h"
#include "shim_impl.h"

using namespace shim_nccl;

namespace
{

thread_local int version_told = NCCL_VERSION_CODE;

size_t width(ncclDataType_t type)
{
	return type == ncclFloat64 ? 8 : type == ncclFloat32 ? 4 : type == ncclUint8 ? 1 : 0;
}

void allow(shim_nccl_stalls what)
{
	while (stalled(what))
		nap();
}

/* In place: what is sent lies where its result comes. Elsewhere the two are apart. */
bool overlaps_badly(const Operation &o, const Mesh &mesh)
{
	const bool gather = o.header.kind == Kind::allgather;
	const size_t all = o.bytes * (gather ? static_cast<size_t>(mesh.n) : 1);
	const char *place = o.to + (gather ? o.bytes * static_cast<size_t>(mesh.rank) : 0);

	return o.from != place && o.from < o.to + all && o.to < o.from + o.bytes;
}

ncclResult_t collective(Kind kind, const void *from, void *to, size_t count, ncclDataType_t type,
	int root, ncclComm_t comm, cudaStream_t stream)
{
	Operation o;

	if (shim_fails())
		return ncclUnhandledCudaError;
	if (!comm || !from || !to || !width(type) || root < 0 || root >= comm->mesh.n ||
		(kind == Kind::allreduce && type == ncclUint8))
		return ncclInvalidArgument;
	if (stream && shim_stream_device(stream) != comm->device)
		return ncclInvalidArgument;
	o.header = {count, static_cast<uint32_t>(type), static_cast<uint32_t>(root), kind, 0};
	o.from = static_cast<const char *>(from);
	o.to = static_cast<char *>(to);
	o.bytes = count * width(type);
	if (overlaps_badly(o, comm->mesh))
		return ncclInvalidArgument;
	return comm->post(o, stream);
}

} /* namespace */

extern "C" {

void shim_nccl_stall(unsigned int what)
{
	stalls = what;
}

void shim_nccl_version(int version)
{
	version_told = version ? version : NCCL_VERSION_CODE;
}

ncclResult_t ncclGetVersion(int *version)
{
	if (shim_fails())
		return ncclInternalError;
	*version = version_told;
	return ncclSuccess;
}

/* Succeeds without a driver, as NCCL's does. */
ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
	unsigned char random[16];
	size_t at = 0;

	if (shim_fails() ||
		getrandom(random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random)))
		return ncclSystemError;
	std::memset(id, 0, sizeof(*id));
	std::memcpy(id->internal, "shim-nccl-", 10);
	for (at = 10; at < 10 + sizeof(random); at++)
		id->internal[at] = static_cast<char>('a' + random[at - 10] % 26);
	return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(
	ncclComm_t *out, int n, ncclUniqueId id, int rank, ncclConfig_t *config)
{
	int device = 0;

	*out = nullptr;
	if (shim_fails() || shim_no_device() != cudaSuccess ||
		cudaGetDevice(&device) != cudaSuccess)
		return ncclUnhandledCudaError;
	id.internal[NCCL_UNIQUE_ID_BYTES - 1] = '\0';
	if (n < 1 || rank < 0 || rank >= n || std::strncmp(id.internal, "shim-nccl-", 10) ||
		(config && config->magic != 0xcafebeef))
		return ncclInvalidArgument;
	const std::shared_ptr<ncclComm> comm =
		std::make_shared<ncclComm>(rank, n, device, !config || config->blocking != 0);
	comm->self = comm;
	shim_own(1);
	comm->join(id.internal);
	if (comm->blocking && comm->state != ncclSuccess) {
		const ncclResult_t why = static_cast<ncclResult_t>(comm->state.load());
		comm->end();
		return why;
	}
	*out = comm.get();
	return comm->blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int n, ncclUniqueId id, int rank)
{
	return ncclCommInitRankConfig(comm, n, id, rank, nullptr);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
	if (shim_fails())
		return ncclInternalError;
	bool news;

	comm->finalizing = true;
	while (comm->blocking && comm->look(&news) == ncclInProgress)
		nap();
	return comm->blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
	const bool fails = shim_fails();

	while (comm->queued && comm->state == ncclSuccess && !shim_lost())
		nap();
	comm->mesh.say_goodbye();
	comm->end();
	return fails ? ncclSystemError : ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
	const bool fails = shim_fails();

	comm->halt();
	allow(SHIM_NCCL_ABORT);
	comm->end();
	return fails ? ncclSystemError : ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
	switch (result) {
	case ncclSuccess:
		return "no error";
	case ncclUnhandledCudaError:
		return "unhandled cuda error";
	case ncclSystemError:
		return "unhandled system error";
	case ncclInternalError:
		return "internal error";
	case ncclInvalidArgument:
		return "invalid argument";
	case ncclInvalidUsage:
		return "invalid usage";
	case ncclRemoteError:
		return "remote process exited or there was a network error";
	case ncclInProgress:
		return "NCCL operation in progress";
	}
	return "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
	static thread_local char words[128];

	(void)comm;
	words[said().copy(words, sizeof(words) - 1)] = '\0';
	return words;
}

/* A question: it counts as a call that can fail once the answer is that all is well. */
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
	bool news;

	*error = comm->look(&news);
	return news && shim_fails() ? ncclInternalError : ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
	if (shim_fails() || comm->state != ncclSuccess)
		return ncclInvalidArgument;
	*count = comm->mesh.n;
	return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
	if (shim_fails() || comm->state != ncclSuccess)
		return ncclInvalidArgument;
	*device = comm->device;
	return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
	if (shim_fails() || comm->state != ncclSuccess)
		return ncclInvalidArgument;
	*rank = comm->mesh.rank;
	return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
	ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
	if (op != ncclSum)
		return ncclInvalidArgument;
	return collective(Kind::allreduce, from, to, count, type, 0, comm, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
	ncclComm_t comm, cudaStream_t stream)
{
	return collective(Kind::broadcast, from, to, count, type, root, comm, stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
	ncclComm_t comm, cudaStream_t stream)
{
	return collective(Kind::allgather, from, to, count, type, 0, comm, stream);
}

} /* extern "C" */
