/*
 * How kernels are launched, take dynamic shared memory, and have loops unrolled. What compiles them
 * without nvcc, so that they run on a CPU in tests, defines its own.
 */
#ifndef PSGD_DEVICE_CUDA_LAUNCH_H
#define PSGD_DEVICE_CUDA_LAUNCH_H

#include <cuda_runtime.h>

#ifndef PSGD_LAUNCH
#define PSGD_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
	kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define PSGD_DYN_SHARED(type, name)                                                                \
	extern __shared__ __align__(16) unsigned char psgd_dynamic_shared[];                       \
	type *name = reinterpret_cast<type *>(psgd_dynamic_shared)
#endif

/* Arrays stay in registers only when every index is known, so their loops are unrolled whole. */
#ifdef __CUDACC__
#define PSGD_UNROLL _Pragma("unroll")
#define PSGD_UNROLL_BY_8 _Pragma("unroll 8")
#else
#define PSGD_UNROLL
#define PSGD_UNROLL_BY_8
#endif

#endif
