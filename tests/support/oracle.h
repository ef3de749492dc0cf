/*
 * PowerSGD in float64, written from the algorithm of the paper (Vogels et al. 2019, algorithms 1
 * and 2) and not from the library: plain matrices, textbook loops, row-major throughout.
 */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include <stddef.h>

/* a (rows x cols, row-major) := orthonormal columns, by modified Gram-Schmidt; col / (norm + eps)
 */
void oracle_orthonormalize(double *a, size_t rows, size_t cols, double eps);

/*
 * One step for one matrix on n_workers workers. m[w]: gradient plus error of worker w (rows x
 * cols), q: cols x r, the previous Q; becomes the new one. out: rows x cols, the mean gradient that
 * every worker applies. error[w] := m[w] - out.
 */
void oracle_powersgd(const double *const *m, size_t n_workers, size_t rows, size_t cols, size_t r,
	double eps, double *q, double *out, double *const *error);

/* Frobenius norm of a - b over that of b (or over 1 if b is zero). */
double oracle_distance(const double *a, const double *b, size_t n);

#endif
