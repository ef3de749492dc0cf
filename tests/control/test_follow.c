/*
 * The live cap on a link that changes, under steady noise of 10 %: at the right candidate soon, and
 * still there long after. And what a prior of the link is worth.
 */
#include "control/control.h"
#include "support/suite.h"

#include "scene.h"

static const uint32_t candidates[] = {1, 2, 4, 8, 16, 32, PSGD_RANK_DENSE};
#define N_CANDIDATES 7
#define LIMIT 0.30
#define DWELL 50 /* the default */

static struct psgd_controller live(double prior_delay_ns, double prior_ns_per_byte)
{
	struct psgd_live_options options = PSGD_INIT(psgd_live_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);

	options.prior_delay_ns = prior_delay_ns;
	options.prior_ns_per_byte = prior_ns_per_byte;
	control.cap = PSGD_CAP_LIVE;
	control.candidates = candidates;
	control.n_candidates = N_CANDIDATES;
	control.live = &options;
	return scene_control(&control);
}

static struct scene noisy_scene(uint64_t seed)
{
	struct scene s = scene_new(seed);

	s.noise = 0.10;
	s.codec_base = 0.5;
	s.codec_slope = 0.05;
	s.compute_ns = (int64_t)(5e7 * pow(20.0, scene_random(&s)));
	s.n_buckets = 2 + (size_t)(scene_random(&s) * 7);
	return s;
}

static size_t index_of(uint32_t cap)
{
	size_t i = 0;

	while (candidates[i] != cap)
		ck_assert_uint_lt(++i, N_CANDIDATES);
	return i;
}

static struct psgd_decision begin(struct psgd_controller *control, struct scene *s)
{
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d = scene_decide(control, &seen);

	s->rank = d.rank;
	return d;
}

/* One step at the rank in force, and the decision after it; the one before, if none is asked for.
 */
static struct psgd_decision step(struct psgd_controller *control, struct scene *s, uint64_t number)
{
	uint32_t ranks[1];
	struct psgd_observation seen = scene_observe(s, number, ranks);
	static struct psgd_decision decision;

	if (control->ops->needs(control->self, number, 0, false) & PSGD_NEED_DECISION)
		decision = scene_decide(control, &seen);
	s->rank = decision.rank;
	return decision;
}

/* It fits, and no larger one is clear of the limit; 5 % is the estimate's. */
static void expect_right(const struct scene *s, size_t at)
{
	ck_assert_msg(!at || scene_share(s, candidates[at]) <= 1.05 * LIMIT,
		"candidate %zu: %g of a step", at, scene_share(s, candidates[at]));
	for (size_t above = at + 1; above < N_CANDIDATES; above++)
		ck_assert_msg(scene_share(s, candidates[above]) > 0.95 * 0.85 * LIMIT,
			"candidate %zu, not %zu: %g of a step", at, above,
			scene_share(s, candidates[above]));
}

/* Steps from `from`; moves in the direction `up` and the other way. */
struct moves {
	uint32_t there, back;
	size_t at;
	uint64_t last; /* the step of the last one */
};

static struct moves go(struct psgd_controller *control, struct scene *s, uint64_t from,
	uint64_t steps, size_t at, bool up)
{
	struct moves m = {.at = at};

	for (uint64_t i = from; i < from + steps; i++) {
		size_t to = index_of(step(control, s, i).cap);

		if (to == m.at)
			continue;
		*((to > m.at) == up ? &m.there : &m.back) += 1;
		m.last = i - from;
		m.at = to;
	}
	return m;
}

/* 200 -> 20 -> 200 Mbit/s: down within 50 steps, for 300 more no way back; so the other way. */
START_TEST(down_and_up)
{
	struct psgd_controller control = live(0, 0);
	struct scene s = noisy_scene((uint64_t)_i + 1);
	struct moves m;
	size_t low;

	s.outliers = _i % 2 ? 0.03 : 0;
	scene_link(&s, 200, 2e5);
	begin(&control, &s);
	m = go(&control, &s, 0, 6 * DWELL, 2, true);
	ck_assert_uint_eq(m.back, 0);
	expect_right(&s, m.at);

	scene_link(&s, 20, 2e5);
	m = go(&control, &s, 300, 50, m.at, false);
	ck_assert_uint_eq(m.back, 0);
	expect_right(&s, m.at);
	m = go(&control, &s, 350, 300, m.at, false);
	ck_assert_uint_eq(m.back, 0);
	ck_assert_uint_le(m.there, 1);
	expect_right(&s, m.at);
	low = m.at;

	/* Up goes one fitting candidate in a dwell. */
	scene_link(&s, 200, 2e5);
	m = go(&control, &s, 650, 650, low, true);
	ck_assert_uint_eq(m.back, 0);
	ck_assert_uint_le(m.there, N_CANDIDATES - 1 - low);
	expect_right(&s, m.at);
	psgd_controller_destroy(&control);
}
END_TEST

/* A true prior: right as soon as the trainer is known, where it would climb for hundreds of steps.
 */
START_TEST(true_prior)
{
	struct scene s = noisy_scene((uint64_t)_i + 1);
	struct psgd_controller control;
	struct psgd_decision d;
	struct moves m;

	scene_link(&s, _i % 2 ? 200 : 20, 2e5);
	control = live(s.delay_ns, s.ns_per_byte);
	d = begin(&control, &s);
	/* It is said from the start. */
	ck_assert_double_eq(d.link_delay_ns, s.delay_ns);
	ck_assert_double_eq(d.link_ns_per_byte, s.ns_per_byte);
	for (uint64_t i = 0; i < 3; i++)
		d = step(&control, &s, i);
	ck_assert_str_eq(d.regime, "link_prior");
	ck_assert_double_eq_tol(d.link_ns_per_byte / s.ns_per_byte, 1, 1e-9);
	m = go(&control, &s, 3, 300, index_of(d.cap), true);
	expect_right(&s, m.at);
	/* Three steps of a noisy trainer: one candidate beside it at most, and on the low side. */
	ck_assert_uint_le(m.there + m.back, 1);
	psgd_controller_destroy(&control);
}
END_TEST

/* A prior that is wrong by ten times, in one way or the other: it is soon right all the same. */
START_TEST(wrong_prior)
{
	struct scene s = noisy_scene((uint64_t)_i + 1);
	const double wrong = _i % 2 ? 10 : 0.1;
	struct psgd_controller control;
	struct psgd_decision d = {0};
	struct moves m;

	scene_link(&s, 60, 2e5);
	control = live(s.delay_ns * wrong, s.ns_per_byte * wrong);
	begin(&control, &s);
	for (uint64_t i = 0; i < 20; i++)
		d = step(&control, &s, i);
	ck_assert_double_eq_tol(d.link_ns_per_byte / s.ns_per_byte, 1, 0.15);
	m = go(&control, &s, 20, 330, index_of(d.cap), true);
	expect_right(&s, m.at);
	psgd_controller_destroy(&control);
}
END_TEST

static void add(struct psgd__link_fit *fit, struct scene *s, const double *sizes, size_t n,
	double delay, double rate)
{
	struct psgd_message_time messages[4];

	for (size_t i = 0; i < n; i++)
		messages[i] = (struct psgd_message_time){.bytes = (uint64_t)sizes[i],
			.ns = scene_jitter(s, delay + rate * sizes[i])};
	psgd__link_fit_add(fit, messages, n);
}

/*
 * A link gets slower while only large messages travel, which say nothing of the delay: it is taken
 * to be as before, so that small messages are not thought to be as slow as the noise of large ones.
 */
START_TEST(delay_is_kept)
{
	static const double small[] = {2000, 4000, 8000, 300000}, large[] = {2e6, 1e6};
	struct scene s = scene_new((uint64_t)_i + 1);
	struct psgd__link_fit fit = {0};

	s.noise = 0.10;
	for (int i = 0; i < 30; i++)
		add(&fit, &s, small, 4, 4e5, 40);
	for (int i = 0; i < 30; i++)
		add(&fit, &s, large, 2, 4e5, 40);
	for (int i = 0; i < 5; i++)
		add(&fit, &s, large, 2, 4e5, 400);
	ck_assert_double_eq_tol(fit.ns_per_byte / 400, 1, 0.15);
	ck_assert_double_lt(fit.delay_ns, 1e6);
	/* When small ones come, and with them another delay, it is theirs. */
	for (int i = 0; i < 20; i++)
		add(&fit, &s, small, 4, 2e7, 400);
	ck_assert_double_eq_tol(fit.delay_ns / 2e7, 1, 0.15);
}
END_TEST

START_TEST(bad_priors)
{
	struct psgd_live_options options = PSGD_INIT(psgd_live_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	struct psgd_controller out;
	char error[128];

	control.cap = PSGD_CAP_LIVE;
	control.live = &options;
	options.prior_delay_ns = -1;
	ck_assert_int_eq(psgd_controller_rank_control(&control, error, sizeof(error), &out),
		PSGD_ERR_INVALID);
	ck_assert_str_eq(error, "live.prior_delay_ns is -1; it must be at least 0");
	options.prior_delay_ns = 0;
	options.prior_ns_per_byte = (double)NAN;
	ck_assert_int_eq(psgd_controller_rank_control(&control, error, sizeof(error), &out),
		PSGD_ERR_INVALID);
	ck_assert_str_eq(error, "live.prior_ns_per_byte is nan; it must be at least 0");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("follow");
	TCase *t = tcase_create("follow");

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, down_and_up, 0, 20);
	tcase_add_loop_test(t, true_prior, 0, 20);
	tcase_add_loop_test(t, wrong_prior, 0, 20);
	tcase_add_loop_test(t, delay_is_kept, 0, 20);
	tcase_add_test(t, bad_priors);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
