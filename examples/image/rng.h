/* Counter-based random numbers: a value depends on its key and index, never on call order. */
/* SPDX-License-Identifier: MIT */
#ifndef IMAGE_RNG_H
#define IMAGE_RNG_H

#include <stdint.h>

/* What a stream of numbers is for; streams of one seed are independent. */
enum rng_stream {
	RNG_PARAMETERS = 1,
	RNG_SHUFFLE = 2,
	RNG_SYNTHETIC = 3,
	RNG_AUGMENT = 4,
	RNG_CROP = 5
};

/* Key of the stream for `item`: a tensor, an epoch, a class. */
uint64_t rng_key(uint64_t seed, enum rng_stream stream, uint64_t item);

uint64_t rng_word(uint64_t key, uint64_t index);

/* Uniform in 0 .. bound-1. */
uint64_t rng_below(uint64_t key, uint64_t index, uint64_t bound);

/* Uniform in [-1, 1), exact in f32: the same on every machine. */
float rng_symmetric(uint64_t key, uint64_t index);

/* Normal, mean 0 and deviation 1. */
float rng_normal(uint64_t key, uint64_t index);

#endif
