/*
 * Agreements: before a message that could differ between workers is sent for the first time, a
 * small one of fixed size says what it is, so that a mismatch is named and never reaches a
 * transport.
 */
#include "engine/core.h"

#include <string.h>

/* What the agreement compares for each worker, in doubles that hold 32-bit words exactly. */
enum {
	AGREE_HASH_HIGH,
	AGREE_HASH_LOW,
	AGREE_GRADS,
	AGREE_VALUES,
	AGREE_NUMBER,
	AGREE_ROUNDS, /* kind and dtype of each, 8 bits */
	AGREE_BLOCK
};

bool psgd__differing(const double *blocks, size_t block, size_t compared, uint32_t n_workers,
	char *text, size_t bytes)
{
	size_t used = 0;

	psgd__text(text, bytes, "%s", "");
	for (uint32_t w = 1; w < n_workers; w++) {
		if (!memcmp(blocks, blocks + w * block, compared * sizeof(*blocks)))
			continue;
		if (used < bytes)
			psgd__text(text + used, bytes - used, "%sworker %u", used ? ", " : "", w);
		used = strlen(text);
	}
	return used > 0;
}

/* Ranks that wander over layers make new signatures without end. */
#define MOST_KEPT 4096

static bool agreed_before(const psgd_session *s, uint64_t hash)
{
	for (size_t i = s->n_seen; i-- > 0;) {
		if (s->seen[i] == hash)
			return true;
	}
	return false;
}

psgd_status psgd__agree_prepare(struct psgd_exchange *x)
{
	psgd_session *s = x->session;

	if (s->n_workers == 1 || agreed_before(s, x->signature))
		return PSGD_OK;
	x->agreement = psgd__calloc((size_t)s->n_workers * AGREE_BLOCK, sizeof(double));
	return x->agreement ? PSGD_OK : PSGD_ERR_NOMEM;
}

psgd_status psgd__agree_send(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	double *mine = x->agreement + (size_t)s->worker * AGREE_BLOCK;
	uint32_t rounds = 0;
	int64_t values = 0;
	psgd_status status;

	if (x->kind == PSGD__SYNC)
		values = x->count;
	for (uint32_t i = 0; i < x->plan.n_rounds; i++) {
		values += x->plan.round[i].count;
		rounds = rounds << 8 | x->plan.round[i].kind << 4 | x->plan.round[i].dtype;
	}
	mine[AGREE_HASH_HIGH] = (double)(x->signature >> 32);
	mine[AGREE_HASH_LOW] = (double)(x->signature & UINT32_MAX);
	mine[AGREE_GRADS] = (double)x->bucket.n_grads;
	mine[AGREE_VALUES] = (double)values;
	mine[AGREE_NUMBER] = (double)x->number;
	mine[AGREE_ROUNDS] = (double)rounds;
	status = psgd__hand_out(x, PSGD_ALLREDUCE_SUM, PSGD_F64, x->agreement,
		(int64_t)s->n_workers * AGREE_BLOCK, false);
	/* The signature is what is to be compared: here it must not keep messages apart. */
	x->collective.tag |= UINT32_MAX;
	x->is_control = true;
	return status;
}

/* The sum of psgd_session_sync has no tensors. */
static psgd_status fail_sync(struct psgd_exchange *x, uint32_t w, const char *who)
{
	const double *zero = x->agreement, *other = x->agreement + (size_t)w * AGREE_BLOCK;

	return psgd__session_fail(x->session, PSGD_ERR_MISMATCH,
		"a sum within a step differs on %s: worker 0 sends %.0f values%s, worker %u %.0f%s",
		who, zero[AGREE_VALUES], zero[AGREE_GRADS] > 0 ? " of a bucket" : "", w,
		other[AGREE_VALUES], other[AGREE_GRADS] > 0 ? " of a bucket" : "");
}

psgd_status psgd__agree_check(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	const double *zero = x->agreement;
	char who[128];

	x->is_control = false;
	for (uint32_t w = 1; w < s->n_workers; w++) {
		const double *other = x->agreement + (size_t)w * AGREE_BLOCK;

		if (!memcmp(zero, other, AGREE_BLOCK * sizeof(*zero)))
			continue;
		psgd__differing(
			x->agreement, AGREE_BLOCK, AGREE_BLOCK, s->n_workers, who, sizeof(who));
		if (zero[AGREE_GRADS] == 0 || other[AGREE_GRADS] == 0)
			return fail_sync(x, w, who);
		return psgd__session_fail(s, PSGD_ERR_MISMATCH,
			"bucket %zu of step %llu differs on %s: worker 0 sends %.0f tensors in "
			"%.0f values, worker %u %.0f tensors in %.0f values%s",
			x->number, (unsigned long long)(x->round.step & ~PSGD__TRIAL_STEP), who,
			zero[AGREE_GRADS], zero[AGREE_VALUES], w, other[AGREE_GRADS],
			other[AGREE_VALUES],
			zero[AGREE_ROUNDS] == other[AGREE_ROUNDS] ? ""
								  : ", by other kinds of rounds");
	}
	PSGD__TRY(psgd__grow(&s->seen, &s->seen_capacity, s->n_seen + 1, sizeof(*s->seen)));
	s->seen[s->n_seen++] = x->signature;
	return PSGD_OK;
}

/* Within a step, workers learn of agreements at other moments; behind it all have the same. */
void psgd__agree_forget(psgd_session *s)
{
	if (s->n_seen > MOST_KEPT)
		s->n_seen = 0;
}
