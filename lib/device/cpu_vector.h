/* Vectors of the widest registers that a source is compiled for. */
#ifndef PSGD_DEVICE_CPU_VECTOR_H
#define PSGD_DEVICE_CPU_VECTOR_H

#include <immintrin.h>
#include <stdint.h>

#ifdef __AVX512F__
#define WIDTH 16
#else
#define WIDTH 8
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(WIDTH * sizeof(float))));
typedef float vec_anywhere
	__attribute__((vector_size(WIDTH * sizeof(float)), aligned(4), may_alias));

INLINE vec load(const float *from)
{
	return *(const vec_anywhere *)from;
}

INLINE void store(float *to, vec v)
{
	*(vec_anywhere *)to = v;
}

/* Past the caches, to an address that is a multiple of a vector; ends with stream_end. */
INLINE void stream(float *to, vec v)
{
#ifdef __AVX512F__
	_mm512_stream_ps(to, v);
#else
	_mm256_stream_ps(to, v);
#endif
}

INLINE void stream_end(void)
{
	_mm_sfence();
}

/* Into the second-level cache, which is harmless at any address. */
INLINE void ahead(const float *from, int64_t values)
{
	__builtin_prefetch(
		(const void *)((uintptr_t)from + (uintptr_t)values * sizeof(float)), 0, 2);
}

/* Every lane x. Subtracting 0 changes no value, not even that of -0. */
INLINE vec spread(float x)
{
	return x - (vec){0};
}

#define TILE_VALUES 65536 /* of Q in a tile, so that they stay in the second-level cache */

/* Columns of g in a tile of so many values of Q. */
INLINE int64_t tile_width(int64_t values, uint32_t r)
{
	const int64_t width = values / (r ? r : 1) / WIDTH * WIDTH;

	return width > WIDTH ? width : WIDTH;
}

/* The sum of the lanes, halves first, as lanes_sum. */
INLINE float sum_of(vec v)
{
	typedef float half __attribute__((vector_size(8 * sizeof(float))));
	typedef float quarter __attribute__((vector_size(4 * sizeof(float))));
#ifdef __AVX512F__
	half h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
		 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
	half h = v;
#endif
	quarter q = __builtin_shufflevector(h, h, 0, 1, 2, 3) +
		    __builtin_shufflevector(h, h, 4, 5, 6, 7);

	return (q[0] + q[2]) + (q[1] + q[3]);
}

#endif
