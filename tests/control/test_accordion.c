/* Accordion: each layer by the change of its own gradient; all high after a drop of the rate. */
#include "support/suite.h"

#include "layers.h"

static struct psgd_accordion_options accordion_options;

static struct psgd_rank_control_options accordion(void)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);

	accordion_options = PSGD_INIT(psgd_accordion_options);
	options.choice = PSGD_CHOICE_ACCORDION;
	options.accordion = &accordion_options;
	options.min_rank = 2;
	options.max_rank = 8;
	return options;
}

static struct layers *run_layers(const struct psgd_rank_control_options *options,
	uint64_t per_epoch, uint64_t steps, double (*norm)(size_t, uint64_t, uint64_t),
	double (*rate)(uint64_t, uint64_t))
{
	static struct layers l;
	struct psgd_controller control = scene_control(options);

	l = layers_new(per_epoch, steps);
	l.norm = norm;
	l.rate = rate;
	layers_drive(&control, &l);
	psgd_controller_destroy(&control);
	return &l;
}

/* By windows: layer 0 stays, 1 doubles each time, 2 is halved, 3 comes from zero. */
static double by_window(size_t layer, uint64_t window)
{
	const double n = (double)window;

	switch (layer) {
	case 0:
		return 3 + 0.49 * (double)(window % 2);
	case 1:
		return exp2(n);
	case 2:
		return exp2(-n);
	case 3:
		return window < 2 ? 0 : 1;
	default:
		return exp2(10 * n); /* no matrix: it must not matter */
	}
}

static double by_epoch(size_t layer, uint64_t step, uint64_t epoch)
{
	(void)step;
	return by_window(layer, epoch / 3);
}

static double by_step(size_t layer, uint64_t step, uint64_t epoch)
{
	(void)epoch;
	return by_window(layer, step / 10);
}

/*
 * What is in force from the end of each window on: the first is high; then layers 1 and 2 are (half
 * is as much as 0.5), layer 0 is not, and layer 3 is while it comes from nothing.
 */
static void expect_window(const struct layers *l, uint64_t window, uint64_t first)
{
	static const uint32_t want[4][4] = {{8, 8, 8, 8}, {2, 8, 8, 8}, {2, 8, 8, 8}, {2, 8, 8, 2}};
	const uint32_t *ranks = l->rank[first];

	for (size_t i = 0; i < 4; i++)
		ck_assert_msg(ranks[i] == want[window][i], "window %llu, layer %zu: r=%u",
			(unsigned long long)window, i, ranks[i]);
	ck_assert_str_eq(l->decision[first].regime, window ? "critical" : "insufficient_history");
}

/* Windows end with epochs 0, 3, 6 and 9. */
START_TEST(by_epochs)
{
	struct psgd_rank_control_options options = accordion();

	accordion_options.stride = 3;
	for (uint64_t per = 1; per <= 7; per += 3) {
		struct layers *l = run_layers(&options, per, 12 * per, by_epoch, NULL);

		for (uint64_t window = 0; window < 4; window++)
			expect_window(l, window, (3 * window + 1) * per);
		for (size_t i = 0; i < LAYERS; i++) {
			ck_assert_uint_eq(l->rank[4 * per - 1][i], 8);
			ck_assert_uint_eq(l->rank[10 * per][i], l->rank[12 * per][i]);
		}
		ck_assert_uint_eq(l->sums, 12 * per);
		ck_assert_uint_eq(l->norms, 4);
		ck_assert_uint_eq(l->resets, 12);
	}
}
END_TEST

START_TEST(by_steps)
{
	struct psgd_rank_control_options options = accordion();
	struct layers *l;

	accordion_options.stride = 10;
	accordion_options.in_steps = 1;
	l = run_layers(&options, 7, 45, by_step, NULL);
	for (uint64_t window = 0; window < 4; window++)
		expect_window(l, window, 10 * (window + 1));
	ck_assert_uint_eq(l->resets, 4);
	ck_assert_uint_eq(l->norms, 4);
	ck_assert_double_eq(l->decision[20].threshold, 0.5);
	/* The largest change of a matrix. */
	ck_assert_double_eq(l->decision[20].value, 9.0 * 0 + 9.0);
	ck_assert_double_eq_tol(l->decision[40].value, 1.0, 1e-12);
	/* Another threshold: only doubling is critical. */
	accordion_options.threshold = 0.75;
	l = run_layers(&options, 7, 45, by_step, NULL);
	ck_assert_uint_eq(l->rank[40][0], 2);
	ck_assert_uint_eq(l->rank[40][1], 8);
	ck_assert_uint_eq(l->rank[40][2], 2);
	ck_assert_uint_eq(l->rank[40][3], 2);
}
END_TEST

static double steady(size_t layer, uint64_t step, uint64_t epoch)
{
	(void)layer, (void)step, (void)epoch;
	return 5;
}

static uint64_t drop_epoch;

static double dropping(uint64_t step, uint64_t epoch)
{
	(void)step;
	return epoch < drop_epoch ? 0.1 : 0.01;
}

/*
 * A drop is seen after the first step of its epoch, and all layers are high from the next step on,
 * to the end of the window that comes after: a multiple of the stride above the epoch of the drop.
 */
START_TEST(rate_drops)
{
	struct psgd_rank_control_options options = accordion();
	const uint64_t per = 4;

	accordion_options.stride = 5;
	for (drop_epoch = 12; drop_epoch <= 15; drop_epoch++) {
		struct layers *l = run_layers(&options, per, 25 * per, steady, dropping);
		uint64_t until = drop_epoch < 15 ? 16 : 21;

		for (uint64_t i = 0; i <= 25 * per; i++) {
			bool high = i < 6 * per || (i > drop_epoch * per && i < until * per);

			for (size_t k = 0; k < 4; k++)
				ck_assert_msg(l->rank[i][k] == (high ? 8 : 2),
					"drop %llu, step %llu: r=%u",
					(unsigned long long)drop_epoch, (unsigned long long)i,
					l->rank[i][k]);
		}
		ck_assert_str_eq(l->decision[drop_epoch * per + 1].regime, "lr_drop");
		ck_assert_str_eq(l->decision[until * per].regime, "not_critical");
	}
	accordion_options.no_lr_drop = 1;
	drop_epoch = 12;
	{
		struct layers *l = run_layers(&options, per, 25 * per, steady, dropping);

		for (uint64_t i = 6 * per; i <= 25 * per; i++)
			ck_assert_uint_eq(l->rank[i][0], 2);
		/* Nothing has to be watched but the ends of epochs, where the next sum begins. */
		ck_assert_uint_eq(l->needs[0], PSGD_NEED_LOCAL_SUM);
	}
}
END_TEST

/* A norm that is no number holds its layer, then and once more; the others go on. */
static double with_hole(size_t layer, uint64_t step, uint64_t epoch)
{
	(void)epoch;
	return layer == 1 && step / 10 == 2 ? (double)NAN : by_window(layer, step / 10);
}

START_TEST(holes)
{
	struct psgd_rank_control_options options = accordion();
	struct layers *l;

	accordion_options.stride = 10;
	accordion_options.in_steps = 1;
	accordion_options.threshold = 1.5;
	l = run_layers(&options, 7, 60, by_step, NULL);
	ck_assert_uint_eq(l->rank[20][1], 2);
	accordion_options.threshold = 0.5;
	l = run_layers(&options, 7, 60, with_hole, NULL);
	ck_assert_uint_eq(l->rank[20][1], 8);
	ck_assert_uint_eq(l->rank[30][1], 8);
	ck_assert_uint_eq(l->rank[40][1], 8);
	ck_assert_uint_eq(l->rank[40][3], 2);
}
END_TEST

/* Under a cap each layer is cut by itself; dense may be the maximum. */
START_TEST(under_a_cap)
{
	static const uint32_t candidates[] = {2, 4, PSGD_RANK_DENSE};
	static const struct psgd_calibration_row rows[] = {
		{.rank = 2, .step_ns = 10, .exposed_ns = 1},
		{.rank = 4, .step_ns = 10, .exposed_ns = 1},
		{.rank = 0, .step_ns = 10, .exposed_ns = 9}};
	struct psgd_rank_control_options options = accordion();
	struct psgd_controller control;
	struct layers l = layers_new(7, 45);

	accordion_options.stride = 10;
	accordion_options.in_steps = 1;
	options.cap = PSGD_CAP_CALIBRATION;
	options.candidates = candidates;
	options.n_candidates = 3;
	options.max_rank = PSGD_RANK_DENSE;
	l.norm = by_step;
	control = scene_control(&options);
	ck_assert_int_eq(psgd_controller_calibrate(&control, rows, 3), PSGD_OK);
	layers_drive(&control, &l);
	ck_assert_uint_eq(l.rank[40][0], 2);
	ck_assert_uint_eq(l.rank[40][1], 4);
	ck_assert_uint_eq(l.decision[40].cap, 4);
	ck_assert_uint_eq(l.decision[40].choice, PSGD_RANK_DENSE);
	psgd_controller_destroy(&control);
	options.cap = PSGD_CAP_NONE;
	control = scene_control(&options);
	l = layers_new(7, 45);
	l.norm = by_step;
	layers_drive(&control, &l);
	ck_assert_uint_eq(l.rank[40][0], 2);
	ck_assert_uint_eq(l.rank[40][1], 0);
	ck_assert_uint_eq(l.decision[40].rank, 0);
	psgd_controller_destroy(&control);
}
END_TEST

/* Other tensors than at first are refused; so is an observation without any. */
START_TEST(other_tensors)
{
	struct psgd_rank_control_options options = accordion();
	struct psgd_controller control = scene_control(&options);
	struct layers l = layers_new(7, 45);
	struct psgd_decision d = PSGD_INIT(psgd_decision);
	double norms[LAYERS];
	uint32_t ranks[LAYERS], in_force[LAYERS];
	struct psgd_observation seen = layers_observe(&l, 0, 0, false, 0, norms, in_force);

	ck_assert_int_eq(control.ops->decide(control.self, &seen, ranks, &d), PSGD_OK);
	seen.n_tensors = LAYERS - 1;
	ck_assert_int_eq(control.ops->decide(control.self, &seen, ranks, &d), PSGD_ERR_MISMATCH);
	seen.tensors = NULL;
	ck_assert_int_eq(control.ops->decide(control.self, &seen, ranks, &d), PSGD_ERR_INVALID);
	psgd_controller_destroy(&control);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("accordion");
	TCase *t = tcase_create("accordion");

	tcase_add_test(t, by_epochs);
	tcase_add_test(t, by_steps);
	tcase_add_test(t, rate_drops);
	tcase_add_test(t, holes);
	tcase_add_test(t, under_a_cap);
	tcase_add_test(t, other_tensors);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
