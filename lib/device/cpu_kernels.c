/*
 * The table of kernels of the CPU: groups cut into parts for the threads. How they are cut depends
 * on shapes alone, and no part's values depend on another's.
 */
#include "base/base.h"
#include "base/philox.h"
#include "device/cpu.h"

#define PART_VALUES (1 << 18) /* of g in a part: 1 MiB */

struct job {
	const struct psgd__cpu_isa *isa;
	void (*part)(const struct psgd__matrix *x, int64_t from, int64_t to);
	const struct psgd__matrix *list;
	size_t count;
	bool by_columns;
};

/* Rows (or columns) of a part of x, a multiple of PSGD__PART. */
static int64_t part_size(const struct psgd__matrix *x, bool by_columns)
{
	const int64_t other = by_columns ? x->n : x->m;
	const int64_t size = PART_VALUES / other / PSGD__PART * PSGD__PART;

	return size > PSGD__PART ? size : PSGD__PART;
}

static size_t part_count(const struct psgd__matrix *x, bool by_columns)
{
	const int64_t all = by_columns ? x->m : x->n, size = part_size(x, by_columns);

	return (size_t)((all + size - 1) / size);
}

static void run_part(void *user, size_t item)
{
	const struct job *job = user;
	const struct psgd__matrix *x = job->list;
	int64_t from, to, size, all;

	for (size_t parts; item >= (parts = part_count(x, job->by_columns)); x++)
		item -= parts;
	size = part_size(x, job->by_columns);
	all = job->by_columns ? x->m : x->n;
	from = (int64_t)item * size;
	to = from + size < all ? from + size : all;
	job->part(x, from, to);
}

static psgd_status run_job(struct psgd__cpu *cpu, const struct job *job)
{
	size_t parts = 0;

	if (cpu->pool) {
		for (size_t k = 0; k < job->count; k++)
			parts += part_count(&job->list[k], job->by_columns);
		psgd__pool_run(cpu->pool, run_part, (void *)job, parts);
		return PSGD_OK;
	}
	for (size_t k = 0; k < job->count; k++) {
		const struct psgd__matrix *x = &job->list[k];

		job->part(x, 0, job->by_columns ? x->m : x->n);
	}
	return PSGD_OK;
}

static psgd_status cpu_absorb_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	return run_job(cpu, &(struct job){.part = cpu->isa->project, .list = list, .count = count});
}

static psgd_status cpu_back_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	return run_job(cpu, &(struct job){.part = cpu->isa->back_project,
				    .list = list,
				    .count = count,
				    .by_columns = true});
}

static psgd_status cpu_reconstruct(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	return run_job(
		cpu, &(struct job){.part = cpu->isa->reconstruct, .list = list, .count = count});
}

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
	const int64_t from = (int64_t)item * PART_VALUES, left = v->count - from;

	v->isa->axpby(
		left < PART_VALUES ? left : PART_VALUES, v->a, v->x + from, v->b, v->y + from);
}

static psgd_status cpu_axpby(
	void *self, int64_t count, float a, const float *x, float b, float *y, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	psgd__pool_run(cpu->pool, run_axpby, &(struct axpby){cpu->isa, count, x, y, a, b},
		(size_t)((count + PART_VALUES - 1) / PART_VALUES));
	return PSGD_OK;
}

static psgd_status cpu_sum_squares(
	void *self, const struct psgd__span *list, size_t count, double *out, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;

	(void)stream;
	for (size_t k = 0; k < count; k++)
		*out += cpu->isa->sum_squares(list[k].data, list[k].count);
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
	const int64_t from = (int64_t)item * PART_VALUES, left = x->span->count - from;

	if (!x->isa->finite(x->span->data + from, left < PART_VALUES ? left : PART_VALUES))
		x->bad = true;
}

static psgd_status cpu_finite(
	void *self, const struct psgd__span *list, size_t count, int *out, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;
	struct finite x = {.isa = cpu->isa};

	(void)stream;
	for (size_t k = 0; k < count && !x.bad; k++) {
		x.span = &list[k];
		psgd__pool_run(cpu->pool, run_finite, &x,
			(size_t)((x.span->count + PART_VALUES - 1) / PART_VALUES));
	}
	*out = !x.bad;
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
