/* Counter-based random numbers: the same on every device, indexed and never ordered by calls. */
#ifndef PSGD_PHILOX_H
#define PSGD_PHILOX_H

#include <stdint.h>

/* Philox4x32-10 (Salmon et al., SC 2011): four words of counter (a, b, c, d) under `key`. */
void psgd__philox(uint64_t key, const uint32_t counter[4], uint32_t out[4]);

/*
 * Near-normal value, mean 0: the sum of eight 16-bit words less its mean, exact in float.
 * The variance is 8 * (2^32 - 1) / 12.
 */
float psgd__philox_normal(uint64_t key, const uint32_t counter[4]);

#endif
