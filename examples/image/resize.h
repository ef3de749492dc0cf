/* From a part of a picture to a square of pixels. SPDX-License-Identifier: MIT */
#ifndef IMAGE_RESIZE_H
#define IMAGE_RESIZE_H

#include "crop.h"

#include <psgd/status.h>

/* Rows of red, green, blue. */
struct picture {
	uint8_t *pixels;
	size_t cols, rows;
};

/* What each pixel of the result takes from a row or a column. */
struct resize_axis {
	size_t *first, *n;
	float *weights; /* `room` of them for each pixel */
	size_t room;
};

/* Memory that is kept from one picture to the next. Begins as zeros. */
struct resizer {
	struct resize_axis across, down;
	float *row;  /* of the picture */
	float *rows; /* that are resized across, not yet down */
	size_t row_room, rows_room;
};

void resizer_finish(struct resizer *resizer);

/*
 * Bilinear with antialiasing: a pixel is the mean of those around its place, weighted by a
 * triangle that reaches one pixel of the picture or of the result, whichever is larger, in each
 * direction. Only pixels of `within` are taken: those of the part itself, or the whole picture's;
 * both lie in the picture. out: size x size pixels, rounded to bytes once. Errors: NOMEM.
 */
psgd_status resize(struct resizer *resizer, const struct picture *picture, const struct crop *part,
	const struct crop *within, size_t size, uint8_t *out);

#endif
