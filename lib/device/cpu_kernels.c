/*
 * The kernels in plain C. Loops run over PSGD__LANES independent lanes, which a compiler turns into
 * vectors without being allowed to reorder a sum.
 *
 * A group's matrices are walked one after the other, a row (or a few) at a time, so that a row that
 * was read once stays in cache for all r columns.
 */
#include "device/cpu.h"

#include <math.h>
#include <string.h>

#include "base/base.h"
#include "base/philox.h"

#define LANES PSGD__LANES
#define STRETCH (LANES * 2)
#define ROWS 4 /* rows of g that share one pass over q, and columns that share one pass over g */

/* The one reduction tree: halves are added until one lane is left. */
static float tree(float lane[LANES])
{
	for (int width = LANES / 2; width > 0; width /= 2) {
		for (int i = 0; i < width; i++)
			lane[i] = lane[i] + lane[i + width];
	}
	return lane[0];
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
	return tree(lane);
}

/* Four dots that share x: columns c .. c+3 of y, `stride` values apart. */
static void dot4(const float *restrict x, const float *restrict y, int64_t stride, int64_t count,
	float out[4])
{
	float a[LANES] = {0}, b[LANES] = {0}, c[LANES] = {0}, d[LANES] = {0};
	const float *y1 = y + stride, *y2 = y1 + stride, *y3 = y2 + stride;
	int64_t i = 0;

	for (; i + LANES <= count; i += LANES) {
		for (int l = 0; l < LANES; l++) {
			float v = x[i + l];

			a[l] = a[l] + v * y[i + l];
			b[l] = b[l] + v * y1[i + l];
			c[l] = c[l] + v * y2[i + l];
			d[l] = d[l] + v * y3[i + l];
		}
	}
	for (int l = 0; i + l < count; l++) {
		a[l] = a[l] + x[i + l] * y[i + l];
		b[l] = b[l] + x[i + l] * y1[i + l];
		c[l] = c[l] + x[i + l] * y2[i + l];
		d[l] = d[l] + x[i + l] * y3[i + l];
	}
	out[0] = tree(a);
	out[1] = tree(b);
	out[2] = tree(c);
	out[3] = tree(d);
}

static psgd_status cpu_absorb_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++) {
		const struct psgd__matrix *x = &list[k];

		for (int64_t i = 0; i < x->n; i++) {
			float *restrict g = x->g + i * x->m;
			uint32_t c = 0;

			if (x->e) {
				const float *restrict e = x->e + i * x->m;

				for (int64_t j = 0; j < x->m; j++)
					g[j] = g[j] + e[j];
			}
			for (; c + 4 <= x->r; c += 4) {
				float v[4];

				dot4(g, x->q + c * x->m, x->m, x->m, v);
				for (uint32_t d = 0; d < 4; d++)
					x->p[(c + d) * x->n + i] = v[d];
			}
			for (; c < x->r; c++)
				x->p[c * x->n + i] = dot(g, x->q + c * x->m, x->m);
		}
	}
	return PSGD_OK;
}

/* col -= (basis . col) basis */
static void remove_part(const float *restrict basis, float *restrict col, int64_t rows)
{
	float s = dot(basis, col, rows);

	for (int64_t i = 0; i < rows; i++)
		col[i] = col[i] - s * basis[i];
}

static void normalize(float *col, int64_t rows, float eps)
{
	float norm = sqrtf(dot(col, col, rows)) + eps;
	float inverse;

	if (norm == 0.0f)
		return;
	inverse = 1.0f / norm;
	/* A norm so small that its inverse overflows belongs to a column that is zero in effect. */
	if (!isfinite(inverse))
		inverse = 0.0f;
	for (int64_t i = 0; i < rows; i++)
		col[i] = col[i] * inverse;
}

static psgd_status cpu_orthonormalize(
	void *self, const struct psgd__panel *list, size_t count, float eps, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++) {
		const struct psgd__panel *x = &list[k];

		for (uint32_t c = 0; c < x->cols; c++) {
			float *col = x->data + c * x->rows;

			/* Twice is enough: the second pass removes what rounding left in the first.
			 */
			for (int pass = 0; pass < 2; pass++) {
				for (uint32_t b = 0; b < c; b++)
					remove_part(x->data + b * x->rows, col, x->rows);
			}
			normalize(col, x->rows, eps);
		}
	}
	return PSGD_OK;
}

/* q[j] += sum over up to ROWS rows of p * g[j], for one column. */
static void add_rows(float *restrict q, const float *restrict g, int64_t stride, int64_t count,
	const float p[ROWS])
{
	const float *g1 = g + stride, *g2 = g1 + stride, *g3 = g2 + stride;

	for (int64_t j = 0; j < count; j++)
		q[j] = q[j] + ((p[0] * g[j] + p[1] * g1[j]) + (p[2] * g2[j] + p[3] * g3[j]));
}

static void back_project_one(const struct psgd__matrix *x)
{
	int64_t i = 0;

	memset(x->q, 0, (size_t)x->m * x->r * sizeof(float));
	for (; i + ROWS <= x->n; i += ROWS) {
		for (uint32_t c = 0; c < x->r; c++)
			add_rows(x->q + c * x->m, x->g + i * x->m, x->m, x->m, x->p + c * x->n + i);
	}
	for (; i < x->n; i++) {
		const float *restrict g = x->g + i * x->m;

		for (uint32_t c = 0; c < x->r; c++) {
			float *restrict q = x->q + c * x->m;
			float p = x->p[c * x->n + i];

			for (int64_t j = 0; j < x->m; j++)
				q[j] = q[j] + p * g[j];
		}
	}
}

static psgd_status cpu_back_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++)
		back_project_one(&list[k]);
	return PSGD_OK;
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

static psgd_status cpu_reconstruct(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++) {
		const struct psgd__matrix *x = &list[k];

		for (int64_t i = 0; i < x->n; i++) {
			int64_t j = 0;

			for (; j + STRETCH <= x->m; j += STRETCH)
				reconstruct_stretch(x, i, j, STRETCH);
			if (j < x->m)
				reconstruct_stretch(x, i, j, x->m - j);
		}
	}
	return PSGD_OK;
}

static psgd_status cpu_axpby(
	void *self, int64_t count, float a, const float *x, float b, float *y, psgd_stream stream)
{
	(void)self;
	(void)stream;
	if (b == 0.0f) {
		for (int64_t i = 0; i < count; i++)
			y[i] = a * x[i];
	} else {
		for (int64_t i = 0; i < count; i++)
			y[i] = a * x[i] + b * y[i];
	}
	return PSGD_OK;
}

static double sum_squares(const float *x, int64_t count)
{
	double lane[LANES] = {0};
	int64_t i = 0;

	for (; i + LANES <= count; i += LANES) {
		for (int l = 0; l < LANES; l++)
			lane[l] = lane[l] + (double)x[i + l] * (double)x[i + l];
	}
	for (int l = 0; i + l < count; l++)
		lane[l] = lane[l] + (double)x[i + l] * (double)x[i + l];
	for (int width = LANES / 2; width > 0; width /= 2) {
		for (int l = 0; l < width; l++)
			lane[l] = lane[l] + lane[l + width];
	}
	return lane[0];
}

static psgd_status cpu_sum_squares(
	void *self, const struct psgd__span *list, size_t count, double *out, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++)
		*out += sum_squares(list[k].data, list[k].count);
	return PSGD_OK;
}

static psgd_status cpu_finite(
	void *self, const struct psgd__span *list, size_t count, int *out, psgd_stream stream)
{
	uint32_t bad = 0;

	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++) {
		const float *x = list[k].data;

		/* All exponent bits set: infinity or NaN. Integers, so that the loop is a vector.
		 */
		for (int64_t i = 0; i < list[k].count; i++) {
			uint32_t bits;

			memcpy(&bits, &x[i], sizeof(bits));
			bad |= (bits & 0x7f800000u) == 0x7f800000u;
		}
	}
	*out = !bad;
	return PSGD_OK;
}

static psgd_status cpu_set(
	void *self, const struct psgd__span *list, size_t count, float value, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++) {
		for (int64_t i = 0; i < list[k].count; i++)
			list[k].data[i] = value;
	}
	return PSGD_OK;
}

static psgd_status cpu_fill(
	void *self, const struct psgd__fill *list, size_t count, uint64_t seed, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++) {
		const struct psgd__fill *x = &list[k];

		for (uint32_t c = 0; c < x->cols; c++) {
			for (int64_t i = 0; i < x->rows; i++) {
				uint32_t counter[4] = {
					(uint32_t)i, x->first_col + c, x->tensor, x->draw};

				x->data[c * x->rows + i] = psgd__philox_normal(seed, counter);
			}
		}
	}
	return PSGD_OK;
}

const struct psgd_kernels psgd__cpu_kernels = {
	.size = sizeof(psgd__cpu_kernels),
	.absorb_project = cpu_absorb_project,
	.orthonormalize = cpu_orthonormalize,
	.back_project = cpu_back_project,
	.reconstruct = cpu_reconstruct,
	.axpby = cpu_axpby,
	.sum_squares = cpu_sum_squares,
	.finite = cpu_finite,
	.set = cpu_set,
	.leading = psgd__cpu_leading,
	.fill = cpu_fill,
};
