/*
 * Holds completions back until a modelled link would have brought them. The inner transport may
 * run ahead; the link is charged in virtual time, so a late wake-up delays one release only.
 *
 * One thread posts to the inner transport, tests it, asks the shaper and releases. A message goes
 * NEW (posted here) -> INSIDE (posted to the inner transport) -> HELD (on the modelled link) ->
 * decided.
 *
 * When have all workers posted? An inner collective ends a little after the last one did; that
 * little is its pure time, which no collective shows less of than the fastest one seen. Times of
 * other sizes bound it too, since it grows with the size, but no faster than in proportion.
 *
 * A delayed transport asks nothing of that: all of the inner time counts, the link begins where it
 * ends, and nothing runs ahead of what the link still holds.
 */
#include <string.h>
#include <sys/prctl.h>

#include "transport/request.h"
#include "transport/tree.h"

#define SPIN_NS 50000	/* what a sleep may be late by */
#define POLL_NS 5000000 /* for an inner transport that does not call notify */
#define N_SEEN 64

enum stage { NEW, INSIDE, HELD };

struct shaped_request {
	struct psgd__request base;
	enum stage stage;
	void *inner;
	int64_t release_ns;
};

/* The shortest inner time seen of one size. */
struct seen {
	uint32_t kind;
	uint64_t bytes;
	int64_t ns;
};

struct shaped {
	struct psgd__requests requests; /* its lock guards all that follows but the thread's own */
	pthread_cond_t work;
	pthread_t thread;
	const struct psgd_transport *inner;
	const struct psgd_shaper *shaper;
	bool delayed;	 /* the link comes on top of the inner network, which is one, too */
	uint32_t owners; /* the handle, and each notify that the inner transport still owes */
	bool stop;
	bool woken; /* the inner transport has called notify */
	psgd_status failed;
	char reason[PSGD__REASON_BYTES];
	/* The thread's own: */
	int64_t poll_ns;
	int64_t through_ns; /* when the link is through with earlier messages */
	struct seen seen[N_SEEN];
	size_t n_seen;
};

static bool any_pending(const struct shaped *s)
{
	const struct psgd__request *r = s->requests.first;

	while (r && r->status != PSGD_PENDING)
		r = r->next;
	return r;
}

static struct shaped_request *first_in(const struct shaped *s, enum stage stage)
{
	for (struct psgd__request *r = s->requests.first; r; r = r->next) {
		struct shaped_request *sr = (struct shaped_request *)r;

		if (r->status == PSGD_PENDING && sr->stage == stage)
			return sr;
	}
	return NULL;
}

/* With the lock held. What is inside stays until the inner transport lets go of the data. */
static void shaped_fail(struct shaped *s, psgd_status status, const char *reason)
{
	if (!s->failed) {
		s->failed = status;
		psgd__text(s->reason, sizeof(s->reason), "%s", reason);
	}
	for (struct psgd__request *r = s->requests.first; r; r = r->next) {
		if (r->status == PSGD_PENDING && !r->claimed &&
			((struct shaped_request *)r)->stage != INSIDE)
			r->status = s->failed;
	}
}

static void shaped_fail_inside(struct shaped *s, psgd_status status)
{
	char reason[PSGD__REASON_BYTES] = "";

	if (PSGD__HAS(s->inner->ops, error))
		s->inner->ops->error(s->inner->self, reason, sizeof(reason));
	pthread_mutex_lock(&s->requests.lock);
	shaped_fail(s, status, reason);
	pthread_mutex_unlock(&s->requests.lock);
}

static void shaped_unref(struct shaped *s)
{
	bool last;

	pthread_mutex_lock(&s->requests.lock);
	last = --s->owners == 0;
	pthread_mutex_unlock(&s->requests.lock);
	if (!last)
		return;
	pthread_cond_destroy(&s->work);
	psgd__requests_destroy(&s->requests);
	free(s);
}

static void inner_notify(void *user)
{
	struct shaped *s = user;

	pthread_mutex_lock(&s->requests.lock);
	s->woken = true;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->requests.lock);
	shaped_unref(s);
}

/* An upper bound of the inner transport's own time for a size, 0 while nothing is known. */
static int64_t pure_time(struct shaped *s, uint32_t kind, uint64_t bytes, int64_t spent)
{
	size_t n = s->n_seen < N_SEEN ? s->n_seen : N_SEEN;
	struct seen *same = NULL;
	int64_t best = spent;
	bool known = false;

	for (size_t i = 0; i < n; i++) {
		struct seen *x = &s->seen[i];
		int64_t bound = x->ns;

		if (x->kind != kind)
			continue;
		known = true;
		if (x->bytes == bytes)
			same = x;
		if (x->bytes < bytes)
			bound = (int64_t)((__int128)x->ns * bytes / x->bytes);
		if (bound < best)
			best = bound;
	}
	if (same)
		same->ns = spent < same->ns ? spent : same->ns;
	else
		s->seen[s->n_seen++ % N_SEEN] = (struct seen){kind, bytes, spent};
	return known ? best : 0;
}

static struct psgd_message message_of(const struct psgd__request *r, uint32_t n)
{
	struct psgd_message m = {.size = sizeof(m)};
	uint64_t payload = r->transfer.payload_bytes;

	if (r->collective.kind == PSGD_ALLREDUCE_SUM) {
		m.steps = 2 * (n - 1);
		m.bytes = payload / n + (payload % n != 0);
	} else if (r->collective.kind == PSGD_ALLGATHER) {
		m.steps = n - 1;
		m.bytes = payload;
	} else {
		m.steps = psgd__tree_depth(n);
		m.bytes = payload;
	}
	return m;
}

/* Puts a message that the inner transport is done with on the modelled link. No lock is held. */
static void charge(struct shaped *s, struct shaped_request *r, const struct psgd_transfer *inner)
{
	struct psgd_transfer *t = &r->base.transfer;
	int64_t spent = inner->end_ns - inner->start_ns;
	int64_t start;

	t->sent_bytes = inner->sent_bytes;
	if (s->inner->n_workers == 1) {
		t->start_ns = inner->start_ns;
		r->release_ns = inner->end_ns;
		return;
	}
	if (spent < 0)
		spent = 0;
	start = inner->start_ns;
	if (!s->delayed)
		start = inner->end_ns -
			pure_time(s, r->base.collective.kind, t->payload_bytes, spent);
	if (start < inner->start_ns)
		start = inner->start_ns;
	if (start < t->post_ns)
		start = t->post_ns;
	t->start_ns = start > s->through_ns ? start : s->through_ns;
	const struct psgd_message m = message_of(&r->base, s->inner->n_workers);
	s->through_ns =
		s->shaper->ops->admit(s->shaper->self, &m, s->delayed ? inner->end_ns : start);
	r->release_ns = s->through_ns;
}

/* The steps of the thread: each is called and left with the lock held. */
static void post_inside(struct shaped *s, struct shaped_request *r)
{
	struct psgd_collective c = r->base.collective;
	psgd_status status;

	c.notify = inner_notify;
	c.notify_user = s;
	r->base.claimed = true;
	s->owners++;
	pthread_mutex_unlock(&s->requests.lock);
	status = s->inner->ops->post(s->inner->self, &c, &r->inner);
	if (status)
		shaped_fail_inside(s, status);
	pthread_mutex_lock(&s->requests.lock);
	r->base.claimed = false;
	if (status) {
		s->owners--; /* never the last one: the handle is one too */
		r->base.status = s->failed;
	} else {
		r->stage = INSIDE;
	}
}

static void test_inside(struct shaped *s, struct shaped_request *r)
{
	struct psgd_transfer t = PSGD_INIT(psgd_transfer);
	psgd_status status;

	s->woken = false;
	pthread_mutex_unlock(&s->requests.lock);
	status = s->inner->ops->test(s->inner->self, r->inner, 0, &t);
	if (status == PSGD_OK)
		charge(s, r, &t);
	else if (status != PSGD_PENDING)
		shaped_fail_inside(s, status);
	pthread_mutex_lock(&s->requests.lock);
	if (status == PSGD_PENDING) {
		s->poll_ns = psgd__after_ns(POLL_NS);
		return;
	}
	s->woken = true; /* the next one may be done too, its notify before this one's */
	if (s->failed)
		r->base.status = s->failed;
	else
		r->stage = HELD;
}

static void release(struct shaped *s, struct shaped_request *r)
{
	pthread_mutex_unlock(&s->requests.lock);
	while (psgd__now_ns() < r->release_ns)
		;
	pthread_mutex_lock(&s->requests.lock);
	if (r->base.status == PSGD_PENDING) {
		r->base.transfer.end_ns = psgd__now_ns();
		r->base.status = PSGD_OK;
	}
}

/* Does one thing that is due, or waits for the next. */
static void advance(struct shaped *s)
{
	struct shaped_request *fresh = first_in(s, NEW), *inside = first_in(s, INSIDE);
	struct shaped_request *held = first_in(s, HELD);
	int64_t now = psgd__now_ns(), until = INT64_MAX;

	if (fresh && !(s->delayed && (inside || held))) {
		post_inside(s, fresh);
	} else if (held && now >= held->release_ns - SPIN_NS) {
		held->base.claimed = true;
		release(s, held);
	} else if (inside && (s->woken || now >= s->poll_ns)) {
		test_inside(s, inside);
	} else {
		if (held)
			until = held->release_ns - SPIN_NS;
		if (inside && s->poll_ns < until)
			until = s->poll_ns;
		psgd__cond_wait(&s->work, &s->requests.lock, until);
		return;
	}
	pthread_mutex_unlock(&s->requests.lock);
	psgd__requests_deliver(&s->requests);
	pthread_mutex_lock(&s->requests.lock);
}

static void *shaped_main(void *arg)
{
	struct shaped *s = arg;

	prctl(PR_SET_TIMERSLACK, 1);
	pthread_mutex_lock(&s->requests.lock);
	while (!s->stop || first_in(s, INSIDE))
		advance(s);
	pthread_mutex_unlock(&s->requests.lock);
	return NULL;
}

static psgd_status shaped_post(void *self, const struct psgd_collective *collective, void **request)
{
	struct shaped *s = self;
	struct psgd__request *r;
	psgd_status failed;

	if (!request)
		return PSGD_ERR_INVALID;
	*request = NULL;
	PSGD__TRY(psgd__request_new(
		collective, s->inner->n_workers, true, sizeof(struct shaped_request), &r));
	pthread_mutex_lock(&s->requests.lock);
	failed = s->failed;
	if (!failed) {
		*request = r;
		psgd__requests_add(&s->requests, r);
		pthread_cond_signal(&s->work);
	}
	pthread_mutex_unlock(&s->requests.lock);
	if (failed)
		free(r);
	return failed;
}

static psgd_status shaped_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct shaped *s = self;

	return psgd__requests_test(&s->requests, request, timeout_ns, out);
}

static void shaped_abort(void *self)
{
	struct shaped *s = self;
	char reason[64];

	psgd__text(reason, sizeof(reason), "aborted by worker %u", s->inner->worker);
	pthread_mutex_lock(&s->requests.lock);
	shaped_fail(s, PSGD_ERR_TRANSPORT, reason);
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->requests.lock);
	s->inner->ops->abort(s->inner->self);
	psgd__requests_deliver(&s->requests);
}

static void shaped_error(void *self, char *text, size_t bytes)
{
	struct shaped *s = self;

	pthread_mutex_lock(&s->requests.lock);
	psgd__text(text, bytes, "%s", s->reason);
	pthread_mutex_unlock(&s->requests.lock);
}

static void shaped_destroy(void *self)
{
	struct shaped *s = self;
	bool pending;

	pthread_mutex_lock(&s->requests.lock);
	shaped_fail(s, PSGD_ERR_TRANSPORT, "destroyed");
	pending = any_pending(s);
	s->stop = true;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->requests.lock);
	if (pending)
		s->inner->ops->abort(s->inner->self);
	pthread_join(s->thread, NULL);
	pthread_mutex_lock(&s->requests.lock);
	psgd__requests_wait_delivered(&s->requests);
	pthread_mutex_unlock(&s->requests.lock);
	shaped_unref(s);
}

static const struct psgd_transport_ops shaped_ops = {
	.size = sizeof(struct psgd_transport_ops),
	.name = "shaped",
	.post = shaped_post,
	.test = shaped_test,
	.abort = shaped_abort,
	.error = shaped_error,
	.destroy = shaped_destroy,
};

static psgd_status create(const struct psgd_transport *inner, const struct psgd_shaper *shaper,
	bool delayed, struct psgd_transport *out)
{
	struct shaped *s;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = (struct psgd_transport){0};
	if (!inner || !inner->ops || !inner->n_workers || inner->worker >= inner->n_workers ||
		!PSGD__HAS(inner->ops, post) || !PSGD__HAS(inner->ops, test) ||
		!PSGD__HAS(inner->ops, abort) || !shaper || !shaper->ops)
		return PSGD_ERR_INVALID;
	if (!PSGD__HAS(shaper->ops, admit))
		return PSGD_ERR_UNSUPPORTED;
	s = psgd__calloc(1, sizeof(*s));
	if (!s)
		return PSGD_ERR_NOMEM;
	s->inner = inner;
	s->shaper = shaper;
	s->delayed = delayed;
	s->owners = 1;
	s->through_ns = INT64_MIN;
	if (psgd__requests_init(&s->requests))
		goto free_shaped;
	if (psgd__cond_init(&s->work))
		goto destroy_requests;
	if (psgd__thread_start(&s->thread, shaped_main, s))
		goto destroy_work;
	*out = (struct psgd_transport){&shaped_ops, s, inner->worker, inner->n_workers};
	return PSGD_OK;

destroy_work:
	pthread_cond_destroy(&s->work);
destroy_requests:
	psgd__requests_destroy(&s->requests);
free_shaped:
	free(s);
	return PSGD_ERR_NOMEM;
}

psgd_status psgd_transport_shaped(const struct psgd_transport *inner,
	const struct psgd_shaper *shaper, struct psgd_transport *out)
{
	return create(inner, shaper, false, out);
}

psgd_status psgd_transport_delayed(const struct psgd_transport *inner,
	const struct psgd_shaper *shaper, struct psgd_transport *out)
{
	return create(inner, shaper, true, out);
}
