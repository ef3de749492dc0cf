/*
 * Changing ranks while training runs. The error memory stays. A shrinking Q keeps its leading
 * directions; a growing one gets random columns orthogonal to the old, with little energy, so that
 * an immediate shrink would drop them first.
 */
#include "compress/powersgd.h"

#include <math.h>
#include <string.h>

#define NEW_COLUMN_WEIGHT                                                                          \
	1e-3 /* energy of new columns relative to the strongest old one, as a norm */

psgd_status psgd__powersgd_alloc(struct psgd__powersgd *ps, size_t values, float **out)
{
	const struct psgd_device *device = ps->scope.device;
	size_t bytes;
	void *memory;

	if (psgd__mul_overflows(values, sizeof(float), &bytes))
		return PSGD_ERR_NOMEM;
	PSGD__TRY(device->ops->alloc(device->self, bytes, &memory));
	ps->state_bytes += bytes;
	*out = memory;
	return PSGD_OK;
}

void psgd__powersgd_free(struct psgd__powersgd *ps, float *memory, size_t values)
{
	const struct psgd_device *device = ps->scope.device;

	if (!memory)
		return;
	device->ops->free(device->self, memory, values * sizeof(float));
	ps->state_bytes -= values * sizeof(float);
}

psgd_status psgd__powersgd_drain(const struct psgd__powersgd *ps)
{
	const struct psgd_device *device = ps->scope.device;
	psgd_status status;

	if (!PSGD__HAS(device->ops, stream_finish))
		return PSGD_OK;
	status = device->ops->stream_finish(device->self, ps->scope.stream);
	/* A failure may be an earlier call's, told late, and then nothing was waited for. */
	if (status < 0)
		device->ops->stream_finish(device->self, ps->scope.stream);
	return status;
}

/* Appends columns old .. cols - 1 behind the old ones, which are already in `q`. */
static psgd_status grow(struct psgd__powersgd *ps, struct psgd__ps_tensor *tensor, float *q,
	uint32_t old, uint32_t cols)
{
	const struct psgd_device *device = ps->scope.device;
	const struct psgd_kernels *kernels = device->ops->kernels;
	const psgd_stream stream = ps->scope.stream;
	struct psgd__panel panel = {.data = q, .rows = tensor->m, .cols = cols};
	size_t m = (size_t)tensor->m;
	struct psgd__fill fill = {
		.data = q + old * m,
		.rows = tensor->m,
		.first_col = old,
		.cols = cols - old,
		.tensor = tensor->id,
		.draw = tensor->draw++,
	};
	double largest = 0.0;

	PSGD__TRY(kernels->fill(device->self, &fill, 1, ps->options.seed, stream));
	PSGD__TRY(kernels->orthonormalize(device->self, &panel, 1, 0.0f, stream));
	PSGD__TRY(device->ops->copy(device->self, q, tensor->q, old * m * sizeof(float), stream));
	for (uint32_t c = 0; c < old; c++) {
		struct psgd__span col = {q + c * m, tensor->m};
		double energy = 0.0;

		PSGD__TRY(kernels->sum_squares(device->self, &col, 1, &energy, stream));
		if (energy > largest)
			largest = energy;
	}
	if (largest == 0.0)
		return PSGD_OK;
	return kernels->axpby(device->self, (int64_t)((cols - old) * m),
		(float)(NEW_COLUMN_WEIGHT * sqrt(largest)), q + old * m, 0.0f, q + old * m, stream);
}

/* The Q that the tensor has at the new rank, in new memory, which is the caller's in any case. */
static psgd_status resized_q(
	struct psgd__powersgd *ps, struct psgd__ps_tensor *tensor, uint32_t rank, float **out)
{
	const struct psgd_device *device = ps->scope.device;
	struct psgd__panel from = {.data = tensor->q, .rows = tensor->m, .cols = tensor->q_cols};
	size_t m = (size_t)tensor->m;

	PSGD__TRY(psgd__powersgd_alloc(ps, m * rank, out));
	if (!tensor->q_used)
		return PSGD_OK;
	if (rank < tensor->q_cols)
		return device->ops->kernels->leading(
			device->self, &from, rank, *out, ps->scope.stream);
	PSGD__TRY(device->ops->copy(device->self, *out, tensor->q,
		m * tensor->q_cols * sizeof(float), ps->scope.stream));
	return grow(ps, tensor, *out, tensor->q_cols, rank);
}

/* What set_ranks has prepared for one tensor before anything is changed. */
struct change {
	float *q, *e;
	uint32_t rank, old_draw;
};

static psgd_status prepare(struct psgd__powersgd *ps, struct psgd__ps_tensor *tensor, uint32_t rank,
	struct change *change)
{
	const struct psgd_device *device = ps->scope.device;
	size_t values = (size_t)tensor->n * (size_t)tensor->m;

	change->rank = psgd__powersgd_effective_rank(ps, tensor, rank);
	change->old_draw = tensor->draw;
	if (!change->rank)
		return PSGD_OK;
	if (tensor->q_cols != change->rank && !(ps->options.flags & PSGD_POWERSGD_NO_WARM_START))
		PSGD__TRY(resized_q(ps, tensor, change->rank, &change->q));
	if (!tensor->e && !(ps->options.flags & PSGD_POWERSGD_NO_ERROR_FEEDBACK)) {
		PSGD__TRY(psgd__powersgd_alloc(ps, values, &change->e));
		PSGD__TRY(device->ops->zero(
			device->self, change->e, values * sizeof(float), ps->scope.stream));
	}
	return PSGD_OK;
}

static void apply(
	struct psgd__powersgd *ps, struct psgd__ps_tensor *tensor, const struct change *change)
{
	if (change->q) {
		psgd__powersgd_free(ps, tensor->q, (size_t)tensor->m * tensor->q_cols);
		tensor->q = change->q;
		tensor->q_cols = change->rank;
	}
	if (change->e)
		tensor->e = change->e;
	tensor->rank = change->rank;
}

psgd_status psgd__powersgd_set_ranks(void *self, const uint32_t *ranks)
{
	struct psgd__powersgd *ps = self;
	size_t n = ps->scope.n_tensors, done = 0;
	struct change *changes = psgd__calloc(n, sizeof(*changes));
	psgd_status status = PSGD_OK, drained;

	if (!changes)
		return PSGD_ERR_NOMEM;
	for (; done < n && status >= 0; done++)
		status = prepare(ps, &ps->tensors[done], ranks[done], &changes[done]);
	/* Memory goes below, either way. */
	drained = psgd__powersgd_drain(ps);
	if (status >= 0)
		status = drained;
	for (size_t i = 0; i < done; i++) {
		struct psgd__ps_tensor *tensor = &ps->tensors[i];

		if (status >= 0) {
			apply(ps, tensor, &changes[i]);
			continue;
		}
		psgd__powersgd_free(ps, changes[i].q, (size_t)tensor->m * changes[i].rank);
		psgd__powersgd_free(ps, changes[i].e, (size_t)tensor->n * (size_t)tensor->m);
		tensor->draw = changes[i].old_draw;
	}
	free(changes);
	return status < 0 ? status : PSGD_OK;
}
