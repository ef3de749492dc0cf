/*
 * Loops that a compiler makes good vectors of by itself. Compiled for each instruction set, and
 * once for none. Same bits in all: sums run as in cpu_lanes.h, here in double.
 */
#include <string.h>

#include "device/cpu_isa.h"

#define LANES PSGD__LANES

void ISA(absorb)(int64_t count, const float *restrict e, float *restrict g, float *restrict p)
{
	for (int64_t i = 0; i < count; i++) {
		g[i] = g[i] + e[i];
		p[i] = g[i];
	}
}

void ISA(axpby)(int64_t count, float a, const float *x, float b, float *y)
{
	if (b == 0.0f) {
		for (int64_t i = 0; i < count; i++)
			y[i] = a * x[i];
	} else {
		for (int64_t i = 0; i < count; i++)
			y[i] = a * x[i] + b * y[i];
	}
}

double ISA(sum_squares)(const float *x, int64_t count)
{
	double lane[LANES] = {0};
	int64_t i = 0;

	for (; i + LANES <= count; i += LANES) {
		for (int l = 0; l < LANES; l++)
			lane[l] = lane[l] + (double)x[i + l] * (double)x[i + l];
	}
	for (int l = 0; i + l < count; l++)
		lane[l] = lane[l] + (double)x[i + l] * (double)x[i + l];
	for (int width = LANES / 2; width > 0; width /= 2) {
		for (int l = 0; l < width; l++)
			lane[l] = lane[l] + lane[l + width];
	}
	return lane[0];
}

/* An exponent of all ones, infinity or NaN, carries into the sign. Integers: a vector. */
static inline uint32_t exponent_carry(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return (bits & 0x7f800000u) + 0x00800000u;
}

bool ISA(finite)(const float *x, int64_t count)
{
	/* Four places at once: a memory that is read in one place only is not at its fastest. */
	const int64_t quarter = count / 4;
	uint32_t carry = 0;

	for (int64_t i = 0; i < quarter; i++)
		carry |= exponent_carry(x[i]) | exponent_carry(x[quarter + i]) |
			 exponent_carry(x[2 * quarter + i]) | exponent_carry(x[3 * quarter + i]);
	for (int64_t i = 4 * quarter; i < count; i++)
		carry |= exponent_carry(x[i]);
	return !(carry >> 31);
}
