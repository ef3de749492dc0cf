/* Which part of a photograph the net sees. SPDX-License-Identifier: MIT */
#include "crop.h"

#include <math.h>

#include "rng.h"

#define LEAST_AREA 0.08
#define LEAST_RATIO (3.0 / 4.0)
#define MOST_RATIO (4.0 / 3.0)
#define TRIES 10

/* Of each try, and one of the sample. */
enum draw { DRAW_AREA, DRAW_RATIO, DRAW_LEFT, DRAW_TOP, N_DRAWS };
#define DRAW_MIRROR ((uint64_t)TRIES * N_DRAWS)
#define SAMPLE_DRAWS (DRAW_MIRROR + 1)

uint64_t crop_key(uint64_t seed, uint64_t epoch)
{
	return rng_key(seed, RNG_CROP, epoch);
}

/* Uniform in [least, most). */
static double between(uint64_t key, uint64_t index, double least, double most)
{
	return least + (most - least) * (double)(rng_word(key, index) >> 11) * 0x1p-53;
}

static bool try_crop(uint64_t key, uint64_t first, size_t cols, size_t rows, struct crop *out)
{
	double area = (double)cols * (double)rows;
	double ratio = exp(between(key, first + DRAW_RATIO, log(LEAST_RATIO), log(MOST_RATIO)));
	double wide, high;

	area *= between(key, first + DRAW_AREA, LEAST_AREA, 1.0);
	wide = round(sqrt(area * ratio));
	high = round(sqrt(area / ratio));
	if (wide < 1.0 || high < 1.0 || wide > (double)cols || high > (double)rows)
		return false;
	out->cols = wide;
	out->rows = high;
	out->left = (double)rng_below(key, first + DRAW_LEFT, cols - (size_t)wide + 1);
	out->top = (double)rng_below(key, first + DRAW_TOP, rows - (size_t)high + 1);
	return true;
}

/* Never empty: an image of one row is as high as it can be. */
static struct crop fall_back(size_t cols, size_t rows)
{
	double wide = (double)cols, high = (double)rows;

	if (wide > high * MOST_RATIO)
		wide = round(high * MOST_RATIO);
	else if (wide < high * LEAST_RATIO)
		high = round(wide / LEAST_RATIO);
	return (struct crop){.left = floor(((double)cols - wide) / 2.0),
		.top = floor(((double)rows - high) / 2.0),
		.cols = wide,
		.rows = high};
}

struct crop crop_draw(uint64_t key, uint64_t position, size_t cols, size_t rows)
{
	uint64_t first = position * SAMPLE_DRAWS;
	struct crop crop = {0};
	bool found = false;

	for (uint64_t i = 0; !found && i < TRIES; i++)
		found = try_crop(key, first + i * N_DRAWS, cols, rows, &crop);
	if (!found)
		crop = fall_back(cols, rows);
	crop.mirror = rng_below(key, first + DRAW_MIRROR, 2) == 1;
	return crop;
}

struct crop crop_middle(size_t size, size_t cols, size_t rows)
{
	size_t shorter = cols < rows ? cols : rows, side = size * 256 / 224;
	/* The scaled image has whole pixels, and so has its margin. */
	size_t wide = cols * side / shorter, high = rows * side / shorter;
	double across = (double)cols / (double)wide, down = (double)rows / (double)high;

	return (struct crop){.left = nearbyint((double)(wide - size) / 2.0) * across,
		.top = nearbyint((double)(high - size) / 2.0) * down,
		.cols = (double)size * across,
		.rows = (double)size * down};
}
