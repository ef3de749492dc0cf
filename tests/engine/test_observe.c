/* What a controller is shown of worker 0's own gradients, against float64. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/group.h"
#include "support/random.h"
#include "support/suite.h"

#define N_TENSORS 5
#define MOST_RANKS 12

static const struct psgd_tensor tensors[N_TENSORS] = {
	{.id = 3, .dtype = PSGD_F32, .n_dims = 2, .dims = {60, 40}, .name = "fc"},
	{.id = 5, .dtype = PSGD_F32, .n_dims = 4, .dims = {32, 16, 3, 3}},
	{.id = 7, .dtype = PSGD_F32, .n_dims = 1, .dims = {50}},
	{.id = 8, .dtype = PSGD_F32, .n_dims = 2, .dims = {30, 30}, .flags = PSGD_TENSOR_DENSE},
	{.id = 9, .dtype = PSGD_F32, .n_dims = 2, .dims = {6, 200}},
};

/* Notes what it sees; ranks by the step. */
struct watcher {
	uint32_t needs;
	uint64_t skip; /* steps with step % skip == 0 ask for nothing of own gradients; 0: none */
	uint32_t rank; /* of all tensors; 0: by the step */
	uint32_t ask;  /* ranks of the spectrum */
	bool reset;
	/* Seen last. */
	double norms[N_TENSORS], errors[N_TENSORS][MOST_RANKS], entropy;
	uint64_t steps, mean_steps;
	bool had_norms, had_errors, wrong;
};

static uint32_t watch_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	const struct watcher *w = self;

	(void)epoch, (void)epoch_end;
	if (w->skip && step % w->skip == 0)
		return PSGD_NEED_DECISION | PSGD_NEED_LOCAL_NORMS | PSGD_NEED_SPECTRUM;
	return PSGD_NEED_DECISION | w->needs;
}

static void look(struct watcher *w, const struct psgd_observation *seen)
{
	double twice[MOST_RANKS];

	w->entropy = seen->entropy;
	w->steps = seen->local_sum_steps;
	w->mean_steps = seen->grad_sum_steps;
	w->had_norms = seen->local_norms != NULL;
	w->had_errors = seen->errors != NULL;
	w->wrong |= seen->n_tensors != N_TENSORS || seen->tensors[1].id != 5;
	for (size_t i = 0; i < N_TENSORS && w->had_norms; i++)
		w->norms[i] = seen->local_norms[i];
	for (size_t i = 0; i < N_TENSORS && w->had_errors; i++) {
		w->wrong |= seen->errors(seen->plan_user, i, w->ask, w->errors[i]) < 0;
		/* Asked again, it says the same. */
		w->wrong |= seen->errors(seen->plan_user, i, w->ask, twice) < 0 ||
			    memcmp(twice, w->errors[i], w->ask * sizeof(double)) != 0;
	}
	if (w->had_errors)
		w->wrong |=
			seen->errors(seen->plan_user, N_TENSORS, 1, twice) != PSGD_ERR_INVALID ||
			seen->errors(seen->plan_user, 0, 0, NULL) < 0;
}

static psgd_status watch_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	static const uint32_t list[] = {2, 0, 4, 1};
	struct watcher *w = self;

	if (!seen->first)
		look(w, seen);
	out->rank = w->rank ? w->rank : list[(seen->step + 1) % 4];
	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] = out->rank;
	out->reset_local_sum = w->reset;
	return PSGD_OK;
}

static const struct psgd_controller_ops watch_ops = {
	.size = sizeof(watch_ops), .name = "watch", .needs = watch_needs, .decide = watch_decide};

struct bench {
	struct group group;
	struct watcher watcher;
	struct psgd_controller controller;
	float *data[GROUP_MAX][N_TENSORS];
};

static psgd_status make_powersgd(void *user, struct psgd_compressor *out)
{
	(void)user;
	return psgd_compressor_powersgd(NULL, out);
}

static void open_bench(
	struct bench *b, uint32_t n, const struct watcher *watcher, psgd_log_fn log, void *user)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);

	memset(b, 0, sizeof(*b));
	b->watcher = *watcher;
	b->controller = (struct psgd_controller){&watch_ops, &b->watcher};
	o.controller = &b->controller;
	o.log = log;
	o.log_user = user;
	o.log_level = PSGD_LOG_INFO;
	group_open(&b->group, n, tensors, N_TENSORS, make_powersgd, NULL, &o);
	for (uint32_t w = 0; w < n; w++)
		for (int i = 0; i < N_TENSORS; i++)
			b->data[w][i] =
				calloc((size_t)psgd_tensor_count(&tensors[i]), sizeof(float));
}

static void close_bench(struct bench *b)
{
	for (uint32_t w = 0; w < b->group.n_workers; w++)
		for (int i = 0; i < N_TENSORS; i++)
			free(b->data[w][i]);
	group_close(&b->group);
}

/* The tensors from .. N_TENSORS - 1, cut into two buckets at `cut`. */
static void step(struct bench *b, int from, int cut, struct psgd_report *report)
{
	struct psgd_grad list[GROUP_MAX][N_TENSORS];
	struct psgd_bucket buckets[GROUP_MAX][2], *rows[GROUP_MAX];
	size_t n_buckets = cut > from && cut < N_TENSORS ? 2 : 1;

	for (uint32_t w = 0; w < b->group.n_workers; w++) {
		for (int i = 0; i < N_TENSORS; i++)
			list[w][i] = (struct psgd_grad){tensors[i].id, b->data[w][i]};
		buckets[w][0] = (struct psgd_bucket){sizeof(struct psgd_bucket), &list[w][from],
			(size_t)((n_buckets == 2 ? cut : N_TENSORS) - from)};
		buckets[w][1] = (struct psgd_bucket){
			sizeof(struct psgd_bucket), &list[w][cut], (size_t)(N_TENSORS - cut)};
		rows[w] = buckets[w];
	}
	ck_assert_int_eq(group_step(&b->group, rows, n_buckets, NULL, report), PSGD_OK);
	ck_assert(!b->watcher.wrong);
}

static double normal(struct rng *rng)
{
	double sum = 0.0;

	for (int i = 0; i < 12; i++)
		sum += (double)(rng_next(rng) >> 11) * 0x1p-53;
	return sum - 6.0;
}

static void fill_normal(struct bench *b, uint64_t seed, double scale)
{
	struct rng rng = {seed};

	for (uint32_t w = 0; w < b->group.n_workers; w++)
		for (int i = 0; i < N_TENSORS; i++)
			for (int64_t k = 0; k < psgd_tensor_count(&tensors[i]); k++)
				b->data[w][i][k] = (float)(scale * normal(&rng));
}

/*
 * The sum is of worker 0's gradients as they were submitted, in the steps that asked: neither the
 * error, nor the mean, nor what the compressor makes of them.
 */
START_TEST(local_sum_is_of_own_gradients)
{
	struct watcher w = {
		.needs = PSGD_NEED_LOCAL_SUM | PSGD_NEED_LOCAL_NORMS, .skip = _i ? 3 : 0};
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	static double sums[N_TENSORS][32 * 144];
	uint64_t steps = 0, values = 0;
	struct bench b;

	memset(sums, 0, sizeof(sums));
	open_bench(&b, 2, &w, NULL, NULL);
	for (int t = 0; t < 12; t++) {
		bool asked = !w.skip || (uint64_t)t % w.skip;

		fill_normal(&b, (uint64_t)t + 1, 1.0);
		for (int i = 0; i < N_TENSORS && asked; i++)
			for (int64_t k = 0; k < psgd_tensor_count(&tensors[i]); k++)
				sums[i][k] += b.data[0][i][k];
		steps += asked;
		b.watcher.reset = t == 6;
		step(&b, 0, 1 + t % 4, NULL);
		ck_assert(b.watcher.had_norms || !steps);
		ck_assert_uint_eq(b.watcher.steps, steps);
		for (int i = 0; i < N_TENSORS && steps; i++) {
			double squares = 0.0;

			for (int64_t k = 0; k < psgd_tensor_count(&tensors[i]); k++)
				squares += sums[i][k] * sums[i][k];
			ck_assert_double_eq_tol(
				b.watcher.norms[i], sqrt(squares), 1e-5 * sqrt(squares));
		}
		if (t == 6) {
			memset(sums, 0, sizeof(sums));
			steps = 0;
			/* It is still there, at zero. */
			fill_normal(&b, 77, 1.0);
		}
		if (t == 6 && w.skip)
			steps = 0;
	}
	for (int i = 0; i < N_TENSORS; i++)
		values += (uint64_t)psgd_tensor_count(&tensors[i]);
	ck_assert_int_eq(psgd_session_memory(b.group.session[0], &memory), PSGD_OK);
	ck_assert_uint_eq(memory.observe_bytes, 4 * values);
	ck_assert_int_eq(psgd_session_memory(b.group.session[1], &memory), PSGD_OK);
	ck_assert_uint_eq(memory.observe_bytes, 0);
	close_bench(&b);
}
END_TEST

/*
 * What is not finite is left out of the sums; a step counts if something of it is in them, be it of
 * another bucket, whatever the other workers had.
 */
START_TEST(local_sum_leaves_out_what_is_not_finite)
{
	struct watcher w = {
		.needs = PSGD_NEED_LOCAL_SUM | PSGD_NEED_LOCAL_NORMS | PSGD_NEED_GRAD_SUM,
		.rank = 2};
	double before[N_TENSORS];
	struct bench b;

	open_bench(&b, 2, &w, NULL, NULL);
	fill_normal(&b, 1, 1.0);
	step(&b, 0, 3, NULL);
	memcpy(before, b.watcher.norms, sizeof(before));
	fill_normal(&b, 2, 1.0);
	b.data[0][1][100] = NAN;
	step(&b, 0, 3, NULL);
	ck_assert_uint_eq(b.watcher.steps, 2);
	ck_assert_uint_eq(b.watcher.mean_steps, 2);
	ck_assert(b.watcher.norms[1] == before[1]);
	ck_assert(isfinite(b.watcher.norms[0]) && b.watcher.norms[0] != before[0]);
	/* The other worker's are not in the local sum; one bucket: the step has no mean. */
	fill_normal(&b, 3, 1.0);
	b.data[1][1][100] = NAN;
	step(&b, 0, 0, NULL);
	ck_assert_uint_eq(b.watcher.steps, 3);
	ck_assert_uint_eq(b.watcher.mean_steps, 2);
	ck_assert(b.watcher.norms[1] != before[1]);
	memcpy(before, b.watcher.norms, sizeof(before));
	for (int i = 0; i < N_TENSORS; i++)
		b.data[0][i][0] = NAN;
	step(&b, 0, 3, NULL);
	ck_assert_uint_eq(b.watcher.steps, 3);
	ck_assert_uint_eq(b.watcher.mean_steps, 2);
	ck_assert_mem_eq(b.watcher.norms, before, sizeof(before));
	close_bench(&b);
}
END_TEST

/* Singular values, falling, by Jacobi's method on the Gram matrix of the shorter side. */
static void singular_values(const float *g, int64_t n, int64_t m, double *out, int64_t k)
{
	double *a = calloc((size_t)(k * k), sizeof(double));

	for (int64_t i = 0; i < k; i++)
		for (int64_t j = 0; j < k; j++)
			for (int64_t t = 0; t < (n < m ? m : n); t++)
				a[i * k + j] += n < m ? (double)g[i * m + t] * g[j * m + t]
						      : (double)g[t * m + i] * g[t * m + j];
	for (int sweep = 0; sweep < 60; sweep++)
		for (int64_t p = 0; p < k; p++)
			for (int64_t q = p + 1; q < k; q++) {
				double theta, t, c, s;

				if (a[p * k + q] == 0.0)
					continue;
				theta = (a[q * k + q] - a[p * k + p]) / (2.0 * a[p * k + q]);
				t = (theta < 0 ? -1.0 : 1.0) /
				    (fabs(theta) + sqrt(theta * theta + 1.0));
				c = 1.0 / sqrt(t * t + 1.0);
				s = t * c;
				for (int64_t i = 0; i < k; i++) {
					double x = a[i * k + p], y = a[i * k + q];

					a[i * k + p] = c * x - s * y;
					a[i * k + q] = s * x + c * y;
				}
				for (int64_t i = 0; i < k; i++) {
					double x = a[p * k + i], y = a[q * k + i];

					a[p * k + i] = c * x - s * y;
					a[q * k + i] = s * x + c * y;
				}
			}
	for (int64_t i = 0; i < k; i++)
		out[i] = sqrt(fmax(0.0, a[i * k + i]));
	for (int64_t i = 0; i < k; i++)
		for (int64_t j = i + 1; j < k; j++)
			if (out[j] > out[i]) {
				double x = out[i];

				out[i] = out[j];
				out[j] = x;
			}
	free(a);
}

/* Terms of rank one with weights that fall as the kind says. */
static double weight(int kind, int j)
{
	return kind == 0   ? pow(0.5, j)
	       : kind == 1 ? 1.0 / (j + 1.0)
	       : kind == 2 ? pow(j + 1.0, -0.5)
	       : kind == 3 ? (j < 3 ? 1.0 + j : 0.0)
	       : kind == 4 ? 0.0
			   : pow(0.7, j) * 1e-12;
}

static void fill_spectrum(struct bench *b, int kind, uint64_t seed)
{
	struct rng rng = {seed};

	for (int i = 0; i < N_TENSORS; i++) {
		int64_t n, m;
		float *g = b->data[0][i];

		psgd_tensor_matrix(&tensors[i], &n, &m);
		memset(g, 0, (size_t)(n * m) * sizeof(float));
		for (int j = 0; j < 40; j++) {
			double u[64], v[200];

			for (int64_t k = 0; k < n; k++)
				u[k] = normal(&rng) / sqrt((double)n);
			for (int64_t k = 0; k < m; k++)
				v[k] = normal(&rng) / sqrt((double)m);
			for (int64_t k = 0; k < n * m; k++)
				g[k] += (float)(weight(kind, j) * u[k / m] * v[k % m]);
		}
	}
}

/* Within 1 % above the best that is possible, and never below it. */
START_TEST(spectrum_is_the_best_approximations)
{
	struct watcher w = {
		.needs = PSGD_NEED_LOCAL_SUM | PSGD_NEED_SPECTRUM, .rank = 1, .ask = MOST_RANKS};
	double worst = 0.0;
	struct bench b;

	open_bench(&b, 1, &w, NULL, NULL);
	for (int seed = 0; seed < 3; seed++) {
		static float own[N_TENSORS][32 * 144];

		fill_spectrum(&b, _i, (uint64_t)seed + 10);
		for (int i = 0; i < N_TENSORS; i++)
			memcpy(own[i], b.data[0][i],
				(size_t)psgd_tensor_count(&tensors[i]) * sizeof(float));
		b.watcher.reset = true;
		step(&b, 0, 2, NULL);
		ck_assert(b.watcher.had_errors);
		for (int i = 0; i < N_TENSORS; i++) {
			double sigma[64], rest = 0.0, all = 0.0;
			bool matrix = i != 2 && i != 3;
			int64_t n, m, k;

			psgd_tensor_matrix(&tensors[i], &n, &m);
			k = n < m ? n : m;
			if (matrix)
				singular_values(own[i], n, m, sigma, k);
			for (int64_t j = 0; matrix && j < k; j++)
				all += sigma[j] * sigma[j];
			for (int64_t j = k; j-- > 0 && matrix;) {
				double best = sqrt(rest);

				rest += sigma[j] * sigma[j];
				if (j >= MOST_RANKS)
					continue;
				ck_assert_double_ge(
					b.watcher.errors[i][j], best - 1e-6 * sqrt(all));
				ck_assert_double_le(
					b.watcher.errors[i][j], 1.01 * best + 2e-6 * sqrt(all));
				if (best > 1e-4 * sqrt(all))
					worst = fmax(worst, b.watcher.errors[i][j] / best - 1.0);
			}
			for (int64_t j = matrix ? k : 0; j < MOST_RANKS; j++)
				ck_assert_double_le(b.watcher.errors[i][j], 2e-6 * sqrt(all));
		}
	}
	printf("# weights %d: at most %.2g above the optimum\n", _i, worst);
	close_bench(&b);
}
END_TEST

static double entropy_once(struct bench *b, int cut)
{
	step(b, 0, cut, NULL);
	return b->watcher.entropy;
}

START_TEST(entropy_is_that_of_the_distribution)
{
	const double pi = 3.14159265358979323846, e = 2.71828182845904523536;
	struct watcher w = {.needs = PSGD_NEED_ENTROPY, .rank = 2};
	double first, uniform[] = {1e-6, 0.5, 300.0};
	struct rng rng = {4};
	struct bench b;

	open_bench(&b, 2, &w, NULL, NULL);
	for (int k = 0; k < 3; k++) {
		fill_normal(&b, 3, uniform[k]);
		first = entropy_once(&b, 2);
		ck_assert_double_eq_tol(
			first, 0.5 * log(2 * pi * e * uniform[k] * uniform[k]), 0.05);
		/* However the buckets are cut. */
		fill_normal(&b, 3, uniform[k]);
		ck_assert(entropy_once(&b, 4) == first);
		for (int i = 0; i < N_TENSORS; i++)
			for (int64_t j = 0; j < psgd_tensor_count(&tensors[i]); j++)
				b.data[0][i][j] = rng_float(&rng) * (float)uniform[k];
		ck_assert_double_eq_tol(entropy_once(&b, 0), log(2 * uniform[k]), 0.05);
	}
	/* Zeros have an entropy that can be counted with; what is not finite is not a value. */
	for (int i = 0; i < N_TENSORS; i++)
		memset(b.data[0][i], 0, (size_t)psgd_tensor_count(&tensors[i]) * sizeof(float));
	ck_assert(entropy_once(&b, 0) == 0.0);
	fill_normal(&b, 3, 0.5);
	b.data[0][0][0] = INFINITY;
	b.data[0][1][3] = NAN;
	ck_assert_double_eq_tol(entropy_once(&b, 3), 0.5 * log(2 * pi * e * 0.25), 0.05);
	/* A tensor that is not submitted is not in it: here all but one, of values of its own. */
	fill_normal(&b, 3, 100.0);
	for (int64_t j = 0; j < psgd_tensor_count(&tensors[4]); j++)
		b.data[0][4][j] = 0.01f * rng_float(&rng);
	step(&b, 4, 0, NULL);
	ck_assert_double_eq_tol(b.watcher.entropy, log(0.02), 0.1);
	/* A step without a value has none, not the one before. */
	ck_assert_int_eq(group_step(&b.group, NULL, 0, NULL, NULL), PSGD_OK);
	ck_assert(isnan(b.watcher.entropy));
	fill_normal(&b, 3, 0.5);
	ck_assert(isfinite(entropy_once(&b, 2)));
	for (int64_t j = 0; j < psgd_tensor_count(&tensors[4]); j++)
		b.data[0][4][j] = NAN;
	step(&b, 4, 0, NULL);
	ck_assert(isnan(b.watcher.entropy));
	b.watcher.needs = 0;
	step(&b, 0, 0, NULL);
	step(&b, 0, 0, NULL);
	ck_assert(isnan(b.watcher.entropy));
	close_bench(&b);
}
END_TEST

struct big {
	double entropy;
};

static uint32_t big_needs(void *self, uint64_t s, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)s, (void)epoch, (void)epoch_end;
	return PSGD_NEED_DECISION | PSGD_NEED_ENTROPY;
}

static psgd_status big_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	(void)out;
	((struct big *)self)->entropy = seen->entropy;
	ranks[0] = 1;
	return PSGD_OK;
}

/* More values than are looked at. */
START_TEST(entropy_of_many_values_is_from_a_sample)
{
	static const struct psgd_controller_ops ops = {
		.size = sizeof(ops), .name = "big", .needs = big_needs, .decide = big_decide};
	const struct psgd_tensor tensor = {
		.id = 1, .dtype = PSGD_F32, .n_dims = 2, .dims = {1000, 999}};
	const double pi = 3.14159265358979323846, e = 2.71828182845904523536;
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket), *rows[1] = {&bucket};
	float *data = malloc(999000 * sizeof(float));
	struct psgd_grad grad = {1, data};
	struct big big = {0};
	struct psgd_controller controller = {&ops, &big};
	struct rng rng = {8};
	struct group group;

	for (int i = 0; i < 999000; i++)
		data[i] = (float)(0.01 * normal(&rng));
	o.controller = &controller;
	group_open(&group, 1, &tensor, 1, make_powersgd, NULL, &o);
	bucket.grads = &grad;
	bucket.n_grads = 1;
	ck_assert_int_eq(group_step(&group, rows, 1, NULL, NULL), PSGD_OK);
	ck_assert_double_eq_tol(big.entropy, 0.5 * log(2 * pi * e * 1e-4), 0.01);
	ck_assert_int_eq(psgd_session_memory(group.session[0], &memory), PSGD_OK);
	ck_assert_uint_le(memory.observe_bytes, 4 * 65536);
	group_close(&group);
	free(data);
}
END_TEST

/* A report's ranks are those in force, clamped, and live until the next step has ended. */
START_TEST(decisions_have_the_ranks_in_force)
{
	struct watcher w = {.needs = 0};
	struct psgd_report last = PSGD_INIT(psgd_report), report;
	uint32_t ranks[N_TENSORS] = {0};
	struct bench b;

	open_bench(&b, 2, &w, NULL, NULL);
	fill_normal(&b, 9, 1.0);
	for (int t = 0; t < 9; t++) {
		uint32_t now[N_TENSORS];

		report = PSGD_INIT(psgd_report);
		step(&b, 0, 2, &report);
		if (t > 0)
			ck_assert_mem_eq(last.decision.ranks, ranks, sizeof(ranks));
		ck_assert_uint_eq(report.decided, 1);
		ck_assert_uint_eq(report.decision.n_ranks, N_TENSORS);
		memcpy(now, report.decision.ranks, sizeof(now));
		ck_assert_uint_eq(now[2], 0);
		ck_assert_uint_eq(now[3], 0);
		ck_assert_uint_eq(now[0], report.decision.rank);
		ck_assert_uint_eq(report.rank_max, report.decision.rank);
		memcpy(ranks, now, sizeof(ranks));
		last = report;
	}
	close_bench(&b);
}
END_TEST

static void count_log(void *user, enum psgd_log_level level, const char *text)
{
	int *count = user;

	ck_assert_int_eq(level, PSGD_LOG_INFO);
	ck_assert_str_eq(text, "note: tensor 9 (no name), 6 x 200, has r=6, the most that it can "
			       "have, where the rank "
			       "is r=9");
	++*count;
}

START_TEST(a_rank_above_a_matrix_is_told_once)
{
	struct watcher w = {.rank = 9};
	int count = 0;
	struct bench b;

	open_bench(&b, 1, &w, count_log, &count);
	for (int t = 0; t < 4; t++)
		step(&b, 0, 2, NULL);
	ck_assert_int_eq(count, 1);
	close_bench(&b);
	count = 0;
	w.rank = 6;
	open_bench(&b, 1, &w, count_log, &count);
	step(&b, 0, 2, NULL);
	ck_assert_int_eq(count, 0);
	close_bench(&b);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("observe");
	TCase *c = tcase_create("observe");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, local_sum_is_of_own_gradients, 0, 2);
	tcase_add_test(c, local_sum_leaves_out_what_is_not_finite);
	tcase_add_loop_test(c, spectrum_is_the_best_approximations, 0, 6);
	tcase_add_test(c, entropy_is_that_of_the_distribution);
	tcase_add_test(c, entropy_of_many_values_is_from_a_sample);
	tcase_add_test(c, decisions_have_the_ranks_in_force);
	tcase_add_test(c, a_rank_above_a_matrix_is_told_once);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
