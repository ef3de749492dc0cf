/*
 * Ema: a candidate up while the gradient is large against its moving average, a candidate down
 * while it is small. The gradient is the mean over an interval, of all tensors together, and what
 * it is compared to is the average before it is taken in.
 */
#include "control/control.h"

#include <math.h>

enum regime { INSUFFICIENT = 0, CRITICAL, RELAXED, HOLD, N_REGIMES };

static const char *const regimes[N_REGIMES] = {
	"insufficient_history", "ema_critical", "ema_relaxed", "ema_hold"};

struct state {
	double sum, weight; /* the average is sum / weight: the start, which is 0, has no part */
	double value, threshold; /* of the last decision */
	uint64_t at;
	uint32_t regime, reserved;
};

struct ema {
	struct psgd_ema_options options;
	struct psgd__candidates candidates;
	struct state s;
};

void psgd__candidates_of_base(
	uint32_t base, uint32_t min_rank, uint32_t max_rank, struct psgd__candidates *out)
{
	uint32_t wanted[3] = {min_rank, base / 2, base};

	if (base == min_rank)
		wanted[2] = min_rank + 1;
	out->n = 0;
	for (size_t i = 0; i < 3; i++) {
		uint32_t rank = wanted[i] < min_rank ? min_rank : wanted[i];

		if (rank > max_rank)
			rank = max_rank;
		if (!out->n || rank > out->rank[out->n - 1])
			out->rank[out->n++] = rank;
	}
}

static bool is_interval_end(const struct ema *e, uint64_t step)
{
	return (step + 1) % e->options.interval_steps == 0;
}

static uint32_t ema_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)epoch, (void)epoch_end;
	return PSGD_NEED_GRAD_SUM |
	       (is_interval_end(self, step) ? PSGD_NEED_DECISION | PSGD_NEED_GRAD_NORM : 0u);
}

static void decide_interval(struct ema *e, double norm)
{
	struct state *s = &e->s;
	double average = s->weight > 0.0 ? s->sum / s->weight : 0.0;

	s->value = s->threshold = NAN;
	s->regime = INSUFFICIENT;
	if (!isfinite(norm))
		return;
	if (average > 0.0) {
		s->value = norm / average;
		s->threshold = e->options.critical;
		s->regime = HOLD;
		if (s->value >= e->options.critical) {
			s->regime = CRITICAL;
			s->at += s->at + 1 < e->candidates.n;
		} else if (s->value <= e->options.relaxed) {
			s->regime = RELAXED;
			s->threshold = e->options.relaxed;
			s->at -= s->at > 0;
		}
	}
	s->sum = e->options.beta * s->sum + (1.0 - e->options.beta) * norm;
	s->weight = e->options.beta * s->weight + (1.0 - e->options.beta);
}

static psgd_status ema_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	struct ema *e = self;

	out->reset_grad_sum = !seen->first && is_interval_end(e, seen->step);
	if (out->reset_grad_sum)
		decide_interval(e, seen->grad_sum_steps
					   ? seen->grad_sum_norm / (double)seen->grad_sum_steps
					   : NAN);
	out->rank = e->candidates.rank[e->s.at];
	out->regime = regimes[e->s.regime];
	out->value = e->s.value;
	out->threshold = e->s.threshold;
	return PSGD_OK;
}

static bool possible(const void *self, const void *data, size_t n)
{
	const struct ema *e = self;
	const struct state *s = data;

	(void)n;
	return s->at < e->candidates.n && s->regime < N_REGIMES;
}

static size_t ema_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct ema *e = self;

	pieces[0] = (struct psgd__state_piece){"control/ema", &e->s, sizeof(e->s), NULL, possible};
	return 1;
}

static psgd_status take_options(struct psgd_ema_options *in, const struct psgd__refusal *refusal)
{
	if (in->beta == 0.0)
		in->beta = 0.9;
	if (in->critical == 0.0)
		in->critical = 1.2;
	if (in->relaxed == 0.0)
		in->relaxed = 0.95;
	if (!in->interval_steps)
		in->interval_steps = 100;
	if (!(in->beta > 0.0 && in->beta < 1.0))
		return psgd__refuse(
			refusal, "ema.beta is %g; it must be above 0 and below 1", in->beta);
	if (!isfinite(in->critical) || !(in->relaxed > 0.0 && in->relaxed < in->critical))
		return psgd__refuse(refusal,
			"ema.relaxed is %g and ema.critical is %g; relaxed must be above 0 and "
			"below critical",
			in->relaxed, in->critical);
	return PSGD_OK;
}

psgd_status psgd__choice_ema(const struct psgd_ema_options *options,
	const struct psgd_rank_control_options *bounds, const struct psgd__candidates *candidates,
	const struct psgd__refusal *refusal, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {ema_needs, ema_decide, free, ema_pieces};
	struct psgd_ema_options in;
	struct ema *e;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "ema", refusal));
	PSGD__TRY(psgd__check_reserved(&in.reserved, sizeof(in.reserved), "ema", refusal));
	PSGD__TRY(take_options(&in, refusal));
	if (!in.base_rank && !candidates->n)
		return psgd__refuse(refusal, "no candidate is between min_rank and max_rank");
	e = psgd__calloc(1, sizeof(*e));
	if (!e)
		return PSGD_ERR_NOMEM;
	e->options = in;
	e->candidates = *candidates;
	if (in.base_rank)
		psgd__candidates_of_base(
			in.base_rank, bounds->min_rank, bounds->max_rank, &e->candidates);
	e->s.at = e->candidates.n - 1;
	e->s.value = e->s.threshold = NAN;
	*out = (struct psgd__choice){&ops, e};
	return PSGD_OK;
}
