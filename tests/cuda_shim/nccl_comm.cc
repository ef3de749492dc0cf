#include "nccl_comm.h"

#include <chrono>
#include <cstring>

#include "shim_impl.h"

namespace shim_nccl
{

std::atomic<unsigned int> stalls(0);

namespace
{

constexpr int kLooksUntilConnected = 3; /* of whoever waits for a collective that connects */

std::mutex last_lock;
std::string last_words;

} /* namespace */

void say(const std::string &text)
{
	std::lock_guard<std::mutex> guard(last_lock);
	last_words = text;
}

std::string said()
{
	std::lock_guard<std::mutex> guard(last_lock);
	return last_words;
}

bool stalled(shim_nccl_stalls what)
{
	return stalls & what;
}

void nap()
{
	std::this_thread::sleep_for(std::chrono::microseconds(200));
}

} /* namespace shim_nccl */

using namespace shim_nccl;

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
		if (!mesh.connect(name, shim_place(device), stop, devices)) {
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

	const unsigned int kind = 1u << static_cast<unsigned int>(operation.header.kind);

	if (state == ncclInProgress || first_ || finalizing)
		return ncclInvalidUsage;
	if (state != ncclSuccess)
		return static_cast<ncclResult_t>(state.load());
	shim_tally(SHIM_COLLECTIVES);
	if (blocking || connected_ & kind) {
		while (!(connected_ & kind) && stalled(SHIM_NCCL_CONNECT) && !stop)
			nap();
		if (stop)
			return ncclInternalError;
		connected_ |= kind;
		enqueue(operation, stream);
		return ncclSuccess;
	}
	/* The first of a kind connects in the background before it gets to the stream. */
	first_ = [this, operation, stream, kind] {
		connected_ |= kind;
		enqueue(operation, stream);
	};
	looks_ = 0;
	return ncclInProgress;
}

/* How the communicator is; *news: it was at something, and is no longer. */
ncclResult_t ncclComm::look(bool *news)
{
	if (shim_lost())
		fail(ncclUnhandledCudaError,
			"Cuda failure 'an illegal memory access was encountered'");

	ncclResult_t now = static_cast<ncclResult_t>(state.load());

	if (now == ncclSuccess && first_) {
		now = ncclInProgress;
		if (!stalled(SHIM_NCCL_CONNECT) && ++looks_ >= kLooksUntilConnected) {
			first_();
			first_ = nullptr;
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
