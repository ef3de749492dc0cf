/* Entropy: the rank by the change of the mean entropy from window to window. */
#include "support/suite.h"

#include "layers.h"

static struct psgd_entropy_options entropy_options;

static struct psgd_rank_control_options entropy(void)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);

	entropy_options = PSGD_INIT(psgd_entropy_options);
	entropy_options.window_steps = 20;
	entropy_options.sample_every = 5;
	options.choice = PSGD_CHOICE_ENTROPY;
	options.entropy = &entropy_options;
	options.min_rank = 8;
	options.max_rank = 32;
	return options;
}

/* Mean of each window; samples lie around it. */
static const double *means;

static double by_window(uint64_t step)
{
	static const double around[] = {0.3, -0.1, -0.3, 0.1};

	return means[step / 20] + around[step / 5 % 4];
}

static struct layers *run_entropy(const struct psgd_rank_control_options *options, uint64_t windows)
{
	static struct layers l;
	struct psgd_controller control = scene_control(options);

	l = layers_new(7, 20 * windows);
	l.entropy = by_window;
	layers_drive(&control, &l);
	psgd_controller_destroy(&control);
	return &l;
}

static void expect(const struct layers *l, uint64_t window, uint32_t rank, const char *regime)
{
	ck_assert_msg(l->decision[20 * window].rank == rank, "window %llu: r=%u, not %u",
		(unsigned long long)window, l->decision[20 * window].rank, rank);
	ck_assert_str_eq(l->decision[20 * window].regime, regime);
	for (uint64_t i = 0; i < 20 && 20 * window + i <= l->n_steps; i++)
		ck_assert_uint_eq(l->rank[20 * window + i][0], rank);
}

/* Rounded down to even, at most 4 from window to window, between 8 and 32. */
START_TEST(table)
{
	/* Changes: 1, 1, 0.9, 0.5, 0.5, 0.5, 0, 0, 0, 2, 2, 0.99 */
	static const double given[] = {
		10, 11, 12, 12.9, 13.4, 13.9, 14.4, 14.4, 14.4, 14.4, 16.4, 14.4, 15.39};
	struct psgd_rank_control_options options = entropy();
	struct layers *l;

	means = given;
	l = run_entropy(&options, 13);
	for (uint64_t window = 0; window <= 2; window++)
		expect(l, window, 32, "insufficient_history");
	expect(l, 3, 32, "entropy");
	/* 8 + 24 * 0.9 = 29.6, so 30. */
	expect(l, 4, 30, "entropy");
	/* 20 is wanted. */
	expect(l, 5, 26, "entropy_slew");
	expect(l, 6, 22, "entropy_slew");
	expect(l, 7, 20, "entropy");
	expect(l, 8, 16, "entropy_slew");
	expect(l, 9, 12, "entropy_slew");
	expect(l, 10, 8, "entropy");
	expect(l, 11, 12, "entropy_slew");
	expect(l, 12, 16, "entropy_slew");
	expect(l, 13, 20, "entropy_slew");
	ck_assert_double_eq_tol(l->decision[80].value, 0.9, 1e-9);
	ck_assert_double_eq_tol(l->decision[80].threshold, 1.0, 1e-9);
	ck_assert_uint_eq(l->entropies, 13 * 4);
}
END_TEST

/* Sampled and decided at the same steps, and at the end of a window. */
START_TEST(when)
{
	static const double given[] = {1, 1, 1};
	struct psgd_rank_control_options options = entropy();
	struct layers *l;

	means = given;
	entropy_options.sample_every = 8;
	l = run_entropy(&options, 3);
	for (uint64_t i = 0; i < 60; i++) {
		uint32_t want = (i + 1) % 20 == 0 ? PSGD_NEED_DECISION : 0;

		if ((i + 1) % 8 == 0)
			want = PSGD_NEED_DECISION | PSGD_NEED_ENTROPY;
		ck_assert_uint_eq(l->needs[i], want);
	}
}
END_TEST

/* Nothing changes at first: down, until something does, and that is the measure from then on. */
START_TEST(no_first_change)
{
	static const double given[] = {5, 5, 5, 5, 7, 8, 10};
	struct psgd_rank_control_options options = entropy();
	struct layers *l;

	means = given;
	entropy_options.slew = 100;
	l = run_entropy(&options, 7);
	expect(l, 2, 32, "insufficient_history");
	expect(l, 3, 8, "entropy");
	expect(l, 4, 8, "entropy");
	expect(l, 5, 32, "entropy");
	expect(l, 6, 20, "entropy");
	expect(l, 7, 32, "entropy");
}
END_TEST

/* Odd bounds and multiples: never below min, max where it is due, and never stuck on the way. */
START_TEST(rounding)
{
	static const double given[] = {0, 1, 1, 1, 1, 1, 1.6, 2.6, 3.6, 4.6, 5.6, 6.6};
	static const uint32_t want[] = {27, 27, 24, 20, 16, 12, 16, 20, 24, 27, 27, 27};
	struct psgd_rank_control_options options = entropy();
	struct layers *l;

	means = given;
	options.min_rank = 3;
	options.max_rank = 27;
	entropy_options.round_to = 4;
	entropy_options.slew = 5;
	l = run_entropy(&options, 12);
	for (uint64_t window = 1; window <= 12; window++)
		ck_assert_msg(l->decision[20 * window].rank == want[window - 1],
			"window %llu: r=%u", (unsigned long long)window,
			l->decision[20 * window].rank);
	/* Down to the minimum, which is no multiple; and dense is no number to go by. */
	static const double still[] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
	means = still;
	options.max_rank = PSGD_RANK_DENSE;
	l = run_entropy(&options, 11);
	ck_assert_uint_eq(l->decision[20].rank, 32);
	ck_assert_uint_eq(l->decision[220].rank, 3);
}
END_TEST

static double with_holes(uint64_t step)
{
	return step / 20 == 3 ? (double)NAN : step % 10 == 9 ? (double)INFINITY : by_window(step);
}

/* What is no number is no sample; a window without any holds, and so does the next one. */
START_TEST(holes)
{
	static const double given[] = {5, 6, 6, 6, 6, 6, 6};
	struct psgd_rank_control_options options = entropy();
	struct psgd_controller control = scene_control(&options);
	struct layers l = layers_new(7, 120);

	means = given;
	l.entropy = with_holes;
	layers_drive(&control, &l);
	expect(&l, 3, 28, "entropy_slew");
	expect(&l, 4, 28, "insufficient_history");
	expect(&l, 5, 28, "insufficient_history");
	expect(&l, 6, 24, "entropy_slew");
	psgd_controller_destroy(&control);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("entropy");
	TCase *t = tcase_create("entropy");

	tcase_add_test(t, table);
	tcase_add_test(t, when);
	tcase_add_test(t, no_first_change);
	tcase_add_test(t, rounding);
	tcase_add_test(t, holes);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
