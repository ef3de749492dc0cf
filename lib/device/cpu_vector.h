/* Vectors of the widest registers that a source is compiled for. */
#ifndef PSGD_DEVICE_CPU_VECTOR_H
#define PSGD_DEVICE_CPU_VECTOR_H

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

/* Every lane x. Subtracting 0 changes no value, not even that of -0. */
INLINE vec spread(float x)
{
	return x - (vec){0};
}

/* In an order of its own. */
INLINE float sum_of(vec v)
{
	float lane[WIDTH];

	store(lane, v);
	for (int width = WIDTH / 2; width > 0; width /= 2) {
		for (int i = 0; i < width; i++)
			lane[i] += lane[i + width];
	}
	return lane[0];
}

#endif
