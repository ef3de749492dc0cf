/*
 * The calibration cap: the trainer measures the candidates in a trial and hands over the rows; the
 * best becomes the cap. Before that the cap is the largest candidate that is not dense.
 */
#include "control/control.h"

#include <math.h>
#include <pthread.h>

/* What was handed over. */
struct measured {
	double share[PSGD__MAX_CANDIDATES]; /* exposed share of a step; below 0: not measured */
	uint32_t has_rows, selected;
	uint64_t best;
	double fitted; /* the monotone share of the best */
};

struct cap_calibration {
	uint64_t start;
	double max_exposed;
	bool allow_rank_one;
	struct psgd__candidates candidates;
	/* The trainer hands over rows while the progress thread may be deciding. */
	pthread_mutex_t lock;
	struct measured measured; /* guarded */
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

/*
 * It is alike on all workers, so it cannot depend on the rows, which only worker 0 has: asks where
 * they are due, and ever more rarely after.
 */
static uint32_t calibration_needs(const void *self, uint64_t step, bool decision)
{
	const struct cap_calibration *cal = self;
	uint64_t late = step - cal->start;

	(void)decision;
	return step >= cal->start && !(late & (late - 1)) ? PSGD_NEED_DECISION : 0;
}

/* Among the candidates that were measured. */
static void select_best(const struct cap_calibration *cal, struct measured *m)
{
	uint32_t ranks[PSGD__MAX_CANDIDATES];
	double shares[PSGD__MAX_CANDIDATES];
	size_t of[PSGD__MAX_CANDIDATES], n = 0;

	for (size_t i = 0; i < cal->candidates.n; i++) {
		if (m->share[i] < 0.0)
			continue;
		ranks[n] = cal->candidates.rank[i];
		shares[n] = m->share[i];
		of[n++] = i;
	}
	m->best = of[psgd__calibration_select(
		ranks, shares, n, cal->max_exposed, cal->allow_rank_one, &m->fitted)];
	m->selected = true;
	m->has_rows = false;
}

static psgd_status calibration_decide(
	void *self, const struct psgd_observation *seen, struct psgd__cap_verdict *out)
{
	struct cap_calibration *cal = self;

	(void)seen;
	pthread_mutex_lock(&cal->lock);
	if (cal->measured.has_rows) {
		uint64_t before = cal->measured.best;

		select_best(cal, &cal->measured);
		out->moved = cal->measured.best != before;
	}
	out->rank = cal->candidates.rank[cal->measured.best];
	if (cal->measured.selected) {
		out->regime = "calibrated";
		out->value = out->predicted_exposed = cal->measured.fitted;
		out->threshold = cal->max_exposed;
	}
	pthread_mutex_unlock(&cal->lock);
	return PSGD_OK;
}

static void calibration_destroy(void *self)
{
	struct cap_calibration *cal = self;

	pthread_mutex_destroy(&cal->lock);
	free(cal);
}

static bool possible(const void *self, const void *data, size_t n)
{
	const struct cap_calibration *cal = self;
	const struct measured *m = data;
	bool any = false;

	(void)n;
	for (size_t i = 0; i < cal->candidates.n; i++) {
		if (!isfinite(m->share[i]))
			return false;
		any |= m->share[i] >= 0.0;
	}
	return m->best < cal->candidates.n && (any || !m->has_rows);
}

static size_t calibration_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct cap_calibration *cal = self;

	pieces[0] = (struct psgd__state_piece){
		"control/calibration", &cal->measured, sizeof(cal->measured), NULL, possible};
	return 1;
}

static const struct psgd__cap_ops calibration_ops = {
	calibration_needs, calibration_decide, calibration_destroy, calibration_pieces};

static void forget(double *share)
{
	for (size_t i = 0; i < PSGD__MAX_CANDIDATES; i++)
		share[i] = -1.0;
}

/* The candidate of a rank; n when it is none. */
static size_t candidate_of(const struct psgd__candidates *candidates, uint32_t rank)
{
	size_t i = 0;

	while (i < candidates->n && candidates->rank[i] != psgd__comparable(rank))
		i++;
	return i;
}

psgd_status psgd__cap_calibration_take(
	const struct psgd__cap *cap, const struct psgd_calibration_row *rows, size_t n_rows)
{
	struct cap_calibration *cal = cap->self;
	double share[PSGD__MAX_CANDIDATES];
	size_t taken = 0;

	if (cap->ops != &calibration_ops)
		return PSGD_ERR_UNSUPPORTED;
	forget(share);
	for (size_t i = 0; i < n_rows; i++) {
		size_t at = rows ? candidate_of(&cal->candidates, rows[i].rank) : 0;

		if (!rows || rows[i].step_ns < 0 || rows[i].exposed_ns < 0)
			return PSGD_ERR_INVALID;
		if (at == cal->candidates.n)
			continue;
		if (share[at] >= 0.0)
			return PSGD_ERR_INVALID;
		share[at] = rows[i].step_ns ? (double)rows[i].exposed_ns / (double)rows[i].step_ns
					    : 1.0;
		taken++;
	}
	if (!taken)
		return PSGD_ERR_INVALID;
	pthread_mutex_lock(&cal->lock);
	for (size_t i = 0; i < PSGD__MAX_CANDIDATES; i++)
		cal->measured.share[i] = share[i];
	cal->measured.has_rows = true;
	pthread_mutex_unlock(&cal->lock);
	return PSGD_OK;
}

psgd_status psgd__cap_calibration(const struct psgd_calibration_options *options,
	const struct psgd__candidates *candidates, const struct psgd__refusal *refusal,
	struct psgd__cap *out)
{
	struct psgd_calibration_options in;
	struct cap_calibration *cal;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "calibration", refusal));
	PSGD__TRY(psgd__check_reserved(&in.reserved, sizeof(in.reserved), "calibration", refusal));
	PSGD__TRY(psgd__check_share(&in.max_exposed, "calibration.max_exposed", refusal));
	cal = psgd__calloc(1, sizeof(*cal));
	if (!cal)
		return PSGD_ERR_NOMEM;
	cal->start = in.start_step;
	cal->max_exposed = in.max_exposed;
	cal->allow_rank_one = in.allow_rank_one != 0;
	cal->candidates = *candidates;
	forget(cal->measured.share);
	cal->measured.best = candidates->n - 1;
	if (cal->measured.best && candidates->rank[cal->measured.best] == PSGD_RANK_DENSE)
		cal->measured.best--;
	if (pthread_mutex_init(&cal->lock, NULL)) {
		free(cal);
		return PSGD_ERR_NOMEM;
	}
	*out = (struct psgd__cap){&calibration_ops, cal};
	return PSGD_OK;
}
