/* Repeatable random numbers for tests (splitmix64). */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>

struct rng {
	uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* low .. high, both included */
static inline uint32_t rng_range(struct rng *r, uint32_t low, uint32_t high)
{
	return low + (uint32_t)(rng_next(r) % (high - low + 1));
}

/* -1 .. 1 */
static inline float rng_float(struct rng *r)
{
	return (float)((double)(rng_next(r) >> 11) * 0x1p-52 - 1.0);
}

#endif
