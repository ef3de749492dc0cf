/*
 * The private table of fused kernels: where compressors and devices meet. Every entry works on a
 * group, all matrices of a bucket in one call, so that a GPU needs one launch for each. Lists, and
 * structs that are passed, are borrowed for the call: what runs later has a copy of them.
 *
 * Layout: g and e are row-major, n by m. p and q hold their r columns one after the other: column
 * c of p begins at p + c * n, column c of q at q + c * m.
 *
 * What writes to the host's memory (sum_squares, finite, sample) has done so when it returns;
 * `finish` does it in the stream's order.
 *
 * Bit-equal on every implementation (same bits in, same bits out): start, orthonormalize, finish,
 * reconstruct, axpby, accumulate, sum_squares, leading, fill. They use multiply and add rounded
 * separately, PSGD__LANES virtual lanes and one reduction tree. The others may sum in any order.
 */
#ifndef PSGD_KERNELS_H
#define PSGD_KERNELS_H

#include <psgd/device.h>

#define PSGD__LANES 16
#define PSGD__MAX_ROTATE 1024
#define PSGD__SQUARES 16384 /* values that are squared and summed by one set of lanes */
/* Squared norm below which an orthonormalized column carries nothing. */
#define PSGD__DEAD_COLUMN 0.25

struct psgd__matrix {
	float *g; /* gradient */
	float *e; /* error memory, NULL: none */
	float *p, *q;
	float *keep; /* `finish`: where q goes for the next start, not q itself; NULL: nowhere */
	int64_t n, m;
	uint32_t r; /* 0: not compressed. q is empty, p is n * m values of a message, NULL: none */
	uint32_t reserved;
};

/* Where a Q begins: r columns of m values. */
struct psgd__start {
	float *q;
	const float *from; /* an earlier one; NULL: drawn */
	int64_t m;
	uint32_t r;
	uint32_t tensor; /* id, for what is drawn */
	uint32_t draw;	 /* with from NULL */
	uint32_t redraw; /* of columns that carry nothing */
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

/* What is added to what. */
struct psgd__addend {
	float *to;
	const float *from;
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

/* The last round of a bucket. */
struct psgd__finish {
	const struct psgd__matrix *list;
	size_t count;
	const struct psgd__span *messages;
	size_t n_messages;
	uint32_t *nonfinite; /* the host's: 1 if a value of the messages is not finite, else 0 */
	float mean;	     /* 1 / n_workers */
	uint32_t as_is;	     /* 1: do not mind what is not finite, only tell */
};

struct psgd_kernels {
	size_t size;
	/*
	 * q = from, or random values as by fill; orthonormalized with eps. Then columns below
	 * PSGD__DEAD_COLUMN are drawn under `redraw`, and if there were any the whole is
	 * orthonormalized again, with eps 0.
	 */
	psgd_status (*start)(void *self, const struct psgd__start *list, size_t count,
		uint64_t seed, float eps, psgd_stream stream);
	/* g += e (if e); p = g q. Of r = 0: p = g, if there is a p. */
	psgd_status (*absorb_project)(
		void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
	/* Gram-Schmidt, twice; columns divided by norm + eps; a zero column stays zero. */
	psgd_status (*orthonormalize)(void *self, const struct psgd__panel *list, size_t count,
		float eps, psgd_stream stream);
	/* q = g^T p. Of r = 0: nothing. */
	psgd_status (*back_project)(
		void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
	/* x = p q^T; e = g - x (if e); g = x. r = 0: x = 0. */
	psgd_status (*reconstruct)(
		void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
	/*
	 * If the messages are finite, or as_is: q *= mean and reconstruct; keep = q. Of r = 0:
	 * g = mean p; e = 0 (if e). Else g = NaN, and nothing else changes. What q itself holds
	 * afterwards is not said.
	 */
	psgd_status (*finish)(void *self, const struct psgd__finish *finish, psgd_stream stream);
	/* y = a x + b y; b == 0 does not read y. x may be y. */
	psgd_status (*axpby)(void *self, int64_t count, float a, const float *x, float b, float *y,
		psgd_stream stream);
	/* to += from, of each. */
	psgd_status (*accumulate)(
		void *self, const struct psgd__addend *list, size_t count, psgd_stream stream);
	/*
	 * *out += sum of squares, in double. A span's is the sum of those of PSGD__SQUARES values
	 * each, one after the other.
	 */
	psgd_status (*sum_squares)(void *self, const struct psgd__span *list, size_t count,
		double *out, psgd_stream s);
	/* *out = 1 if every value is finite, else 0. */
	psgd_status (*finite)(void *self, const struct psgd__span *list, size_t count, int *out,
		psgd_stream stream);
	/*
	 * to = the `keep` leading columns of from V, where V are the eigenvectors of from^T from by
	 * falling eigenvalue: same span, most energy first. keep <= from->cols <= PSGD__MAX_ROTATE.
	 */
	psgd_status (*leading)(void *self, const struct psgd__panel *from, uint32_t keep, float *to,
		psgd_stream stream);
	/* Near-normal values, a function of (seed, tensor, column, row, draw). */
	psgd_status (*fill)(void *self, const struct psgd__fill *list, size_t count, uint64_t seed,
		psgd_stream stream);
	/* to[i] = from[i * stride], i < count; `to` is the host's. */
	psgd_status (*sample)(void *self, const float *from, int64_t stride, int64_t count,
		float *to, psgd_stream stream);
};

#endif
