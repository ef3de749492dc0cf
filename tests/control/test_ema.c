/* Ema: candidates up and down by the gradient's norm against its moving average. */
#include "control/control.h"
#include "support/suite.h"

#include "drive.h"

static const uint32_t candidates[] = {1, 2, 4, 8};
static struct psgd_ema_options ema_options;

static struct psgd_rank_control_options ema(void)
{
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_EMA);

	ema_options = PSGD_INIT(psgd_ema_options);
	ema_options.interval_steps = 5;
	options.ema = &ema_options;
	options.candidates = candidates;
	options.n_candidates = 4;
	return options;
}

/* Norm of the mean gradient in each interval; drive sums, so it is multiplied by the steps. */
static const double *norms;

static double norm_of_interval(uint64_t step, uint64_t epoch)
{
	(void)epoch;
	return 5 * norms[step / 5];
}

static struct run *run_ema(const struct psgd_rank_control_options *options, uint64_t intervals)
{
	static struct run run;
	struct psgd_controller control = scene_control(options);

	run = (struct run){
		.steps_per_epoch = 7, .n_steps = 5 * intervals, .norm = norm_of_interval};
	drive(&control, &run);
	psgd_controller_destroy(&control);
	return &run;
}

/* Against the average written out: beta 0.9, free of its start, before the new norm is taken in. */
START_TEST(by_hand)
{
	static const double given[] = {10, 9, 10, 9.9, 3, 3, 3, 12, 12, 100, 9};
	struct psgd_rank_control_options options = ema();
	struct run *run;
	double sum = 0, weight = 0;
	size_t at = 3, ups = 0, downs = 0;

	norms = given;
	run = run_ema(&options, 11);
	ck_assert_uint_eq(run->rank[0], 8);
	ck_assert_str_eq(run->regime[0], "insufficient_history");
	for (size_t i = 0; i < 11; i++) {
		const uint64_t next = 5 * (i + 1);
		double value = weight > 0 ? given[i] / (sum / weight) : NAN;
		const char *want = "ema_hold";

		if (!i) {
			want = "insufficient_history";
		} else if (value >= 1.2) {
			want = "ema_critical";
			at += at < 3;
			ups++;
		} else if (value <= 0.95) {
			want = "ema_relaxed";
			at -= at > 0;
			downs++;
		}
		ck_assert_str_eq(run->regime[next], want);
		ck_assert_uint_eq(run->rank[next], candidates[at]);
		if (i)
			ck_assert_double_eq_tol(run->value[next], value, 1e-12);
		for (uint64_t k = 1; k < 5 && i < 10; k++) {
			ck_assert_ptr_null(run->regime[next + k]);
			ck_assert_uint_eq(run->rank[next + k], candidates[at]);
		}
		sum = 0.9 * sum + 0.1 * given[i];
		weight = 0.9 * weight + 0.1;
	}
	ck_assert(ups >= 2 && downs >= 3);
	/* The sum is of the interval alone. */
	ck_assert_uint_eq(run->decisions, 11);
	ck_assert_uint_eq(run->norms, 11);
	ck_assert_uint_eq(run->resets, 11);
}
END_TEST

/* At the thresholds, both move; a beta near 0 compares with the interval before. */
START_TEST(thresholds)
{
	static const double given[] = {8, 4, 2, 1, 2, 4, 5, 8};
	static const uint32_t want[] = {8, 4, 2, 1, 2, 4, 4, 8};
	struct psgd_rank_control_options options = ema();
	struct run *run;

	ema_options.beta = 1e-300;
	ema_options.critical = 1.5;
	ema_options.relaxed = 0.5;
	norms = given;
	run = run_ema(&options, 8);
	for (size_t i = 0; i < 8; i++)
		ck_assert_uint_eq(run->rank[5 * (i + 1)], want[i]);
}
END_TEST

/* A norm that is not finite holds, and is not taken in; so does an average of zero. */
START_TEST(bad_norms)
{
	static const double given[] = {0, 4, 4, 4, (double)NAN, 4, (double)INFINITY, 4.1};
	struct psgd_rank_control_options options = ema();
	struct run *run;

	ema_options.beta = 0.5;
	norms = given;
	run = run_ema(&options, 8);
	ck_assert_str_eq(run->regime[10], "insufficient_history");
	ck_assert_str_eq(run->regime[15], "ema_critical");
	ck_assert_str_eq(run->regime[25], "insufficient_history");
	ck_assert_str_eq(run->regime[35], "insufficient_history");
	ck_assert_double_eq_tol(run->value[30], 4.0 / (4 * (0.5 + 0.25 + 0.125) / 0.9375), 1e-12);
	for (size_t i = 0; i < 40; i++)
		ck_assert_uint_eq(run->rank[i], 8);
}
END_TEST

/* The seed's candidates: low, half and high of a base rank. */
START_TEST(of_base)
{
	static const struct {
		uint32_t base, min, max, want[3];
		size_t n;
	} cases[] = {
		{4, 1, 8, {1, 2, 4}, 3},
		{8, 1, 8, {1, 4, 8}, 3},
		{16, 1, 8, {1, 8}, 2},
		{16, 2, 12, {2, 8, 12}, 3},
		{1, 1, 8, {1, 2}, 2},
		{4, 4, 8, {4, 5}, 2},
		{2, 1, 8, {1, 2}, 2},
		{3, 3, 3, {3}, 1},
		{2, 4, 8, {4}, 1},
		{6, 1, PSGD_RANK_DENSE, {1, 3, 6}, 3},
	};
	static const double falling[] = {16, 8, 4, 2};
	struct psgd_rank_control_options options = ema();
	struct run *run;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct psgd__candidates out;

		psgd__candidates_of_base(cases[i].base, cases[i].min, cases[i].max, &out);
		ck_assert_uint_eq(out.n, cases[i].n);
		for (size_t k = 0; k < out.n; k++)
			ck_assert_uint_eq(out.rank[k], cases[i].want[k]);
	}
	ema_options.base_rank = 6;
	norms = falling;
	run = run_ema(&options, 4);
	ck_assert_uint_eq(run->rank[9], 6);
	ck_assert_uint_eq(run->rank[10], 3);
	ck_assert_uint_eq(run->rank[20], 1);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("ema");
	TCase *t = tcase_create("ema");

	tcase_add_test(t, by_hand);
	tcase_add_test(t, thresholds);
	tcase_add_test(t, bad_norms);
	tcase_add_test(t, of_base);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
