/* Requests of a streamed transport, and where the library has them; streamed_threads.c runs it. */
#include <string.h>

#include "transport/streamed_impl.h"

#define DEFAULT_TIMEOUT_NS (60 * INT64_C(1000000000))
#define LEAST_HOST_BYTES 65536

void psgd__streamed_free(struct streamed *s)
{
	for (struct slot *slot = s->slots, *next; slot; slot = next) {
		next = slot->next;
		free(slot);
	}
	pthread_cond_destroy(&s->state);
	pthread_cond_destroy(&s->work);
	psgd__requests_destroy(&s->requests);
	free(s);
}

static bool fits(const struct slot *slot, size_t host_bytes)
{
	return host_bytes ? slot->host_bytes >= host_bytes : !slot->host_bytes;
}

/* With the lock held: takes a slot out of the free ones. */
static struct slot *free_slot(struct streamed *s, size_t host_bytes)
{
	for (struct slot **at = &s->free_slots; *at; at = &(*at)->next_free) {
		struct slot *slot = *at;

		if (!fits(slot, host_bytes))
			continue;
		*at = slot->next_free;
		return slot;
	}
	return NULL;
}

static psgd_status new_slot(struct streamed *s, size_t host_bytes, struct slot **out, char *words)
{
	struct slot *slot = psgd__calloc(1, sizeof(*slot));
	psgd_status status;

	if (!slot)
		return PSGD_ERR_NOMEM;
	slot->owner = s;
	if (host_bytes) {
		/* Sizes differ from step to step: then few slots serve them all. */
		for (slot->host_bytes = LEAST_HOST_BYTES; slot->host_bytes < host_bytes;)
			slot->host_bytes *= 2;
	}
	status = s->ops->place_create(
		s->self, slot->host_bytes, &slot->job.place, &slot->host, words);
	if (status) {
		const size_t used = strlen(words);

		psgd__text(words + used, PSGD_STREAMED_REASON - used, " (for %zu bytes of data)",
			host_bytes);
		free(slot);
		return status;
	}
	pthread_mutex_lock(&s->requests.lock);
	slot->next = s->slots;
	s->slots = slot;
	pthread_mutex_unlock(&s->requests.lock);
	*out = slot;
	return PSGD_OK;
}

/* A slot with the request's collective in it, marked. On failure *out may be one to give back. */
static psgd_status fill_slot(
	struct streamed *s, const struct psgd__request *r, struct slot **out, char *words)
{
	const size_t bytes = (size_t)r->transfer.payload_bytes *
			     (r->collective.kind == PSGD_ALLGATHER ? s->n_workers : 1);
	bool host = false;
	struct slot *slot;

	PSGD__TRY(s->ops->is_host(s->self, r->collective.data, &host, words));
	pthread_mutex_lock(&s->requests.lock);
	*out = free_slot(s, host ? bytes : 0);
	pthread_mutex_unlock(&s->requests.lock);
	if (!*out)
		PSGD__TRY(new_slot(s, host ? bytes : 0, out, words));
	slot = *out;
	slot->collective = r->collective;
	slot->end_ns = 0;
	slot->job.size = sizeof(slot->job);
	slot->job.bytes = bytes;
	slot->job.host = host ? slot->host : NULL;
	slot->job.collective = &slot->collective;
	slot->job.done = psgd__streamed_slot_done;
	slot->job.user = slot;
	if (host)
		memcpy(slot->host, r->collective.data, bytes);
	return s->ops->mark(s->self, slot->job.place, r->collective.stream, words);
}

/* With the lock held. */
static void add_request(struct streamed *s, struct streamed_request *r)
{
	if (!psgd__streamed_next(s)) {
		s->turn_ns = r->base.transfer.post_ns;
		pthread_cond_broadcast(&s->state); /* the guard has a deadline again */
	}
	psgd__requests_add(&s->requests, &r->base);
	pthread_cond_signal(&s->work);
}

static psgd_status streamed_post(
	void *self, const struct psgd_collective *collective, void **request)
{
	char words[PSGD_STREAMED_REASON] = "";
	struct streamed *s = self;
	struct slot *slot = NULL;
	struct psgd__request *r;
	psgd_status status;

	if (!request)
		return PSGD_ERR_INVALID;
	*request = NULL;
	PSGD__TRY(psgd__request_new(
		collective, s->n_workers, true, sizeof(struct streamed_request), &r));
	pthread_mutex_lock(&s->requests.lock);
	status = s->failed;
	pthread_mutex_unlock(&s->requests.lock);
	if (!status)
		status = fill_slot(s, r, &slot, words);
	pthread_mutex_lock(&s->requests.lock);
	if (s->failed) {
		status = s->failed;
	} else if (status) {
		psgd__text(s->reason, sizeof(s->reason), "worker %u: %s: %s", s->worker,
			s->ops->name, words[0] ? words : psgd_status_text(status));
		if (slot) {
			slot->next_free = s->free_slots;
			s->free_slots = slot;
		}
	} else {
		((struct streamed_request *)r)->slot = slot;
		add_request(s, (struct streamed_request *)r);
		*request = r;
	}
	pthread_mutex_unlock(&s->requests.lock);
	if (status)
		free(r);
	return status < 0 ? status : status ? PSGD_ERR_TRANSPORT : PSGD_OK;
}

static psgd_status streamed_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct streamed *s = self;

	return psgd__requests_test(&s->requests, request, timeout_ns, out);
}

static void streamed_abort(void *self)
{
	struct streamed *s = self;
	char reason[64];

	psgd__text(reason, sizeof(reason), "aborted by worker %u", s->worker);
	pthread_mutex_lock(&s->requests.lock);
	psgd__streamed_fail(s, PSGD_ERR_TRANSPORT, reason);
	pthread_mutex_unlock(&s->requests.lock);
}

static void streamed_error(void *self, char *text, size_t bytes)
{
	struct streamed *s = self;

	pthread_mutex_lock(&s->requests.lock);
	psgd__text(text, bytes, "%s", s->reason);
	pthread_mutex_unlock(&s->requests.lock);
}

/* With the lock held: until all threads have left, or those in the library have had their time. */
static void wait_for_threads(struct streamed *s)
{
	int64_t deadline;

	while (!s->guard_left)
		pthread_cond_wait(&s->state, &s->requests.lock);
	deadline = s->failed && !s->aborted ? s->let_go_ns : psgd__after_ns(LET_GO_NS);
	while (!psgd__streamed_all_left(s) && psgd__now_ns() < deadline)
		psgd__cond_wait(&s->state, &s->requests.lock, deadline);
}

static void streamed_destroy(void *self)
{
	struct streamed *s = self;
	const pthread_t driver = s->driver, ender = s->ender;

	pthread_mutex_lock(&s->requests.lock);
	if (psgd__streamed_next(s))
		psgd__streamed_fail(s, PSGD_ERR_TRANSPORT, "destroyed");
	s->stop = true;
	pthread_cond_signal(&s->work);
	pthread_cond_broadcast(&s->state);
	wait_for_threads(s);
	pthread_mutex_unlock(&s->requests.lock);
	pthread_join(s->guard, NULL);
	pthread_mutex_lock(&s->requests.lock);
	s->orphan = !psgd__streamed_all_left(s);
	if (s->orphan) {
		pthread_mutex_unlock(&s->requests.lock);
		/* From here on s may be gone at any time. */
		pthread_detach(driver);
		pthread_detach(ender);
		return;
	}
	pthread_mutex_unlock(&s->requests.lock);
	pthread_join(driver, NULL);
	pthread_join(ender, NULL);
	psgd__streamed_free(s);
}

static psgd_status start_threads(struct streamed *s)
{
	if (psgd__thread_start(&s->driver, psgd__streamed_driver, s))
		return PSGD_ERR_NOMEM;
	if (psgd__thread_start(&s->guard, psgd__streamed_guard, s))
		goto join_driver;
	/* The last one: it ends the library, which is not this transport's until all is well. */
	if (psgd__thread_start(&s->ender, psgd__streamed_ender, s))
		goto join_guard;
	return PSGD_OK;

join_guard:
	pthread_mutex_lock(&s->requests.lock);
	s->stop = true;
	pthread_cond_broadcast(&s->state);
	pthread_mutex_unlock(&s->requests.lock);
	pthread_join(s->guard, NULL);
join_driver:
	pthread_mutex_lock(&s->requests.lock);
	s->stop = true;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->requests.lock);
	pthread_join(s->driver, NULL);
	return PSGD_ERR_NOMEM;
}

static const struct psgd_transport_ops streamed_ops = {
	.size = sizeof(struct psgd_transport_ops),
	.post = streamed_post,
	.test = streamed_test,
	.abort = streamed_abort,
	.error = streamed_error,
	.destroy = streamed_destroy,
};

static bool complete(const struct psgd_streamed_ops *ops)
{
	return ops && PSGD__HAS(ops, name) && PSGD__HAS(ops, is_host) &&
	       PSGD__HAS(ops, place_create) && PSGD__HAS(ops, mark) && PSGD__HAS(ops, start) &&
	       PSGD__HAS(ops, test) && PSGD__HAS(ops, abort) && PSGD__HAS(ops, close);
}

psgd_status psgd_transport_streamed(const struct psgd_streamed_ops *ops, void *self,
	uint32_t worker, uint32_t n_workers, int64_t timeout_ns, struct psgd_transport *out)
{
	struct streamed *s;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = (struct psgd_transport){0};
	if (!complete(ops) || !n_workers || worker >= n_workers || timeout_ns < 0)
		return PSGD_ERR_INVALID;
	s = psgd__calloc(1, sizeof(*s));
	if (!s)
		return PSGD_ERR_NOMEM;
	s->ops = ops;
	s->self = self;
	s->table = streamed_ops;
	s->table.name = ops->name;
	s->worker = worker;
	s->n_workers = n_workers;
	s->timeout_ns = timeout_ns ? timeout_ns : DEFAULT_TIMEOUT_NS;
	if (psgd__requests_init(&s->requests))
		goto free_streamed;
	if (psgd__cond_init(&s->work))
		goto destroy_requests;
	if (psgd__cond_init(&s->state))
		goto destroy_work;
	if (start_threads(s))
		goto destroy_state;
	*out = (struct psgd_transport){&s->table, s, worker, n_workers};
	return PSGD_OK;

destroy_state:
	pthread_cond_destroy(&s->state);
destroy_work:
	pthread_cond_destroy(&s->work);
destroy_requests:
	psgd__requests_destroy(&s->requests);
free_streamed:
	free(s);
	return PSGD_ERR_NOMEM;
}
