/*
 * The laws of PowerSGD, on random shapes, ranks, buckets and 1 to 4 workers:
 *   one step from the library's own state equals a float64 oracle;
 *   what goes in comes out: the sum of outputs equals the sum of true means, once the rest is
 * drained; all workers hold the same bits; one Inf poisons nothing.
 */
#include <math.h>
#include <string.h>

#include "compress/powersgd.h"
#include "support/group.h"
#include "support/oracle.h"
#include "support/random.h"
#include "support/suite.h"

#define MAX_TENSORS 9

/* A set of random tensors with their gradients on every worker. */
struct model {
	struct rng rng;
	size_t n;
	struct psgd_tensor tensors[MAX_TENSORS];
	size_t counts[MAX_TENSORS];
	float *grad[GROUP_MAX][MAX_TENSORS];
	struct psgd_grad grads[GROUP_MAX][MAX_TENSORS];
	struct psgd_bucket buckets[GROUP_MAX][MAX_TENSORS];
	struct psgd_bucket *by_worker[GROUP_MAX];
	size_t n_buckets;
};

static void model_init(struct model *x, uint64_t seed)
{
	memset(x, 0, sizeof(*x));
	x->rng.state = seed;
	x->n = rng_range(&x->rng, 1, MAX_TENSORS);
	for (size_t i = 0; i < x->n; i++) {
		struct psgd_tensor *t = &x->tensors[i];

		t->id = 1000 - 7 * (uint32_t)i; /* ids are not positions */
		t->dtype = PSGD_F32;
		t->n_dims = rng_range(&x->rng, 0, 4);
		for (uint32_t d = 0; d < t->n_dims; d++)
			t->dims[d] = rng_range(&x->rng, 1, t->n_dims < 3 ? 61 : 7);
		if (rng_range(&x->rng, 0, 9) == 0)
			t->flags = PSGD_TENSOR_DENSE;
		x->counts[i] = (size_t)psgd_tensor_count(t);
		for (int w = 0; w < GROUP_MAX; w++)
			x->grad[w][i] = calloc(x->counts[i], sizeof(float));
	}
}

static void model_free(struct model *x)
{
	for (int w = 0; w < GROUP_MAX; w++)
		for (size_t i = 0; i < x->n; i++)
			free(x->grad[w][i]);
}

/* New gradients: low rank plus noise, as in training. scale 0: zeros. */
static void model_gradients(struct model *x, float scale)
{
	for (int w = 0; w < GROUP_MAX; w++)
		for (size_t i = 0; i < x->n; i++)
			for (size_t k = 0; k < x->counts[i]; k++)
				x->grad[w][i][k] =
					scale * (rng_float(&x->rng) + 0.5f * (float)(k % 7) +
							0.1f * (float)w);
}

/* Shuffles the tensors into random buckets, the same on every worker. */
static void model_regroup(struct model *x)
{
	size_t order[MAX_TENSORS], bounds[MAX_TENSORS + 1];

	for (size_t i = 0; i < x->n; i++)
		order[i] = i;
	for (size_t i = x->n; i-- > 1;) {
		size_t j = rng_range(&x->rng, 0, (uint32_t)i), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	x->n_buckets = 0;
	bounds[0] = 0;
	for (size_t at = 0; at < x->n;) {
		at += rng_range(&x->rng, 1, (uint32_t)(x->n - at));
		bounds[++x->n_buckets] = at;
	}
	for (int w = 0; w < GROUP_MAX; w++) {
		for (size_t i = 0; i < x->n; i++)
			x->grads[w][i] =
				(struct psgd_grad){x->tensors[order[i]].id, x->grad[w][order[i]]};
		for (size_t b = 0; b < x->n_buckets; b++) {
			x->buckets[w][b] = PSGD_INIT(psgd_bucket);
			x->buckets[w][b].grads = &x->grads[w][bounds[b]];
			x->buckets[w][b].n_grads = bounds[b + 1] - bounds[b];
		}
		x->by_worker[w] = x->buckets[w];
	}
}

static void random_ranks(struct group *g, struct model *x)
{
	uint32_t ranks[MAX_TENSORS];

	for (size_t i = 0; i < x->n; i++)
		ranks[i] = rng_range(&x->rng, 0, 9);
	for (uint32_t w = 0; w < g->n_workers; w++)
		ck_assert_int_eq(psgd_session_set_ranks(g->session[w], ranks, x->n), PSGD_OK);
}

static psgd_status make_powersgd(void *user, struct psgd_compressor *out)
{
	return psgd_compressor_powersgd(user, out);
}

static struct psgd__ps_tensor *state(struct group *g, uint32_t w, size_t i)
{
	return &((struct psgd__powersgd *)g->compressor[w].self)->tensors[i];
}

static void assert_workers_equal(const struct group *g, const struct model *x)
{
	for (uint32_t w = 1; w < g->n_workers; w++)
		for (size_t i = 0; i < x->n; i++)
			ck_assert_mem_eq(
				x->grad[w][i], x->grad[0][i], x->counts[i] * sizeof(float));
}

/* Everything about one tensor that the oracle needs, copied before the step. */
struct before {
	double *m[GROUP_MAX]; /* gradient plus error */
	double *q;	      /* m x r; NULL: no Q yet */
	uint32_t r;
};

static void copy_before(struct group *g, struct model *x, size_t i, struct before *out)
{
	const struct psgd__ps_tensor *t = state(g, 0, i);

	out->r = t->rank;
	for (uint32_t w = 0; w < g->n_workers; w++) {
		const float *e = state(g, w, i)->e;

		out->m[w] = calloc(x->counts[i], sizeof(double));
		for (size_t k = 0; k < x->counts[i]; k++)
			out->m[w][k] = (double)x->grad[w][i][k] + (double)(e ? e[k] : 0.0f);
	}
	out->q = NULL;
	if (!t->q_used || !t->rank)
		return;
	out->q = calloc((size_t)t->m * t->rank, sizeof(double));
	for (int64_t j = 0; j < t->m; j++)
		for (uint32_t c = 0; c < t->rank; c++)
			out->q[j * t->rank + c] = (double)t->q[c * t->m + j];
}

static void to_double(const float *from, size_t n, double *to)
{
	for (size_t k = 0; k < n; k++)
		to[k] = (double)from[k];
}

/* Compares the result of one compressed tensor, its error on every worker, and its new Q. */
static void compare_compressed(struct group *g, struct model *x, size_t i, struct before *b)
{
	const struct psgd__ps_tensor *t = state(g, 0, i);
	size_t n = x->counts[i], values = (size_t)t->m * b->r;
	double *out = calloc(n, sizeof(double)), *have = calloc(n + values, sizeof(double));
	double *error[GROUP_MAX];

	for (uint32_t w = 0; w < g->n_workers; w++)
		error[w] = calloc(n, sizeof(double));
	oracle_powersgd((const double *const *)b->m, g->n_workers, (size_t)t->n, (size_t)t->m, b->r,
		0.0, b->q, out, error);
	to_double(x->grad[0][i], n, have);
	ck_assert_double_lt(oracle_distance(have, out, n), 1e-5);
	for (uint32_t w = 0; w < g->n_workers; w++) {
		/* Relative to the gradient: an error may be far smaller. */
		for (size_t k = 0; k < n; k++) {
			have[k] = (double)state(g, w, i)->e[k] - error[w][k] + b->m[w][k];
		}
		ck_assert_double_lt(oracle_distance(have, b->m[w], n), 1e-5);
	}
	for (int64_t j = 0; j < t->m; j++)
		for (uint32_t c = 0; c < b->r; c++)
			have[j * b->r + c] = (double)t->q[c * t->m + j];
	ck_assert_double_lt(oracle_distance(have, b->q, values), 1e-5);
	for (uint32_t w = 0; w < g->n_workers; w++)
		free(error[w]);
	free(have);
	free(out);
}

static void compare_dense(struct group *g, struct model *x, size_t i, struct before *b)
{
	size_t n = x->counts[i];
	double *want = calloc(n, sizeof(double)), *have = calloc(n, sizeof(double));

	for (uint32_t w = 0; w < g->n_workers; w++)
		for (size_t k = 0; k < n; k++)
			want[k] += b->m[w][k] / g->n_workers;
	/* Relative to what one worker has: a mean may be far smaller. */
	for (size_t k = 0; k < n; k++)
		have[k] = (double)x->grad[0][i][k] - want[k] + b->m[0][k];
	ck_assert_double_lt(oracle_distance(have, b->m[0], n), 1e-5);
	free(have);
	free(want);
}

static void oracle_run(uint64_t seed)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	struct model x;
	struct group g;
	model_init(&x, seed);
	o.rank = rng_range(&x.rng, 1, 6);
	group_open(&g, rng_range(&x.rng, 1, 4), x.tensors, x.n, make_powersgd, &o, NULL);
	for (int step = 0; step < 12; step++) {
		struct before before[MAX_TENSORS];

		if (step % 3 == 2)
			random_ranks(&g, &x);
		model_gradients(&x, 0.01f);
		model_regroup(&x);
		for (size_t i = 0; i < x.n; i++)
			copy_before(&g, &x, i, &before[i]);
		ck_assert_int_eq(group_step(&g, x.by_worker, x.n_buckets, NULL, NULL), PSGD_OK);
		assert_workers_equal(&g, &x);
		for (size_t i = 0; i < x.n; i++) {
			if (before[i].q) {
				compare_compressed(&g, &x, i, &before[i]);
			} else if (!before[i].r) {
				compare_dense(&g, &x, i, &before[i]);
			}
			for (uint32_t w = 0; w < g.n_workers; w++)
				free(before[i].m[w]);
			free(before[i].q);
		}
	}
	group_close(&g);
	model_free(&x);
}

START_TEST(one_step_equals_the_oracle)
{
	for (uint64_t seed = 0; seed < 12; seed++)
		oracle_run((uint64_t)_i * 1000 + seed);
}
END_TEST

static void conservation_run(uint64_t seed, uint32_t flags)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	uint32_t zero[MAX_TENSORS] = {0};
	double *in[MAX_TENSORS], *out[MAX_TENSORS], worst = 0.0;
	struct model x;
	struct group g;

	model_init(&x, seed);
	o.flags = flags;
	o.start_step = rng_range(&x.rng, 0, 3);
	group_open(&g, rng_range(&x.rng, 1, 4), x.tensors, x.n, make_powersgd, &o, NULL);
	for (size_t i = 0; i < x.n; i++) {
		in[i] = calloc(x.counts[i], sizeof(double));
		out[i] = calloc(x.counts[i], sizeof(double));
	}
	for (int step = 0; step < 31; step++) {
		bool drain = step == 30;

		if (step % 4 == 3)
			random_ranks(&g, &x);
		for (uint32_t w = 0; drain && w < g.n_workers; w++)
			ck_assert_int_eq(psgd_session_set_ranks(g.session[w], zero, x.n), PSGD_OK);
		model_gradients(&x, drain ? 0.0f : 0.01f);
		model_regroup(&x);
		for (size_t i = 0; i < x.n; i++)
			for (uint32_t w = 0; w < g.n_workers; w++)
				for (size_t k = 0; k < x.counts[i]; k++)
					in[i][k] += (double)x.grad[w][i][k] / g.n_workers;
		ck_assert_int_eq(group_step(&g, x.by_worker, x.n_buckets, NULL, NULL), PSGD_OK);
		assert_workers_equal(&g, &x);
		for (size_t i = 0; i < x.n; i++)
			for (size_t k = 0; k < x.counts[i]; k++)
				out[i][k] += (double)x.grad[0][i][k];
	}
	for (size_t i = 0; i < x.n; i++) {
		worst = fmax(worst, oracle_distance(out[i], in[i], x.counts[i]));
		free(in[i]);
		free(out[i]);
	}
	if (flags & PSGD_POWERSGD_NO_ERROR_FEEDBACK)
		ck_assert_double_lt(worst, 10.0);
	else
		ck_assert_double_lt(worst, 2e-6);
	group_close(&g);
	model_free(&x);
}

START_TEST(what_goes_in_comes_out)
{
	for (uint64_t seed = 0; seed < 12; seed++) {
		conservation_run((uint64_t)_i * 1000 + seed, 0);
		conservation_run((uint64_t)_i * 1000 + seed, PSGD_POWERSGD_NO_WARM_START);
	}
}
END_TEST

/* A deep copy of one worker's state, to prove that a discarded bucket leaves it alone. */
static double state_sum(struct group *g, struct model *x, uint32_t w, uint64_t *hash)
{
	double sum = 0.0;

	*hash = PSGD__HASH_START;
	for (size_t i = 0; i < x->n; i++) {
		const struct psgd__ps_tensor *t = state(g, w, i);

		for (size_t k = 0; t->e && k < x->counts[i]; k++)
			sum += (double)fabsf(t->e[k]);
		if (t->e)
			*hash = psgd__hash(*hash, t->e, x->counts[i] * sizeof(float));
		if (t->q_used)
			*hash = psgd__hash(*hash, t->q, (size_t)t->m * t->q_cols * sizeof(float));
	}
	return sum;
}

static void poison_run(uint64_t seed, float poison)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	struct psgd_report report = PSGD_INIT(psgd_report);
	uint64_t before[GROUP_MAX], after;
	struct model x;
	struct group g;
	size_t victim;

	model_init(&x, seed);
	o.rank = 2;
	group_open(&g, rng_range(&x.rng, 1, 4), x.tensors, x.n, make_powersgd, &o, NULL);
	victim = rng_range(&x.rng, 0, (uint32_t)x.n - 1);
	for (int step = 0; step < 8; step++) {
		model_gradients(&x, 0.01f);
		model_regroup(&x);
		if (step == 4) {
			/* One bucket, so that every tensor shares the fate of the poisoned one. */
			for (uint32_t w = 0; w < g.n_workers; w++) {
				x.buckets[w][0].n_grads = x.n;
				state_sum(&g, &x, w, &before[w]);
			}
			x.n_buckets = 1;
			x.grad[g.n_workers - 1][victim][x.counts[victim] / 2] = poison;
		}
		ck_assert_int_eq(group_step(&g, x.by_worker, x.n_buckets, NULL, &report), PSGD_OK);
		ck_assert_uint_eq(report.n_nonfinite, step == 4);
		for (uint32_t w = 0; w < g.n_workers; w++) {
			for (size_t i = 0; i < x.n; i++)
				for (size_t k = 0; k < x.counts[i]; k++)
					ck_assert_int_eq(!isfinite(x.grad[w][i][k]), step == 4);
			if (step != 4)
				continue;
			ck_assert(isfinite(state_sum(&g, &x, w, &after)));
			ck_assert_uint_eq(after, before[w]);
		}
	}
	group_close(&g);
	model_free(&x);
}

START_TEST(one_inf_poisons_nothing)
{
	for (uint64_t seed = 0; seed < 10; seed++) {
		poison_run((uint64_t)_i * 1000 + seed, INFINITY);
		poison_run((uint64_t)_i * 1000 + seed, NAN);
	}
}
END_TEST

/* Zero gradients must not switch a tensor off for ever: what comes later is still sent. */
START_TEST(zero_gradients_are_survived)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	struct model x;
	struct group g;
	double sent = 0.0;

	model_init(&x, 3);
	x.n = 1;
	x.tensors[0].n_dims = 2;
	x.tensors[0].flags = 0;
	x.tensors[0].dims[0] = 40;
	x.tensors[0].dims[1] = 30;
	for (int w = 0; w < GROUP_MAX; w++) {
		free(x.grad[w][0]);
		x.grad[w][0] = calloc(1200, sizeof(float));
	}
	x.counts[0] = 1200;
	o.rank = (uint32_t)_i;
	o.eps = 1e-8;
	group_open(&g, 2, x.tensors, 1, make_powersgd, &o, NULL);
	for (int step = 0; step < 6; step++) {
		model_gradients(&x, step < 3 ? 0.0f : 1.0f);
		model_regroup(&x);
		ck_assert_int_eq(group_step(&g, x.by_worker, 1, NULL, NULL), PSGD_OK);
		for (size_t k = 0; k < x.counts[0]; k++)
			sent += (double)fabsf(x.grad[0][0][k]);
	}
	ck_assert_double_gt(sent, 100.0);
	group_close(&g);
	for (size_t i = 1; i < MAX_TENSORS; i++)
		for (int w = 0; w < GROUP_MAX; w++)
			free(x.grad[w][i]);
	model_free(&x);
}
END_TEST

static psgd_status make_dense(void *user, struct psgd_compressor *out)
{
	(void)user;
	return psgd_compressor_dense(out);
}

/* The baseline: the mean, to rounding, the same bits everywhere, and Inf is reported. */
START_TEST(dense_is_the_mean)
{
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct model x;
	struct group g;

	model_init(&x, (uint64_t)_i + 40);
	group_open(&g, (uint32_t)_i, x.tensors, x.n, make_dense, NULL, NULL);
	for (int step = 0; step < 4; step++) {
		double want[MAX_TENSORS], all = 0.0;

		model_gradients(&x, 1.0f);
		model_regroup(&x);
		if (step == 3)
			x.grad[g.n_workers - 1][0][0] = INFINITY;
		for (size_t i = 0; i < x.n; i++) {
			want[i] = 0.0;
			for (uint32_t w = 0; w < g.n_workers; w++)
				want[i] += (double)x.grad[w][i][x.counts[i] - 1] / g.n_workers;
			all += 4.0 * (double)x.counts[i];
		}
		ck_assert_int_eq(group_step(&g, x.by_worker, x.n_buckets, NULL, &report), PSGD_OK);
		assert_workers_equal(&g, &x);
		ck_assert_uint_eq(report.n_nonfinite, step == 3);
		ck_assert_double_eq((double)report.payload_bytes, all);
		ck_assert_uint_eq(report.rank_max, 0);
		/* As it is: the others' means as well, where one value is not finite. */
		for (size_t i = 0; i < x.n; i++) {
			if (isfinite(want[i]))
				ck_assert_double_eq_tol(
					(double)x.grad[0][i][x.counts[i] - 1], want[i], 1e-5);
			else
				ck_assert(step == 3 && i == 0 && x.counts[0] == 1);
		}
	}
	group_close(&g);
	model_free(&x);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("laws");
	TCase *c = tcase_create("laws");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, one_step_equals_the_oracle, 0, 8);
	tcase_add_loop_test(c, what_goes_in_comes_out, 0, 8);
	tcase_add_loop_test(c, one_inf_poisons_nothing, 0, 4);
	tcase_add_loop_test(c, dense_is_the_mean, 1, 5);
	tcase_add_loop_test(c, zero_gradients_are_survived, 1, 5);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
