/*
 * NCCL for the CUDA that runs on a CPU. A collective is work on a stream that sends what this
 * worker has to all that need it, and sums in the order of the workers, so that all get the same
 * bits. As in NCCL, one whose peer is gone stays on the stream until the communicator is aborted,
 * and workers that disagree wait for ever.
 */
#include <nccl.h>

#include <sys/random.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nccl_mesh.h"
#include "shim_impl.h"
#include "shim_nccl.h"

namespace
{

using shim_nccl::Flow;
using shim_nccl::Mesh;

constexpr int kLooksUntilConnected = 3; /* of whoever waits for the first collective */

std::atomic<unsigned int> stalls(0);
thread_local int version_told = NCCL_VERSION_CODE;

/* The last error's words are not one communicator's, as in NCCL. */
std::mutex last_lock;
std::string last_words;

void say(const std::string &text)
{
	std::lock_guard<std::mutex> guard(last_lock);
	last_words = text;
}

bool stalled(shim_nccl_stalls what)
{
	return stalls & what;
}

void nap()
{
	std::this_thread::sleep_for(std::chrono::microseconds(200));
}

enum class Kind : uint32_t { allreduce, broadcast, allgather };

/* What workers must agree on: it goes before the data. */
struct Header {
	uint64_t count;
	uint32_t type, root;
	Kind kind;
	uint32_t reserved;
};

size_t width(ncclDataType_t type)
{
	return type == ncclFloat64 ? 8 : type == ncclFloat32 ? 4 : type == ncclUint8 ? 1 : 0;
}

/* One collective on its way. */
struct Operation {
	Header header;
	const char *from;
	char *to;
	size_t bytes; /* of one worker's data */
	bool begun = false;
	std::vector<char> mine; /* header and data, as it goes out */
	std::vector<std::vector<char>> theirs;
	std::vector<size_t> sent, got;
};

} /* namespace */

struct ncclComm {
	ncclComm(int rank, int n, int its_device, bool waits)
	    : mesh(rank, n), device(its_device), blocking(waits)
	{
	}

	void join(const std::string &name);
	ncclResult_t post(const Operation &operation, cudaStream_t stream);
	void enqueue(const Operation &operation, cudaStream_t stream);
	ncclResult_t look(bool *news);
	void fail(ncclResult_t why, const std::string &text);
	void halt();
	void end();

	Mesh mesh;
	const int device;
	const bool blocking;
	std::shared_ptr<ncclComm> self; /* until the caller gives it up */
	std::atomic<bool> stop{false};
	std::atomic<int> state{ncclInProgress};
	std::atomic<int> queued{0};
	bool finalizing = false;

      private:
	bool advance(Operation &o);
	void lose(int peer);
	bool exchange(Operation &o, int peer);
	bool sends_to(const Operation &o, int peer) const;
	bool hears_from(const Operation &o, int peer) const;
	void begin(Operation &o);
	void finish(Operation &o);

	std::thread joiner_;
	std::mutex turn_; /* while a collective advances */
	/* Of the one thread that may call: */
	bool connected_ = false, busy_ = true;
	int looks_ = 0;
	std::function<void()> first_; /* the first collective, not on the stream yet */
};

void ncclComm::fail(ncclResult_t why, const std::string &text)
{
	say(text);
	state = why;
}

/* The workers find each other in the background. */
void ncclComm::join(const std::string &name)
{
	joiner_ = std::thread([this, name] {
		std::vector<int> devices;

		while (stalled(SHIM_NCCL_INIT) && !stop)
			nap();
		if (!mesh.connect(name, device, stop, devices)) {
			if (!stop)
				fail(ncclSystemError, "a worker left while others connected");
			return;
		}
		for (int a = 0; a < mesh.n; a++) {
			for (int b = 0; b < a; b++) {
				if (devices[static_cast<size_t>(a)] !=
					devices[static_cast<size_t>(b)])
					continue;
				fail(ncclInvalidUsage, "Duplicate GPU detected : rank " +
							       std::to_string(b) + " and rank " +
							       std::to_string(a));
				return;
			}
		}
		state = ncclSuccess;
	});
	if (blocking)
		joiner_.join();
}

/* NCCL calls it now one thing, now the other. */
void ncclComm::lose(int peer)
{
	fail(mesh.rank % 2 ? ncclInternalError : ncclRemoteError,
		"connection closed by rank " + std::to_string(peer));
}

bool ncclComm::sends_to(const Operation &o, int peer) const
{
	if (peer == mesh.rank)
		return false;
	return o.header.kind != Kind::broadcast || static_cast<int>(o.header.root) == mesh.rank;
}

bool ncclComm::hears_from(const Operation &o, int peer) const
{
	if (peer == mesh.rank)
		return false;
	return o.header.kind != Kind::broadcast || static_cast<int>(o.header.root) == peer;
}

void ncclComm::begin(Operation &o)
{
	const size_t n = static_cast<size_t>(mesh.n);
	const size_t all = o.bytes * (o.header.kind == Kind::allgather ? n : 1);

	shim_need_device(o.from, o.bytes, "what a collective sends");
	shim_need_device(o.to, all, "where a collective puts its result");
	o.mine.resize(sizeof(Header) + o.bytes);
	std::memcpy(o.mine.data(), &o.header, sizeof(Header));
	std::memcpy(o.mine.data() + sizeof(Header), o.from, o.bytes);
	o.theirs.resize(n);
	for (std::vector<char> &theirs : o.theirs)
		theirs.resize(sizeof(Header) + o.bytes);
	o.sent.assign(n, 0);
	o.got.assign(n, 0);
	o.begun = true;
}

/* True when all is through with this peer. */
bool ncclComm::exchange(Operation &o, int peer)
{
	const size_t p = static_cast<size_t>(peer);
	Flow out = Flow::done, in = Flow::done;
	size_t before;

	do {
		before = o.sent[p] + o.got[p];
		if (sends_to(o, peer))
			out = mesh.send(peer, o.mine.data(), o.mine.size(), &o.sent[p]);
		/* What does not fit is never read on: the peer may have sent another size. */
		if (hears_from(o, peer)) {
			in = Flow::blocked;
			if (o.got[p] < sizeof(Header))
				in = mesh.receive(
					peer, o.theirs[p].data(), sizeof(Header), &o.got[p]);
			if (o.got[p] >= sizeof(Header) && in != Flow::lost) {
				in = Flow::blocked;
				if (!std::memcmp(o.theirs[p].data(), o.mine.data(), sizeof(Header)))
					in = mesh.receive(peer, o.theirs[p].data(),
						o.theirs[p].size(), &o.got[p]);
			}
		}
	} while (o.sent[p] + o.got[p] != before && in != Flow::lost && out != Flow::lost);
	if (in == Flow::lost || out == Flow::lost)
		lose(peer);
	return in == Flow::done && out == Flow::done;
}

template <typename T> void sum(Operation &o, int rank, int n)
{
	T *to = reinterpret_cast<T *>(o.to);

	for (size_t i = 0; i < o.header.count; i++) {
		T total = 0;

		for (int r = 0; r < n; r++) {
			const std::vector<char> &message =
				r == rank ? o.mine : o.theirs[static_cast<size_t>(r)];
			T x;

			std::memcpy(&x, message.data() + sizeof(Header) + i * sizeof(T), sizeof(T));
			total = r ? total + x : x;
		}
		to[i] = total;
	}
}

void ncclComm::finish(Operation &o)
{
	if (o.header.kind == Kind::allreduce && o.header.type == ncclFloat32)
		sum<float>(o, mesh.rank, mesh.n);
	else if (o.header.kind == Kind::allreduce)
		sum<double>(o, mesh.rank, mesh.n);
	for (int r = 0; r < mesh.n && o.header.kind != Kind::allreduce; r++) {
		const bool gather = o.header.kind == Kind::allgather;
		const size_t place = static_cast<size_t>(r);

		if (gather || r == static_cast<int>(o.header.root))
			std::memcpy(o.to + (gather ? place * o.bytes : 0),
				(r == mesh.rank ? o.mine : o.theirs[place]).data() + sizeof(Header),
				o.bytes);
	}
}

/* In the thread of the streams, again and again: true when the stream may go on. */
bool ncclComm::advance(Operation &o)
{
	std::lock_guard<std::mutex> guard(turn_);
	bool done = true;

	if (!stop) {
		if (state != ncclSuccess || stalled(SHIM_NCCL_COLLECTIVE))
			return false;
		if (!o.begun)
			begin(o);
		for (int peer = 0; peer < mesh.n; peer++)
			done = exchange(o, peer) && done;
		for (int peer = 0; peer < mesh.n && !done; peer++) {
			if (peer != mesh.rank && mesh.has_vanished(peer))
				lose(peer);
		}
		if (!done)
			return false;
		finish(o);
	}
	queued--;
	return true;
}

void ncclComm::enqueue(const Operation &operation, cudaStream_t stream)
{
	const std::shared_ptr<ncclComm> me = self;
	const std::shared_ptr<Operation> o = std::make_shared<Operation>(operation);

	queued++;
	shim_enqueue_poll(stream, [me, o] { return me->advance(*o); });
}

ncclResult_t ncclComm::post(const Operation &operation, cudaStream_t stream)
{
	const std::shared_ptr<ncclComm> me = self; /* an abort may come while it waits here */

	if (state != ncclSuccess)
		return state == ncclInProgress ? ncclInvalidUsage
					       : static_cast<ncclResult_t>(state.load());
	shim_tally(SHIM_COLLECTIVES);
	if (blocking || connected_) {
		while (!connected_ && stalled(SHIM_NCCL_CONNECT) && !stop)
			nap();
		if (stop)
			return ncclInternalError;
		connected_ = true;
		enqueue(operation, stream);
		return ncclSuccess;
	}
	/* The first one connects in the background before it gets to the stream. */
	first_ = [this, operation, stream] { enqueue(operation, stream); };
	looks_ = 0;
	return ncclInProgress;
}

/* How the communicator is; *news: it was at something, and is no longer. */
ncclResult_t ncclComm::look(bool *news)
{
	ncclResult_t now = static_cast<ncclResult_t>(state.load());

	if (now == ncclSuccess && first_) {
		now = ncclInProgress;
		if (!stalled(SHIM_NCCL_CONNECT) && ++looks_ >= kLooksUntilConnected) {
			first_();
			first_ = nullptr;
			connected_ = true;
			now = ncclSuccess;
		}
	}
	if (now == ncclSuccess && finalizing && (queued || stalled(SHIM_NCCL_FINALIZE)))
		now = ncclInProgress;
	*news = busy_ && now == ncclSuccess;
	busy_ = now == ncclInProgress;
	return now;
}

/* From here on collectives touch nothing, and leave the stream. */
void ncclComm::halt()
{
	std::lock_guard<std::mutex> guard(turn_);
	stop = true;
}

/* The communicator is nobody's any more; its work on streams goes on being its own. */
void ncclComm::end()
{
	const std::shared_ptr<ncclComm> me = self;

	halt();
	if (joiner_.joinable())
		joiner_.join();
	mesh.hang_up(); /* its work may be on a stream for long, but does nothing */
	shim_own(-1);
	first_ = nullptr;
	self.reset();
}

namespace
{

void allow(shim_nccl_stalls what)
{
	while (stalled(what))
		nap();
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
	o.header = {count, static_cast<uint32_t>(type), static_cast<uint32_t>(root), kind, 0};
	o.from = static_cast<const char *>(from);
	o.to = static_cast<char *>(to);
	o.bytes = count * width(type);
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

	while (comm->queued && comm->state == ncclSuccess)
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
	std::lock_guard<std::mutex> guard(last_lock);

	(void)comm;
	words[last_words.copy(words, sizeof(words) - 1)] = '\0';
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
