#include "transport/request.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#include "transport/tree.h"

#define NS_PER_S 1000000000

psgd_status psgd__cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int failed;

	if (pthread_condattr_init(&attr))
		return PSGD_ERR_NOMEM;
	failed =
		pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) || pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
	return failed ? PSGD_ERR_NOMEM : PSGD_OK;
}

void psgd__cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
	struct timespec at = {deadline_ns / NS_PER_S, deadline_ns % NS_PER_S};

	if (deadline_ns == INT64_MAX)
		pthread_cond_wait(cond, lock);
	else
		pthread_cond_timedwait(cond, lock, &at);
}

int64_t psgd__after_ns(int64_t timeout_ns)
{
	int64_t at;

	return __builtin_add_overflow(psgd__now_ns(), timeout_ns, &at) ? INT64_MAX : at;
}

psgd_status psgd__thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	failed = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return failed ? PSGD_ERR_NOMEM : PSGD_OK;
}

psgd_status psgd__requests_init(struct psgd__requests *q)
{
	*q = (struct psgd__requests){0};
	if (pthread_mutex_init(&q->lock, NULL))
		return PSGD_ERR_NOMEM;
	if (psgd__cond_init(&q->changed)) {
		pthread_mutex_destroy(&q->lock);
		return PSGD_ERR_NOMEM;
	}
	return PSGD_OK;
}

void psgd__requests_destroy(struct psgd__requests *q)
{
	while (q->first)
		psgd__requests_free(q, q->first);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
}

void psgd__requests_add(struct psgd__requests *q, struct psgd__request *r)
{
	r->prev = q->last;
	if (q->last)
		q->last->next = r;
	else
		q->first = r;
	q->last = r;
}

void psgd__requests_free(struct psgd__requests *q, struct psgd__request *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		q->first = r->next;
	if (r->next)
		r->next->prev = r->prev;
	else
		q->last = r->prev;
	free(r);
}

void psgd__requests_fail(struct psgd__requests *q, psgd_status status)
{
	for (struct psgd__request *r = q->first; r; r = r->next) {
		if (r->status == PSGD_PENDING && !r->claimed)
			r->status = status;
	}
}

void psgd__requests_wait_delivered(struct psgd__requests *q)
{
	while (q->delivering)
		pthread_cond_wait(&q->changed, &q->lock);
}

void psgd__requests_deliver(struct psgd__requests *q)
{
	struct psgd__request *r;
	struct psgd_collective c;

	pthread_mutex_lock(&q->lock);
	for (;;) {
		for (r = q->first; r && (r->done || r->status == PSGD_PENDING); r = r->next)
			;
		if (!r)
			break;
		/* From here on test may free the request: notify is called from the copy. */
		c = r->collective;
		r->done = true;
		pthread_cond_broadcast(&q->changed);
		if (!c.notify)
			continue;
		q->delivering++;
		pthread_mutex_unlock(&q->lock);
		c.notify(c.notify_user);
		pthread_mutex_lock(&q->lock);
		q->delivering--;
		pthread_cond_broadcast(&q->changed);
	}
	pthread_mutex_unlock(&q->lock);
}

psgd_status psgd__requests_test(struct psgd__requests *q, struct psgd__request *r,
	int64_t timeout_ns, struct psgd_transfer *out)
{
	int64_t deadline = timeout_ns > 0 ? psgd__after_ns(timeout_ns) : 0;
	psgd_status status = PSGD_PENDING;

	pthread_mutex_lock(&q->lock);
	while (!r->done && timeout_ns > 0 && psgd__now_ns() < deadline)
		psgd__cond_wait(&q->changed, &q->lock, deadline);
	if (r->done) {
		status = r->status;
		if (status == PSGD_OK)
			psgd__copy_report(out, &r->transfer, sizeof(r->transfer));
		psgd__requests_free(q, r);
	}
	pthread_mutex_unlock(&q->lock);
	return status;
}

static psgd_status check(
	const struct psgd_collective *c, uint32_t n_workers, bool streams, size_t *bytes)
{
	size_t each = psgd_dtype_bytes(c->dtype), all;

	if (c->count < 1 || !c->data || !each || c->reserved)
		return PSGD_ERR_INVALID;
	if (psgd__mul_overflows((size_t)c->count, each, bytes) ||
		psgd__mul_overflows(*bytes, c->kind == PSGD_ALLGATHER ? n_workers : 1, &all) ||
		all > PTRDIFF_MAX)
		return PSGD_ERR_INVALID;
	if (c->stream && !streams)
		return PSGD_ERR_UNSUPPORTED;
	switch (c->kind) {
	case PSGD_ALLREDUCE_SUM:
		return c->dtype == PSGD_U8 ? PSGD_ERR_UNSUPPORTED : PSGD_OK;
	case PSGD_BROADCAST:
		return c->root < n_workers ? PSGD_OK : PSGD_ERR_INVALID;
	case PSGD_ALLGATHER:
		return PSGD_OK;
	default:
		return PSGD_ERR_INVALID;
	}
}

psgd_status psgd__request_new(const struct psgd_collective *collective, uint32_t n_workers,
	bool streams, size_t bytes, struct psgd__request **out)
{
	struct psgd_collective c;
	struct psgd__request *r;
	size_t payload;

	*out = NULL;
	if (!collective)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&c, sizeof(c), collective));
	PSGD__TRY(check(&c, n_workers, streams, &payload));
	r = psgd__calloc(1, bytes);
	if (!r)
		return PSGD_ERR_NOMEM;
	r->collective = c;
	r->status = PSGD_PENDING;
	r->transfer.size = sizeof(r->transfer);
	r->transfer.post_ns = psgd__now_ns();
	r->transfer.payload_bytes = payload;
	*out = r;
	return PSGD_OK;
}

void psgd__request_describe(
	const struct psgd__request *r, uint32_t worker, char *text, size_t bytes)
{
	const struct psgd_collective *c = &r->collective;
	static const char *const types[] = {
		[PSGD_F32] = "f32", [PSGD_F64] = "f64", [PSGD_U8] = "u8"};
	char from[48] = "";

	if (c->kind == PSGD_BROADCAST)
		psgd__text(from, sizeof(from), " from worker %u", c->root);
	psgd__text(text, bytes, "worker %u: %s%s of %lld %s (%llu bytes), tag %llu", worker,
		c->kind == PSGD_BROADCAST   ? "broadcast"
		: c->kind == PSGD_ALLGATHER ? "all-gather"
					    : "all-reduce",
		from, (long long)c->count, types[c->dtype],
		(unsigned long long)r->transfer.payload_bytes, (unsigned long long)c->tag);
}

uint64_t psgd__request_sent_bytes(const struct psgd__request *r, uint32_t worker, uint32_t n)
{
	const struct psgd_collective *c = &r->collective;
	unsigned __int128 payload = r->transfer.payload_bytes;

	if (c->kind == PSGD_BROADCAST)
		return (uint64_t)payload * psgd__tree_children(worker, c->root, n);
	if (c->kind == PSGD_ALLGATHER)
		return (uint64_t)(payload * (n - 1));
	return (uint64_t)((payload * 2 * (n - 1) + n - 1) / n);
}
