/*
 * The state of a session between two steps, as arrays: "session/..." of the engine,
 * "compressor/..." and "controller/..." of those. Loading reads and checks everything of the
 * engine's first, then lets controller and compressor load, and takes the first back when the
 * second cannot.
 */
#include "engine/core.h"

#include <string.h>

#include "base/state.h"

#define FORMAT 2
#define MOST_AGREED (1u << 20)

enum has { HAS_GRAD_SUM = 1, HAS_LOCAL_SUM = 2, HAS_DECISION = 4, HAS_CONTROLLER = 8 };

struct head {
	uint32_t format, n_workers, worker, has;
	uint64_t n_tensors;
	uint64_t tensors;    /* hash of ids and shapes */
	uint64_t compressor; /* hash of its name */
	uint64_t step, grad_sum_steps, local_sum_steps;
	/* Between the last step and the next, which has them. */
	uint64_t control_bytes, sent_bytes, sync_bytes;
	uint32_t decided_rank, n_agreed;
};

/* A decision that the next report has to tell, but for its text. */
struct saved_decision {
	double value, threshold, link_delay_ns, link_ns_per_byte, predicted_exposed;
	uint64_t step;
	uint32_t rank, cap, choice;
	uint8_t changed, reset_grad_sum, reset_local_sum, reserved;
	char regime[PSGD__REGIME_BYTES];
};

/* What a state holds of the engine's, read and checked. */
struct loaded {
	struct head head;
	struct saved_decision decision;
	uint32_t *ranks;
	uint64_t *agreed;
	float *grad_sum, *local_sum;
	uint32_t observed; /* in the step that comes next */
};

/* Text of a failure that leaves the session as it was. */
static psgd_status refuse(psgd_session *s, psgd_status status, const char *text)
{
	pthread_mutex_lock(&s->lock);
	psgd__text(s->error, sizeof(s->error), "%s", text);
	pthread_mutex_unlock(&s->lock);
	return status;
}

psgd_status psgd__settle(psgd_session *s)
{
	const struct psgd_exchange *first;

	if (s->step_buckets)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__session_status(s));
	if (s->has_thread)
		return psgd__wait_for(s, 0, true, INT64_MAX);
	/* The first decision is nobody's, and may wait until a bucket comes. */
	first = s->head;
	return first && (first->owned || first->next || first->in_flight) ? PSGD_ERR_STATE
									  : PSGD_OK;
}

static uint64_t hash_of_tensors(const psgd_session *s)
{
	uint64_t hash = PSGD__HASH_START;

	for (size_t i = 0; i < s->n_tensors; i++) {
		hash = psgd__hash_u64(hash, s->tensors[i].id);
		hash = psgd__hash_u64(hash, s->tensors[i].flags);
		hash = psgd__hash_u64(hash, s->shapes[i]);
	}
	return hash;
}

/* Worker 0's controller, if it has a state. */
static bool has_controller(const psgd_session *s)
{
	const struct psgd_controller_ops *c = s->controller.ops;

	return c && c->save && c->load && s->worker == 0;
}

static struct head head_of(psgd_session *s)
{
	const char *name = s->compressor.ops->name ? s->compressor.ops->name : "";
	bool controls = has_controller(s);

	return (struct head){
		.format = FORMAT,
		.n_workers = s->n_workers,
		.worker = s->worker,
		.has = (s->grad_sum ? HAS_GRAD_SUM : 0u) | (s->local_sum ? HAS_LOCAL_SUM : 0u) |
		       (s->decided ? HAS_DECISION : 0u) | (controls ? HAS_CONTROLLER : 0u),
		.n_tensors = s->n_tensors,
		.tensors = hash_of_tensors(s),
		.compressor = psgd__hash(PSGD__HASH_START, name, strlen(name)),
		.step = s->step,
		.grad_sum_steps = s->grad_sum_steps,
		.local_sum_steps = s->local_sum_steps,
		.control_bytes = s->record.control_bytes,
		.sent_bytes = s->record.sent_bytes,
		.sync_bytes = s->record.sync_bytes,
		.decided_rank = s->decided_rank,
		.n_agreed = (uint32_t)s->n_seen,
	};
}

static psgd_status save_decision(const psgd_session *s, const struct psgd_state_writer *writer)
{
	const struct psgd_decision *d = &s->decision;
	struct saved_decision saved = {
		.value = d->value,
		.threshold = d->threshold,
		.link_delay_ns = d->link_delay_ns,
		.link_ns_per_byte = d->link_ns_per_byte,
		.predicted_exposed = d->predicted_exposed,
		.step = d->step,
		.rank = d->rank,
		.cap = d->cap,
		.choice = d->choice,
		.changed = d->changed,
		.reset_grad_sum = d->reset_grad_sum,
		.reset_local_sum = d->reset_local_sum,
	};

	psgd__text(saved.regime, sizeof(saved.regime), "%s", d->regime ? d->regime : "");
	return psgd__state_put(writer, "session/decision", PSGD_U8, 1, sizeof(saved), &saved);
}

/* A sum is memory of the device. */
static psgd_status save_sum(
	psgd_session *s, const struct psgd_state_writer *writer, const char *name, const float *sum)
{
	size_t bytes = s->grad_sum_values * sizeof(float);
	float *host = NULL;
	psgd_status status = PSGD_OK;

	if (!sum)
		return PSGD_OK;
	if (s->asynchronous) {
		host = psgd__calloc(s->grad_sum_values, sizeof(*host));
		if (!host)
			return PSGD_ERR_NOMEM;
		status = s->device.ops->download(s->device.self, host, sum, bytes, s->stream);
	}
	if (status >= 0)
		status = psgd__state_put(
			writer, name, PSGD_F32, 1, (int64_t)s->grad_sum_values, host ? host : sum);
	free(host);
	return status;
}

static psgd_status save_engine(psgd_session *s, const struct psgd_state_writer *writer)
{
	struct head head = head_of(s);

	PSGD__TRY(psgd__state_put(writer, "session/head", PSGD_U8, 1, sizeof(head), &head));
	PSGD__TRY(psgd__state_put(writer, "session/ranks", PSGD_U8, (int64_t)s->n_tensors,
		sizeof(*s->ranks), s->ranks));
	if (s->n_seen)
		PSGD__TRY(psgd__state_put(writer, "session/agreed", PSGD_U8, (int64_t)s->n_seen,
			sizeof(*s->seen), s->seen));
	if (head.has & HAS_DECISION)
		PSGD__TRY(save_decision(s, writer));
	PSGD__TRY(save_sum(s, writer, "session/grad_sum", s->grad_sum));
	return save_sum(s, writer, "session/local_sum", s->local_sum);
}

static psgd_status save_all(psgd_session *s, const struct psgd_state_writer *writer)
{
	struct psgd__state_prefix compressor = {.prefix = "compressor", .writer = writer};
	struct psgd__state_prefix controller = {.prefix = "controller", .writer = writer};
	struct psgd_state_writer inner;

	PSGD__TRY(save_engine(s, writer));
	inner = psgd__state_prefixed_writer(&compressor);
	if (s->compressor.ops->save)
		PSGD__TRY(s->compressor.ops->save(s->compressor.self, &inner));
	inner = psgd__state_prefixed_writer(&controller);
	if (has_controller(s))
		PSGD__TRY(s->controller.ops->save(s->controller.self, &inner));
	return PSGD_OK;
}

psgd_status psgd_session_save(psgd_session *s, const struct psgd_state_writer *writer)
{
	if (!s || !writer || !writer->put)
		return PSGD_ERR_INVALID;
	if (s->trial.on)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__settle(s));
	/* The first decision has not been made: there is no state yet that could go on. */
	if (s->head || s->n_seen > MOST_AGREED)
		return PSGD_ERR_STATE;
	return psgd__device_refuse(s, save_all(s, writer));
}

/* Which worker of which run, over which tensors. */
static psgd_status check_head(psgd_session *s, const struct head *head)
{
	struct head own = head_of(s);
	const uint32_t sums = HAS_GRAD_SUM | HAS_CONTROLLER;

	if (head->format != FORMAT || head->n_agreed > MOST_AGREED || head->has > 15)
		return refuse(s, PSGD_ERR_MISMATCH, "the state is of another version");
	if (head->n_workers != own.n_workers)
		return refuse(s, PSGD_ERR_MISMATCH, "the state is of another number of workers");
	if (head->worker != own.worker)
		return refuse(s, PSGD_ERR_MISMATCH, "the state is another worker's");
	if (head->n_tensors != own.n_tensors || head->tensors != own.tensors)
		return refuse(s, PSGD_ERR_MISMATCH, "the state is of other tensors");
	if (head->compressor != own.compressor)
		return refuse(s, PSGD_ERR_MISMATCH, "the state is of another compressor");
	if (head->step >= PSGD__TRIAL_STEP)
		return refuse(s, PSGD_ERR_MISMATCH, "the state is of a step that cannot be");
	if ((head->has ^ own.has) & sums)
		return refuse(s, PSGD_ERR_MISMATCH,
			"the state is of a session with another controller, or other sums");
	if ((head->has & (HAS_DECISION | HAS_LOCAL_SUM)) && (!s->controller.ops || s->worker))
		return refuse(s, PSGD_ERR_MISMATCH, "the state is of a session with a controller");
	return PSGD_OK;
}

static psgd_status read_sum(
	psgd_session *s, const struct psgd_state_reader *reader, const char *name, float **out)
{
	size_t bytes = s->grad_sum_values * sizeof(float);
	float *host = NULL;
	void *memory;
	psgd_status status;

	PSGD__TRY(s->device.ops->alloc(s->device.self, bytes, &memory));
	*out = memory;
	if (s->asynchronous) {
		host = psgd__calloc(s->grad_sum_values, sizeof(*host));
		if (!host)
			return PSGD_ERR_NOMEM;
	}
	status = psgd__state_get(
		reader, name, PSGD_F32, (int64_t)s->grad_sum_values, host ? host : *out);
	if (host && status >= 0)
		status = s->device.ops->upload(s->device.self, *out, host, bytes, s->stream);
	free(host);
	return status;
}

/*
 * Messages that all workers have agreed on need no second agreement: what goes over the wire is
 * the same then as without the stop.
 */
static psgd_status read_agreed(const struct psgd_state_reader *reader, struct loaded *l)
{
	size_t n = l->head.n_agreed;

	if (!n)
		return PSGD_OK;
	l->agreed = psgd__calloc(n, sizeof(*l->agreed));
	if (!l->agreed)
		return PSGD_ERR_NOMEM;
	return psgd__state_get(
		reader, "session/agreed", PSGD_U8, (int64_t)(n * sizeof(*l->agreed)), l->agreed);
}

static psgd_status read_engine(
	psgd_session *s, const struct psgd_state_reader *reader, struct loaded *l)
{
	psgd_status status =
		psgd__state_get(reader, "session/head", PSGD_U8, sizeof(l->head), &l->head);

	if (status == PSGD_ERR_MISMATCH)
		return refuse(s, status, "the state is of another version");
	PSGD__TRY(status);
	PSGD__TRY(check_head(s, &l->head));
	l->ranks = psgd__calloc(s->n_tensors, sizeof(*l->ranks));
	if (!l->ranks)
		return PSGD_ERR_NOMEM;
	PSGD__TRY(psgd__state_get(reader, "session/ranks", PSGD_U8,
		(int64_t)(s->n_tensors * sizeof(*l->ranks)), l->ranks));
	PSGD__TRY(read_agreed(reader, l));
	if (l->head.has & HAS_DECISION)
		PSGD__TRY(psgd__state_get(
			reader, "session/decision", PSGD_U8, sizeof(l->decision), &l->decision));
	l->decision.regime[sizeof(l->decision.regime) - 1] = '\0';
	if (l->head.has & HAS_GRAD_SUM)
		PSGD__TRY(read_sum(s, reader, "session/grad_sum", &l->grad_sum));
	if (l->head.has & HAS_LOCAL_SUM)
		PSGD__TRY(read_sum(s, reader, "session/local_sum", &l->local_sum));
	return PSGD_OK;
}

/* One without a state has its ranks still. */
static psgd_status load_compressor(
	psgd_session *s, const struct psgd_state_reader *reader, const uint32_t *ranks)
{
	const struct psgd_compressor_ops *c = s->compressor.ops;
	psgd_status status = PSGD_OK;

	if (c->load)
		status = c->load(s->compressor.self, reader);
	else if (c->set_ranks)
		status = c->set_ranks(s->compressor.self, ranks);
	return status == PSGD_ERR_MISMATCH
		       ? refuse(s, status, "the state is of a compressor with other options")
		       : status;
}

/* Controller, then compressor; the controller's old state is kept until both have loaded. */
static psgd_status load_parts(
	psgd_session *s, const struct psgd_state_reader *reader, const uint32_t *ranks)
{
	struct psgd__state_prefix compressor = {.prefix = "compressor", .reader = reader};
	struct psgd__state_prefix controller = {.prefix = "controller", .reader = reader};
	const struct psgd_controller_ops *c = s->controller.ops;
	struct psgd_state_reader inner = psgd__state_prefixed_reader(&controller);
	struct psgd__kept kept = {.n = 0};
	struct psgd_state_writer keep = psgd__kept_writer(&kept);
	bool controls = has_controller(s);
	psgd_status status = PSGD_OK;

	if (controls)
		status = c->save(s->controller.self, &keep);
	if (controls && status >= 0)
		status = c->load(s->controller.self, &inner);
	if (status < 0) {
		psgd__kept_free(&kept);
		return status == PSGD_ERR_MISMATCH
			       ? refuse(s, status,
					 "the state is of a controller with other options")
			       : status;
	}
	inner = psgd__state_prefixed_reader(&compressor);
	status = load_compressor(s, &inner, ranks);
	inner = psgd__kept_reader(&kept);
	if (status < 0 && controls && c->load(s->controller.self, &inner) < 0)
		status = psgd__session_fail(
			s, PSGD_ERR_INTERNAL, "the controller did not take its own state back");
	psgd__kept_free(&kept);
	return status;
}

static void take_decision(psgd_session *s, const struct loaded *l)
{
	const struct saved_decision *d = &l->decision;

	memcpy(s->regime, d->regime, sizeof(s->regime));
	s->decision = (struct psgd_decision){
		.size = sizeof(s->decision),
		.regime = s->regime,
		.value = d->value,
		.threshold = d->threshold,
		.link_delay_ns = d->link_delay_ns,
		.link_ns_per_byte = d->link_ns_per_byte,
		.predicted_exposed = d->predicted_exposed,
		.step = d->step,
		.rank = d->rank,
		.cap = d->cap,
		.choice = d->choice,
		.changed = d->changed,
		.reset_grad_sum = d->reset_grad_sum,
		.reset_local_sum = d->reset_local_sum,
	};
	psgd__decision_ranks(s, &s->decision);
}

static void swap(float **a, float **b)
{
	float *c = *a;

	*a = *b;
	*b = c;
}

static void free_sum(psgd_session *s, float *sum)
{
	if (sum)
		s->device.ops->free(s->device.self, sum, s->grad_sum_values * sizeof(float));
}

/* Nothing here fails. */
static void commit(psgd_session *s, struct loaded *l)
{
	/* A first decision that nobody has waited for is in the state. */
	if (s->head) {
		struct psgd_exchange *first = s->head;

		s->open_controls--;
		psgd__queue_remove(s, first);
		psgd__exchange_free(first);
	}
	free(s->seen);
	s->seen = l->agreed;
	s->n_seen = s->seen_capacity = l->head.n_agreed;
	l->agreed = NULL;
	swap(&s->grad_sum, &l->grad_sum);
	swap(&s->local_sum, &l->local_sum);
	s->observed = l->observed;
	s->samples_step = 0;
	memset(s->submitted_in, 0, s->n_tensors * sizeof(*s->submitted_in));
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n_tensors; i++)
		s->ranks[i] = s->compressor.ops->rank
				      ? s->compressor.ops->rank(s->compressor.self, i)
				      : l->ranks[i];
	s->step = l->head.step;
	s->record.control_bytes = l->head.control_bytes;
	s->record.sent_bytes = l->head.sent_bytes;
	s->record.sync_bytes = l->head.sync_bytes;
	s->grad_sum_steps = l->head.grad_sum_steps;
	s->local_sum_steps = l->head.local_sum_steps;
	s->decided_rank = l->head.decided_rank;
	s->decided = l->head.has & HAS_DECISION;
	if (s->decided)
		take_decision(s, l);
	pthread_mutex_unlock(&s->lock);
}

psgd_status psgd_session_load(psgd_session *s, const struct psgd_state_reader *reader)
{
	struct loaded l = {.ranks = NULL};
	psgd_status status;

	if (!s || !reader || !reader->find || !reader->read)
		return PSGD_ERR_INVALID;
	if (s->trial.on)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__settle(s));
	status = read_engine(s, reader, &l);
	if (status >= 0)
		status = psgd__observe_prepare(s, l.head.step, &l.observed);
	/* The sum that the state has none of, and the next step wants, begins at zero. */
	if (status >= 0 && (l.observed & PSGD_NEED_LOCAL_SUM) && !l.local_sum)
		status = psgd__observe_zeros(s, s->grad_sum_values, &l.local_sum);
	if (status >= 0)
		status = load_parts(s, reader, l.ranks);
	if (status >= 0)
		commit(s, &l);
	free(l.agreed);
	free(l.ranks);
	/* They may be about to be set to zero. */
	psgd__device_quiet(s);
	free_sum(s, l.grad_sum);
	free_sum(s, l.local_sum);
	return psgd__device_refuse(s, status);
}
