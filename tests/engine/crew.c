#include "crew.h"

#include <check.h>
#include <string.h>

#include "base/state.h"
#include "support/fault.h"

#define STEPS 4

/* Asks for everything, looks at every bucket at every rank, and decides by the step alone. */
static uint32_t curious_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	const struct crew_variant *v = self;
	uint32_t always =
		PSGD_NEED_DECISION | PSGD_NEED_TIMING | PSGD_NEED_GRAD_SUM | PSGD_NEED_GRAD_NORM;

	(void)epoch, (void)epoch_end;
	if (v->late && step < 2)
		return always;
	return always | PSGD_NEED_LOCAL_SUM | PSGD_NEED_LOCAL_NORMS | PSGD_NEED_SPECTRUM |
	       PSGD_NEED_ENTROPY;
}

static psgd_status curious_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	static const uint32_t want[] = {2, 4, 0, 1, 3};

	(void)self;
	for (size_t b = 0; b < seen->n_buckets; b++) {
		struct psgd_plan plan = PSGD_INIT(psgd_plan);
		psgd_status status = seen->plan(seen->plan_user, b, 2, &plan);

		if (status < 0)
			return status;
	}
	if (seen->errors) {
		double errors[4];
		psgd_status status = seen->errors(seen->plan_user, 2, 4, errors);

		if (status < 0)
			return status;
	}
	out->rank = want[(seen->step + 1) % 5];
	out->regime = "curious";
	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] = out->rank;
	return PSGD_OK;
}

static const struct psgd_controller_ops curious_ops = {.size = sizeof(curious_ops),
	.name = "curious",
	.needs = curious_needs,
	.decide = curious_decide};

/* Everything that a worker makes; zero until it is there. */
struct kit {
	struct psgd_device device;
	struct psgd_compressor compressor;
	struct psgd_controller controller;
	struct psgd_shaper shaper;
	struct psgd_transport shaped;
	psgd_session *session;
};

/*
 * A call that fails for memory and has changed nothing can be made again; it then succeeds, since
 * only one allocation fails. One that has failed the session fails again in the same way.
 */
#define TRY_TWICE(w, call)                                                                         \
	do {                                                                                       \
		psgd_status once_ = (call);                                                        \
                                                                                                   \
		if (once_ == PSGD_ERR_NOMEM) {                                                     \
			once_ = (call);                                                            \
			(w)->again |= once_ >= 0;                                                  \
		}                                                                                  \
		if (once_ < 0) {                                                                   \
			(w)->where = #call;                                                        \
			return once_;                                                              \
		}                                                                                  \
	} while (0)

static psgd_status make_kit(struct crew_worker *w, struct kit *kit)
{
	const struct crew_variant *v = w->crew->variant;
	struct psgd_device_cpu_options cpu = PSGD_INIT(psgd_device_cpu_options);
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_link link = PSGD_INIT(psgd_link);

	cpu.alloc = fault_alloc;
	cpu.free = fault_free;
	cpu.threads = v->threads;
	TRY_TWICE(w, psgd_device_cpu(&cpu, &kit->device));
	o.device = &kit->device;
	o.transport = &w->local;
	o.flags = v->flags;
	o.check_every = 1;
	if (v->shaped) {
		link.egress_bps = UINT64_C(2000000000);
		link.delay_ns = 1000;
		TRY_TWICE(w, psgd_shaper_model(&link, &kit->shaper));
		TRY_TWICE(w, psgd_transport_shaped(&w->local, &kit->shaper, &kit->shaped));
		o.transport = &kit->shaped;
	}
	powersgd.rank = v->rank;
	if (v->powersgd) {
		TRY_TWICE(w, psgd_compressor_powersgd(&powersgd, &kit->compressor));
		o.compressor = &kit->compressor;
	}
	if (v->controlled) {
		kit->controller = (struct psgd_controller){&curious_ops, (void *)v};
		o.controller = &kit->controller;
	}
	if (w->crew->dress)
		w->crew->dress(w->crew->user, w->index, &o);
	TRY_TWICE(w, psgd_session_open(grads_tensors, TENSORS, &o, &kit->session));
	return PSGD_OK;
}

static void end_kit(struct kit *kit)
{
	psgd_session_close(&kit->session);
	psgd_transport_destroy(&kit->shaped);
	psgd_shaper_destroy(&kit->shaper);
	psgd_compressor_destroy(&kit->compressor);
	psgd_device_destroy(&kit->device);
}

static psgd_status submit(
	struct crew_worker *w, psgd_session *s, int from, int to, psgd_ticket *ticket)
{
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_grad list[TENSORS];

	for (int i = from; i < to; i++)
		list[i - from] = (struct psgd_grad){grads_tensors[i].id, w->grads.data[i]};
	bucket.grads = list;
	bucket.n_grads = (size_t)(to - from);
	TRY_TWICE(w, psgd_session_submit(s, &bucket, NULL, ticket));
	return PSGD_OK;
}

static psgd_status save_anew(psgd_session *s, struct psgd__kept *kept)
{
	struct psgd_state_writer writer = psgd__kept_writer(kept);

	psgd__kept_free(kept);
	return psgd_session_save(s, &writer);
}

static psgd_status save_and_load(struct crew_worker *w, psgd_session *s, struct psgd__kept *kept)
{
	struct psgd_state_reader reader = psgd__kept_reader(kept);

	TRY_TWICE(w, save_anew(s, kept));
	TRY_TWICE(w, psgd_session_load(s, &reader));
	return PSGD_OK;
}

/* Two steps that leave nothing behind. */
static psgd_status try_steps(struct crew_worker *w, psgd_session *s)
{
	const uint32_t list[] = {w->crew->variant->powersgd ? 3 : 0, 0};

	for (int k = 0; k < 2; k++) {
		psgd_status status;

		TRY_TWICE(w, psgd_session_trial(s, list[k]));
		grads_fill(&w->grads, 7 + w->index);
		status = submit(w, s, 0, TENSORS, NULL);
		if (status < 0)
			return status;
		TRY_TWICE(w, psgd_session_finish_step(s, NULL, NULL));
	}
	TRY_TWICE(w, psgd_session_trial(s, PSGD_TRIAL_END));
	return PSGD_OK;
}

/* Blocking calls between two steps. */
static psgd_status talk(struct crew_worker *w, psgd_session *s)
{
	double sum = 1.0 + w->index;
	uint32_t n = w->crew->variant->n_workers;
	char text[8] = "";

	TRY_TWICE(w, psgd_session_sum(s, &sum, 1));
	w->loose |= sum != n * (n + 1) / 2.0;
	strcpy(text, w->index == n - 1 ? "last" : "other");
	TRY_TWICE(w, psgd_session_broadcast(s, text, sizeof(text), n - 1));
	w->loose |= strcmp(text, "last") != 0;
	TRY_TWICE(w, psgd_session_agree(s, UINT64_C(0x123456789abc)));
	return PSGD_OK;
}

/* State is kept, taken back, and not touched by trials. */
static psgd_status play_with_state(struct crew_worker *w, psgd_session *s)
{
	struct psgd__kept kept = {.n = 0};
	psgd_status status = save_and_load(w, s, &kept);

	psgd__kept_free(&kept);
	return status < 0 ? status : try_steps(w, s);
}

static psgd_status one_step(struct crew_worker *w, psgd_session *s, int step)
{
	static const int cuts[] = {0, 3, 4, TENSORS}; /* the first has two matrices */
	static const uint32_t ranks[TENSORS] = {3, 1, 0, 2, 1};
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	struct psgd_report report = PSGD_INIT(psgd_report);

	if (step == 2 && w->crew->variant->powersgd && !w->crew->variant->controlled)
		TRY_TWICE(w, psgd_session_set_ranks(s, ranks, TENSORS));
	TRY_TWICE(w, psgd_session_begin_step(s));
	float parts[2] = {1.0f, (float)w->index};
	uint32_t n = w->crew->variant->n_workers;

	TRY_TWICE(w, psgd_session_sync(s, parts, 2));
	w->loose |= parts[0] != (float)n || parts[1] != (float)(n * (n - 1) / 2);
	for (int b = 0; b < 3; b++) {
		psgd_ticket ticket = 77;
		psgd_status status = submit(w, s, cuts[b], cuts[b + 1], &ticket);

		if (status < 0)
			return status;
		if (step == 1)
			TRY_TWICE(w, psgd_session_wait(s, ticket, 10000 * MS));
	}
	info.param_hash = 5;
	info.epoch_end = step == 1;
	TRY_TWICE(w, psgd_session_finish_step(s, &info, &report));
	return PSGD_OK;
}

static void publish(struct crew_worker *w, psgd_session *session)
{
	pthread_mutex_lock(&w->lock);
	w->open = session;
	pthread_mutex_unlock(&w->lock);
}

static psgd_status train(struct crew_worker *w, struct kit *kit)
{
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	psgd_status status = make_kit(w, kit);

	publish(w, kit->session);

	for (int step = 0; step < STEPS && status >= 0; step++) {
		grads_fill(&w->grads, (uint64_t)step * 10 + w->index);
		status = one_step(w, kit->session, step);
		if (status >= 0 && step % 2 == 0)
			status = talk(w, kit->session);
		/* After a failure to submit, those submitted before are not the trainer's yet. */
		if (status >= 0)
			w->hash = w->hash * 31 + grads_hash(&w->grads);
		if (status >= 0 && step == 1)
			status = play_with_state(w, kit->session);
	}
	/* Waits for the last decision, whose failure would not be seen otherwise. */
	if (status >= 0)
		TRY_TWICE(w, psgd_session_memory(kit->session, &memory));
	return status;
}

/* What a trainer does: it ends when a call fails, and the others learn of it. */
static void *work(void *user)
{
	struct crew_worker *w = user;
	struct kit kit = {.session = NULL};

	grads_init(&w->grads);
	pthread_barrier_wait(&w->crew->barrier);
	w->status = train(w, &kit);
	psgd_session_error(kit.session, w->error, sizeof(w->error));
	/* A session that has failed says so again. */
	if (w->status < 0 && w->error[0] &&
		psgd_session_finish_step(kit.session, NULL, NULL) != w->status)
		w->loose = true;
	publish(w, NULL);
	end_kit(&kit);
	psgd_transport_destroy(&w->local);
	grads_free(&w->grads);
	return NULL;
}

void crew_start(struct crew *crew, const struct crew_variant *variant)
{
	struct psgd_transport local[TEAM_MAX];

	memset(crew, 0, sizeof(*crew));
	crew->variant = variant;
	ck_assert_int_eq(psgd_transport_local(variant->n_workers, 0, local), PSGD_OK);
	pthread_barrier_init(&crew->barrier, NULL, variant->n_workers + 1);
	for (uint32_t i = 0; i < variant->n_workers; i++) {
		struct crew_worker *w = &crew->workers[i];

		w->crew = crew;
		w->local = local[i];
		w->index = i;
		pthread_mutex_init(&w->lock, NULL);
		ck_assert_int_eq(pthread_create(&w->thread, NULL, work, w), 0);
	}
}

void crew_go(struct crew *crew)
{
	pthread_barrier_wait(&crew->barrier);
}

void crew_join(struct crew *crew)
{
	for (uint32_t i = 0; i < crew->variant->n_workers; i++)
		pthread_join(crew->workers[i].thread, NULL);
	for (uint32_t i = 0; i < crew->variant->n_workers; i++)
		pthread_mutex_destroy(&crew->workers[i].lock);
	pthread_barrier_destroy(&crew->barrier);
}

void crew_abort(struct crew *crew, uint32_t worker)
{
	struct crew_worker *w = &crew->workers[worker];

	pthread_mutex_lock(&w->lock);
	psgd_session_abort(w->open);
	pthread_mutex_unlock(&w->lock);
}
