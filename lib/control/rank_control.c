/* The rank control: checks the options, and puts a choice under a cap. */
#include "control/control.h"

#include <math.h>
#include <string.h>

/* Of the decision before. */
struct past {
	uint32_t chosen;
	uint32_t has_chosen;
};

struct rank_control {
	struct psgd__candidates candidates;
	struct psgd__choice choice;
	struct psgd__cap cap; /* ops NULL: none */
	struct past past;
};

psgd_status psgd__refuse(const struct psgd__refusal *refusal, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	psgd__vtext(refusal->text, refusal->bytes, format, args);
	va_end(args);
	return PSGD_ERR_INVALID;
}

psgd_status psgd__take_options(void *to, size_t to_size, const void *from, const char *name,
	const struct psgd__refusal *refusal)
{
	if (psgd__copy_options(to, to_size, from) < 0)
		return psgd__refuse(refusal,
			"%s: size is wrong, or a field is set that this library does not know",
			name);
	return PSGD_OK;
}

psgd_status psgd__check_reserved(
	const void *reserved, size_t bytes, const char *name, const struct psgd__refusal *refusal)
{
	for (size_t i = 0; i < bytes; i++) {
		if (((const unsigned char *)reserved)[i])
			return psgd__refuse(refusal, "%s.reserved is not 0", name);
	}
	return PSGD_OK;
}

psgd_status psgd__check_share(double *share, const char *name, const struct psgd__refusal *refusal)
{
	if (!isfinite(*share) || *share < 0.0 || *share > 1.0)
		return psgd__refuse(refusal, "%s is %g; a share of a step is above 0 and at most 1",
			name, *share);
	if (*share == 0.0)
		*share = 0.30;
	return PSGD_OK;
}

static uint32_t control_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	const struct rank_control *control = self;
	uint32_t needs = control->choice.ops->needs(control->choice.self, step, epoch, epoch_end);

	if (control->cap.ops)
		needs |= control->cap.ops->needs(
			control->cap.self, step, needs & PSGD_NEED_DECISION);
	return needs;
}

/*
 * Whose rule made this decision. The cap's, when it moved or holds the choice down; the choice's,
 * when that is what changed, so that the record of a rank change names its cause.
 */
static bool cap_speaks(const struct psgd__cap_verdict *cap, uint32_t choice, bool choice_changed)
{
	if (!cap->regime)
		return false;
	if (choice_changed)
		return cap->moved && cap->rank < choice;
	return cap->moved || cap->rank < choice;
}

static psgd_status control_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	struct rank_control *control = self;
	struct psgd__choice_verdict choice = {.value = NAN, .threshold = NAN};
	struct psgd__cap_verdict cap = {.rank = PSGD_RANK_DENSE,
		.value = NAN,
		.threshold = NAN,
		.delay_ns = NAN,
		.ns_per_byte = NAN,
		.predicted_exposed = NAN};
	bool changed, by_cap;
	uint32_t rank;

	if (control->cap.ops)
		PSGD__TRY(control->cap.ops->decide(control->cap.self, seen, &cap));
	PSGD__TRY(control->choice.ops->decide(control->choice.self, seen, &choice));
	changed = choice.moved || (control->past.has_chosen && choice.rank != control->past.chosen);
	control->past = (struct past){choice.rank, true};
	by_cap = cap_speaks(&cap, choice.rank, changed);
	rank = psgd__lesser(cap.rank, choice.rank);

	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] =
			psgd__public(choice.ranks ? psgd__lesser(cap.rank, choice.ranks[i]) : rank);
	out->regime = by_cap ? cap.regime : choice.regime;
	out->value = by_cap ? cap.value : choice.value;
	out->threshold = by_cap ? cap.threshold : choice.threshold;
	out->link_delay_ns = cap.delay_ns;
	out->link_ns_per_byte = cap.ns_per_byte;
	out->predicted_exposed = cap.predicted_exposed;
	out->rank = psgd__public(rank);
	out->cap = cap.rank;
	out->choice = choice.rank;
	out->reset_grad_sum = choice.reset_grad_sum;
	out->reset_local_sum = choice.reset_local_sum;
	return PSGD_OK;
}

static void control_destroy(void *self)
{
	struct rank_control *control = self;

	if (control->cap.ops)
		control->cap.ops->destroy(control->cap.self);
	if (control->choice.ops)
		control->choice.ops->destroy(control->choice.self);
	free(control);
}

static size_t control_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct rank_control *control = self;

	pieces[0] = (struct psgd__state_piece){
		"control/past", &control->past, sizeof(control->past), NULL, NULL};
	return 1;
}

/* Fills owners[3]. */
static size_t owners_of(struct rank_control *control, struct psgd__state_owner *owners)
{
	size_t n = 0;

	owners[n++] = (struct psgd__state_owner){control, control_pieces};
	if (control->choice.ops->pieces)
		owners[n++] = (struct psgd__state_owner){
			control->choice.self, control->choice.ops->pieces};
	if (control->cap.ops && control->cap.ops->pieces)
		owners[n++] =
			(struct psgd__state_owner){control->cap.self, control->cap.ops->pieces};
	return n;
}

static psgd_status control_save(void *self, const struct psgd_state_writer *writer)
{
	struct psgd__state_owner owners[3];

	return psgd__state_save(owners, owners_of(self, owners), writer);
}

static psgd_status control_load(void *self, const struct psgd_state_reader *reader)
{
	struct psgd__state_owner owners[3];

	return psgd__state_load(owners, owners_of(self, owners), reader);
}

static const struct psgd_controller_ops control_ops = {
	.size = sizeof(control_ops),
	.name = "rank_control",
	.needs = control_needs,
	.decide = control_decide,
	.destroy = control_destroy,
	.save = control_save,
	.load = control_load,
};

static psgd_status take_candidates(const struct psgd_rank_control_options *in,
	struct psgd__candidates *out, const struct psgd__refusal *refusal)
{
	static const uint32_t usual[] = {1, 2, 4, 8, 16, 32};
	const uint32_t *rank = in->candidates ? in->candidates : usual;
	size_t n = in->candidates ? in->n_candidates : PSGD__COUNT(usual);

	if (!in->candidates && in->n_candidates)
		return psgd__refuse(
			refusal, "candidates is NULL, but n_candidates is %zu", in->n_candidates);
	if (!n)
		return psgd__refuse(refusal, "candidates is empty");
	if (n > PSGD__MAX_CANDIDATES)
		return psgd__refuse(refusal, "n_candidates is %zu; at most %d are supported", n,
			PSGD__MAX_CANDIDATES);
	for (size_t i = 0; i < n; i++) {
		if (!rank[i])
			return psgd__refuse(refusal,
				"candidates[%zu] is 0; dense is PSGD_RANK_DENSE, and last", i);
		if (i && rank[i] <= rank[i - 1])
			return psgd__refuse(refusal,
				"candidates[%zu] is %u, not above candidates[%zu], which is %u", i,
				rank[i], i - 1, rank[i - 1]);
		out->rank[i] = rank[i];
	}
	out->n = n;
	return PSGD_OK;
}

/* Fills in min_rank and max_rank, and keeps the candidates between them. */
static psgd_status take_bounds(struct psgd_rank_control_options *in,
	struct psgd__candidates *candidates, const struct psgd__refusal *refusal)
{
	size_t kept = 0;

	if (!in->min_rank)
		in->min_rank = 1;
	if (!in->max_rank)
		in->max_rank = candidates->rank[candidates->n - 1];
	if (in->min_rank == PSGD_RANK_DENSE)
		return psgd__refuse(refusal, "min_rank cannot be dense");
	if (in->min_rank > in->max_rank)
		return psgd__refuse(refusal, "min_rank is %u, above max_rank, which is %u",
			in->min_rank, in->max_rank);
	for (size_t i = 0; i < candidates->n; i++) {
		if (candidates->rank[i] >= in->min_rank && candidates->rank[i] <= in->max_rank)
			candidates->rank[kept++] = candidates->rank[i];
	}
	candidates->n = kept;
	return PSGD_OK;
}

static psgd_status make_cap(const struct psgd_rank_control_options *in,
	const struct psgd__candidates *candidates, const struct psgd__refusal *refusal,
	struct psgd__cap *out)
{
	if (in->cap == PSGD_CAP_NONE)
		return PSGD_OK;
	if (in->cap != PSGD_CAP_CALIBRATION && in->cap != PSGD_CAP_LIVE)
		return psgd__refuse(refusal,
			"cap is %u; known are none (0), calibration (1) and live (2)", in->cap);
	if (!candidates->n)
		return psgd__refuse(refusal, "no candidate is between min_rank and max_rank");
	if (in->cap == PSGD_CAP_LIVE)
		return psgd__cap_live(in->live, candidates, refusal, out);
	return psgd__cap_calibration(in->calibration, candidates, refusal, out);
}

/* The largest rank that is not dense: max_rank, or else a candidate. For arithmetic. */
static uint32_t finite_max(
	uint32_t min_rank, uint32_t max_rank, const struct psgd__candidates *candidates)
{
	if (max_rank != PSGD_RANK_DENSE)
		return max_rank;
	for (size_t i = candidates->n; i-- > 0;) {
		if (candidates->rank[i] != PSGD_RANK_DENSE)
			return candidates->rank[i];
	}
	return min_rank;
}

static psgd_status make_choice(const struct psgd_rank_control_options *in,
	const struct psgd__candidates *candidates, const struct psgd__refusal *refusal,
	struct psgd__choice *out)
{
	uint32_t low = in->min_rank, high = in->max_rank;
	uint32_t finite = finite_max(low, high, candidates);

	switch (in->choice) {
	case PSGD_CHOICE_MAX:
		return psgd__choice_fixed(high, "max", out);
	case PSGD_CHOICE_FIXED:
		return psgd__choice_fixed(psgd__comparable(in->fixed_rank), "fixed", out);
	case PSGD_CHOICE_SCHEDULE:
		return psgd__choice_schedule(in, refusal, out);
	case PSGD_CHOICE_EPOCHNORM:
		return psgd__choice_epochnorm(in->epochnorm, low, high, refusal, out);
	case PSGD_CHOICE_REPLAY:
		return psgd__choice_replay(in, refusal, out);
	case PSGD_CHOICE_EMA:
		return psgd__choice_ema(in->ema, in, candidates, refusal, out);
	case PSGD_CHOICE_ACCORDION:
		return psgd__choice_accordion(in->accordion, low, high, refusal, out);
	case PSGD_CHOICE_LGRECO:
		return psgd__choice_lgreco(in->lgreco, low, finite, refusal, out);
	case PSGD_CHOICE_ENTROPY:
		return psgd__choice_entropy(in->entropy, low, finite, refusal, out);
	default:
		return psgd__refuse(refusal,
			"choice is %u; known are max (0), fixed (1), schedule (2), epochnorm (3), "
			"replay (4), ema (5), accordion (6), lgreco (7) and entropy (8)",
			in->choice);
	}
}

static psgd_status make_control(const struct psgd_rank_control_options *options,
	const struct psgd__refusal *refusal, struct rank_control *control)
{
	struct psgd_rank_control_options in;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "rank control", refusal));
	PSGD__TRY(take_candidates(&in, &control->candidates, refusal));
	PSGD__TRY(take_bounds(&in, &control->candidates, refusal));
	PSGD__TRY(make_cap(&in, &control->candidates, refusal, &control->cap));
	return make_choice(&in, &control->candidates, refusal, &control->choice);
}

psgd_status psgd_controller_rank_control(const struct psgd_rank_control_options *options,
	char *error, size_t error_bytes, struct psgd_controller *out)
{
	struct psgd__refusal refusal = {error, error_bytes};
	struct rank_control *control;
	psgd_status status;

	if (!out)
		return psgd__refuse(&refusal, "out is NULL");
	*out = (struct psgd_controller){0};
	psgd__text(error, error_bytes, "%s", "");
	control = psgd__calloc(1, sizeof(*control));
	status = control ? make_control(options, &refusal, control) : PSGD_ERR_NOMEM;
	if (status == PSGD_ERR_NOMEM)
		psgd__text(error, error_bytes, "%s", psgd_status_text(status));
	if (status < 0) {
		if (control)
			control_destroy(control);
		return status;
	}
	*out = (struct psgd_controller){&control_ops, control};
	return PSGD_OK;
}

static struct rank_control *of_controller(const struct psgd_controller *controller)
{
	return controller && controller->ops == &control_ops ? controller->self : NULL;
}

size_t psgd_controller_candidates(
	const struct psgd_controller *controller, uint32_t *ranks, size_t n)
{
	const struct rank_control *control = of_controller(controller);

	if (!control || !control->cap.ops)
		return 0;
	for (size_t i = 0; ranks && i < n && i < control->candidates.n; i++)
		ranks[i] = control->candidates.rank[i];
	return control->candidates.n;
}

psgd_status psgd_controller_calibrate(const struct psgd_controller *controller,
	const struct psgd_calibration_row *rows, size_t n_rows)
{
	const struct rank_control *control = of_controller(controller);

	if (!control || !control->cap.ops)
		return PSGD_ERR_UNSUPPORTED;
	return psgd__cap_calibration_take(&control->cap, rows, n_rows);
}

void psgd_controller_destroy(struct psgd_controller *controller)
{
	if (!controller)
		return;
	if (controller->ops && PSGD__HAS(controller->ops, destroy))
		controller->ops->destroy(controller->self);
	*controller = (struct psgd_controller){0};
}
