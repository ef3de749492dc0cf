/*
 * The table of kernels of the CPU, and those of its entries that work on panels and spans. How work
 * is cut for the threads depends on shapes alone, and no part's values depend on another's.
 */
#include <string.h>

#include "base/base.h"
#include "base/philox.h"
#include "device/cpu.h"

struct panels {
	const struct psgd__cpu_isa *isa;
	const struct psgd__panel *list;
	float eps;
};

static void run_panel(void *user, size_t item)
{
	const struct panels *x = user;

	x->isa->orthonormalize(&x->list[item], x->eps);
}

static psgd_status cpu_orthonormalize(
	void *self, const struct psgd__panel *list, size_t count, float eps, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	psgd__pool_run(cpu->pool, run_panel, &(struct panels){cpu->isa, list, eps}, count);
	return PSGD_OK;
}

static void draw(const struct psgd__fill *x, uint64_t seed)
{
	for (uint32_t c = 0; c < x->cols; c++) {
		for (int64_t i = 0; i < x->rows; i++) {
			uint32_t counter[4] = {(uint32_t)i, x->first_col + c, x->tensor, x->draw};

			x->data[c * x->rows + i] = psgd__philox_normal(seed, counter);
		}
	}
}

static psgd_status cpu_fill(
	void *self, const struct psgd__fill *list, size_t count, uint64_t seed, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (size_t k = 0; k < count; k++)
		draw(&list[k], seed);
	return PSGD_OK;
}

struct starts {
	const struct psgd__cpu_isa *isa;
	const struct psgd__start *list;
	uint64_t seed;
	float eps;
};

static void run_start(void *user, size_t item)
{
	const struct starts *s = user;
	const struct psgd__start *x = &s->list[item];
	const struct psgd__panel panel = {.data = x->q, .rows = x->m, .cols = x->r};
	struct psgd__fill fill = {
		.data = x->q, .rows = x->m, .cols = x->r, .tensor = x->tensor, .draw = x->draw};
	bool drawn = false;

	if (x->from)
		memcpy(x->q, x->from, (size_t)x->m * x->r * sizeof(float));
	else
		draw(&fill, s->seed);
	s->isa->orthonormalize(&panel, s->eps);
	fill.cols = 1;
	fill.draw = x->redraw;
	for (fill.first_col = 0; fill.first_col < x->r; fill.first_col++) {
		fill.data = x->q + fill.first_col * x->m;
		if (s->isa->sum_squares(fill.data, x->m) >= PSGD__DEAD_COLUMN)
			continue;
		draw(&fill, s->seed);
		drawn = true;
	}
	if (drawn)
		s->isa->orthonormalize(&panel, 0.0f);
}

static psgd_status cpu_start(void *self, const struct psgd__start *list, size_t count,
	uint64_t seed, float eps, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	psgd__pool_run(cpu->pool, run_start, &(struct starts){cpu->isa, list, seed, eps}, count);
	return PSGD_OK;
}

struct axpby {
	const struct psgd__cpu_isa *isa;
	int64_t count;
	const float *x;
	float *y;
	float a, b;
};

static void run_axpby(void *user, size_t item)
{
	const struct axpby *v = user;
	const int64_t from = (int64_t)item * PSGD__PART_VALUES, left = v->count - from;

	v->isa->axpby(left < PSGD__PART_VALUES ? left : PSGD__PART_VALUES, v->a, v->x + from, v->b,
		v->y + from);
}

static psgd_status cpu_axpby(
	void *self, int64_t count, float a, const float *x, float b, float *y, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	psgd__pool_run(cpu->pool, run_axpby, &(struct axpby){cpu->isa, count, x, y, a, b},
		(size_t)((count + PSGD__PART_VALUES - 1) / PSGD__PART_VALUES));
	return PSGD_OK;
}

static psgd_status cpu_accumulate(
	void *self, const struct psgd__addend *list, size_t count, psgd_stream stream)
{
	for (size_t k = 0; k < count; k++)
		PSGD__TRY(cpu_axpby(
			self, list[k].count, 1.0f, list[k].from, 1.0f, list[k].to, stream));
	return PSGD_OK;
}

#define SQUARES_TOGETHER 64 /* parts of a span */

struct squares {
	const struct psgd__cpu_isa *isa;
	const float *data;
	int64_t count;
	double sums[SQUARES_TOGETHER];
};

static void run_squares(void *user, size_t item)
{
	struct squares *x = user;
	const int64_t from = (int64_t)item * PSGD__SQUARES, left = x->count - from;

	x->sums[item] =
		x->isa->sum_squares(x->data + from, left < PSGD__SQUARES ? left : PSGD__SQUARES);
}

static double span_squares(const struct psgd__cpu *cpu, const struct psgd__span *span)
{
	struct squares x = {.isa = cpu->isa};
	double sum = 0.0;

	for (int64_t at = 0; at < span->count; at += x.count) {
		size_t parts;

		x.data = span->data + at;
		x.count = span->count - at;
		if (x.count > SQUARES_TOGETHER * PSGD__SQUARES)
			x.count = SQUARES_TOGETHER * PSGD__SQUARES;
		parts = (size_t)((x.count + PSGD__SQUARES - 1) / PSGD__SQUARES);
		psgd__pool_run(cpu->pool, run_squares, &x, parts);
		for (size_t i = 0; i < parts; i++)
			sum += x.sums[i];
	}
	return sum;
}

static psgd_status cpu_sum_squares(
	void *self, const struct psgd__span *list, size_t count, double *out, psgd_stream stream)
{
	(void)stream;
	for (size_t k = 0; k < count; k++)
		*out += span_squares(self, &list[k]);
	return PSGD_OK;
}

struct finite {
	const struct psgd__cpu_isa *isa;
	const struct psgd__span *span;
	_Atomic bool bad;
};

static void run_finite(void *user, size_t item)
{
	struct finite *x = user;
	const int64_t from = (int64_t)item * PSGD__PART_VALUES, left = x->span->count - from;

	if (!x->isa->finite(
		    x->span->data + from, left < PSGD__PART_VALUES ? left : PSGD__PART_VALUES))
		x->bad = true;
}

psgd_status psgd__cpu_finite(
	void *self, const struct psgd__span *list, size_t count, int *out, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;
	struct finite x = {.isa = cpu->isa};

	(void)stream;
	for (size_t k = 0; k < count && !x.bad; k++) {
		x.span = &list[k];
		psgd__pool_run(cpu->pool, run_finite, &x,
			(size_t)((x.span->count + PSGD__PART_VALUES - 1) / PSGD__PART_VALUES));
	}
	*out = !x.bad;
	return PSGD_OK;
}

static psgd_status cpu_sample(
	void *self, const float *from, int64_t stride, int64_t count, float *to, psgd_stream stream)
{
	(void)self;
	(void)stream;
	for (int64_t i = 0; i < count; i++)
		to[i] = from[i * stride];
	return PSGD_OK;
}

const struct psgd_kernels psgd__cpu_kernels = {
	.size = sizeof(psgd__cpu_kernels),
	.start = cpu_start,
	.absorb_project = psgd__cpu_absorb_project,
	.orthonormalize = cpu_orthonormalize,
	.back_project = psgd__cpu_back_project,
	.reconstruct = psgd__cpu_reconstruct,
	.finish = psgd__cpu_finish,
	.axpby = cpu_axpby,
	.accumulate = cpu_accumulate,
	.sum_squares = cpu_sum_squares,
	.finite = psgd__cpu_finite,
	.leading = psgd__cpu_leading,
	.fill = cpu_fill,
	.sample = cpu_sample,
};
