/*
 * Worker 0's own gradients, invented: tensors, the norms of their sums, the errors that a rank
 * leaves, an entropy. Drives a controller that decides for each tensor, as the engine would.
 */
#ifndef TESTS_CONTROL_LAYERS_H
#define TESTS_CONTROL_LAYERS_H

#include "scene.h"

#define LAYERS 6
#define LAYERS_MAX_STEPS 400

struct layers {
	struct psgd_tensor tensors[LAYERS];
	uint64_t steps_per_epoch, n_steps;
	double (*norm)(size_t layer, uint64_t step, uint64_t epoch); /* of the mean of its window */
	double (*error)(size_t layer, uint32_t rank, uint64_t step);
	double (*entropy)(uint64_t step);
	double (*rate)(uint64_t step, uint64_t epoch);
	uint32_t dense_above; /* a tensor at a larger rank travels dense; 0: none does */

	uint32_t rank[LAYERS_MAX_STEPS + 1][LAYERS];	     /* asked for, in a step */
	struct psgd_decision decision[LAYERS_MAX_STEPS + 1]; /* for it; regime NULL: none */
	uint32_t needs[LAYERS_MAX_STEPS];
	uint64_t in_sum, sums, norms, spectra, entropies, resets;
	uint64_t now; /* the step observed */
};

/* Four matrices, a vector, and a matrix that must stay dense. */
static inline struct layers layers_new(uint64_t steps_per_epoch, uint64_t n_steps)
{
	static const int64_t dims[LAYERS][3] = {
		{64, 3, 9}, {64, 64, 9}, {128, 64, 9}, {10, 512, 1}, {64, 1, 1}, {32, 32, 1}};
	struct layers l = {.steps_per_epoch = steps_per_epoch, .n_steps = n_steps};

	for (uint32_t i = 0; i < LAYERS; i++) {
		l.tensors[i].id = 100 + i;
		l.tensors[i].dtype = PSGD_F32;
		l.tensors[i].n_dims = i == 4 ? 1 : 3;
		memcpy(l.tensors[i].dims, dims[i], sizeof(dims[i]));
	}
	l.tensors[5].flags = PSGD_TENSOR_DENSE;
	return l;
}

static inline int layers_is_matrix(size_t layer)
{
	return layer < 4;
}

static inline psgd_status layers_errors(void *user, size_t i, uint32_t n, double *out)
{
	const struct layers *l = user;

	ck_assert(layers_is_matrix(i));
	for (uint32_t k = 0; k < n; k++)
		out[k] = l->error(i, k + 1, l->now);
	return PSGD_OK;
}

/* What needs asks for, and nothing else. */
static inline struct psgd_observation layers_observe(struct layers *l, uint64_t step,
	uint64_t epoch, bool end, uint32_t needs, double *norms, uint32_t *in_force)
{
	struct psgd_observation seen = PSGD_INIT(psgd_observation);

	l->now = step;
	seen.step = step;
	seen.epoch = epoch;
	seen.epoch_end = end;
	seen.learning_rate = l->rate ? l->rate(step, epoch) : 0.1;
	seen.grad_sum_norm = seen.entropy = NAN;
	seen.local_sum_steps = l->in_sum;
	seen.tensors = l->tensors;
	seen.n_tensors = LAYERS;
	seen.n_workers = 2;
	for (size_t i = 0; i < LAYERS; i++) {
		uint32_t rank = l->rank[step][i];

		in_force[i] = layers_is_matrix(i) && (!l->dense_above || rank <= l->dense_above)
				      ? rank
				      : 0;
		if (needs & PSGD_NEED_LOCAL_NORMS)
			norms[i] = (double)l->in_sum * l->norm(i, step, epoch);
	}
	seen.ranks = in_force;
	if (needs & PSGD_NEED_LOCAL_NORMS)
		seen.local_norms = norms;
	if (needs & PSGD_NEED_SPECTRUM) {
		seen.errors = layers_errors;
		seen.plan_user = l;
	}
	if (needs & PSGD_NEED_ENTROPY)
		seen.entropy = l->entropy(step);
	return seen;
}

static inline void layers_decide(struct psgd_controller *control, struct layers *l, uint64_t at,
	const struct psgd_observation *seen)
{
	struct psgd_decision d = PSGD_INIT(psgd_decision);
	uint32_t ranks[LAYERS + 1], largest = 0;

	ranks[LAYERS] = 77;
	ck_assert_int_eq(control->ops->decide(control->self, seen, ranks, &d), PSGD_OK);
	ck_assert_uint_eq(ranks[LAYERS], 77);
	for (size_t i = 0; i < LAYERS; i++) {
		uint32_t size = ranks[i] ? ranks[i] : PSGD_RANK_DENSE;

		l->rank[at][i] = ranks[i];
		largest = size > largest ? size : largest;
	}
	/* The largest of the matrices: what is no matrix never stands out. */
	ck_assert_uint_eq(d.rank, largest == PSGD_RANK_DENSE ? 0 : largest);
	ck_assert(ranks[0] == d.rank || ranks[1] == d.rank || ranks[2] == d.rank ||
		  ranks[3] == d.rank);
	ck_assert_ptr_nonnull(d.regime);
	l->decision[at] = d;
	l->in_sum = d.reset_local_sum ? 0 : l->in_sum;
	l->resets += d.reset_local_sum;
}

static inline void layers_drive(struct psgd_controller *control, struct layers *l)
{
	uint32_t in_force[LAYERS] = {0};
	double norms[LAYERS];
	struct psgd_observation seen;

	ck_assert_uint_le(l->n_steps, LAYERS_MAX_STEPS);
	seen = layers_observe(l, 0, 0, false, 0, norms, in_force);
	seen.step = UINT64_MAX;
	seen.first = 1;
	layers_decide(control, l, 0, &seen);
	for (uint64_t i = 0; i < l->n_steps; i++) {
		const uint32_t before = PSGD_NEED_LOCAL_SUM | PSGD_NEED_ENTROPY;
		uint64_t epoch = i / l->steps_per_epoch;
		bool end = i % l->steps_per_epoch == l->steps_per_epoch - 1;
		uint32_t needs = control->ops->needs(control->self, i, epoch, end);

		/* These two are asked for when neither the epoch nor its end is known. */
		ck_assert_uint_eq(
			needs & before, control->ops->needs(control->self, i, 0, false) & before);
		l->needs[i] = needs;
		l->in_sum += (needs & PSGD_NEED_LOCAL_SUM) != 0;
		l->sums += (needs & PSGD_NEED_LOCAL_SUM) != 0;
		l->norms += (needs & PSGD_NEED_LOCAL_NORMS) != 0;
		l->spectra += (needs & PSGD_NEED_SPECTRUM) != 0;
		l->entropies += (needs & PSGD_NEED_ENTROPY) != 0;
		memcpy(l->rank[i + 1], l->rank[i], sizeof(l->rank[i]));
		l->decision[i + 1] = (struct psgd_decision){0};
		if (!(needs & PSGD_NEED_DECISION)) {
			ck_assert(!(needs & ~(uint32_t)PSGD_NEED_LOCAL_SUM));
			continue;
		}
		seen = layers_observe(l, i, epoch, end, needs, norms, in_force);
		layers_decide(control, l, i + 1, &seen);
	}
}

#endif
