/* Near-normal values, bit for bit those of base/philox.h. */
#ifndef PSGD_DEVICE_CUDA_DRAW_H
#define PSGD_DEVICE_CUDA_DRAW_H

#include <cuda_runtime.h>

#include <curand_philox4x32_x.h>
#include <stdint.h>

/* cuRAND's Philox gives Random123's words; its own normals are not exact, so the sum is ours. */
static __device__ __forceinline__ float drawn(
	uint64_t seed, uint32_t row, uint32_t column, uint32_t tensor, uint32_t draw)
{
	const uint4 w = curand_Philox4x32_10(make_uint4(row, column, tensor, draw),
		make_uint2((uint32_t)seed, (uint32_t)(seed >> 32)));
	int sum = -8 * 65535 / 2;

	sum += (int)(w.x & 0xffff) + (int)(w.x >> 16);
	sum += (int)(w.y & 0xffff) + (int)(w.y >> 16);
	sum += (int)(w.z & 0xffff) + (int)(w.z >> 16);
	sum += (int)(w.w & 0xffff) + (int)(w.w >> 16);
	return (float)sum;
}

#endif
