/* The calibration cap: the rule that picks the best, and the steps that it measures. */
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

static struct psgd_controller calibration(uint64_t start, uint32_t min_rank, uint32_t max_rank)
{
	struct psgd_calibration_options options = PSGD_INIT(psgd_calibration_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);

	options.start_step = start;
	options.warmup_steps = 3;
	options.measure_steps = 4;
	control.cap = PSGD_CAP_CALIBRATION;
	control.candidates = candidates;
	control.n_candidates = 5;
	control.min_rank = min_rank;
	control.max_rank = max_rank;
	control.calibration = &options;
	return scene_control(&control);
}

/* Candidate k: steps start + 7 k on, of which the last four are asked about. */
START_TEST(window)
{
	struct psgd_controller control = calibration(10, 0, 0);

	for (uint64_t i = 0; i < 100; i++) {
		uint32_t want = 0;

		if (i == 9)
			want = PSGD_NEED_DECISION;
		if (i >= 10 && i < 45 && (i - 10) % 7 >= 3)
			want = PSGD_NEED_DECISION | PSGD_NEED_TIMING;
		ck_assert_uint_eq(control.ops->needs(control.self, i, 0, true), want);
	}
	psgd_controller_destroy(&control);
}
END_TEST

/* Runs it as the engine would: decides only when asked. Returns the rank after it. */
static uint32_t calibrate(struct psgd_controller *control, struct scene *s, uint64_t start,
	uint64_t steps, bool always)
{
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d = scene_decide(control, &seen);

	s->rank = d.rank;
	for (uint64_t i = 0; i < steps; i++) {
		if (i >= start && i < start + 35) {
			ck_assert_uint_eq(s->rank, candidates[(i - start) / 7]);
			ck_assert_str_eq(d.regime, "calibrate");
		}
		if (!always && !control->ops->needs(control->self, i, 0, false))
			continue;
		seen = scene_observe(s, i, ranks);
		d = scene_decide(control, &seen);
		s->rank = d.rank;
		if (i == start + 34) {
			ck_assert_str_eq(d.regime, "calibrated");
			ck_assert_double_eq(d.threshold, 0.30);
			ck_assert_double_eq(d.value, d.predicted_exposed);
		}
	}
	return s->rank;
}

START_TEST(measures)
{
	for (int always = 0; always < 2; always++) {
		for (uint64_t start = 0; start < 20; start += 10) {
			struct psgd_controller control = calibration(start, 0, 0);
			struct psgd_calibration_row rows[6] = {0};
			struct scene s = scene_new(2);
			uint32_t want = 0;

			scene_link(&s, 20, 1e5);
			for (size_t i = 0; i < 5; i++) {
				if (scene_share(&s, candidates[i]) <= 0.30)
					want = candidates[i];
			}
			/* Neither end, or this test would show nothing. */
			ck_assert(want > 1 && want < 16);
			ck_assert_uint_eq(psgd_controller_calibration(&control, rows, 6), 5);
			ck_assert_uint_eq(rows[0].steps, 0);
			ck_assert_uint_eq(calibrate(&control, &s, start, 80, always), want);
			ck_assert_uint_eq(psgd_controller_calibration(&control, rows, 6), 5);
			for (size_t i = 0; i < 5; i++) {
				struct psgd_cost cost = scene_truth(&s, candidates[i]);

				ck_assert_uint_eq(rows[i].rank, candidates[i]);
				ck_assert_uint_eq(rows[i].steps, 4);
				ck_assert_int_eq(rows[i].step_ns, cost.step_ns);
				ck_assert_int_eq(rows[i].exposed_ns, cost.exposed_ns);
				ck_assert_uint_eq(rows[i].payload_bytes, cost.payload_bytes);
				ck_assert_uint_eq(
					rows[i].raw_bytes, 4 * 1025 * (512 + 256 + 128 + 512));
			}
			ck_assert_uint_eq(rows[5].rank, 0);
			ck_assert_uint_eq(psgd_controller_calibration(&control, rows, 2), 5);
			ck_assert_uint_eq(psgd_controller_calibration(&control, NULL, 0), 5);
			psgd_controller_destroy(&control);
		}
	}
}
END_TEST

/* It measures what is there, not what a formula says: bytes do not matter, times do. */
START_TEST(believes_the_clock)
{
	struct psgd_controller control = calibration(0, 0, 0);
	struct scene s = scene_new(2);
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);

	scene_link(&s, 1, 1e5);
	s.rank = scene_decide(&control, &seen).rank;
	for (uint64_t i = 0; i < 35; i++) {
		seen = scene_observe(&s, i, ranks);
		seen.step_ns = 1000;
		seen.exposed_ns = s.rank <= 8 ? 100 : 900;
		s.rank = scene_decide(&control, &seen).rank;
	}
	ck_assert_uint_eq(s.rank, 8);
	psgd_controller_destroy(&control);
}
END_TEST

/* Before the window the largest candidate; only candidates within the bounds are tried. */
START_TEST(bounds)
{
	struct psgd_controller control = calibration(1000, 2, 9);
	struct psgd_calibration_row rows[5];
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d = scene_decide(&control, &seen);

	ck_assert_uint_eq(d.rank, 8);
	ck_assert_uint_eq(d.choice, 9);
	ck_assert_str_eq(d.regime, "max");
	ck_assert_uint_eq(psgd_controller_calibration(&control, rows, 5), 3);
	ck_assert_uint_eq(rows[0].rank, 2);
	ck_assert_uint_eq(rows[2].rank, 8);
	psgd_controller_destroy(&control);
}
END_TEST

/* During the window the candidate's rank is used even above the choice; afterwards the cap is. */
START_TEST(overrides)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct psgd_controller control;
	struct scene s = scene_new(2);
	uint32_t ranks[1], used[150 + 1];
	struct psgd_observation seen = scene_first(ranks);

	options.cap = PSGD_CAP_CALIBRATION;
	options.choice = PSGD_CHOICE_FIXED;
	options.fixed_rank = 2;
	control = scene_control(&options);
	scene_link(&s, 1000, 1e5);
	used[0] = s.rank = scene_decide(&control, &seen).rank;
	for (uint64_t i = 0; i < 150; i++) {
		if (control.ops->needs(control.self, i, 0, false)) {
			struct psgd_decision d;

			seen = scene_observe(&s, i, ranks);
			d = scene_decide(&control, &seen);
			s.rank = d.rank;
			ck_assert_uint_eq(d.choice, 2);
		}
		used[i + 1] = s.rank;
	}
	for (uint64_t i = 0; i < 150; i++)
		ck_assert_uint_eq(used[i], 1u << i / 25);
	ck_assert_uint_eq(used[150], 2);
	psgd_controller_destroy(&control);
}
END_TEST

static psgd_status own_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	(void)self, (void)seen, (void)ranks, (void)out;
	return PSGD_OK;
}

START_TEST(others_have_no_rows)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct psgd_controller control = scene_control(&options);
	static const struct psgd_controller_ops ops = {
		.size = sizeof(ops), .name = "own", .decide = own_decide};
	struct psgd_controller own = {&ops, &options};
	struct psgd_calibration_row row;

	ck_assert_uint_eq(psgd_controller_calibration(&control, &row, 1), 0);
	psgd_controller_destroy(&control);
	ck_assert_uint_eq(psgd_controller_calibration(&control, &row, 1), 0);
	ck_assert_uint_eq(psgd_controller_calibration(NULL, &row, 1), 0);
	ck_assert_uint_eq(psgd_controller_calibration(&own, &row, 1), 0);
	psgd_controller_destroy(&own);
	ck_assert_ptr_null(own.self);
	psgd_controller_destroy(NULL);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("calibration");
	TCase *t = tcase_create("calibration");

	tcase_add_test(t, select_best);
	tcase_add_test(t, monotone);
	tcase_add_test(t, window);
	tcase_add_test(t, measures);
	tcase_add_test(t, believes_the_clock);
	tcase_add_test(t, bounds);
	tcase_add_test(t, overrides);
	tcase_add_test(t, others_have_no_rows);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
