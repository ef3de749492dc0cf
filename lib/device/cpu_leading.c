/*
 * Rotation of a panel to its principal directions, by Jacobi's method on the small Gram matrix.
 * Doubles in a fixed order and no function but sqrt: the same bits on every machine.
 */
#include "device/cpu.h"

#include <math.h>
#include <string.h>

#include "base/base.h"

#define MAX_SWEEPS 30

static double column_dot(const float *x, const float *y, int64_t rows)
{
	double lane[PSGD__LANES] = {0};
	int64_t i = 0;

	for (; i + PSGD__LANES <= rows; i += PSGD__LANES) {
		for (int l = 0; l < PSGD__LANES; l++)
			lane[l] = lane[l] + (double)x[i + l] * (double)y[i + l];
	}
	for (int l = 0; i + l < rows; l++)
		lane[l] = lane[l] + (double)x[i + l] * (double)y[i + l];
	for (int width = PSGD__LANES / 2; width > 0; width /= 2) {
		for (int l = 0; l < width; l++)
			lane[l] = lane[l] + lane[l + width];
	}
	return lane[0];
}

/* Rotates rows and columns p, q of the symmetric a, and columns p, q of v. */
static void rotate(double *a, double *v, uint32_t r, uint32_t p, uint32_t q)
{
	double theta = (a[q * r + q] - a[p * r + p]) / (2.0 * a[p * r + q]);
	double t = 1.0 / (fabs(theta) + sqrt(theta * theta + 1.0));
	double c, s;

	if (theta < 0.0)
		t = -t;
	c = 1.0 / sqrt(t * t + 1.0);
	s = t * c;
	for (uint32_t k = 0; k < r; k++) {
		double x = a[k * r + p], y = a[k * r + q];

		a[k * r + p] = c * x - s * y;
		a[k * r + q] = s * x + c * y;
	}
	for (uint32_t k = 0; k < r; k++) {
		double x = a[p * r + k], y = a[q * r + k];

		a[p * r + k] = c * x - s * y;
		a[q * r + k] = s * x + c * y;
		x = v[k * r + p];
		y = v[k * r + q];
		v[k * r + p] = c * x - s * y;
		v[k * r + q] = s * x + c * y;
	}
}

/* Eigenvectors of the symmetric a into v; a becomes diagonal. */
static void jacobi(double *a, double *v, uint32_t r)
{
	for (uint32_t i = 0; i < r; i++)
		v[i * r + i] = 1.0;
	for (int sweep = 0; sweep < MAX_SWEEPS; sweep++) {
		bool rotated = false;

		for (uint32_t p = 0; p + 1 < r; p++) {
			for (uint32_t q = p + 1; q < r; q++) {
				double small = 1e-15 * sqrt(a[p * r + p]) * sqrt(a[q * r + q]);

				if (!(fabs(a[p * r + q]) > small))
					continue;
				rotate(a, v, r, p, q);
				rotated = true;
			}
		}
		if (!rotated)
			break;
	}
}

/* The column of v with the largest eigenvalue that is not taken yet. */
static uint32_t next_largest(const double *a, uint32_t r, bool *taken)
{
	uint32_t best = r;

	for (uint32_t i = 0; i < r; i++) {
		if (!taken[i] && (best == r || a[i * r + i] > a[best * r + best]))
			best = i;
	}
	taken[best] = true;
	return best;
}

psgd_status psgd__cpu_leading(
	void *self, const struct psgd__panel *from, uint32_t keep, float *to, psgd_stream stream)
{
	uint32_t r = from->cols;
	psgd_status status = PSGD_ERR_NOMEM;
	double *a = NULL, *v = NULL;
	bool *taken = NULL;

	(void)self;
	(void)stream;
	if (keep > r || r > PSGD__MAX_ROTATE)
		return PSGD_ERR_INVALID;
	a = psgd__calloc((size_t)r * r, sizeof(*a));
	v = psgd__calloc((size_t)r * r, sizeof(*v));
	taken = psgd__calloc(r, sizeof(*taken));
	if (!a || !v || !taken)
		goto out;
	for (uint32_t i = 0; i < r; i++) {
		for (uint32_t j = i; j < r; j++) {
			a[i * r + j] = column_dot(from->data + i * from->rows,
				from->data + j * from->rows, from->rows);
			a[j * r + i] = a[i * r + j];
		}
	}
	jacobi(a, v, r);
	for (uint32_t c = 0; c < keep; c++) {
		uint32_t which = next_largest(a, r, taken);
		float *col = to + c * from->rows;

		memset(col, 0, (size_t)from->rows * sizeof(float));
		for (uint32_t k = 0; k < r; k++) {
			float weight = (float)v[k * r + which];

			for (int64_t i = 0; i < from->rows; i++)
				col[i] = col[i] + weight * from->data[k * from->rows + i];
		}
	}
	status = PSGD_OK;
out:
	free(taken);
	free(v);
	free(a);
	return status;
}
