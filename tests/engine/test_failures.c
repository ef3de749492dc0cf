/* Failures are named on every worker, stick, and never hang. */
#include <string.h>

#include "grads.h"
#include "support/suite.h"

static psgd_status diverge(struct member *me, void *user)
{
	uint64_t *hash = user;
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	psgd_status status = PSGD_OK;
	struct grads g;

	grads_init(&g);
	for (int step = 0; step < 6 && status >= 0; step++) {
		info.param_hash = me->worker == 2 && step >= 3 ? 99 : *hash;
		status = grads_step(me, &g, &info, NULL);
	}
	grads_free(&g);
	return status;
}

/* Parameters that differ are found by the next check, and the worker is named on every worker. */
START_TEST(different_parameters_are_named)
{
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct team_options o = grads_team(NULL);
	uint64_t hash = 5;
	struct team team;

	session.check_every = 2;
	o.session = &session;
	team_run(&team, 3, &o, diverge, &hash);
	for (uint32_t w = 0; w < 3; w++) {
		ck_assert_int_eq(team.members[w].status, PSGD_ERR_MISMATCH);
		ck_assert_str_eq(team.members[w].error,
			"parameters at step 4 differ from worker 0's on worker 2");
	}
}
END_TEST

static psgd_status other_bucket(struct member *me, void *user)
{
	int step_of_trouble = *(int *)user;
	psgd_status status = PSGD_OK;
	struct grads g;

	grads_init(&g);
	for (int step = 0; step <= step_of_trouble && status >= 0; step++) {
		bool wrong = step == step_of_trouble && me->worker == 1;

		status = grads_submit(me, &g, 0, wrong ? 3 : 2);
		if (status >= 0)
			status = psgd_session_finish_step(me->session, NULL, NULL);
	}
	grads_free(&g);
	return status;
}

/* A bucket that differs is named before any message of it is on the wire. */
START_TEST(different_buckets_are_named)
{
	struct team_options o = grads_team(NULL);
	int step = 0;
	struct team team;

	team_run(&team, 3, &o, other_bucket, &step);
	for (uint32_t w = 0; w < 3; w++) {
		ck_assert_int_eq(team.members[w].status, PSGD_ERR_MISMATCH);
		ck_assert_str_eq(team.members[w].error,
			"bucket 0 of step 0 differs on worker 1: worker 0 sends 2 tensors in "
			"3136 "
			"values, worker 1 3 tensors in 7744 values");
	}
	/* One that was seen before on worker 0 only: the messages differ, and nobody hangs. */
	step = 2;
	team_run(&team, 3, &o, other_bucket, &step);
	for (uint32_t w = 0; w < 3; w++)
		ck_assert_int_lt(team.members[w].status, 0);
}
END_TEST

static const struct psgd_tensor twins[2] = {
	{.id = 1, .dtype = PSGD_F32, .n_dims = 2, .dims = {8, 8}},
	{.id = 2, .dtype = PSGD_F32, .n_dims = 2, .dims = {8, 8}},
};

/* Two buckets of equal size; in the last step worker 1 submits them the other way round. */
static psgd_status swap_buckets(struct member *me, void *user)
{
	float data[2][64] = {{0}};
	psgd_status status = PSGD_OK;

	(void)user;
	for (int step = 0; step < 3 && status >= 0; step++) {
		for (uint32_t b = 0; b < 2 && status >= 0; b++) {
			uint32_t which = step == 2 && me->worker == 1 ? 1 - b : b;
			struct psgd_grad grad = {twins[which].id, data[which]};
			struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);

			bucket.grads = &grad;
			bucket.n_grads = 1;
			status = psgd_session_submit(me->session, &bucket, NULL, NULL);
		}
		if (status >= 0)
			status = psgd_session_finish_step(me->session, NULL, NULL);
	}
	return status;
}

/* Known buckets in another order must not be summed across each other. */
START_TEST(swapped_buckets_are_found)
{
	struct team_options o = {.tensors = twins, .n_tensors = 2};
	struct team team;

	team_run(&team, 2, &o, swap_buckets, NULL);
	for (uint32_t w = 0; w < 2; w++)
		ck_assert_int_eq(team.members[w].status, PSGD_ERR_MISMATCH);
}
END_TEST

static psgd_status desert(struct member *me, void *user)
{
	struct grads g;
	psgd_status status;
	int64_t start = now_ns();

	(void)user;
	grads_init(&g);
	status = grads_step(me, &g, NULL, NULL);
	if (status >= 0 && me->worker == 1) {
		grads_free(&g);
		psgd_transport_destroy(&me->local); /* gone without a word */
		return PSGD_OK;
	}
	if (status >= 0)
		status = grads_step(me, &g, NULL, NULL);
	/* Failure sticks. */
	if (status < 0 && grads_submit(me, &g, 0, 1) != status)
		status = PSGD_ERR_INTERNAL;
	if (now_ns() - start > 5000 * MS)
		status = PSGD_ERR_TIMEOUT;
	grads_free(&g);
	return status;
}

START_TEST(a_lost_peer_is_named)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	team_run(&team, 3, &o, desert, NULL);
	for (uint32_t w = 0; w < 3; w += 2) {
		ck_assert_int_eq(team.members[w].status, PSGD_ERR_PEER_LOST);
		ck_assert_ptr_nonnull(strstr(team.members[w].error, "worker 1"));
	}
}
END_TEST

/* Worker 1 never comes: submit returns at once all the same, and the deadline ends the wait. */
static psgd_status alone(struct member *me, void *user)
{
	psgd_status status = PSGD_OK;
	int64_t start, took = 0;
	psgd_ticket ticket = 0;
	struct grads g;

	(void)user;
	grads_init(&g);
	if (me->worker == 0) {
		start = now_ns();
		for (int i = 0; i < TENSORS && status >= 0; i++)
			status = grads_submit(me, &g, i, i + 1);
		took = now_ns() - start;
		ticket = 1;
		if (status >= 0 && psgd_session_wait(me->session, ticket, 0) != PSGD_PENDING)
			status = PSGD_ERR_INTERNAL;
		if (status >= 0 && took > 100 * MS)
			status = PSGD_ERR_TIMEOUT;
		if (status >= 0)
			status = psgd_session_finish_step(me->session, NULL, NULL);
	}
	team_meet(me);
	grads_free(&g);
	return status;
}

START_TEST(submit_returns_at_once)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	o.transport_timeout_ns = 500 * MS;
	team_run(&team, 2, &o, alone, NULL);
	ck_assert_int_eq(team.members[0].status, PSGD_ERR_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(team.members[0].error, "worker 1"));
	ck_assert_int_eq(team.members[1].status, PSGD_OK);
}
END_TEST

static void *abort_soon(void *user)
{
	sleep_ns(100 * MS);
	psgd_session_abort(user);
	return NULL;
}

static psgd_status aborted(struct member *me, void *user)
{
	psgd_status status = PSGD_OK;
	pthread_t other;
	struct grads g;

	(void)user;
	grads_init(&g);
	if (me->worker == 0) {
		pthread_create(&other, NULL, abort_soon, me->session);
		status = grads_step(me, &g, NULL, NULL);
		pthread_join(other, NULL);
	}
	team_meet(me);
	grads_free(&g);
	return status;
}

START_TEST(abort_from_another_thread)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	team_run(&team, 2, &o, aborted, NULL);
	ck_assert_int_lt(team.members[0].status, 0);
}
END_TEST

static psgd_status leave_work(struct member *me, void *user)
{
	struct grads *g = user;

	return grads_submit(
		me, &g[me->worker], 0, 3); /* the session is closed with this in flight */
}

START_TEST(close_with_work_in_flight)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct team_options o = grads_team(&powersgd);
	struct grads g[TEAM_MAX];
	struct team team;

	link.egress_bps = 1000000;
	o.link = &link;
	for (int w = 0; w < TEAM_MAX; w++)
		grads_init(&g[w]);
	for (uint32_t n = 1; n <= 3; n++)
		team_run(&team, n, &o, leave_work, g);
	for (int w = 0; w < TEAM_MAX; w++)
		grads_free(&g[w]);
}
END_TEST

START_TEST(misuse_is_refused)
{
	struct psgd_tensor twice[2] = {grads_tensors[0], grads_tensors[0]}, bad = grads_tensors[0];
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	float value[64 * 48] = {0};
	struct psgd_grad grads[2] = {{10, value}, {10, value}};
	struct psgd_transport transport;
	psgd_session *s = NULL, *second = NULL;
	psgd_exchange *x;
	psgd_ticket ticket;
	uint32_t rank = 1;
	char text[64] = "?";

	ck_assert_int_eq(psgd_session_open(NULL, 1, NULL, &s), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_open(grads_tensors, 0, NULL, &s), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_open(grads_tensors, 1, NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_open(twice, 2, NULL, &s), PSGD_ERR_INVALID);
	bad.dims[0] = 0;
	ck_assert_int_eq(psgd_session_open(&bad, 1, NULL, &s), PSGD_ERR_INVALID);
	bad = grads_tensors[0];
	bad.dtype = PSGD_F64;
	ck_assert_int_eq(psgd_session_open(&bad, 1, NULL, &s), PSGD_ERR_INVALID);
	bad = grads_tensors[0];
	bad.n_dims = PSGD_MAX_DIMS + 1;
	ck_assert_int_eq(psgd_session_open(&bad, 1, NULL, &s), PSGD_ERR_INVALID);
	o.worker = 2;
	o.n_workers = 2;
	ck_assert_int_eq(psgd_session_open(grads_tensors, 1, &o, &s), PSGD_ERR_INVALID);
	ck_assert_ptr_null(s);

	o = PSGD_INIT(psgd_session_options);
	ck_assert_int_eq(psgd_transport_local(1, 0, &transport), PSGD_OK);
	o.transport = &transport;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, NULL, &second), PSGD_OK);
	bucket.grads = grads;
	bucket.n_grads = 0;
	ck_assert_int_eq(psgd_session_submit(s, &bucket, NULL, NULL), PSGD_ERR_INVALID);
	bucket.n_grads = 2;
	ck_assert_int_eq(psgd_session_submit(s, &bucket, NULL, NULL), PSGD_ERR_INVALID);
	bucket.n_grads = 1;
	grads[0].id = 99;
	ck_assert_int_eq(psgd_session_submit(s, &bucket, NULL, NULL), PSGD_ERR_INVALID);
	grads[0] = (struct psgd_grad){10, NULL};
	ck_assert_int_eq(psgd_session_submit(s, &bucket, NULL, NULL), PSGD_ERR_INVALID);
	grads[0] = (struct psgd_grad){10, value};
	ck_assert_int_eq(psgd_session_submit(NULL, &bucket, NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_submit(s, NULL, NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_submit(second, &bucket, NULL, NULL), PSGD_ERR_STATE);
	ck_assert_int_eq(psgd_exchange_begin(s, &bucket, NULL, &x), PSGD_ERR_STATE);
	ck_assert_int_eq(psgd_session_wait(s, 1, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_set_ranks(s, &rank, 1), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_submit(s, &bucket, NULL, &ticket), PSGD_OK);
	ck_assert_int_eq(psgd_session_submit(s, &bucket, NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_memory(s, &memory), PSGD_ERR_STATE);
	ck_assert_int_eq(psgd_session_agree(s, 1), PSGD_ERR_STATE);
	ck_assert_int_eq(psgd_session_wait(s, ticket, 5000 * MS), PSGD_OK);
	ck_assert_int_eq(psgd_session_finish_step(s, NULL, NULL), PSGD_OK);
	ck_assert_int_eq(psgd_session_finish_step(second, NULL, NULL), PSGD_ERR_STATE);
	ck_assert_int_eq(psgd_session_broadcast(s, value, 4, 1), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_sum(s, NULL, 1), PSGD_ERR_INVALID);
	ck_assert_uint_eq(psgd_session_rank(s, 4711), 0);
	psgd_session_error(s, text, sizeof(text));
	ck_assert_str_eq(text, "");
	psgd_session_close(&s);
	psgd_session_close(&s);
	psgd_session_close(&second);
	psgd_session_close(NULL);
	psgd_transport_destroy(&transport);

	/* An exchange that is given back too early fails its session, and says why. */
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, NULL, &s), PSGD_OK);
	ck_assert_int_eq(psgd_exchange_begin(s, &bucket, NULL, &x), PSGD_OK);
	psgd_exchange_end(&x);
	ck_assert_ptr_null(x);
	ck_assert_int_eq(psgd_exchange_begin(s, &bucket, NULL, &x), PSGD_ERR_STATE);
	psgd_session_close(&s);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("failures");
	TCase *c = tcase_create("failures");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, different_parameters_are_named);
	tcase_add_test(c, different_buckets_are_named);
	tcase_add_test(c, swapped_buckets_are_found);
	tcase_add_test(c, a_lost_peer_is_named);
	tcase_add_test(c, submit_returns_at_once);
	tcase_add_test(c, abort_from_another_thread);
	tcase_add_test(c, close_with_work_in_flight);
	tcase_add_test(c, misuse_is_refused);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
