/*
 * A communicator of the NCCL that runs on a CPU. A collective is work on a stream that sends what
 * this worker has to all that need it, and sums in the order of the workers, so that all get the
 * same bits. As in NCCL, one whose peer is gone stays on the stream until the communicator is
 * aborted, and workers that disagree wait for ever.
 */
#ifndef CUDA_SHIM_NCCL_COMM_H
#define CUDA_SHIM_NCCL_COMM_H

#include <nccl.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nccl_mesh.h"
#include "shim_nccl.h"

namespace shim_nccl
{

enum class Kind : uint32_t { allreduce, broadcast, allgather };

/* What workers must agree on: it goes before the data. */
struct Header {
	uint64_t count;
	uint32_t type, root;
	Kind kind;
	uint32_t reserved;
};

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

/* What the test has stalled: a sum of shim_nccl_stalls. */
extern std::atomic<unsigned int> stalls;

bool stalled(shim_nccl_stalls what);
void nap();

/* The last error's words are not one communicator's, as in NCCL. */
void say(const std::string &text);
std::string said();

} /* namespace shim_nccl */

struct ncclComm {
	ncclComm(int rank, int n, int its_device, bool waits)
	    : mesh(rank, n), device(its_device), blocking(waits)
	{
	}

	void join(const std::string &name);
	ncclResult_t post(const shim_nccl::Operation &operation, cudaStream_t stream);
	void enqueue(const shim_nccl::Operation &operation, cudaStream_t stream);
	ncclResult_t look(bool *news);
	void fail(ncclResult_t why, const std::string &text);
	void halt();
	void end();

	shim_nccl::Mesh mesh;
	const int device;
	const bool blocking;
	std::shared_ptr<ncclComm> self; /* until the caller gives it up */
	std::atomic<bool> stop{false};
	std::atomic<int> state{ncclInProgress};
	std::atomic<int> queued{0};
	bool finalizing = false;

      private:
	bool advance(shim_nccl::Operation &o);
	void lose(int peer);
	bool exchange(shim_nccl::Operation &o, int peer);
	bool sends_to(const shim_nccl::Operation &o, int peer) const;
	bool hears_from(const shim_nccl::Operation &o, int peer) const;
	void begin(shim_nccl::Operation &o);
	void finish(shim_nccl::Operation &o);

	std::thread joiner_;
	std::mutex turn_; /* while a collective advances */
	/* Of the one thread that may call: */
	unsigned int connected_ = 0; /* bits: kinds of collectives that have connected */
	bool busy_ = true;
	int looks_ = 0;
	std::function<void()> first_; /* a collective that connects, not on the stream yet */
};

#endif
