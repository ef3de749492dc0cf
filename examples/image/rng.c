/* Counter-based random numbers (the finalizer of SplitMix64). SPDX-License-Identifier: MIT */
#include "rng.h"

#include <math.h>

#define GOLDEN_GAMMA 0x9e3779b97f4a7c15u

static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint64_t rng_key(uint64_t seed, enum rng_stream stream, uint64_t item)
{
	uint64_t key = mix(seed + GOLDEN_GAMMA);

	key = mix(key ^ ((uint64_t)stream * GOLDEN_GAMMA));
	return mix(key + (item + 1) * GOLDEN_GAMMA);
}

uint64_t rng_word(uint64_t key, uint64_t index)
{
	return mix(key + (index + 1) * GOLDEN_GAMMA);
}

uint64_t rng_below(uint64_t key, uint64_t index, uint64_t bound)
{
	__extension__ typedef unsigned __int128 wide;

	return (uint64_t)(((wide)rng_word(key, index) * bound) >> 64);
}

float rng_symmetric(uint64_t key, uint64_t index)
{
	int32_t value = (int32_t)(rng_word(key, index) >> 40) - (1 << 23);

	return (float)value * 0x1p-23f;
}

/* Box and Muller's: a length and an angle. The length's number is above 0. */
float rng_normal(uint64_t key, uint64_t index)
{
	double a = (double)((rng_word(key, 2 * index) >> 11) + 1) * 0x1p-53;
	double b = (double)(rng_word(key, 2 * index + 1) >> 11) * 0x1p-53;

	return (float)(sqrt(-2.0 * log(a)) * cos(2.0 * M_PI * b));
}
