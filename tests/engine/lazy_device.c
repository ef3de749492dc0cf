#include "lazy_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lazy_queue.h"

static struct lazy *lazy_of(const struct psgd_device *device)
{
	return device->self;
}

static struct stream *stream_of(struct lazy *l, psgd_stream stream)
{
	return stream ? stream : &l->streams[0];
}

/* ---- the table ---- */

static bool fails(struct lazy *l, const char *name)
{
	bool broken;

	pthread_mutex_lock(&l->lock);
	broken = l->broken;
	pthread_mutex_unlock(&l->lock);
	if (atomic_fetch_add(&l->calls, 1) != atomic_load(&l->fail_at) && !broken)
		return false;
	pthread_mutex_lock(&l->lock);
	snprintf(l->text, sizeof(l->text), "lazy device: %s was made to fail", name);
	pthread_mutex_unlock(&l->lock);
	atomic_store(&l->failed, true);
	return true;
}

static psgd_status enqueue(
	struct lazy *l, psgd_stream stream, const char *name, struct op op, bool wait)
{
	struct stream *s = stream_of(l, stream);
	uint64_t at;

	if (fails(l, name)) {
		lazy_work_free(op.work);
		return PSGD_ERR_DEVICE;
	}
	pthread_mutex_lock(&l->lock);
	at = lazy_put(l, s, op);
	if (wait)
		lazy_wait_until(l, s, at);
	pthread_mutex_unlock(&l->lock);
	return PSGD_OK;
}

psgd_status lazy_enqueue_work(
	void *self, psgd_stream stream, const char *name, struct lazy_work *work, bool wait)
{
	return enqueue(self, stream, name, (struct op){.kind = KERNEL, .work = work}, wait);
}

/* Filled with NaN: what is read before it is written shows. */
static psgd_status lazy_alloc(void *self, size_t bytes, void **out)
{
	struct lazy *l = self;
	size_t whole = (bytes + 64) & ~(size_t)63;

	*out = NULL;
	if (fails(l, "alloc"))
		return PSGD_ERR_NOMEM;
	*out = aligned_alloc(64, whole);
	memset(*out, 0xff, whole);
	atomic_fetch_add(&l->alive, 1);
	return PSGD_OK;
}

static void lazy_free(void *self, void *memory, size_t bytes)
{
	struct lazy *l = self;

	(void)bytes;
	if (memory)
		atomic_fetch_sub(&l->alive, 1);
	free(memory);
}

static psgd_status lazy_copy(void *self, void *to, const void *from, size_t bytes, psgd_stream s)
{
	return enqueue(self, s, "copy",
		(struct op){.kind = COPY, .to = to, .from = from, .bytes = bytes}, false);
}

static psgd_status lazy_zero(void *self, void *to, size_t bytes, psgd_stream s)
{
	return enqueue(self, s, "zero", (struct op){.kind = ZERO, .to = to, .bytes = bytes}, false);
}

static psgd_status lazy_upload(void *self, void *to, const void *from, size_t bytes, psgd_stream s)
{
	return enqueue(self, s, "upload",
		(struct op){.kind = COPY, .to = to, .from = from, .bytes = bytes}, true);
}

static psgd_status lazy_download(
	void *self, void *to, const void *from, size_t bytes, psgd_stream s)
{
	return enqueue(self, s, "download",
		(struct op){.kind = COPY, .to = to, .from = from, .bytes = bytes}, true);
}

static psgd_status lazy_stream_create(void *self, psgd_stream *out)
{
	struct lazy *l = self;

	if (fails(l, "stream_create"))
		return PSGD_ERR_DEVICE;
	pthread_mutex_lock(&l->lock);
	if (l->n_streams == LAZY_STREAMS)
		abort();
	l->streams[l->n_streams].alive = true;
	*out = &l->streams[l->n_streams++];
	pthread_mutex_unlock(&l->lock);
	atomic_fetch_add(&l->alive, 1);
	atomic_fetch_add(&l->made, 1);
	return PSGD_OK;
}

/* One in which something is still to be done counts as a leak. */
static void lazy_stream_destroy(void *self, psgd_stream stream)
{
	struct lazy *l = self;
	struct stream *s = stream;

	if (!s)
		return;
	pthread_mutex_lock(&l->lock);
	if (s->alive && s->done == s->put)
		atomic_fetch_sub(&l->alive, 1);
	s->alive = false;
	pthread_mutex_unlock(&l->lock);
}

static psgd_status lazy_stream_finish(void *self, psgd_stream stream)
{
	struct lazy *l = self;
	struct stream *s = stream_of(l, stream);

	if (fails(l, "stream_finish"))
		return PSGD_ERR_DEVICE;
	pthread_mutex_lock(&l->lock);
	lazy_wait_until(l, s, s->put);
	pthread_mutex_unlock(&l->lock);
	return PSGD_OK;
}

static psgd_status lazy_stream_wait(void *self, psgd_stream stream, psgd_event event)
{
	struct lazy *l = self;
	const struct event *e = event;

	if (fails(l, "stream_wait"))
		return PSGD_ERR_DEVICE;
	pthread_mutex_lock(&l->lock);
	if (e->stream)
		lazy_put(l, stream_of(l, stream),
			(struct op){.kind = WAIT, .stream = e->stream, .at = e->at});
	pthread_mutex_unlock(&l->lock);
	return PSGD_OK;
}

static psgd_status lazy_stream_call(
	void *self, psgd_stream stream, void (*fn)(void *user), void *user)
{
	return enqueue(self, stream, "stream_call",
		(struct op){.kind = CALL, .fn = fn, .user = user}, false);
}

static psgd_status lazy_event_create(void *self, psgd_event *out)
{
	struct lazy *l = self;

	if (fails(l, "event_create"))
		return PSGD_ERR_DEVICE;
	*out = calloc(1, sizeof(struct event));
	atomic_fetch_add(&l->alive, 1);
	atomic_fetch_add(&l->made, 1);
	return PSGD_OK;
}

static void lazy_event_destroy(void *self, psgd_event event)
{
	struct lazy *l = self;
	struct event *e = event;

	if (!e)
		return;
	atomic_fetch_sub(&l->alive, 1);
	pthread_mutex_lock(&l->lock);
	e->destroyed = true;
	if (!e->pending)
		free(e);
	pthread_mutex_unlock(&l->lock);
}

static psgd_status lazy_event_record(void *self, psgd_event event, psgd_stream stream)
{
	struct lazy *l = self;
	struct stream *s = stream_of(l, stream);
	struct event *e = event;

	if (fails(l, "event_record"))
		return PSGD_ERR_DEVICE;
	pthread_mutex_lock(&l->lock);
	e->at = lazy_put(l, s, (struct op){.kind = RECORD, .event = e});
	e->stream = s;
	e->pending++;
	pthread_mutex_unlock(&l->lock);
	return PSGD_OK;
}

static psgd_status lazy_event_test(void *self, psgd_event event)
{
	struct lazy *l = self;
	const struct event *e = event;
	bool done;

	if (fails(l, "event_test"))
		return PSGD_ERR_DEVICE;
	pthread_mutex_lock(&l->lock);
	/* Who asks again and again must come to an end. */
	for (uint32_t n = rng_range(&l->rng, 0, 2); l->mode == LAZY_WAITED && n > 0; n--)
		lazy_do_next(l);
	done = lazy_is_done(e);
	pthread_mutex_unlock(&l->lock);
	return done ? PSGD_OK : PSGD_PENDING;
}

static psgd_status lazy_event_elapsed(void *self, psgd_event from, psgd_event to, int64_t *ns)
{
	const struct event *a = from, *b = to;
	struct lazy *l = self;
	bool known;

	if (fails(l, "event_elapsed"))
		return PSGD_ERR_DEVICE;
	pthread_mutex_lock(&l->lock);
	known = a->stream && b->stream && lazy_is_done(a) && lazy_is_done(b);
	*ns = b->ns - a->ns;
	pthread_mutex_unlock(&l->lock);
	return known ? PSGD_OK : PSGD_ERR_DEVICE;
}

static void lazy_error(void *self, char *text, size_t bytes)
{
	struct lazy *l = self;

	pthread_mutex_lock(&l->lock);
	snprintf(text, bytes, "%s", l->text);
	pthread_mutex_unlock(&l->lock);
}

/* What is left in streams is done first, as a driver would. */
static void lazy_destroy(void *self)
{
	struct lazy *l = self;

	pthread_mutex_lock(&l->lock);
	for (size_t i = 0; i < l->n_streams; i++)
		lazy_wait_until(l, &l->streams[i], l->streams[i].put);
	l->stop = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	if (l->mode == LAZY_DELAYED)
		pthread_join(l->thread, NULL);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	psgd_device_destroy(&l->cpu);
	free(l);
}

static const struct psgd_device_ops ops = {
	.size = sizeof(ops),
	.name = "lazy",
	.alloc = lazy_alloc,
	.free = lazy_free,
	.copy = lazy_copy,
	.zero = lazy_zero,
	.kernels = &lazy_kernels,
	.destroy = lazy_destroy,
	.stream_create = lazy_stream_create,
	.stream_destroy = lazy_stream_destroy,
	.stream_finish = lazy_stream_finish,
	.stream_wait = lazy_stream_wait,
	.stream_call = lazy_stream_call,
	.event_create = lazy_event_create,
	.event_destroy = lazy_event_destroy,
	.event_record = lazy_event_record,
	.event_test = lazy_event_test,
	.event_elapsed = lazy_event_elapsed,
	.upload = lazy_upload,
	.download = lazy_download,
	.error = lazy_error,
};

psgd_status lazy_open(enum lazy_mode mode, uint64_t seed, struct psgd_device *out)
{
	struct lazy *l = calloc(1, sizeof(*l));
	psgd_status status = psgd_device_cpu(NULL, &l->cpu);

	if (status < 0) {
		free(l);
		return status;
	}
	l->mode = mode;
	l->rng.state = seed;
	l->n_streams = 1;
	atomic_store(&l->fail_at, -1);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	if (mode == LAZY_DELAYED && pthread_create(&l->thread, NULL, lazy_work_on, l))
		abort();
	*out = (struct psgd_device){&ops, l};
	return PSGD_OK;
}

/* ---- for tests ---- */

void lazy_push(
	const struct psgd_device *device, psgd_stream stream, void (*fn)(void *user), void *user)
{
	struct lazy *l = lazy_of(device);

	pthread_mutex_lock(&l->lock);
	lazy_put(l, stream_of(l, stream), (struct op){.kind = CALL, .fn = fn, .user = user});
	pthread_mutex_unlock(&l->lock);
}

void lazy_hold(const struct psgd_device *device, psgd_stream stream)
{
	struct lazy *l = lazy_of(device);

	pthread_mutex_lock(&l->lock);
	l->held = true;
	lazy_put(l, stream_of(l, stream), (struct op){.kind = HOLD});
	pthread_mutex_unlock(&l->lock);
}

void lazy_release(const struct psgd_device *device)
{
	struct lazy *l = lazy_of(device);

	pthread_mutex_lock(&l->lock);
	l->held = false;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

void lazy_fail(const struct psgd_device *device, long k)
{
	struct lazy *l = lazy_of(device);

	atomic_store(&l->failed, false);
	atomic_store(&l->calls, 0);
	atomic_store(&l->fail_at, k);
}

void lazy_break(const struct psgd_device *device)
{
	struct lazy *l = lazy_of(device);

	pthread_mutex_lock(&l->lock);
	l->broken = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

long lazy_calls(const struct psgd_device *device)
{
	return atomic_load(&lazy_of(device)->calls);
}

bool lazy_failed(const struct psgd_device *device)
{
	return atomic_load(&lazy_of(device)->failed);
}

long lazy_waits(const struct psgd_device *device)
{
	return atomic_load(&lazy_of(device)->waits);
}

long lazy_made(const struct psgd_device *device)
{
	return atomic_load(&lazy_of(device)->made);
}

long lazy_leaks(const struct psgd_device *device)
{
	return atomic_load(&lazy_of(device)->alive);
}
