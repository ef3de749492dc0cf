/* What training does to its images, so that no two epochs see the same. */
/* SPDX-License-Identifier: MIT */
#ifndef IMAGE_AUGMENT_H
#define IMAGE_AUGMENT_H

#include <stdbool.h>
#include <stdint.h>

#define AUGMENT_PADDING 4

/*
 * A crop of the image's own size out of the image with AUGMENT_PADDING black pixels around it,
 * then mirrored left to right or not. Zeros leave an image as it is.
 */
struct augment {
	int rows, cols; /* where the crop begins, from the image's corner: -PADDING .. PADDING */
	bool mirror;
};

uint64_t augment_key(uint64_t seed, uint64_t epoch);

/* For the sample at `position` of the epoch's global order: whoever takes it, in any order. */
struct augment augment_draw(uint64_t key, uint64_t position);

#endif
