/* What all of the engine uses: failures, memory of messages, exchanges and their queue. */
#include "engine/core.h"

#include <string.h>

psgd_status psgd__session_fail(psgd_session *s, psgd_status status, const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&s->lock);
	if (s->status >= 0) {
		s->status = status;
		va_start(args, format);
		psgd__vtext(s->error, sizeof(s->error), format, args);
		va_end(args);
		if (s->options.log && s->options.log_level >= PSGD_LOG_ERROR)
			s->options.log(s->options.log_user, PSGD_LOG_ERROR, s->error);
	}
	status = s->status;
	pthread_cond_broadcast(&s->done);
	s->woken = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	return status;
}

psgd_status psgd__session_fail_as(psgd_session *s, psgd_status status)
{
	char text[sizeof(s->error)];

	psgd__device_words(s, status, text, sizeof(text));
	return psgd__session_fail(s, status, "%s", text);
}

psgd_status psgd__session_status(psgd_session *s)
{
	psgd_status status;

	pthread_mutex_lock(&s->lock);
	status = s->status;
	pthread_mutex_unlock(&s->lock);
	return status;
}

psgd_status psgd__message_memory(psgd_session *s, size_t bytes, void **out)
{
	struct psgd__block *block = NULL;
	void *memory;

	for (size_t i = 0; i < s->n_blocks; i++) {
		struct psgd__block *b = &s->blocks[i];

		if (!b->used && b->bytes >= bytes && (!block || b->bytes < block->bytes))
			block = b;
	}
	/* Ranks change sizes by small factors: a block that is far too large is left to others. */
	if (block && block->bytes / 4 <= bytes) {
		block->used = true;
		block->step = s->step;
		*out = block->memory;
		return PSGD_OK;
	}
	PSGD__TRY(s->device.ops->alloc(s->device.self, bytes, &memory));
	for (size_t i = 0; i < s->n_blocks; i++) {
		block = &s->blocks[i];
		if (block->used || block->bytes > bytes)
			continue;
		s->device.ops->free(s->device.self, block->memory, block->bytes);
		*block = (struct psgd__block){memory, bytes, s->step, true};
		*out = memory;
		return PSGD_OK;
	}
	if (psgd__grow(&s->blocks, &s->blocks_capacity, s->n_blocks + 1, sizeof(*s->blocks)) < 0) {
		s->device.ops->free(s->device.self, memory, bytes);
		return PSGD_ERR_NOMEM;
	}
	s->blocks[s->n_blocks++] = (struct psgd__block){memory, bytes, s->step, true};
	*out = memory;
	return PSGD_OK;
}

void psgd__message_trim(psgd_session *s)
{
	for (size_t i = 0; i < s->n_blocks;) {
		struct psgd__block *block = &s->blocks[i];

		if (block->used || block->step == s->step) {
			i++;
			continue;
		}
		s->device.ops->free(s->device.self, block->memory, block->bytes);
		*block = s->blocks[--s->n_blocks];
	}
}

void psgd__message_release(psgd_session *s, void *memory)
{
	for (size_t i = 0; memory && i < s->n_blocks; i++) {
		if (s->blocks[i].memory == memory)
			s->blocks[i].used = false;
	}
}

psgd_status psgd__exchange_new(psgd_session *s, enum psgd__kind kind, struct psgd_exchange **out)
{
	struct psgd_exchange *x = psgd__calloc(1, sizeof(*x));

	*out = x;
	if (!x)
		return PSGD_ERR_NOMEM;
	x->session = s;
	x->kind = kind;
	x->is_control = kind != PSGD__BUCKET;
	x->round.stream = s->stream;
	return PSGD_OK;
}

void psgd__exchange_free(struct psgd_exchange *x)
{
	if (!x)
		return;
	psgd__control_free(&x->control);
	psgd__message_release(x->session, x->memory);
	psgd__device_release(x);
	free(x->agreement);
	free(x->addends);
	free(x->spans);
	free(x->grads);
	free(x);
}

/* Every tensor of the bucket is known, has data, and is submitted for the first time this step. */
static psgd_status check_bucket(psgd_session *s, const struct psgd_bucket *bucket)
{
	size_t done = 0;

	for (; done < bucket->n_grads; done++) {
		const struct psgd_grad *grad = &bucket->grads[done];
		size_t at = psgd__index_find(&s->index, grad->id);

		if (at == SIZE_MAX || !grad->data || s->submitted_in[at] == s->step + 1)
			break;
		s->submitted_in[at] = s->step + 1;
	}
	if (done == bucket->n_grads)
		return PSGD_OK;
	while (done-- > 0)
		s->submitted_in[psgd__index_find(&s->index, bucket->grads[done].id)] = 0;
	return PSGD_ERR_INVALID;
}

/* The caller's gradients, and an event behind what makes them. */
static psgd_status take_bucket(
	struct psgd_exchange *x, const struct psgd_bucket *bucket, psgd_stream ready)
{
	psgd_session *s = x->session;

	x->grads = psgd__calloc(bucket->n_grads, sizeof(*x->grads));
	if (s->options.flags & PSGD_SESSION_GRAD_NORM)
		x->spans = psgd__calloc(bucket->n_grads, sizeof(*x->spans));
	if (s->sum_gradients)
		x->addends = psgd__calloc(bucket->n_grads, sizeof(*x->addends));
	if (!x->grads || ((s->options.flags & PSGD_SESSION_GRAD_NORM) && !x->spans) ||
		(s->sum_gradients && !x->addends))
		return PSGD_ERR_NOMEM;
	memcpy(x->grads, bucket->grads, bucket->n_grads * sizeof(*x->grads));
	x->bucket = *bucket;
	x->bucket.grads = x->grads;
	PSGD__TRY(psgd__device_refuse(s, psgd__device_accept(x, ready)));
	return check_bucket(s, &x->bucket);
}

psgd_status psgd__bucket_new(psgd_session *s, const struct psgd_bucket *bucket, psgd_stream ready,
	struct psgd_exchange **out)
{
	struct psgd_bucket mine;
	struct psgd_exchange *x;
	psgd_status status;

	*out = NULL;
	if (!bucket)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&mine, sizeof(mine), bucket));
	if (!mine.grads || !mine.n_grads || mine.n_grads > s->n_tensors)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__session_status(s));
	PSGD__TRY(psgd__exchange_new(s, PSGD__BUCKET, &x));
	status = take_bucket(x, &mine, ready);
	if (status < 0) {
		psgd__exchange_free(x);
		return status;
	}
	x->number = s->step_buckets++;
	x->ticket = ++s->last_ticket;
	x->round.size = sizeof(x->round);
	x->round.step = s->step | (s->trial.on ? PSGD__TRIAL_STEP : 0);
	x->round.bucket = &x->bucket;
	x->ready_ns = psgd__now_ns();
	*out = x;
	return PSGD_OK;
}

void psgd__queue_push(psgd_session *s, struct psgd_exchange *x)
{
	struct psgd_exchange **at = &s->head;

	pthread_mutex_lock(&s->lock);
	while (*at)
		at = &(*at)->next;
	*at = x;
	x->next = NULL;
	if (x->kind == PSGD__CONTROL)
		s->open_controls++;
	s->woken = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

void psgd__queue_remove(psgd_session *s, struct psgd_exchange *x)
{
	struct psgd_exchange **at = &s->head;

	pthread_mutex_lock(&s->lock);
	while (*at && *at != x)
		at = &(*at)->next;
	if (*at)
		*at = x->next;
	x->next = NULL;
	pthread_cond_broadcast(&s->done);
	pthread_mutex_unlock(&s->lock);
}
