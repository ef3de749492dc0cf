/* The calibration cap: the rule that picks the best, and the rows that it takes. */
#include "control/control.h"
#include "support/suite.h"

#include "scene.h"

START_TEST(select_best)
{
	static const struct {
		uint32_t rank[5];
		double share[5];
		size_t n;
		double limit;
		bool one;
		uint32_t want;
	} cases[] = {
		/* The seed's vectors. */
		{{1, 2, 4, 8}, {0.40, 0.29, 0.35, 0.31}, 4, 0.30, false, 2},
		{{1, 2, 4}, {0.20, 0.35, 0.50}, 3, 0.30, false, 2},
		{{1, 2, 4}, {0.20, 0.35, 0.50}, 3, 0.30, true, 1},
		/* None fits: the smallest. */
		{{2, 4, 8}, {0.40, 0.50, 0.60}, 3, 0.30, false, 2},
		{{1, 4, 8}, {0.40, 0.50, 0.60}, 3, 0.30, true, 1},
		{{1, 4, 8}, {0.40, 0.50, 0.60}, 3, 0.30, false, 4},
		/* Exactly at the limit fits. */
		{{2, 4, 8}, {0.10, 0.30, 0.31}, 3, 0.30, false, 4},
		{{2, 4, 8}, {0.10, 0.20, 0.30}, 3, 0.30, false, 8},
		/* One lucky large rank does not win ... */
		{{2, 4, 8, 16}, {0.20, 0.45, 0.60, 0.29}, 4, 0.30, false, 2},
		/* ... and one unlucky small rank does not lose. */
		{{2, 4, 8, 16}, {0.33, 0.10, 0.20, 0.28}, 4, 0.30, false, 16},
		{{2, 4, 8, 16}, {0.10, 0.33, 0.20, 0.50}, 4, 0.30, false, 8},
		/* There is nothing above 1, or only dense. */
		{{1}, {0.10}, 1, 0.30, false, 1},
		{{1, PSGD_RANK_DENSE}, {0.10, 0.90}, 2, 0.30, false, 1},
		{{1, 2, PSGD_RANK_DENSE}, {0.10, 0.20, 0.25}, 3, 0.30, false, PSGD_RANK_DENSE},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t best = psgd__calibration_select(cases[i].rank, cases[i].share, cases[i].n,
			cases[i].limit, cases[i].one, NULL);

		ck_assert_msg(cases[i].rank[best] == cases[i].want, "case %zu: r=%u", i,
			cases[i].rank[best]);
	}
}
END_TEST

/* The monotone shares are the closest ones: checked against pooling adjacent violators. */
START_TEST(monotone)
{
	struct scene random = scene_new(6);

	for (int round = 0; round < 2000; round++) {
		uint32_t rank[12];
		double share[12], sum[12], fitted, limit = scene_random(&random);
		size_t count[12], n = 1 + (size_t)(scene_random(&random) * 12), blocks = 0,
				  want = 0;
		size_t at = 0;

		for (size_t i = 0; i < n; i++) {
			rank[i] = 2 + (uint32_t)i;
			share[i] = scene_random(&random);
			sum[blocks] = share[i];
			count[blocks++] = 1;
			while (blocks > 1 && sum[blocks - 2] / (double)count[blocks - 2] >=
						     sum[blocks - 1] / (double)count[blocks - 1]) {
				sum[blocks - 2] += sum[blocks - 1];
				count[blocks - 2] += count[blocks - 1];
				blocks--;
			}
		}
		for (size_t b = 0; b < blocks; b++) {
			at += count[b];
			if (sum[b] / (double)count[b] <= limit)
				want = at - 1;
		}
		ck_assert_uint_eq(
			psgd__calibration_select(rank, share, n, limit, false, &fitted), want);
		at = 0;
		for (size_t b = 0; b < blocks; b++) {
			if (want >= at && want < at + count[b])
				ck_assert_double_eq_tol(fitted, sum[b] / (double)count[b], 1e-12);
			at += count[b];
		}
	}
}
END_TEST

static const uint32_t candidates[] = {1, 2, 4, 8, 16};

static struct psgd_controller calibration(
	enum psgd_choice_kind choice, uint64_t start, uint32_t min_rank, uint32_t max_rank)
{
	struct psgd_calibration_options options = PSGD_INIT(psgd_calibration_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);

	options.start_step = start;
	control.cap = PSGD_CAP_CALIBRATION;
	control.choice = choice;
	control.fixed_rank = 2;
	control.candidates = candidates;
	control.n_candidates = 5;
	control.min_rank = min_rank;
	control.max_rank = max_rank;
	control.calibration = &options;
	return scene_control(&control);
}

/* Rows as a trainer measures them on a link: of each candidate, and dense. */
static size_t measure(const struct scene *s, struct psgd_calibration_row *rows)
{
	for (size_t i = 0; i < 6; i++) {
		uint32_t rank = i < 5 ? candidates[i] : 0;
		struct psgd_cost cost = scene_truth(s, rank);

		rows[i] = (struct psgd_calibration_row){.rank = rank,
			.steps = 4,
			.step_ns = cost.step_ns,
			.exposed_ns = cost.exposed_ns,
			.payload_bytes = cost.payload_bytes,
			.compute_ns = cost.step_ns - cost.exposed_ns};
	}
	return 6;
}

/* Where rows are due, and ever more rarely after; alike with rows and without. */
START_TEST(needs)
{
	struct psgd_controller control = calibration(PSGD_CHOICE_MAX, 10, 0, 0);
	struct psgd_calibration_row rows[6];
	struct scene s = scene_new(2);
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);

	for (int taken = 0; taken < 2; taken++) {
		for (uint64_t i = 0; i < 100; i++) {
			bool want = i == 10 || i == 11 || i == 12 || i == 14 || i == 18 ||
				    i == 26 || i == 42 || i == 74;

			ck_assert_uint_eq(control.ops->needs(control.self, i, 0, true),
				want ? PSGD_NEED_DECISION : 0);
		}
		ck_assert_int_eq(
			psgd_controller_calibrate(&control, rows, measure(&s, rows)), PSGD_OK);
		scene_decide(&control, &seen);
	}
	psgd_controller_destroy(&control);
}
END_TEST

/* The rows that are handed over decide, from the next decision on, and once. */
START_TEST(takes_rows)
{
	struct psgd_controller control = calibration(PSGD_CHOICE_MAX, 0, 0, 0);
	struct psgd_calibration_row rows[6];
	struct scene s = scene_new(2);
	uint32_t ranks[1], want = 0, small;
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d = scene_decide(&control, &seen);

	ck_assert_uint_eq(d.cap, 16);
	ck_assert_str_eq(d.regime, "max");
	scene_link(&s, 20, 1e5);
	for (size_t i = 0; i < 5; i++) {
		if (scene_share(&s, candidates[i]) <= 0.30)
			want = candidates[i];
	}
	/* Neither end, or this test would show nothing. */
	ck_assert(want > 1 && want < 16);
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, measure(&s, rows)), PSGD_OK);
	for (uint64_t i = 0; i < 5; i++) {
		seen = scene_observe(&s, i, ranks);
		d = scene_decide(&control, &seen);
		ck_assert_uint_eq(d.cap, want);
		ck_assert_uint_eq(d.rank, want);
		ck_assert_str_eq(d.regime, "calibrated");
		ck_assert_double_eq(d.threshold, 0.30);
		ck_assert_double_eq_tol(d.value, scene_share(&s, want), 1e-12);
		ck_assert_double_eq(d.value, d.predicted_exposed);
	}
	/* Measured again, on a slower link: the new ones hold. */
	scene_link(&s, 2, 1e5);
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, measure(&s, rows)), PSGD_OK);
	small = scene_decide(&control, &seen).cap;
	ck_assert_uint_eq(small, 2);
	psgd_controller_destroy(&control);
}
END_TEST

/* It believes what was measured, not bytes or a formula; and the share is of the row's own step. */
START_TEST(believes_the_clock)
{
	static const struct psgd_calibration_row rows[] = {{1, 4, 1000, 100, 1, 1, 900},
		{2, 4, 1000, 100, 1, 9000, 900}, {4, 4, 2000, 500, 1, 1, 1500},
		{8, 4, 4000, 1100, 1, 1, 900}, {16, 4, 1000, 310, 1, 1, 9}};
	struct psgd_controller control = calibration(PSGD_CHOICE_MAX, 0, 0, 0);
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);

	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 5), PSGD_OK);
	ck_assert_uint_eq(scene_decide(&control, &seen).cap, 8);
	psgd_controller_destroy(&control);
}
END_TEST

/* Only candidates within the bounds count: the best is clamped, and others' rows are passed over.
 */
START_TEST(bounds)
{
	struct psgd_calibration_row rows[5] = {
		{.rank = 1}, {.rank = 2}, {.rank = 4}, {.rank = 8}, {.rank = 16}};
	struct psgd_controller control = calibration(PSGD_CHOICE_MAX, 0, 2, 9);
	uint32_t ranks[1], listed[5] = {0};
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d = scene_decide(&control, &seen);

	ck_assert_uint_eq(d.rank, 8);
	ck_assert_uint_eq(d.choice, 9);
	ck_assert_str_eq(d.regime, "max");
	ck_assert_uint_eq(psgd_controller_candidates(&control, listed, 5), 3);
	ck_assert_uint_eq(listed[0], 2);
	ck_assert_uint_eq(listed[2], 8);
	ck_assert_uint_eq(listed[3], 0);
	ck_assert_uint_eq(psgd_controller_candidates(&control, listed, 1), 3);
	ck_assert_uint_eq(psgd_controller_candidates(&control, NULL, 0), 3);
	for (size_t i = 0; i < 5; i++) {
		rows[i].step_ns = 100;
		rows[i].exposed_ns = 1;
	}
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 5), PSGD_OK);
	ck_assert_uint_eq(scene_decide(&control, &seen).cap, 8);
	for (size_t i = 0; i < 5; i++)
		rows[i].exposed_ns = 99;
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 5), PSGD_OK);
	ck_assert_uint_eq(scene_decide(&control, &seen).cap, 2);
	/* What was not measured cannot be the best. */
	rows[1].exposed_ns = rows[2].exposed_ns = rows[3].exposed_ns = 1;
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 3), PSGD_OK);
	ck_assert_uint_eq(scene_decide(&control, &seen).cap, 4);
	psgd_controller_destroy(&control);
}
END_TEST

/* It is a cap: never above the choice, and a choice below it keeps its own regime. */
START_TEST(under_it)
{
	struct psgd_controller control = calibration(PSGD_CHOICE_FIXED, 0, 0, 0);
	struct psgd_calibration_row rows[6];
	struct scene s = scene_new(2);
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d;

	scene_link(&s, 20, 1e5);
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, measure(&s, rows)), PSGD_OK);
	d = scene_decide(&control, &seen);
	ck_assert_str_eq(d.regime, "calibrated");
	ck_assert_uint_eq(d.rank, 2);
	ck_assert_uint_gt(d.cap, 2);
	ck_assert_str_eq(scene_decide(&control, &seen).regime, "fixed");
	psgd_controller_destroy(&control);
}
END_TEST

/* Refused rows change nothing. */
START_TEST(bad_rows)
{
	struct psgd_controller control = calibration(PSGD_CHOICE_MAX, 0, 0, 0);
	struct psgd_calibration_row rows[2] = {
		{.rank = 3, .step_ns = 10}, {.rank = 2, .step_ns = 10}};
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);

	ck_assert_int_eq(psgd_controller_calibrate(&control, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_controller_calibrate(&control, NULL, 2), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 1), PSGD_ERR_INVALID);
	rows[0].rank = 2;
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 2), PSGD_ERR_INVALID);
	rows[0].rank = 1;
	rows[0].step_ns = -1;
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 2), PSGD_ERR_INVALID);
	rows[0].step_ns = 1;
	rows[0].exposed_ns = -1;
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 2), PSGD_ERR_INVALID);
	ck_assert_uint_eq(scene_decide(&control, &seen).cap, 16);
	/* A step of no time says nothing good. */
	rows[0].step_ns = rows[0].exposed_ns = rows[1].step_ns = 0;
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 2), PSGD_OK);
	ck_assert_uint_eq(scene_decide(&control, &seen).cap, 2);
	psgd_controller_destroy(&control);
}
END_TEST

static psgd_status own_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	(void)self, (void)seen, (void)ranks, (void)out;
	return PSGD_OK;
}

START_TEST(others_take_no_rows)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct psgd_controller control = scene_control(&options);
	static const struct psgd_controller_ops ops = {
		.size = sizeof(ops), .name = "own", .decide = own_decide};
	struct psgd_controller own = {&ops, &options};
	struct psgd_calibration_row row = {.rank = 1, .step_ns = 1};
	uint32_t rank;

	ck_assert_uint_eq(psgd_controller_candidates(&control, &rank, 1), 0);
	ck_assert_int_eq(psgd_controller_calibrate(&control, &row, 1), PSGD_ERR_UNSUPPORTED);
	psgd_controller_destroy(&control);
	options.cap = PSGD_CAP_LIVE;
	control = scene_control(&options);
	ck_assert_uint_eq(psgd_controller_candidates(&control, &rank, 1), 6);
	ck_assert_int_eq(psgd_controller_calibrate(&control, &row, 1), PSGD_ERR_UNSUPPORTED);
	psgd_controller_destroy(&control);
	ck_assert_int_eq(psgd_controller_calibrate(&control, &row, 1), PSGD_ERR_UNSUPPORTED);
	ck_assert_int_eq(psgd_controller_calibrate(NULL, &row, 1), PSGD_ERR_UNSUPPORTED);
	ck_assert_int_eq(psgd_controller_calibrate(&own, &row, 1), PSGD_ERR_UNSUPPORTED);
	ck_assert_uint_eq(psgd_controller_candidates(NULL, &rank, 1), 0);
	ck_assert_uint_eq(psgd_controller_candidates(&own, &rank, 1), 0);
	psgd_controller_destroy(&own);
	ck_assert_ptr_null(own.self);
	psgd_controller_destroy(NULL);
}
END_TEST

/* Rows that leave the cap where it is do not move it: the choice below goes on to speak. */
START_TEST(the_same_cap_is_no_move)
{
	static const struct psgd_calibration_row rows[] = {
		{.rank = 16, .step_ns = 10, .exposed_ns = 9},
		{.rank = 32, .step_ns = 10, .exposed_ns = 1}};
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct psgd_observation seen = PSGD_INIT(psgd_observation);
	struct psgd_controller control;
	uint32_t ranks[1] = {2};

	options.cap = PSGD_CAP_CALIBRATION;
	options.choice = PSGD_CHOICE_FIXED;
	options.fixed_rank = 2;
	control = scene_control(&options);
	seen.ranks = ranks;
	seen.n_tensors = 1;
	/* Begins at 32; then only 16 is measured; then 32 is the best again, and once more. */
	for (size_t k = 0; k < 3; k++) {
		ck_assert_int_eq(psgd_controller_calibrate(&control, rows + (k > 0), 1), PSGD_OK);
		ck_assert_str_eq(
			scene_decide(&control, &seen).regime, k < 2 ? "calibrated" : "fixed");
	}
	psgd_controller_destroy(&control);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("calibration");
	TCase *t = tcase_create("calibration");

	tcase_add_test(t, select_best);
	tcase_add_test(t, monotone);
	tcase_add_test(t, needs);
	tcase_add_test(t, takes_rows);
	tcase_add_test(t, believes_the_clock);
	tcase_add_test(t, bounds);
	tcase_add_test(t, under_it);
	tcase_add_test(t, bad_rows);
	tcase_add_test(t, others_take_no_rows);
	tcase_add_test(t, the_same_cap_is_no_move);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
