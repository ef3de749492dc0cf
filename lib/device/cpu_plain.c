/*
 * The kernels in plain C: the reference of the others, and what runs where there are none. What is
 * the same bits in all of them is written here as plainly as it can be.
 *
 * A matrix is walked a row (or a few) at a time, so that a row that was read once stays in cache
 * for all r columns.
 */
#include <math.h>
#include <string.h>

#include "device/cpu_isa.h"
#include "device/cpu_lanes.h"

#define STRETCH (LANES * 2)
#define ROWS 4 /* rows of g that share one pass over q */

float psgd__inverse_norm(float squares, float eps)
{
	float inverse = 1.0f / (sqrtf(squares) + eps);

	/* A norm so small that its inverse overflows belongs to a column that is zero in effect. */
	return isfinite(inverse) ? inverse : 0.0f;
}

static float dot(const float *restrict x, const float *restrict y, int64_t count)
{
	float lane[LANES] = {0};
	int64_t i = 0;

	for (; i + LANES <= count; i += LANES) {
		for (int l = 0; l < LANES; l++)
			lane[l] = lane[l] + x[i + l] * y[i + l];
	}
	for (int l = 0; i + l < count; l++)
		lane[l] = lane[l] + x[i + l] * y[i + l];
	return lanes_sum(lane);
}

void ISA(project)(const struct psgd__matrix *x, int64_t from, int64_t to)
{
	for (int64_t i = from; i < to; i++) {
		float *restrict g = x->g + i * x->m;

		if (x->e) {
			const float *restrict e = x->e + i * x->m;

			for (int64_t j = 0; j < x->m; j++)
				g[j] = g[j] + e[j];
		}
		for (uint32_t c = 0; c < x->r; c++)
			x->p[c * x->n + i] = dot(g, x->q + c * x->m, x->m);
	}
}

/* q[j] += sum over ROWS rows of p * g[j], for one column. */
static void add_rows(float *restrict q, const float *restrict g, int64_t stride, int64_t count,
	const float p[ROWS])
{
	const float *g1 = g + stride, *g2 = g1 + stride, *g3 = g2 + stride;

	for (int64_t j = 0; j < count; j++)
		q[j] = q[j] + ((p[0] * g[j] + p[1] * g1[j]) + (p[2] * g2[j] + p[3] * g3[j]));
}

void ISA(back_project)(const struct psgd__matrix *x, int64_t from, int64_t to)
{
	const int64_t count = to - from;
	int64_t i = 0;

	for (uint32_t c = 0; c < x->r; c++)
		memset(x->q + c * x->m + from, 0, (size_t)count * sizeof(float));
	for (; i + ROWS <= x->n; i += ROWS) {
		for (uint32_t c = 0; c < x->r; c++)
			add_rows(x->q + c * x->m + from, x->g + i * x->m + from, x->m, count,
				x->p + c * x->n + i);
	}
	for (; i < x->n; i++) {
		const float *restrict g = x->g + i * x->m + from;

		for (uint32_t c = 0; c < x->r; c++) {
			float *restrict q = x->q + c * x->m + from;
			float p = x->p[c * x->n + i];

			for (int64_t j = 0; j < count; j++)
				q[j] = q[j] + p * g[j];
		}
	}
}

/* One stretch of a row: at most STRETCH values, in registers for all r columns. */
static inline __attribute__((always_inline)) void reconstruct_stretch(
	const struct psgd__matrix *x, int64_t i, int64_t j, int64_t width)
{
	float sum[STRETCH] = {0};
	float *restrict g = x->g + i * x->m + j;

	for (uint32_t c = 0; c < x->r; c++) {
		const float *restrict q = x->q + c * x->m + j;
		float p = x->p[c * x->n + i];

		for (int64_t l = 0; l < width; l++)
			sum[l] = sum[l] + p * q[l];
	}
	if (x->e) {
		float *restrict e = x->e + i * x->m + j;

		for (int64_t l = 0; l < width; l++)
			e[l] = g[l] - sum[l];
	}
	for (int64_t l = 0; l < width; l++)
		g[l] = sum[l];
}

void ISA(reconstruct)(const struct psgd__matrix *x, int64_t from, int64_t to)
{
	for (int64_t i = from; i < to; i++) {
		int64_t j = 0;

		for (; j + STRETCH <= x->m; j += STRETCH)
			reconstruct_stretch(x, i, j, STRETCH);
		if (j < x->m)
			reconstruct_stretch(x, i, j, x->m - j);
	}
}

/* col -= its parts along n columns of the basis, as they are before any is taken away. */
static void remove_parts(const float *basis, uint32_t n, float *restrict col, int64_t rows)
{
	float s[TOGETHER];

	for (uint32_t b = 0; b < n; b++)
		s[b] = dot(basis + b * rows, col, rows);
	for (uint32_t b = 0; b < n; b++) {
		for (int64_t i = 0; i < rows; i++)
			col[i] = col[i] - s[b] * basis[b * rows + i];
	}
}

void ISA(orthonormalize)(const struct psgd__panel *x, float eps)
{
	for (uint32_t c = 0; c < x->cols; c++) {
		float *col = x->data + c * x->rows, inverse;

		/* Twice is enough: the second pass removes what rounding left in the first. */
		for (int pass = 0; pass < 2; pass++) {
			for (uint32_t b = 0; b < c; b += TOGETHER)
				remove_parts(x->data + b * x->rows,
					c - b < TOGETHER ? c - b : TOGETHER, col, x->rows);
		}
		inverse = psgd__inverse_norm(dot(col, col, x->rows), eps);
		for (int64_t i = 0; i < x->rows; i++)
			col[i] = col[i] * inverse;
	}
}

const struct psgd__cpu_isa psgd__cpu_plain = {
	.name = "plain",
	.project = ISA(project),
	.back_project = ISA(back_project),
	.reconstruct = ISA(reconstruct),
	.orthonormalize = ISA(orthonormalize),
	.absorb = ISA(absorb),
	.axpby = ISA(axpby),
	.sum_squares = ISA(sum_squares),
	.finite = ISA(finite),
};
