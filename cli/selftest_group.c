/* Groups of random matrices: ranks that change, values that are not finite, states that move.
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdlib.h>

#include "selftest_group.h"

#define STEPS 4
#define MOST_RANK 64

bool cli_group_ok(
	struct cli_group *g, enum cli_claim claim, psgd_status status, int side, const char *what)
{
	return cli_claim_ok(g->t, claim, status, &g->t->sides[side], what);
}

/* ---- the members ---- */

static psgd_status attach(struct cli_group *g, int side, struct cli_member *m, uint32_t worker)
{
	struct psgd_powersgd_options options = PSGD_INIT(psgd_powersgd_options);
	struct psgd_scope scope = PSGD_INIT(psgd_scope);
	psgd_status status;

	options.rank = 1;
	options.eps = 1e-8;
	options.min_ratio = 1.0;
	status = psgd_compressor_powersgd(&options, &m->compressor);
	if (status < 0)
		return status;
	scope.tensors = g->model.tensors;
	scope.n_tensors = g->model.n;
	scope.device = &g->t->sides[side].device;
	scope.worker = worker;
	scope.n_workers = g->model.n_workers;
	scope.stream = g->t->sides[side].stream;
	status = m->compressor.ops->attach(m->compressor.self, &scope);
	m->attached = status >= 0;
	return status;
}

static void detach(struct cli_member *m)
{
	if (m->attached)
		m->compressor.ops->detach(m->compressor.self);
	m->attached = false;
	psgd_compressor_destroy(&m->compressor);
}

static psgd_status open_member(struct cli_group *g, int side, struct cli_member *m, uint32_t worker)
{
	size_t bytes = g->model.n_values * sizeof(float);

	m->gradients = cli_side_alloc(&g->t->sides[side], bytes);
	if (!m->gradients)
		return PSGD_ERR_NOMEM;
	for (size_t i = 0; i < g->model.n; i++)
		m->grads[i] =
			(struct psgd_grad){g->model.tensors[i].id, m->gradients + g->model.at[i]};
	m->bucket = PSGD_INIT(psgd_bucket);
	m->bucket.grads = m->grads;
	m->bucket.n_grads = g->model.n;
	return attach(g, side, m, worker);
}

static void close_member(struct cli_group *g, int side, struct cli_member *m)
{
	/* What is still on its way uses this memory. */
	cli_side_finish(&g->t->sides[side]);
	cli_group_free_messages(g, side, m);
	detach(m);
	cli_side_free(&g->t->sides[side], m->gradients, g->model.n_values * sizeof(float));
}

/* Of all members; and what they have become. */
static bool set_ranks(struct cli_group *g, const uint32_t *ranks)
{
	const struct psgd_compressor *first = &g->members[CLI_TESTED][0].compressor;

	for (int side = 0; side < CLI_SIDES; side++) {
		for (uint32_t w = 0; w < g->model.n_workers; w++) {
			const struct psgd_compressor *c = &g->members[side][w].compressor;

			if (!cli_group_ok(g, CLI_CLAIM_RANKS, c->ops->set_ranks(c->self, ranks),
				    side, "change of ranks"))
				return false;
		}
	}
	for (size_t i = 0; i < g->model.n; i++)
		g->ranks[i] = first->ops->rank(first->self, i);
	return true;
}

/* The states of the two sides, worker by worker. */
static bool compare_states(struct cli_group *g, enum cli_claim claim, const char *when)
{
	struct cli_arrays arrays[CLI_SIDES] = {{0}};
	bool good = true;

	for (uint32_t w = 0; w < g->model.n_workers && good; w++) {
		const char *name;

		for (int side = 0; side < CLI_SIDES && good; side++)
			good = cli_group_ok(g, claim,
				cli_arrays_save(&arrays[side], &g->members[side][w].compressor),
				side, "save");
		name = good ? cli_arrays_differ(&arrays[CLI_TESTED], &arrays[CLI_REFERENCE]) : NULL;
		if (name) {
			cli_claim_fails(g->t, claim, "%s of worker %u differs %s", name, w, when);
			good = false;
		}
		g->t->checks[claim].n += arrays[CLI_TESTED].n;
		cli_arrays_free(&arrays[CLI_TESTED]);
		cli_arrays_free(&arrays[CLI_REFERENCE]);
	}
	return good;
}

/* ---- the claims beside a step's ---- */

/* A gradient of worker 0 has a value that is not finite: e and Q stay as they are. */
static bool run_poisoned(struct cli_group *g, uint64_t step)
{
	struct cli_arrays before = {0}, after = {0};
	size_t tensor = cli_draw(g->t, 0, (uint32_t)g->model.n - 1);
	const struct psgd_compressor *tested = &g->members[CLI_TESTED][0].compressor;
	const char *name = NULL;
	bool good;

	cli_model_draw(g->t, &g->model);
	/* In its middle. */
	g->model.gradients[0][g->model.at[tensor] +
			      (size_t)(g->model.rows[tensor] * g->model.cols[tensor]) / 2] =
		INFINITY;
	g->poisoned = true;
	good = cli_group_ok(g, CLI_CLAIM_NONFINITE, cli_arrays_save(&before, tested), CLI_TESTED,
		       "save") &&
	       cli_group_step(g, step) &&
	       cli_group_ok(
		       g, CLI_CLAIM_NONFINITE, cli_arrays_save(&after, tested), CLI_TESTED, "save");
	g->poisoned = false;
	if (good)
		name = cli_arrays_differ(&before, &after);
	if (name)
		cli_claim_fails(g->t, CLI_CLAIM_NONFINITE, "%s has changed", name);
	cli_arrays_free(&before);
	cli_arrays_free(&after);
	return good && !name && compare_states(g, CLI_CLAIM_NONFINITE, "after it");
}

/* What worker 0 has on one side, in a new compressor on the other. */
static bool move(struct cli_group *g, int from)
{
	struct cli_member *target = &g->members[!from][0];
	struct cli_arrays saved = {0}, again = {0};
	const char *name = NULL;
	bool good = cli_group_ok(g, CLI_CLAIM_MOVE,
		cli_arrays_save(&saved, &g->members[from][0].compressor), from, "save");

	detach(target);
	good = good &&
	       cli_group_ok(g, CLI_CLAIM_MOVE, attach(g, !from, target, 0), !from, "attach") &&
	       cli_group_ok(g, CLI_CLAIM_MOVE, cli_arrays_load(&saved, &target->compressor), !from,
		       "load") &&
	       cli_group_ok(g, CLI_CLAIM_MOVE, cli_arrays_save(&again, &target->compressor), !from,
		       "save");
	if (good)
		name = cli_arrays_differ(&saved, &again);
	if (name)
		cli_claim_fails(g->t, CLI_CLAIM_MOVE, "%s differs on %s", name,
			from == CLI_TESTED ? "the reference" : "the tested device");
	g->t->checks[CLI_CLAIM_MOVE].n += saved.n;
	cli_arrays_free(&saved);
	cli_arrays_free(&again);
	return good && !name;
}

static bool run_group(struct cli_group *g, uint32_t most_rank)
{
	uint32_t ranks[CLI_SELFTEST_TENSORS];

	for (uint64_t step = 0; step < STEPS; step++) {
		cli_model_draw_ranks(g->t, &g->model, most_rank, ranks);
		if (!set_ranks(g, ranks) ||
			!compare_states(g, CLI_CLAIM_RANKS, "after a change of ranks"))
			return false;
		cli_model_draw(g->t, &g->model);
		if (!cli_group_step(g, step) || !compare_states(g, CLI_CLAIM_STATE, "after a step"))
			return false;
	}
	/* Moved there and back, all goes on. */
	if (!run_poisoned(g, STEPS) || !move(g, CLI_TESTED) || !move(g, CLI_REFERENCE))
		return false;
	cli_model_draw(g->t, &g->model);
	return cli_group_step(g, STEPS + 1) && compare_states(g, CLI_CLAIM_MOVE, "after a step");
}

/* A message is at most all P, or all Q, or all values. */
static size_t most_values(const struct cli_model *model)
{
	size_t n = model->n_values;

	for (size_t i = 0; i < model->n; i++)
		n += (size_t)(model->rows[i] + model->cols[i]) * MOST_RANK;
	return n;
}

static void check_group(struct cli_selftest *t, size_t n_tensors, uint32_t most, uint32_t most_rank)
{
	struct cli_group *g = calloc(1, sizeof(*g));
	bool good = g && cli_model_open(t, &g->model, n_tensors, most,
				 cli_draw(t, 1, CLI_SELFTEST_WORKERS));
	size_t room = good ? most_values(&g->model) : 0;

	if (!g) {
		cli_claim_fails(t, CLI_CLAIM_ABSORB, "out of memory");
		return;
	}
	g->t = t;
	for (int side = 0; side < CLI_SIDES; side++)
		g->host[side] = calloc(room + 1, sizeof(float));
	g->sum = calloc(room + 1, sizeof(float));
	g->absorbed = calloc(room + 1, sizeof(float));
	good = good && g->host[0] && g->host[1] && g->sum && g->absorbed;
	if (!good)
		cli_claim_fails(t, CLI_CLAIM_ABSORB, "out of memory");
	for (int side = 0; side < CLI_SIDES && good; side++) {
		for (uint32_t w = 0; w < g->model.n_workers && good; w++)
			good = cli_group_ok(g, CLI_CLAIM_ABSORB,
				open_member(g, side, &g->members[side][w], w), side, "attach");
	}
	if (good)
		run_group(g, most_rank);
	for (int side = 0; side < CLI_SIDES; side++) {
		for (uint32_t w = 0; w < g->model.n_workers; w++)
			close_member(g, side, &g->members[side][w]);
		free(g->host[side]);
	}
	free(g->sum);
	free(g->absorbed);
	cli_model_close(&g->model);
	free(g);
}

void cli_check_groups(struct cli_selftest *t, uint32_t n_groups)
{
	/* Many small ones, few large ones, odd sizes; the ranks at which code divides. */
	static const struct {
		size_t n;
		uint32_t most, rank;
	} kinds[] = {{1, 301, 64}, {2, 33, 4}, {7, 61, 9}, {1, 129, 33}, {200, 19, 8}, {3, 150, 32},
		{40, 30, 16}, {1, 97, 1}};

	for (uint32_t i = 0; i < n_groups; i++) {
		size_t k = i % CLI_COUNT(kinds);

		check_group(t, kinds[k].n, kinds[k].most, kinds[k].rank);
	}
}
