/*
 * The life of an exchange. Stages of a bucket:
 *   PLAN    once the ranks of its step are known
 *   ENCODE  run(0), as soon as possible: the wire may still be busy with earlier buckets
 *   AGREE   only for a signature that is used for the first time
 *   ROUNDS  hand out message i, take it back, run(i + 1)
 *   SETTLE  once the device is through with the last run
 * Collectives leave in the order of the queue: an exchange hands out its first one only when the
 * exchange before it has handed out its last.
 */
#include "engine/core.h"

#include <math.h>
#include <string.h>

enum stage {
	PLAN = 0,
	ENCODE,
	AGREE_SEND,
	AGREE_CHECK,
	ROUND_SEND,
	ROUND_RUN,
	SETTLE,
	SIMPLE_CHECK
};

psgd_status psgd__hand_out(struct psgd_exchange *x, uint32_t kind, uint32_t dtype, void *data,
	int64_t count, bool last)
{
	psgd_session *s = x->session;
	const struct psgd_exchange *before;

	pthread_mutex_lock(&s->lock);
	before = s->head;
	while (before && before != x && before->all_sent)
		before = before->next;
	pthread_mutex_unlock(&s->lock);
	if (before != x)
		return PSGD_PENDING;
	x->collective = (struct psgd_collective){
		.size = sizeof(x->collective),
		.kind = kind,
		.dtype = dtype,
		.count = count,
		.data = data,
		.root = x->root,
		.tag = s->next_tag++ << 32 | (x->signature & UINT32_MAX),
		.stream = x->round.stream,
	};
	x->in_flight = true;
	x->all_sent = last;
	return PSGD_WANT_COLLECTIVE;
}

psgd_status psgd__finish_exchange(struct psgd_exchange *x)
{
	if (x->kind == PSGD__CONTROL)
		x->session->open_controls--;
	/* Now: when the exchange has left the queue, the driver thread may look at the blocks. */
	psgd__message_release(x->session, x->memory);
	x->memory = NULL;
	psgd__device_release(x);
	x->all_sent = true;
	x->done = true;
	return PSGD_OK;
}

static uint64_t signature(const struct psgd_exchange *x)
{
	uint64_t hash = psgd__hash_u64(PSGD__HASH_START, x->bucket.n_grads);

	for (size_t i = 0; i < x->bucket.n_grads; i++) {
		size_t at = psgd__index_find(&x->session->index, x->bucket.grads[i].id);

		hash = psgd__hash_u64(hash, x->bucket.grads[i].id);
		hash = psgd__hash_u64(hash, x->session->shapes[at]);
		hash = psgd__hash_u64(hash, x->session->ranks[at]);
	}
	hash = psgd__hash_u64(hash, x->plan.n_rounds);
	for (uint32_t i = 0; i < x->plan.n_rounds; i++) {
		hash = psgd__hash_u64(hash, x->plan.round[i].kind);
		hash = psgd__hash_u64(hash, x->plan.round[i].dtype);
		hash = psgd__hash_u64(hash, (uint64_t)x->plan.round[i].count);
	}
	return hash;
}

psgd_status psgd__plan_complete(struct psgd_plan *plan, uint32_t *bad)
{
	*bad = 0;
	if (!plan->n_rounds || plan->n_rounds > PSGD_MAX_ROUNDS)
		return PSGD_ERR_INVALID;
	for (; *bad < plan->n_rounds; ++*bad) {
		struct psgd_payload *round = &plan->round[*bad];
		bool sum;

		if (!round->kind)
			round->kind = PSGD_ALLREDUCE_SUM;
		if (!round->dtype)
			round->dtype = PSGD_F32;
		sum = round->kind == PSGD_ALLREDUCE_SUM && round->dtype != PSGD_U8;
		if ((!sum && round->kind != PSGD_ALLGATHER) || !psgd_payload_bytes(round))
			return PSGD_ERR_INVALID;
	}
	return PSGD_OK;
}

/* Bytes of the message of a round, rounded up so that the next one is aligned to 64. */
static psgd_status message_bytes(
	const psgd_session *s, const struct psgd_payload *round, size_t *out)
{
	size_t blocks = round->kind == PSGD_ALLGATHER ? s->n_workers : 1;

	if (psgd__mul_overflows(psgd_payload_bytes(round), blocks, out) || *out > PTRDIFF_MAX)
		return PSGD_ERR_NOMEM;
	*out = (*out + 63) & ~(size_t)63;
	return PSGD_OK;
}

static psgd_status allocate_messages(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	size_t bytes[PSGD_MAX_ROUNDS], all = 0;
	char *at;

	for (uint32_t i = 0; i < x->plan.n_rounds; i++) {
		PSGD__TRY(message_bytes(s, &x->plan.round[i], &bytes[i]));
		if (__builtin_add_overflow(all, bytes[i], &all))
			return PSGD_ERR_NOMEM;
	}
	PSGD__TRY(psgd__message_memory(s, all, &x->memory));
	at = x->memory;
	for (uint32_t i = 0; i < x->plan.n_rounds; i++) {
		x->round.message[i] = at;
		at += bytes[i];
	}
	return PSGD_OK;
}

/* Sizes, memory for all messages, and whether the workers have agreed on this bucket. */
static psgd_status plan_bucket(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	uint32_t bad;

	x->plan.size = sizeof(x->plan);
	PSGD__TRY(s->compressor.ops->plan(s->compressor.self, &x->bucket, x->round.step, &x->plan));
	if (psgd__plan_complete(&x->plan, &bad) < 0)
		return psgd__session_fail(s, PSGD_ERR_INVALID,
			"compressor %s plans what cannot be sent: round %u of %u, kind %u, dtype "
			"%u, count %lld",
			s->compressor.ops->name ? s->compressor.ops->name : "(no name)", bad,
			x->plan.n_rounds, x->plan.round[bad].kind, x->plan.round[bad].dtype,
			(long long)x->plan.round[bad].count);
	PSGD__TRY(allocate_messages(x));
	PSGD__TRY(psgd__record_bucket(x));
	x->signature = signature(x);
	return psgd__agree_prepare(x);
}

static psgd_status run_round(struct psgd_exchange *x, uint32_t index)
{
	psgd_session *s = x->session;
	int64_t start = psgd__now_ns(), end;

	x->round.index = index;
	PSGD__TRY(psgd__device_mark(x));
	PSGD__TRY(s->compressor.ops->run(s->compressor.self, &x->round));
	PSGD__TRY(psgd__device_mark(x));
	/* It has only begun: its times are known when the bucket is done. */
	if (s->asynchronous)
		return PSGD_OK;
	end = psgd__now_ns();
	*(index ? &x->decode_ns : &x->encode_ns) += end - start;
	return psgd__record_interval(s, index ? PSGD__DECODING : PSGD__ENCODING, start, end);
}

/* Sums over the mean gradient that somebody asked for. */
static psgd_status observe_gradients(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	const struct psgd_kernels *kernels = s->device.ops->kernels;
	/* A gradient that was discarded must not spoil the sum. */
	bool sums = x->addends && !s->trial.on && !x->round.nonfinite;
	double squares = 0.0;

	for (size_t i = 0; i < x->bucket.n_grads; i++) {
		size_t at = psgd__index_find(&s->index, x->bucket.grads[i].id);
		float *data = x->bucket.grads[i].data;

		if (x->spans)
			x->spans[i] = (struct psgd__span){data, s->counts[at]};
		if (sums)
			x->addends[i] = (struct psgd__addend){
				s->grad_sum + s->grad_sum_at[at], data, s->counts[at]};
	}
	if (sums)
		PSGD__TRY(kernels->accumulate(
			s->device.self, x->addends, x->bucket.n_grads, x->round.stream));
	if (x->spans)
		PSGD__TRY(kernels->sum_squares(
			s->device.self, x->spans, x->bucket.n_grads, &squares, x->round.stream));
	/* The gradients are the caller's again when the bucket is done. */
	else if (sums && s->asynchronous)
		PSGD__TRY(s->device.ops->stream_finish(s->device.self, s->stream));
	pthread_mutex_lock(&s->lock);
	s->record.sum_squares += squares;
	s->record.n_nonfinite += x->round.nonfinite;
	s->record.in_grad_sum |= sums;
	s->record.buckets[x->number].encode_ns = x->encode_ns;
	s->record.buckets[x->number].decode_ns = x->decode_ns;
	pthread_mutex_unlock(&s->lock);
	return PSGD_OK;
}

/* The gradients are there, and what the messages were is known. */
static psgd_status settle(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	psgd_status status = psgd__device_done(x);

	if (status != PSGD_OK)
		return status;
	if (s->compressor.ops->settle)
		s->compressor.ops->settle(s->compressor.self, &x->round);
	PSGD__TRY(observe_gradients(x));
	return psgd__finish_exchange(x);
}

static psgd_status advance_bucket(struct psgd_exchange *x, bool *worked)
{
	psgd_session *s = x->session;
	const struct psgd_payload *round;
	psgd_status status;

	for (;;) {
		uint32_t i = x->round.index;

		switch (x->stage) {
		case PLAN:
			if (s->open_controls)
				return PSGD_PENDING;
			PSGD__TRY(plan_bucket(x));
			x->stage = ENCODE;
			break;
		case ENCODE:
			status = psgd__device_join(x);
			if (status != PSGD_OK)
				return status;
			PSGD__TRY(psgd__observe_own(x));
			PSGD__TRY(run_round(x, 0));
			*worked = true;
			x->stage = x->agreement ? AGREE_SEND : ROUND_SEND;
			break;
		case AGREE_SEND:
			status = psgd__agree_send(x);
			if (status == PSGD_WANT_COLLECTIVE)
				x->stage = AGREE_CHECK;
			return status;
		case AGREE_CHECK:
			PSGD__TRY(psgd__agree_check(x));
			x->stage = ROUND_SEND;
			break;
		case ROUND_SEND:
			round = &x->plan.round[i];
			status = psgd__hand_out(x, round->kind, round->dtype, x->round.message[i],
				round->count, i + 1 == x->plan.n_rounds);
			if (status == PSGD_WANT_COLLECTIVE)
				x->stage = ROUND_RUN;
			return status;
		case ROUND_RUN:
			PSGD__TRY(run_round(x, i + 1));
			*worked = true;
			x->stage = ROUND_SEND;
			if (i + 1 < x->plan.n_rounds)
				break;
			PSGD__TRY(psgd__device_through(x));
			x->stage = SETTLE;
			break;
		default:
			return settle(x);
		}
	}
}

/* A broadcast or a sum: one collective on the caller's memory. */
static psgd_status advance_simple(struct psgd_exchange *x)
{
	bool sum = x->kind == PSGD__SUM;

	if (x->stage == SIMPLE_CHECK)
		return psgd__finish_exchange(x);
	x->stage = SIMPLE_CHECK;
	psgd_status status = psgd__hand_out(x, sum ? PSGD_ALLREDUCE_SUM : PSGD_BROADCAST,
		sum ? PSGD_F64 : PSGD_U8, x->data, x->count, true);
	if (status == PSGD_PENDING)
		x->stage = PLAN;
	return status;
}

/* A sum in the middle of a step: on the caller's memory, after an agreement on its size. */
static psgd_status advance_sync(struct psgd_exchange *x)
{
	psgd_status status;

	switch (x->stage) {
	case PLAN:
		PSGD__TRY(psgd__agree_prepare(x));
		x->stage = x->agreement ? AGREE_SEND : ROUND_SEND;
		return advance_sync(x);
	case AGREE_SEND:
		status = psgd__agree_send(x);
		if (status == PSGD_WANT_COLLECTIVE)
			x->stage = AGREE_CHECK;
		return status;
	case AGREE_CHECK:
		PSGD__TRY(psgd__agree_check(x));
		x->stage = ROUND_SEND;
		return advance_sync(x);
	case ROUND_SEND:
		status = psgd__hand_out(x, PSGD_ALLREDUCE_SUM, PSGD_F32, x->data, x->count, true);
		if (status == PSGD_WANT_COLLECTIVE)
			x->stage = SIMPLE_CHECK;
		return status;
	default:
		return psgd__finish_exchange(x);
	}
}

psgd_status psgd__exchange_advance(struct psgd_exchange *x, bool *worked)
{
	psgd_status status;

	switch (x->kind) {
	case PSGD__BUCKET:
		status = advance_bucket(x, worked);
		break;
	case PSGD__CONTROL:
		status = psgd__control_advance(x);
		break;
	case PSGD__SYNC:
		status = advance_sync(x);
		break;
	default:
		status = advance_simple(x);
		break;
	}
	if (status < 0)
		psgd__session_fail_as(x->session, status);
	return status;
}
