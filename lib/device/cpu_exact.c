/*
 * What every worker computes for itself, the same bits in every instruction set: multiply and add
 * are rounded one after the other, and sums run as in cpu_lanes.h. cpu_plain.c says the same in
 * plain C. Compiled for each instruction set.
 */
#include "device/cpu_isa.h"
#include "device/cpu_lanes.h"
#include "device/cpu_vector.h"

#define ROWS 4
#define STRETCH 2
#define PARTS (LANES / WIDTH)

/* g := sum of p q over all columns, e := g - sum; `rows` rows from i, `vectors` vectors from j. */
INLINE void reconstruct_vectors(const struct psgd__matrix *x, int64_t i, int64_t j, const int rows,
	const int vectors, const bool past)
{
	float *g = x->g + i * x->m + j, *e = x->e ? x->e + i * x->m + j : NULL;
	vec sum[ROWS][STRETCH] = {0};

	for (uint32_t c = 0; c < x->r; c++) {
		const float *q = x->q + c * x->m + j, *p = x->p + c * x->n + i;
		vec w[STRETCH];

		UNROLL
		for (int k = 0; k < vectors; k++)
			w[k] = load(q + k * WIDTH);
		UNROLL
		for (int a = 0; a < rows; a++) {
			vec v = spread(p[a]);

			UNROLL
			for (int k = 0; k < vectors; k++)
				sum[a][k] = sum[a][k] + v * w[k];
		}
	}
	UNROLL
	for (int a = 0; a < rows; a++) {
		UNROLL
		for (int k = 0; k < vectors; k++) {
			const int64_t at = a * x->m + k * WIDTH;

			if (past)
				stream(e + at, load(g + at) - sum[a][k]);
			else if (e)
				store(e + at, load(g + at) - sum[a][k]);
			store(g + at, sum[a][k]);
		}
	}
}

static void reconstruct_value(const struct psgd__matrix *x, int64_t i, int64_t j)
{
	float *g = x->g + i * x->m + j;
	float sum = 0.0f;

	for (uint32_t c = 0; c < x->r; c++)
		sum = sum + x->p[c * x->n + i] * x->q[c * x->m + j];
	if (x->e)
		x->e[i * x->m + j] = *g - sum;
	*g = sum;
}

INLINE void reconstruct_rows(const struct psgd__matrix *x, int64_t i, int64_t j, int64_t end,
	const int rows, const bool past)
{
	for (; j + STRETCH * WIDTH <= end; j += STRETCH * WIDTH)
		reconstruct_vectors(x, i, j, rows, STRETCH, past);
	for (; j + WIDTH <= end; j += WIDTH)
		reconstruct_vectors(x, i, j, rows, 1, past);
	for (; j < end; j++) {
		for (int a = 0; a < rows; a++)
			reconstruct_value(x, i + a, j);
	}
}

INLINE void reconstruct_tile(const struct psgd__matrix *x, int64_t i, int64_t to, int64_t j,
	int64_t end, const bool past)
{
	for (; i + ROWS <= to; i += ROWS)
		reconstruct_rows(x, i, j, end, ROWS, past);
	for (; i < to; i++)
		reconstruct_rows(x, i, j, end, 1, past);
}

/*
 * e is written whole and next read in another step: past the caches, so that it is not read before
 * it is written. That halves the time of this pass. What was just read, g, gains nothing by it.
 */
void ISA(reconstruct)(const struct psgd__matrix *x, int64_t from, int64_t to)
{
	const int64_t tile = tile_width(TILE_VALUES, x->r);
	const bool past = x->e && (uintptr_t)x->e % sizeof(vec) == 0 && x->m % WIDTH == 0;

	for (int64_t j = 0; j < x->m; j += tile) {
		const int64_t end = j + tile < x->m ? j + tile : x->m;

		if (past)
			reconstruct_tile(x, from, to, j, end, true);
		else
			reconstruct_tile(x, from, to, j, end, false);
	}
	if (past)
		stream_end();
}

/* `n` dots of a column with columns of a basis. */
INLINE void dots(const float *basis, const float *col, int64_t rows, const int n, float *out)
{
	vec acc[TOGETHER][PARTS] = {0};
	int64_t i = 0;

	for (; i + LANES <= rows; i += LANES) {
		UNROLL
		for (int k = 0; k < PARTS; k++) {
			vec v = load(col + i + k * WIDTH);

			UNROLL
			for (int b = 0; b < n; b++)
				acc[b][k] = acc[b][k] + load(basis + b * rows + i + k * WIDTH) * v;
		}
	}
	for (int b = 0; b < n; b++) {
		float lane[LANES];

		for (int k = 0; k < PARTS; k++)
			store(lane + k * WIDTH, acc[b][k]);
		for (int l = 0; i + l < rows; l++)
			lane[l] = lane[l] + basis[b * rows + i + l] * col[i + l];
		out[b] = lanes_sum(lane);
	}
}

/* col -= its parts along n columns of the basis, as they are before any is taken away. */
INLINE void remove_parts(const float *basis, float *col, int64_t rows, const int n)
{
	float s[TOGETHER];
	int64_t i = 0;

	dots(basis, col, rows, n, s);
	for (; i + WIDTH <= rows; i += WIDTH) {
		vec v = load(col + i);

		UNROLL
		for (int b = 0; b < n; b++)
			v = v - s[b] * load(basis + b * rows + i);
		store(col + i, v);
	}
	for (; i < rows; i++) {
		for (int b = 0; b < n; b++)
			col[i] = col[i] - s[b] * basis[b * rows + i];
	}
}

static void orthogonalize(const float *basis, uint32_t n, float *col, int64_t rows)
{
	uint32_t b = 0;

	for (; b + TOGETHER <= n; b += TOGETHER)
		remove_parts(basis + b * rows, col, rows, TOGETHER);
	if (n - b == 3)
		remove_parts(basis + b * rows, col, rows, 3);
	else if (n - b == 2)
		remove_parts(basis + b * rows, col, rows, 2);
	else if (n - b == 1)
		remove_parts(basis + b * rows, col, rows, 1);
}

void ISA(orthonormalize)(const struct psgd__panel *x, float eps)
{
	for (uint32_t c = 0; c < x->cols; c++) {
		float *col = x->data + c * x->rows, squares, inverse;

		/* Twice is enough: the second pass removes what rounding left in the first. */
		for (int pass = 0; pass < 2; pass++)
			orthogonalize(x->data, c, col, x->rows);
		dots(col, col, x->rows, 1, &squares);
		inverse = psgd__inverse_norm(squares, eps);
		for (int64_t i = 0; i < x->rows; i++)
			col[i] = col[i] * inverse;
	}
}

const struct psgd__cpu_isa ISA(kernels) = {
	.name = ISA_TEXT,
	.project = ISA(project),
	.back_project = ISA(back_project),
	.reconstruct = ISA(reconstruct),
	.orthonormalize = ISA(orthonormalize),
	.absorb = ISA(absorb),
	.axpby = ISA(axpby),
	.sum_squares = ISA(sum_squares),
	.finite = ISA(finite),
};
