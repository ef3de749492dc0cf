/*
 * Trial steps: what they do to the compressor is undone from arrays in memory; sums, decisions and
 * the controller are not touched while a trial is on.
 */
#include "engine/core.h"

#include <string.h>

/* The compressor, and what the engine had before the trial. */
static psgd_status restore(psgd_session *s)
{
	struct psgd_state_reader reader = psgd__kept_reader(&s->trial.kept);

	if (s->compressor.ops->load)
		PSGD__TRY(s->compressor.ops->load(s->compressor.self, &reader));
	else if (s->compressor.ops->set_ranks)
		PSGD__TRY(psgd__ranks_put(s, s->trial.ranks));
	pthread_mutex_lock(&s->lock);
	memcpy(s->ranks, s->trial.ranks, s->n_tensors * sizeof(*s->ranks));
	s->step = s->trial.step;
	pthread_mutex_unlock(&s->lock);
	memset(s->submitted_in, 0, s->n_tensors * sizeof(*s->submitted_in));
	return PSGD_OK;
}

void psgd__trial_free(psgd_session *s)
{
	psgd__kept_free(&s->trial.kept);
	free(s->trial.ranks);
	memset(&s->trial, 0, sizeof(s->trial));
}

static psgd_status keep(psgd_session *s)
{
	struct psgd_state_writer writer = psgd__kept_writer(&s->trial.kept);
	psgd_status status = PSGD_OK;

	s->trial.step = s->step;
	s->trial.ranks = psgd__calloc(s->n_tensors, sizeof(*s->trial.ranks));
	if (!s->trial.ranks)
		return PSGD_ERR_NOMEM;
	memcpy(s->trial.ranks, s->ranks, s->n_tensors * sizeof(*s->ranks));
	if (s->compressor.ops->save)
		status = s->compressor.ops->save(s->compressor.self, &writer);
	return status;
}

/* One rank for all tensors. A compressor without ranks is what it is, which is called dense. */
static psgd_status set_rank(psgd_session *s, uint32_t rank)
{
	uint32_t *ranks;
	psgd_status status;

	if (!s->compressor.ops->set_ranks)
		return rank ? PSGD_ERR_UNSUPPORTED : PSGD_OK;
	ranks = psgd__calloc(s->n_tensors, sizeof(*ranks));
	if (!ranks)
		return PSGD_ERR_NOMEM;
	for (size_t i = 0; i < s->n_tensors; i++)
		ranks[i] = rank;
	status = psgd__ranks_put(s, ranks);
	free(ranks);
	return status;
}

/* What has been sent for the step that comes after the trial is not the trial's. Lock held. */
static void swap_bytes(psgd_session *s)
{
	struct psgd__record *r = &s->record;
	const uint64_t now[] = {r->control_bytes, r->sent_bytes, r->sync_bytes};

	r->control_bytes = s->trial.control_bytes;
	r->sent_bytes = s->trial.sent_bytes;
	r->sync_bytes = s->trial.sync_bytes;
	s->trial.control_bytes = now[0];
	s->trial.sent_bytes = now[1];
	s->trial.sync_bytes = now[2];
}

static psgd_status begin(psgd_session *s, uint32_t rank)
{
	psgd_status status = keep(s);

	if (status >= 0)
		status = set_rank(s, rank);
	if (status < 0) {
		psgd__trial_free(s);
		return status;
	}
	s->trial.on = true;
	pthread_mutex_lock(&s->lock);
	swap_bytes(s);
	pthread_mutex_unlock(&s->lock);
	return PSGD_OK;
}

/* The last thing, so that a call that failed can be made again. */
static psgd_status agree(psgd_session *s, uint32_t rank)
{
	psgd_status status;

	if (!s->transport.ops || s->n_workers == 1)
		return PSGD_OK;
	status = psgd_session_agree(s, rank);
	if (status != PSGD_ERR_MISMATCH)
		return status;
	pthread_mutex_lock(&s->lock);
	psgd__text(s->error, sizeof(s->error), "%s", "the rank of a trial differs between workers");
	pthread_mutex_unlock(&s->lock);
	return status;
}

static psgd_status go_on(psgd_session *s, uint32_t rank)
{
	if (s->head || (rank == PSGD_TRIAL_END && !s->trial.on))
		return PSGD_ERR_STATE;
	if (!s->trial.on) {
		PSGD__TRY(begin(s, rank));
		return agree(s, rank);
	}
	PSGD__TRY(restore(s));
	if (rank != PSGD_TRIAL_END)
		PSGD__TRY(set_rank(s, rank));
	PSGD__TRY(agree(s, rank));
	if (rank == PSGD_TRIAL_END) {
		pthread_mutex_lock(&s->lock);
		swap_bytes(s);
		pthread_mutex_unlock(&s->lock);
		psgd__trial_free(s);
	}
	return PSGD_OK;
}

psgd_status psgd_session_trial(psgd_session *s, uint32_t rank)
{
	if (!s)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__settle(s));
	return psgd__device_refuse(s, go_on(s, rank));
}
