/*
 * Entropy: the windowed rule of EDGC ("EDGC: Entropy-driven dynamic gradient compression for
 * efficient LLM training"), with its limit on how far the rank moves at once. While the entropy of
 * the gradient still changes as much as between the first two windows, the rank is at its maximum;
 * the less it changes, the nearer it is to its minimum.
 */
#include "control/control.h"

#include <math.h>

enum regime { INSUFFICIENT = 0, ENTROPY, SLEW, N_REGIMES };

static const char *const regimes[N_REGIMES] = {"insufficient_history", "entropy", "entropy_slew"};

struct state {
	double sum;    /* of the window's samples */
	double before; /* mean of the window before; NaN: not known */
	double first;  /* the change that others are relative to; 0: not known */
	double value, threshold;
	uint64_t samples, changes; /* of this window; known so far */
	uint32_t rank, regime;
};

struct entropy {
	struct psgd_entropy_options options;
	uint32_t min_rank, max_rank;
	struct state s;
};

static bool is_sample(const struct entropy *e, uint64_t step)
{
	return (step + 1) % e->options.sample_every == 0;
}

static bool is_window_end(const struct entropy *e, uint64_t step)
{
	return (step + 1) % e->options.window_steps == 0;
}

static uint32_t entropy_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)epoch, (void)epoch_end;
	if (is_sample(self, step))
		return PSGD_NEED_DECISION | PSGD_NEED_ENTROPY;
	return is_window_end(self, step) ? PSGD_NEED_DECISION : 0;
}

/* A multiple of round_to from min_rank to max_rank, at a share of the way up. */
static uint32_t target_of(const struct entropy *e, double share)
{
	double way = (double)(e->max_rank - e->min_rank) * fmin(share, 1.0);
	uint32_t rank = e->min_rank + (uint32_t)floor(way + 0.5);

	/* The bounds are places to be, whatever they are multiples of. */
	if (rank < e->max_rank)
		rank -= rank % e->options.round_to;
	return rank < e->min_rank ? e->min_rank : rank;
}

/* As far towards the target as one window allows, at a multiple of round_to on the way. */
static uint32_t slewed(const struct entropy *e, uint32_t from, uint32_t to)
{
	uint32_t slew = e->options.slew, unit = e->options.round_to, rank;

	if (to > from && to - from > slew) {
		rank = from + slew;
		return rank - rank % unit;
	}
	if (from > to && from - to > slew) {
		rank = from - slew;
		return rank % unit ? rank + unit - rank % unit : rank;
	}
	return to;
}

static void decide_window(struct entropy *e)
{
	struct state *s = &e->s;
	double mean = s->samples ? s->sum / (double)s->samples : NAN;
	double change = fabs(mean - s->before);

	s->value = s->threshold = NAN;
	s->regime = INSUFFICIENT;
	if (isfinite(change) && s->changes++ == 0) {
		s->first = change;
	} else if (isfinite(change)) {
		uint32_t to;

		/* Nothing had changed between the first two: this is the change to go by. */
		if (s->first == 0.0)
			s->first = change;
		s->value = change;
		s->threshold = s->first;
		to = target_of(e, s->first > 0.0 ? change / s->first : 0.0);
		s->rank = slewed(e, s->rank, to);
		s->regime = s->rank == to ? ENTROPY : SLEW;
	}
	s->before = mean;
	s->sum = 0.0;
	s->samples = 0;
}

static psgd_status entropy_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	struct entropy *e = self;
	struct state *s = &e->s;

	if (!seen->first && is_sample(e, seen->step) && isfinite(seen->entropy)) {
		s->sum += seen->entropy;
		s->samples++;
	}
	if (!seen->first && is_window_end(e, seen->step))
		decide_window(e);
	out->rank = s->rank;
	out->regime = regimes[s->regime];
	out->value = s->value;
	out->threshold = s->threshold;
	return PSGD_OK;
}

static bool possible(const void *self, const void *data, size_t n)
{
	const struct entropy *e = self;
	const struct state *s = data;

	(void)n;
	return s->regime < N_REGIMES && s->rank >= e->min_rank && s->rank <= e->max_rank;
}

static size_t entropy_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct entropy *e = self;

	pieces[0] =
		(struct psgd__state_piece){"control/entropy", &e->s, sizeof(e->s), NULL, possible};
	return 1;
}

static psgd_status take_options(
	struct psgd_entropy_options *in, const struct psgd__refusal *refusal)
{
	if (!in->window_steps)
		in->window_steps = 1000;
	if (!in->sample_every)
		in->sample_every = in->window_steps < 10 ? in->window_steps : 10;
	if (!in->slew)
		in->slew = in->round_to > 4 ? in->round_to : 4;
	if (!in->round_to)
		in->round_to = in->slew < 2 ? 1 : 2;
	if (in->sample_every > in->window_steps)
		return psgd__refuse(refusal,
			"entropy.sample_every is %llu, above entropy.window_steps, which is %llu",
			(unsigned long long)in->sample_every, (unsigned long long)in->window_steps);
	if (in->slew < in->round_to)
		return psgd__refuse(refusal,
			"entropy.slew is %u, below entropy.round_to, which is %u", in->slew,
			in->round_to);
	return PSGD_OK;
}

psgd_status psgd__choice_entropy(const struct psgd_entropy_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {
		entropy_needs, entropy_decide, free, entropy_pieces};
	struct psgd_entropy_options in;
	struct entropy *e;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "entropy", refusal));
	PSGD__TRY(take_options(&in, refusal));
	e = psgd__calloc(1, sizeof(*e));
	if (!e)
		return PSGD_ERR_NOMEM;
	e->options = in;
	e->min_rank = min_rank;
	e->max_rank = max_rank;
	e->s.rank = max_rank;
	e->s.before = e->s.value = e->s.threshold = NAN;
	*out = (struct psgd__choice){&ops, e};
	return PSGD_OK;
}
