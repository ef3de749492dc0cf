/* What training does to its images. SPDX-License-Identifier: MIT */
#include "augment.h"

#include "rng.h"

#define OFFSETS (2 * AUGMENT_PADDING + 1)

enum draw { DRAW_ROWS, DRAW_COLS, DRAW_MIRROR, N_DRAWS };

uint64_t augment_key(uint64_t seed, uint64_t epoch)
{
	return rng_key(seed, RNG_AUGMENT, epoch);
}

struct augment augment_draw(uint64_t key, uint64_t position)
{
	uint64_t first = position * N_DRAWS;

	return (struct augment){
		.rows = (int)rng_below(key, first + DRAW_ROWS, OFFSETS) - AUGMENT_PADDING,
		.cols = (int)rng_below(key, first + DRAW_COLS, OFFSETS) - AUGMENT_PADDING,
		.mirror = rng_below(key, first + DRAW_MIRROR, 2) == 1,
	};
}
