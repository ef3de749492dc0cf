/*
 * The life of an exchange. Stages of a bucket:
 *   PLAN    once the ranks of its step are known
 *   ENCODE  run(0), as soon as possible: the wire may still be busy with earlier buckets
 *   AGREE   only for a signature that is used for the first time
 *   ROUNDS  hand out message i, take it back, run(i + 1)
 * Collectives leave in the order of the queue: an exchange hands out its first one only when the
 * exchange before it has handed out its last.
 */
#include "engine/core.h"

#include <math.h>
#include <string.h>

enum stage { PLAN = 0, ENCODE, AGREE_SEND, AGREE_CHECK, ROUND_SEND, ROUND_RUN, SIMPLE_CHECK };

/* What the agreement compares for each worker, in doubles that hold 32-bit words exactly. */
enum {
	AGREE_HASH_HIGH,
	AGREE_HASH_LOW,
	AGREE_GRADS,
	AGREE_VALUES,
	AGREE_NUMBER,
	AGREE_ROUNDS, /* kind and dtype of each, 8 bits */
	AGREE_BLOCK
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
	x->all_sent = true;
	x->done = true;
	return PSGD_OK;
}

bool psgd__differing(const double *blocks, size_t block, size_t compared, uint32_t n_workers,
	char *text, size_t bytes)
{
	size_t used = 0;

	psgd__text(text, bytes, "%s", "");
	for (uint32_t w = 1; w < n_workers; w++) {
		if (!memcmp(blocks, blocks + w * block, compared * sizeof(*blocks)))
			continue;
		if (used < bytes)
			psgd__text(text + used, bytes - used, "%sworker %u", used ? ", " : "", w);
		used = strlen(text);
	}
	return used > 0;
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

static bool agreed_before(const psgd_session *s, uint64_t hash)
{
	for (size_t i = s->n_seen; i-- > 0;) {
		if (s->seen[i] == hash)
			return true;
	}
	return false;
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
	if (s->n_workers > 1 && !agreed_before(s, x->signature)) {
		x->agreement = psgd__calloc((size_t)s->n_workers * AGREE_BLOCK, sizeof(double));
		if (!x->agreement)
			return PSGD_ERR_NOMEM;
	}
	return PSGD_OK;
}

static psgd_status run_round(struct psgd_exchange *x, uint32_t index)
{
	psgd_session *s = x->session;
	int64_t start = psgd__now_ns(), end;

	x->round.index = index;
	PSGD__TRY(s->compressor.ops->run(s->compressor.self, &x->round));
	end = psgd__now_ns();
	*(index ? &x->decode_ns : &x->encode_ns) += end - start;
	return psgd__record_interval(s, index ? PSGD__DECODING : PSGD__ENCODING, start, end);
}

/* Sums over the mean gradient that somebody asked for. */
static psgd_status observe_gradients(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	const struct psgd_kernels *kernels = s->device.ops->kernels;
	double squares = 0.0;

	for (size_t i = 0; i < x->bucket.n_grads; i++) {
		size_t at = psgd__index_find(&s->index, x->bucket.grads[i].id);
		struct psgd__span span = {x->bucket.grads[i].data, s->counts[at]};

		if (s->options.flags & PSGD_SESSION_GRAD_NORM)
			PSGD__TRY(kernels->sum_squares(
				s->device.self, &span, 1, &squares, x->round.stream));
		/* A gradient that was discarded must not spoil the sum. */
		if (s->sum_gradients && !x->round.nonfinite)
			PSGD__TRY(kernels->axpby(s->device.self, span.count, 1.0f, span.data, 1.0f,
				s->grad_sum + s->grad_sum_at[at], x->round.stream));
	}
	pthread_mutex_lock(&s->lock);
	s->record.sum_squares += squares;
	s->record.n_nonfinite += x->round.nonfinite;
	s->record.buckets[x->number].encode_ns = x->encode_ns;
	s->record.buckets[x->number].decode_ns = x->decode_ns;
	pthread_mutex_unlock(&s->lock);
	return PSGD_OK;
}

static psgd_status send_agreement(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	double *mine = x->agreement + (size_t)s->worker * AGREE_BLOCK;
	uint32_t rounds = 0;
	int64_t values = 0;
	psgd_status status;

	for (uint32_t i = 0; i < x->plan.n_rounds; i++) {
		values += x->plan.round[i].count;
		rounds = rounds << 8 | x->plan.round[i].kind << 4 | x->plan.round[i].dtype;
	}
	mine[AGREE_HASH_HIGH] = (double)(x->signature >> 32);
	mine[AGREE_HASH_LOW] = (double)(x->signature & UINT32_MAX);
	mine[AGREE_GRADS] = (double)x->bucket.n_grads;
	mine[AGREE_VALUES] = (double)values;
	mine[AGREE_NUMBER] = (double)x->number;
	mine[AGREE_ROUNDS] = (double)rounds;
	status = psgd__hand_out(x, PSGD_ALLREDUCE_SUM, PSGD_F64, x->agreement,
		(int64_t)s->n_workers * AGREE_BLOCK, false);
	/* The signature is what is to be compared: here it must not keep messages apart. */
	x->collective.tag |= UINT32_MAX;
	x->is_control = true;
	return status;
}

static psgd_status check_agreement(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	const double *zero = x->agreement;
	char who[128];

	x->is_control = false;
	for (uint32_t w = 1; w < s->n_workers; w++) {
		const double *other = x->agreement + (size_t)w * AGREE_BLOCK;

		if (!memcmp(zero, other, AGREE_BLOCK * sizeof(*zero)))
			continue;
		psgd__differing(
			x->agreement, AGREE_BLOCK, AGREE_BLOCK, s->n_workers, who, sizeof(who));
		return psgd__session_fail(s, PSGD_ERR_MISMATCH,
			"bucket %zu of step %llu differs on %s: worker 0 sends %.0f tensors in "
			"%.0f values, worker %u %.0f tensors in %.0f values%s",
			x->number, (unsigned long long)x->round.step, who, zero[AGREE_GRADS],
			zero[AGREE_VALUES], w, other[AGREE_GRADS], other[AGREE_VALUES],
			zero[AGREE_ROUNDS] == other[AGREE_ROUNDS] ? ""
								  : ", by other kinds of rounds");
	}
	PSGD__TRY(psgd__grow(&s->seen, &s->seen_capacity, s->n_seen + 1, sizeof(*s->seen)));
	s->seen[s->n_seen++] = x->signature;
	return PSGD_OK;
}

static psgd_status advance_bucket(struct psgd_exchange *x, bool *worked)
{
	psgd_session *s = x->session;

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
			PSGD__TRY(run_round(x, 0));
			*worked = true;
			x->stage = x->agreement ? AGREE_SEND : ROUND_SEND;
			break;
		case AGREE_SEND:
			x->stage = AGREE_CHECK;
			psgd_status agree = send_agreement(x);
			if (agree == PSGD_PENDING)
				x->stage = AGREE_SEND;
			return agree;
		case AGREE_CHECK:
			PSGD__TRY(check_agreement(x));
			x->stage = ROUND_SEND;
			break;
		case ROUND_SEND:
			x->stage = ROUND_RUN;
			const struct psgd_payload *round = &x->plan.round[i];
			psgd_status sent = psgd__hand_out(x, round->kind, round->dtype,
				x->round.message[i], round->count, i + 1 == x->plan.n_rounds);
			if (sent == PSGD_PENDING)
				x->stage = ROUND_SEND;
			return sent;
		default:
			PSGD__TRY(run_round(x, i + 1));
			*worked = true;
			if (i + 1 < x->plan.n_rounds) {
				x->stage = ROUND_SEND;
				break;
			}
			PSGD__TRY(observe_gradients(x));
			return psgd__finish_exchange(x);
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
	default:
		status = advance_simple(x);
		break;
	}
	if (status < 0)
		psgd__session_fail(x->session, status, "%s", psgd_status_text(status));
	return status;
}

psgd_status psgd_exchange_begin(
	psgd_session *s, const struct psgd_bucket *bucket, psgd_stream ready, psgd_exchange **out)
{
	if (!s || !out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	if (s->transport.ops)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__bucket_new(s, bucket, out));
	(*out)->round.stream = ready;
	(*out)->owned = true;
	psgd__queue_push(s, *out);
	return PSGD_OK;
}

/* True while a caller's exchange is not done. The first decision has no caller. */
static bool any_owned(const psgd_session *s)
{
	const struct psgd_exchange *x = s->head;

	while (x && !x->owned)
		x = x->next;
	return x;
}

psgd_status psgd_exchange_begin_finish(psgd_session *s, const struct psgd_step_info *info,
	struct psgd_report *report, psgd_exchange **out)
{
	struct psgd_exchange *control;
	struct psgd_step_info whole;
	psgd_status status;

	if (!s || !out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	if (s->transport.ops || any_owned(s))
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__session_status(s));
	PSGD__TRY(psgd__step_info(info, report, &whole));
	status = psgd__step_end(s, &whole, psgd__now_ns(), report, &control);
	/* Nothing to say: an exchange that is done at once keeps the caller's loop alike. */
	if (status >= 0 && !control) {
		status = psgd__exchange_new(s, PSGD__SUM, &control);
		if (status >= 0)
			psgd__finish_exchange(control);
	} else if (status >= 0) {
		psgd__queue_push(s, control);
	}
	/* The step has ended, and could not be ended again. */
	if (status < 0)
		return psgd__session_fail(s, status, "%s", psgd_status_text(status));
	control->owned = true;
	*out = control;
	return PSGD_OK;
}

/* One exchange, in a session without a transport. */
static psgd_status next_of(struct psgd_exchange *x, struct psgd_collective *out)
{
	psgd_session *s = x->session;
	bool worked = false;
	psgd_status status;

	if (x->in_flight) {
		struct psgd_transfer unknown = {
			.size = sizeof(unknown),
			.payload_bytes = (uint64_t)x->collective.count *
					 psgd_dtype_bytes(x->collective.dtype),
		};

		x->in_flight = false;
		status = psgd__record_transfer(x, &unknown);
		if (status < 0)
			return psgd__session_fail(s, status, "%s", psgd_status_text(status));
	}
	status = psgd__exchange_advance(x, &worked);
	if (status == PSGD_WANT_COLLECTIVE)
		*out = x->collective;
	if (status == PSGD_OK)
		psgd__queue_remove(s, x);
	return status;
}

static psgd_status next_in_turn(struct psgd_exchange *x, struct psgd_collective *out)
{
	psgd_session *s = x->session;
	psgd_status status;

	PSGD__TRY(psgd__session_status(s));
	if (x->done)
		return PSGD_OK;
	/* The first decision has no owner: whoever is next carries it. */
	while (s->head && !s->head->owned && s->head != x) {
		struct psgd_exchange *first = s->head;

		/* Another exchange's caller may be running its collective. */
		if (first->in_flight && first->carrier != x)
			return PSGD_PENDING;
		first->carrier = x;
		status = next_of(first, out);
		if (status != PSGD_OK)
			return status;
		psgd__exchange_free(first);
	}
	return next_of(x, out);
}

psgd_status psgd_exchange_next(psgd_exchange *x, struct psgd_collective *out)
{
	int64_t start = psgd__now_ns();
	psgd_status status;

	if (!x || !out)
		return PSGD_ERR_INVALID;
	status = next_in_turn(x, out);
	if (status >= 0)
		PSGD__TRY(psgd__record_wait(x->session, start, psgd__now_ns()));
	return status;
}

void psgd_exchange_end(psgd_exchange **exchange)
{
	struct psgd_exchange *x;

	if (!exchange || !*exchange)
		return;
	x = *exchange;
	*exchange = NULL;
	if (!x->done) {
		psgd__session_fail(
			x->session, PSGD_ERR_STATE, "an exchange was ended before it was done");
		psgd__queue_remove(x->session, x);
	}
	psgd__exchange_free(x);
}
