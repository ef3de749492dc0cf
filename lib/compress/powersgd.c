/*
 * PowerSGD, one bucket at a time.
 *   run(0): Q = orth(Q); g += e; P = g Q         message 0: P of all matrices, then dense values
 *   run(1): P = orth(P); Q = g^T P               message 1: Q of all matrices
 *   run(2): g' = P Q^T; e = g - g'; g = g'       only here e and the warm start change
 *   settle: what is noted about both, now that the messages are known to have been finite
 * A bucket with nothing to compress has message 0 only. What a tensor left behind while it was
 * compressed goes out when it is dense.
 */
#include "compress/powersgd.h"

#include <math.h>
#include <string.h>

#define DEFAULT_SEED 42
#define DEFAULT_MIN_RATIO 2.0

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

/* near: as in psgd__index_find_near. */
static struct psgd__ps_tensor *find(const struct psgd__powersgd *ps, uint32_t id, size_t *near)
{
	size_t at = psgd__index_find_near(&ps->index, id, near);

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
	size_t near = 0;

	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	for (size_t i = 0; i < bucket->n_grads; i++) {
		const struct psgd__ps_tensor *tensor = find(ps, bucket->grads[i].id, &near);
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

/* Adds a tensor of the bucket to the group; p and q are where it begins in the messages. */
static void add(struct psgd__ps_group *group, const struct psgd__ps_tensor *tensor, float *g,
	uint32_t r, float *p, float *q)
{
	group->tensors[group->n] = tensor;
	group->list[group->n++] = (struct psgd__matrix){
		.g = g,
		.e = r || tensor->e_used ? tensor->e : NULL,
		.p = p,
		.q = q,
		.keep = r ? tensor->q : NULL,
		.n = tensor->n,
		.m = tensor->m,
		.r = r,
	};
}

static void make_group(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	struct psgd__ps_group *group = &ps->group;
	float *p = round->message[0], *q = round->message[1];
	int64_t *values = group->values;

	group->n = 0;
	values[0] = values[1] = 0;
	for (int dense = 0; dense < 2; dense++) {
		size_t near = 0;

		for (size_t i = 0; i < round->bucket->n_grads; i++) {
			const struct psgd_grad *grad = &round->bucket->grads[i];
			const struct psgd__ps_tensor *tensor = find(ps, grad->id, &near);
			const uint32_t r = rank_at(ps, tensor, round->step);

			if (dense != !r)
				continue;
			add(group, tensor, grad->data, r, p + values[0], r ? q + values[1] : NULL);
			values[0] += r ? tensor->n * r : tensor->n * tensor->m;
			values[1] += tensor->m * r;
		}
		if (!dense)
			group->n_compressed = group->n;
	}
}

/*
 * The draw of columns of Q that carry nothing and so would stay zero for ever, since P = g Q. Which
 * ones do is the device's secret, so it is a function of the step: bit 31, bit 30 in a trial, and
 * what follows of the step's number. Draws of whole Qs are counted, and do not come so far.
 */
static uint32_t redraw(uint64_t step)
{
	return UINT32_C(1) << 31 | (uint32_t)(step >> 63) << 30 | (uint32_t)(step & 0x3fffffff);
}

/* Q of every matrix into its message: last step's, or random; orthonormal. */
static psgd_status start_q(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;
	const struct psgd__ps_group *group = &ps->group;

	for (size_t k = 0; k < group->n_compressed; k++) {
		const struct psgd__ps_tensor *tensor = group->tensors[k];

		group->starts[k] = (struct psgd__start){
			.q = group->list[k].q,
			.from = tensor->q_used ? tensor->q : NULL,
			.m = tensor->m,
			.r = group->list[k].r,
			.tensor = tensor->id,
			.draw = tensor->draw,
			.redraw = redraw(round->step),
		};
	}
	return device->ops->kernels->start(device->self, group->starts, group->n_compressed,
		ps->options.seed, (float)ps->options.eps, round->stream);
}

static psgd_status encode_p(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;

	if (ps->group.n_compressed)
		PSGD__TRY(start_q(ps, round));
	return device->ops->kernels->absorb_project(
		device->self, ps->group.list, ps->group.n, round->stream);
}

static psgd_status encode_q(struct psgd__powersgd *ps, const struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;
	const struct psgd__ps_group *group = &ps->group;

	for (size_t k = 0; k < group->n_compressed; k++)
		group->panels[k] = (struct psgd__panel){
			.data = group->list[k].p,
			.rows = group->list[k].n,
			.cols = group->list[k].r,
		};
	PSGD__TRY(device->ops->kernels->orthonormalize(device->self, group->panels,
		group->n_compressed, (float)ps->options.eps, round->stream));
	return device->ops->kernels->back_project(
		device->self, group->list, group->n_compressed, round->stream);
}

static psgd_status decode(struct psgd__powersgd *ps, struct psgd_round *round)
{
	const struct psgd_device *device = ps->scope.device;
	const struct psgd__ps_group *group = &ps->group;
	const struct psgd__span messages[2] = {
		{round->message[0], group->values[0]}, {round->message[1], group->values[1]}};
	const struct psgd__finish finish = {
		.list = group->list,
		.count = group->n,
		.messages = messages,
		.n_messages = group->n_compressed ? 2 : 1,
		.nonfinite = &round->nonfinite,
		.mean = 1.0f / (float)ps->scope.n_workers,
	};

	return device->ops->kernels->finish(device->self, &finish, round->stream);
}

static psgd_status ps_run(void *self, struct psgd_round *round)
{
	struct psgd__powersgd *ps = self;

	make_group(ps, round);
	if (round->index == 0)
		return encode_p(ps, round);
	if (round->index == 1 && ps->group.n_compressed)
		return encode_q(ps, round);
	return decode(ps, round);
}

static void ps_settle(void *self, const struct psgd_round *round)
{
	struct psgd__powersgd *ps = self;
	size_t near = 0;

	if (round->nonfinite)
		return;
	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		struct psgd__ps_tensor *tensor = find(ps, round->bucket->grads[i].id, &near);

		if (!rank_at(ps, tensor, round->step)) {
			tensor->e_used = false;
			continue;
		}
		if (!tensor->q_used)
			tensor->draw++;
		tensor->q_used = tensor->q != NULL;
		tensor->e_used = tensor->e != NULL;
	}
}

static void ps_detach(void *self)
{
	struct psgd__powersgd *ps = self;
	struct psgd__ps_group *group = &ps->group;

	psgd__powersgd_drain(ps);
	for (size_t i = 0; ps->tensors && i < ps->scope.n_tensors; i++) {
		struct psgd__ps_tensor *tensor = &ps->tensors[i];

		psgd__powersgd_free(ps, tensor->q, (size_t)tensor->m * tensor->q_cols);
		psgd__powersgd_free(ps, tensor->e, (size_t)tensor->n * (size_t)tensor->m);
	}
	free(group->panels);
	free(group->starts);
	free(group->list);
	free(group->tensors);
	free(ps->tensors);
	memset(group, 0, sizeof(*group));
	ps->tensors = NULL;
	psgd__index_finish(&ps->index);
}

static psgd_status ps_attach(void *self, const struct psgd_scope *scope)
{
	struct psgd__powersgd *ps = self;
	struct psgd__ps_group *group = &ps->group;
	size_t n = scope->n_tensors;
	uint32_t *ranks = NULL;
	psgd_status status = PSGD_ERR_NOMEM;

	if (ps->tensors)
		return PSGD_ERR_STATE;
	ps->scope = *scope;
	PSGD__TRY(psgd__index_init(&ps->index, scope->tensors, n));
	ps->tensors = psgd__calloc(n, sizeof(*ps->tensors));
	group->tensors = psgd__calloc(n, sizeof(*group->tensors));
	group->list = psgd__calloc(n, sizeof(*group->list));
	group->starts = psgd__calloc(n, sizeof(*group->starts));
	group->panels = psgd__calloc(n, sizeof(*group->panels));
	ranks = psgd__calloc(n, sizeof(*ranks));
	if (!ps->tensors || !group->tensors || !group->list || !group->starts || !group->panels ||
		!ranks)
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
	.settle = ps_settle,
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
