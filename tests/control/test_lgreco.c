/* L-GreCo: the knapsack against brute force, and which gradients it looks at when. */
#include "control/control.h"
#include "support/suite.h"

#include "layers.h"

#define MATRICES 5
#define RANKS 6

struct problem {
	struct psgd__share share[MATRICES];
	double error[MATRICES][RANKS];
	size_t n;
	double budget;
};

/* whole: errors are whole 10ths to 100ths of the budget, so that no rounding is in the way. */
static struct problem problem_new(struct scene *random, bool whole)
{
	struct problem p = {.n = 1 + (size_t)(scene_random(random) * MATRICES)};
	static const double budgets[] = {10, 20, 50, 100};
	double sum = 0;

	for (size_t i = 0; i < p.n; i++) {
		struct psgd__share *share = &p.share[i];
		double left = 0.2 + scene_random(random);

		share->low = 1 + (uint32_t)(scene_random(random) * 3);
		share->high = share->low + (uint32_t)(scene_random(random) * RANKS);
		share->start = share->low +
			       (uint32_t)(scene_random(random) * (share->high - share->low + 1));
		share->weight = 1 + (uint64_t)(scene_random(random) * 5000);
		for (size_t k = 0; k < RANKS; k++) {
			p.error[i][k] = whole ? floor(20 * left) : left;
			left *= 0.3 + 0.7 * scene_random(random);
		}
		sum += p.error[i][share->start - share->low];
	}
	p.budget = whole ? budgets[(size_t)(4 * scene_random(random))] : sum;
	return p;
}

static void attach(struct problem *p)
{
	for (size_t i = 0; i < p->n; i++)
		p->share[i].error = p->error[i];
}

/* The fewest values of all combinations; UINT64_MAX: none is within the budget. */
static uint64_t brute(const struct problem *p, double budget)
{
	uint64_t best = UINT64_MAX;
	uint32_t rank[MATRICES];

	for (size_t i = 0; i < p->n; i++)
		rank[i] = p->share[i].low;
	for (;;) {
		uint64_t values = 0;
		double error = 0;
		size_t i = 0;

		for (size_t k = 0; k < p->n; k++) {
			values += rank[k] * p->share[k].weight;
			error += p->error[k][rank[k] - p->share[k].low];
		}
		if (error <= budget && values < best)
			best = values;
		while (i < p->n && ++rank[i] > p->share[i].high) {
			rank[i] = p->share[i].low;
			i++;
		}
		if (i == p->n)
			return best;
	}
}

static uint64_t solve(struct problem *p, bool *within)
{
	uint64_t values = 0;

	attach(p);
	ck_assert_int_eq(psgd__share_budget(p->share, p->n, p->budget, within), PSGD_OK);
	for (size_t i = 0; i < p->n; i++) {
		ck_assert_uint_ge(p->share[i].rank, p->share[i].low);
		ck_assert_uint_le(p->share[i].rank, p->share[i].high);
		values += p->share[i].rank * p->share[i].weight;
	}
	ck_assert(!*within || psgd__shared_error(p->share, p->n) <= p->budget);
	return values;
}

/* Where errors are whole parts of the budget, the optimum itself. */
START_TEST(exact)
{
	struct scene random = scene_new((uint64_t)_i + 1);
	int solved = 0, over = 0;

	for (int round = 0; round < 40; round++) {
		struct problem p = problem_new(&random, true);
		uint64_t want = brute(&p, p.budget);
		bool within;
		uint64_t values = solve(&p, &within);

		ck_assert_int_eq(within, want != UINT64_MAX);
		if (within)
			ck_assert_uint_eq(values, want);
		for (size_t i = 0; i < p.n && !within; i++)
			ck_assert_uint_eq(p.share[i].rank, p.share[i].high);
		solved += within;
		over += !within;
	}
	ck_assert(solved > 5 && over > 0);
}
END_TEST

/*
 * With any errors: never over the budget, never worse than the start, never worse than the optimum
 * of a budget that is smaller by what rounding can take; and nearly always the optimum.
 */
START_TEST(within_rounding)
{
	struct scene random = scene_new((uint64_t)_i + 100);
	int same = 0;

	for (int round = 0; round < 40; round++) {
		struct problem p = problem_new(&random, false);
		uint64_t least = brute(&p, p.budget), start = 0;
		uint64_t most = brute(&p, p.budget * (1 - (double)p.n / 10000));
		bool within;
		uint64_t values = solve(&p, &within);

		for (size_t i = 0; i < p.n; i++)
			start += p.share[i].start * p.share[i].weight;
		ck_assert(within);
		ck_assert_uint_ge(values, least);
		ck_assert_uint_le(values, most);
		ck_assert_uint_le(values, start);
		same += values == least;
	}
	ck_assert_int_ge(same, 38);
}
END_TEST

/* Errors of zero need no rank; a budget of zero allows nothing else. */
START_TEST(no_error)
{
	static const double error[] = {3, 1, 0, 0};
	struct psgd__share share[2] = {
		{.low = 1, .high = 4, .start = 4, .weight = 10, .error = error},
		{.low = 3, .high = 4, .start = 3, .weight = 10, .error = error + 2}};
	bool within;

	ck_assert_int_eq(psgd__share_budget(share, 2, 0, &within), PSGD_OK);
	ck_assert(within);
	ck_assert_uint_eq(share[0].rank, 3);
	ck_assert_uint_eq(share[1].rank, 3);
	share[0].high = share[0].start = 2;
	ck_assert_int_eq(psgd__share_budget(share, 2, 0.5, &within), PSGD_OK);
	ck_assert(!within);
	ck_assert_uint_eq(share[0].rank, 2);
	ck_assert_uint_eq(share[1].rank, 4);
}
END_TEST

static struct psgd_lgreco_options lgreco_options;

static struct psgd_rank_control_options lgreco(void)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);

	lgreco_options = PSGD_INIT(psgd_lgreco_options);
	lgreco_options.adjust_steps = 20;
	lgreco_options.sample_steps = 3;
	options.choice = PSGD_CHOICE_LGRECO;
	options.lgreco = &lgreco_options;
	options.max_rank = 16;
	return options;
}

/* Layer 0 falls fast, layer 3 hardly; the middle ones evenly. */
static double error_of(size_t layer, uint32_t rank, uint64_t step)
{
	static const double fall[] = {0.3, 0.8, 0.7, 0.97};

	(void)step;
	return 5 * pow(fall[layer], rank);
}

static void run_layers(const struct psgd_rank_control_options *options, struct layers *l)
{
	struct psgd_controller control = scene_control(options);

	layers_drive(&control, l);
	psgd_controller_destroy(&control);
}

/* Sums only the last sample_steps, spectra only where it decides, base_rank until then. */
START_TEST(when)
{
	struct psgd_rank_control_options options = lgreco();
	struct layers l = layers_new(7, 70);

	l.error = error_of;
	run_layers(&options, &l);
	for (uint64_t i = 0; i < 70; i++) {
		uint32_t want = i % 20 >= 17 ? PSGD_NEED_LOCAL_SUM : 0;

		if (i % 20 == 19)
			want |= PSGD_NEED_DECISION | PSGD_NEED_SPECTRUM;
		ck_assert_uint_eq(l.needs[i], want);
	}
	for (uint64_t i = 0; i < 20; i++) {
		for (size_t k = 0; k < LAYERS; k++)
			ck_assert_uint_eq(l.rank[i][k], 4);
	}
	ck_assert_str_eq(l.decision[0].regime, "lgreco_start");
	ck_assert_str_eq(l.decision[20].regime, "lgreco");
	ck_assert_uint_eq(l.resets, 3);
	ck_assert_uint_eq(l.spectra, 3);
}
END_TEST

/* The budget holds, with fewer values than base_rank sends; the steep layer gives, others take. */
START_TEST(saves)
{
	struct psgd_rank_control_options options = lgreco();
	struct layers l = layers_new(7, 21);
	double budget = 0, error = 0;
	uint64_t before = 0, after = 0;

	l.error = error_of;
	run_layers(&options, &l);
	for (size_t i = 0; i < 4; i++) {
		uint64_t weight = (uint64_t)(l.tensors[i].dims[0] +
					     l.tensors[i].dims[1] * l.tensors[i].dims[2]);

		budget += error_of(i, 4, 0);
		error += error_of(i, l.rank[20][i], 0);
		before += 4 * weight;
		after += l.rank[20][i] * weight;
		ck_assert_uint_ge(l.rank[20][i], 2);
		ck_assert_uint_le(l.rank[20][i], 8);
	}
	ck_assert_double_le(error, budget);
	ck_assert_uint_lt(after, before);
	ck_assert_double_eq_tol(l.decision[20].value, error, 1e-9);
	ck_assert_double_eq_tol(l.decision[20].threshold, budget, 1e-9);
	/* A larger budget never costs more, and a smaller one that nothing meets takes all. */
	lgreco_options.alpha = 1.5;
	l = layers_new(7, 21);
	l.error = error_of;
	run_layers(&options, &l);
	for (size_t i = 0; i < 4; i++)
		after -= l.rank[20][i] * (uint64_t)(l.tensors[i].dims[0] +
						    l.tensors[i].dims[1] * l.tensors[i].dims[2]);
	ck_assert_int_ge((int64_t)after, 0);
	lgreco_options.alpha = 0.01;
	l = layers_new(7, 21);
	l.error = error_of;
	run_layers(&options, &l);
	ck_assert_str_eq(l.decision[20].regime, "lgreco_over_budget");
	for (size_t i = 0; i < 4; i++)
		ck_assert_uint_eq(l.rank[20][i], 8);
}
END_TEST

/* Ranks tried are within [floor(low R), ceil(high R)], min_rank, max_rank and the shape. */
START_TEST(bounds)
{
	struct psgd_rank_control_options options = lgreco();
	struct layers l = layers_new(7, 21);

	lgreco_options.base_rank = 5;
	lgreco_options.low = 0.7;
	lgreco_options.high = 3;
	lgreco_options.alpha = 1e-6;
	options.max_rank = PSGD_RANK_DENSE;
	l.error = error_of;
	run_layers(&options, &l);
	/* Matrix 3 is 10 x 512. */
	for (size_t i = 0; i < 4; i++)
		ck_assert_uint_eq(l.rank[20][i], i == 3 ? 10 : 15);
	options.max_rank = 12;
	l = layers_new(7, 21);
	l.error = error_of;
	run_layers(&options, &l);
	ck_assert_uint_eq(l.rank[20][0], 12);
	lgreco_options.alpha = 1e6;
	l = layers_new(7, 21);
	l.error = error_of;
	run_layers(&options, &l);
	for (size_t i = 0; i < 4; i++)
		ck_assert_uint_eq(l.rank[20][i], 3);
	options.min_rank = 4;
	l = layers_new(7, 21);
	l.error = error_of;
	run_layers(&options, &l);
	ck_assert_uint_eq(l.rank[20][2], 4);
}
END_TEST

/* A layer that was raised to where it travels dense comes back, and is not raised so far again. */
START_TEST(raised_too_far)
{
	struct psgd_rank_control_options options = lgreco();
	struct layers l = layers_new(7, 200);
	uint32_t most = 0;

	lgreco_options.alpha = 0.5;
	l.dense_above = 5;
	l.error = error_of;
	run_layers(&options, &l);
	for (size_t i = 0; i < 4; i++) {
		for (uint64_t k = 120; k <= 200; k++)
			ck_assert_uint_le(l.rank[k][i], 5);
		for (uint64_t k = 0; k < 120; k++)
			most = l.rank[k][i] > most ? l.rank[k][i] : most;
	}
	ck_assert_uint_gt(most, 5);
}
END_TEST

static double bad_error(size_t layer, uint32_t rank, uint64_t step)
{
	return layer == 1 && step < 50 ? (double)NAN : error_of(layer, rank, step);
}

/* An error that is no number holds the ranks. */
START_TEST(bad_errors)
{
	struct psgd_rank_control_options options = lgreco();
	struct layers l = layers_new(7, 70);

	l.error = bad_error;
	run_layers(&options, &l);
	ck_assert_str_eq(l.decision[20].regime, "lgreco_hold");
	ck_assert_uint_eq(l.rank[40][1], 4);
	ck_assert_str_eq(l.decision[60].regime, "lgreco");
	ck_assert_uint_lt(l.rank[60][0], 4);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("lgreco");
	TCase *t = tcase_create("lgreco");

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, exact, 0, 10);
	tcase_add_loop_test(t, within_rounding, 0, 10);
	tcase_add_test(t, no_error);
	tcase_add_test(t, when);
	tcase_add_test(t, saves);
	tcase_add_test(t, bounds);
	tcase_add_test(t, raised_too_far);
	tcase_add_test(t, bad_errors);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
