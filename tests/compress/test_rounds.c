/*
 * PowerSGD driven by hand, round by round: what of its state changes when, and columns that carry
 * nothing. Three workers, whose messages are summed here.
 */
#include <math.h>
#include <stdalign.h>
#include <string.h>

#include "compress/powersgd.h"
#include "support/random.h"
#include "support/suite.h"

#define WORKERS 3
#define TENSORS 3
#define MOST_VALUES 2240
#define TRIAL (UINT64_C(1) << 63)

/* Two matrices with a vector between them; ids are not positions. */
static const struct psgd_tensor tensors[TENSORS] = {
	{.id = 9, .dtype = PSGD_F32, .n_dims = 2, .dims = {40, 30}},
	{.id = 2, .dtype = PSGD_F32, .n_dims = 1, .dims = {50}},
	{.id = 5, .dtype = PSGD_F32, .n_dims = 2, .dims = {24, 36}},
};

struct hand {
	struct psgd_device device;
	struct psgd_powersgd_options options;
	struct psgd_compressor compressor[WORKERS];
	struct psgd_grad grads[WORKERS][TENSORS];
	struct psgd_bucket bucket[WORKERS];
	struct psgd_round round[WORKERS];
	struct psgd_plan plan;
	float data[WORKERS][TENSORS][MOST_VALUES];
	alignas(64) float message[WORKERS][2][MOST_VALUES];
};

static void hand_open(struct hand *x, uint32_t rank, uint32_t flags)
{
	memset(x, 0, sizeof(*x));
	ck_assert_int_eq(psgd_device_cpu(NULL, &x->device), PSGD_OK);
	x->options = PSGD_INIT(psgd_powersgd_options);
	x->options.rank = rank;
	x->options.flags = flags;
	for (uint32_t w = 0; w < WORKERS; w++) {
		struct psgd_scope scope = PSGD_INIT(psgd_scope);
		struct psgd_compressor *c = &x->compressor[w];

		scope.tensors = tensors;
		scope.n_tensors = TENSORS;
		scope.device = &x->device;
		scope.worker = w;
		scope.n_workers = WORKERS;
		ck_assert_int_eq(psgd_compressor_powersgd(&x->options, c), PSGD_OK);
		ck_assert_int_eq(c->ops->attach(c->self, &scope), PSGD_OK);
		for (int i = 0; i < TENSORS; i++)
			x->grads[w][i] = (struct psgd_grad){tensors[i].id, x->data[w][i]};
		x->bucket[w] = PSGD_INIT(psgd_bucket);
		x->bucket[w].grads = x->grads[w];
		x->bucket[w].n_grads = TENSORS;
	}
}

static void hand_close(struct hand *x)
{
	for (int w = 0; w < WORKERS; w++) {
		x->compressor[w].ops->detach(x->compressor[w].self);
		psgd_compressor_destroy(&x->compressor[w]);
	}
	psgd_device_destroy(&x->device);
}

static struct psgd__ps_tensor *state(struct hand *x, int w, int i)
{
	return &((struct psgd__powersgd *)x->compressor[w].self)->tensors[i];
}

static void run(struct hand *x, uint32_t index)
{
	for (int w = 0; w < WORKERS; w++) {
		x->round[w].index = index;
		ck_assert_int_eq(
			x->compressor[w].ops->run(x->compressor[w].self, &x->round[w]), PSGD_OK);
	}
}

static void gradients(struct hand *x, uint64_t seed, float scale)
{
	struct rng rng = {seed};

	for (int w = 0; w < WORKERS; w++)
		for (int i = 0; i < TENSORS; i++)
			for (int k = 0; k < MOST_VALUES; k++)
				x->data[w][i][k] = scale * rng_float(&rng);
}

/* Up to the message of Q, orthonormal and not yet overwritten. */
static void begin(struct hand *x, uint64_t step)
{
	for (int w = 0; w < WORKERS; w++) {
		x->round[w] = PSGD_INIT(psgd_round);
		x->round[w].step = step;
		x->round[w].bucket = &x->bucket[w];
		x->round[w].message[0] = x->message[w][0];
		x->round[w].message[1] = x->message[w][1];
		x->round[w].nonfinite = 7; /* the last run says, and it alone */
		ck_assert_int_eq(x->compressor[w].ops->plan(
					 x->compressor[w].self, &x->bucket[w], step, &x->plan),
			PSGD_OK);
	}
	run(x, 0);
}

static void sum(struct hand *x, uint32_t i)
{
	for (int64_t k = 0; k < x->plan.round[i].count; k++) {
		float all = 0.0f;

		for (int w = 0; w < WORKERS; w++)
			all += x->message[w][i][k];
		for (int w = 0; w < WORKERS; w++)
			x->message[w][i][k] = all;
	}
}

static void end(struct hand *x)
{
	for (uint32_t i = 0; i < x->plan.n_rounds; i++) {
		sum(x, i);
		run(x, i + 1);
	}
}

static void settle(struct hand *x)
{
	for (int w = 0; w < WORKERS; w++)
		x->compressor[w].ops->settle(x->compressor[w].self, &x->round[w]);
}

static void whole_step(struct hand *x, uint64_t step, uint64_t seed, float scale)
{
	gradients(x, seed, scale);
	begin(x, step);
	end(x);
	settle(x);
}

static void ranks(struct hand *x, uint32_t rank)
{
	const uint32_t all[TENSORS] = {rank, rank, rank};

	for (int w = 0; w < WORKERS; w++)
		ck_assert_int_eq(
			x->compressor[w].ops->set_ranks(x->compressor[w].self, all), PSGD_OK);
}

static void assert_nonfinite(const struct hand *x, uint32_t want)
{
	for (int w = 0; w < WORKERS; w++) {
		ck_assert_uint_eq(x->round[w].nonfinite, want);
		for (int i = 0; i < TENSORS; i++) {
			int64_t bad = 0, all = psgd_tensor_count(&tensors[i]);

			for (int64_t k = 0; k < all; k++)
				bad += !isfinite(x->data[w][i][k]);
			ck_assert_int_eq(bad, want ? all : 0);
		}
	}
}

static void assert_equal(const struct hand *a, const struct hand *b)
{
	for (int w = 0; w < WORKERS; w++)
		for (int i = 0; i < TENSORS; i++)
			ck_assert_mem_eq(a->data[w][i], b->data[w][i],
				(size_t)psgd_tensor_count(&tensors[i]) * sizeof(float));
}

static double dot(const float *a, const float *b, int64_t n)
{
	double all = 0.0;

	for (int64_t i = 0; i < n; i++)
		all += (double)a[i] * (double)b[i];
	return all;
}

/* The Q of both matrices as the step began with it: the same on all workers, orthonormal. */
static void take_q(const struct hand *x, uint32_t r, float *to)
{
	const size_t values = (size_t)(30 + 36) * r;
	const float *q = x->message[0][1];

	for (int w = 1; w < WORKERS; w++)
		ck_assert_mem_eq(x->message[w][1], q, values * sizeof(float));
	for (int64_t m = 30, at = 0; m <= 36; at += m * r, m += 6)
		for (uint32_t a = 0; a < r; a++)
			for (uint32_t b = 0; b <= a; b++)
				ck_assert_double_eq_tol(
					dot(q + at + a * m, q + at + b * m, m), a == b, 1e-5);
	memcpy(to, q, values * sizeof(float));
}

/* What a step of zeros leaves is drawn anew: alike everywhere, by the step, and by nothing else. */
START_TEST(dead_columns_are_drawn_by_the_step)
{
	enum { R = 3, VALUES = (30 + 36) * R };
	float one[VALUES], two[VALUES], again[VALUES], trial[VALUES], first[VALUES];
	static struct hand x;

	hand_open(&x, R, 0);
	begin(&x, 0);
	take_q(&x, R, first);
	end(&x);
	settle(&x);
	for (int w = 0; w < WORKERS; w++)
		for (int k = 0; k < 30 * R; k++)
			ck_assert_float_eq(state(&x, w, 0)->q[k], 0.0f);
	gradients(&x, 1, 1.0f);
	begin(&x, 1);
	take_q(&x, R, one);
	begin(&x, 2);
	take_q(&x, R, two);
	begin(&x, TRIAL | 1);
	take_q(&x, R, trial);
	begin(&x, 1);
	take_q(&x, R, again);
	ck_assert_mem_eq(one, again, sizeof(one));
	for (int c = 0; c < R; c++) {
		ck_assert_mem_ne(one + 30 * c, two + 30 * c, 30 * sizeof(float));
		ck_assert_mem_ne(one + 30 * c, trial + 30 * c, 30 * sizeof(float));
		ck_assert_mem_ne(one + 30 * c, first + 30 * c, 30 * sizeof(float));
	}
	/* Whole Qs alone are counted. */
	for (int w = 0; w < WORKERS; w++)
		ck_assert_uint_eq(state(&x, w, 0)->draw, 1);
	hand_close(&x);
}
END_TEST

/* The other columns stay, whichever is dead. */
START_TEST(one_dead_column)
{
	enum { R = 3 };
	static struct hand x;
	float q[(30 + 36) * R], old[30 * R];

	hand_open(&x, R, 0);
	for (uint64_t step = 0; step < 4; step++)
		whole_step(&x, step, step + 5, 1.0f);
	begin(&x, 4);
	take_q(&x, R, q);
	memcpy(old, q, sizeof(old));
	for (int w = 0; w < WORKERS; w++)
		memset(state(&x, w, 0)->q + 30 * _i, 0, 30 * sizeof(float));
	begin(&x, 4);
	take_q(&x, R, q);
	/* All that was spanned is spanned, but for the one. */
	for (int c = 0; c < R; c++) {
		double inside = 0.0;

		for (int b = 0; b < R; b++)
			inside += pow(dot(old + 30 * c, q + 30 * b, 30), 2);
		if (c == _i)
			ck_assert_double_lt(inside, 0.99);
		else if (c < _i)
			ck_assert_double_eq_tol(inside, 1.0, 1e-5);
	}
	hand_close(&x);
}
END_TEST

/* Whatever is not finite in the first step: the next one is as if it had been the first. */
START_TEST(a_first_step_that_is_discarded)
{
	static struct hand a, twin;

	hand_open(&a, 2, 0);
	hand_open(&twin, 2, 0);
	gradients(&a, 1, 1.0f);
	a.data[1][_i][7] = _i ? INFINITY : NAN;
	begin(&a, 0);
	end(&a);
	settle(&a);
	assert_nonfinite(&a, 1);
	for (int w = 0; w < WORKERS; w++) {
		for (int i = 0; i < TENSORS; i += 2) {
			const struct psgd__ps_tensor *t = state(&a, w, i);

			ck_assert(!t->q_used && !t->e_used);
			ck_assert_uint_eq(t->draw, 0);
			ck_assert_double_eq(dot(t->e, t->e, t->n * t->m), 0.0);
		}
	}
	for (uint64_t step = 1; step < 4; step++) {
		whole_step(&a, step, step, 1.0f);
		whole_step(&twin, step, step, 1.0f);
		assert_nonfinite(&a, 0);
		assert_equal(&a, &twin);
	}
	hand_close(&a);
	hand_close(&twin);
}
END_TEST

/* What waits to go out dense waits on, when the bucket it would go with is discarded. */
START_TEST(the_rest_waits_through_a_discarded_step)
{
	static struct hand a, twin;
	double waiting;

	hand_open(&a, 2, 0);
	hand_open(&twin, 2, 0);
	whole_step(&a, 0, 1, 1.0f);
	whole_step(&twin, 0, 1, 1.0f);
	ranks(&a, 0);
	ranks(&twin, 0);
	gradients(&a, 2, 1.0f);
	a.data[2][_i][3] = -INFINITY;
	begin(&a, 1);
	end(&a);
	settle(&a);
	assert_nonfinite(&a, 1);
	ck_assert(state(&a, 0, 0)->e_used);
	waiting = dot(state(&a, 0, 0)->e, state(&a, 0, 0)->e, 1200);
	ck_assert_double_gt(waiting, 1.0);
	whole_step(&a, 2, 3, 0.0f);
	whole_step(&twin, 2, 3, 0.0f);
	assert_equal(&a, &twin);
	ck_assert_double_gt(dot(a.data[0][0], a.data[0][0], 1200), 0.1);
	for (int w = 0; w < WORKERS; w++) {
		const struct psgd__ps_tensor *t = state(&a, w, 0);

		ck_assert(!t->e_used);
		ck_assert_double_eq(dot(t->e, t->e, 1200), 0.0);
	}
	whole_step(&a, 3, 3, 0.0f);
	ck_assert_double_eq(dot(a.data[0][0], a.data[0][0], 1200), 0.0);
	hand_close(&a);
	hand_close(&twin);
}
END_TEST

/* The host's part of the state changes when it is told to, and not before. */
START_TEST(nothing_is_noted_before_settle)
{
	static struct hand x;

	hand_open(&x, 2, _i ? PSGD_POWERSGD_NO_WARM_START : 0);
	gradients(&x, 1, 1.0f);
	begin(&x, 0);
	end(&x);
	assert_nonfinite(&x, 0);
	for (int w = 0; w < WORKERS; w++)
		ck_assert(!state(&x, w, 0)->q_used && !state(&x, w, 0)->e_used &&
			  !state(&x, w, 0)->draw);
	settle(&x);
	for (int w = 0; w < WORKERS; w++) {
		ck_assert_int_eq(state(&x, w, 0)->q_used, !_i);
		ck_assert(state(&x, w, 0)->e_used);
		ck_assert(!state(&x, w, 1)->e_used);
		ck_assert_uint_eq(state(&x, w, 0)->draw, 1);
	}
	/* Without a warm start every step draws. */
	whole_step(&x, 1, 2, 1.0f);
	ck_assert_uint_eq(state(&x, 0, 2)->draw, _i ? 2 : 1);
	ranks(&x, 0);
	gradients(&x, 3, 1.0f);
	begin(&x, 2);
	end(&x);
	ck_assert(state(&x, 0, 0)->e_used);
	settle(&x);
	ck_assert(!state(&x, 0, 0)->e_used);
	hand_close(&x);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("rounds");
	TCase *c = tcase_create("rounds");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, dead_columns_are_drawn_by_the_step);
	tcase_add_loop_test(c, one_dead_column, 0, 3);
	tcase_add_loop_test(c, a_first_step_that_is_discarded, 0, TENSORS);
	tcase_add_loop_test(c, the_rest_waits_through_a_discarded_step, 0, TENSORS);
	tcase_add_loop_test(c, nothing_is_noted_before_settle, 0, 2);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
