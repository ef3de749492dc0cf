/* Products in float64, as the textbook has them. SPDX-License-Identifier: MIT */
#include <math.h>

#include "selftest.h"

/* Of one value of the result, and what it should be. */
struct distance {
	double difference, size;
};

static void add(struct distance *d, double value, float tested)
{
	d->difference += ((double)tested - value) * ((double)tested - value);
	d->size += value * value;
}

/* NaN where something is not finite. */
static double relative(const struct distance *d)
{
	return sqrt(d->difference) / (d->size > 0.0 ? sqrt(d->size) : 1.0);
}

double cli_project_error(
	const float *g, const float *q, int64_t rows, int64_t cols, uint32_t r, const float *tested)
{
	struct distance d = {0};

	for (uint32_t c = 0; c < r; c++) {
		for (int64_t i = 0; i < rows; i++) {
			double sum = 0.0;

			for (int64_t j = 0; j < cols; j++)
				sum += (double)g[i * cols + j] * (double)q[c * cols + j];
			add(&d, sum, tested[c * rows + i]);
		}
	}
	return relative(&d);
}

double cli_back_project_error(
	const float *g, const float *p, int64_t rows, int64_t cols, uint32_t r, const float *tested)
{
	struct distance d = {0};

	for (uint32_t c = 0; c < r; c++) {
		for (int64_t j = 0; j < cols; j++) {
			double sum = 0.0;

			for (int64_t i = 0; i < rows; i++)
				sum += (double)g[i * cols + j] * (double)p[c * rows + i];
			add(&d, sum, tested[c * cols + j]);
		}
	}
	return relative(&d);
}
