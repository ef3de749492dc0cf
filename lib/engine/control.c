/*
 * What happens between two steps: observations of all workers are gathered, worker 0 decides, and
 * the ranks are broadcast. All of it is hidden under the next forward pass.
 */
#include "engine/core.h"

#include <math.h>
#include <string.h>

enum stage { GATHER_SEND = 0, GATHER_CHECK, DECIDE, RANKS_SEND, RANKS_APPLY };

/* One worker's block of the gathered vector; the blocks of the others are zero before the sum. */
enum {
	AT_HASH_HIGH,
	AT_HASH_LOW,
	AT_HASH_END,
	AT_STEP = AT_HASH_END,
	AT_EXPOSED,
	AT_WIRE,
	AT_COMPUTE,
	AT_MESSAGES,
	PER_BUCKET = 3
};

/* What worker 0 broadcasts, followed by n_tensors ranks of 32 bits. */
struct rank_message {
	uint64_t step;
	uint64_t n_tensors;
};

void psgd__control_free(struct psgd__control *control)
{
	psgd__record_free(&control->record);
	free(control->vector);
	free(control->ranks);
	control->vector = NULL;
	control->ranks = NULL;
}

static void fill_timing(struct psgd__control *c, double *mine)
{
	struct psgd__record *record = &c->record;
	double *at = mine + AT_MESSAGES;
	int64_t compute_ns;

	psgd__record_merge(record);
	/* To a controller a sync is the trainer's time, but not its wait behind the buckets. */
	compute_ns =
		c->report.compute_ns + c->report.sync_ns - psgd__record_behind(record, INT64_MAX);
	mine[AT_STEP] = (double)c->report.step_ns;
	mine[AT_EXPOSED] = (double)(c->report.step_ns - compute_ns);
	mine[AT_WIRE] = (double)c->report.wire_ns;
	mine[AT_COMPUTE] = (double)compute_ns;
	for (size_t i = 0; i < record->n_messages; i++)
		*at++ = (double)record->messages[i].ns;
	for (size_t i = 0; i < record->n_buckets; i++) {
		int64_t ready_ns = record->buckets[i].ready_ns;

		ready_ns -= psgd__record_behind(record, record->start_ns + ready_ns);
		*at++ = (double)ready_ns;
		*at++ = (double)record->buckets[i].encode_ns;
		*at++ = (double)record->buckets[i].decode_ns;
	}
}

psgd_status psgd__control_new(psgd_session *s, const struct psgd_step_info *info,
	const struct psgd_report *report, struct psgd__record *record, bool first,
	struct psgd_exchange **out)
{
	struct psgd_exchange *x;
	struct psgd__control *c;

	PSGD__TRY(psgd__exchange_new(s, PSGD__CONTROL, &x));
	c = &x->control;
	c->first = first;
	x->signature = PSGD__CONTROL + (first ? 0 : (s->step + 1) << 3);
	if (first) {
		c->needs = PSGD_NEED_DECISION;
		c->step = UINT64_MAX;
	} else {
		c->step = s->step;
		c->info = *info;
		c->report = *report;
		c->observed = s->observed;
		if (s->controller.ops && !s->trial.on)
			c->needs = s->controller.ops->needs(
				s->controller.self, s->step, info->epoch, info->epoch_end != 0);
		/* In a trial parameters are the trainer's to compare. */
		c->check_hash = !s->trial.on && s->options.check_every &&
				s->step % s->options.check_every == 0;
		c->block = AT_HASH_END;
		if (c->needs & PSGD_NEED_TIMING)
			c->block =
				AT_MESSAGES + record->n_messages + PER_BUCKET * record->n_buckets;
	}
	if (!(c->needs & PSGD_NEED_DECISION) && !c->check_hash) {
		psgd__exchange_free(x);
		*out = NULL;
		return PSGD_OK;
	}
	c->ranks_bytes = sizeof(struct rank_message) + s->n_tensors * sizeof(uint32_t);
	c->ranks = psgd__calloc(1, c->ranks_bytes);
	c->vector = psgd__calloc(s->n_workers * c->block, sizeof(*c->vector));
	if (!c->ranks || !c->vector) {
		psgd__exchange_free(x);
		return PSGD_ERR_NOMEM;
	}
	if (!first) {
		double *mine = c->vector + s->worker * c->block;

		c->record = *record;
		memset(record, 0, sizeof(*record));
		mine[AT_HASH_HIGH] = (double)(info->param_hash >> 32);
		mine[AT_HASH_LOW] = (double)(info->param_hash & UINT32_MAX);
		if (c->needs & PSGD_NEED_TIMING)
			fill_timing(c, mine);
	}
	*out = x;
	return PSGD_OK;
}

/* Means, and the minimum or maximum where that is the truth, into the record of worker 0. */
static void merge_timing(
	const psgd_session *s, struct psgd__control *c, struct psgd_observation *seen)
{
	const double n = (double)s->n_workers;
	double step = 0, exposed = 0, wire = 0, compute = 0;

	for (uint32_t w = 0; w < s->n_workers; w++) {
		const double *block = c->vector + w * c->block;
		const double *at = block + AT_MESSAGES;

		step += block[AT_STEP] / n;
		exposed += block[AT_EXPOSED] / n;
		wire += block[AT_WIRE] / n;
		compute = fmax(compute, block[AT_COMPUTE]);
		for (size_t i = 0; i < c->record.n_messages; i++, at++) {
			int64_t ns = (int64_t)*at;

			if (!w || ns < c->record.messages[i].ns)
				c->record.messages[i].ns = ns;
		}
		for (size_t i = 0; i < c->record.n_buckets; i++, at += PER_BUCKET) {
			struct psgd_bucket_time *bucket = &c->record.buckets[i];

			if (!w)
				memset(bucket, 0, sizeof(*bucket));
			bucket->ready_ns = (int64_t)fmax((double)bucket->ready_ns, at[0]);
			bucket->encode_ns += (int64_t)(at[1] / n);
			bucket->decode_ns += (int64_t)(at[2] / n);
		}
	}
	seen->step_ns = (int64_t)step;
	seen->exposed_ns = (int64_t)exposed;
	seen->wire_ns = (int64_t)wire;
	seen->compute_ns = (int64_t)compute;
	seen->messages = c->record.messages;
	seen->n_messages = c->record.n_messages;
	seen->buckets = c->record.buckets;
	seen->n_buckets = c->record.n_buckets;
}

/* psgd_observation.plan: the buckets of the observed step at another rank. */
static psgd_status plan_at(void *user, size_t b, uint32_t rank, struct psgd_plan *out)
{
	struct psgd_exchange *x = user;
	psgd_session *s = x->session;
	const struct psgd__record *record = &x->control.record;
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_grad *grads;
	struct psgd__range range;
	psgd_status status;
	uint32_t bad;

	if (b >= record->n_buckets || !s->compressor.ops->plan_at)
		return PSGD_ERR_INVALID;
	range = record->bucket_ids[b];
	bucket.n_grads = range.count;
	grads = psgd__calloc(bucket.n_grads, sizeof(*grads));
	if (!grads)
		return PSGD_ERR_NOMEM;
	for (size_t i = 0; i < bucket.n_grads; i++)
		grads[i].id = record->ids[range.from + i];
	bucket.grads = grads;
	status = s->compressor.ops->plan_at(s->compressor.self, &bucket, rank, out);
	free(grads);
	return status < 0 ? status : psgd__plan_complete(out, &bad);
}

static void publish(psgd_session *s, const struct psgd__control *c)
{
	pthread_mutex_lock(&s->lock);
	s->decision = c->decision;
	s->decision.step = c->step + 1;
	s->decision.changed = c->first || c->decision.rank != s->decided_rank;
	psgd__decision_ranks(s, &s->decision);
	s->decided_rank = c->decision.rank;
	s->decided = true;
	pthread_mutex_unlock(&s->lock);
}

/* What was observed of gradients, as far as it was asked for. */
static psgd_status observe(struct psgd_exchange *x, struct psgd_observation *seen)
{
	psgd_session *s = x->session;
	const struct psgd__control *c = &x->control;

	seen->grad_sum_norm = seen->entropy = NAN;
	seen->grad_sum_steps = s->grad_sum_steps;
	seen->local_sum_steps = s->local_sum_steps;
	if (c->needs & PSGD_NEED_GRAD_NORM)
		PSGD__TRY(psgd__grad_sum_norm(s, &seen->grad_sum_norm));
	if (c->observed & PSGD_NEED_ENTROPY)
		seen->entropy = psgd__observe_entropy(s, c->step);
	if ((c->needs & PSGD_NEED_LOCAL_NORMS) && s->local_sum) {
		PSGD__TRY(psgd__observe_norms(s));
		seen->local_norms = s->local_norms;
	}
	if ((c->needs & PSGD_NEED_SPECTRUM) && s->local_sum)
		seen->errors = psgd__observe_errors;
	return PSGD_OK;
}

/* Worker 0: asks the controller and fills the message. */
static psgd_status decide(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	struct psgd__control *c = &x->control;
	struct psgd_observation seen = PSGD_INIT(psgd_observation);
	struct psgd_decision *decision = &c->decision;
	struct rank_message head = {.step = c->step + 1, .n_tensors = s->n_tensors};
	uint32_t *ranks = (uint32_t *)(c->ranks + sizeof(head));

	seen.step = c->step;
	seen.epoch = c->info.epoch;
	seen.learning_rate = c->info.learning_rate;
	seen.first = c->first;
	seen.epoch_end = c->info.epoch_end != 0;
	seen.n_workers = s->n_workers;
	seen.ranks = s->ranks;
	seen.n_tensors = s->n_tensors;
	seen.plan = plan_at;
	seen.plan_user = x;
	seen.tensors = s->tensors;
	PSGD__TRY(observe(x, &seen));
	if (c->needs & PSGD_NEED_TIMING)
		merge_timing(s, c, &seen);
	*decision = PSGD_INIT(psgd_decision);
	decision->value = decision->threshold = NAN;
	decision->link_delay_ns = decision->link_ns_per_byte = decision->predicted_exposed = NAN;
	PSGD__TRY(s->controller.ops->decide(s->controller.self, &seen, ranks, decision));
	if (decision->reset_grad_sum)
		PSGD__TRY(psgd__grad_sum_reset(s));
	if (decision->reset_local_sum)
		PSGD__TRY(psgd__local_sum_reset(s));
	memcpy(c->ranks, &head, sizeof(head));
	return PSGD_OK;
}

/* A rank above what a matrix can have is no mistake, but worth a word. */
static void say_clamped(psgd_session *s, const uint32_t *ranks)
{
	char text[200];

	for (size_t i = 0; i < s->n_tensors && !s->said_clamped; i++) {
		const struct psgd_tensor *t = &s->tensors[i];
		int64_t n, m, most;

		if (t->n_dims < 2 || t->flags & PSGD_TENSOR_DENSE ||
			psgd_tensor_matrix(t, &n, &m) < 0)
			continue;
		most = n < m ? n : m;
		most = most < PSGD__MAX_ROTATE ? most : PSGD__MAX_ROTATE;
		if (ranks[i] <= most)
			continue;
		s->said_clamped = true;
		if (!s->options.log || s->options.log_level < PSGD_LOG_INFO)
			continue;
		psgd__text(text, sizeof(text),
			"note: tensor %u (%s), %lld x %lld, has r=%lld, the most that it can have, "
			"where "
			"the rank is r=%u",
			t->id, t->name ? t->name : "no name", (long long)n, (long long)m,
			(long long)most, ranks[i]);
		s->options.log(s->options.log_user, PSGD_LOG_INFO, text);
	}
}

psgd_status psgd__ranks_put(psgd_session *s, const uint32_t *ranks)
{
	PSGD__TRY(s->compressor.ops->set_ranks(s->compressor.self, ranks));
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n_tensors; i++)
		s->ranks[i] = s->compressor.ops->rank
				      ? s->compressor.ops->rank(s->compressor.self, i)
				      : ranks[i];
	pthread_mutex_unlock(&s->lock);
	return PSGD_OK;
}

psgd_status psgd__ranks_set(psgd_session *s, const uint32_t *ranks)
{
	PSGD__TRY(psgd__ranks_put(s, ranks));
	say_clamped(s, ranks);
	return PSGD_OK;
}

void psgd__decision_ranks(psgd_session *s, struct psgd_decision *decision)
{
	uint32_t *ranks = s->decision_ranks[s->decision_turn];

	s->decision_turn = (s->decision_turn + 1) % PSGD__DECISIONS;
	memcpy(ranks, s->ranks, s->n_tensors * sizeof(*ranks));
	decision->ranks = ranks;
	decision->n_ranks = s->n_tensors;
}

static psgd_status apply(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	struct psgd__control *c = &x->control;
	const uint32_t *ranks = (const uint32_t *)(c->ranks + sizeof(struct rank_message));
	struct rank_message head;

	memcpy(&head, c->ranks, sizeof(head));
	if (head.step != c->step + 1 || head.n_tensors != s->n_tensors)
		return psgd__session_fail(s, PSGD_ERR_MISMATCH,
			"worker 0 sent ranks for step %llu and %llu tensors; this worker expects "
			"step %llu and %zu tensors",
			(unsigned long long)head.step, (unsigned long long)head.n_tensors,
			(unsigned long long)(c->step + 1), s->n_tensors);
	PSGD__TRY(psgd__ranks_set(s, ranks));
	if (s->worker == 0)
		publish(s, c);
	return psgd__finish_exchange(x);
}

static psgd_status check_gathered(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	struct psgd__control *c = &x->control;
	char who[128];

	if (c->check_hash &&
		psgd__differing(c->vector, c->block, AT_HASH_END, s->n_workers, who, sizeof(who)))
		return psgd__session_fail(s, PSGD_ERR_MISMATCH,
			"parameters at step %llu differ from worker 0's on %s",
			(unsigned long long)c->step, who);
	return PSGD_OK;
}

psgd_status psgd__control_advance(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	struct psgd__control *c = &x->control;
	bool decision = c->needs & PSGD_NEED_DECISION;
	bool gather = c->check_hash || (c->needs & PSGD_NEED_TIMING);
	psgd_status status;

	for (;;) {
		switch (x->stage) {
		case GATHER_SEND:
			if (!gather) {
				x->stage = DECIDE;
				break;
			}
			status = psgd__hand_out(x, PSGD_ALLREDUCE_SUM, PSGD_F64, c->vector,
				(int64_t)(s->n_workers * c->block), !decision);
			if (status == PSGD_WANT_COLLECTIVE)
				x->stage = GATHER_CHECK;
			return status;
		case GATHER_CHECK:
			PSGD__TRY(check_gathered(x));
			if (!decision)
				return psgd__finish_exchange(x);
			x->stage = DECIDE;
			break;
		case DECIDE:
			if (s->worker == 0)
				PSGD__TRY(decide(x));
			x->stage = RANKS_SEND;
			break;
		case RANKS_SEND:
			status = psgd__hand_out(x, PSGD_BROADCAST, PSGD_U8, c->ranks,
				(int64_t)c->ranks_bytes, true);
			if (status == PSGD_WANT_COLLECTIVE)
				x->stage = RANKS_APPLY;
			return status;
		default:
			return apply(x);
		}
	}
}

psgd_status psgd__step_info(const struct psgd_step_info *info, const struct psgd_report *report,
	struct psgd_step_info *out)
{
	if (!psgd__report_fits(report))
		return PSGD_ERR_INVALID;
	return psgd__copy_options(out, sizeof(*out), info);
}

psgd_status psgd__step_end(psgd_session *s, const struct psgd_step_info *info, int64_t end_ns,
	struct psgd_report *report, struct psgd_exchange **control)
{
	struct psgd_report mine = PSGD_INIT(psgd_report);
	struct psgd__record record;
	psgd_status status = PSGD_OK;

	*control = NULL;
	pthread_mutex_lock(&s->lock);
	record = s->record;
	memset(&s->record, 0, sizeof(s->record));
	s->record.start_ns = end_ns;
	if (!s->trial.on) {
		mine.decided = s->decided;
		mine.decision = s->decision;
		s->decided = false;
	}
	pthread_mutex_unlock(&s->lock);

	if (s->asynchronous)
		psgd__record_straighten(&record);
	psgd__record_report(&record, end_ns, &mine);
	mine.step = s->step;
	mine.grad_norm = s->options.flags & PSGD_SESSION_GRAD_NORM ? sqrt(record.sum_squares) : NAN;
	mine.grad_sum_norm = NAN;
	s->grad_sum_steps += record.in_grad_sum;
	s->local_sum_steps += record.in_local_sum;
	if (info->epoch_end && (s->options.flags & PSGD_SESSION_GRAD_SUM) && !s->trial.on)
		status = psgd__grad_sum_norm(s, &mine.grad_sum_norm);
	if (status >= 0)
		status = psgd__control_new(s, info, &mine, &record, false, control);
	/* Nobody else resets the sum: the session's own is over an epoch. */
	if (status >= 0 && info->epoch_end && s->sum_gradients && !s->trial.on &&
		!(s->controller.ops &&
			(s->controller.ops->needs(s->controller.self, s->step, info->epoch, true) &
				PSGD_NEED_GRAD_SUM)))
		status = psgd__grad_sum_reset(s);
	psgd__record_free(&record);
	psgd__message_trim(s);
	psgd__agree_forget(s);
	if (status >= 0 && !s->trial.on)
		status = psgd__observe_prepare(s, s->step + 1, &s->observed);
	if (status < 0) {
		psgd__exchange_free(*control);
		*control = NULL;
	}
	s->step++;
	s->step_buckets = 0;
	psgd__copy_report(report, &mine, sizeof(mine));
	return status;
}
