/*
 * Asynchronous devices: the same bits as the CPU's whatever the device puts off, nothing waited for
 * within a step, and streams that are respected.
 */
#include <math.h>
#include <string.h>

#include "hand.h"
#include "rig.h"
#include "support/suite.h"

/* ---- by exchanges ---- */

static void same_state(const struct psgd__kept *a, const struct psgd__kept *b)
{
	ck_assert_uint_eq(a->n, b->n);
	for (size_t i = 0; i < a->n; i++) {
		ck_assert_str_eq(a->arrays[i].array.name, b->arrays[i].array.name);
		ck_assert_uint_eq(a->arrays[i].bytes, b->arrays[i].bytes);
		ck_assert_msg(!memcmp(a->arrays[i].data, b->arrays[i].data, a->arrays[i].bytes),
			"%s differs", a->arrays[i].array.name);
	}
}

static void same_report(const struct psgd_report *a, const struct psgd_report *b)
{
	ck_assert_uint_eq(a->step, b->step);
	ck_assert_uint_eq(a->raw_bytes, b->raw_bytes);
	ck_assert_uint_eq(a->payload_bytes, b->payload_bytes);
	ck_assert_uint_eq(a->control_bytes, b->control_bytes);
	ck_assert_uint_eq(a->n_buckets, b->n_buckets);
	ck_assert_uint_eq(a->n_messages, b->n_messages);
	ck_assert_uint_eq(a->rank_max, b->rank_max);
	ck_assert_uint_eq(a->n_nonfinite, b->n_nonfinite);
	ck_assert(!memcmp(&a->grad_norm, &b->grad_norm, sizeof(double)));
	ck_assert(!memcmp(&a->grad_sum_norm, &b->grad_sum_norm, sizeof(double)));
}

static void adds_up(const struct psgd_report *r)
{
	ck_assert_int_eq(r->step_ns, r->compute_ns + r->exposed_encode_ns + r->exposed_wire_ns +
					     r->exposed_decode_ns + r->sync_ns);
	ck_assert_int_ge(r->compute_ns, 0);
	ck_assert_int_ge(r->exposed_encode_ns, 0);
	ck_assert_int_ge(r->exposed_wire_ns, 0);
	ck_assert_int_ge(r->exposed_decode_ns, 0);
	ck_assert_int_ge(r->encode_ns, r->exposed_encode_ns);
	ck_assert_int_ge(r->decode_ns, r->exposed_decode_ns);
}

START_TEST(same_bits_by_exchanges)
{
	static const uint32_t flags[] = {0, PSGD_SESSION_GRAD_NORM | PSGD_SESSION_GRAD_SUM};
	const struct hand what = {.seed = (uint64_t)_i + 1,
		.n_workers = (uint32_t)_i % HAND_WORKERS + 1,
		.flags = flags[_i / 3 % 2],
		.dense = _i % 7 == 6,
		.with_trial = _i % 5 == 4,
		.steps = HAND_STEPS};
	enum lazy_mode mode = _i % 4 ? LAZY_WAITED : LAZY_DELAYED;
	struct hand plain = what, lazy = what;
	uint32_t n_nonfinite = 0;
	struct psgd_device device;

	ck_assert_int_eq(lazy_open(mode, what.seed, &device), PSGD_OK);
	lazy.device = &device;
	ck_assert_int_eq(hand_run(&plain), PSGD_OK);
	ck_assert_msg(hand_run(&lazy) == PSGD_OK, "%s", lazy.error);
	ck_assert(!plain.broken && !lazy.broken);
	for (int step = 0; step < what.steps; step++) {
		ck_assert_uint_eq(lazy.hash[step], plain.hash[step]);
		same_report(&lazy.report[step], &plain.report[step]);
		adds_up(&lazy.report[step]);
		ck_assert_int_gt(lazy.report[step].encode_ns, 0);
		n_nonfinite += lazy.report[step].n_nonfinite;
	}
	ck_assert_uint_gt(n_nonfinite, 0);
	for (uint32_t w = 0; w < what.n_workers; w++) {
		same_state(&lazy.kept[w], &plain.kept[w]);
		psgd__kept_free(&lazy.kept[w]);
		psgd__kept_free(&plain.kept[w]);
	}
	ck_assert_int_eq(lazy_leaks(&device), 0);
	psgd_device_destroy(&device);
}
END_TEST

/* ---- sessions ---- */

static const struct crew_variant variants[] = {
	{"dense", .n_workers = 1},
	{"ranks by hand", .n_workers = 2, .powersgd = true, .rank = 2},
	{"norms", .n_workers = 3, .powersgd = true, .rank = 3, .flags = PSGD_SESSION_GRAD_NORM},
	{"no overlap", .n_workers = 2, .powersgd = true, .rank = 2,
		.flags = PSGD_SESSION_NO_OVERLAP | PSGD_SESSION_GRAD_SUM},
	{"controlled", .n_workers = 3, .powersgd = true, .controlled = true, .rank = 2,
		.flags = PSGD_SESSION_GRAD_SUM},
	{"late", .n_workers = 2, .powersgd = true, .controlled = true, .late = true, .shaped = true,
		.rank = 1},
};
#define N_VARIANTS (int)(sizeof(variants) / sizeof(variants[0]))

/* All that a trainer does, trials, state, sums and broadcasts too. */
START_TEST(same_bits_by_sessions)
{
	const struct crew_variant *v = &variants[_i];
	struct crew plain, lazy;
	struct rig rig;

	crew_start(&plain, v);
	crew_go(&plain);
	crew_join(&plain);
	for (uint64_t seed = 1; seed <= 4; seed++) {
		rig_open(&rig, seed * 10);
		rig_start(&rig, &lazy, v);
		crew_join(&lazy);
		for (uint32_t w = 0; w < v->n_workers; w++) {
			ck_assert_msg(lazy.workers[w].status == PSGD_OK, "%s: %s: %s", v->name,
				lazy.workers[w].where, lazy.workers[w].error);
			ck_assert(!lazy.workers[w].loose);
			ck_assert_uint_eq(lazy.workers[w].hash, plain.workers[w].hash);
		}
		rig_close(&rig);
	}
}
END_TEST

/* ---- one worker, whose collectives move nothing ---- */

struct alone {
	struct psgd_device device;
	struct psgd_transport local;
	struct psgd_compressor compressor;
	struct member me;
	struct grads grads;
	psgd_stream stream; /* the trainer's */
};

static void alone_open(struct alone *a, enum lazy_mode mode, struct psgd_compressor *compressor)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);

	memset(a, 0, sizeof(*a));
	grads_init(&a->grads);
	ck_assert_int_eq(lazy_open(mode, 7, &a->device), PSGD_OK);
	ck_assert_int_eq(a->device.ops->stream_create(a->device.self, &a->stream), PSGD_OK);
	ck_assert_int_eq(psgd_transport_local(1, 0, &a->local), PSGD_OK);
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &a->compressor), PSGD_OK);
	o.device = &a->device;
	o.transport = &a->local;
	o.compressor = compressor ? compressor : &a->compressor;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &a->me.session), PSGD_OK);
}

static void alone_close(struct alone *a)
{
	psgd_session_close(&a->me.session);
	psgd_compressor_destroy(&a->compressor);
	psgd_transport_destroy(&a->local);
	ck_assert_int_eq(a->device.ops->stream_finish(a->device.self, a->stream), PSGD_OK);
	a->device.ops->stream_destroy(a->device.self, a->stream);
	ck_assert_int_eq(lazy_leaks(&a->device), 0);
	psgd_device_destroy(&a->device);
	grads_free(&a->grads);
}

/* Tensors from .. to - 1, ready in that stream. */
static psgd_ticket alone_submit(struct alone *a, int from, int to, psgd_stream ready)
{
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_grad list[TENSORS];
	psgd_ticket ticket;

	for (int i = from; i < to; i++)
		list[bucket.n_grads++] = (struct psgd_grad){grads_tensors[i].id, a->grads.data[i]};
	bucket.grads = list;
	ck_assert_int_eq(psgd_session_submit(a->me.session, &bucket, ready, &ticket), PSGD_OK);
	return ticket;
}

/* A step asks for nothing that takes a wait; streams, and events of three buckets, are enough. */
START_TEST(steps_wait_for_nothing)
{
	long waits = 0;
	struct alone a;

	alone_open(&a, LAZY_DELAYED, NULL);
	for (int step = 0; step < 24; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);

		grads_fill(&a.grads, (uint64_t)step);
		ck_assert_int_eq(grads_step(&a.me, &a.grads, NULL, &report), PSGD_OK);
		adds_up(&report);
		if (step == 3)
			waits = lazy_waits(&a.device);
	}
	ck_assert_int_eq(lazy_waits(&a.device), waits);
	ck_assert_int_le(lazy_made(&a.device), 3 + 3 * (1 + 3 * 2));
	alone_close(&a);
}
END_TEST

static void fill_late(void *user)
{
	grads_fill(user, 5);
}

static void *release_soon(void *user)
{
	sleep_ns(30 * MS);
	lazy_release(user);
	return NULL;
}

/*
 * Gradients that the trainer's stream has yet to make hold up neither submit nor earlier buckets,
 * and are what is reduced. Until they are made it is the trainer's device that computes.
 */
START_TEST(late_gradients_are_waited_for)
{
	struct psgd_report report = PSGD_INIT(psgd_report);
	psgd_ticket first, second;
	struct grads want;
	struct alone a;
	pthread_t other;

	alone_open(&a, LAZY_DELAYED, NULL);
	first = alone_submit(&a, 1, 3, NULL);
	lazy_hold(&a.device, a.stream);
	lazy_push(&a.device, a.stream, fill_late, &a.grads);
	second = alone_submit(&a, 4, 5, a.stream); /* a scalar: its own mean */
	/* Two rounds of the first come behind all that is known of the second. */
	ck_assert_int_eq(psgd_session_wait(a.me.session, first, 20000 * MS), PSGD_OK);
	ck_assert_int_eq(psgd_session_wait(a.me.session, second, 5 * MS), PSGD_PENDING);
	ck_assert_float_eq(a.grads.data[4][0], 0.0f);
	ck_assert_int_eq(pthread_create(&other, NULL, release_soon, &a.device), 0);
	ck_assert_int_eq(psgd_session_finish_step(a.me.session, NULL, &report), PSGD_OK);
	pthread_join(other, NULL);
	grads_init(&want);
	grads_fill(&want, 5);
	ck_assert_float_eq(a.grads.data[4][0], want.data[4][0]);
	adds_up(&report);
	ck_assert_int_ge(report.compute_ns, 30 * MS);
	grads_free(&want);
	alone_close(&a);
}
END_TEST

/* What is in the default stream counts too, and one bucket behind another that is not there. */
START_TEST(buckets_come_in_order_when_all_are_late)
{
	struct alone a;
	pthread_t other;

	alone_open(&a, LAZY_DELAYED, NULL);
	lazy_hold(&a.device, NULL);
	lazy_push(&a.device, NULL, fill_late, &a.grads);
	for (int i = 0; i < TENSORS; i++)
		ck_assert_uint_eq(
			alone_submit(&a, i, i + 1, i % 2 ? a.stream : NULL), (psgd_ticket)i + 1);
	ck_assert_int_eq(psgd_session_wait(a.me.session, 1, 5 * MS), PSGD_PENDING);
	ck_assert_int_eq(pthread_create(&other, NULL, release_soon, &a.device), 0);
	ck_assert_int_eq(psgd_session_finish_step(a.me.session, NULL, NULL), PSGD_OK);
	pthread_join(other, NULL);
	ck_assert_float_ne(a.grads.data[4][0], 0.0f);
	alone_close(&a);
}
END_TEST

/* A compressor whose runs take the device 4 ms, and the host nothing. */
struct slow {
	const struct psgd_compressor *inner;
	const struct psgd_device *device;
	int settled;
};

static void nap(void *user)
{
	(void)user;
	sleep_ns(4 * MS);
}

static psgd_status slow_attach(void *self, const struct psgd_scope *scope)
{
	struct slow *x = self;

	return scope->stream ? x->inner->ops->attach(x->inner->self, scope) : PSGD_ERR_INTERNAL;
}

static void slow_detach(void *self)
{
	struct slow *x = self;

	x->inner->ops->detach(x->inner->self);
}

static psgd_status slow_plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out)
{
	struct slow *x = self;

	return x->inner->ops->plan(x->inner->self, bucket, step, out);
}

static psgd_status slow_run(void *self, struct psgd_round *round)
{
	struct slow *x = self;

	lazy_push(x->device, round->stream, nap, NULL);
	return x->inner->ops->run(x->inner->self, round);
}

static void slow_settle(void *self, const struct psgd_round *round)
{
	struct slow *x = self;

	x->settled += round->nonfinite ? 100 : 1;
	if (x->inner->ops->settle)
		x->inner->ops->settle(x->inner->self, round);
}

/* Busy times are the device's, and settle comes once for every bucket, when it is known. */
START_TEST(times_are_the_devices)
{
	static const struct psgd_compressor_ops ops = {.size = sizeof(ops),
		.name = "slow",
		.attach = slow_attach,
		.detach = slow_detach,
		.plan = slow_plan,
		.run = slow_run,
		.settle = slow_settle};
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct psgd_compressor inner;
	struct alone a;
	struct slow slow = {.inner = &inner, .device = &a.device};
	struct psgd_compressor compressor = {&ops, &slow};

	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &inner), PSGD_OK);
	alone_open(&a, LAZY_DELAYED, &compressor);
	grads_fill(&a.grads, 3);
	a.grads.data[2][7] = NAN;
	/* Two buckets of two rounds; NaN in the second. */
	alone_submit(&a, 0, 2, NULL);
	alone_submit(&a, 2, 4, NULL);
	ck_assert_int_eq(psgd_session_finish_step(a.me.session, NULL, &report), PSGD_OK);
	ck_assert_int_eq(slow.settled, 101);
	ck_assert_uint_eq(report.n_nonfinite, 1);
	adds_up(&report);
	ck_assert_int_ge(report.encode_ns, 2 * 4 * MS);
	ck_assert_int_ge(report.decode_ns, 4 * 4 * MS);
	ck_assert_int_ge(report.exposed_encode_ns + report.exposed_decode_ns, 5 * 4 * MS);
	ck_assert_int_le(report.encode_ns + report.decode_ns, report.step_ns);
	alone_close(&a);
	psgd_compressor_destroy(&inner);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("device");
	TCase *c = tcase_create("device");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, same_bits_by_exchanges, 0, 24);
	tcase_add_loop_test(c, same_bits_by_sessions, 0, N_VARIANTS);
	tcase_add_test(c, steps_wait_for_nothing);
	tcase_add_test(c, late_gradients_are_waited_for);
	tcase_add_test(c, buckets_come_in_order_when_all_are_late);
	tcase_add_test(c, times_are_the_devices);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
