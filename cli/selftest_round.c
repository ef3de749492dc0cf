/*
 * The rounds of PowerSGD on the tested device beside those on the reference, in lockstep: both get
 * the same gradients, and, in the place of their own sums, the same bits of what the reference's
 * workers have sent. So all that a device computes for itself must have the same bits, step after
 * step, and its messages may differ by rounding alone. In its messages a compressor leaves P and Q
 * as they are between its rounds: that is where they are looked at.
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <string.h>

#include "selftest_group.h"

#define TOLERANCE 1e-5

static const char *const side_names[] = {"the tested device", "the reference"};

void cli_group_free_messages(struct cli_group *g, int side, struct cli_member *m)
{
	for (size_t i = 0; i < PSGD_MAX_ROUNDS; i++)
		cli_side_free(&g->t->sides[side], m->round.message[i], m->message_bytes[i]);
	m->round = PSGD_INIT(psgd_round);
}

static bool begin_member(
	struct cli_group *g, int side, struct cli_member *m, uint32_t w, uint64_t step)
{
	const struct cli_side *on = &g->t->sides[side];
	struct psgd_plan plan = PSGD_INIT(psgd_plan);
	psgd_status status = cli_side_put(
		on, m->gradients, g->model.gradients[w], g->model.n_values * sizeof(float));

	if (status >= 0)
		status = m->compressor.ops->plan(m->compressor.self, &m->bucket, step, &plan);
	m->round = PSGD_INIT(psgd_round);
	m->round.step = step;
	m->round.bucket = &m->bucket;
	m->round.stream = on->stream;
	for (uint32_t i = 0; i < plan.n_rounds && status >= 0; i++) {
		m->message_bytes[i] = psgd_payload_bytes(&plan.round[i]);
		m->round.message[i] = cli_side_alloc(on, m->message_bytes[i]);
		if (!m->round.message[i])
			status = PSGD_ERR_NOMEM;
	}
	g->plan = plan;
	return cli_group_ok(g, CLI_CLAIM_ABSORB, status, side, "beginning of a step");
}

/* Round `index` of a worker on both sides; its results are there. */
static bool run_both(struct cli_group *g, enum cli_claim claim, uint32_t w, uint32_t index)
{
	for (int side = 0; side < CLI_SIDES; side++) {
		struct cli_member *m = &g->members[side][w];
		psgd_status status;

		m->round.index = index;
		status = m->compressor.ops->run(m->compressor.self, &m->round);
		if (status >= 0)
			status = cli_side_finish(&g->t->sides[side]);
		if (!cli_group_ok(g, claim, status, side, "a round"))
			return false;
	}
	return true;
}

/* The bytes of both sides at these places into g->host. */
static bool get_both(struct cli_group *g, enum cli_claim claim, const void *tested,
	const void *reference, size_t n)
{
	const void *const from[] = {tested, reference};

	for (int side = 0; side < CLI_SIDES; side++) {
		if (!cli_group_ok(g, claim,
			    cli_side_get(&g->t->sides[side], g->host[side], from[side],
				    n * sizeof(float)),
			    side, "download"))
			return false;
	}
	return true;
}

static bool get_message(struct cli_group *g, enum cli_claim claim, uint32_t w, uint32_t index)
{
	return get_both(g, claim, g->members[CLI_TESTED][w].round.message[index],
		g->members[CLI_REFERENCE][w].round.message[index],
		(size_t)g->plan.round[index].count);
}

static bool get_gradients(struct cli_group *g, enum cli_claim claim, uint32_t w)
{
	return get_both(g, claim, g->members[CLI_TESTED][w].gradients,
		g->members[CLI_REFERENCE][w].gradients, g->model.n_values);
}

static size_t values_of(const struct cli_group *g, size_t i)
{
	return (size_t)(g->model.rows[i] * g->model.cols[i]);
}

/* Every tensor's gradient, whose values lie in g->host as in the model. */
static bool compare_gradients(struct cli_group *g, enum cli_claim claim, const char *what)
{
	for (size_t i = 0; i < g->model.n; i++) {
		size_t at = g->model.at[i];

		if (!cli_claim_equal(g->t, claim, g->host[CLI_TESTED] + at,
			    g->host[CLI_REFERENCE] + at, values_of(g, i), what, i))
			return false;
	}
	return true;
}

/* What comes of a matrix in a message: `rows` or `cols` times its rank. */
static bool compare_panels(
	struct cli_group *g, enum cli_claim claim, const int64_t *heights, const char *what)
{
	size_t at = 0;

	for (size_t i = 0; i < g->model.n; i++) {
		size_t n = (size_t)heights[i] * g->ranks[i];

		if (n > 0 && !cli_claim_equal(g->t, claim, g->host[CLI_TESTED] + at,
				     g->host[CLI_REFERENCE] + at, n, what, i))
			return false;
		at += n;
	}
	return true;
}

/* Dense values stand behind P in the first message. */
static bool compare_dense(struct cli_group *g)
{
	size_t at = 0;

	for (size_t i = 0; i < g->model.n; i++)
		at += (size_t)g->model.rows[i] * g->ranks[i];
	for (size_t i = 0; i < g->model.n; i++) {
		if (g->ranks[i])
			continue;
		if (!cli_claim_equal(g->t, CLI_CLAIM_ABSORB, g->host[CLI_TESTED] + at,
			    g->host[CLI_REFERENCE] + at, values_of(g, i), "dense message", i))
			return false;
		at += values_of(g, i);
	}
	return true;
}

typedef double (*error_fn)(const float *g, const float *factor, int64_t rows, int64_t cols,
	uint32_t r, const float *tested);

/* The tested side's products of g + e (g->absorbed) with `factor`, both as in their messages. */
static bool check_products(struct cli_group *g, enum cli_claim claim, error_fn error_of,
	const float *factor, const int64_t *factor_rows, const int64_t *rows, const char *what)
{
	struct cli_check *check = &g->t->checks[claim];
	const float *tested = g->host[CLI_TESTED];

	for (size_t i = 0; i < g->model.n; i++) {
		uint32_t r = g->ranks[i];
		double error;

		if (!r)
			continue;
		error = error_of(g->absorbed + g->model.at[i], factor, g->model.rows[i],
			g->model.cols[i], r, tested);
		factor += factor_rows[i] * r;
		tested += rows[i] * r;
		check->n++;
		check->largest = fmax(check->largest, error);
		if (error <= TOLERANCE)
			continue;
		cli_claim_fails(g->t, claim, "%s of matrix %zu (%lld x %lld, r=%u) is off by %.3g",
			what, i, (long long)g->model.rows[i], (long long)g->model.cols[i], r,
			error);
		return false;
	}
	return true;
}

/* After round 0: g + e, Q as it began, and P. */
static bool check_first(struct cli_group *g, uint32_t w)
{
	const struct cli_model *model = &g->model;
	float *q = g->sum; /* not in use yet */

	if (!get_gradients(g, CLI_CLAIM_ABSORB, w) ||
		!compare_gradients(g, CLI_CLAIM_ABSORB, "g + e"))
		return false;
	memcpy(g->absorbed, g->host[CLI_TESTED], model->n_values * sizeof(float));
	if (g->plan.n_rounds > 1) {
		if (!get_message(g, CLI_CLAIM_START, w, 1) ||
			!compare_panels(g, CLI_CLAIM_START, model->cols, "Q"))
			return false;
		memcpy(q, g->host[CLI_TESTED], (size_t)g->plan.round[1].count * sizeof(float));
	}
	return get_message(g, CLI_CLAIM_PROJECT, w, 0) && compare_dense(g) &&
	       check_products(
		       g, CLI_CLAIM_PROJECT, cli_project_error, q, model->cols, model->rows, "P");
}

/* After round 1: P as it has become, and Q. */
static bool check_second(struct cli_group *g, uint32_t w)
{
	const struct cli_model *model = &g->model;
	float *p = g->sum;

	if (!get_gradients(g, CLI_CLAIM_BACK_PROJECT, w))
		return false;
	memcpy(g->absorbed, g->host[CLI_TESTED], model->n_values * sizeof(float));
	if (!get_message(g, CLI_CLAIM_ORTHONORMAL, w, 0) ||
		!compare_panels(g, CLI_CLAIM_ORTHONORMAL, model->rows, "P"))
		return false;
	memcpy(p, g->host[CLI_TESTED], (size_t)g->plan.round[0].count * sizeof(float));
	return get_message(g, CLI_CLAIM_BACK_PROJECT, w, 1) &&
	       check_products(g, CLI_CLAIM_BACK_PROJECT, cli_back_project_error, p, model->rows,
		       model->cols, "Q");
}

/* The reference's sum, to every worker of both sides. */
static bool exchange(struct cli_group *g, uint32_t index)
{
	size_t n = (size_t)g->plan.round[index].count;

	memset(g->sum, 0, n * sizeof(float));
	for (uint32_t w = 0; w < g->model.n_workers; w++) {
		if (!get_message(g, CLI_CLAIM_PROJECT, w, index))
			return false;
		for (size_t k = 0; k < n; k++)
			g->sum[k] += g->host[CLI_REFERENCE][k];
	}
	for (uint32_t w = 0; w < g->model.n_workers; w++) {
		for (int side = 0; side < CLI_SIDES; side++) {
			if (!cli_group_ok(g, CLI_CLAIM_PROJECT,
				    cli_side_put(&g->t->sides[side],
					    g->members[side][w].round.message[index], g->sum,
					    n * sizeof(float)),
				    side, "upload"))
				return false;
		}
	}
	return true;
}

static bool is_nan(const struct cli_group *g)
{
	for (size_t i = 0; i < g->model.n; i++) {
		const float *x = g->host[CLI_TESTED] + g->model.at[i];

		for (size_t k = 0; k < values_of(g, i); k++) {
			if (!isnan(x[k]))
				return false;
		}
	}
	return true;
}

/* After the last round of a worker. */
static bool check_last(struct cli_group *g, uint32_t w)
{
	enum cli_claim claim = g->poisoned ? CLI_CLAIM_NONFINITE : CLI_CLAIM_RECONSTRUCT;

	for (int side = 0; side < CLI_SIDES; side++) {
		struct cli_member *m = &g->members[side][w];

		if (m->round.nonfinite != (uint32_t)g->poisoned) {
			cli_claim_fails(g->t, claim, "%s says that messages are %sfinite",
				side_names[side], m->round.nonfinite ? "not " : "");
			return false;
		}
		if (m->compressor.ops->settle)
			m->compressor.ops->settle(m->compressor.self, &m->round);
	}
	if (!get_gradients(g, claim, w))
		return false;
	if (!g->poisoned)
		return compare_gradients(g, claim, "gradient");
	g->t->checks[claim].n++;
	if (!is_nan(g))
		cli_claim_fails(g->t, claim, "a gradient of worker %u is not NaN", w);
	return true;
}

static bool run_rounds(struct cli_group *g)
{
	for (uint32_t index = 0; index < g->plan.n_rounds; index++) {
		enum cli_claim claim = index ? CLI_CLAIM_BACK_PROJECT : CLI_CLAIM_PROJECT;

		for (uint32_t w = 0; w < g->model.n_workers; w++) {
			if (!run_both(g, claim, w, index))
				return false;
			if (!g->poisoned && !(index ? check_second(g, w) : check_first(g, w)))
				return false;
		}
		if (!exchange(g, index))
			return false;
	}
	for (uint32_t w = 0; w < g->model.n_workers; w++) {
		if (!run_both(g, CLI_CLAIM_RECONSTRUCT, w, g->plan.n_rounds) || !check_last(g, w))
			return false;
	}
	return true;
}

bool cli_group_step(struct cli_group *g, uint64_t step)
{
	bool good = true;

	for (int side = 0; side < CLI_SIDES && good; side++) {
		for (uint32_t w = 0; w < g->model.n_workers && good; w++)
			good = begin_member(g, side, &g->members[side][w], w, step);
	}
	good = good && run_rounds(g);
	for (int side = 0; side < CLI_SIDES; side++) {
		cli_side_finish(&g->t->sides[side]);
		for (uint32_t w = 0; w < g->model.n_workers; w++)
			cli_group_free_messages(g, side, &g->members[side][w]);
	}
	return good;
}
