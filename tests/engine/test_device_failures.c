/*
 * Asynchronous devices that fail at any call, and sessions that are ended while work is under way:
 * told in the device's words, nothing is left, and nothing of the caller's is touched afterwards.
 */
#include <stdio.h>
#include <string.h>

#include "hand.h"
#include "rig.h"
#include "support/suite.h"
#include "support/thinned.h"

/* ---- call k fails, for every k ---- */

static psgd_status run_hand(const struct hand *what, long k, struct hand *hand, long *calls)
{
	struct psgd_device device;
	psgd_status status;
	bool failed;

	*hand = *what;
	ck_assert_int_eq(lazy_open(LAZY_WAITED, 1, &device), PSGD_OK);
	hand->device = &device;
	lazy_fail(&device, k);
	status = hand_run(hand);
	*calls = lazy_calls(&device);
	failed = lazy_failed(&device);
	ck_assert_msg(lazy_leaks(&device) == 0, "call %ld: something is left", k);
	psgd_device_destroy(&device);
	for (uint32_t w = 0; w < hand->n_workers; w++)
		psgd__kept_free(&hand->kept[w]);
	ck_assert_msg(failed == (k >= 0), "call %ld is gone", k);
	return status;
}

START_TEST(every_call_may_fail)
{
	static const struct hand scenes[] = {
		{.seed = 5, .n_workers = 1, .steps = 5, .with_trial = true},
		{.seed = 6,
			.n_workers = 2,
			.steps = 3,
			.flags = PSGD_SESSION_GRAD_NORM | PSGD_SESSION_GRAD_SUM},
		{.seed = 7,
			.n_workers = 3,
			.steps = 3,
			.dense = true,
			.flags = PSGD_SESSION_GRAD_SUM},
	};
	const struct hand *what = &scenes[_i];
	struct hand clean, hand;
	long calls, ignored, told = 0;

	ck_assert_int_eq(run_hand(what, -1, &clean, &calls), PSGD_OK);
	ck_assert_int_gt(calls, 100);
	for (long k = 0; k < calls; k += CALLS_APART) {
		psgd_status status = run_hand(what, k, &hand, &ignored);

		ck_assert_msg(
			status == PSGD_OK || status == PSGD_ERR_DEVICE || status == PSGD_ERR_NOMEM,
			"call %ld: %s", k, psgd_status_name(status));
		if (status == PSGD_OK) {
			/* A wait before something is given back: it is made again. */
			for (int step = 0; step < what->steps; step++)
				ck_assert_uint_eq(hand.hash[step], clean.hash[step]);
			continue;
		}
		told++;
		ck_assert_msg(hand.own || strstr(hand.error, "was made to fail"), "%ld: %s", k,
			hand.error);
	}
	ck_assert_int_gt(told, calls / 2 / CALLS_APART);
	printf("# %d: %ld calls, %ld told\n", _i, calls, told);
	fflush(stdout);
}
END_TEST

/* ---- the same in the middle of sessions ---- */

static void judge(const struct crew *crew, uint32_t who, const char *what)
{
	for (uint32_t i = 0; i < crew->variant->n_workers; i++) {
		const struct crew_worker *w = &crew->workers[i];

		/* A call that was refused has left its worker out of step with the others. */
		ck_assert_msg(w->status >= 0 || w->status == PSGD_ERR_PEER_LOST ||
				      w->status == PSGD_ERR_TRANSPORT ||
				      w->status == PSGD_ERR_MISMATCH ||
				      (i == who && (w->status == PSGD_ERR_FAILED ||
							   w->status == PSGD_ERR_DEVICE ||
							   w->status == PSGD_ERR_NOMEM)),
			"%s: worker %u: %s: %s (%s)", what, i, w->where,
			psgd_status_name(w->status), w->error);
		if (w->status == PSGD_ERR_DEVICE && w->error[0])
			ck_assert_msg(strstr(w->error, "was made to fail"), "%s", w->error);
	}
}

static const struct crew_variant variants[] = {
	{"ranks by hand", .n_workers = 2, .powersgd = true, .rank = 2},
	{"controlled", .n_workers = 3, .powersgd = true, .controlled = true, .rank = 2,
		.flags = PSGD_SESSION_GRAD_SUM | PSGD_SESSION_GRAD_NORM},
};

START_TEST(sessions_survive_failures)
{
	const struct crew_variant *v = &variants[_i];
	struct rng rng = {(uint64_t)_i + 4};
	struct crew crew;
	struct rig rig;
	long calls;
	int told = 0;

	rig_open(&rig, 1);
	lazy_fail(&rig.device[0], -1);
	rig_start(&rig, &crew, v);
	crew_join(&crew);
	calls = lazy_calls(&rig.device[0]);
	rig_close(&rig);
	for (int run = 0; run < 40; run++) {
		uint32_t who = rng_range(&rng, 0, v->n_workers - 1);
		long k = (long)rng_range(&rng, 0, (uint32_t)calls - 1);
		char what[64];

		snprintf(what, sizeof(what), "%s, call %ld of worker %u", v->name, k, who);
		rig_open(&rig, (uint64_t)run);
		lazy_fail(&rig.device[who], k);
		rig_start(&rig, &crew, v);
		crew_join(&crew);
		judge(&crew, who, what);
		told += crew.workers[who].status == PSGD_ERR_DEVICE;
		rig_close(&rig);
	}
	ck_assert_int_gt(told, 12);
}
END_TEST

START_TEST(aborts_at_any_moment)
{
	const struct crew_variant *v = &variants[_i];
	struct rng rng = {(uint64_t)_i + 1};
	int64_t clean_ns;
	struct crew crew;
	struct rig rig;
	int cut = 0;

	rig_open(&rig, 1);
	clean_ns = now_ns();
	rig_start(&rig, &crew, v);
	crew_join(&crew);
	clean_ns = now_ns() - clean_ns;
	rig_close(&rig);
	for (int run = 0; run < 25; run++) {
		uint32_t who = rng_range(&rng, 0, v->n_workers - 1);

		rig_open(&rig, (uint64_t)run);
		rig_start(&rig, &crew, v);
		sleep_ns((int64_t)rng_range(&rng, 0, 999) * clean_ns / 1000);
		crew_abort(&crew, who);
		crew_join(&crew);
		judge(&crew, who, "abort");
		cut += crew.workers[who].status == PSGD_ERR_FAILED;
		rig_close(&rig);
	}
	ck_assert_int_gt(cut, 3);
}
END_TEST

/* ---- an end while the trainer's stream has yet to make the gradients ---- */

struct waiting {
	struct psgd_device device;
	struct psgd_transport local;
	psgd_session *session;
	psgd_stream stream;
	struct grads grads;
};

static void waiting_open(struct waiting *x)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct member me = {.worker = 0};

	ck_assert_int_eq(lazy_open(LAZY_DELAYED, 3, &x->device), PSGD_OK);
	ck_assert_int_eq(x->device.ops->stream_create(x->device.self, &x->stream), PSGD_OK);
	ck_assert_int_eq(psgd_transport_local(1, 0, &x->local), PSGD_OK);
	o.device = &x->device;
	o.transport = &x->local;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &x->session), PSGD_OK);
	grads_init(&x->grads);
	me.session = x->session;
	lazy_hold(&x->device, NULL);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(grads_submit(&me, &x->grads, i, i + 1), PSGD_OK);
	sleep_ns(5 * MS);
}

static void waiting_close(struct waiting *x, pthread_t other)
{
	psgd_session_close(&x->session);
	pthread_join(other, NULL);
	/* If anything were still to be done, it would be seen. */
	grads_free(&x->grads);
	psgd_transport_destroy(&x->local);
	x->device.ops->stream_destroy(x->device.self, x->stream);
	ck_assert_int_eq(lazy_leaks(&x->device), 0);
	psgd_device_destroy(&x->device);
}

static void *release_soon(void *user)
{
	sleep_ns(20 * MS);
	lazy_release(user);
	return NULL;
}

START_TEST(ends_wait_for_the_device)
{
	struct waiting x;
	pthread_t other;

	waiting_open(&x);
	ck_assert_int_eq(pthread_create(&other, NULL, release_soon, &x.device), 0);
	if (_i) {
		psgd_session_abort(x.session);
		ck_assert_int_eq(psgd_session_finish_step(x.session, NULL, NULL), PSGD_ERR_FAILED);
	}
	waiting_close(&x, other);
}
END_TEST

static void *break_soon(void *user)
{
	sleep_ns(20 * MS);
	lazy_break(user);
	return NULL;
}

/* It does not call, so it has to be asked. */
START_TEST(dead_devices_are_noticed)
{
	char text[128];
	struct waiting x;
	pthread_t other;

	waiting_open(&x);
	ck_assert_int_eq(pthread_create(&other, NULL, break_soon, &x.device), 0);
	ck_assert_int_eq(psgd_session_finish_step(x.session, NULL, NULL), PSGD_ERR_DEVICE);
	psgd_session_error(x.session, text, sizeof(text));
	ck_assert_str_eq(text, "lazy device: event_test was made to fail");
	waiting_close(&x, other);
}
END_TEST

/* ---- what cannot work is said ---- */

START_TEST(half_a_table_is_refused)
{
	const size_t first = offsetof(struct psgd_device_ops, stream_create);
	const size_t n =
		(offsetof(struct psgd_device_ops, memory) - first) / sizeof(void (*)(void));
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_device lazy, half;
	struct psgd_device_ops ops;
	psgd_session *s;

	ck_assert_uint_eq(n, 12);
	ck_assert_int_eq(lazy_open(LAZY_DELAYED, 1, &lazy), PSGD_OK);
	half = (struct psgd_device){&ops, lazy.self};
	o.device = &half;
	for (size_t i = 0; i < n; i++) {
		ops = *lazy.ops;
		memset((char *)&ops + first + i * sizeof(void (*)(void)), 0,
			sizeof(void (*)(void)));
		ck_assert_int_eq(
			psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_ERR_UNSUPPORTED);
		ck_assert_ptr_null(s);
	}
	/* Those of reports may be missing. */
	ops = *lazy.ops;
	ops.memory = NULL;
	ops.error = NULL;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	psgd_session_close(&s);
	ck_assert_int_eq(lazy_leaks(&lazy), 0);
	psgd_device_destroy(&lazy);
}
END_TEST

/* Threads that sum the host's memory cannot have a device's. */
START_TEST(local_transports_are_refused)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_transport local[2];
	struct psgd_device device;
	struct member me = {.worker = 0};
	struct grads g;
	char text[128];

	ck_assert_int_eq(lazy_open(LAZY_DELAYED, 1, &device), PSGD_OK);
	ck_assert_int_eq(psgd_transport_local(2, 0, local), PSGD_OK);
	o.device = &device;
	o.transport = &local[0];
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &me.session), PSGD_OK);
	grads_init(&g);
	ck_assert_int_eq(grads_step(&me, &g, NULL, NULL), PSGD_ERR_UNSUPPORTED);
	psgd_session_error(me.session, text, sizeof(text));
	ck_assert_str_eq(text, "transport local does not carry the memory of device lazy");
	psgd_session_close(&me.session);
	grads_free(&g);
	psgd_transport_destroy(&local[0]);
	psgd_transport_destroy(&local[1]);
	ck_assert_int_eq(lazy_leaks(&device), 0);
	psgd_device_destroy(&device);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("device_failures");
	TCase *c = tcase_create("device_failures");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, every_call_may_fail, 0, 3);
	tcase_add_loop_test(c, sessions_survive_failures, 0, 2);
	tcase_add_loop_test(c, aborts_at_any_moment, 0, 2);
	tcase_add_loop_test(c, ends_wait_for_the_device, 0, 2);
	tcase_add_test(c, dead_devices_are_noticed);
	tcase_add_test(c, half_a_table_is_refused);
	tcase_add_test(c, local_transports_are_refused);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
