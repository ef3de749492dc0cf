/* Which part of a photograph the net sees. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CROP_H
#define IMAGE_CROP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In pixels, from the image's corner; whole numbers but for the middle part. */
struct crop {
	double left, top, cols, rows;
	bool mirror;
};

uint64_t crop_key(uint64_t seed, uint64_t epoch);

/*
 * For training: a part of 8 to 100 % of the image's area, as high as wide or up to 4 / 3 of it
 * either way, anywhere, mirrored in half of the cases. In ten tries; then the largest part in the
 * middle that is within these shapes. A function of the key, the place in the epoch's order, and
 * the image's size.
 */
struct crop crop_draw(uint64_t key, uint64_t position, size_t cols, size_t rows);

/*
 * For evaluation: the middle size x size pixels of the image scaled so that its shorter side is
 * size * 256 / 224, as a part of the image itself.
 */
struct crop crop_middle(size_t size, size_t cols, size_t rows);

#endif
