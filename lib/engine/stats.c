/* What a step was: intervals are noted as they happen, and partitioned when the step ends. */
#include "engine/core.h"

#include <string.h>

void psgd__record_free(struct psgd__record *record)
{
	free(record->intervals);
	free(record->waits);
	free(record->syncs);
	free(record->producing);
	free(record->messages);
	free(record->buckets);
	free(record->ids);
	free(record->bucket_ids);
	memset(record, 0, sizeof(*record));
}

static psgd_status push_interval(struct psgd__interval **list, size_t *n, size_t *capacity,
	enum psgd__busy what, int64_t start_ns, int64_t end_ns)
{
	PSGD__TRY(psgd__grow(list, capacity, *n + 1, sizeof(**list)));
	(*list)[(*n)++] = (struct psgd__interval){start_ns, end_ns, what};
	return PSGD_OK;
}

psgd_status psgd__record_interval(
	psgd_session *s, enum psgd__busy what, int64_t start_ns, int64_t end_ns)
{
	struct psgd__record *r = &s->record;
	psgd_status status;

	pthread_mutex_lock(&s->lock);
	status = push_interval(
		&r->intervals, &r->n_intervals, &r->intervals_capacity, what, start_ns, end_ns);
	pthread_mutex_unlock(&s->lock);
	return status;
}

psgd_status psgd__record_wait(psgd_session *s, int64_t start_ns, int64_t end_ns)
{
	struct psgd__record *r = &s->record;
	psgd_status status;

	pthread_mutex_lock(&s->lock);
	status = push_interval(
		&r->waits, &r->n_waits, &r->waits_capacity, PSGD__ON_WIRE, start_ns, end_ns);
	pthread_mutex_unlock(&s->lock);
	/* What was waited for has happened here and on the others: it must not be called again. */
	if (status < 0)
		return psgd__session_fail(s, status, "%s", psgd_status_text(status));
	return PSGD_OK;
}

psgd_status psgd__record_sync(psgd_session *s, int64_t start_ns, int64_t end_ns)
{
	struct psgd__record *r = &s->record;
	psgd_status status;

	pthread_mutex_lock(&s->lock);
	status = push_interval(
		&r->syncs, &r->n_syncs, &r->syncs_capacity, PSGD__ON_WIRE, start_ns, end_ns);
	pthread_mutex_unlock(&s->lock);
	/* As in psgd__record_wait. */
	if (status < 0)
		return psgd__session_fail(s, status, "%s", psgd_status_text(status));
	return PSGD_OK;
}

/* Ranks in use, for the report: of tensors that this bucket really compresses. */
static void note_ranks(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	struct psgd__record *r = &s->record;

	for (size_t i = 0; x->plan.n_compressed && i < x->bucket.n_grads; i++) {
		uint32_t rank = s->ranks[psgd__index_find(&s->index, x->bucket.grads[i].id)];

		if (!rank)
			continue;
		if (!r->rank_min || rank < r->rank_min)
			r->rank_min = rank;
		if (rank > r->rank_max)
			r->rank_max = rank;
	}
}

psgd_status psgd__record_bucket(struct psgd_exchange *x)
{
	psgd_session *s = x->session;
	struct psgd__record *r = &s->record;
	psgd_status status;

	pthread_mutex_lock(&s->lock);
	status = psgd__grow(&r->buckets, &r->buckets_capacity, x->number + 1, sizeof(*r->buckets));
	if (status >= 0)
		status = psgd__grow(&r->bucket_ids, &r->bucket_ids_capacity, x->number + 1,
			sizeof(*r->bucket_ids));
	if (status >= 0)
		status = psgd__grow(
			&r->ids, &r->ids_capacity, r->n_ids + x->bucket.n_grads, sizeof(*r->ids));
	if (status >= 0) {
		r->bucket_ids[x->number] = (struct psgd__range){r->n_ids, x->bucket.n_grads};
		for (size_t i = 0; i < x->bucket.n_grads; i++)
			r->ids[r->n_ids++] = x->bucket.grads[i].id;
		if (r->n_buckets < x->number + 1)
			r->n_buckets = x->number + 1;
		r->buckets[x->number].ready_ns = x->ready_ns - r->start_ns;
		r->raw_bytes += x->plan.raw_bytes;
		note_ranks(x);
	}
	pthread_mutex_unlock(&s->lock);
	return status;
}

psgd_status psgd__record_ready(struct psgd_exchange *x, int64_t ready_ns)
{
	psgd_session *s = x->session;
	struct psgd__record *r = &s->record;
	psgd_status status;

	if (ready_ns <= x->ready_ns)
		return PSGD_OK;
	pthread_mutex_lock(&s->lock);
	status = push_interval(&r->producing, &r->n_producing, &r->producing_capacity,
		PSGD__ON_WIRE, x->ready_ns, ready_ns);
	r->buckets[x->number].ready_ns = ready_ns - r->start_ns;
	pthread_mutex_unlock(&s->lock);
	return status;
}

psgd_status psgd__record_transfer(struct psgd_exchange *x, const struct psgd_transfer *transfer)
{
	psgd_session *s = x->session;
	struct psgd__record *r = &s->record;
	int64_t start_ns = transfer->start_ns, end_ns = transfer->end_ns;
	bool gathered = x->collective.kind == PSGD_ALLGATHER;
	psgd_status status = PSGD_OK;

	/* What is between two steps belongs to none. */
	if (x->kind == PSGD__BROADCAST || x->kind == PSGD__SUM)
		return PSGD_OK;
	pthread_mutex_lock(&s->lock);
	/* Messages go one after the other: one that ended late has not used the next one's time. */
	if (start_ns < s->wire_end_ns)
		start_ns = s->wire_end_ns;
	if (end_ns < start_ns)
		end_ns = start_ns;
	s->wire_end_ns = end_ns;
	r->sent_bytes += transfer->sent_bytes;
	if (x->kind == PSGD__SYNC && !x->is_control) {
		r->sync_bytes += transfer->sent_bytes;
		pthread_mutex_unlock(&s->lock);
		return PSGD_OK;
	}
	/* A sync's own agreement is its time. */
	if (end_ns > start_ns && x->kind != PSGD__SYNC)
		status = push_interval(&r->intervals, &r->n_intervals, &r->intervals_capacity,
			PSGD__ON_WIRE, start_ns, end_ns);
	if (x->is_control) {
		r->control_bytes += transfer->payload_bytes;
	} else {
		r->payload_bytes += transfer->payload_bytes;
		if (status >= 0)
			status = psgd__grow(&r->messages, &r->messages_capacity, r->n_messages + 1,
				sizeof(*r->messages));
		if (status >= 0)
			r->messages[r->n_messages++] = (struct psgd_message_time){
				.bytes = transfer->payload_bytes * (gathered ? s->n_workers : 1),
				.ns = end_ns - start_ns,
				.bucket = (uint32_t)x->number,
				.round = x->round.index,
				.kind = x->collective.kind,
			};
	}
	pthread_mutex_unlock(&s->lock);
	return status;
}

static int64_t overlap(const struct psgd__interval *a, const struct psgd__interval *b)
{
	int64_t start = a->start_ns > b->start_ns ? a->start_ns : b->start_ns;
	int64_t end = a->end_ns < b->end_ns ? a->end_ns : b->end_ns;

	return end > start ? end - start : 0;
}

static int by_start(const void *a, const void *b)
{
	const struct psgd__interval *x = a, *y = b;

	return (x->start_ns > y->start_ns) - (x->start_ns < y->start_ns);
}

/* Of all intervals what they cover, once. */
static void merge(struct psgd__interval *list, size_t *count)
{
	size_t n = 0;

	if (!*count)
		return;
	qsort(list, *count, sizeof(*list), by_start);
	for (size_t i = 1; i < *count; i++) {
		if (list[i].start_ns > list[n].end_ns)
			list[++n] = list[i];
		else if (list[i].end_ns > list[n].end_ns)
			list[n].end_ns = list[i].end_ns;
	}
	*count = n + 1;
}

void psgd__record_merge(struct psgd__record *record)
{
	merge(record->intervals, &record->n_intervals);
}

/* Runs go one after the other; each bucket's are told by a clock that it read for itself. */
void psgd__record_straighten(struct psgd__record *record)
{
	int64_t through_ns = INT64_MIN;

	if (record->n_intervals)
		qsort(record->intervals, record->n_intervals, sizeof(*record->intervals), by_start);
	for (size_t i = 0; i < record->n_intervals; i++) {
		struct psgd__interval *x = &record->intervals[i];

		if (x->what == PSGD__ON_WIRE)
			continue;
		if (x->start_ns < through_ns)
			x->start_ns = through_ns;
		if (x->end_ns < x->start_ns)
			x->end_ns = x->start_ns;
		through_ns = x->end_ns;
	}
	merge(record->producing, &record->n_producing);
}

int64_t psgd__record_behind(const struct psgd__record *record, int64_t until_ns)
{
	int64_t sum = 0;

	for (size_t w = 0; w < record->n_syncs; w++) {
		struct psgd__interval sync = record->syncs[w];

		if (sync.end_ns > until_ns)
			sync.end_ns = until_ns;
		for (size_t i = 0; i < record->n_intervals && sync.end_ns > sync.start_ns; i++)
			sum += overlap(&record->intervals[i], &sync);
	}
	return sum;
}

/* How long the driver thread waited in x, and not for what the trainer has the device do. */
static int64_t waited_in(const struct psgd__record *record, const struct psgd__interval *x)
{
	int64_t sum = 0;

	for (size_t w = 0; w < record->n_waits; w++) {
		struct psgd__interval wait = record->waits[w];

		if (wait.start_ns < x->start_ns)
			wait.start_ns = x->start_ns;
		if (wait.end_ns > x->end_ns)
			wait.end_ns = x->end_ns;
		if (wait.end_ns <= wait.start_ns)
			continue;
		sum += wait.end_ns - wait.start_ns;
		for (size_t p = 0; p < record->n_producing; p++)
			sum -= overlap(&wait, &record->producing[p]);
	}
	return sum;
}

void psgd__record_report(const struct psgd__record *record, int64_t end_ns, struct psgd_report *out)
{
	int64_t busy[PSGD__N_BUSY] = {0}, exposed[PSGD__N_BUSY] = {0};
	int64_t waited, synced = 0, wire_in_syncs = 0;

	for (size_t i = 0; i < record->n_intervals; i++) {
		const struct psgd__interval *x = &record->intervals[i];

		busy[x->what] += x->end_ns - x->start_ns;
		exposed[x->what] += waited_in(record, x);
		for (size_t w = 0; w < record->n_syncs && x->what == PSGD__ON_WIRE; w++)
			wire_in_syncs += overlap(x, &record->syncs[w]);
	}
	waited = waited_in(record, &(struct psgd__interval){INT64_MIN, INT64_MAX, PSGD__ON_WIRE});
	for (size_t w = 0; w < record->n_syncs; w++)
		synced += record->syncs[w].end_ns - record->syncs[w].start_ns;
	out->step_ns = end_ns - record->start_ns;
	out->compute_ns = out->step_ns - waited - synced;
	out->sync_ns = synced;
	out->sync_bytes = record->sync_bytes;
	out->exposed_encode_ns = exposed[PSGD__ENCODING];
	out->exposed_decode_ns = exposed[PSGD__DECODING];
	out->exposed_wire_ns = waited - exposed[PSGD__ENCODING] - exposed[PSGD__DECODING];
	out->encode_ns = busy[PSGD__ENCODING];
	out->decode_ns = busy[PSGD__DECODING];
	out->wire_ns = busy[PSGD__ON_WIRE];
	out->hidden_wire_ns = busy[PSGD__ON_WIRE] - exposed[PSGD__ON_WIRE] - wire_in_syncs;
	out->raw_bytes = record->raw_bytes;
	out->payload_bytes = record->payload_bytes;
	out->control_bytes = record->control_bytes;
	out->sent_bytes = record->sent_bytes;
	out->n_buckets = (uint32_t)record->n_buckets;
	out->n_messages = (uint32_t)record->n_messages;
	out->rank_min = record->rank_min;
	out->rank_max = record->rank_max;
	out->n_nonfinite = record->n_nonfinite;
}
