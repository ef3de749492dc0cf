/*
 * The kernels of the CPU that work on groups of matrices: which parts the threads share, and what
 * is done to one.
 */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "device/cpu.h"

/* What the parts of a matrix are made of. */
enum unit { NOTHING, ROWS, COLUMNS, VALUES, Q_VALUES };

struct job {
	struct psgd__pool *pool;
	const struct psgd__cpu_isa *isa;
	enum unit (*unit)(const struct psgd__matrix *x);
	/* Units from .. to-1 of x. */
	void (*part)(const struct job *job, const struct psgd__matrix *x, int64_t from, int64_t to);
	const struct psgd__matrix *list;
	size_t count;
	float mean;
};

/* Units of a matrix, and how many of them a part has: all, or a multiple of PSGD__PART. */
struct cut {
	int64_t all, size;
};

static struct cut cut_of(const struct job *job, const struct psgd__matrix *x)
{
	struct cut cut = {0, 0};
	int64_t other = 1;

	switch (job->unit(x)) {
	case NOTHING:
		break;
	case ROWS:
		cut.all = x->n;
		other = x->m;
		break;
	case COLUMNS:
		cut.all = x->m;
		other = x->n;
		break;
	case VALUES:
		cut.all = x->n * x->m;
		break;
	case Q_VALUES:
		cut.all = x->m * x->r;
		break;
	}
	cut.size = cut.all;
	/* Most matrices are small, and this is asked often: no division for them. */
	if (cut.all * other > PSGD__PART_VALUES) {
		cut.size = PSGD__PART_VALUES / other / PSGD__PART * PSGD__PART;
		if (cut.size < PSGD__PART)
			cut.size = PSGD__PART;
	}
	return cut;
}

static size_t part_count(const struct job *job, const struct psgd__matrix *x)
{
	const struct cut cut = cut_of(job, x);

	if (cut.all <= cut.size)
		return cut.all > 0;
	return (size_t)((cut.all + cut.size - 1) / cut.size);
}

static void run_part(void *user, size_t item)
{
	const struct job *job = user;
	const struct psgd__matrix *x = job->list;
	int64_t from, to;
	struct cut cut;

	for (size_t parts; item >= (parts = part_count(job, x)); x++)
		item -= parts;
	cut = cut_of(job, x);
	from = (int64_t)item * cut.size;
	to = from + cut.size < cut.all ? from + cut.size : cut.all;
	job->part(job, x, from, to);
}

static psgd_status run_job(const struct job *job)
{
	size_t parts = 0;

	if (job->pool) {
		for (size_t k = 0; k < job->count; k++)
			parts += part_count(job, &job->list[k]);
		psgd__pool_run(job->pool, run_part, (void *)job, parts);
		return PSGD_OK;
	}
	for (size_t k = 0; k < job->count; k++) {
		const struct cut cut = cut_of(job, &job->list[k]);

		if (cut.all)
			job->part(job, &job->list[k], 0, cut.all);
	}
	return PSGD_OK;
}

static struct job job_on(const struct psgd__cpu *cpu, const struct psgd__matrix *list, size_t count)
{
	return (struct job){.pool = cpu->pool, .isa = cpu->isa, .list = list, .count = count};
}

static enum unit unit_rows(const struct psgd__matrix *x)
{
	(void)x;
	return ROWS;
}

static enum unit unit_values(const struct psgd__matrix *x)
{
	(void)x;
	return VALUES;
}

static enum unit unit_columns(const struct psgd__matrix *x)
{
	return x->r ? COLUMNS : NOTHING;
}

static enum unit unit_q(const struct psgd__matrix *x)
{
	return x->r ? Q_VALUES : NOTHING;
}

static enum unit unit_finish(const struct psgd__matrix *x)
{
	return x->r ? ROWS : VALUES;
}

static enum unit unit_absorb(const struct psgd__matrix *x)
{
	return x->r || !x->p ? ROWS : VALUES;
}

static void part_absorb(
	const struct job *job, const struct psgd__matrix *x, int64_t from, int64_t to)
{
	if (x->r || !x->p)
		job->isa->project(x, from, to);
	else if (x->e)
		job->isa->absorb(to - from, x->e + from, x->g + from, x->p + from);
	else
		memcpy(x->p + from, x->g + from, (size_t)(to - from) * sizeof(float));
}

psgd_status psgd__cpu_absorb_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct job job = job_on(self, list, count);

	(void)stream;
	job.unit = unit_absorb;
	job.part = part_absorb;
	return run_job(&job);
}

static void part_back(const struct job *job, const struct psgd__matrix *x, int64_t from, int64_t to)
{
	job->isa->back_project(x, from, to);
}

psgd_status psgd__cpu_back_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct job job = job_on(self, list, count);

	(void)stream;
	job.unit = unit_columns;
	job.part = part_back;
	return run_job(&job);
}

static void part_reconstruct(
	const struct job *job, const struct psgd__matrix *x, int64_t from, int64_t to)
{
	job->isa->reconstruct(x, from, to);
}

psgd_status psgd__cpu_reconstruct(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	struct job job = job_on(self, list, count);

	(void)stream;
	job.unit = unit_rows;
	job.part = part_reconstruct;
	return run_job(&job);
}

static void part_discard(
	const struct job *job, const struct psgd__matrix *x, int64_t from, int64_t to)
{
	(void)job;
	for (int64_t i = from; i < to; i++)
		x->g[i] = NAN;
}

/* Where the mean of a Q goes, and is read from: one pass over it. */
static float *mean_of_q(const struct psgd__matrix *x)
{
	return x->keep ? x->keep : x->q;
}

static void part_mean(const struct job *job, const struct psgd__matrix *x, int64_t from, int64_t to)
{
	job->isa->axpby(to - from, job->mean, x->q + from, 0.0f, mean_of_q(x) + from);
}

static void part_finish(
	const struct job *job, const struct psgd__matrix *x, int64_t from, int64_t to)
{
	struct psgd__matrix mean = *x;

	if (x->r) {
		mean.q = mean_of_q(x);
		job->isa->reconstruct(&mean, from, to);
		return;
	}
	job->isa->axpby(to - from, job->mean, x->p + from, 0.0f, x->g + from);
	if (x->e)
		memset(x->e + from, 0, (size_t)(to - from) * sizeof(float));
}

psgd_status psgd__cpu_finish(void *self, const struct psgd__finish *finish, psgd_stream stream)
{
	struct psgd__cpu *cpu = self;
	struct job job = job_on(cpu, finish->list, finish->count);
	int64_t values = 0;
	int finite;

	PSGD__TRY(psgd__cpu_finite(self, finish->messages, finish->n_messages, &finite, stream));
	*finish->nonfinite = !finite;
	if (!finite && !finish->as_is) {
		job.unit = unit_values;
		job.part = part_discard;
		return run_job(&job);
	}
	job.mean = finish->mean;
	job.unit = unit_q;
	job.part = part_mean;
	for (size_t k = 0; k < finish->count; k++)
		values += finish->list[k].m * finish->list[k].r;
	/* Threads take longer to wake than this does. */
	if (values <= PSGD__PART_VALUES)
		job.pool = NULL;
	PSGD__TRY(run_job(&job));
	job.pool = cpu->pool;
	job.unit = unit_finish;
	job.part = part_finish;
	return run_job(&job);
}
