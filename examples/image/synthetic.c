/* A data set without files. SPDX-License-Identifier: MIT */
#include "synthetic.h"

#include <stdlib.h>

#include "rng.h"

#define PIXELS (SYNTHETIC_SIDE * SYNTHETIC_SIDE)
#define CELL 4 /* a pattern is constant over CELL x CELL pixels, so that pooling keeps it */
#define NOISE 100.0f
#define CONTRAST 16.0f

/* Splits differ in their noise; a test sample is none of the training set. */
enum part { TRAIN = 0, TEST = 1 };

static float pattern(uint64_t seed, unsigned class, size_t pixel)
{
	size_t row = pixel / SYNTHETIC_SIDE / CELL, column = pixel % SYNTHETIC_SIDE / CELL;
	uint64_t key = rng_key(seed, RNG_SYNTHETIC, class);

	return CONTRAST * rng_symmetric(key, row * SYNTHETIC_SIDE + column);
}

static uint8_t clamp_byte(float value)
{
	return (uint8_t)(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value);
}

#define MOST_CLASSES 256u /* a label is a byte; the outputs may be more */

static psgd_status split_fill(struct split *split, size_t count, enum part part, unsigned classes,
	uint64_t seed, struct image_error *error)
{
	float(*patterns)[PIXELS] = malloc(classes * sizeof(*patterns));

	split->images = malloc(count * PIXELS);
	split->labels = malloc(count);
	split->count = count;
	if (!patterns || !split->images || !split->labels) {
		free(patterns);
		return image_fail(error, PSGD_ERR_NOMEM, "synthetic data: out of memory");
	}
	for (unsigned class = 0; class < classes; class ++)
		for (size_t i = 0; i < PIXELS; i++)
			patterns[class][i] = 128.0f + pattern(seed, class, i);
	for (size_t s = 0; s < count; s++) {
		/* Beyond the keys of the patterns, which are class numbers. */
		uint64_t key =
			rng_key(seed, RNG_SYNTHETIC, ((uint64_t)s + 1) << 9 | (uint64_t)part << 8);
		unsigned class = (unsigned)rng_below(key, PIXELS, classes);

		split->labels[s] = (uint8_t) class;
		for (size_t i = 0; i < PIXELS; i++)
			split->images[s * PIXELS + i] =
				clamp_byte(patterns[class][i] + NOISE * rng_symmetric(key, i));
	}
	free(patterns);
	return PSGD_OK;
}

psgd_status synthetic_fill(struct data *out, unsigned classes, uint64_t seed, size_t train_limit,
	size_t test_limit, struct image_error *error)
{
	size_t train = train_limit && train_limit < SYNTHETIC_TRAIN ? train_limit : SYNTHETIC_TRAIN;
	size_t test = test_limit && test_limit < SYNTHETIC_TEST ? test_limit : SYNTHETIC_TEST;
	psgd_status status;

	if (classes > MOST_CLASSES)
		classes = MOST_CLASSES;
	out->shape = (struct image_shape){SYNTHETIC_SIDE, SYNTHETIC_SIDE, 1};
	status = split_fill(&out->train, train, TRAIN, classes, seed, error);
	if (!status)
		status = split_fill(&out->test, test, TEST, classes, seed, error);
	return status;
}
