/* From a part of a picture to a square of pixels. SPDX-License-Identifier: MIT */
#include "resize.h"

#include <math.h>
#include <stdlib.h>

#include "room.h"

#define CHANNELS 3

static void axis_finish(struct resize_axis *axis)
{
	free(axis->first);
	free(axis->n);
	free(axis->weights);
	*axis = (struct resize_axis){0};
}

void resizer_finish(struct resizer *resizer)
{
	axis_finish(&resizer->across);
	axis_finish(&resizer->down);
	free(resizer->row);
	free(resizer->rows);
	*resizer = (struct resizer){0};
}

/* The part of an axis, and what may be taken. */
struct stretch {
	double begin, length;
	double least, most;
};

/* size is the same in all calls: it is the net's. */
static psgd_status axis_room(struct resize_axis *axis, size_t size, size_t room)
{
	if (!axis->first)
		axis->first = calloc(size, sizeof(*axis->first));
	if (!axis->n)
		axis->n = calloc(size, sizeof(*axis->n));
	if (room > axis->room) {
		free(axis->weights);
		axis->weights = calloc(size * room, sizeof(*axis->weights));
		axis->room = axis->weights ? room : 0;
	}
	return axis->first && axis->n && axis->weights ? PSGD_OK : PSGD_ERR_NOMEM;
}

static psgd_status axis_plan(
	struct resize_axis *axis, const struct stretch *stretch, size_t size, bool mirror)
{
	double scale = stretch->length / (double)size, reach = fmax(scale, 1.0);
	psgd_status status = axis_room(axis, size, (size_t)ceil(reach) * 2 + 2);

	if (status)
		return status;
	for (size_t i = 0; i < size; i++) {
		double center = stretch->begin + ((double)i + 0.5) * scale, total = 0.0;
		size_t to = mirror ? size - 1 - i : i;
		float *weights = axis->weights + to * axis->room;
		size_t begin = (size_t)fmax(floor(center - reach), stretch->least);
		size_t end = (size_t)fmin(ceil(center + reach), stretch->most);

		for (size_t k = begin; k < end; k++)
			total += fmax(1.0 - fabs((double)k + 0.5 - center) / reach, 0.0);
		for (size_t k = begin; k < end; k++)
			weights[k - begin] =
				(float)(fmax(1.0 - fabs((double)k + 0.5 - center) / reach, 0.0) /
					total);
		axis->first[to] = begin;
		axis->n[to] = end - begin;
	}
	return PSGD_OK;
}

/* A pixel and one value more, which processors take at once. */
#define LANES 4

static void row_across(const struct resize_axis *axis, const float *from, size_t size, float *to)
{
	for (size_t i = 0; i < size; i++) {
		const float *pixel = from + axis->first[i] * CHANNELS;
		const float *weights = axis->weights + i * axis->room;
		float sums[LANES] = {0};

		for (size_t k = 0; k < axis->n[i]; k++)
			for (size_t c = 0; c < LANES; c++)
				sums[c] += weights[k] * pixel[k * CHANNELS + c];
		for (size_t c = 0; c < CHANNELS; c++)
			to[CHANNELS * i + c] = sums[c];
	}
}

/* A block of values at a time, so that their sums stay in registers. */
#define BLOCK 32

static void row_down(const float *weights, size_t n, const float *from, size_t values, uint8_t *to)
{
	float sums[BLOCK];

	for (size_t begin = 0; begin < values; begin += BLOCK) {
		size_t width = values - begin < BLOCK ? values - begin : BLOCK;

		for (size_t i = 0; i < BLOCK; i++)
			sums[i] = 0.5f;
		for (size_t k = 0; k < n; k++)
			for (size_t i = 0; i < width; i++)
				sums[i] += weights[k] * from[k * values + begin + i];
		for (size_t i = 0; i < width; i++)
			to[begin + i] = (uint8_t)(sums[i] > 255.0f ? 255.0f : sums[i]);
	}
}

/* All rows that are needed, into resizer->rows. */
static psgd_status rows_across(struct resizer *resizer, const struct picture *picture, size_t begin,
	size_t end, size_t size)
{
	size_t values = picture->cols * CHANNELS;

	if (!room_for(&resizer->row, &resizer->row_room, values + LANES - CHANNELS,
		    sizeof(*resizer->row)) ||
		!room_for(&resizer->rows, &resizer->rows_room, (end - begin) * size * CHANNELS,
			sizeof(*resizer->rows)))
		return PSGD_ERR_NOMEM;
	for (size_t r = begin; r < end; r++) {
		for (size_t i = 0; i < values; i++)
			resizer->row[i] = picture->pixels[r * values + i];
		row_across(&resizer->across, resizer->row, size,
			resizer->rows + (r - begin) * size * CHANNELS);
	}
	return PSGD_OK;
}

psgd_status resize(struct resizer *resizer, const struct picture *picture, const struct crop *part,
	const struct crop *within, size_t size, uint8_t *out)
{
	struct stretch across = {
		part->left, part->cols, floor(within->left), ceil(within->left + within->cols)};
	struct stretch down = {
		part->top, part->rows, floor(within->top), ceil(within->top + within->rows)};
	size_t values = size * CHANNELS, begin, end;
	psgd_status status = axis_plan(&resizer->across, &across, size, part->mirror);

	if (!status)
		status = axis_plan(&resizer->down, &down, size, false);
	if (status)
		return status;
	begin = resizer->down.first[0];
	end = resizer->down.first[size - 1] + resizer->down.n[size - 1];
	status = rows_across(resizer, picture, begin, end, size);
	if (status)
		return status;
	for (size_t i = 0; i < size; i++)
		row_down(resizer->down.weights + i * resizer->down.room, resizer->down.n[i],
			resizer->rows + (resizer->down.first[i] - begin) * values, values,
			out + i * values);
	return PSGD_OK;
}
