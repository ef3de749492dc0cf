/* The choices that follow from the options: which rank is in force in which step. */
#include "support/suite.h"

#include "drive.h"

static struct run *run_of(
	const struct psgd_rank_control_options *options, uint64_t per_epoch, uint64_t steps)
{
	static struct run run;
	struct psgd_controller control = scene_control(options);

	run = (struct run){.steps_per_epoch = per_epoch, .n_steps = steps};
	drive(&control, &run);
	psgd_controller_destroy(&control);
	return &run;
}

START_TEST(fixed)
{
	static const uint32_t ranks[] = {3, 100, 0};

	for (int i = 0; i < 3; i++) {
		struct psgd_rank_control_options options = choose(PSGD_CHOICE_FIXED);
		struct run *run;

		options.fixed_rank = ranks[i];
		run = run_of(&options, 10, 100);
		ck_assert_uint_eq(run->decisions, 0);
		ck_assert_uint_eq(run->rank[0], ranks[i]);
		ck_assert_str_eq(run->regime[0], "fixed");
	}
}
END_TEST

START_TEST(max)
{
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_MAX);
	struct run *run = run_of(&options, 10, 100);

	ck_assert_uint_eq(run->decisions, 0);
	ck_assert_uint_eq(run->rank[0], 32);
	ck_assert_str_eq(run->regime[0], "max");
	options.max_rank = 6;
	ck_assert_uint_eq(run_of(&options, 10, 100)->rank[0], 6);
	options.max_rank = PSGD_RANK_DENSE;
	ck_assert_uint_eq(run_of(&options, 10, 100)->rank[0], 0);
}
END_TEST

/* A rank is in force from the first step of its first epoch to the last step of its last one. */
START_TEST(schedule)
{
	static const struct psgd_schedule_range ranges[] = {
		{4, 4, 8, 0}, {0, 1, 2, 0}, {6, UINT64_MAX, 0, 0}};
	static const uint32_t want[] = {2, 2, 3, 3, 8, 3, 0, 0, 0};
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_SCHEDULE);

	options.ranges = ranges;
	options.n_ranges = 3;
	options.default_rank = 3;
	for (uint64_t per_epoch = 1; per_epoch <= 7; per_epoch += 3) {
		struct run *run = run_of(&options, per_epoch, 9 * per_epoch);

		ck_assert_uint_eq(run->decisions, 9);
		for (uint64_t i = 0; i < 9 * per_epoch; i++)
			ck_assert_uint_eq(run->rank[i], want[i / per_epoch]);
	}
	options.n_ranges = 0;
	options.default_rank = 0;
	ck_assert_uint_eq(run_of(&options, 1, 3)->rank[3], 1);
}
END_TEST

/* Under a cap that decides every step, the same ranks. */
START_TEST(schedule_under_cap)
{
	static const struct psgd_schedule_range ranges[] = {{1, 1, 2, 0}};
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_SCHEDULE);
	struct run *run;

	options.ranges = ranges;
	options.n_ranges = 1;
	options.cap = PSGD_CAP_LIVE;
	run = run_of(&options, 5, 15);
	ck_assert_uint_eq(run->decisions, 15);
	for (uint64_t i = 0; i < 15; i++) {
		ck_assert_uint_eq(run->rank[i], i / 5 == 1 ? 2 : 1);
		ck_assert_str_eq(run->regime[i], "schedule");
	}
}
END_TEST

START_TEST(replay)
{
	static const struct psgd_replay_entry entries[] = {
		{0, 4, 0}, {1, 8, 0}, {7, 0, 0}, {20, 2, 0}, {UINT64_MAX, 1, 0}};
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_REPLAY);
	struct run *run;

	options.replay = entries;
	options.n_replay = 5;
	run = run_of(&options, 4, 30);
	for (uint64_t i = 0; i < 30; i++) {
		ck_assert_uint_eq(run->rank[i], i < 1 ? 4 : i < 7 ? 8 : i < 20 ? 0 : 2);
		ck_assert_int_eq(run->regime[i] != NULL, !i || i == 1 || i == 7 || i == 20);
	}
	ck_assert_uint_eq(run->decisions, 3);
}
END_TEST

START_TEST(replay_of_each_tensor)
{
	static const struct psgd_replay_entry entries[] = {{0, 4, 0}, {5, 8, 0}};
	static const uint32_t of_tensors[] = {4, 0, 2, 8, 1, 0};
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_REPLAY);
	struct psgd_observation seen = PSGD_INIT(psgd_observation);
	struct psgd_decision decision = PSGD_INIT(psgd_decision);
	struct psgd_controller control;
	uint32_t ranks[3] = {9, 9, 9};

	options.replay = entries;
	options.n_replay = 2;
	options.replay_ranks = of_tensors;
	ck_assert_int_eq(
		psgd_controller_rank_control(&options, NULL, 0, &control), PSGD_ERR_INVALID);
	options.n_replay_tensors = 3;
	ck_assert_int_eq(psgd_controller_rank_control(&options, NULL, 0, &control), PSGD_OK);
	for (int i = 0; i < 2; i++) {
		seen.first = i == 0;
		seen.step = 4;
		seen.ranks = ranks;
		seen.n_tensors = 3;
		ck_assert_int_eq(
			control.ops->decide(control.self, &seen, ranks, &decision), PSGD_OK);
		ck_assert_uint_eq(decision.rank, entries[i].rank);
		ck_assert_int_eq(
			memcmp(ranks, of_tensors + (size_t)3 * (size_t)i, sizeof(ranks)), 0);
	}
	seen.n_tensors = 2;
	ck_assert_int_eq(
		control.ops->decide(control.self, &seen, ranks, &decision), PSGD_ERR_MISMATCH);
	psgd_controller_destroy(&control);
}
END_TEST

/* Ranks that are held down by a cap and do not change are the cap's; the change is the replay's. */
START_TEST(replay_speaks_of_its_changes)
{
	static const struct psgd_replay_entry entries[] = {{0, 8, 0}, {5, 8, 0}, {8, 8, 0}};
	static const uint32_t of_tensors[] = {8, 2, 8, 4, 8, 4}, candidates[] = {4};
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_REPLAY);
	struct psgd_observation seen = PSGD_INIT(psgd_observation);
	struct psgd_calibration_row row = {.rank = 4, .step_ns = 2, .exposed_ns = 1};
	struct psgd_controller control;
	uint32_t ranks[2] = {9, 9};

	options.replay = entries;
	options.n_replay = 3;
	options.replay_ranks = of_tensors;
	options.n_replay_tensors = 2;
	options.cap = PSGD_CAP_CALIBRATION;
	options.candidates = candidates;
	options.n_candidates = 1;
	ck_assert_int_eq(psgd_controller_rank_control(&options, NULL, 0, &control), PSGD_OK);
	ck_assert_int_eq(psgd_controller_calibrate(&control, &row, 1), PSGD_OK);
	seen.ranks = ranks;
	seen.n_tensors = 2;
	for (uint64_t step = 0; step < 9; step++) {
		struct psgd_decision decision = PSGD_INIT(psgd_decision);

		seen.step = step;
		ck_assert_int_eq(
			control.ops->decide(control.self, &seen, ranks, &decision), PSGD_OK);
		ck_assert_str_eq(decision.regime, step == 4 ? "replay" : "calibrated");
	}
	psgd_controller_destroy(&control);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("choices");
	TCase *t = tcase_create("choices");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, fixed);
	tcase_add_test(t, max);
	tcase_add_test(t, schedule);
	tcase_add_test(t, schedule_under_cap);
	tcase_add_test(t, replay);
	tcase_add_test(t, replay_of_each_tensor);
	tcase_add_test(t, replay_speaks_of_its_changes);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
