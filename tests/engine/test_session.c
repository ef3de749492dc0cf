/* What a session promises: one order, ranks from worker 0, the same bits everywhere. */
#include <math.h>
#include <string.h>

#include "grads.h"
#include "support/suite.h"

struct history {
	int steps;
	uint64_t hash[TEAM_MAX][64];
	uint32_t rank[TEAM_MAX][64];
	struct psgd_report report[64]; /* worker 0's */
	struct psgd_step_info info;
};

static psgd_status train(struct member *me, void *user)
{
	struct history *h = user;
	psgd_status status = PSGD_OK;
	struct grads g;

	grads_init(&g);
	for (int step = 0; step < h->steps && status >= 0; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		struct psgd_step_info info = PSGD_INIT(psgd_step_info);

		info.epoch = (uint64_t)step / 4;
		info.epoch_end = step % 4 == 3;
		info.learning_rate = 0.1;
		info.param_hash = step ? h->hash[me->worker][step - 1] : 1;
		grads_fill(&g, (uint64_t)step * 100 + me->worker);
		/* One worker is late, another one each step: nothing may depend on it. */
		if ((uint32_t)step % 3 == me->worker)
			sleep_ns(2 * MS);
		status = grads_step(me, &g, &info, &report);
		h->hash[me->worker][step] = grads_hash(&g);
		h->rank[me->worker][step] = report.rank_max;
		if (me->worker == 0)
			h->report[step] = report;
	}
	grads_free(&g);
	return status;
}

static void assert_team(const struct team *team, const struct history *h)
{
	for (uint32_t w = 0; w < team->n_workers; w++) {
		ck_assert_msg(team->members[w].status == PSGD_OK, "worker %u: %s", w,
			team->members[w].error);
		ck_assert_mem_eq(h->hash[w], h->hash[0], (size_t)h->steps * sizeof(h->hash[0][0]));
		ck_assert_mem_eq(h->rank[w], h->rank[0], (size_t)h->steps * sizeof(h->rank[0][0]));
	}
}

/* A schedule by epochs holds from the first step of its epoch, on every worker alike. */
START_TEST(ranks_follow_worker_0)
{
	static const struct psgd_schedule_range ranges[] = {
		{1, 1, 4, 0}, {2, 2, 0, 0}, {3, 9, 2, 0}};
	static const uint32_t want[] = {1, 1, 1, 1, 4, 4, 4, 4, 0, 0, 0, 0, 2, 2, 2, 2};
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct team_options o = grads_team(&powersgd);
	struct history h = {.steps = 16};
	struct team team;

	control.choice = PSGD_CHOICE_SCHEDULE;
	control.ranges = ranges;
	control.n_ranges = 3;
	o.control = &control;
	session.check_every = 2;
	o.session = &session;
	team_run(&team, (uint32_t)_i, &o, train, &h);
	assert_team(&team, &h);
	for (int step = 0; step < 16; step++) {
		ck_assert_uint_eq(h.rank[0][step], want[step]);
		ck_assert_uint_eq(h.report[step].decided, step % 4 == 0);
		if (step % 4 == 0) {
			ck_assert_uint_eq(h.report[step].decision.step, (uint64_t)step);
			ck_assert_uint_eq(h.report[step].decision.rank, want[step]);
			ck_assert_uint_eq(h.report[step].decision.changed, 1);
		}
	}
}
END_TEST

/* A controller that asks for everything, whose decisions depend on timing: still alike. */
START_TEST(live_decisions_are_alike)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	struct psgd_live_options live = PSGD_INIT(psgd_live_options);
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct team_options o = grads_team(&powersgd);
	struct history h = {.steps = 40};
	struct team team;

	control.cap = PSGD_CAP_LIVE;
	live.dwell_steps = 3;
	control.live = &live;
	o.control = &control;
	link.egress_bps = link.ingress_bps = UINT64_C(500000000);
	o.link = &link;
	team_run(&team, (uint32_t)_i, &o, train, &h);
	assert_team(&team, &h);
	for (int step = 0; step < 40; step++) {
		ck_assert_uint_eq(h.report[step].decided, 1);
		ck_assert_uint_eq(h.report[step].decision.step, (uint64_t)step);
		ck_assert_ptr_nonnull(h.report[step].decision.regime);
		ck_assert_uint_gt(h.report[step].control_bytes, 0);
	}
	ck_assert(h.report[39].decision.link_ns_per_byte > 0);
}
END_TEST

/* Fixed ranks and the same gradients: the same bits, whatever the network and the threads do. */
START_TEST(same_input_same_bits)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct team_options o = grads_team(&powersgd);
	struct history one = {.steps = 12}, two = {.steps = 12};
	struct team team;

	powersgd.rank = 3;
	team_run(&team, 3, &o, train, &one);
	assert_team(&team, &one);
	link.egress_bps = UINT64_C(200000000);
	link.delay_ns = MS;
	o.link = &link;
	session.flags = PSGD_SESSION_NO_OVERLAP | PSGD_SESSION_GRAD_NORM | PSGD_SESSION_GRAD_SUM;
	o.session = &session;
	team_run(&team, 3, &o, train, &two);
	assert_team(&team, &two);
	ck_assert_mem_eq(one.hash, two.hash, sizeof(one.hash));
	ck_assert(isnan(one.report[0].grad_norm));
	ck_assert(two.report[0].grad_norm > 0.0);
	ck_assert(isnan(two.report[0].grad_sum_norm));
	ck_assert(two.report[3].grad_sum_norm > 0.0);
}
END_TEST

static psgd_status agree_twice(struct member *me, void *user)
{
	double values[2] = {1.0 + me->worker, 0.5};
	char bytes[16] = "?";
	char text[128];

	(void)user;
	if (me->worker == 1)
		strcpy(bytes, "from worker 1");
	if (psgd_session_sum(me->session, values, 2) < 0 || values[0] != 6.0 || values[1] != 1.5)
		return PSGD_ERR_INTERNAL;
	if (psgd_session_broadcast(me->session, bytes, sizeof(bytes), 1) < 0 ||
		strcmp(bytes, "from worker 1"))
		return PSGD_ERR_INTERNAL;
	if (psgd_session_agree(me->session, UINT64_C(0xdeadbeefcafef00d)) != PSGD_OK)
		return PSGD_ERR_INTERNAL;
	if (psgd_session_agree(me->session, 7 + (me->worker == 1)) != PSGD_ERR_MISMATCH)
		return PSGD_ERR_INTERNAL;
	psgd_session_error(me->session, text, sizeof(text));
	if (strcmp(text, "the hash differs from worker 0's on worker 1"))
		return PSGD_ERR_INTERNAL;
	/* The session goes on. */
	return psgd_session_agree(me->session, 1);
}

START_TEST(sums_broadcasts_and_agreement)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	team_run(&team, 3, &o, agree_twice, NULL);
	for (uint32_t w = 0; w < 3; w++)
		ck_assert_msg(team.members[w].status == PSGD_OK, "%s", team.members[w].error);
}
END_TEST

/* A transport that notes the order of what is posted. */
struct recorder {
	struct psgd_transport inner;
	int64_t counts[64];
	uint64_t tags[64];
	int n;
};

static psgd_status record_post(void *self, const struct psgd_collective *c, void **request)
{
	struct recorder *r = self;

	if (r->n < 64) {
		r->tags[r->n] = c->tag;
		r->counts[r->n++] = c->count;
	}
	return r->inner.ops->post(r->inner.self, c, request);
}

static psgd_status record_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct recorder *r = self;

	return r->inner.ops->test(r->inner.self, request, timeout_ns, out);
}

static void record_abort(void *self)
{
	struct recorder *r = self;

	r->inner.ops->abort(r->inner.self);
}

/* P0 Q0 P1 Q1 ..., tags without a gap. */
START_TEST(messages_have_one_order)
{
	static const struct psgd_transport_ops ops = {.size = sizeof(ops),
		.name = "recorder",
		.post = record_post,
		.test = record_test,
		.abort = record_abort};
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	/* r = 2: (64 x 48, and a vector of 64), (32 x 144), (20 x 100, and a scalar) */
	static const int64_t want[] = {128 + 64, 96, 64, 288, 40 + 1, 200};
	struct recorder r = {.n = 0};
	struct psgd_transport transport = {&ops, &r, 0, 1};
	struct psgd_compressor compressor;
	struct member me = {.worker = 0};
	struct grads g;

	powersgd.rank = 2;
	ck_assert_int_eq(psgd_transport_local(1, 0, &r.inner), PSGD_OK);
	ck_assert_int_eq(psgd_compressor_powersgd(&powersgd, &compressor), PSGD_OK);
	o.transport = &transport;
	o.compressor = &compressor;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &me.session), PSGD_OK);
	grads_init(&g);
	for (int step = 0; step < 3; step++)
		ck_assert_int_eq(grads_step(&me, &g, NULL, NULL), PSGD_OK);
	psgd_session_close(&me.session);
	ck_assert_int_eq(r.n, 18);
	for (int i = 0; i < r.n; i++) {
		ck_assert_uint_eq(r.tags[i] >> 32, (uint64_t)i);
		ck_assert_int_eq(r.counts[i], want[i % 6]);
	}
	grads_free(&g);
	psgd_compressor_destroy(&compressor);
	psgd_transport_destroy(&r.inner);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("session");
	TCase *c = tcase_create("session");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, ranks_follow_worker_0, 1, 5);
	tcase_add_loop_test(c, live_decisions_are_alike, 2, 5);
	tcase_add_test(c, same_input_same_bits);
	tcase_add_test(c, sums_broadcasts_and_agreement);
	tcase_add_test(c, messages_have_one_order);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
