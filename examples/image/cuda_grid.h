/* What the kernel files share. C++. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CUDA_GRID_H
#define IMAGE_CUDA_GRID_H

#include "cuda_kernels.h"
#include "cuda_launch.h"

#define CUDA_THREADS 256u

/* Blocks for n pieces of work, of which a thread takes one after the other. */
static inline dim3 cuda_grid(const struct cuda_place *place, size_t n)
{
	size_t wanted = (n + CUDA_THREADS - 1) / CUDA_THREADS;

	return dim3((unsigned)(wanted < 1 ? 1 : wanted < place->blocks ? wanted : place->blocks));
}

/* for (size_t i = cuda_first(); i < n; i += cuda_stride()) */
static __device__ __forceinline__ size_t cuda_first()
{
	return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ size_t cuda_stride()
{
	return (size_t)gridDim.x * blockDim.x;
}

/* V values that are read and written at once. */
template <int V> struct __align__(4 * V) cuda_pack
{
	float v[V];
};

template <int V> static __device__ __forceinline__ cuda_pack<V> cuda_load(const float *from)
{
	return *reinterpret_cast<const cuda_pack<V> *>(from);
}

template <int V>
static __device__ __forceinline__ void cuda_store(float *to, const cuda_pack<V> &pack)
{
	*reinterpret_cast<cuda_pack<V> *>(to) = pack;
}

#endif
