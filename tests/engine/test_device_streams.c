/*
 * Asynchronous devices: streams are respected, nothing is waited for within a step, and times are
 * the device's.
 */
#include <math.h>
#include <string.h>

#include "rig.h"
#include "support/suite.h"

/* One worker, whose collectives move nothing. */
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
		times_add_up(&report);
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
	times_add_up(&report);
	ck_assert_int_ge(report.compute_ns, 30 * MS);
	grads_free(&want);
	alone_close(&a);
}
END_TEST

static psgd_exchange *begin(psgd_session *s, int tensor, float *data, psgd_stream ready)
{
	struct psgd_grad grad = {grads_tensors[tensor].id, data};
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	psgd_exchange *x;

	bucket.grads = &grad;
	bucket.n_grads = 1;
	ck_assert_int_eq(psgd_exchange_begin(s, &bucket, ready, &x), PSGD_OK);
	return x;
}

/* Until it is done, or a second is over. One worker's collectives have nothing to do. */
static psgd_status finish(psgd_exchange *x)
{
	const int64_t until = now_ns() + 1000 * MS;
	struct psgd_collective c;
	psgd_status status;

	do
		status = psgd_exchange_next(x, &c);
	while (status > PSGD_OK && now_ns() < until);
	return status;
}

/*
 * A bucket whose gradients are late, and that is asked about while an earlier one's message is on
 * its way, does not come between the rounds of that one.
 */
START_TEST(late_buckets_stay_out_of_the_way)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_compressor compressor;
	struct psgd_device device;
	struct psgd_collective c;
	psgd_exchange *x, *late;
	psgd_session *s;
	struct grads g;

	ck_assert_int_eq(lazy_open(LAZY_DELAYED, 1, &device), PSGD_OK);
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &compressor), PSGD_OK);
	o.device = &device;
	o.compressor = &compressor;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	grads_init(&g);
	x = begin(s, 0, g.data[0], NULL);
	ck_assert_int_eq(psgd_exchange_next(x, &c), PSGD_WANT_COLLECTIVE);
	lazy_hold(&device, NULL);
	late = begin(s, 2, g.data[2], NULL);
	ck_assert_int_eq(psgd_exchange_next(late, &c), PSGD_PENDING);
	ck_assert_int_eq(finish(x), PSGD_OK);
	psgd_exchange_end(&x);
	/* With nobody before it, it is in the stream, and waits there. */
	ck_assert_int_eq(psgd_exchange_next(late, &c), PSGD_WANT_COLLECTIVE);
	ck_assert_int_eq(psgd_exchange_next(late, &c), PSGD_WANT_COLLECTIVE);
	ck_assert_int_eq(psgd_exchange_next(late, &c), PSGD_PENDING);
	lazy_release(&device);
	ck_assert_int_eq(finish(late), PSGD_OK);
	psgd_exchange_end(&late);
	psgd_session_close(&s);
	psgd_compressor_destroy(&compressor);
	ck_assert_int_eq(lazy_leaks(&device), 0);
	psgd_device_destroy(&device);
	grads_free(&g);
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
	times_add_up(&report);
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
	Suite *s = suite_create("device_streams");
	TCase *c = tcase_create("device_streams");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, steps_wait_for_nothing);
	tcase_add_test(c, late_gradients_are_waited_for);
	tcase_add_test(c, late_buckets_stay_out_of_the_way);
	tcase_add_test(c, buckets_come_in_order_when_all_are_late);
	tcase_add_test(c, times_are_the_devices);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
