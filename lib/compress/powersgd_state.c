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

psgd_status psgd__powersgd_save(void *self, const struct psgd_state_writer *writer)
{
	const struct psgd__powersgd *ps = self;
	size_t n = ps->scope.n_tensors;
	struct tensor_record *records = psgd__calloc(n, sizeof(*records));
	psgd_status status;
	char name[NAME_BYTES];

	if (!records)
		return PSGD_ERR_NOMEM;
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
	free(records);
	for (size_t i = 0; i < n && status >= 0; i++) {
		const struct psgd__ps_tensor *t = &ps->tensors[i];

		name_of("error", t, name);
		if (t->e_used)
			status = psgd__state_put(writer, name, PSGD_F32, t->n, t->m, t->e);
		name_of("q", t, name);
		if (t->q_used && status >= 0)
			status = psgd__state_put(writer, name, PSGD_F32, t->q_cols, t->m, t->q);
	}
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

/* New memory with the array of that name, or with zeros. */
static psgd_status take(struct psgd__powersgd *ps, const struct psgd_state_reader *reader,
	const char *name, size_t values, bool used, float **out)
{
	const struct psgd_device *device = ps->scope.device;
	struct psgd__span span = {.count = (int64_t)values};
	int finite = 0;

	PSGD__TRY(psgd__powersgd_alloc(ps, values, out));
	if (!used)
		return device->ops->zero(device->self, *out, values * sizeof(float), NULL);
	PSGD__TRY(psgd__state_get(reader, name, PSGD_F32, (int64_t)values, *out));
	span.data = *out;
	PSGD__TRY(device->ops->kernels->finite(device->self, &span, 1, &finite, NULL));
	return finite ? PSGD_OK : PSGD_ERR_INVALID;
}

/* The tensor as it will be, in memory of its own; gone is what has been allocated so far. */
static psgd_status prepare(struct psgd__powersgd *ps, const struct psgd_state_reader *reader,
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
		PSGD__TRY(take(ps, reader, name, (size_t)next->n * (size_t)next->m, next->e_used,
			&next->e));
	name_of("q", next, name);
	if (r->q_cols)
		PSGD__TRY(take(
			ps, reader, name, (size_t)next->m * r->q_cols, next->q_used, &next->q));
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
	psgd_status status = records && next ? PSGD_OK : PSGD_ERR_NOMEM;

	if (status >= 0)
		status = psgd__state_get(
			reader, "tensors", PSGD_U8, (int64_t)(n * sizeof(*records)), records);
	for (; done < n && status >= 0; done++) {
		next[done] = ps->tensors[done];
		status = prepare(ps, reader, &records[done], &next[done]);
	}
	for (size_t i = 0; i < done; i++) {
		free_memory(ps, status < 0 ? &next[i] : &ps->tensors[i]);
		if (status >= 0)
			ps->tensors[i] = next[i];
	}
	free(next);
	free(records);
	return status < 0 ? status : PSGD_OK;
}
