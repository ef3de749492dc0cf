/*
 * For the libraries that are played on top of CUDA's runtime (cuBLAS, NCCL, cuDNN): work on a
 * stream, failures on demand, memory. Any thread.
 */
#ifndef CUDA_SHIM_IMPL_H
#define CUDA_SHIM_IMPL_H

#include <cuda_runtime.h>

#include <functional>

#include "shim.h"

/* At the head of each call that can fail: whether it shall. Counts the call. */
bool shim_fails();

/* Whether the device is lost: what is on streams is dropped, not run. */
bool shim_lost();

/* cudaSuccess, or why there is no device: 100 or 35. */
cudaError_t shim_no_device();

/* The calling thread's. */
int shim_device();
/* What a device is on the host, whatever it is to this process: see shim_devices. */
int shim_place(int device);

void shim_tally(enum shim_counter counter, uint64_t n = 1);

/*
 * Does `work` in the stream's order, in the background thread; device memory is accessible while it
 * runs. False: no such stream.
 */
bool shim_enqueue(cudaStream_t stream, std::function<void()> work);

/*
 * The same for work that waits for something outside: called again and again, every 0.2 ms or so,
 * until it returns true; other streams go on in between. It must not block, and not hold a lock
 * that a caller of CUDA holds. It goes on by itself with lazy streams too, after some milliseconds.
 */
bool shim_enqueue_poll(cudaStream_t stream, std::function<bool()> poll);

/* -1: no such stream. */
int shim_stream_device(cudaStream_t stream);

/* Waits until all that is on the stream now has run. */
void shim_wait(cudaStream_t stream);

/* Whether [memory, memory + bytes) lies in one living piece of device memory (any device). */
bool shim_is_device(const void *memory, size_t bytes);

/* The same for memory by cudaHostAlloc. */
bool shim_is_pinned(const void *memory, size_t bytes);

/* Ends the process with a message if it is not device memory: for use when work runs. */
void shim_need_device(const void *memory, size_t bytes, const char *what);

/* A handle exists (+1), or no longer (-1). */
void shim_own(int change);

/* Device memory is accessible while one exists; work in a stream has one already. */
struct shim_access {
	shim_access();
	~shim_access();
	shim_access(const shim_access &) = delete;
	shim_access &operator=(const shim_access &) = delete;
};

/*
 * Column-major C = alpha op(A) op(B) + beta C on memory that is accessible, summed better than
 * float sums; beta 0 does not read C.
 */
void shim_sgemm(bool a_transposed, bool b_transposed, int m, int n, int k, float alpha,
	const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

#endif
