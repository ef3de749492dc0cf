/*
 * L-GreCo: Markov, Alim, Frantar, Alistarh, "L-GreCo: Layerwise-adaptive gradient compression for
 * efficient data-parallel deep learning", MLSys 2024. The ranks of all matrices together send the
 * fewest values that leave no more error than one rank for all would; share_budget.c finds them.
 *
 * A tensor that travels dense takes no part: no matrix, or one for which the compressor finds its
 * rank too large. One that was raised to where it travels dense is not raised so far again.
 */
#include "control/control.h"

#include <math.h>

enum regime { START = 0, ADJUSTED, OVER_BUDGET, NO_ERRORS, N_REGIMES };

static const char *const regimes[N_REGIMES] = {
	"lgreco_start", "lgreco", "lgreco_over_budget", "lgreco_hold"};

struct state {
	double value, threshold; /* the error that is left, and the budget */
	uint32_t regime, reserved;
};

struct layer {
	uint32_t rank;
	uint32_t limit; /* by its shape, or below a rank at which it travelled dense; 0: none */
};

struct lgreco {
	struct psgd_lgreco_options options;
	uint32_t low, high; /* ranks that are tried */
	struct state s;
	struct layer *layers; /* one per tensor */
	size_t n_layers;
	uint32_t *ranks;
	size_t capacity;
};

/* Where the sum has to be taken, by the step alone; the rest follows at the last of them. */
static uint32_t lgreco_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	const struct psgd_lgreco_options *o = &((const struct lgreco *)self)->options;
	uint64_t left = o->adjust_steps - 1 - step % o->adjust_steps;

	(void)epoch, (void)epoch_end;
	if (!left)
		return PSGD_NEED_LOCAL_SUM | PSGD_NEED_DECISION | PSGD_NEED_SPECTRUM;
	return left < o->sample_steps ? PSGD_NEED_LOCAL_SUM : 0;
}

static psgd_status fit_layers(struct lgreco *g, const struct psgd_observation *seen)
{
	bool fresh;

	PSGD__TRY(psgd__fit_layers(seen, &g->layers, &g->n_layers, sizeof(*g->layers), &fresh));
	for (size_t i = 0; fresh && i < g->n_layers; i++) {
		int64_t n = 0, m = 0, side;

		g->layers[i].rank = g->options.base_rank;
		if (!psgd__is_matrix(&seen->tensors[i]) ||
			psgd_tensor_matrix(&seen->tensors[i], &n, &m) < 0)
			continue;
		side = n < m ? n : m;
		g->layers[i].limit = side < g->high ? (uint32_t)side : g->high;
		g->layers[i].rank = psgd__lesser(g->options.base_rank, g->layers[i].limit);
	}
	return psgd__grow(&g->ranks, &g->capacity, g->n_layers, sizeof(*g->ranks));
}

/* Does it take part? What travelled dense goes back to base_rank. */
static bool takes_part(struct lgreco *g, const struct psgd_observation *seen, size_t i)
{
	struct layer *layer = &g->layers[i];

	if (!layer->limit)
		return false;
	if (seen->ranks[i])
		return true;
	if (layer->rank > g->options.base_rank)
		layer->limit = layer->rank - 1;
	layer->rank = psgd__lesser(g->options.base_rank, layer->limit);
	return false;
}

/* Errors that do not increase with the rank. False when one is no number. */
static bool smooth(double *error, size_t n)
{
	for (size_t k = 0; k < n; k++) {
		if (!isfinite(error[k]))
			return false;
		error[k] = fmax(0.0, k ? fmin(error[k], error[k - 1]) : error[k]);
	}
	return true;
}

/* The layers that take part: shares[k] is of layer of[k], its errors at errors + k * high. */
struct round {
	struct psgd__share *shares;
	size_t *of, n;
	double *errors;
};

/* *good: false when nothing can be said. */
static psgd_status gather(
	struct lgreco *g, const struct psgd_observation *seen, struct round *round, bool *good)
{
	*good = seen->errors && seen->local_sum_steps;
	for (size_t i = 0; i < g->n_layers && *good; i++) {
		struct psgd__share *share = &round->shares[round->n];
		double *errors = round->errors + round->n * g->high;
		int64_t n, m;

		if (!takes_part(g, seen, i))
			continue;
		share->high = g->layers[i].limit;
		share->low = psgd__lesser(g->low, share->high);
		share->start = psgd__lesser(g->options.base_rank, share->high);
		PSGD__TRY(psgd_tensor_matrix(&seen->tensors[i], &n, &m));
		share->weight = (uint64_t)n + (uint64_t)m;
		PSGD__TRY(seen->errors(seen->plan_user, i, share->high, errors));
		*good = smooth(errors, share->high);
		share->error = errors + share->low - 1;
		round->of[round->n++] = i;
	}
	*good = *good && round->n;
	return PSGD_OK;
}

static psgd_status solve(struct lgreco *g, struct round *round)
{
	double budget;
	bool within;

	for (size_t k = 0; k < round->n; k++)
		round->shares[k].rank = round->shares[k].start;
	budget = g->options.alpha * psgd__shared_error(round->shares, round->n);
	PSGD__TRY(psgd__share_budget(round->shares, round->n, budget, &within));
	g->s.value = psgd__shared_error(round->shares, round->n);
	g->s.threshold = budget;
	g->s.regime = within ? ADJUSTED : OVER_BUDGET;
	return PSGD_OK;
}

static psgd_status adjust(struct lgreco *g, const struct psgd_observation *seen)
{
	struct round round = {
		.shares = psgd__calloc(g->n_layers, sizeof(*round.shares)),
		.of = psgd__calloc(g->n_layers, sizeof(*round.of)),
		.errors = psgd__calloc(g->n_layers, g->high * sizeof(*round.errors)),
	};
	psgd_status status = PSGD_ERR_NOMEM;
	bool good;

	if (!round.shares || !round.of || !round.errors)
		goto out;
	g->s = (struct state){NAN, NAN, NO_ERRORS, 0};
	status = gather(g, seen, &round, &good);
	if (status >= 0 && good)
		status = solve(g, &round);
	for (size_t k = 0; status >= 0 && good && k < round.n; k++)
		g->layers[round.of[k]].rank = round.shares[k].rank;
out:
	free(round.errors);
	free(round.of);
	free(round.shares);
	return status;
}

/* What is no matrix is given the largest rank of the others, so that it is never the largest. */
static uint32_t fill_ranks(const struct lgreco *g)
{
	uint32_t largest = 0;

	for (size_t i = 0; i < g->n_layers; i++) {
		if (g->layers[i].limit && g->layers[i].rank > largest)
			largest = g->layers[i].rank;
	}
	if (!largest)
		largest = g->options.base_rank;
	for (size_t i = 0; i < g->n_layers; i++)
		g->ranks[i] = g->layers[i].limit ? g->layers[i].rank : largest;
	return largest;
}

static psgd_status lgreco_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	struct lgreco *g = self;

	PSGD__TRY(fit_layers(g, seen));
	if (!seen->first && (seen->step + 1) % g->options.adjust_steps == 0) {
		uint64_t before =
			psgd__hash(PSGD__HASH_START, g->layers, g->n_layers * sizeof(*g->layers));

		PSGD__TRY(adjust(g, seen));
		out->moved = before != psgd__hash(PSGD__HASH_START, g->layers,
					       g->n_layers * sizeof(*g->layers));
		out->reset_local_sum = true;
	}
	out->rank = fill_ranks(g);
	out->ranks = g->ranks;
	out->regime = regimes[g->s.regime];
	out->value = g->s.value;
	out->threshold = g->s.threshold;
	return PSGD_OK;
}

static void lgreco_destroy(void *self)
{
	struct lgreco *g = self;

	free(g->layers);
	free(g->ranks);
	free(g);
}

static bool state_possible(const void *self, const void *data, size_t n)
{
	(void)self, (void)n;
	return ((const struct state *)data)->regime < N_REGIMES;
}

static bool layers_possible(const void *self, const void *data, size_t n)
{
	const struct lgreco *g = self;
	const struct layer *layers = data;

	if (n && g->n_layers && n != g->n_layers)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!layers[i].rank || layers[i].rank > g->high || layers[i].limit > g->high)
			return false;
	}
	return true;
}

static size_t lgreco_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct lgreco *g = self;

	pieces[0] = (struct psgd__state_piece){
		"control/lgreco", &g->s, sizeof(g->s), NULL, state_possible};
	pieces[1] = (struct psgd__state_piece){"control/lgreco/layers", &g->layers,
		sizeof(*g->layers), &g->n_layers, layers_possible};
	return 2;
}

static psgd_status take_options(struct psgd_lgreco_options *in, const struct psgd__refusal *refusal)
{
	if (!in->adjust_steps)
		in->adjust_steps = 100;
	if (!in->sample_steps)
		in->sample_steps = in->adjust_steps < 10 ? in->adjust_steps : 10;
	if (in->alpha == 0.0)
		in->alpha = 1.0;
	if (in->low == 0.0)
		in->low = 0.5;
	if (in->high == 0.0)
		in->high = 2.0;
	if (!in->base_rank)
		in->base_rank = 4;
	if (in->sample_steps > in->adjust_steps)
		return psgd__refuse(refusal,
			"lgreco.sample_steps is %llu, above lgreco.adjust_steps, which is %llu",
			(unsigned long long)in->sample_steps, (unsigned long long)in->adjust_steps);
	if (!isfinite(in->alpha) || in->alpha < 0.0)
		return psgd__refuse(
			refusal, "lgreco.alpha is %g; it must be finite and above 0", in->alpha);
	if (!(in->low > 0.0 && in->low <= 1.0) || !(in->high >= 1.0 && in->high <= 1e6))
		return psgd__refuse(refusal,
			"lgreco.low is %g and lgreco.high is %g; low must be above 0 and at most "
			"1, and high from 1 to 1e6",
			in->low, in->high);
	return PSGD_OK;
}

static uint32_t bounded(double rank, uint32_t min_rank, uint32_t max_rank)
{
	return rank <= min_rank ? min_rank : rank >= max_rank ? max_rank : (uint32_t)rank;
}

psgd_status psgd__choice_lgreco(const struct psgd_lgreco_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {
		lgreco_needs, lgreco_decide, lgreco_destroy, lgreco_pieces};
	struct psgd_lgreco_options in;
	struct lgreco *g;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "lgreco", refusal));
	PSGD__TRY(psgd__check_reserved(&in.reserved, sizeof(in.reserved), "lgreco", refusal));
	PSGD__TRY(take_options(&in, refusal));
	g = psgd__calloc(1, sizeof(*g));
	if (!g)
		return PSGD_ERR_NOMEM;
	in.base_rank = bounded(in.base_rank, min_rank, max_rank);
	g->options = in;
	g->low = bounded(floor(in.low * in.base_rank), min_rank, max_rank);
	g->high = bounded(ceil(in.high * in.base_rank), min_rank, max_rank);
	if (g->high - g->low > UINT16_MAX)
		g->high = g->low + UINT16_MAX;
	g->s.value = g->s.threshold = NAN;
	*out = (struct psgd__choice){&ops, g};
	return PSGD_OK;
}
