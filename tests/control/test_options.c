/* What bad options get: INVALID, nothing made, and one clear line. */
#include "support/suite.h"

#include "scene.h"

static struct psgd_rank_control_options options;
static struct psgd_epochnorm_options epochnorm;
static struct psgd_live_options live;
static struct psgd_calibration_options calibration;
static struct psgd_ema_options ema;
static struct psgd_accordion_options accordion;
static struct psgd_lgreco_options lgreco;
static struct psgd_entropy_options entropy;

static void reset(void)
{
	options = PSGD_INIT(psgd_rank_control_options);
	epochnorm = PSGD_INIT(psgd_epochnorm_options);
	live = PSGD_INIT(psgd_live_options);
	calibration = PSGD_INIT(psgd_calibration_options);
	ema = PSGD_INIT(psgd_ema_options);
	accordion = PSGD_INIT(psgd_accordion_options);
	lgreco = PSGD_INIT(psgd_lgreco_options);
	entropy = PSGD_INIT(psgd_entropy_options);
	options.ema = &ema;
	options.accordion = &accordion;
	options.lgreco = &lgreco;
	options.entropy = &entropy;
	options.epochnorm = &epochnorm;
	options.live = &live;
	options.calibration = &calibration;
}

static void refused(const char *want)
{
	char error[256] = "old text";
	struct psgd_controller control = {(void *)error, error};

	ck_assert_int_eq(psgd_controller_rank_control(&options, error, sizeof(error), &control),
		PSGD_ERR_INVALID);
	ck_assert_str_eq(error, want);
	ck_assert(!control.ops && !control.self);
	ck_assert_int_eq(
		psgd_controller_rank_control(&options, NULL, 0, &control), PSGD_ERR_INVALID);
	reset();
}

static void accepted(void)
{
	struct psgd_controller control = scene_control(&options);

	psgd_controller_destroy(&control);
	reset();
}

START_TEST(candidates)
{
	static const uint32_t unsorted[] = {1, 4, 2}, twice[] = {1, 2, 2}, zero[] = {0, 1},
			      dense_first[] = {PSGD_RANK_DENSE, 1},
			      good[] = {3, 5, PSGD_RANK_DENSE};
	uint32_t many[65];

	for (uint32_t i = 0; i < 65; i++)
		many[i] = i + 1;
	reset();
	options.candidates = unsorted;
	options.n_candidates = 3;
	refused("candidates[2] is 2, not above candidates[1], which is 4");
	options.candidates = twice;
	options.n_candidates = 3;
	refused("candidates[2] is 2, not above candidates[1], which is 2");
	options.candidates = zero;
	options.n_candidates = 2;
	refused("candidates[0] is 0; dense is PSGD_RANK_DENSE, and last");
	options.candidates = dense_first;
	options.n_candidates = 2;
	refused("candidates[1] is 1, not above candidates[0], which is 4294967295");
	options.candidates = good;
	refused("candidates is empty");
	options.n_candidates = 3;
	refused("candidates is NULL, but n_candidates is 3");
	options.candidates = many;
	options.n_candidates = 65;
	refused("n_candidates is 65; at most 64 are supported");
	options.candidates = many;
	options.n_candidates = 64;
	accepted();
	options.candidates = good;
	options.n_candidates = 3;
	accepted();
}
END_TEST

START_TEST(bounds)
{
	reset();
	options.min_rank = 8;
	options.max_rank = 4;
	refused("min_rank is 8, above max_rank, which is 4");
	options.min_rank = 33;
	refused("min_rank is 33, above max_rank, which is 32");
	options.min_rank = PSGD_RANK_DENSE;
	options.max_rank = PSGD_RANK_DENSE;
	refused("min_rank cannot be dense");
	options.cap = PSGD_CAP_LIVE;
	options.min_rank = 5;
	options.max_rank = 7;
	refused("no candidate is between min_rank and max_rank");
	options.min_rank = 5;
	options.max_rank = 7;
	accepted();
}
END_TEST

START_TEST(kinds)
{
	reset();
	options.cap = 3;
	refused("cap is 3; known are none (0), calibration (1) and live (2)");
	options.choice = 9;
	refused("choice is 9; known are max (0), fixed (1), schedule (2), epochnorm (3), replay "
		"(4), ema (5), accordion (6), lgreco (7) and entropy (8)");
	options.cap = PSGD_CAP_LIVE;
	options.choice = 9;
	refused("choice is 9; known are max (0), fixed (1), schedule (2), epochnorm (3), replay "
		"(4), ema (5), accordion (6), lgreco (7) and entropy (8)");
	options.size = 4;
	refused("rank control: size is wrong, or a field is set that this library does not know");
}
END_TEST

START_TEST(schedule)
{
	struct psgd_schedule_range ranges[] = {{5, 12, 2, 0}, {0, 4, 1, 0}, {10, 20, 4, 0}};

	reset();
	options.choice = PSGD_CHOICE_SCHEDULE;
	options.ranges = ranges;
	options.n_ranges = 3;
	refused("ranges[2] (epochs 10 to 20) overlaps ranges[0] (epochs 5 to 12)");
	ranges[2].start_epoch = 12;
	ranges[2].end_epoch = 12;
	options.choice = PSGD_CHOICE_SCHEDULE;
	options.ranges = ranges;
	options.n_ranges = 3;
	refused("ranges[2] (epochs 12 to 12) overlaps ranges[0] (epochs 5 to 12)");
	ranges[1].start_epoch = 5;
	options.choice = PSGD_CHOICE_SCHEDULE;
	options.ranges = ranges;
	options.n_ranges = 2;
	refused("ranges[1] ends at epoch 4, before it starts at epoch 5");
	ranges[1].start_epoch = 0;
	ranges[1].reserved = 1;
	options.choice = PSGD_CHOICE_SCHEDULE;
	options.ranges = ranges;
	options.n_ranges = 2;
	refused("ranges[1].reserved is not 0");
	options.choice = PSGD_CHOICE_SCHEDULE;
	options.n_ranges = 2;
	refused("ranges is NULL, but n_ranges is 2");
	options.choice = PSGD_CHOICE_SCHEDULE;
	accepted();
}
END_TEST

START_TEST(replay)
{
	struct psgd_replay_entry entries[] = {{0, 4, 0}, {10, 2, 0}, {10, 1, 0}};

	reset();
	options.choice = PSGD_CHOICE_REPLAY;
	refused("replay has no entries");
	options.choice = PSGD_CHOICE_REPLAY;
	options.replay = entries;
	refused("replay has no entries");
	options.choice = PSGD_CHOICE_REPLAY;
	options.replay = entries;
	options.n_replay = 3;
	refused("replay[2].step is 10, not above replay[1].step, which is 10");
	options.choice = PSGD_CHOICE_REPLAY;
	options.replay = entries + 1;
	options.n_replay = 1;
	refused("replay[0].step is 10; a replay begins at step 0");
	entries[1].reserved = 1;
	options.choice = PSGD_CHOICE_REPLAY;
	options.replay = entries;
	options.n_replay = 2;
	refused("replay[1].reserved is not 0");
}
END_TEST

static void steps(uint64_t force_max, uint64_t stride, uint64_t rank, uint64_t rate)
{
	options.choice = PSGD_CHOICE_EPOCHNORM;
	epochnorm.in_steps = 1;
	epochnorm.force_max = force_max;
	epochnorm.stride = stride;
	epochnorm.rank_cooldown = rank;
	epochnorm.lr_cooldown = rate;
}

START_TEST(epochnorm_windows)
{
	reset();
	steps(0, 1, 1, 1);
	refused("epochnorm.force_max is 0; windows in steps have no default");
	steps(1, 0, 1, 1);
	refused("epochnorm.stride is 0; windows in steps have no default");
	steps(1, 1, 0, 1);
	refused("epochnorm.rank_cooldown is 0; windows in steps have no default");
	steps(1, 1, 1, 0);
	refused("epochnorm.lr_cooldown is 0; windows in steps have no default");
	steps(1, 1, 1, 1);
	accepted();
	steps(0, 1, 0, 0);
	epochnorm.no_force_max = epochnorm.no_rank_cooldown = epochnorm.no_lr_cooldown = 1;
	accepted();
	steps(1, 1, 1, 1);
	epochnorm.no_rank_cooldown = 1;
	refused("epochnorm.rank_cooldown is 1, but epochnorm.no_rank_cooldown is set");
	options.choice = PSGD_CHOICE_EPOCHNORM;
	epochnorm.threshold = -1;
	refused("epochnorm.threshold is -1; it must be finite and above 0");
	options.choice = PSGD_CHOICE_EPOCHNORM;
	epochnorm.threshold = (double)INFINITY;
	refused("epochnorm.threshold is inf; it must be finite and above 0");
	options.choice = PSGD_CHOICE_EPOCHNORM;
	epochnorm.size = 1;
	refused("epochnorm: size is wrong, or a field is set that this library does not know");
	options.choice = PSGD_CHOICE_EPOCHNORM;
	options.epochnorm = NULL;
	accepted();
}
END_TEST

START_TEST(emas)
{
	reset();
	options.choice = PSGD_CHOICE_EMA;
	ema.beta = 1;
	refused("ema.beta is 1; it must be above 0 and below 1");
	options.choice = PSGD_CHOICE_EMA;
	ema.relaxed = 1.2;
	refused("ema.relaxed is 1.2 and ema.critical is 1.2; relaxed must be above 0 and below "
		"critical");
	options.choice = PSGD_CHOICE_EMA;
	ema.critical = (double)INFINITY;
	refused("ema.relaxed is 0.95 and ema.critical is inf; relaxed must be above 0 and below "
		"critical");
	options.choice = PSGD_CHOICE_EMA;
	options.min_rank = 5;
	options.max_rank = 7;
	refused("no candidate is between min_rank and max_rank");
	options.choice = PSGD_CHOICE_EMA;
	options.min_rank = 5;
	options.max_rank = 7;
	ema.base_rank = 6;
	accepted();
	options.choice = PSGD_CHOICE_EMA;
	options.ema = NULL;
	accepted();
}
END_TEST

START_TEST(by_layers)
{
	reset();
	options.choice = PSGD_CHOICE_ACCORDION;
	accordion.threshold = -1;
	refused("accordion.threshold is -1; it must be finite and above 0");
	options.choice = PSGD_CHOICE_ACCORDION;
	accordion.in_steps = 1;
	refused("accordion.stride is 0; windows in steps have no default");
	options.choice = PSGD_CHOICE_ACCORDION;
	options.accordion = NULL;
	accepted();
	options.choice = PSGD_CHOICE_LGRECO;
	lgreco.sample_steps = 101;
	refused("lgreco.sample_steps is 101, above lgreco.adjust_steps, which is 100");
	options.choice = PSGD_CHOICE_LGRECO;
	lgreco.alpha = -0.5;
	refused("lgreco.alpha is -0.5; it must be finite and above 0");
	options.choice = PSGD_CHOICE_LGRECO;
	lgreco.low = 1.5;
	refused("lgreco.low is 1.5 and lgreco.high is 2; low must be above 0 and at most 1, and "
		"high from 1 to 1e6");
	options.choice = PSGD_CHOICE_LGRECO;
	lgreco.high = 0.5;
	refused("lgreco.low is 0.5 and lgreco.high is 0.5; low must be above 0 and at most 1, "
		"and high from 1 to 1e6");
	options.choice = PSGD_CHOICE_LGRECO;
	lgreco.adjust_steps = 3;
	lgreco.high = 1e6;
	options.max_rank = UINT32_MAX - 1;
	accepted();
	options.choice = PSGD_CHOICE_LGRECO;
	options.lgreco = NULL;
	accepted();
}
END_TEST

START_TEST(reserved)
{
	reset();
	options.choice = PSGD_CHOICE_EMA;
	ema.reserved = 1;
	refused("ema.reserved is not 0");
	options.choice = PSGD_CHOICE_ACCORDION;
	accordion.reserved[5] = 1;
	refused("accordion.reserved is not 0");
	options.choice = PSGD_CHOICE_LGRECO;
	lgreco.reserved = 1;
	refused("lgreco.reserved is not 0");
	options.choice = PSGD_CHOICE_EPOCHNORM;
	epochnorm.reserved[3] = 1;
	refused("epochnorm.reserved is not 0");
	options.cap = PSGD_CAP_CALIBRATION;
	calibration.reserved = 1;
	refused("calibration.reserved is not 0");
}
END_TEST

START_TEST(entropies)
{
	reset();
	options.choice = PSGD_CHOICE_ENTROPY;
	entropy.sample_every = 1001;
	refused("entropy.sample_every is 1001, above entropy.window_steps, which is 1000");
	options.choice = PSGD_CHOICE_ENTROPY;
	entropy.slew = 3;
	entropy.round_to = 4;
	refused("entropy.slew is 3, below entropy.round_to, which is 4");
	options.choice = PSGD_CHOICE_ENTROPY;
	entropy.slew = 1;
	accepted();
	options.choice = PSGD_CHOICE_ENTROPY;
	entropy.round_to = 8;
	accepted();
	options.choice = PSGD_CHOICE_ENTROPY;
	options.entropy = NULL;
	accepted();
}
END_TEST

START_TEST(caps)
{
	reset();
	options.cap = PSGD_CAP_LIVE;
	live.max_exposed = 1.5;
	refused("live.max_exposed is 1.5; a share of a step is above 0 and at most 1");
	options.cap = PSGD_CAP_LIVE;
	live.max_exposed = (double)NAN;
	refused("live.max_exposed is nan; a share of a step is above 0 and at most 1");
	options.cap = PSGD_CAP_LIVE;
	live.dwell_steps = UINT64_MAX;
	live.max_exposed = 1;
	accepted();
	options.cap = PSGD_CAP_LIVE;
	options.live = NULL;
	accepted();
	options.cap = PSGD_CAP_CALIBRATION;
	calibration.max_exposed = -0.1;
	refused("calibration.max_exposed is -0.1; a share of a step is above 0 and at most 1");
	options.cap = PSGD_CAP_CALIBRATION;
	options.calibration = NULL;
	accepted();
}
END_TEST

START_TEST(nothing_given)
{
	char error[64] = "old text";
	struct psgd_controller control;
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);

	ck_assert_int_eq(
		psgd_controller_rank_control(NULL, error, sizeof(error), &control), PSGD_OK);
	ck_assert_str_eq(error, "");
	ck_assert_uint_eq(scene_decide(&control, &seen).rank, 32);
	psgd_controller_destroy(&control);
	psgd_controller_destroy(&control);
	ck_assert_int_eq(
		psgd_controller_rank_control(NULL, error, sizeof(error), NULL), PSGD_ERR_INVALID);
	ck_assert_str_eq(error, "out is NULL");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("options");
	TCase *t = tcase_create("options");

	tcase_add_test(t, candidates);
	tcase_add_test(t, bounds);
	tcase_add_test(t, kinds);
	tcase_add_test(t, schedule);
	tcase_add_test(t, replay);
	tcase_add_test(t, epochnorm_windows);
	tcase_add_test(t, emas);
	tcase_add_test(t, by_layers);
	tcase_add_test(t, reserved);
	tcase_add_test(t, entropies);
	tcase_add_test(t, caps);
	tcase_add_test(t, nothing_given);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
