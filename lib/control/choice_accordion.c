/*
 * Accordion: Agarwal, Wang, Lee, Venkataraman, Papailiopoulos, "Adaptive gradient communication via
 * critical learning regime identification", MLSys 2021. Each layer is at max_rank while its
 * gradient changes much from window to window, and at min_rank else. The gradients are worker 0's
 * own, before compression, so that the measure does not depend on the rank that it controls.
 *
 * Tensors that are no matrices take no part: what they are given is the largest of the others.
 */
#include "control/control.h"

#include <math.h>

enum regime { INSUFFICIENT = 0, LR_DROP, CRITICAL, NOT_CRITICAL, N_REGIMES };

static const char *const regimes[N_REGIMES] = {
	"insufficient_history", "lr_drop", "critical", "not_critical"};

#define FROM_NOTHING 9.0 /* the change to a gradient that was zero before */

struct state {
	struct psgd__rate_watch rate;
	uint64_t windows;	 /* that have ended */
	uint64_t past_unit;	 /* when the last one did */
	uint64_t forced_to;	 /* no layer leaves max_rank before this unit */
	double value, threshold; /* the largest change of a layer, at the last decision */
	uint32_t regime, reserved;
};

struct layer {
	double past; /* of the last window, per gradient in the sum; NaN: not known */
	uint64_t high;
};

struct accordion {
	struct psgd_accordion_options options;
	uint32_t min_rank, max_rank;
	struct state s;
	struct layer *layers; /* one per tensor */
	size_t n_layers;
	uint32_t *ranks;
	size_t capacity;
};

static bool is_window_end(const struct accordion *a, uint64_t step, uint64_t epoch, bool epoch_end)
{
	return psgd__window_ends(a->options.in_steps, a->options.stride, step, epoch, epoch_end);
}

/* The sum may depend on the step alone, so it goes on in epochs that are in no window. */
static uint32_t accordion_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	const struct accordion *a = self;
	uint32_t needs = PSGD_NEED_LOCAL_SUM;

	if (is_window_end(a, step, epoch, epoch_end))
		return needs | PSGD_NEED_DECISION | PSGD_NEED_LOCAL_NORMS;
	/* A drop of the learning rate may be anywhere, and an epoch's end begins the next sum. */
	if (!a->options.no_lr_drop || (!a->options.in_steps && epoch_end))
		needs |= PSGD_NEED_DECISION;
	return needs;
}

static psgd_status fit_layers(struct accordion *a, const struct psgd_observation *seen)
{
	bool fresh;

	PSGD__TRY(psgd__fit_layers(seen, &a->layers, &a->n_layers, sizeof(*a->layers), &fresh));
	for (size_t i = 0; fresh && i < a->n_layers; i++)
		a->layers[i] = (struct layer){NAN, true};
	return psgd__grow(&a->ranks, &a->capacity, a->n_layers, sizeof(*a->ranks));
}

static bool set_high(struct layer *layer, bool high)
{
	bool moved = (layer->high != 0) != high;

	layer->high = high;
	return moved;
}

/* True when a rank has changed. */
static bool all_high(struct accordion *a)
{
	bool moved = false;

	for (size_t i = 0; i < a->n_layers; i++)
		moved |= set_high(&a->layers[i], true);
	return moved;
}

/* The layers by their changes; `follows`: the window before is the one to compare with. */
static bool by_changes(struct accordion *a, const struct psgd_observation *seen, bool follows)
{
	bool moved = false;

	for (size_t i = 0; i < a->n_layers; i++) {
		struct layer *layer = &a->layers[i];
		double now = seen->local_norms[i] / (double)seen->local_sum_steps, change;

		if (!psgd__is_matrix(&seen->tensors[i]) || !follows || !isfinite(now) ||
			!isfinite(layer->past))
			continue;
		change = layer->past > 0.0 ? fabs(layer->past - now) / layer->past : FROM_NOTHING;
		moved |= set_high(layer, change >= a->options.threshold);
		if (!(change <= a->s.value))
			a->s.value = change;
	}
	if (isnan(a->s.value)) {
		a->s.regime = INSUFFICIENT;
	} else {
		a->s.threshold = a->options.threshold;
		a->s.regime = a->s.value >= a->options.threshold ? CRITICAL : NOT_CRITICAL;
	}
	return moved;
}

static bool decide_window(struct accordion *a, const struct psgd_observation *seen, uint64_t unit)
{
	struct state *s = &a->s;
	bool known = seen->local_norms && seen->local_sum_steps, moved = false;
	bool follows = s->windows && unit - s->past_unit == a->options.stride;

	if (unit >= s->forced_to && known) {
		s->value = s->threshold = NAN;
		moved = by_changes(a, seen, follows);
	}
	for (size_t i = 0; i < a->n_layers; i++)
		a->layers[i].past =
			known ? seen->local_norms[i] / (double)seen->local_sum_steps : NAN;
	s->windows++;
	s->past_unit = unit;
	return moved;
}

static uint32_t fill_ranks(const struct accordion *a, const struct psgd_tensor *tensors)
{
	uint32_t largest = a->min_rank;

	for (size_t i = 0; i < a->n_layers; i++) {
		if (psgd__is_matrix(&tensors[i]) && a->layers[i].high)
			largest = a->max_rank;
	}
	for (size_t i = 0; i < a->n_layers; i++)
		a->ranks[i] = !psgd__is_matrix(&tensors[i]) ? largest
			      : a->layers[i].high	    ? a->max_rank
							    : a->min_rank;
	return largest;
}

static psgd_status accordion_decide(
	void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out)
{
	struct accordion *a = self;
	struct state *s = &a->s;

	PSGD__TRY(fit_layers(a, seen));
	if (!seen->first) {
		uint64_t stride = a->options.stride;
		uint64_t unit = a->options.in_steps ? seen->step + 1 : seen->epoch;
		bool window = is_window_end(a, seen->step, seen->epoch, seen->epoch_end);

		if (psgd__rate_dropped(&s->rate, seen) && !a->options.no_lr_drop) {
			s->forced_to = (unit / stride + 1) * stride;
			s->regime = LR_DROP;
			s->value = s->threshold = NAN;
			out->moved = all_high(a);
		}
		if (window)
			out->moved |= decide_window(a, seen, unit);
		out->reset_local_sum = a->options.in_steps ? window : seen->epoch_end;
	}
	out->rank = fill_ranks(a, seen->tensors);
	out->ranks = a->ranks;
	out->regime = regimes[s->regime];
	out->value = s->value;
	out->threshold = s->threshold;
	return PSGD_OK;
}

static void accordion_destroy(void *self)
{
	struct accordion *a = self;

	free(a->layers);
	free(a->ranks);
	free(a);
}

static bool possible(const void *self, const void *data, size_t n)
{
	(void)self, (void)n;
	return ((const struct state *)data)->regime < N_REGIMES;
}

/* Layers of another session are found out here once the own are known, and else by fit_layers. */
static bool layers_possible(const void *self, const void *data, size_t n)
{
	const struct accordion *a = self;

	(void)data;
	return !n || !a->n_layers || n == a->n_layers;
}

static size_t accordion_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct accordion *a = self;

	pieces[0] = (struct psgd__state_piece){
		"control/accordion", &a->s, sizeof(a->s), NULL, possible};
	pieces[1] = (struct psgd__state_piece){"control/accordion/layers", &a->layers,
		sizeof(*a->layers), &a->n_layers, layers_possible};
	return 2;
}

psgd_status psgd__choice_accordion(const struct psgd_accordion_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out)
{
	static const struct psgd__choice_ops ops = {
		accordion_needs, accordion_decide, accordion_destroy, accordion_pieces};
	struct psgd_accordion_options in;
	struct accordion *a;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "accordion", refusal));
	if (!isfinite(in.threshold) || in.threshold < 0.0)
		return psgd__refuse(refusal,
			"accordion.threshold is %g; it must be finite and above 0", in.threshold);
	PSGD__TRY(psgd__check_reserved(in.reserved, sizeof(in.reserved), "accordion", refusal));
	if (in.in_steps && !in.stride)
		return psgd__refuse(
			refusal, "accordion.stride is 0; windows in steps have no default");
	a = psgd__calloc(1, sizeof(*a));
	if (!a)
		return PSGD_ERR_NOMEM;
	a->options = in;
	if (in.threshold == 0.0)
		a->options.threshold = 0.5;
	if (!in.stride)
		a->options.stride = 10;
	a->min_rank = min_rank;
	a->max_rank = max_rank;
	a->s.value = a->s.threshold = NAN;
	*out = (struct psgd__choice){&ops, a};
	return PSGD_OK;
}
