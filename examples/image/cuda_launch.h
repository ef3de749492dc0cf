/*
 * How kernels are launched and take dynamic shared memory. What compiles them without nvcc, so that
 * they run on a CPU in tests, defines its own. SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_CUDA_LAUNCH_H
#define IMAGE_CUDA_LAUNCH_H

#include <cuda_runtime.h>

#ifndef PSGD_LAUNCH
#define PSGD_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
	kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define PSGD_DYN_SHARED(type, name)                                                                \
	extern __shared__ __align__(16) unsigned char image_dynamic_shared[];                      \
	type *name = reinterpret_cast<type *>(image_dynamic_shared)
#endif

#endif
