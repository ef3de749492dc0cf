/*
 * cuRAND's counter-based generator, Philox4x32-10, from the constants of the paper (Salmon, Moraes,
 * Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 */
#ifndef CUDA_SHIM_PHILOX_H
#define CUDA_SHIM_PHILOX_H

#include <cuda_runtime.h>

static inline uint4 curand_Philox4x32_10(uint4 counter, uint2 key)
{
	for (int round = 0; round < 10; round++) {
		uint64_t even = (uint64_t)0xD2511F53 * counter.x;
		uint64_t odd = (uint64_t)0xCD9E8D57 * counter.z;

		counter = make_uint4((uint32_t)(odd >> 32) ^ counter.y ^ key.x, (uint32_t)odd,
			(uint32_t)(even >> 32) ^ counter.w ^ key.y, (uint32_t)even);
		key.x += 0x9E3779B9;
		key.y += 0xBB67AE85;
	}
	return counter;
}

#endif
