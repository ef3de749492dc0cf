/*
 * Epochnorm: high rank while the sum of gradients over a window changes much from window to
 * window, low rank else. High too at the beginning, and after a drop of the learning rate. It
 * decides for the unit (an epoch, or a step) that follows.
 *
 * A window is one epoch out of `stride`, or `stride` steps on end.
 */
#include "control/control.h"

#include <math.h>

/*
 * A drop of the learning rate is sudden: a fall to below DROP of what it was at the decision
 * before, and by more than the fall over the whole epoch before to the power of SUDDEN. The last
 * epochs of a cosine fall as steeply, but each little more than the one before it.
 */
#define DROP 0.8
#define SUDDEN 4

struct rate_watch {
	double last;			    /* at the decision before; 0: never given */
	double epoch_end, epoch_end_before; /* of the last two epochs that ended; 0: not known */
	uint64_t epoch;
};

struct epochnorm {
	struct psgd_epochnorm_options options;
	uint32_t min_rank, max_rank;
	struct rate_watch rate;
	struct psgd__choice_verdict last;
	double past; /* of the last decision point, per gradient in the sum; NaN: not known */
	uint64_t past_unit;		 /* and when that was */
	uint64_t drop_unit, change_unit; /* the unit that was decided for then */
	bool has_dropped, has_changed, high;
};

struct psgd__choice_verdict psgd__epochnorm_decide(const struct psgd__epochnorm_facts *facts)
{
	struct psgd__choice_verdict out = {.rank = facts->current, .value = NAN, .threshold = NAN};

	if (facts->now < facts->force_max || facts->in_lr_cooldown) {
		out.rank = facts->max;
		out.regime = "force_max";
	} else if (facts->in_rank_cooldown) {
		out.regime = "rank_cooldown";
	} else if (isfinite(facts->norm) && isfinite(facts->past) && facts->past > 0.0) {
		out.value = fabs(facts->norm - facts->past) / facts->past;
		out.threshold = facts->threshold;
		out.rank = out.value >= out.threshold ? facts->max : facts->min;
		out.regime = out.value >= out.threshold ? "critical" : "not_critical";
	} else {
		out.regime = "insufficient_history";
	}
	return out;
}

static bool is_window_end(const struct epochnorm *e, uint64_t step, uint64_t epoch, bool epoch_end)
{
	if (e->options.in_steps)
		return (step + 1) % e->options.stride == 0;
	return epoch_end && epoch % e->options.stride == 0;
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

/* True when the learning rate has dropped. */
static bool watch_rate(struct rate_watch *rate, const struct psgd_observation *seen)
{
	double now = seen->learning_rate, fall, before = 1.0, sudden = 1.0;

	if (!isfinite(now) || now <= 0.0)
		return false;
	if (rate->last > 0.0 && seen->epoch != rate->epoch) {
		rate->epoch_end_before = rate->epoch_end;
		rate->epoch_end = rate->last;
	}
	fall = rate->last > 0.0 ? now / rate->last : 1.0;
	if (rate->epoch_end_before > 0.0)
		before = fmin(rate->epoch_end / rate->epoch_end_before, 1.0);
	for (int i = 0; i < SUDDEN; i++)
		sudden *= before;
	rate->last = now;
	rate->epoch = seen->epoch;
	return fall < DROP && fall < sudden;
}

static void decide_window(struct epochnorm *e, const struct psgd_observation *seen, uint64_t now)
{
	uint64_t unit = e->options.in_steps ? seen->step : seen->epoch;
	double norm =
		seen->grad_sum_steps ? seen->grad_sum_norm / (double)seen->grad_sum_steps : NAN;
	bool follows = unit - e->past_unit == e->options.stride;
	struct psgd__epochnorm_facts facts = {
		.now = now,
		.force_max = e->options.force_max,
		.in_lr_cooldown = e->has_dropped && now - e->drop_unit < e->options.lr_cooldown,
		/* Inclusive: with equal stride and cooldown, the decision after a change holds. */
		.in_rank_cooldown = e->has_changed && e->options.rank_cooldown &&
				    now - e->change_unit <= e->options.rank_cooldown,
		.norm = norm,
		.past = follows ? e->past : NAN,
		.threshold = e->options.threshold,
		.current = e->high ? e->max_rank : e->min_rank,
		.min = e->min_rank,
		.max = e->max_rank,
	};

	e->last = psgd__epochnorm_decide(&facts);
	e->past = norm;
	e->past_unit = unit;
}

static void epochnorm_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	struct epochnorm *e = self;
	uint64_t now = e->options.in_steps ? psgd__next_step(seen) : psgd__next_epoch(seen);
	bool window = false, high;

	if (!seen->first) {
		bool dropped = watch_rate(&e->rate, seen) && e->options.lr_cooldown;

		window = is_window_end(e, seen->step, seen->epoch, seen->epoch_end);
		if (dropped) {
			e->has_dropped = true;
			e->drop_unit = now;
			e->last = (struct psgd__choice_verdict){
				e->max_rank, "force_max", NAN, NAN, false};
		}
		if (window)
			decide_window(e, seen, now);
		high = e->last.rank == e->max_rank;
		if (high != e->high) {
			e->has_changed = true;
			e->change_unit = now;
		}
		e->high = high;
	}
	*out = e->last;
	out->reset_grad_sum = e->options.in_steps ? window : !seen->first && seen->epoch_end;
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
	static const struct psgd__choice_ops ops = {epochnorm_needs, epochnorm_decide, free};
	struct psgd_epochnorm_options in;
	struct epochnorm *e;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "epochnorm", refusal));
	PSGD__TRY(take_options(&in, refusal));
	e = psgd__calloc(1, sizeof(*e));
	if (!e)
		return PSGD_ERR_NOMEM;
	e->options = in;
	e->min_rank = min_rank;
	e->max_rank = max_rank;
	e->past = NAN;
	e->high = true;
	e->last = (struct psgd__choice_verdict){
		max_rank, in.force_max ? "force_max" : "insufficient_history", NAN, NAN, false};
	*out = (struct psgd__choice){&ops, e};
	return PSGD_OK;
}
