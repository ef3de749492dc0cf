/*
 * PowerSGD, one bucket at a time.
 *   run(0): Q = orth(Q); g += e; P = g Q         message 0: P of all matrices, then dense values
 *   run(1): P = orth(P); Q = g^T P               message 1: Q of all matrices
 *   run(2): g' = P Q^T; e = g - g'; g = g'       only here e and the warm start change
 * A bucket with nothing to compress has message 0 only.
 */
#include "compress/powersgd.h"

#include <math.h>
#include <string.h>

#define DEFAULT_SEED 42
#define DEFAULT_MIN_RATIO 2.0
#define DEAD_COLUMN 0.25 /* squared norm below which an orthonormalized column carries nothing */

uint32_t psgd__powersgd_effective_rank(
	const struct psgd__powersgd *ps, const struct psgd__ps_tensor *tensor, uint32_t rank)
{
	double n = (double)tensor->n, m = (double)tensor->m;
	int64_t r = rank;

	if (!tensor->compressible)
		return 0;
	if (r > tensor->n)
		r = tensor->n;
	if (r > tensor->m)
		r = tensor->m;
	if (r > PSGD__MAX_ROTATE)
		r = PSGD__MAX_ROTATE;
	return (n + m) * (double)r * ps->options.min_ratio < n * m ? (uint32_t)r : 0;
}

static struct psgd__ps_tensor *find(struct psgd__powersgd *ps, uint32_t id)
{
	size_t at = psgd__index_find(&ps->index, id);

	return at == SIZE_MAX ? NULL : &ps->tensors[at];
}

/* The rank of a tensor in a step: the start phase is dense. */
static uint32_t rank_at(
	const struct psgd__powersgd *ps, const struct psgd__ps_tensor *tensor, uint64_t step)
{
	return step < ps->options.start_step ? 0 : tensor->rank;
}

/* rank: NULL for the ranks in force at `step`. */
static psgd_status plan(struct psgd__powersgd *ps, const struct psgd_bucket *bucket, uint64_t step,
	const uint32_t *rank, struct psgd_plan *out)
{
	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	for (size_t i = 0; i < bucket->n_grads; i++) {
		const struct psgd__ps_tensor *tensor = find(ps, bucket->grads[i].id);
		uint32_t r;

		if (!tensor)
			return PSGD_ERR_INVALID;
		r = rank ? psgd__powersgd_effective_rank(ps, tensor, *rank)
			 : rank_at(ps, tensor, step);
		out->raw_bytes += (uint64_t)(tensor->n * tensor->m) * sizeof(float);
		if (r) {
			out->n_compressed++;
			out->round[0].count += tensor->n * r;
			out->round[1].count += tensor->m * r;
		} else {
			out->round[0].count += tensor->n * tensor->m;
		}
	}
	out->n_rounds = out->n_compressed ? 2 : 1;
	return PSGD_OK;
}

static psgd_status ps_plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out)
{
	return plan(self, bucket, step, NULL, out);
}

static psgd_status ps_plan_at(
	void *self, const struct psgd_bucket *bucket, uint32_t rank, struct psgd_plan *out)
{
	return plan(self, bucket, 0, &rank, out);
}

/* The bucket's matrices, with P and Q in the messages, and where the dense values begin. */
static float *group(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	float *p = round->message[0], *q = round->message[1];

	ps->n_matrices = 0;
	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];
		const struct psgd__ps_tensor *tensor = find(ps, grad->id);
		uint32_t r = rank_at(ps, tensor, round->step);

		if (!r)
			continue;
		ps->matrices[ps->n_matrices++] = (struct psgd__matrix){
			.g = grad->data,
			.e = tensor->e,
			.p = p,
			.q = q,
			.n = tensor->n,
			.m = tensor->m,
			.r = r,
		};
		p += tensor->n * r;
		q += tensor->m * r;
	}
	return p;
}

/* Panels of Q (or of P) of the current group. */
static const struct psgd__panel *panels(struct psgd__powersgd *ps, bool of_q)
{
	for (size_t i = 0; i < ps->n_matrices; i++) {
		const struct psgd__matrix *x = &ps->matrices[i];

		ps->panels[i] = (struct psgd__panel){
			.data = of_q ? x->q : x->p,
			.rows = of_q ? x->m : x->n,
			.cols = x->r,
		};
	}
	return ps->panels;
}

/*
 * A column of Q that is zero would stay zero for ever, since P = g Q: draw a new one. Every worker
 * sees the same bits here, so all draw alike.
 */
static psgd_status revive(struct psgd__powersgd *ps, struct psgd__ps_tensor *tensor,
	const struct psgd__panel *q, psgd_stream stream)
{
	const struct psgd_device *device = ps->scope.device;
	bool drawn = false;

	for (uint32_t c = 0; c < q->cols; c++) {
		struct psgd__span col = {q->data + c * q->rows, q->rows};
		double energy = 0.0;

		PSGD__TRY(
			device->ops->kernels->sum_squares(device->self, &col, 1, &energy, stream));
		if (energy >= DEAD_COLUMN)
			continue;
		PSGD__TRY(psgd__powersgd_draw(ps, tensor, col.data, c, 1, stream));
		drawn = true;
	}
	if (!drawn)
		return PSGD_OK;
	return device->ops->kernels->orthonormalize(device->self, q, 1, 0.0f, stream);
}

/* Q of every matrix into its message: last step's, or random; orthonormal. */
static psgd_status start_q(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;
	const struct psgd__panel *list = panels(ps, true);
	size_t k = 0;

	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		struct psgd__ps_tensor *tensor = find(ps, round->bucket->grads[i].id);
		const struct psgd__panel *q = &list[k];

		if (!rank_at(ps, tensor, round->step))
			continue;
		k++;
		if (tensor->q_used)
			PSGD__TRY(device->ops->copy(device->self, q->data, tensor->q,
				(size_t)q->rows * q->cols * sizeof(float), round->stream));
		else
			PSGD__TRY(psgd__powersgd_draw(
				ps, tensor, q->data, 0, q->cols, round->stream));
	}
	PSGD__TRY(device->ops->kernels->orthonormalize(
		device->self, list, ps->n_matrices, (float)ps->options.eps, round->stream));
	k = 0;
	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		struct psgd__ps_tensor *tensor = find(ps, round->bucket->grads[i].id);

		if (rank_at(ps, tensor, round->step))
			PSGD__TRY(revive(ps, tensor, &list[k++], round->stream));
	}
	return PSGD_OK;
}

static psgd_status encode_p(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;
	float *dense = group(ps, round);

	if (ps->n_matrices) {
		PSGD__TRY(start_q(ps, round));
		PSGD__TRY(device->ops->kernels->absorb_project(
			device->self, ps->matrices, ps->n_matrices, round->stream));
	}
	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];
		const struct psgd__ps_tensor *tensor = find(ps, grad->id);
		int64_t count = tensor->n * tensor->m;

		if (rank_at(ps, tensor, round->step))
			continue;
		/* What was left behind while the tensor was compressed goes out now. */
		if (tensor->e_used)
			PSGD__TRY(device->ops->kernels->axpby(device->self, count, 1.0f, tensor->e,
				1.0f, grad->data, round->stream));
		PSGD__TRY(device->ops->copy(device->self, dense, grad->data,
			(size_t)count * sizeof(float), round->stream));
		dense += count;
	}
	return PSGD_OK;
}

static psgd_status encode_q(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;

	group(ps, round);
	PSGD__TRY(device->ops->kernels->orthonormalize(device->self, panels(ps, false),
		ps->n_matrices, (float)ps->options.eps, round->stream));
	return device->ops->kernels->back_project(
		device->self, ps->matrices, ps->n_matrices, round->stream);
}

/* NaN to the trainer; e and Q stay as they were. */
static psgd_status discard(struct psgd__powersgd *ps, struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;

	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];
		const struct psgd__ps_tensor *tensor = find(ps, grad->id);
		struct psgd__span span = {grad->data, tensor->n * tensor->m};

		PSGD__TRY(device->ops->kernels->set(device->self, &span, 1, NAN, round->stream));
	}
	round->nonfinite = 1;
	return PSGD_OK;
}

/* Takes the new Q over as the next warm start. */
static psgd_status commit_q(struct psgd__powersgd *ps, struct psgd__ps_tensor *tensor,
	const struct psgd__matrix *x, psgd_stream stream)
{
	const struct psgd_device *device = ps->scope.device;

	if (!tensor->q)
		return PSGD_OK;
	tensor->q_used = true;
	return device->ops->copy(
		device->self, tensor->q, x->q, (size_t)x->m * x->r * sizeof(float), stream);
}

static psgd_status decode(struct psgd__powersgd *ps, struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;
	const struct psgd_kernels *kernels = device->ops->kernels;
	const float mean = 1.0f / (float)ps->scope.n_workers;
	float *dense = group(ps, round);
	struct psgd_plan shape;
	int finite = 0;
	size_t k = 0;

	PSGD__TRY(plan(ps, round->bucket, round->step, NULL, &shape));
	struct psgd__span messages[2] = {{round->message[0], shape.round[0].count},
		{round->message[1], shape.round[1].count}};
	PSGD__TRY(kernels->finite(device->self, messages, shape.n_rounds, &finite, round->stream));
	if (!finite)
		return discard(ps, round);
	if (ps->n_matrices) {
		PSGD__TRY(kernels->axpby(device->self, shape.round[1].count, mean,
			round->message[1], 0.0f, round->message[1], round->stream));
		PSGD__TRY(kernels->reconstruct(
			device->self, ps->matrices, ps->n_matrices, round->stream));
	}
	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];
		struct psgd__ps_tensor *tensor = find(ps, grad->id);
		int64_t count = tensor->n * tensor->m;

		if (rank_at(ps, tensor, round->step)) {
			tensor->e_used = tensor->e != NULL;
			PSGD__TRY(commit_q(ps, tensor, &ps->matrices[k++], round->stream));
			continue;
		}
		PSGD__TRY(kernels->axpby(
			device->self, count, mean, dense, 0.0f, grad->data, round->stream));
		if (tensor->e_used)
			PSGD__TRY(device->ops->zero(device->self, tensor->e,
				(size_t)count * sizeof(float), round->stream));
		tensor->e_used = false;
		dense += count;
	}
	return PSGD_OK;
}

static psgd_status ps_run(void *self, struct psgd_round *round)
{
	struct psgd__powersgd *ps = self;

	if (round->index == 0)
		return encode_p(ps, round);
	group(ps, round);
	if (round->index == 1 && ps->n_matrices)
		return encode_q(ps, round);
	return decode(ps, round);
}

static void ps_detach(void *self)
{
	struct psgd__powersgd *ps = self;

	for (size_t i = 0; ps->tensors && i < ps->scope.n_tensors; i++) {
		struct psgd__ps_tensor *tensor = &ps->tensors[i];

		psgd__powersgd_free(ps, tensor->q, (size_t)tensor->m * tensor->q_cols);
		psgd__powersgd_free(ps, tensor->e, (size_t)tensor->n * (size_t)tensor->m);
	}
	free(ps->panels);
	free(ps->matrices);
	free(ps->tensors);
	ps->panels = NULL;
	ps->matrices = NULL;
	ps->tensors = NULL;
	psgd__index_finish(&ps->index);
}

static psgd_status ps_attach(void *self, const struct psgd_scope *scope)
{
	struct psgd__powersgd *ps = self;
	size_t n = scope->n_tensors;
	uint32_t *ranks = NULL;
	psgd_status status = PSGD_ERR_NOMEM;

	if (ps->tensors)
		return PSGD_ERR_STATE;
	ps->scope = *scope;
	PSGD__TRY(psgd__index_init(&ps->index, scope->tensors, n));
	ps->tensors = psgd__calloc(n, sizeof(*ps->tensors));
	ps->matrices = psgd__calloc(n, sizeof(*ps->matrices));
	ps->panels = psgd__calloc(n, sizeof(*ps->panels));
	ranks = psgd__calloc(n, sizeof(*ranks));
	if (!ps->tensors || !ps->matrices || !ps->panels || !ranks)
		goto out;
	for (size_t i = 0; i < n; i++) {
		struct psgd__ps_tensor *tensor = &ps->tensors[i];

		status = psgd_tensor_matrix(&scope->tensors[i], &tensor->n, &tensor->m);
		if (status < 0)
			goto out;
		tensor->id = scope->tensors[i].id;
		tensor->compressible = scope->tensors[i].n_dims >= 2 &&
				       !(scope->tensors[i].flags & PSGD_TENSOR_DENSE);
		ranks[i] = ps->options.rank;
	}
	status = psgd__powersgd_set_ranks(ps, ranks);
out:
	free(ranks);
	if (status < 0)
		ps_detach(ps);
	return status;
}

static uint32_t ps_rank(void *self, size_t tensor)
{
	return ((struct psgd__powersgd *)self)->tensors[tensor].rank;
}

static uint64_t ps_state_bytes(void *self)
{
	return ((struct psgd__powersgd *)self)->state_bytes;
}

static const struct psgd_compressor_ops powersgd_ops = {
	.size = sizeof(powersgd_ops),
	.name = "powersgd",
	.attach = ps_attach,
	.detach = ps_detach,
	.plan = ps_plan,
	.plan_at = ps_plan_at,
	.run = ps_run,
	.set_ranks = psgd__powersgd_set_ranks,
	.rank = ps_rank,
	.state_bytes = ps_state_bytes,
	.destroy = free,
	.save = psgd__powersgd_save,
	.load = psgd__powersgd_load,
};

psgd_status psgd_compressor_powersgd(
	const struct psgd_powersgd_options *options, struct psgd_compressor *out)
{
	struct psgd_powersgd_options mine;
	struct psgd__powersgd *ps;

	if (!out)
		return PSGD_ERR_INVALID;
	memset(out, 0, sizeof(*out));
	PSGD__TRY(psgd__copy_options(&mine, sizeof(mine), options));
	if (mine.min_ratio == 0.0)
		mine.min_ratio = DEFAULT_MIN_RATIO;
	if (!mine.seed)
		mine.seed = DEFAULT_SEED;
	if (!mine.rank)
		mine.rank = 1;
	if (!(mine.min_ratio >= 1.0) || !isfinite(mine.min_ratio) || !(mine.eps >= 0.0) ||
		!isfinite(mine.eps) || mine.flags > 3)
		return PSGD_ERR_INVALID;
	ps = psgd__calloc(1, sizeof(*ps));
	if (!ps)
		return PSGD_ERR_NOMEM;
	ps->options = mine;
	out->ops = &powersgd_ops;
	out->self = ps;
	return PSGD_OK;
}
