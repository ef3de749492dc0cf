/* Plug-ins that fail at each of their entries, and compressors that plan what cannot be. */
#include <stdatomic.h>
#include <string.h>

#include "crew.h"
#include "support/fault.h"
#include "support/suite.h"

enum entry {
	DEVICE_ALLOC,
	DEVICE_COPY,
	DEVICE_ZERO,
	ATTACH,
	PLAN,
	PLAN_AT,
	RUN,
	SET_RANKS,
	DECIDE,
	POST,
	TEST,
	N_ENTRIES
};

static const char *const entry_names[] = {"alloc", "copy", "zero", "attach", "plan", "plan_at",
	"run", "set_ranks", "decide", "post", "test"};

/*
 * The plug-ins of one worker, with tables of our own around the real ones. The k-th call of one
 * entry fails, with a status that nothing else uses. One at a time, as objects keep their `self`.
 */
static struct {
	uint32_t worker;
	enum entry entry;
	long k;
	atomic_long calls;
	atomic_bool done;
	struct psgd_device device;
	struct psgd_compressor compressor;
	struct psgd_controller controller;
	struct psgd_transport transport;
	struct psgd_device_ops device_ops, real_device;
	struct psgd_compressor_ops compressor_ops, real_compressor;
	struct psgd_controller_ops controller_ops, real_controller;
	struct psgd_transport_ops transport_ops, real_transport;
} traitor;

#define BETRAYED PSGD_ERR_IO

static bool betray(enum entry entry)
{
	if (entry != traitor.entry || atomic_fetch_add(&traitor.calls, 1) != traitor.k)
		return false;
	atomic_store(&traitor.done, true);
	return true;
}

static psgd_status bad_alloc(void *self, size_t bytes, void **out)
{
	*out = NULL;
	return betray(DEVICE_ALLOC) ? BETRAYED : traitor.real_device.alloc(self, bytes, out);
}

static psgd_status bad_copy(void *self, void *dst, const void *src, size_t bytes, psgd_stream s)
{
	return betray(DEVICE_COPY) ? BETRAYED : traitor.real_device.copy(self, dst, src, bytes, s);
}

static psgd_status bad_zero(void *self, void *dst, size_t bytes, psgd_stream s)
{
	return betray(DEVICE_ZERO) ? BETRAYED : traitor.real_device.zero(self, dst, bytes, s);
}

static psgd_status bad_attach(void *self, const struct psgd_scope *scope)
{
	return betray(ATTACH) ? BETRAYED : traitor.real_compressor.attach(self, scope);
}

static psgd_status bad_plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out)
{
	return betray(PLAN) ? BETRAYED : traitor.real_compressor.plan(self, bucket, step, out);
}

static psgd_status bad_plan_at(
	void *self, const struct psgd_bucket *bucket, uint32_t rank, struct psgd_plan *out)
{
	return betray(PLAN_AT) ? BETRAYED
			       : traitor.real_compressor.plan_at(self, bucket, rank, out);
}

static psgd_status bad_run(void *self, struct psgd_round *round)
{
	return betray(RUN) ? BETRAYED : traitor.real_compressor.run(self, round);
}

static psgd_status bad_set_ranks(void *self, const uint32_t *ranks)
{
	return betray(SET_RANKS) ? BETRAYED : traitor.real_compressor.set_ranks(self, ranks);
}

static psgd_status bad_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	return betray(DECIDE) ? BETRAYED : traitor.real_controller.decide(self, seen, ranks, out);
}

static psgd_status bad_post(void *self, const struct psgd_collective *c, void **request)
{
	return betray(POST) ? BETRAYED : traitor.real_transport.post(self, c, request);
}

/* An error frees the request: the real one must not keep the data either. */
static psgd_status bad_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	if (!betray(TEST))
		return traitor.real_transport.test(self, request, timeout_ns, out);
	traitor.real_transport.abort(self);
	while (traitor.real_transport.test(self, request, 10 * MS, NULL) == PSGD_PENDING)
		;
	return BETRAYED;
}

static void dress(void *user, uint32_t worker, struct psgd_session_options *o)
{
	(void)user;
	if (worker != traitor.worker)
		return;
	traitor.device = *o->device;
	traitor.device_ops = traitor.real_device = *o->device->ops;
	traitor.device_ops.alloc = bad_alloc;
	traitor.device_ops.copy = bad_copy;
	traitor.device_ops.zero = bad_zero;
	traitor.device.ops = &traitor.device_ops;
	o->device = &traitor.device;
	traitor.compressor = *o->compressor;
	traitor.compressor_ops = traitor.real_compressor = *o->compressor->ops;
	traitor.compressor_ops.attach = bad_attach;
	traitor.compressor_ops.plan = bad_plan;
	traitor.compressor_ops.plan_at = bad_plan_at;
	traitor.compressor_ops.run = bad_run;
	traitor.compressor_ops.set_ranks = bad_set_ranks;
	traitor.compressor.ops = &traitor.compressor_ops;
	o->compressor = &traitor.compressor;
	traitor.transport = *o->transport;
	traitor.transport_ops = traitor.real_transport = *o->transport->ops;
	traitor.transport_ops.post = bad_post;
	traitor.transport_ops.test = bad_test;
	traitor.transport.ops = &traitor.transport_ops;
	o->transport = &traitor.transport;
	if (!o->controller)
		return;
	traitor.controller = *o->controller;
	traitor.controller_ops = traitor.real_controller = *o->controller->ops;
	traitor.controller_ops.decide = bad_decide;
	traitor.controller.ops = &traitor.controller_ops;
	o->controller = &traitor.controller;
}

static bool run(
	const struct crew_variant *v, uint32_t worker, enum entry entry, long k, struct crew *crew)
{
	traitor.worker = worker;
	traitor.entry = entry;
	traitor.k = k;
	atomic_store(&traitor.calls, 0);
	atomic_store(&traitor.done, false);
	crew_start(crew, v);
	crew->dress = dress;
	crew_go(crew);
	crew_join(crew);
	return atomic_load(&traitor.done);
}

/* The worker whose plug-in failed says what it said; the others lost it, or had no need of it. */
static void judge(const struct crew *crew, uint32_t worker, enum entry entry, long k)
{
	for (uint32_t i = 0; i < crew->variant->n_workers; i++) {
		const struct crew_worker *w = &crew->workers[i];

		ck_assert_msg(!w->loose, "%s %ld: worker %u broke a promise at %s",
			entry_names[entry], k, i, w->where);
		if (i == worker)
			ck_assert_msg(w->status == BETRAYED, "%s %ld: worker %u has %s at %s",
				entry_names[entry], k, i, psgd_status_name(w->status), w->where);
		else
			ck_assert_msg(w->status >= 0 || w->status == PSGD_ERR_PEER_LOST ||
					      w->status == PSGD_ERR_TRANSPORT,
				"%s %ld: worker %u has %s (%s) at %s", entry_names[entry], k, i,
				psgd_status_name(w->status), w->error, w->where);
	}
	ck_assert_int_eq(fault_device_blocks(), 0);
}

START_TEST(every_entry_may_fail)
{
	static const struct crew_variant variants[] = {
		{"ranks by hand", .n_workers = 2, .powersgd = true, .rank = 2},
		{"controlled", .n_workers = 3, .powersgd = true, .controlled = true, .rank = 2,
			.flags = PSGD_SESSION_GRAD_SUM},
	};
	const struct crew_variant *v = &variants[_i % 2];
	uint32_t worker = (uint32_t)_i / 2;
	struct crew crew;

	for (int entry = 0; entry < N_ENTRIES; entry++) {
		bool expected = true;
		long k;

		for (k = 0; run(v, worker, (enum entry)entry, k, &crew); k++)
			judge(&crew, worker, (enum entry)entry, k);
		if (entry == PLAN_AT || entry == DECIDE)
			expected = v->controlled && worker == 0;
		ck_assert_msg(expected == (k > 0), "%s: called %ld times", entry_names[entry], k);
		for (uint32_t w = 0; w < v->n_workers; w++)
			ck_assert_int_eq(crew.workers[w].status, PSGD_OK);
	}
}
END_TEST

/* What a compressor plans, instead of what it should. */
static struct psgd_plan absurd;

static psgd_status absurd_plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out)
{
	(void)self, (void)bucket, (void)step;
	*out = absurd;
	return PSGD_OK;
}

static struct psgd_plan plan_of(uint32_t n_rounds, int64_t count, uint32_t kind, uint32_t dtype)
{
	struct psgd_plan plan = PSGD_INIT(psgd_plan);

	plan.n_rounds = n_rounds;
	for (uint32_t i = 0; i < PSGD_MAX_ROUNDS; i++)
		plan.round[i] = (struct psgd_payload){kind, dtype, count};
	return plan;
}

/* Refused before anything is computed or sent, and the session says why. */
START_TEST(absurd_plans_are_refused)
{
	const struct psgd_plan plans[] = {
		plan_of(0, 5, 0, 0),
		plan_of(PSGD_MAX_ROUNDS + 1, 5, 0, 0),
		plan_of(UINT32_MAX, 5, 0, 0),
		plan_of(1, 0, 0, 0),
		plan_of(4, -1, 0, 0),
		plan_of(1, INT64_MIN, 0, 0),
		plan_of(1, INT64_MAX, 0, 0),
		plan_of(4, INT64_MAX / 4, 0, 0),
		plan_of(2, INT64_MAX / 16, PSGD_ALLGATHER, PSGD_F64),
		plan_of(1, 5, 99, 0),
		plan_of(1, 5, 0, 99),
		plan_of(1, 5, PSGD_BROADCAST, 0),
		plan_of(1, 5, PSGD_ALLREDUCE_SUM, PSGD_U8),
	};
	float values[64 * 48] = {0};
	struct psgd_grad grad = {10, values};
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_compressor dense;
	struct psgd_compressor_ops ops;

	bucket.grads = &grad;
	bucket.n_grads = 1;
	ck_assert_int_eq(psgd_compressor_dense(&dense), PSGD_OK);
	ops = *dense.ops;
	ops.plan = absurd_plan;
	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
		struct psgd_session_options o = PSGD_INIT(psgd_session_options);
		struct psgd_compressor compressor = {&ops, dense.self};
		struct psgd_collective c;
		psgd_session *s;
		psgd_exchange *x;
		char text[128] = "";
		psgd_status status;

		absurd = plans[i];
		o.compressor = &compressor;
		o.n_workers = 2;
		ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
		ck_assert_int_eq(psgd_exchange_begin(s, &bucket, NULL, &x), PSGD_OK);
		status = psgd_exchange_next(x, &c);
		ck_assert_msg(status == PSGD_ERR_INVALID || status == PSGD_ERR_NOMEM,
			"plan %zu: %s", i, psgd_status_name(status));
		ck_assert_int_eq(psgd_exchange_next(x, &c), status);
		psgd_session_error(s, text, sizeof(text));
		ck_assert_str_ne(text, "");
		psgd_exchange_end(&x);
		psgd_session_close(&s);
	}
	psgd_compressor_destroy(&dense);
}
END_TEST

/* Ranks far above what a matrix has are clamped; a session never trusts a controller. */
static uint32_t wild_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch, (void)epoch_end;
	return PSGD_NEED_DECISION | 0xffff0000;
}

static psgd_status wild_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	struct psgd_plan plan = PSGD_INIT(psgd_plan);

	(void)self;
	if (seen->plan(seen->plan_user, seen->n_buckets + 7, 1, &plan) != PSGD_ERR_INVALID)
		return PSGD_ERR_INTERNAL;
	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] = i % 2 ? UINT32_MAX : 1000000;
	out->rank = UINT32_MAX;
	return PSGD_OK;
}

static void dress_wildly(void *user, uint32_t worker, struct psgd_session_options *o)
{
	(void)worker;
	o->controller = user;
}

START_TEST(wild_ranks_are_clamped)
{
	static const struct crew_variant v = {
		"wild", .n_workers = 2, .powersgd = true, .controlled = true, .rank = 1};
	static const struct psgd_controller_ops ops = {
		.size = sizeof(ops), .name = "wild", .needs = wild_needs, .decide = wild_decide};
	struct psgd_controller wild = {&ops, NULL};
	struct crew crew;

	crew_start(&crew, &v);
	crew.dress = dress_wildly;
	crew.user = &wild;
	crew_go(&crew);
	crew_join(&crew);
	for (uint32_t w = 0; w < 2; w++) {
		ck_assert_msg(crew.workers[w].status == PSGD_OK, "%s", crew.workers[w].error);
		ck_assert(!crew.workers[w].loose);
		ck_assert_uint_eq(crew.workers[w].hash, crew.workers[0].hash);
	}
}
END_TEST

/* Notes how many gradients are in the sum. */
static uint64_t counted[4];
static size_t n_counted;

static uint32_t counting_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch, (void)epoch_end;
	return PSGD_NEED_DECISION | PSGD_NEED_GRAD_SUM;
}

static psgd_status counting_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	(void)self;
	(void)out;
	if (n_counted < 4)
		counted[n_counted++] = seen->grad_sum_steps;
	memset(ranks, 0, seen->n_tensors * sizeof(*ranks));
	return PSGD_OK;
}

START_TEST(empty_steps_are_not_in_the_sum)
{
	static const struct psgd_controller_ops ops = {.size = sizeof(ops),
		.name = "counting",
		.needs = counting_needs,
		.decide = counting_decide};
	struct psgd_controller controller = {&ops, NULL};
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_compressor compressor;
	struct psgd_transport transport;
	struct member me = {.worker = 0};
	struct grads g;

	n_counted = 0;
	grads_init(&g);
	ck_assert_int_eq(psgd_transport_local(1, 0, &transport), PSGD_OK);
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &compressor), PSGD_OK);
	o.transport = &transport;
	o.compressor = &compressor;
	o.controller = &controller;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &me.session), PSGD_OK);
	ck_assert_int_eq(psgd_session_finish_step(me.session, NULL, NULL), PSGD_OK);
	ck_assert_int_eq(grads_step(&me, &g, NULL, NULL), PSGD_OK);
	ck_assert_int_eq(psgd_session_finish_step(me.session, NULL, NULL), PSGD_OK);
	psgd_session_close(&me.session);
	ck_assert_uint_eq(n_counted, 4);
	ck_assert_uint_eq(counted[1], 0);
	ck_assert_uint_eq(counted[2], 1);
	ck_assert_uint_eq(counted[3], 1);
	psgd_compressor_destroy(&compressor);
	psgd_transport_destroy(&transport);
	grads_free(&g);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("plugins");
	TCase *c = tcase_create("plugins");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, every_entry_may_fail, 0, 4);
	tcase_add_test(c, absurd_plans_are_refused);
	tcase_add_test(c, wild_ranks_are_clamped);
	tcase_add_test(c, empty_steps_are_not_in_the_sum);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
