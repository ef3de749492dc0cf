#include "lazy_transport.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "support/team.h"

struct request {
	const struct lazy_transport *of;
	struct psgd_collective collective; /* the caller's */
	size_t bytes;
	void *copy;
	pthread_mutex_t lock;
	bool posted;
	psgd_status status; /* of posting */
	void *inner;
};

/* The stream is there. Nobody may see the request as posted before it is. */
static void post_now(void *user)
{
	struct request *r = user;
	struct psgd_collective c = r->collective;
	psgd_status status;

	memcpy(r->copy, c.data, r->bytes);
	c.data = r->copy;
	c.stream = NULL;
	pthread_mutex_lock(&r->lock);
	status = r->of->inner->ops->post(r->of->inner->self, &c, &r->inner);
	r->status = status;
	r->posted = true;
	pthread_mutex_unlock(&r->lock);
	if (status < 0)
		c.notify(c.notify_user);
}

static psgd_status post(void *self, const struct psgd_collective *collective, void **out)
{
	const struct lazy_transport *t = self;
	struct request *r = calloc(1, sizeof(*r));

	r->of = t;
	r->collective = *collective;
	r->bytes = (size_t)collective->count * psgd_dtype_bytes(collective->dtype);
	if (collective->kind == PSGD_ALLGATHER)
		r->bytes *= t->inner->n_workers;
	r->copy = malloc(r->bytes);
	pthread_mutex_init(&r->lock, NULL);
	*out = r;
	lazy_push(t->device, collective->stream, post_now, r);
	return PSGD_OK;
}

static psgd_status test(void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	const struct lazy_transport *t = self;
	struct request *r = request;
	psgd_status status = PSGD_PENDING;
	bool posted;

	pthread_mutex_lock(&r->lock);
	posted = r->posted;
	pthread_mutex_unlock(&r->lock);
	if (posted && r->status >= 0)
		status = t->inner->ops->test(t->inner->self, r->inner, timeout_ns, out);
	else if (posted)
		status = r->status;
	else
		sleep_ns(timeout_ns < 1000000 ? timeout_ns : 1000000);
	if (status == PSGD_PENDING)
		return status;
	if (status == PSGD_OK)
		memcpy(r->collective.data, r->copy, r->bytes);
	pthread_mutex_destroy(&r->lock);
	free(r->copy);
	free(r);
	return status;
}

static void abort_all(void *self)
{
	const struct lazy_transport *t = self;

	t->inner->ops->abort(t->inner->self);
}

static void error(void *self, char *text, size_t bytes)
{
	const struct lazy_transport *t = self;

	t->inner->ops->error(t->inner->self, text, bytes);
}

static const struct psgd_transport_ops ops = {
	.size = sizeof(ops),
	.name = "lazy",
	.post = post,
	.test = test,
	.abort = abort_all,
	.error = error,
};

struct psgd_transport lazy_transport(struct lazy_transport *self)
{
	return (struct psgd_transport){&ops, self, self->inner->worker, self->inner->n_workers};
}
