/*
 * psgd-nccl.so: NCCL for psgd_transport_nccl. The collectives are those of psgd/nccl.h; here is how
 * a communicator comes to be. Nothing waits: NCCL connects in the background, and whoever starts
 * the first collective sees when it is ready, or that it never will be.
 */
#include <psgd/nccl.h>

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>

#include "transport/nccl_module.h"

_Static_assert(sizeof(((struct psgd__nccl_id *)0)->bytes) == NCCL_UNIQUE_ID_BYTES, "an id fits");

/* Before there are peers, none can be lost. */
static psgd_status alone(ncclResult_t result, char *reason)
{
	psgd_status status = psgd_nccl_result(result, reason);

	return status == PSGD_ERR_PEER_LOST ? PSGD_ERR_TRANSPORT : status;
}

static psgd_status module_version(uint32_t *out, char *reason)
{
	int found = 0;
	psgd_status status = alone(ncclGetVersion(&found), reason);

	*out = (uint32_t)found;
	return status;
}

/* NCCL itself says nothing of a missing driver until it is too late to say so well. */
static psgd_status module_look(uint32_t ordinal, char bus[PSGD__NCCL_BUS_BYTES], char *reason)
{
	int count = 0;
	const cudaError_t error = cudaGetDeviceCount(&count);

	if (error != cudaSuccess || count < 1) {
		(void)cudaGetLastError();
		snprintf(reason, PSGD_STREAMED_REASON, "no CUDA device: %s",
			error == cudaSuccess ? "none found" : cudaGetErrorString(error));
		return PSGD_ERR_UNSUPPORTED;
	}
	if (ordinal >= (uint32_t)count) {
		snprintf(reason, PSGD_STREAMED_REASON, "no CUDA device %u: there %s %d", ordinal,
			count == 1 ? "is" : "are", count);
		return PSGD_ERR_INVALID;
	}
	PSGD_NCCL_TRY(cudaDeviceGetPCIBusId(bus, PSGD__NCCL_BUS_BYTES, (int)ordinal));
	return PSGD_OK;
}

static psgd_status module_make_id(struct psgd__nccl_id *id, char *reason)
{
	ncclUniqueId unique;
	psgd_status status = alone(ncclGetUniqueId(&unique), reason);

	if (status == PSGD_OK)
		memcpy(id->bytes, unique.internal, sizeof(id->bytes));
	return status;
}

static psgd_status module_open(
	uint32_t ordinal, uint32_t worker, uint32_t n_workers, void **self, char *reason)
{
	struct psgd_nccl *n;
	psgd_status status = psgd_nccl_open((int)ordinal, worker, n_workers, &n, reason);

	if (status == PSGD_OK)
		n->flags = PSGD_NCCL_OWN;
	*self = n;
	return status;
}

static psgd_status module_connect(void *self, const struct psgd__nccl_id *id, char *reason)
{
	struct psgd_nccl *n = self;
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	ncclUniqueId unique;
	ncclComm_t comm = NULL;
	ncclResult_t result;
	psgd_status status;

	config.blocking = 0;
	memcpy(unique.internal, id->bytes, sizeof(unique.internal));
	PSGD_NCCL_TRY(cudaSetDevice(n->device));
	result = ncclCommInitRankConfig(&comm, (int)n->n_workers, unique, (int)n->worker, &config);
	status = alone(result, reason);
	if (status < 0)
		return status;
	n->comm = comm;
	return PSGD_OK;
}

/* What a profiler shows is what is put on the stream inside the range. */
static psgd_status module_start(void *self, const struct psgd_streamed_job *job, char *reason)
{
	static const char *const names[] = {[PSGD_ALLREDUCE_SUM] = "psgd all-reduce",
		[PSGD_BROADCAST] = "psgd broadcast",
		[PSGD_ALLGATHER] = "psgd all-gather"};
	psgd_status status;

	nvtxRangePushA(names[job->collective->kind]);
	status = psgd_nccl_start(self, job, reason);
	nvtxRangePop();
	return status;
}

static const struct psgd_streamed_ops ops = {
	.size = sizeof(struct psgd_streamed_ops),
	.name = "nccl",
	.is_host = psgd_nccl_is_host,
	.place_create = psgd_nccl_place_create,
	.mark = psgd_nccl_mark,
	.start = module_start,
	.test = psgd_nccl_test,
	.abort = psgd_nccl_abort,
	.close = psgd_nccl_close,
};

static const struct psgd__nccl_module module = {
	.size = sizeof(struct psgd__nccl_module),
	.ops = &ops,
	.version = module_version,
	.look = module_look,
	.make_id = module_make_id,
	.open = module_open,
	.connect = module_connect,
};

__attribute__((visibility("default"))) const struct psgd__nccl_module *PSGD__NCCL_ENTRY(void);

const struct psgd__nccl_module *PSGD__NCCL_ENTRY(void)
{
	return &module;
}
