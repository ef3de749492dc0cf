#include "lazy_queue.h"

#include <stdlib.h>
#include <string.h>

#include "support/team.h"

static bool runnable(const struct lazy *l, const struct stream *s)
{
	const struct op *op = s->first;

	if (!op || (op->kind == HOLD && l->held && !l->broken))
		return false;
	return l->broken || op->kind != WAIT || op->stream->done >= op->at;
}

static void do_op(struct lazy *l, struct op *op)
{
	if (op->kind == CALL)
		op->fn(op->user);
	else if (op->kind == KERNEL)
		lazy_work_run(op->work, &l->cpu);
	else if (op->kind == COPY)
		memcpy(op->to, op->from, op->bytes);
	else if (op->kind == ZERO)
		memset(op->to, 0, op->bytes);
}

static void record(struct event *e, const struct stream *s)
{
	e->pending--;
	if (e->stream == s && e->at == s->done + 1)
		e->ns = now_ns();
	if (e->destroyed && !e->pending)
		free(e);
}

bool lazy_do_next(struct lazy *l)
{
	size_t from = rng_next(&l->rng) % l->n_streams;
	struct stream *s = NULL;
	struct op *op;
	bool lost = l->broken;

	for (size_t i = 0; i < l->n_streams && !s; i++) {
		struct stream *candidate = &l->streams[(from + i) % l->n_streams];

		s = runnable(l, candidate) ? candidate : NULL;
	}
	if (!s)
		return false;
	op = s->first;
	pthread_mutex_unlock(&l->lock);
	if (!lost)
		do_op(l, op);
	pthread_mutex_lock(&l->lock);
	if (op->kind == RECORD)
		record(op->event, s);
	s->first = op->next;
	s->done++;
	lazy_work_free(op->work);
	free(op);
	pthread_cond_broadcast(&l->changed);
	return true;
}

void *lazy_work_on(void *user)
{
	struct lazy *l = user;

	pthread_mutex_lock(&l->lock);
	while (!l->stop) {
		int64_t pause_ns = rng_range(&l->rng, 0, 3) ? 0 : rng_range(&l->rng, 0, 200000);

		if (pause_ns) {
			pthread_mutex_unlock(&l->lock);
			sleep_ns(pause_ns);
			pthread_mutex_lock(&l->lock);
		}
		if (!lazy_do_next(l) && !l->stop)
			pthread_cond_wait(&l->changed, &l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

void lazy_wait_until(struct lazy *l, const struct stream *s, uint64_t done)
{
	atomic_fetch_add(&l->waits, 1);
	while (s->done < done) {
		if (l->mode == LAZY_DELAYED)
			pthread_cond_wait(&l->changed, &l->lock);
		else if (!lazy_do_next(l))
			abort(); /* nothing could ever go on */
	}
}

uint64_t lazy_put(struct lazy *l, struct stream *s, struct op what)
{
	struct op *op = malloc(sizeof(*op));

	*op = what;
	if (s->first)
		s->last->next = op;
	else
		s->first = op;
	s->last = op;
	pthread_cond_broadcast(&l->changed);
	return ++s->put;
}

bool lazy_is_done(const struct event *e)
{
	return !e->stream || e->stream->done >= e->at;
}
