/* What the files of the runtime share. C++. */
#ifndef CUDA_SHIM_STATE_H
#define CUDA_SHIM_STATE_H

#include <atomic>
#include <chrono>
#include <cstdint>

#include "shim_impl.h"

namespace shim
{

using Clock = std::chrono::steady_clock;

constexpr int kMaxDevices = 8;
constexpr int kMultiprocessors = 8;
constexpr size_t kSharedPerBlock = 48 << 10;

struct Settings {
	std::atomic<int> devices, first, order;
	std::atomic<uint64_t> seed, fail_at, lose_at, calls;
	std::atomic<bool> lazy;
	std::atomic<size_t> memory;
	std::atomic<uint64_t> counters[SHIM_COUNTERS];
	std::atomic<long> owned;
	std::atomic<unsigned> contexts; /* a bit for each device */
};

Settings &settings();

/* Keeps the error for cudaGetLastError, and returns it. */
cudaError_t report(cudaError_t error);

/*
 * The head of a call: no device, a failure on demand, a device that is lost, or a call from a host
 * function.
 */
cudaError_t enter(cudaError_t injected = cudaErrorUnknown);

/* Of the calling thread, which has a context there from now on. */
int current_device();

/* Whether this thread runs a host function, in which nothing of CUDA may be called. */
extern thread_local bool in_host_function;

/* All streams have run all there is; of one device, unless it is -1. */
void drain(int device = -1);
/* Some setting has changed. */
void wake();

enum class Place { pageable, pinned, device, bad };

/* Where [memory, memory + bytes) lies; bad: it leaves the piece it begins in. */
Place place_of(const void *memory, size_t bytes);

[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace shim

#endif
