/* Streams as queues, and the one thread that runs them. C++. */
#ifndef CUDA_SHIM_STREAMS_H
#define CUDA_SHIM_STREAMS_H

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "state.h"

/* Some point of a stream: all up to item `seq`. */
struct ShimPoint {
	std::shared_ptr<struct CUstream_st> stream; /* empty: there is nothing to wait for */
	uint64_t seq = 0;
};

struct ShimItem {
	uint64_t seq;
	std::function<bool()> run; /* true: done */
	ShimPoint after;	   /* not before this */
	bool by_itself;		   /* comes in the end with lazy streams too */
	bool of_host;		   /* a host function: sees no device memory */
	shim::Clock::time_point since;
};

struct CUstream_st {
	int device;
	bool with_default; /* in order with the default stream */
	bool is_default;
	std::deque<ShimItem> queue; /* the first may be running */
	bool running = false;
	uint64_t last = 0, completed = 0;
	uint64_t wanted = 0;	       /* lazy: how far something waits for it */
	shim::Clock::time_point again; /* a poll: not before */
};

struct CUevent_st {
	bool timed;
	int device;
	ShimPoint at;
	std::shared_ptr<shim::Clock::time_point> when; /* of the last record, zero: not yet */
};

namespace shim
{

struct Streams {
	std::mutex mutex;
	std::condition_variable work, progress;
	std::thread thread;
	bool stop = false, started = false;
	uint64_t seq = 0, random = 1, launches = 0;
	std::unordered_map<CUstream_st *, std::shared_ptr<CUstream_st>> known;
	std::unordered_map<CUevent_st *, std::shared_ptr<CUevent_st>> events;
	std::shared_ptr<CUstream_st> defaults[kMaxDevices];
	std::vector<std::shared_ptr<CUstream_st>> all; /* that are known or have work left */
	std::unordered_map<const void *, size_t> shared_limits; /* of kernels */
};

Streams &streams();

/* With the mutex. NULL: the default stream of the current device. Empty: no such stream. */
std::shared_ptr<CUstream_st> find_stream(Streams &s, cudaStream_t stream);
ShimPoint add(Streams &s, const std::shared_ptr<CUstream_st> &stream, ShimItem item);
/* Somebody waits: lazy streams go on up to there. */
void want(Streams &s, const ShimPoint &point);
bool reached(const ShimPoint &point);
void wait_for(Streams &s, std::unique_lock<std::mutex> &lock, const ShimPoint &point);

} // namespace shim

#endif
