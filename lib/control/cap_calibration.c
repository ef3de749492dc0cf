/*
 * The calibration cap: every candidate runs some steps for real, and the best becomes the cap.
 * Before that the cap is the largest candidate that is not dense.
 */
#include "control/control.h"

#include <pthread.h>

struct candidate_sum {
	uint32_t steps;
	int64_t step_ns, exposed_ns;
	uint64_t raw_bytes, payload_bytes;
};

struct cap_calibration {
	uint64_t start, end; /* first step of the first candidate, first step after the last */
	uint64_t warmup_steps, measure_steps;
	double max_exposed;
	bool allow_rank_one, selected;
	struct psgd__candidates candidates;
	size_t best;
	double share; /* of the best */
	/* The trainer reads rows while the progress thread may be deciding. */
	pthread_mutex_t lock;
	struct candidate_sum sum[PSGD__MAX_CANDIDATES]; /* guarded */
};

size_t psgd__calibration_select(const uint32_t *ranks, const double *shares, size_t n,
	double threshold, bool allow_rank_one, double *fitted)
{
	double monotone[PSGD__MAX_CANDIDATES];
	size_t best = 0;

	/*
	 * A larger rank cannot be exposed less, so a share that says so is noise. The closest
	 * monotone shares are the greatest over all beginnings of the least over all ends of the
	 * means in between. One lucky large rank does not win that way, nor one unlucky lose.
	 */
	for (size_t i = 0; i < n; i++) {
		for (size_t from = 0; from <= i; from++) {
			double sum = 0.0, least = 0.0;

			for (size_t to = from; to < n; to++) {
				sum += shares[to];
				double mean = sum / (double)(to - from + 1);
				if (to == i || (to > i && mean < least))
					least = mean;
			}
			if (!from || least > monotone[i])
				monotone[i] = least;
		}
		if (monotone[i] <= threshold)
			best = i;
	}
	if (!allow_rank_one && ranks[best] == 1 && best + 1 < n &&
		ranks[best + 1] != PSGD_RANK_DENSE)
		best++;
	if (fitted)
		*fitted = monotone[best];
	return best;
}

/* Which candidate a step inside of the window belongs to. */
static size_t candidate_of(const struct cap_calibration *cal, uint64_t step)
{
	return (size_t)((step - cal->start) / (cal->warmup_steps + cal->measure_steps));
}

static bool is_inside(const struct cap_calibration *cal, uint64_t step)
{
	return step >= cal->start && step < cal->end;
}

static bool is_measured(const struct cap_calibration *cal, uint64_t step)
{
	return is_inside(cal, step) &&
	       (step - cal->start) % (cal->warmup_steps + cal->measure_steps) >= cal->warmup_steps;
}

static uint32_t calibration_needs(const void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	const struct cap_calibration *cal = self;

	(void)epoch, (void)epoch_end;
	if (is_measured(cal, step))
		return PSGD_NEED_DECISION | PSGD_NEED_TIMING;
	return step + 1 == cal->start ? PSGD_NEED_DECISION : 0;
}

static int64_t not_negative(int64_t ns)
{
	return ns > 0 ? ns : 0;
}

static psgd_status measure(struct cap_calibration *cal, const struct psgd_observation *seen)
{
	size_t at = candidate_of(cal, seen->step);
	struct candidate_sum add = {0};

	for (size_t b = 0; b < seen->n_buckets; b++) {
		struct psgd_plan plan = PSGD_INIT(psgd_plan);

		PSGD__TRY(seen->plan(
			seen->plan_user, b, psgd__public(cal->candidates.rank[at]), &plan));
		add.raw_bytes += plan.raw_bytes;
		for (uint32_t i = 0; i < plan.n_rounds; i++)
			add.payload_bytes += psgd_payload_bytes(&plan.round[i]);
	}
	pthread_mutex_lock(&cal->lock);
	cal->sum[at].steps++;
	cal->sum[at].step_ns += not_negative(seen->step_ns);
	cal->sum[at].exposed_ns += not_negative(seen->exposed_ns);
	cal->sum[at].raw_bytes = add.raw_bytes;
	cal->sum[at].payload_bytes = add.payload_bytes;
	pthread_mutex_unlock(&cal->lock);
	return PSGD_OK;
}

static void select_best(struct cap_calibration *cal)
{
	double shares[PSGD__MAX_CANDIDATES];

	for (size_t i = 0; i < cal->candidates.n; i++) {
		const struct candidate_sum *sum = &cal->sum[i];

		shares[i] = sum->step_ns ? (double)sum->exposed_ns / (double)sum->step_ns : 1.0;
	}
	cal->best = psgd__calibration_select(cal->candidates.rank, shares, cal->candidates.n,
		cal->max_exposed, cal->allow_rank_one, &cal->share);
	cal->selected = true;
}

static psgd_status calibration_decide(
	void *self, const struct psgd_observation *seen, struct psgd__cap_verdict *out)
{
	struct cap_calibration *cal = self;
	uint64_t next = psgd__next_step(seen);

	if (!seen->first && is_measured(cal, seen->step))
		PSGD__TRY(measure(cal, seen));
	if (is_inside(cal, next)) {
		out->rank = cal->candidates.rank[candidate_of(cal, next)];
		out->overrides = true;
		out->regime = "calibrate";
		return PSGD_OK;
	}
	if (next >= cal->end && !cal->selected) {
		select_best(cal);
		out->moved = true;
	}
	out->rank = cal->candidates.rank[cal->best];
	if (cal->selected) {
		out->regime = "calibrated";
		out->value = out->predicted_exposed = cal->share;
		out->threshold = cal->max_exposed;
	}
	return PSGD_OK;
}

static void calibration_destroy(void *self)
{
	struct cap_calibration *cal = self;

	pthread_mutex_destroy(&cal->lock);
	free(cal);
}

static const struct psgd__cap_ops calibration_ops = {
	calibration_needs, calibration_decide, calibration_destroy};

size_t psgd__cap_calibration_rows(
	const struct psgd__cap *cap, struct psgd_calibration_row *rows, size_t n_rows)
{
	struct cap_calibration *cal = cap->self;

	if (cap->ops != &calibration_ops)
		return 0;
	pthread_mutex_lock(&cal->lock);
	for (size_t i = 0; rows && i < n_rows && i < cal->candidates.n; i++) {
		const struct candidate_sum *sum = &cal->sum[i];

		rows[i] = (struct psgd_calibration_row){
			.rank = psgd__public(cal->candidates.rank[i]),
			.steps = sum->steps,
			.step_ns = sum->steps ? sum->step_ns / sum->steps : 0,
			.exposed_ns = sum->steps ? sum->exposed_ns / sum->steps : 0,
			.raw_bytes = sum->raw_bytes,
			.payload_bytes = sum->payload_bytes,
		};
	}
	pthread_mutex_unlock(&cal->lock);
	return cal->candidates.n;
}

/* The window's end, unless it does not fit into 64 bits. */
static bool find_end(struct cap_calibration *cal)
{
	uint64_t length;

	return !__builtin_add_overflow(cal->warmup_steps, cal->measure_steps, &length) &&
	       !__builtin_mul_overflow(length, cal->candidates.n, &length) &&
	       !__builtin_add_overflow(cal->start, length, &cal->end);
}

psgd_status psgd__cap_calibration(const struct psgd_calibration_options *options,
	const struct psgd__candidates *candidates, const struct psgd__refusal *refusal,
	struct psgd__cap *out)
{
	struct psgd_calibration_options in;
	struct cap_calibration *cal;
	psgd_status status;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "calibration", refusal));
	PSGD__TRY(psgd__check_share(&in.max_exposed, "calibration.max_exposed", refusal));
	cal = psgd__calloc(1, sizeof(*cal));
	if (!cal)
		return PSGD_ERR_NOMEM;
	cal->start = in.start_step;
	cal->warmup_steps = in.warmup_steps ? in.warmup_steps : 5;
	cal->measure_steps = in.measure_steps ? in.measure_steps : 20;
	cal->max_exposed = in.max_exposed;
	cal->allow_rank_one = in.allow_rank_one != 0;
	cal->candidates = *candidates;
	cal->best = candidates->n - 1;
	if (cal->best && candidates->rank[cal->best] == PSGD_RANK_DENSE)
		cal->best--;
	status = PSGD_ERR_NOMEM;
	if (!find_end(cal))
		status = psgd__refuse(refusal, "the calibration's steps do not fit in 64 bits");
	else if (!pthread_mutex_init(&cal->lock, NULL))
		status = PSGD_OK;
	if (status < 0) {
		free(cal);
		return status;
	}
	*out = (struct psgd__cap){&calibration_ops, cal};
	return PSGD_OK;
}
