/*
 * The loops of a synchronised batch norm. They are compiled once for each instruction set, with the
 * same bits from all of them: a channel's values are added one after the other.
 * SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_NORM_ROWS_H
#define IMAGE_NORM_ROWS_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Activations as strips: rows of `width` channels, `stride` values apart. In blocks of channels a
 * strip is one block of one image; plain, it is up to NORM_TILE channels of the whole batch.
 */
struct norm_strips {
	size_t images, groups; /* one strip for each pair */
	size_t rows, stride;
	size_t width; /* at most NORM_TILE; of the last group perhaps less */
	size_t channels;
	size_t image_values, group_values; /* between the beginnings of strips */
};

#define NORM_TILE 16

enum norm_loop {
	NORM_MOMENTS,  /* sums of x - mean and of its square */
	NORM_APPLY,    /* out = y */
	NORM_PRODUCTS, /* sums of dy and of dy * (x - mean) */
	NORM_SPREAD    /* out = dx */
};

/*
 * What a loop works on; y = (x - mean) * scale + shift, then perhaps the relu. Vectors are by
 * channel, and NORM_TILE longer than there are channels; sums are added to.
 */
struct norm_rows {
	const float *x, *dy;
	float *out;
	const float *mean, *scale, *shift;
	const float *dy_mean, *slope; /* dx = scale * (dy - dy_mean - (x - mean) * slope) */
	double *sum, *product;
	bool relu;
	size_t n, stride, width; /* of the rows at hand; set by the loops */
};

typedef void (*norm_rows_fn)(
	enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);

/* For instruction set 0, which is plain C, 1 ...; NULL: this processor has it not, nor later ones.
 */
norm_rows_fn norm_rows_of(unsigned isa);

#endif
