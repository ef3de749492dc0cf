/* The loops of a synchronised batch norm. SPDX-License-Identifier: MIT */
#include "norm_rows.h"

#include <stdint.h>
#include <string.h>

/* NORM_ROWS: the name of the function. NORM_LANES: values of a vector, a power of 2 up to 16. */
void NORM_ROWS(enum norm_loop loop, const struct norm_strips *strips, const struct norm_rows *all);

#define ROWS 128 /* added up in f32 before they go to f64 */

typedef float lanes __attribute__((vector_size(4 * NORM_LANES), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(4 * NORM_LANES), aligned(4), may_alias));

#define LANES ((size_t)NORM_LANES)
#define MOST_VECTORS (NORM_TILE / LANES)
#define INLINE static inline __attribute__((always_inline))

INLINE lanes load(const float *from)
{
	return *(const lanes *)from;
}

/* Of the channels at hand. */
struct coefficients {
	lanes mean[MOST_VECTORS], scale[MOST_VECTORS], shift[MOST_VECTORS];
};

INLINE struct coefficients coefficients_of(const struct norm_rows *r, size_t vectors)
{
	struct coefficients c;

	for (size_t i = 0; i < vectors; i++) {
		c.mean[i] = load(r->mean + i * LANES);
		c.scale[i] = load(r->scale + i * LANES);
		c.shift[i] = load(r->shift + i * LANES);
	}
	return c;
}

INLINE void add_up(
	const struct norm_rows *r, size_t vectors, const lanes *sum, const lanes *product)
{
	for (size_t i = 0; i < vectors; i++)
		for (size_t j = 0; j < LANES; j++) {
			r->sum[i * LANES + j] += (double)sum[i][j];
			r->product[i * LANES + j] += (double)product[i][j];
		}
}

INLINE void moments_of(const struct norm_rows *r, size_t vectors)
{
	lanes mean[MOST_VECTORS], sum[MOST_VECTORS] = {0}, square[MOST_VECTORS] = {0};

	for (size_t i = 0; i < vectors; i++)
		mean[i] = load(r->mean + i * LANES);
	for (size_t k = 0; k < r->n; k++)
		for (size_t i = 0; i < vectors; i++) {
			lanes d = load(r->x + k * r->stride + i * LANES) - mean[i];

			sum[i] += d;
			square[i] += d * d;
		}
	add_up(r, vectors, sum, square);
}

INLINE lanes normed(lanes x, const struct coefficients *c, size_t i)
{
	return (x - c->mean[i]) * c->scale[i] + c->shift[i];
}

/* A NaN stays one. */
INLINE void apply_of(const struct norm_rows *r, size_t vectors)
{
	const struct coefficients c = coefficients_of(r, vectors);
	const lanes zero = {0};

	for (size_t k = 0; k < r->n; k++)
		for (size_t i = 0; i < vectors; i++) {
			size_t at = k * r->stride + i * LANES;
			lanes y = normed(load(r->x + at), &c, i);

			if (r->relu)
				y = (lanes)((bits)y & ~(y < zero));
			*(lanes *)(r->out + at) = y;
		}
}

/* The gradient of y before the relu, whose y is not kept but comes out as it was. */
INLINE lanes gradient(
	const struct norm_rows *r, size_t at, lanes x, const struct coefficients *c, size_t i)
{
	const lanes zero = {0};
	lanes dy = load(r->dy + at);

	if (r->relu)
		dy = (lanes)((bits)dy & (normed(x, c, i) > zero));
	return dy;
}

INLINE void products_of(const struct norm_rows *r, size_t vectors)
{
	const struct coefficients c = coefficients_of(r, vectors);
	lanes sum[MOST_VECTORS] = {0}, product[MOST_VECTORS] = {0};

	for (size_t k = 0; k < r->n; k++)
		for (size_t i = 0; i < vectors; i++) {
			size_t at = k * r->stride + i * LANES;
			lanes x = load(r->x + at);
			lanes dy = gradient(r, at, x, &c, i);

			sum[i] += dy;
			product[i] += dy * (x - c.mean[i]);
		}
	add_up(r, vectors, sum, product);
}

INLINE void spread_of(const struct norm_rows *r, size_t vectors)
{
	const struct coefficients c = coefficients_of(r, vectors);
	lanes dy_mean[MOST_VECTORS], slope[MOST_VECTORS];

	for (size_t i = 0; i < vectors; i++) {
		dy_mean[i] = load(r->dy_mean + i * LANES);
		slope[i] = load(r->slope + i * LANES);
	}
	for (size_t k = 0; k < r->n; k++)
		for (size_t i = 0; i < vectors; i++) {
			size_t at = k * r->stride + i * LANES;
			lanes x = load(r->x + at);
			lanes dy = gradient(r, at, x, &c, i);

			*(lanes *)(r->out + at) =
				c.scale[i] * (dy - dy_mean[i] - (x - c.mean[i]) * slope[i]);
		}
}

INLINE void run_wide(enum norm_loop loop, const struct norm_rows *r, size_t vectors)
{
	if (loop == NORM_MOMENTS)
		moments_of(r, vectors);
	else if (loop == NORM_APPLY)
		apply_of(r, vectors);
	else if (loop == NORM_PRODUCTS)
		products_of(r, vectors);
	else
		spread_of(r, vectors);
}

static void copy_rows(
	float *to, size_t to_stride, const float *from, size_t from_stride, size_t n, size_t width)
{
	for (size_t k = 0; k < n; k++)
		memcpy(to + k * to_stride, from + k * from_stride, width * sizeof(float));
}

/* A width that vectors do not divide: by way of rows that are padded. At most ROWS of them. */
static void run_odd(enum norm_loop loop, const struct norm_rows *r)
{
	float x[ROWS * NORM_TILE] = {0}, dy[ROWS * NORM_TILE] = {0}, out[ROWS * NORM_TILE];
	double sum[NORM_TILE] = {0}, product[NORM_TILE] = {0};
	struct norm_rows padded = *r;

	padded.x = x;
	padded.dy = dy;
	padded.out = out;
	padded.stride = NORM_TILE;
	/* What is beyond the width may be the next channels' sums. */
	padded.sum = sum;
	padded.product = product;
	copy_rows(x, NORM_TILE, r->x, r->stride, r->n, r->width);
	if (r->dy)
		copy_rows(dy, NORM_TILE, r->dy, r->stride, r->n, r->width);
	run_wide(loop, &padded, MOST_VECTORS);
	if (r->out)
		copy_rows(r->out, r->stride, out, NORM_TILE, r->n, r->width);
	for (size_t j = 0; r->sum && j < r->width; j++) {
		r->sum[j] += sum[j];
		r->product[j] += product[j];
	}
}

static void run(enum norm_loop loop, const struct norm_rows *r)
{
	if (r->width == NORM_TILE)
		run_wide(loop, r, MOST_VECTORS);
	else if (r->width == NORM_TILE / 2 && MOST_VECTORS > 1)
		run_wide(loop, r, MOST_VECTORS / 2);
	else
		run_odd(loop, r);
}

/* all: the whole activations, and vectors of all channels. */
void NORM_ROWS(enum norm_loop loop, const struct norm_strips *s, const struct norm_rows *all)
{
	for (size_t image = 0; image < s->images; image++)
		for (size_t group = 0; group < s->groups; group++) {
			size_t at = image * s->image_values + group * s->group_values;
			size_t channel = group * s->width, left = s->channels - channel;
			struct norm_rows r = *all;

			r.stride = s->stride;
			r.width = left < s->width ? left : s->width;
			r.mean += channel;
			r.scale += channel;
			r.shift += channel;
			r.dy_mean += channel;
			r.slope += channel;
			r.sum += channel;
			r.product += channel;
			for (size_t row = 0; row < s->rows; row += ROWS) {
				size_t first = at + row * s->stride;

				r.n = s->rows - row < ROWS ? s->rows - row : ROWS;
				r.x = all->x + first;
				r.dy = all->dy ? all->dy + first : NULL;
				r.out = all->out ? all->out + first : NULL;
				run(loop, &r);
			}
		}
}
