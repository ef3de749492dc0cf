/* Batches that threads make ahead of their use, in a ring. SPDX-License-Identifier: MIT */
#include "prefetch.h"

#include <pthread.h>
#include <stdlib.h>

/* A place in the ring. */
struct slot {
	struct batch batch;
	size_t next, done;  /* samples that were begun, that are made */
	psgd_status status; /* of sample `failed`, the first that failed */
	size_t failed;
	struct image_error error;
};

struct maker {
	struct prefetch *prefetch;
	unsigned number;
	pthread_t thread;
};

struct prefetch {
	struct prefetch_options options;
	pthread_mutex_t lock; /* of all that follows */
	pthread_cond_t work;  /* there may be something to make, or to end */
	pthread_cond_t made;  /* a sample was made */
	struct slot *slots;
	size_t head, filled;  /* the ring: from the next to be taken */
	struct request ahead; /* the next to be put into the ring */
	bool moving;	      /* `ahead` is known, and may be begun */
	bool stop;
	size_t busy; /* threads that are making a sample */
	struct maker *makers;
	unsigned n_makers;
};

static bool same(const struct request *a, const struct request *b)
{
	return a->test == b->test && a->batch == b->batch && (a->test || a->epoch == b->epoch);
}

static struct slot *slot_at(struct prefetch *p, size_t i)
{
	return &p->slots[(p->head + i) % p->options.batches];
}

/* The first sample, in the ring's order, that nobody makes yet; NULL: none. */
static struct slot *find_work(struct prefetch *p)
{
	struct slot *slot;

	if (!p->moving)
		return NULL;
	for (size_t i = 0; i < p->filled; i++) {
		slot = slot_at(p, i);
		if (slot->next < slot->batch.request.n)
			return slot;
	}
	if (p->filled == p->options.batches)
		return NULL;
	slot = slot_at(p, p->filled++);
	slot->batch.request = p->ahead;
	slot->next = slot->done = 0;
	slot->status = PSGD_OK;
	p->options.ops->plan(p->options.user, &slot->batch);
	p->options.ops->follow(p->options.user, &p->ahead);
	return slot;
}

static void make_one(struct prefetch *p, unsigned number, struct slot *slot)
{
	size_t i = slot->next++;
	struct image_error error;
	psgd_status status;

	p->busy++;
	(void)pthread_mutex_unlock(&p->lock);
	status = p->options.ops->make(p->options.user, number, &slot->batch, i, &error);
	(void)pthread_mutex_lock(&p->lock);
	p->busy--;
	slot->done++;
	if (status && (!slot->status || i < slot->failed)) {
		slot->status = status;
		slot->failed = i;
		slot->error = error;
	}
	if (p->busy == 0 || slot->done == slot->batch.request.n)
		(void)pthread_cond_signal(&p->made);
}

static void *maker_run(void *argument)
{
	struct maker *maker = argument;
	struct prefetch *p = maker->prefetch;

	(void)pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		struct slot *slot = find_work(p);

		if (slot)
			make_one(p, maker->number, slot);
		else
			(void)pthread_cond_wait(&p->work, &p->lock);
	}
	(void)pthread_mutex_unlock(&p->lock);
	return NULL;
}

static psgd_status slots_alloc(struct prefetch *p)
{
	const struct prefetch_options *o = &p->options;

	p->slots = calloc(o->batches, sizeof(*p->slots));
	for (size_t i = 0; p->slots && i < o->batches; i++) {
		struct batch *batch = &p->slots[i].batch;

		batch->ids = calloc(o->ids, sizeof(*batch->ids));
		batch->pixels = calloc(o->samples, o->sample_bytes);
		batch->samples = calloc(o->samples, sizeof(*batch->samples));
		if (!batch->ids || !batch->pixels || !batch->samples)
			return PSGD_ERR_NOMEM;
	}
	p->makers = calloc(o->threads, sizeof(*p->makers));
	return p->slots && p->makers ? PSGD_OK : PSGD_ERR_NOMEM;
}

static psgd_status start(struct prefetch *p, struct image_error *error)
{
	if (slots_alloc(p))
		return image_fail(error, PSGD_ERR_NOMEM,
			"out of memory for %u batches; try a lower dataset.prefetch_batches",
			p->options.batches);
	while (p->n_makers < p->options.threads) {
		struct maker *maker = &p->makers[p->n_makers];

		maker->prefetch = p;
		maker->number = p->n_makers;
		if (pthread_create(&maker->thread, NULL, maker_run, maker) != 0)
			return image_fail(error, PSGD_ERR_FAILED,
				"thread %u of dataset.loader_threads cannot be started",
				p->n_makers);
		p->n_makers++;
	}
	return PSGD_OK;
}

psgd_status prefetch_open(
	const struct prefetch_options *options, struct prefetch **out, struct image_error *error)
{
	struct prefetch *p = calloc(1, sizeof(*p));
	psgd_status status;

	*out = p;
	if (!p)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	p->options = *options;
	/* Without attributes none of these fails. */
	(void)pthread_mutex_init(&p->lock, NULL);
	(void)pthread_cond_init(&p->work, NULL);
	(void)pthread_cond_init(&p->made, NULL);
	status = start(p, error);
	if (status)
		prefetch_close(out);
	return status;
}

void prefetch_close(struct prefetch **prefetch)
{
	struct prefetch *p = *prefetch;

	if (!p)
		return;
	(void)pthread_mutex_lock(&p->lock);
	p->stop = true;
	(void)pthread_cond_broadcast(&p->work);
	(void)pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->n_makers; i++)
		(void)pthread_join(p->makers[i].thread, NULL);
	for (size_t i = 0; p->slots && i < p->options.batches; i++) {
		free(p->slots[i].batch.ids);
		free(p->slots[i].batch.pixels);
		free(p->slots[i].batch.samples);
	}
	(void)pthread_cond_destroy(&p->made);
	(void)pthread_cond_destroy(&p->work);
	(void)pthread_mutex_destroy(&p->lock);
	free(p->makers);
	free(p->slots);
	free(p);
	*prefetch = NULL;
}

/* Lets the threads begin anew at a request. */
static void seek(struct prefetch *p, const struct request *request)
{
	p->moving = false;
	while (p->busy > 0)
		(void)pthread_cond_wait(&p->made, &p->lock);
	p->filled = 0;
	p->ahead = *request;
	p->moving = true;
	(void)pthread_cond_broadcast(&p->work);
}

psgd_status prefetch_take(struct prefetch *p, const struct request *request,
	const struct batch **out, struct image_error *error)
{
	struct slot *slot;
	psgd_status status;

	(void)pthread_mutex_lock(&p->lock);
	if (!p->moving || !same(request, p->filled ? &slot_at(p, 0)->batch.request : &p->ahead))
		seek(p, request);
	slot = slot_at(p, 0);
	while (p->filled == 0 || slot->done < slot->batch.request.n)
		(void)pthread_cond_wait(&p->made, &p->lock);
	*out = &slot->batch;
	status = slot->status;
	if (status)
		*error = slot->error;
	(void)pthread_mutex_unlock(&p->lock);
	return status;
}

void prefetch_release(struct prefetch *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->head = (p->head + 1) % p->options.batches;
	p->filled--;
	(void)pthread_cond_broadcast(&p->work);
	(void)pthread_mutex_unlock(&p->lock);
}
