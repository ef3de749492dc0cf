/*
 * The private table of fused kernels: where compressors and devices meet. Every entry works on a
 * group, all matrices of a bucket in one call, so that a GPU needs one launch for each.
 *
 * Layout: g and e are row-major, n by m. p and q hold their r columns one after the other: column
 * c of p begins at p + c * n, column c of q at q + c * m.
 *
 * Bit-equal on every implementation (same bits in, same bits out): orthonormalize, reconstruct,
 * sum_squares, leading, fill. They use multiply and add rounded separately, PSGD__LANES virtual
 * lanes and one reduction tree. The others may sum in any order.
 */
#ifndef PSGD_KERNELS_H
#define PSGD_KERNELS_H

#include <psgd/device.h>

#define PSGD__LANES 16
#define PSGD__MAX_ROTATE 1024

struct psgd__matrix {
	float *g; /* gradient */
	float *e; /* error memory, NULL: none */
	float *p, *q;
	int64_t n, m;
	uint32_t r; /* 0: p and q are empty */
	uint32_t reserved;
};

struct psgd__panel {
	float *data; /* cols columns of `rows` values */
	int64_t rows;
	uint32_t cols;
	uint32_t reserved;
};

struct psgd__span {
	float *data;
	int64_t count;
};

/* Where a fill goes: values [column][row] of one tensor under one draw. */
struct psgd__fill {
	float *data;
	int64_t rows;
	uint32_t first_col, cols; /* data holds columns first_col .. first_col + cols - 1 */
	uint32_t tensor;	  /* id */
	uint32_t draw;
};

struct psgd_kernels {
	size_t size;
	/* g += e (if e); p = g q. */
	psgd_status (*absorb_project)(
		void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
	/* Gram-Schmidt, twice; columns divided by norm + eps; a zero column stays zero. */
	psgd_status (*orthonormalize)(void *self, const struct psgd__panel *list, size_t count,
		float eps, psgd_stream stream);
	/* q = g^T p. */
	psgd_status (*back_project)(
		void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
	/* x = p q^T; e = g - x (if e); g = x. */
	psgd_status (*reconstruct)(
		void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
	/* y = a x + b y; b == 0 does not read y. x may be y. */
	psgd_status (*axpby)(void *self, int64_t count, float a, const float *x, float b, float *y,
		psgd_stream stream);
	/* *out += sum of squares, in double. */
	psgd_status (*sum_squares)(void *self, const struct psgd__span *list, size_t count,
		double *out, psgd_stream s);
	/* *out = 1 if every value is finite, else 0. */
	psgd_status (*finite)(void *self, const struct psgd__span *list, size_t count, int *out,
		psgd_stream stream);
	/* Every value := value. */
	psgd_status (*set)(void *self, const struct psgd__span *list, size_t count, float value,
		psgd_stream s);
	/*
	 * to = the `keep` leading columns of from V, where V are the eigenvectors of from^T from by
	 * falling eigenvalue: same span, most energy first. keep <= from->cols <= PSGD__MAX_ROTATE.
	 */
	psgd_status (*leading)(void *self, const struct psgd__panel *from, uint32_t keep, float *to,
		psgd_stream stream);
	/* Near-normal values, a function of (seed, tensor, column, row, draw). */
	psgd_status (*fill)(void *self, const struct psgd__fill *list, size_t count, uint64_t seed,
		psgd_stream stream);
};

#endif
