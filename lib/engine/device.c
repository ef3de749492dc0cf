/*
 * Asynchronous devices. A session has a stream there, and its progress thread never waits for it:
 *   accept   an event on the caller's stream, when the bucket is submitted
 *   join     the session's stream waits for that event; run(0) comes behind
 *   mark     an event before and after every run
 *   through  a call from the stream behind the last of them
 *   done     the call has come: the last run is done, its times are known
 * There is one stream for all buckets, so what waits in it holds up what comes behind. A bucket
 * whose gradients are not ready joins only when no earlier one has runs to come; until then it
 * stays out, and a second stream, in which nothing else is, calls when they are.
 *
 * On other devices all of these do nothing, and succeed.
 */
#include "engine/core.h"

psgd_status psgd__device_check(psgd_session *s)
{
	const struct psgd_device_ops *d = &s->device_ops;
	const bool has[] = {d->stream_create, d->stream_destroy, d->stream_finish, d->stream_wait,
		d->stream_call, d->event_create, d->event_destroy, d->event_record, d->event_test,
		d->event_elapsed, d->upload, d->download};
	size_t n = 0;

	for (size_t i = 0; i < PSGD__COUNT(has); i++)
		n += has[i];
	s->asynchronous = n == PSGD__COUNT(has);
	return n && !s->asynchronous ? PSGD_ERR_UNSUPPORTED : PSGD_OK;
}

psgd_status psgd__device_open(psgd_session *s)
{
	const struct psgd_device_ops *d = s->device.ops;

	if (!s->asynchronous)
		return PSGD_OK;
	PSGD__TRY(d->stream_create(s->device.self, &s->stream));
	s->has_streams = true;
	/* Nobody is called in a session without a thread. */
	if (s->transport.ops)
		PSGD__TRY(d->stream_create(s->device.self, &s->gate));
	return PSGD_OK;
}

/* A failure may be an earlier call's, told late, and then nothing was waited for. */
static void finish_stream(psgd_session *s, psgd_stream stream)
{
	if (s->device.ops->stream_finish(s->device.self, stream) < 0)
		s->device.ops->stream_finish(s->device.self, stream);
}

void psgd__device_quiet(psgd_session *s)
{
	if (s->has_streams)
		finish_stream(s, s->stream);
}

void psgd__device_close(psgd_session *s)
{
	const struct psgd_device_ops *d = s->device.ops;

	/* Of a bucket that was abandoned the call may still be to come. */
	if (s->gate)
		finish_stream(s, s->gate);
	while (s->n_events)
		d->event_destroy(s->device.self, s->events[--s->n_events]);
	free(s->events);
	if (!s->has_streams)
		return;
	d->stream_destroy(s->device.self, s->gate);
	d->stream_destroy(s->device.self, s->stream);
}

void psgd__device_words(psgd_session *s, psgd_status status, char *text, size_t bytes)
{
	psgd__text(text, bytes, "%s", "");
	if ((status == PSGD_ERR_DEVICE || status == PSGD_ERR_NOMEM) && s->device.ops->error)
		s->device.ops->error(s->device.self, text, bytes);
	if (!text[0])
		psgd__text(text, bytes, "%s", psgd_status_text(status));
}

psgd_status psgd__device_refuse(psgd_session *s, psgd_status status)
{
	char text[sizeof(s->error)];

	if (!s->asynchronous || (status != PSGD_ERR_DEVICE && status != PSGD_ERR_NOMEM))
		return status;
	psgd__device_words(s, status, text, sizeof(text));
	pthread_mutex_lock(&s->lock);
	if (s->status >= 0)
		psgd__text(s->error, sizeof(s->error), "%s", text);
	pthread_mutex_unlock(&s->lock);
	return status;
}

/* One that is free, or a new one: the pool has room for all that were ever made. */
static psgd_status take_event(psgd_session *s, psgd_event *out)
{
	psgd_status status = PSGD_OK;
	bool found;

	pthread_mutex_lock(&s->lock);
	found = s->n_events > 0;
	if (found)
		*out = s->events[--s->n_events];
	else
		status = psgd__grow(
			&s->events, &s->events_capacity, s->events_made + 1, sizeof(*s->events));
	if (!found && status >= 0)
		s->events_made++;
	pthread_mutex_unlock(&s->lock);
	if (found || status < 0)
		return status;
	status = s->device.ops->event_create(s->device.self, out);
	if (status < 0)
		*out = NULL;
	return status;
}

static void give_back(psgd_session *s, psgd_event *event)
{
	if (*event)
		s->events[s->n_events++] = *event;
	*event = NULL;
}

void psgd__device_release(struct psgd_exchange *x)
{
	psgd_session *s = x->session;

	if (!s->asynchronous)
		return;
	pthread_mutex_lock(&s->lock);
	give_back(s, &x->flow.ready);
	for (size_t i = 0; i < PSGD__COUNT(x->flow.marks); i++)
		give_back(s, &x->flow.marks[i]);
	pthread_mutex_unlock(&s->lock);
}

psgd_status psgd__device_accept(struct psgd_exchange *x, psgd_stream ready)
{
	psgd_session *s = x->session;

	if (!s->asynchronous) {
		x->round.stream = ready;
		return PSGD_OK;
	}
	PSGD__TRY(take_event(s, &x->flow.ready));
	return s->device.ops->event_record(s->device.self, x->flow.ready, ready);
}

/* True while an earlier bucket is not done, or has runs to come. */
static bool others_first(struct psgd_exchange *x, bool done)
{
	psgd_session *s = x->session;
	const struct psgd_exchange *before;

	pthread_mutex_lock(&s->lock);
	before = s->head;
	while (before && before != x &&
		(before->kind != PSGD__BUCKET || (before->flow.through && !done)))
		before = before->next;
	pthread_mutex_unlock(&s->lock);
	return before != x;
}

/* Of the driver's thread. */
static void on_ready(void *user)
{
	psgd_session *s = user;

	pthread_mutex_lock(&s->lock);
	s->woken = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

/* Asks once to be called when the gradients are ready. */
static psgd_status watch(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	const struct psgd_device_ops *d = s->device.ops;

	if (!s->gate || x->flow.watched)
		return PSGD_PENDING;
	PSGD__TRY(d->stream_wait(s->device.self, s->gate, x->flow.ready));
	PSGD__TRY(d->stream_call(s->device.self, s->gate, on_ready, s));
	x->flow.watched = true;
	return PSGD_PENDING;
}

psgd_status psgd__device_join(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	psgd_status status;

	if (!s->asynchronous)
		return PSGD_OK;
	status = s->device.ops->event_test(s->device.self, x->flow.ready);
	if (status < 0)
		return status;
	if (status == PSGD_PENDING && others_first(x, false))
		return watch(x);
	return s->device.ops->stream_wait(s->device.self, s->stream, x->flow.ready);
}

psgd_status psgd__device_mark(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	psgd_event *mark = &x->flow.marks[x->flow.n_marks];

	if (!s->asynchronous)
		return PSGD_OK;
	PSGD__TRY(take_event(s, mark));
	PSGD__TRY(s->device.ops->event_record(s->device.self, *mark, s->stream));
	x->flow.n_marks++;
	return PSGD_OK;
}

/* Of the driver's thread. The time anchors what the device says of its own to our clock. */
static void on_through(void *user)
{
	struct psgd_exchange *x = user;
	psgd_session *s = x->session;

	pthread_mutex_lock(&s->lock);
	x->flow.done_ns = psgd__now_ns();
	s->woken = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

psgd_status psgd__device_through(struct psgd_exchange *x)
{
	psgd_session *s = x->session;

	if (!s->asynchronous)
		return PSGD_OK;
	x->flow.through = true;
	return s->device.ops->stream_call(s->device.self, s->stream, on_through, x);
}

/* When the device came to an event, by our clock. */
static psgd_status time_of(const struct psgd_exchange *x, psgd_event event, int64_t *ns)
{
	const psgd_session *s = x->session;
	psgd_event last = x->flow.marks[x->flow.n_marks - 1];
	int64_t before = 0;

	if (event != last)
		PSGD__TRY(s->device.ops->event_elapsed(s->device.self, event, last, &before));
	*ns = x->flow.done_ns - before;
	return PSGD_OK;
}

static psgd_status record_times(struct psgd_exchange *x)
{
	int64_t ready, start, end;

	for (uint32_t i = 0; i + 1 < x->flow.n_marks; i += 2) {
		PSGD__TRY(time_of(x, x->flow.marks[i], &start));
		PSGD__TRY(time_of(x, x->flow.marks[i + 1], &end));
		*(i ? &x->decode_ns : &x->encode_ns) += end - start;
		PSGD__TRY(psgd__record_interval(
			x->session, i ? PSGD__DECODING : PSGD__ENCODING, start, end));
	}
	PSGD__TRY(time_of(x, x->flow.ready, &ready));
	return psgd__record_ready(x, ready);
}

psgd_status psgd__device_done(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	psgd_status status;
	bool called;

	if (!s->asynchronous)
		return PSGD_OK;
	/* In the order of submission, or sums over buckets would not always have the same bits. */
	if (others_first(x, true))
		return PSGD_PENDING;
	/* The call does not come from a device that has failed: the event tells. */
	status = s->device.ops->event_test(s->device.self, x->flow.marks[x->flow.n_marks - 1]);
	if (status != PSGD_OK)
		return status;
	pthread_mutex_lock(&s->lock);
	called = x->flow.done_ns != 0;
	pthread_mutex_unlock(&s->lock);
	return called ? record_times(x) : PSGD_PENDING;
}
