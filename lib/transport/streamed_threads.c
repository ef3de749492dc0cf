/*
 * Makes a transport of collectives that run on a device's stream, with three threads:
 * - the driver puts collectives on the stream and sees them end; the library may hold it up;
 * - the ender aborts and closes the library, which may never come back from that either;
 * - the guard calls nothing that can block: it keeps the deadlines, and ends requests that failed.
 *
 * A request that succeeds is ended by the driver. Once anything has failed the driver leaves, the
 * ender aborts, and the guard ends all requests: when both are out of the library, so that nothing
 * works on the data any more, or when it has become clear that they will not be.
 */
#include <string.h>
#include <time.h>

#include "base/slice.h"
#include "transport/streamed_impl.h"

#define POLL_NS 5000000	     /* failures do not call `done` */
#define START_POLL_NS 500000 /* a library that is at it in the background calls nobody */
#define CLOSE_POLL_NS 1000000
#define LEAVE_NS 100000000 /* for the driver to leave a call before the library is aborted */
#define CLOSE_NS (3 * INT64_C(1000000000)) /* for peers to close as well, then it is aborted */

bool psgd__streamed_all_left(const struct streamed *s)
{
	return s->driver_left && s->guard_left && s->ender_left;
}

/* The end of a thread: the lock is held, and given back. */
static void leave(struct streamed *s, bool *left)
{
	bool last;

	*left = true;
	pthread_cond_broadcast(&s->state);
	last = s->orphan && psgd__streamed_all_left(s);
	pthread_mutex_unlock(&s->requests.lock);
	if (last)
		psgd__streamed_free(s);
}

static struct streamed_request *first_pending(const struct streamed *s, bool started)
{
	for (struct psgd__request *r = s->requests.first; r; r = r->next) {
		struct streamed_request *sr = (struct streamed_request *)r;

		if (r->status == PSGD_PENDING && sr->started == started)
			return sr;
	}
	return NULL;
}

struct streamed_request *psgd__streamed_next(const struct streamed *s)
{
	struct streamed_request *started = first_pending(s, true);

	return started ? started : first_pending(s, false);
}

void psgd__streamed_fail(struct streamed *s, psgd_status status, const char *reason)
{
	if (s->failed)
		return;
	s->failed = status;
	s->let_go_ns = psgd__after_ns(LET_GO_NS);
	psgd__text(s->reason, sizeof(s->reason), "%s", reason);
	pthread_cond_signal(&s->work);
	pthread_cond_broadcast(&s->state);
}

/* Adds who is lost, as far as that is known, and the library's name. */
static void fail_by_library(struct streamed *s, psgd_status status, const char *words)
{
	char reason[PSGD__REASON_BYTES + 96], who[32] = "another worker";

	if (!words[0])
		words = psgd_status_text(status);
	if (s->n_workers == 2)
		psgd__text(who, sizeof(who), "worker %u", 1 - s->worker);
	if (status > 0)
		status = PSGD_ERR_TRANSPORT;
	if (status == PSGD_ERR_PEER_LOST)
		psgd__text(reason, sizeof(reason), "worker %u has lost %s: %s: %s", s->worker, who,
			s->ops->name, words);
	else
		psgd__text(reason, sizeof(reason), "worker %u: %s: %s", s->worker, s->ops->name,
			words);
	psgd__streamed_fail(s, status, reason);
}

void psgd__streamed_slot_done(void *user)
{
	struct slot *slot = user;
	struct streamed *s = slot->owner;
	int64_t now = psgd__now_ns();

	pthread_mutex_lock(&s->requests.lock);
	slot->end_ns = now;
	s->woken = true;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->requests.lock);
}

/* The steps of the driver: each is called and left with the lock held. What is not of this
 * request's slot may be gone when something has failed meanwhile. */
static void start_one(struct streamed *s, struct streamed_request *r)
{
	char words[PSGD_STREAMED_REASON] = "";
	const struct slot *slot = r->slot;
	psgd_status status;

	pthread_mutex_unlock(&s->requests.lock);
	status = s->ops->start(s->self, &slot->job, words);
	pthread_mutex_lock(&s->requests.lock);
	if (s->failed)
		return;
	if (status == PSGD_PENDING) {
		s->retry_ns = psgd__after_ns(START_POLL_NS);
		return;
	}
	s->retry_ns = 0;
	s->poll_ns = psgd__after_ns(POLL_NS);
	r->started = true;
	if (status)
		fail_by_library(s, status, words);
}

static void finish_one(struct streamed *s, struct streamed_request *r, int64_t wire_ns)
{
	struct psgd_transfer *t = &r->base.transfer;
	const struct psgd_streamed_job *job = &r->slot->job;

	/* With the lock, as the data is the caller's again once the guard has ended the request. */
	if (job->host)
		memcpy(job->collective->data, job->host, job->bytes);
	t->end_ns = r->slot->end_ns;
	t->start_ns = t->end_ns - wire_ns;
	if (t->start_ns < t->post_ns)
		t->start_ns = t->post_ns;
	if (t->start_ns < s->through_ns)
		t->start_ns = s->through_ns;
	t->sent_bytes = psgd__request_sent_bytes(&r->base, s->worker, s->n_workers);
	s->through_ns = t->end_ns;
	s->turn_ns = psgd__now_ns();
	r->slot->next_free = s->free_slots;
	s->free_slots = r->slot;
	r->base.status = PSGD_OK;
}

static void test_one(struct streamed *s, struct streamed_request *r)
{
	char words[PSGD_STREAMED_REASON] = "";
	const struct slot *slot = r->slot;
	const bool done = slot->end_ns != 0;
	psgd_status status;
	int64_t wire_ns = 0;

	s->woken = false;
	s->poll_ns = psgd__after_ns(POLL_NS);
	pthread_mutex_unlock(&s->requests.lock);
	status = s->ops->test(s->self, &slot->job, &wire_ns, words);
	pthread_mutex_lock(&s->requests.lock);
	if (s->failed || status == PSGD_PENDING)
		return;
	if (status) {
		fail_by_library(s, status, words);
	} else if (done) {
		/* Not before `done`, which must not find another collective in the slot. */
		finish_one(s, r, wire_ns);
		s->woken = true; /* the next one may be through as well */
	}
}

/* Does one thing that is due, or waits for the next. */
static void advance(struct streamed *s)
{
	struct streamed_request *fresh = first_pending(s, false), *running = first_pending(s, true);
	int64_t now = psgd__now_ns(), until = INT64_MAX;

	if (fresh && now >= s->retry_ns) {
		start_one(s, fresh);
	} else if (running && (s->woken || now >= s->poll_ns)) {
		test_one(s, running);
	} else {
		if (fresh)
			until = s->retry_ns;
		if (running && s->poll_ns < until)
			until = s->poll_ns;
		psgd__cond_wait(&s->work, &s->requests.lock, until);
		return;
	}
	pthread_mutex_unlock(&s->requests.lock);
	psgd__requests_deliver(&s->requests);
	pthread_mutex_lock(&s->requests.lock);
}

void *psgd__streamed_driver(void *arg)
{
	struct streamed *s = arg;

	psgd__slice_set(PSGD__SHORT_SLICE_NS);
	pthread_mutex_lock(&s->requests.lock);
	while (!s->stop && !s->failed)
		advance(s);
	leave(s, &s->driver_left);
	return NULL;
}

/* Waits for the first failure or the end. */
static void keep_deadlines(struct streamed *s)
{
	while (!s->failed && !s->stop) {
		struct streamed_request *r = psgd__streamed_next(s);
		int64_t deadline = INT64_MAX;
		char what[160], reason[PSGD__REASON_BYTES];

		if (r && __builtin_add_overflow(s->turn_ns, s->timeout_ns, &deadline))
			deadline = INT64_MAX;
		if (psgd__now_ns() < deadline) {
			psgd__cond_wait(&s->state, &s->requests.lock, deadline);
			continue;
		}
		psgd__request_describe(&r->base, s->worker, what, sizeof(what));
		psgd__text(reason, sizeof(reason), "%s was not through within %lld ms: %s", what,
			(long long)(s->timeout_ns / 1000000), s->ops->name);
		psgd__streamed_fail(s, PSGD_ERR_TIMEOUT, reason);
	}
}

void *psgd__streamed_guard(void *arg)
{
	struct streamed *s = arg;

	pthread_mutex_lock(&s->requests.lock);
	keep_deadlines(s);
	while (s->failed && !(s->driver_left && s->aborted) && psgd__now_ns() < s->let_go_ns)
		psgd__cond_wait(&s->state, &s->requests.lock, s->let_go_ns);
	if (s->failed) {
		const size_t used = strlen(s->reason);

		if (!s->driver_left || !s->aborted)
			psgd__text(s->reason + used, sizeof(s->reason) - used,
				"; %s does not let go, its memory is left to it", s->ops->name);
		psgd__requests_fail(&s->requests, s->failed);
		pthread_mutex_unlock(&s->requests.lock);
		psgd__requests_deliver(&s->requests);
		pthread_mutex_lock(&s->requests.lock);
	}
	leave(s, &s->guard_left);
	return NULL;
}

/* Without the lock. */
static void close_library(struct streamed *s, bool aborted)
{
	const int64_t deadline = psgd__after_ns(CLOSE_NS);
	const struct timespec pause = {0, CLOSE_POLL_NS};

	while (s->ops->close(s->self) == PSGD_PENDING) {
		if (!aborted && psgd__now_ns() >= deadline) {
			s->ops->abort(s->self);
			aborted = true;
		}
		nanosleep(&pause, NULL);
	}
}

void *psgd__streamed_ender(void *arg)
{
	struct streamed *s = arg;
	bool failed;

	pthread_mutex_lock(&s->requests.lock);
	while (!s->failed && !s->stop)
		pthread_cond_wait(&s->state, &s->requests.lock);
	failed = s->failed != PSGD_OK;
	if (failed) {
		const int64_t until = psgd__after_ns(LEAVE_NS);

		while (!s->driver_left && psgd__now_ns() < until)
			psgd__cond_wait(&s->state, &s->requests.lock, until);
		pthread_mutex_unlock(&s->requests.lock);
		s->ops->abort(s->self);
		pthread_mutex_lock(&s->requests.lock);
		s->aborted = true;
		pthread_cond_broadcast(&s->state);
	}
	while (!s->stop || !s->driver_left)
		pthread_cond_wait(&s->state, &s->requests.lock);
	pthread_mutex_unlock(&s->requests.lock);
	close_library(s, failed);
	pthread_mutex_lock(&s->requests.lock);
	leave(s, &s->ender_left);
	return NULL;
}
