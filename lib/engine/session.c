/* The asynchronous driver: a progress thread that moves exchanges through a transport. */
#include "engine/core.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/slice.h"

#define DEFAULT_TIMEOUT_NS INT64_C(600000000000)
#define CLOSE_GRACE_NS INT64_C(60000000000) /* for the last ranks, which nobody waits for */
#define DRAIN_NS INT64_C(100000000)

static void on_notify(void *user)
{
	psgd_session *s = user;

	pthread_mutex_lock(&s->lock);
	s->woken = true;
	s->owed--;
	pthread_cond_signal(&s->wake);
	pthread_cond_broadcast(&s->done);
	pthread_mutex_unlock(&s->lock);
}

static struct timespec timespec_of(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

/* A transport failure, with the transport's own words. */
static psgd_status fail_transport(psgd_session *s, psgd_status status)
{
	char text[384] = "";

	if (s->transport.ops->error)
		s->transport.ops->error(s->transport.self, text, sizeof(text));
	if (!text[0] && status == PSGD_ERR_UNSUPPORTED && s->asynchronous)
		psgd__text(text, sizeof(text),
			"transport %s does not carry the memory of device %s",
			s->transport.ops->name ? s->transport.ops->name : "(no name)",
			s->device.ops->name ? s->device.ops->name : "(no name)");
	return psgd__session_fail(s, status, "%s", text[0] ? text : psgd_status_text(status));
}

static psgd_status post(psgd_session *s, struct psgd_exchange *x)
{
	psgd_status status;

	x->collective.notify = on_notify;
	x->collective.notify_user = s;
	x->posted_ns = psgd__now_ns();
	pthread_mutex_lock(&s->lock);
	s->owed++;
	pthread_mutex_unlock(&s->lock);
	status = s->transport.ops->post(s->transport.self, &x->collective, &x->request);
	if (status < 0) {
		x->in_flight = false;
		pthread_mutex_lock(&s->lock);
		s->owed--;
		pthread_mutex_unlock(&s->lock);
		fail_transport(s, status);
	}
	return status;
}

/* The deadline is the oldest message's, from when the wire was free for it. */
static psgd_status check_deadline(psgd_session *s, const struct psgd_exchange *x)
{
	int64_t since = x->posted_ns > s->moved_ns ? x->posted_ns : s->moved_ns;

	if (psgd__now_ns() - since < s->options.timeout_ns)
		return PSGD_PENDING;
	return psgd__session_fail(s, PSGD_ERR_TIMEOUT,
		"a message of step %llu was not through after %g s",
		(unsigned long long)(x->round.step & ~PSGD__TRIAL_STEP),
		(double)s->options.timeout_ns / 1e9);
}

/*
 * One exchange as far as it goes now. *moved: something happened, so look at the older ones again.
 * *waiting: an older message is on the wire; this one cannot be through before it.
 */
static psgd_status drive(psgd_session *s, struct psgd_exchange *x, bool *moved, bool *waiting)
{
	struct psgd_transfer transfer = PSGD_INIT(psgd_transfer);
	psgd_status status;

	if (x->in_flight && *waiting)
		return PSGD_PENDING;
	if (x->in_flight) {
		status = s->transport.ops->test(s->transport.self, x->request, 0, &transfer);
		if (status == PSGD_PENDING) {
			*waiting = true;
			return check_deadline(s, x);
		}
		x->in_flight = false;
		s->moved_ns = psgd__now_ns();
		*moved = true;
		if (status < 0)
			return fail_transport(s, status);
		PSGD__TRY(psgd__record_transfer(x, &transfer));
	}
	status = psgd__exchange_advance(x, moved);
	if (status == PSGD_WANT_COLLECTIVE) {
		*moved = true;
		return post(s, x);
	}
	return status;
}

/* Walks the queue from the oldest; true if anything moved. */
static bool drive_all(psgd_session *s)
{
	struct psgd_exchange *x, *next;
	bool waiting = false;

	pthread_mutex_lock(&s->lock);
	x = s->head;
	pthread_mutex_unlock(&s->lock);
	while (x) {
		bool moved = false;
		psgd_status status = drive(s, x, &moved, &waiting);

		pthread_mutex_lock(&s->lock);
		next = x->next;
		pthread_mutex_unlock(&s->lock);
		if (status < 0) {
			psgd__session_fail_as(s, status);
			return true;
		}
		if (status == PSGD_OK && x->done) {
			psgd__queue_remove(s, x);
			psgd__exchange_free(x);
			return true;
		}
		if (moved)
			return true;
		x = next;
	}
	return false;
}

/* After a failure: nothing of the caller's may be touched any more when the waiters return. */
static void drain(psgd_session *s)
{
	struct psgd_exchange *x;
	bool quiet = false;

	s->transport.ops->abort(s->transport.self);
	for (;;) {
		pthread_mutex_lock(&s->lock);
		x = s->head;
		pthread_mutex_unlock(&s->lock);
		if (!x)
			return;
		if (!quiet)
			psgd__device_quiet(s);
		quiet = true;
		while (x->in_flight)
			x->in_flight = s->transport.ops->test(s->transport.self, x->request,
					       DRAIN_NS, NULL) == PSGD_PENDING;
		psgd__queue_remove(s, x);
		psgd__exchange_free(x);
	}
}

static void *progress(void *user)
{
	psgd_session *s = user;
	struct timespec until;

	psgd__slice_set(PSGD__SHORT_SLICE_NS);
	for (;;) {
		bool failed, aborted, stop;

		pthread_mutex_lock(&s->lock);
		s->woken = false;
		aborted = s->aborted;
		pthread_mutex_unlock(&s->lock);
		if (aborted)
			psgd__session_fail(s, PSGD_ERR_FAILED, "the session was aborted");
		else
			while (psgd__session_status(s) >= 0 && drive_all(s))
				;
		failed = psgd__session_status(s) < 0;
		if (failed)
			drain(s);
		pthread_mutex_lock(&s->lock);
		/* In-flight messages are looked at now and then only for their deadline. */
		until = timespec_of(psgd__now_ns() + INT64_C(200000000));
		while (!s->stop && !s->woken) {
			if (pthread_cond_timedwait(&s->wake, &s->lock, &until))
				break;
		}
		stop = s->stop;
		pthread_mutex_unlock(&s->lock);
		if (stop)
			return NULL;
	}
}

/* A thread that takes no signals: they are the trainer's. */
static psgd_status start_thread(psgd_session *s)
{
	sigset_t all, old;
	int failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	failed = pthread_create(&s->thread, NULL, progress, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->has_thread = !failed;
	return failed ? PSGD_ERR_NOMEM : PSGD_OK;
}

psgd_status psgd_session_open(const struct psgd_tensor *tensors, size_t n_tensors,
	const struct psgd_session_options *options, psgd_session **out)
{
	psgd_status status = PSGD_OK;
	psgd_session *s;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	PSGD__TRY(psgd__session_setup(tensors, n_tensors, options, &s));
	if (!s->options.timeout_ns)
		s->options.timeout_ns = DEFAULT_TIMEOUT_NS;
	if (s->transport.ops)
		status = start_thread(s);
	if (status < 0) {
		psgd__session_teardown(s);
		return status;
	}
	*out = s;
	return PSGD_OK;
}

/* True while an exchange with this ticket, or any at all (0), is in the queue. Lock held. */
static bool queued(const psgd_session *s, psgd_ticket ticket, bool controls)
{
	for (const struct psgd_exchange *x = s->head; x; x = x->next) {
		if (ticket ? x->ticket == ticket : (controls || x->kind != PSGD__CONTROL))
			return true;
	}
	return false;
}

/*
 * Waits until the ticket (0: everything, or all but controls) has left the queue. The queue is
 * empty when a failed session is drained, so that nothing is in use when a failure is returned.
 */
psgd_status psgd__wait_for(psgd_session *s, psgd_ticket ticket, bool controls, int64_t timeout_ns)
{
	int64_t start = psgd__now_ns();
	struct timespec until;
	psgd_status status;
	bool there;

	if (timeout_ns > INT64_MAX - start)
		timeout_ns = INT64_MAX - start;
	until = timespec_of(start + timeout_ns);
	pthread_mutex_lock(&s->lock);
	while ((there = queued(s, ticket, controls))) {
		if (timeout_ns <= 0 || pthread_cond_timedwait(&s->done, &s->lock, &until))
			break;
	}
	there = queued(s, ticket, controls);
	status = s->status;
	pthread_mutex_unlock(&s->lock);
	if (there)
		return PSGD_PENDING;
	return status < 0 ? status : PSGD_OK;
}

psgd_status psgd_session_begin_step(psgd_session *s)
{
	if (!s)
		return PSGD_ERR_INVALID;
	if (s->step_buckets)
		return PSGD_ERR_STATE;
	pthread_mutex_lock(&s->lock);
	s->record.start_ns = psgd__now_ns();
	s->record.n_waits = 0;
	s->record.n_syncs = 0;
	s->record.n_intervals = 0;
	pthread_mutex_unlock(&s->lock);
	return PSGD_OK;
}

psgd_status psgd_session_submit(
	psgd_session *s, const struct psgd_bucket *bucket, psgd_stream ready, psgd_ticket *out)
{
	struct psgd_exchange *x;

	if (!s)
		return PSGD_ERR_INVALID;
	if (out)
		*out = 0;
	if (!s->transport.ops)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__bucket_new(s, bucket, ready, &x));
	if (out)
		*out = x->ticket;
	if (s->options.flags & PSGD_SESSION_NO_OVERLAP) {
		struct psgd_exchange **at = &s->held;

		while (*at)
			at = &(*at)->next;
		*at = x;
	} else {
		psgd__queue_push(s, x);
	}
	return PSGD_OK;
}

/* Without overlap, work begins when somebody waits for it. */
static void release_held(psgd_session *s)
{
	while (s->held) {
		struct psgd_exchange *x = s->held;

		s->held = x->next;
		psgd__queue_push(s, x);
	}
}

psgd_status psgd_session_wait(psgd_session *s, psgd_ticket ticket, int64_t timeout_ns)
{
	int64_t start = psgd__now_ns();
	psgd_status status;

	if (!s || !ticket || ticket > s->last_ticket)
		return PSGD_ERR_INVALID;
	if (!s->transport.ops)
		return PSGD_ERR_STATE;
	release_held(s);
	status = psgd__wait_for(s, ticket, true, timeout_ns);
	/* A look is no wait. */
	if (timeout_ns > 0)
		PSGD__TRY(psgd__record_wait(s, start, psgd__now_ns()));
	return status;
}

psgd_status psgd_session_finish_step(
	psgd_session *s, const struct psgd_step_info *info, struct psgd_report *report)
{
	struct psgd_exchange *control = NULL;
	int64_t start = psgd__now_ns(), end;
	struct psgd_step_info whole;
	psgd_status status;

	if (!s)
		return PSGD_ERR_INVALID;
	if (!s->transport.ops)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__step_info(info, report, &whole));
	release_held(s);
	/* A step without buckets has nothing that would wait for the last decision. */
	status = psgd__wait_for(s, 0, !s->step_buckets, INT64_MAX);
	if (status < 0)
		return status;
	end = psgd__now_ns();
	status = psgd__record_wait(s, start, end);
	if (status >= 0)
		status = psgd__step_end(s, &whole, end, report, &control);
	if (status < 0)
		return psgd__session_fail_as(s, status);
	if (control)
		psgd__queue_push(s, control);
	return PSGD_OK;
}

psgd_status psgd_session_set_ranks(psgd_session *s, const uint32_t *ranks, size_t n_ranks)
{
	if (!s || !ranks || n_ranks != s->n_tensors)
		return PSGD_ERR_INVALID;
	if (s->controller.ops || s->step_buckets || s->trial.on)
		return PSGD_ERR_STATE;
	if (!s->compressor.ops->set_ranks)
		return PSGD_ERR_UNSUPPORTED;
	return psgd__device_refuse(s, psgd__ranks_set(s, ranks));
}

uint32_t psgd_session_rank(psgd_session *s, uint32_t tensor_id)
{
	uint32_t rank = 0;
	size_t at;

	if (!s)
		return 0;
	at = psgd__index_find(&s->index, tensor_id);
	if (at == SIZE_MAX)
		return 0;
	pthread_mutex_lock(&s->lock);
	rank = s->ranks[at];
	pthread_mutex_unlock(&s->lock);
	return rank;
}

psgd_status psgd_session_memory(psgd_session *s, struct psgd_memory *out)
{
	struct psgd_memory mine = PSGD_INIT(psgd_memory);

	if (!s || !out || !psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	if (s->step_buckets)
		return PSGD_ERR_STATE;
	/* A decision that is on its way may change the compressor's state. */
	if (s->has_thread)
		PSGD__TRY(psgd__wait_for(s, 0, true, INT64_MAX));
	if (s->compressor.ops->state_bytes)
		mine.state_bytes = s->compressor.ops->state_bytes(s->compressor.self);
	for (size_t i = 0; i < s->n_blocks; i++)
		mine.message_bytes += s->blocks[i].bytes;
	mine.observe_bytes = psgd__observe_bytes(s);
	psgd__copy_report(out, &mine, sizeof(mine));
	return PSGD_OK;
}

void psgd_session_error(psgd_session *s, char *text, size_t bytes)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	psgd__text(text, bytes, "%s", s->error);
	pthread_mutex_unlock(&s->lock);
}

void psgd_session_abort(psgd_session *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->aborted = true;
	s->woken = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	if (!s->has_thread)
		psgd__session_fail(s, PSGD_ERR_FAILED, "the session was aborted");
}

void psgd_session_close(psgd_session **session)
{
	psgd_session *s;

	if (!session || !*session)
		return;
	s = *session;
	*session = NULL;
	if (s->has_thread) {
		if (!s->step_buckets)
			psgd__wait_for(s, 0, true, CLOSE_GRACE_NS);
		if (psgd__wait_for(s, 0, true, 0) == PSGD_PENDING) {
			psgd_session_abort(s);
			psgd__wait_for(s, 0, true, INT64_MAX);
		}
		pthread_mutex_lock(&s->lock);
		s->stop = true;
		pthread_cond_signal(&s->wake);
		pthread_mutex_unlock(&s->lock);
		pthread_join(s->thread, NULL);
		/* A transport may still be about to call notify for a request that has ended. */
		pthread_mutex_lock(&s->lock);
		while (s->owed)
			pthread_cond_wait(&s->done, &s->lock);
		pthread_mutex_unlock(&s->lock);
	}
	psgd__session_teardown(s);
}
