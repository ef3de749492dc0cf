/*
 * Epochnorm: high rank while the sum of gradients over a window changes much from window to
 * window, low rank else. High too at the beginning, and after a drop of the learning rate. It
 * decides for the unit (an epoch, or a step) that follows.
 *
 * A window is one epoch out of `stride`, or `stride` steps on end.
 */
#include "control/control.h"

#include <math.h>

/* What a decision says, so that it can be repeated; texts by number, as state must be. */
enum regime { FORCE_MAX = 0, RANK_COOLDOWN, CRITICAL, NOT_CRITICAL, INSUFFICIENT, N_REGIMES };

static const char *const regimes[N_REGIMES] = {
	"force_max", "rank_cooldown", "critical", "not_critical", "insufficient_history"};

struct state {
	struct psgd__rate_watch rate;
	double past; /* of the last decision point, per gradient in the sum; NaN: not known */
	uint64_t past_unit;		 /* and when that was */
	uint64_t drop_unit, change_unit; /* the unit that was decided for then */
	double value, threshold;	 /* of the last decision */
	uint32_t regime;
	uint8_t has_dropped, has_changed, high, reserved;
};

struct epochnorm {
	struct psgd_epochnorm_options options;
	uint32_t min_rank, max_rank;
	struct state s;
};

static enum regime decide(
	const struct psgd__epochnorm_facts *facts, struct psgd__choice_verdict *out)
{
	if (facts->now < facts->force_max || facts->in_lr_cooldown) {
		out->rank = facts->max;
		return FORCE_MAX;
	}
	if (facts->in_rank_cooldown)
		return RANK_COOLDOWN;
	if (!isfinite(facts->norm) || !isfinite(facts->past) || facts->past <= 0.0)
		return INSUFFICIENT;
	out->value = fabs(facts->norm - facts->past) / facts->past;
	out->threshold = facts->threshold;
	out->rank = out->value >= out->threshold ? facts->max : facts->min;
	return out->value >= out->threshold ? CRITICAL : NOT_CRITICAL;
}

uint32_t psgd__epochnorm_decide(
	const struct psgd__epochnorm_facts *facts, struct psgd__choice_verdict *out)
{
	enum regime regime;

	*out = (struct psgd__choice_verdict){
		.rank = facts->current, .value = NAN, .threshold = NAN};
	regime = decide(facts, out);
	out->regime = regimes[regime];
	return regime;
}

static bool is_window_end(const struct epochnorm *e, uint64_t step, uint64_t epoch, bool epoch_end)
{
	return psgd__window_ends(e->options.in_steps, e->options.stride, step, epoch, epoch_end);
}

static uint32_t epochnorm_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	const struct epochnorm *e = self;
	uint32_t needs = PSGD_NEED_GRAD_SUM;

	if (is_window_end(e, step, epoch, epoch_end))
		return needs | PSGD_NEED_DECISION | PSGD_NEED_GRAD_NORM;
	/* At an epoch's end the next sum begins; and a drop of the learning rate may be anywhere.
	 */
	if (e->options.in_steps ? e->options.lr_cooldown != 0 : epoch_end)
		needs |= PSGD_NEED_DECISION;
	return needs;
}

static bool decide_window(const struct epochnorm *e, const struct psgd_observation *seen,
	uint64_t now, struct state *s)
{
	uint64_t unit = e->options.in_steps ? seen->step : seen->epoch;
	double norm =
		seen->grad_sum_steps ? seen->grad_sum_norm / (double)seen->grad_sum_steps : NAN;
	bool follows = unit - s->past_unit == e->options.stride;
	struct psgd__choice_verdict verdict;
	struct psgd__epochnorm_facts facts = {
		.now = now,
		.force_max = e->options.force_max,
		.in_lr_cooldown = s->has_dropped && now - s->drop_unit < e->options.lr_cooldown,
		/* Inclusive: with equal stride and cooldown, the decision after a change holds. */
		.in_rank_cooldown = s->has_changed && e->options.rank_cooldown &&
				    now - s->change_unit <= e->options.rank_cooldown,
		.norm = norm,
		.past = follows ? s->past : NAN,
		.threshold = e->options.threshold,
		.current = s->high ? e->max_rank : e->min_rank,
		.min = e->min_rank,
		.max = e->max_rank,
	};

	s->regime = psgd__epochnorm_decide(&facts, &verdict);
	s->value = verdict.value;
	s->threshold = verdict.threshold;
	s->past = norm;
	s->past_unit = unit;
	return verdict.rank == e->max_rank;
}

static psgd_status epochnorm_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	struct epochnorm *e = self;
	struct state *s = &e->s;
	uint64_t now = e->options.in_steps ? psgd__next_step(seen) : psgd__next_epoch(seen);
	bool window = false;

	if (!seen->first) {
		bool dropped = psgd__rate_dropped(&s->rate, seen) && e->options.lr_cooldown;
		bool high = s->high;

		window = is_window_end(e, seen->step, seen->epoch, seen->epoch_end);
		if (dropped) {
			s->has_dropped = true;
			s->drop_unit = now;
			s->regime = FORCE_MAX;
			s->value = s->threshold = NAN;
			high = true;
		}
		if (window)
			high = decide_window(e, seen, now, s);
		if (high != s->high) {
			s->has_changed = true;
			s->change_unit = now;
		}
		s->high = high;
	}
	out->rank = s->high ? e->max_rank : e->min_rank;
	out->regime = regimes[s->regime];
	out->value = s->value;
	out->threshold = s->threshold;
	out->reset_grad_sum = e->options.in_steps ? window : !seen->first && seen->epoch_end;
	return PSGD_OK;
}

static bool possible(const void *self, const void *data, size_t n)
{
	const struct state *s = data;

	(void)self, (void)n;
	return s->regime < N_REGIMES && s->high <= 1;
}

static size_t epochnorm_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct epochnorm *e = self;

	pieces[0] = (struct psgd__state_piece){
		"control/epochnorm", &e->s, sizeof(e->s), NULL, possible};
	return 1;
}

/* One window: 0 is the default, unless `none` says that it is really 0. */
static psgd_status take_window(uint64_t *units, uint64_t usual, bool in_steps, const bool *none,
	const char *name, const struct psgd__refusal *refusal)
{
	if (none && *none) {
		if (*units)
			return psgd__refuse(refusal,
				"epochnorm.%s is %llu, but epochnorm.no_%s is set", name,
				(unsigned long long)*units, name);
		return PSGD_OK;
	}
	if (!*units && in_steps)
		return psgd__refuse(
			refusal, "epochnorm.%s is 0; windows in steps have no default", name);
	if (!*units)
		*units = usual;
	return PSGD_OK;
}

static psgd_status take_options(
	struct psgd_epochnorm_options *in, const struct psgd__refusal *refusal)
{
	bool steps = in->in_steps, no_force = in->no_force_max, no_rank = in->no_rank_cooldown,
	     no_lr = in->no_lr_cooldown;

	PSGD__TRY(take_window(&in->force_max, 20, steps, &no_force, "force_max", refusal));
	PSGD__TRY(take_window(&in->stride, 10, steps, NULL, "stride", refusal));
	PSGD__TRY(take_window(&in->rank_cooldown, 10, steps, &no_rank, "rank_cooldown", refusal));
	PSGD__TRY(take_window(&in->lr_cooldown, 20, steps, &no_lr, "lr_cooldown", refusal));
	if (!isfinite(in->threshold) || in->threshold < 0.0)
		return psgd__refuse(refusal,
			"epochnorm.threshold is %g; it must be finite and above 0", in->threshold);
	if (in->threshold == 0.0)
		in->threshold = 0.5;
	return PSGD_OK;
}

psgd_status psgd__choice_epochnorm(const struct psgd_epochnorm_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {
		epochnorm_needs, epochnorm_decide, free, epochnorm_pieces};
	struct psgd_epochnorm_options in;
	struct epochnorm *e;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "epochnorm", refusal));
	PSGD__TRY(psgd__check_reserved(in.reserved, sizeof(in.reserved), "epochnorm", refusal));
	PSGD__TRY(take_options(&in, refusal));
	e = psgd__calloc(1, sizeof(*e));
	if (!e)
		return PSGD_ERR_NOMEM;
	e->options = in;
	e->min_rank = min_rank;
	e->max_rank = max_rank;
	e->s.past = e->s.value = e->s.threshold = NAN;
	e->s.high = true;
	e->s.regime = in.force_max ? FORCE_MAX : INSUFFICIENT;
	*out = (struct psgd__choice){&ops, e};
	return PSGD_OK;
}
