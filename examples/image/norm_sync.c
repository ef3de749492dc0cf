/* Batch norm over the batches of all workers. SPDX-License-Identifier: MIT */
#include "norm_sync.h"

#include <math.h>
#include <string.h>

#include "layers.h"

/*
 * Activations as strips: rows of `width` channels, `stride` values apart. In blocks of channels a
 * strip is one block of one image; plain, it is up to TILE channels of the whole batch.
 */
struct strips {
	size_t images, groups; /* one strip for each pair */
	size_t rows, stride;
	size_t width; /* of the last group perhaps less */
	size_t channels;
	size_t image_values, group_values; /* between the beginnings of strips */
};

#define TILE 16
#define ROWS 128 /* added up in f32 before they go to f64 */

static struct strips strips_of(
	const struct net *net, const struct net_layer *layer, const struct net_cell *cell)
{
	const struct nn_shape *s = &layer->in;
	size_t c = (size_t)s->c, block = (size_t)nn_block(net->nn, s), pixels;

	pixels = (size_t)(s->h * s->w);
	if (block < c || (block == c && c <= TILE))
		return (struct strips){(size_t)cell->batch, c / block, pixels, block, block, c,
			c * pixels, block * pixels};
	return (struct strips){
		1, (c + TILE - 1) / TILE, (size_t)cell->batch * pixels, c, TILE, c, 0, TILE};
}

/* What a kernel works on: some rows of a strip. Vectors by channel begin at the strip's first. */
struct rows {
	const float *x, *dy;
	float *out;
	size_t n, stride, width;
	const float *mean, *scale, *shift; /* by channel */
	const float *dy_mean, *slope;	   /* of backward */
	bool relu;
	double *sum, *product; /* by channel */
};

typedef float lanes __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(16), aligned(4), may_alias));

#define LANES (sizeof(lanes) / sizeof(float))
#define MOST_VECTORS (TILE / LANES)
#define INLINE static inline __attribute__((always_inline))

INLINE lanes load(const float *from)
{
	return *(const lanes *)from;
}

/* Sums of x - mean and of its square. */
INLINE void moments_of(const struct rows *r, size_t vectors)
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
	for (size_t i = 0; i < vectors; i++)
		for (size_t j = 0; j < LANES; j++) {
			r->sum[i * LANES + j] += (double)sum[i][j];
			r->product[i * LANES + j] += (double)square[i][j];
		}
}

INLINE lanes normed(lanes x, lanes mean, lanes scale, lanes shift)
{
	return (x - mean) * scale + shift;
}

/* y; a NaN stays one. */
INLINE void apply_of(const struct rows *r, size_t vectors)
{
	lanes mean[MOST_VECTORS], scale[MOST_VECTORS], shift[MOST_VECTORS];
	const lanes zero = {0};

	for (size_t i = 0; i < vectors; i++) {
		mean[i] = load(r->mean + i * LANES);
		scale[i] = load(r->scale + i * LANES);
		shift[i] = load(r->shift + i * LANES);
	}
	for (size_t k = 0; k < r->n; k++)
		for (size_t i = 0; i < vectors; i++) {
			size_t at = k * r->stride + i * LANES;
			lanes y = normed(load(r->x + at), mean[i], scale[i], shift[i]);

			if (r->relu)
				y = (lanes)((bits)y & ~(y < zero));
			*(lanes *)(r->out + at) = y;
		}
}

/* The gradient of y before the relu, whose y is not kept but comes out as it was. */
INLINE lanes gradient(
	const struct rows *r, size_t at, lanes x, lanes mean, lanes scale, lanes shift)
{
	const lanes zero = {0};
	lanes dy = load(r->dy + at);

	if (r->relu)
		dy = (lanes)((bits)dy & (normed(x, mean, scale, shift) > zero));
	return dy;
}

/* Sums of dy and of dy * (x - mean). */
INLINE void products_of(const struct rows *r, size_t vectors)
{
	lanes mean[MOST_VECTORS], scale[MOST_VECTORS], shift[MOST_VECTORS];
	lanes sum[MOST_VECTORS] = {0}, product[MOST_VECTORS] = {0};

	for (size_t i = 0; i < vectors; i++) {
		mean[i] = load(r->mean + i * LANES);
		scale[i] = load(r->scale + i * LANES);
		shift[i] = load(r->shift + i * LANES);
	}
	for (size_t k = 0; k < r->n; k++)
		for (size_t i = 0; i < vectors; i++) {
			size_t at = k * r->stride + i * LANES;
			lanes x = load(r->x + at);
			lanes dy = gradient(r, at, x, mean[i], scale[i], shift[i]);

			sum[i] += dy;
			product[i] += dy * (x - mean[i]);
		}
	for (size_t i = 0; i < vectors; i++)
		for (size_t j = 0; j < LANES; j++) {
			r->sum[i * LANES + j] += (double)sum[i][j];
			r->product[i * LANES + j] += (double)product[i][j];
		}
}

/* dx */
INLINE void spread_of(const struct rows *r, size_t vectors)
{
	lanes mean[MOST_VECTORS], scale[MOST_VECTORS], shift[MOST_VECTORS];
	lanes dy_mean[MOST_VECTORS], slope[MOST_VECTORS];

	for (size_t i = 0; i < vectors; i++) {
		mean[i] = load(r->mean + i * LANES);
		scale[i] = load(r->scale + i * LANES);
		shift[i] = load(r->shift + i * LANES);
		dy_mean[i] = load(r->dy_mean + i * LANES);
		slope[i] = load(r->slope + i * LANES);
	}
	for (size_t k = 0; k < r->n; k++)
		for (size_t i = 0; i < vectors; i++) {
			size_t at = k * r->stride + i * LANES;
			lanes x = load(r->x + at);
			lanes dy = gradient(r, at, x, mean[i], scale[i], shift[i]);

			*(lanes *)(r->out + at) =
				scale[i] * (dy - dy_mean[i] - (x - mean[i]) * slope[i]);
		}
}
enum kernel { MOMENTS, APPLY, PRODUCTS, SPREAD };

INLINE void run_wide(enum kernel kernel, const struct rows *r, size_t vectors)
{
	if (kernel == MOMENTS)
		moments_of(r, vectors);
	else if (kernel == APPLY)
		apply_of(r, vectors);
	else if (kernel == PRODUCTS)
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
static void run_odd(enum kernel kernel, const struct rows *r)
{
	float x[ROWS * TILE] = {0}, dy[ROWS * TILE] = {0}, out[ROWS * TILE];
	struct rows padded = *r;

	padded.x = x;
	padded.dy = dy;
	padded.out = out;
	padded.stride = TILE;
	copy_rows(x, TILE, r->x, r->stride, r->n, r->width);
	if (r->dy)
		copy_rows(dy, TILE, r->dy, r->stride, r->n, r->width);
	run_wide(kernel, &padded, MOST_VECTORS);
	if (r->out)
		copy_rows(r->out, r->stride, out, TILE, r->n, r->width);
}

static void run(enum kernel kernel, const struct rows *r)
{
	if (r->width == TILE)
		run_wide(kernel, r, MOST_VECTORS);
	else if (r->width == TILE / 2)
		run_wide(kernel, r, MOST_VECTORS / 2);
	else
		run_odd(kernel, r);
}

/* all: the whole activations, and vectors of all channels. */
static void run_all(enum kernel kernel, const struct strips *s, const struct rows *all)
{
	for (size_t image = 0; image < s->images; image++)
		for (size_t group = 0; group < s->groups; group++) {
			size_t at = image * s->image_values + group * s->group_values;
			size_t channel = group * s->width, left = s->channels - channel;
			struct rows r = *all;

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
				run(kernel, &r);
			}
		}
}

static struct rows rows_of(const struct norm_scratch *scratch, const struct net_layer *layer,
	const struct net_cell *cell)
{
	return (struct rows){.x = cell->x[0],
		.mean = scratch->mean,
		.scale = scratch->scale,
		.shift = scratch->shift,
		.dy_mean = scratch->dy_mean,
		.slope = scratch->slope,
		.relu = layer->relu,
		.sum = scratch->sum,
		.product = scratch->product};
}

/*
 * Means over all workers of the two sums, of which each worker has `count` summands, into
 * scratch->values: those of the sum, then those of the product.
 */
static psgd_status sum_up(struct net *net, size_t channels, size_t count)
{
	struct norm_scratch *scratch = &net->norm;
	psgd_status status;

	for (size_t c = 0; c < channels; c++) {
		scratch->values[c] = (float)(scratch->sum[c] / (double)count);
		scratch->values[channels + c] = (float)(scratch->product[c] / (double)count);
	}
	status = net->sync(net->sync_user, scratch->values, 2 * channels);
	for (size_t c = 0; c < 2 * channels; c++)
		scratch->values[c] /= (float)net->n_workers;
	return status;
}

static void clear_sums(struct norm_scratch *scratch, size_t channels)
{
	memset(scratch->sum, 0, (channels + TILE) * sizeof(double));
	memset(scratch->product, 0, (channels + TILE) * sizeof(double));
}

/* A mean so many deviations from where moments were taken costs their f32 sums digits. */
#define FAR 8.0

/*
 * Mean and variance of all workers' batches, by the moments about scratch->mean. *far: they should
 * be taken about the mean that has been found. The same on all workers, to the bit.
 */
static psgd_status moments(struct net *net, const struct net_layer *layer, struct net_cell *cell,
	const struct strips *strips, bool *far)
{
	struct norm_scratch *scratch = &net->norm;
	size_t channels = strips->channels;
	struct rows all = rows_of(scratch, layer, cell);
	psgd_status status;

	*far = false;
	clear_sums(scratch, channels);
	run_all(MOMENTS, strips, &all);
	status = sum_up(net, channels, (size_t)(cell->batch * layer->in.h * layer->in.w));
	for (size_t c = 0; !status && c < channels; c++) {
		double shift = scratch->values[c];
		double variance = scratch->values[channels + c] - shift * shift;

		*far = *far || shift * shift > FAR * FAR * (fmax(variance, 0) + NORM_EPSILON);
		cell->mean[c] = (float)(scratch->mean[c] + shift);
		cell->variance[c] = (float)fmax(variance, 0);
		/* What is no number must stay so. */
		if (isnan(variance))
			cell->variance[c] = NAN;
	}
	return status;
}

/* scale and shift of y = (x - mean) * scale + shift. */
static void coefficients(
	struct net *net, const struct net_layer *layer, const struct net_cell *cell)
{
	const float *gamma = net->params + net->tensor[layer->first_tensor].offset;
	const float *beta = net->params + net->tensor[layer->first_tensor + 1].offset;
	struct norm_scratch *scratch = &net->norm;

	for (int64_t c = 0; c < layer->in.c; c++) {
		scratch->mean[c] = cell->mean[c];
		scratch->scale[c] =
			(float)(gamma[c] / sqrt((double)cell->variance[c] + (double)NORM_EPSILON));
		scratch->shift[c] = beta[c];
	}
}

psgd_status norm_sync_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	struct strips strips = strips_of(net, layer, cell);
	struct norm_scratch *scratch = &net->norm;
	struct rows all = rows_of(scratch, layer, cell);
	bool far = false;
	psgd_status status;

	/* About the running means, which all workers have alike. */
	memcpy(scratch->mean, running + layer->running, strips.channels * sizeof(float));
	status = moments(net, layer, cell, &strips, &far);
	if (!status && far) {
		memcpy(scratch->mean, cell->mean, strips.channels * sizeof(float));
		status = moments(net, layer, cell, &strips, &far);
	}
	if (status)
		return status;
	coefficients(net, layer, cell);
	all.out = cell->y;
	run_all(APPLY, &strips, &all);
	layer_track(layer, cell, net->n_workers, running);
	return PSGD_OK;
}

psgd_status norm_sync_backward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	float *d_gamma = net->grads + net->tensor[layer->first_tensor].offset;
	float *d_beta = net->grads + net->tensor[layer->first_tensor + 1].offset;
	struct strips strips = strips_of(net, layer, cell);
	struct norm_scratch *scratch = &net->norm;
	struct rows all = rows_of(scratch, layer, cell);
	size_t channels = strips.channels;
	psgd_status status;

	coefficients(net, layer, cell);
	clear_sums(scratch, channels);
	all.dy = cell->dy;
	run_all(PRODUCTS, &strips, &all);
	for (size_t c = 0; c < channels; c++) {
		double variance = (double)cell->variance[c] + (double)NORM_EPSILON;

		d_gamma[c] = (float)(scratch->product[c] / sqrt(variance));
		d_beta[c] = (float)scratch->sum[c];
	}
	status = sum_up(net, channels, (size_t)(cell->batch * layer->in.h * layer->in.w));
	if (status)
		return status;
	for (size_t c = 0; c < channels; c++) {
		scratch->dy_mean[c] = scratch->values[c];
		scratch->slope[c] =
			scratch->values[channels + c] / (cell->variance[c] + NORM_EPSILON);
	}
	all.out = cell->dx;
	run_all(SPREAD, &strips, &all);
	return PSGD_OK;
}
