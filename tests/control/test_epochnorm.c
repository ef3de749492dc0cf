/* Epochnorm: which rank is in force in which step, and which rule said so. */
#include "control/control.h"
#include "support/suite.h"

#include "drive.h"

/* The seed's decision table: r = 1 .. 8, now at 4, force_max 20, threshold 0.5. */
START_TEST(table)
{
	const double none = (double)NAN;
	const struct {
		uint64_t now;
		double norm, past;
		bool lr, cool;
		uint32_t want;
		const char *regime;
		double value;
	} cases[] = {
		{0, 1, 1, false, false, 8, "force_max", none},
		{19, 1, 1, false, true, 8, "force_max", none},
		{20, 1, 1, false, false, 1, "not_critical", 0},
		{50, 1, 1, true, false, 8, "force_max", none},
		{50, 1, 1, true, true, 8, "force_max", none},
		{50, 9, 1, false, true, 4, "rank_cooldown", none},
		{50, 1.5, 1, false, false, 8, "critical", 0.5},
		{50, 0.5, 1, false, false, 8, "critical", 0.5},
		{50, 1.4375, 1, false, false, 1, "not_critical", 0.4375},
		{50, 0.75, 1, false, false, 1, "not_critical", 0.25},
		{50, 30, 10, false, false, 8, "critical", 2},
		{50, 0, 10, false, false, 8, "critical", 1},
		{50, 1, none, false, false, 4, "insufficient_history", none},
		{50, 1, 0, false, false, 4, "insufficient_history", none},
		{50, none, 1, false, false, 4, "insufficient_history", none},
		{50, (double)INFINITY, 1, false, false, 4, "insufficient_history", none},
		{50, 1, (double)INFINITY, false, false, 4, "insufficient_history", none},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct psgd__epochnorm_facts facts = {.now = cases[i].now,
			.force_max = 20,
			.norm = cases[i].norm,
			.past = cases[i].past,
			.threshold = 0.5,
			.current = 4,
			.min = 1,
			.max = 8,
			.in_lr_cooldown = cases[i].lr,
			.in_rank_cooldown = cases[i].cool};
		struct psgd__choice_verdict v;

		psgd__epochnorm_decide(&facts, &v);
		ck_assert_msg(v.rank == cases[i].want, "case %zu: r=%u", i, v.rank);
		ck_assert_str_eq(v.regime, cases[i].regime);
		ck_assert_int_eq(isnan(v.value), isnan(cases[i].value));
		if (!isnan(v.value)) {
			ck_assert_double_eq(v.value, cases[i].value);
			ck_assert_double_eq(v.threshold, 0.5);
		}
	}
}
END_TEST

static struct psgd_epochnorm_options epochnorm_options;

static struct psgd_rank_control_options epochnorm(void)
{
	struct psgd_rank_control_options options = choose(PSGD_CHOICE_EPOCHNORM);

	epochnorm_options = PSGD_INIT(psgd_epochnorm_options);
	options.epochnorm = &epochnorm_options;
	options.max_rank = 8;
	return options;
}

static struct run *run_epochnorm(const struct psgd_rank_control_options *options,
	uint64_t per_epoch, uint64_t steps, double (*norm)(uint64_t, uint64_t),
	double (*rate)(uint64_t, uint64_t))
{
	static struct run run;
	struct psgd_controller control = scene_control(options);

	run = (struct run){
		.steps_per_epoch = per_epoch, .n_steps = steps, .norm = norm, .rate = rate};
	drive(&control, &run);
	psgd_controller_destroy(&control);
	return &run;
}

static void expect(
	const struct run *run, uint64_t unit, uint64_t per_unit, uint32_t rank, const char *regime)
{
	uint64_t first = unit * per_unit;

	for (uint64_t i = 0; i < per_unit && first + i <= run->n_steps; i++)
		ck_assert_msg(run->rank[first + i] == rank, "unit %llu: r=%u, not %u",
			(unsigned long long)unit, run->rank[first + i], rank);
	if (regime) {
		ck_assert_msg(run->regime[first] && !strcmp(run->regime[first], regime),
			"unit %llu: %s, not %s", (unsigned long long)unit,
			run->regime[first] ? run->regime[first] : "none", regime);
	}
}

static double constant_norm(uint64_t step, uint64_t epoch)
{
	(void)step, (void)epoch;
	return 7.0;
}

/* It jumps at epoch 60, and goes on there. */
static double jump_norm(uint64_t step, uint64_t epoch)
{
	(void)step;
	return epoch < 60 ? 7.0 : 11.0;
}

/*
 * The defaults: windows end with epochs 0, 10, 20 ..., and epochs 0 to 19 are at max. The change
 * for epoch 21 is followed by a held decision, and the jump at 60 is then seen.
 */
START_TEST(by_epochs)
{
	struct psgd_rank_control_options options = epochnorm();

	for (uint64_t per_epoch = 1; per_epoch <= 5; per_epoch += 2) {
		struct run *run =
			run_epochnorm(&options, per_epoch, 100 * per_epoch, jump_norm, NULL);

		ck_assert_uint_eq(run->decisions, 100);
		ck_assert_uint_eq(run->norms, 10);
		ck_assert_uint_eq(run->resets, 100);
		for (uint64_t epoch = 0; epoch <= 20; epoch++)
			expect(run, epoch, per_epoch, 8, "force_max");
		expect(run, 21, per_epoch, 1, "not_critical");
		for (uint64_t epoch = 21; epoch <= 60; epoch++)
			expect(run, epoch, per_epoch, 1, NULL);
		expect(run, 31, per_epoch, 1, "rank_cooldown");
		expect(run, 41, per_epoch, 1, "not_critical");
		expect(run, 61, per_epoch, 8, "critical");
		ck_assert_double_eq_tol(run->value[61 * per_epoch], 4.0 / 7.0, 1e-12);
		for (uint64_t epoch = 61; epoch <= 80; epoch++)
			expect(run, epoch, per_epoch, 8, NULL);
		expect(run, 71, per_epoch, 8, "rank_cooldown");
		expect(run, 81, per_epoch, 1, "not_critical");
	}
}
END_TEST

/* Without the cooldown the jump is forgotten one window earlier. */
START_TEST(no_cooldown)
{
	struct psgd_rank_control_options options = epochnorm();
	struct run *run;

	epochnorm_options.no_rank_cooldown = 1;
	run = run_epochnorm(&options, 2, 200, jump_norm, NULL);
	expect(run, 31, 2, 1, "not_critical");
	expect(run, 61, 2, 8, "critical");
	expect(run, 71, 2, 1, "not_critical");
}
END_TEST

/* force_max is exact: with a window in every epoch, epoch 3 is the first that may be lower. */
START_TEST(force_max_is_exact)
{
	struct psgd_rank_control_options options = epochnorm();
	struct run *run;

	epochnorm_options.stride = 1;
	epochnorm_options.force_max = 3;
	run = run_epochnorm(&options, 4, 40, constant_norm, NULL);
	for (uint64_t epoch = 0; epoch < 3; epoch++)
		expect(run, epoch, 4, 8, "force_max");
	expect(run, 3, 4, 1, "not_critical");
	epochnorm_options.force_max = 0;
	epochnorm_options.no_force_max = 1;
	run = run_epochnorm(&options, 4, 40, constant_norm, NULL);
	expect(run, 0, 4, 8, "insufficient_history");
	expect(run, 1, 4, 8, "insufficient_history");
	expect(run, 2, 4, 1, "not_critical");
}
END_TEST

static double step_rate(uint64_t step, uint64_t epoch)
{
	(void)step;
	return epoch < 5    ? 0.02 * (double)(epoch + 1)
	       : epoch < 43 ? 0.1
	       : epoch < 86 ? 0.01
			    : 0.001;
}

/*
 * Warm-up is no drop. The drop of epoch 43 is seen at its end: 20 epochs at max, from 44 to 63,
 * and from there to the next decision, which is for epoch 71.
 */
START_TEST(rate_drops)
{
	struct psgd_rank_control_options options = epochnorm();
	struct run *run = run_epochnorm(&options, 3, 390, constant_norm, step_rate);

	expect(run, 41, 3, 1, "not_critical");
	expect(run, 43, 3, 1, NULL);
	for (uint64_t epoch = 44; epoch <= 70; epoch++)
		expect(run, epoch, 3, 8, "force_max");
	expect(run, 71, 3, 1, "not_critical");
	expect(run, 86, 3, 1, NULL);
	expect(run, 87, 3, 8, "force_max");
	expect(run, 106, 3, 8, "force_max");
	expect(run, 111, 3, 1, "not_critical");
	epochnorm_options.no_lr_cooldown = 1;
	run = run_epochnorm(&options, 3, 300, constant_norm, step_rate);
	for (uint64_t epoch = 21; epoch < 100; epoch++)
		expect(run, epoch, 3, 1, NULL);
}
END_TEST

static double cosine_epochs;

static double cosine_by_epoch(uint64_t step, uint64_t epoch)
{
	(void)step;
	return 0.5 * (1 + cos(3.14159265358979 * (double)epoch / cosine_epochs));
}

static double cosine_by_step(uint64_t step, uint64_t epoch)
{
	(void)epoch;
	return 0.5 * (1 + cos(3.14159265358979 * (double)step / (cosine_epochs * 20)));
}

static double exponential(uint64_t step, uint64_t epoch)
{
	(void)step;
	return pow(0.7, (double)(epoch < 1 ? 0 : epoch - 1));
}

/* A smooth decay is no drop, however steep its end is; by epochs and by steps. */
START_TEST(smooth_decay)
{
	for (int steps = 0; steps < 2; steps++) {
		struct psgd_rank_control_options options = epochnorm();

		epochnorm_options.in_steps = (uint8_t)steps;
		epochnorm_options.force_max = 1;
		epochnorm_options.stride = 1;
		epochnorm_options.rank_cooldown = 1;
		epochnorm_options.lr_cooldown = 1000;
		for (cosine_epochs = 6; cosine_epochs <= 100; cosine_epochs += 1) {
			struct run *run;
			uint64_t n = (uint64_t)cosine_epochs * 20;

			run = run_epochnorm(&options, 20, n, constant_norm, cosine_by_epoch);
			ck_assert_uint_eq(run->rank[n - 1], 1);
			run = run_epochnorm(&options, 20, n, constant_norm, cosine_by_step);
			ck_assert_uint_eq(run->rank[n - 1], 1);
		}
		/* All but its beginning, which is sudden indeed. */
		epochnorm_options.lr_cooldown = 3;
		ck_assert_uint_eq(
			run_epochnorm(&options, 20, 400, constant_norm, exponential)->rank[400], 1);
	}
}
END_TEST

static double jump_by_step(uint64_t step, uint64_t epoch)
{
	(void)epoch;
	return step < 300 ? 7.0 : 11.0;
}

static double drop_by_step(uint64_t step, uint64_t epoch)
{
	(void)epoch;
	return step < 437 ? 0.1 : 0.01;
}

/* Windows of 50 steps; the rate is watched in every step. */
START_TEST(by_steps)
{
	struct psgd_rank_control_options options = epochnorm();
	struct run *run;

	epochnorm_options.in_steps = 1;
	epochnorm_options.force_max = 100;
	epochnorm_options.stride = 50;
	epochnorm_options.rank_cooldown = 40;
	epochnorm_options.lr_cooldown = 60;
	run = run_epochnorm(&options, 33, 700, jump_by_step, drop_by_step);
	ck_assert_uint_eq(run->decisions, 700);
	ck_assert_uint_eq(run->norms, 14);
	ck_assert_uint_eq(run->resets, 14);
	for (uint64_t i = 0; i < 100; i++)
		expect(run, i, 1, 8, "force_max");
	expect(run, 100, 1, 1, "not_critical");
	for (uint64_t i = 100; i < 350; i++)
		expect(run, i, 1, 1, NULL);
	expect(run, 350, 1, 8, "critical");
	expect(run, 399, 1, 8, NULL);
	expect(run, 400, 1, 1, "not_critical");
	expect(run, 437, 1, 1, NULL);
	/* Seen after step 437, so from 438 on for 60 steps, and to the end of the window. */
	for (uint64_t i = 438; i < 500; i++)
		expect(run, i, 1, 8, "force_max");
	expect(run, 500, 1, 1, "not_critical");
	epochnorm_options.lr_cooldown = 63;
	run = run_epochnorm(&options, 33, 700, jump_by_step, drop_by_step);
	expect(run, 500, 1, 8, "force_max");
	expect(run, 550, 1, 1, "not_critical");
	/* Nothing has to be watched between the windows. */
	epochnorm_options.lr_cooldown = 0;
	epochnorm_options.no_lr_cooldown = 1;
	ck_assert_uint_eq(
		run_epochnorm(&options, 33, 700, jump_by_step, drop_by_step)->decisions, 14);
}
END_TEST

static double no_rate(uint64_t step, uint64_t epoch)
{
	(void)epoch;
	return step % 3 == 0 ? 0.1 : step % 3 == 1 ? 0.0 : (double)NAN;
}

/* A rate that is not given, or 0, says nothing. */
START_TEST(rate_not_given)
{
	struct psgd_rank_control_options options = epochnorm();
	struct run *run;

	epochnorm_options.in_steps = 1;
	epochnorm_options.force_max = epochnorm_options.rank_cooldown = 1;
	epochnorm_options.stride = 5;
	epochnorm_options.lr_cooldown = 1000;
	run = run_epochnorm(&options, 10, 200, constant_norm, no_rate);
	expect(run, 200, 1, 1, NULL);
}
END_TEST

/* A bad norm is no history, for its own decision and for the next. */
static double hole_norm(uint64_t step, uint64_t epoch)
{
	(void)step;
	return epoch == 40 ? (double)NAN : 7.0;
}

START_TEST(history_with_hole)
{
	struct psgd_rank_control_options options = epochnorm();
	struct run *run = run_epochnorm(&options, 2, 160, hole_norm, NULL);

	expect(run, 31, 2, 1, "rank_cooldown");
	expect(run, 41, 2, 1, "insufficient_history");
	expect(run, 51, 2, 1, "insufficient_history");
	expect(run, 61, 2, 1, "not_critical");
}
END_TEST

/* A sum over fewer steps, as after a resume, is compared per step. */
START_TEST(per_gradient)
{
	struct psgd_rank_control_options options = epochnorm();
	struct psgd_controller control;
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d;

	epochnorm_options.stride = 1;
	epochnorm_options.no_force_max = 1;
	control = scene_control(&options);
	scene_decide(&control, &seen);
	seen.first = 0;
	seen.epoch_end = 1;
	seen.step = 9;
	seen.grad_sum_norm = 100;
	seen.grad_sum_steps = 10;
	scene_decide(&control, &seen);
	seen.step = 13;
	seen.epoch = 1;
	seen.grad_sum_norm = 40;
	seen.grad_sum_steps = 4;
	d = scene_decide(&control, &seen);
	ck_assert_str_eq(d.regime, "not_critical");
	ck_assert_double_eq(d.value, 0);
	psgd_controller_destroy(&control);
}
END_TEST

/* Under a cap: max is what the cap allows, min stays min; the cap's rule is named where it binds.
 */
START_TEST(under_live_cap)
{
	struct psgd_rank_control_options options = epochnorm();
	struct psgd_controller control;
	struct scene s = scene_new(4);
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d;
	bool held = false, low = false;

	epochnorm_options.in_steps = 1;
	epochnorm_options.force_max = 100;
	epochnorm_options.stride = 50;
	epochnorm_options.rank_cooldown = 10;
	epochnorm_options.lr_cooldown = 10;
	options.cap = PSGD_CAP_LIVE;
	options.max_rank = 16;
	control = scene_control(&options);
	scene_link(&s, 10, 1e5);
	d = scene_decide(&control, &seen);
	s.rank = d.rank;
	for (uint64_t i = 0; i < 400; i++) {
		seen = scene_observe(&s, i, ranks);
		seen.epoch = i / 100;
		seen.grad_sum_steps = 50;
		if (control.ops->needs(control.self, i, seen.epoch, false) & PSGD_NEED_GRAD_NORM)
			seen.grad_sum_norm = i < 280 ? 5 : 50;
		d = scene_decide(&control, &seen);
		ck_assert_uint_eq(d.rank, d.cap < d.choice ? d.cap : d.choice);
		ck_assert_uint_eq(d.choice, i + 1 >= 100 && i + 1 < 300 ? 1
					    : i + 1 >= 350		? 1
									: 16);
		if (d.rank != s.rank && d.choice == 1)
			ck_assert_str_eq(d.regime, "not_critical");
		if (i == 299)
			ck_assert_str_eq(d.regime, "critical");
		held |= !strcmp(d.regime, "link_hold");
		low |= d.rank == 1;
		s.rank = d.rank;
	}
	ck_assert(held && low);
	psgd_controller_destroy(&control);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("epochnorm");
	TCase *t = tcase_create("epochnorm");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, table);
	tcase_add_test(t, by_epochs);
	tcase_add_test(t, no_cooldown);
	tcase_add_test(t, force_max_is_exact);
	tcase_add_test(t, rate_drops);
	tcase_add_test(t, smooth_decay);
	tcase_add_test(t, by_steps);
	tcase_add_test(t, rate_not_given);
	tcase_add_test(t, history_with_hole);
	tcase_add_test(t, per_gradient);
	tcase_add_test(t, under_live_cap);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
