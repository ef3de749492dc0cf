#include "support/oracle.h"

#include <math.h>
#include <stdlib.h>

void oracle_orthonormalize(double *a, size_t rows, size_t cols, double eps)
{
	for (size_t c = 0; c < cols; c++) {
		double norm = 0.0;

		for (size_t b = 0; b < c; b++) {
			double along = 0.0;

			for (size_t i = 0; i < rows; i++)
				along += a[i * cols + b] * a[i * cols + c];
			for (size_t i = 0; i < rows; i++)
				a[i * cols + c] -= along * a[i * cols + b];
		}
		for (size_t i = 0; i < rows; i++)
			norm += a[i * cols + c] * a[i * cols + c];
		norm = sqrt(norm) + eps;
		for (size_t i = 0; norm > 0.0 && i < rows; i++)
			a[i * cols + c] /= norm;
	}
}

void oracle_powersgd(const double *const *m, size_t n_workers, size_t rows, size_t cols, size_t r,
	double eps, double *q, double *out, double *const *error)
{
	double *p = calloc(rows * r, sizeof(*p));

	oracle_orthonormalize(q, cols, r, eps);
	for (size_t w = 0; w < n_workers; w++)
		for (size_t i = 0; i < rows; i++)
			for (size_t c = 0; c < r; c++)
				for (size_t j = 0; j < cols; j++)
					p[i * r + c] += m[w][i * cols + j] * q[j * r + c];
	oracle_orthonormalize(p, rows, r, eps);
	for (size_t k = 0; k < cols * r; k++)
		q[k] = 0.0;
	for (size_t w = 0; w < n_workers; w++)
		for (size_t j = 0; j < cols; j++)
			for (size_t c = 0; c < r; c++)
				for (size_t i = 0; i < rows; i++)
					q[j * r + c] += m[w][i * cols + j] * p[i * r + c] /
							(double)n_workers;
	for (size_t i = 0; i < rows; i++) {
		for (size_t j = 0; j < cols; j++) {
			double x = 0.0;

			for (size_t c = 0; c < r; c++)
				x += p[i * r + c] * q[j * r + c];
			out[i * cols + j] = x;
			for (size_t w = 0; w < n_workers; w++)
				error[w][i * cols + j] = m[w][i * cols + j] - x;
		}
	}
	free(p);
}

double oracle_distance(const double *a, const double *b, size_t n)
{
	double difference = 0.0, size = 0.0;

	for (size_t i = 0; i < n; i++) {
		difference += (a[i] - b[i]) * (a[i] - b[i]);
		size += b[i] * b[i];
	}
	return sqrt(difference) / (size > 0.0 ? sqrt(size) : 1.0);
}
