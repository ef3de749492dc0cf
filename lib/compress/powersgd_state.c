/* The state of PowerSGD as arrays: for each tensor its numbers, the error and the warm start. */
#include "compress/powersgd.h"

#include <string.h>

#include "base/state.h"

enum flags { E_THERE = 1, E_USED = 2, Q_USED = 4, ALL_FLAGS = 7 };

/* The array "tensors" has one of these for each tensor, in the order of the session. */
struct tensor_record {
	int64_t n, m;
	uint32_t id, rank, q_cols, draw, flags, reserved;
};

#define NAME_BYTES 32

static void name_of(const char *what, const struct psgd__ps_tensor *tensor, char *out)
{
	psgd__text(out, NAME_BYTES, "%s/%u", what, tensor->id);
}

/* Room on the host for any array, where the device's memory is not the host's; else *out is NULL.
 */
static psgd_status open_staging(const struct psgd__powersgd *ps, float **out)
{
	size_t values = 0;

	*out = NULL;
	if (!PSGD__HAS(ps->scope.device->ops, download))
		return PSGD_OK;
	for (size_t i = 0; i < ps->scope.n_tensors; i++) {
		const struct psgd__ps_tensor *t = &ps->tensors[i];
		size_t all = (size_t)t->n * (size_t)t->m;

		/* A Q has fewer values than what it compresses. */
		if (t->compressible && all > values)
			values = all;
	}
	*out = psgd__calloc(values, sizeof(float));
	return *out ? PSGD_OK : PSGD_ERR_NOMEM;
}

static psgd_status put(const struct psgd__powersgd *ps, const struct psgd_state_writer *writer,
	const char *name, int64_t rows, int64_t cols, const float *data, float *staging)
{
	const struct psgd_device *device = ps->scope.device;

	if (staging) {
		PSGD__TRY(device->ops->download(device->self, staging, data,
			(size_t)(rows * cols) * sizeof(float), ps->scope.stream));
		data = staging;
	}
	return psgd__state_put(writer, name, PSGD_F32, rows, cols, data);
}

static psgd_status save_arrays(
	const struct psgd__powersgd *ps, const struct psgd_state_writer *writer, float *staging)
{
	char name[NAME_BYTES];

	for (size_t i = 0; i < ps->scope.n_tensors; i++) {
		const struct psgd__ps_tensor *t = &ps->tensors[i];

		name_of("error", t, name);
		if (t->e_used)
			PSGD__TRY(put(ps, writer, name, t->n, t->m, t->e, staging));
		name_of("q", t, name);
		if (t->q_used)
			PSGD__TRY(put(ps, writer, name, t->q_cols, t->m, t->q, staging));
	}
	return PSGD_OK;
}

psgd_status psgd__powersgd_save(void *self, const struct psgd_state_writer *writer)
{
	const struct psgd__powersgd *ps = self;
	size_t n = ps->scope.n_tensors;
	struct tensor_record *records = psgd__calloc(n, sizeof(*records));
	float *staging = NULL;
	psgd_status status = PSGD_ERR_NOMEM;

	if (!records)
		goto out;
	status = open_staging(ps, &staging);
	if (status < 0)
		goto out;
	for (size_t i = 0; i < n; i++) {
		const struct psgd__ps_tensor *t = &ps->tensors[i];

		records[i] = (struct tensor_record){
			.n = t->n,
			.m = t->m,
			.id = t->id,
			.rank = t->rank,
			.q_cols = t->q_cols,
			.draw = t->draw,
			.flags = (t->e ? E_THERE : 0u) | (t->e_used ? E_USED : 0u) |
				 (t->q_used ? Q_USED : 0u),
		};
	}
	status = psgd__state_put(writer, "tensors", PSGD_U8, (int64_t)n, sizeof(*records), records);
	if (status >= 0)
		status = save_arrays(ps, writer, staging);
out:
	free(staging);
	free(records);
	return status;
}

/* What can never have been saved by a compressor with these options over these tensors. */
static bool plausible(const struct psgd__powersgd *ps, const struct psgd__ps_tensor *t,
	const struct tensor_record *r)
{
	bool feedback = !(ps->options.flags & PSGD_POWERSGD_NO_ERROR_FEEDBACK);
	bool warm = !(ps->options.flags & PSGD_POWERSGD_NO_WARM_START);

	if (r->id != t->id || r->n != t->n || r->m != t->m || r->flags & ~(uint32_t)ALL_FLAGS ||
		r->reserved)
		return false;
	if (psgd__powersgd_effective_rank(ps, t, r->rank) != r->rank ||
		psgd__powersgd_effective_rank(ps, t, r->q_cols) != r->q_cols)
		return false;
	if ((r->q_cols && !warm) || (r->rank && warm && r->q_cols != r->rank))
		return false;
	if (((r->flags & E_THERE) && (!feedback || !t->compressible)) ||
		(r->rank && feedback && !(r->flags & E_THERE)))
		return false;
	return (!(r->flags & E_USED) || (r->flags & E_THERE)) &&
	       (!(r->flags & Q_USED) || r->q_cols);
}

/* What is loaded from. */
struct source {
	const struct psgd_state_reader *reader;
	float *staging;
};

/* New memory with the array of that name, or with zeros. */
static psgd_status take(struct psgd__powersgd *ps, const struct source *source, const char *name,
	size_t values, bool used, float **out)
{
	const struct psgd_device *device = ps->scope.device;
	const psgd_stream stream = ps->scope.stream;
	const size_t bytes = values * sizeof(float);
	struct psgd__span span = {.count = (int64_t)values};
	int finite = 0;

	PSGD__TRY(psgd__powersgd_alloc(ps, values, out));
	if (!used)
		return device->ops->zero(device->self, *out, bytes, stream);
	PSGD__TRY(psgd__state_get(source->reader, name, PSGD_F32, (int64_t)values,
		source->staging ? source->staging : *out));
	if (source->staging)
		PSGD__TRY(device->ops->upload(device->self, *out, source->staging, bytes, stream));
	span.data = *out;
	PSGD__TRY(device->ops->kernels->finite(device->self, &span, 1, &finite, stream));
	return finite ? PSGD_OK : PSGD_ERR_INVALID;
}

/* The tensor as it will be, in memory of its own; gone is what has been allocated so far. */
static psgd_status prepare(struct psgd__powersgd *ps, const struct source *source,
	const struct tensor_record *r, struct psgd__ps_tensor *next)
{
	char name[NAME_BYTES];

	next->e = NULL;
	next->q = NULL;
	if (!plausible(ps, next, r))
		return PSGD_ERR_MISMATCH;
	next->rank = r->rank;
	next->q_cols = r->q_cols;
	next->draw = r->draw;
	next->e_used = r->flags & E_USED;
	next->q_used = r->flags & Q_USED;
	name_of("error", next, name);
	if (r->flags & E_THERE)
		PSGD__TRY(take(ps, source, name, (size_t)next->n * (size_t)next->m, next->e_used,
			&next->e));
	name_of("q", next, name);
	if (r->q_cols)
		PSGD__TRY(take(
			ps, source, name, (size_t)next->m * r->q_cols, next->q_used, &next->q));
	return PSGD_OK;
}

static void free_memory(struct psgd__powersgd *ps, struct psgd__ps_tensor *tensor)
{
	psgd__powersgd_free(ps, tensor->q, (size_t)tensor->m * tensor->q_cols);
	psgd__powersgd_free(ps, tensor->e, (size_t)tensor->n * (size_t)tensor->m);
}

psgd_status psgd__powersgd_load(void *self, const struct psgd_state_reader *reader)
{
	struct psgd__powersgd *ps = self;
	size_t n = ps->scope.n_tensors, done = 0;
	struct tensor_record *records = psgd__calloc(n, sizeof(*records));
	struct psgd__ps_tensor *next = psgd__calloc(n, sizeof(*next));
	struct source source = {.reader = reader};
	psgd_status status = records && next ? PSGD_OK : PSGD_ERR_NOMEM, drained;

	if (status >= 0)
		status = open_staging(ps, &source.staging);
	if (status >= 0)
		status = psgd__state_get(
			reader, "tensors", PSGD_U8, (int64_t)(n * sizeof(*records)), records);
	for (; done < n && status >= 0; done++) {
		next[done] = ps->tensors[done];
		status = prepare(ps, &source, &records[done], &next[done]);
	}
	/* Memory goes below, either way. */
	drained = psgd__powersgd_drain(ps);
	if (status >= 0)
		status = drained;
	for (size_t i = 0; i < done; i++) {
		free_memory(ps, status < 0 ? &next[i] : &ps->tensors[i]);
		if (status >= 0)
			ps->tensors[i] = next[i];
	}
	free(source.staging);
	free(next);
	free(records);
	return status < 0 ? status : PSGD_OK;
}
