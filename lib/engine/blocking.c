/* Collectives that the caller waits for: between two steps, and sums in the middle of one. */
#include "engine/core.h"

/* A blocking exchange between two steps. */
static psgd_status run_simple(
	psgd_session *s, enum psgd__kind kind, void *data, int64_t count, uint32_t root)
{
	struct psgd_exchange *x;
	int64_t start = psgd__now_ns();
	psgd_status status;
	psgd_ticket ticket;

	if (!s->transport.ops || s->step_buckets)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__session_status(s));
	PSGD__TRY(psgd__exchange_new(s, kind, &x));
	x->data = data;
	x->count = count;
	x->root = root;
	x->ticket = ticket = ++s->last_ticket;
	x->signature = kind;
	psgd__queue_push(s, x);
	status = psgd__wait_for(s, ticket, true, INT64_MAX);
	PSGD__TRY(psgd__record_wait(s, start, psgd__now_ns()));
	return status;
}

psgd_status psgd_session_broadcast(psgd_session *s, void *data, size_t bytes, uint32_t root)
{
	if (!s || !data || !bytes || bytes > INT64_MAX || root >= s->n_workers)
		return PSGD_ERR_INVALID;
	return run_simple(s, PSGD__BROADCAST, data, (int64_t)bytes, root);
}

psgd_status psgd_session_sum(psgd_session *s, double *values, size_t n)
{
	if (!s || !values || !n || n > INT64_MAX / sizeof(double))
		return PSGD_ERR_INVALID;
	return run_simple(s, PSGD__SUM, values, (int64_t)n, 0);
}

psgd_status psgd_session_agree(psgd_session *s, uint64_t hash)
{
	double *blocks;
	char who[128];
	psgd_status status;

	if (!s)
		return PSGD_ERR_INVALID;
	blocks = psgd__calloc(s->n_workers, 2 * sizeof(*blocks));
	if (!blocks)
		return PSGD_ERR_NOMEM;
	blocks[2 * s->worker] = (double)(hash >> 32);
	blocks[2 * s->worker + 1] = (double)(hash & UINT32_MAX);
	status = run_simple(s, PSGD__SUM, blocks, 2 * (int64_t)s->n_workers, 0);
	if (status >= 0 && psgd__differing(blocks, 2, 2, s->n_workers, who, sizeof(who))) {
		status = PSGD_ERR_MISMATCH;
		pthread_mutex_lock(&s->lock);
		psgd__text(
			s->error, sizeof(s->error), "the hash differs from worker 0's on %s", who);
		pthread_mutex_unlock(&s->lock);
	}
	free(blocks);
	return status;
}

/* Nothing is held back for it: what waits for finish_step, without overlap, goes out after it. */
psgd_status psgd_session_sync(psgd_session *s, float *values, size_t n)
{
	int64_t start = psgd__now_ns();
	struct psgd_exchange *x;
	psgd_status status;
	psgd_ticket ticket;

	if (!s || !values || !n || n > INT64_MAX / sizeof(float))
		return PSGD_ERR_INVALID;
	if (!s->transport.ops)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__session_status(s));
	if (s->n_workers == 1)
		return PSGD_OK;
	PSGD__TRY(psgd__exchange_new(s, PSGD__SYNC, &x));
	x->is_control = false;
	x->data = values;
	x->count = (int64_t)n;
	x->ticket = ticket = ++s->last_ticket;
	x->round.step = s->step;
	x->signature = psgd__hash_u64(psgd__hash_u64(PSGD__HASH_START, PSGD__SYNC), n);
	psgd__queue_push(s, x);
	status = psgd__wait_for(s, ticket, true, INT64_MAX);
	PSGD__TRY(psgd__record_sync(s, start, psgd__now_ns()));
	return status;
}
