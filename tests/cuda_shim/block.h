/* Runs the blocks of a kernel one after the other, the threads of each as fibers. */
#ifndef CUDA_SHIM_BLOCK_H
#define CUDA_SHIM_BLOCK_H

#include <cuda_runtime.h>

#include "shim.h"

#define SHIM_MAX_THREADS 1024
#define SHIM_MAX_SHARED (163 << 10)

struct shim_kernel {
	const char *name;
	dim3 grid, block;
	size_t shared; /* bytes of dynamic shared memory, at most SHIM_MAX_SHARED */
	enum shim_order order;
	uint64_t seed;
	void (*body)(void *user); /* one thread */
	void *user;
};

/* One thread of the process only. Ends the process with a message where CUDA would hang. */
void shim_run_kernel(const struct shim_kernel *kernel);

#endif
