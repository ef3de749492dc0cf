/* The ring of batches: order, seeking, its bound, errors and its end, for any number of threads. */
#include "examples/image/prefetch.h"
#include "support/suite.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define BATCHES 5 /* of an epoch */
#define SAMPLES 6
#define TEST_BATCHES 2
#define TEST_SAMPLES 4
#define BYTES 3

static const struct {
	unsigned threads, batches;
} rings[] = {{1, 1}, {1, 4}, {2, 1}, {2, 3}, {4, 2}, {4, 16}, {7, 5}};

#define N_RINGS ((int)(sizeof(rings) / sizeof(rings[0])))

/* What the threads share with a test. */
struct owner {
	atomic_size_t begun;
	atomic_size_t planned;
	size_t fail_batch; /* its samples 3 and 5 fail; SIZE_MAX: none */
};

static struct image_error error;

static void follow(void *user, struct request *request)
{
	size_t next = request->batch + 1;

	(void)user;
	if (!request->test && next < BATCHES)
		*request = (struct request){request->epoch, next, SAMPLES, false};
	else if (!request->test)
		*request = (struct request){request->epoch, 0, TEST_SAMPLES, true};
	else if (next < TEST_BATCHES)
		*request = (struct request){request->epoch, next, TEST_SAMPLES, true};
	else
		*request = (struct request){request->epoch + 1, 0, SAMPLES, false};
}

static void plan(void *user, struct batch *batch)
{
	struct owner *owner = user;
	const struct request *r = &batch->request;

	owner->planned++;
	for (uint32_t i = 0; i < r->n; i++)
		batch->ids[i] = (uint32_t)(r->test ? 9000 : r->epoch * 100 + r->batch * 10) + i +
				(uint32_t)(r->test ? r->batch * 10 : 0);
}

static psgd_status make(
	void *user, unsigned thread, struct batch *batch, size_t i, struct image_error *failure)
{
	struct owner *owner = user;

	(void)thread;
	owner->begun++;
	/* Samples end in an order of their own. */
	for (unsigned k = 0; k < batch->ids[i] * 7 % 5; k++)
		(void)sched_yield();
	memset(batch->pixels + i * BYTES, (int)(batch->ids[i] & 0xff), BYTES);
	batch->samples[i] = (struct sample){.label = (uint16_t)batch->ids[i], .good = true};
	if (!batch->request.test && batch->request.batch == owner->fail_batch && (i == 3 || i == 5))
		return image_fail(failure, PSGD_ERR_IO, "sample %zu", i);
	return PSGD_OK;
}

static const struct prefetch_ops ops = {follow, plan, make};

static struct prefetch *open_ring(struct owner *owner, int ring)
{
	const struct prefetch_options options = {.ops = &ops,
		.user = owner,
		.threads = rings[ring].threads,
		.batches = rings[ring].batches,
		.ids = SAMPLES,
		.samples = SAMPLES,
		.sample_bytes = BYTES};
	struct prefetch *prefetch;

	*owner = (struct owner){.fail_batch = SIZE_MAX};
	ck_assert_int_eq(prefetch_open(&options, &prefetch, &error), PSGD_OK);
	return prefetch;
}

static void take(struct prefetch *prefetch, const struct request *request)
{
	size_t base = request->test ? 9000 + request->batch * 10
				    : request->epoch * 100 + request->batch * 10;
	const struct batch *batch;

	ck_assert_int_eq(prefetch_take(prefetch, request, &batch, &error), PSGD_OK);
	ck_assert_uint_eq(batch->request.n, request->n);
	for (size_t i = 0; i < request->n; i++) {
		ck_assert_uint_eq(batch->samples[i].label, base + i);
		for (size_t k = 0; k < BYTES; k++)
			ck_assert_uint_eq(batch->pixels[i * BYTES + k], (base + i) & 0xff);
	}
	prefetch_release(prefetch);
}

/* Nothing is made twice, or but for what lies ahead in vain. */
START_TEST(test_order)
{
	struct owner owner;
	struct prefetch *prefetch = open_ring(&owner, _i);
	struct request request = {0, 0, SAMPLES, false};
	size_t taken = 0;

	for (; request.epoch < 20; taken++) {
		take(prefetch, &request);
		follow(NULL, &request);
	}
	prefetch_close(&prefetch);
	ck_assert_ptr_null(prefetch);
	ck_assert_uint_ge(owner.planned, taken);
	ck_assert_uint_le(owner.planned, taken + rings[_i].batches);
}
END_TEST

START_TEST(test_seek)
{
	struct owner owner;
	struct prefetch *prefetch = open_ring(&owner, _i);

	for (size_t k = 0; k < 60; k++) {
		struct request request = {k * 7 % 11, k * 3 % BATCHES, SAMPLES, false};

		if (k % 6 == 5)
			request = (struct request){k % 3, k % 2, TEST_SAMPLES, true};
		for (size_t steps = k % 4; steps-- > 0; follow(NULL, &request))
			take(prefetch, &request);
		take(prefetch, &request);
		take(prefetch, &request); /* the same again */
	}
	prefetch_close(&prefetch);
}
END_TEST

/* With nobody who takes, the threads fill the ring, and then wait. */
START_TEST(test_bound)
{
	struct owner owner;
	struct prefetch *prefetch = open_ring(&owner, _i);
	struct request request = {0, 0, SAMPLES, false};
	size_t released = 0;

	for (size_t k = 0; k < BATCHES; k++, follow(NULL, &request)) {
		struct request ahead = request;
		size_t full = released;
		const struct batch *batch;

		ck_assert_int_eq(prefetch_take(prefetch, &request, &batch, &error), PSGD_OK);
		for (size_t i = 0; i < rings[_i].batches; i++, follow(NULL, &ahead))
			full += ahead.n;
		while (owner.begun < full)
			(void)sched_yield();
		for (size_t i = 0; i < 1000; i++) {
			(void)sched_yield();
			ck_assert_uint_eq(owner.begun, full);
		}
		released += request.n;
		prefetch_release(prefetch);
	}
	prefetch_close(&prefetch);
}
END_TEST

START_TEST(test_error)
{
	struct owner owner;
	struct prefetch *prefetch = open_ring(&owner, _i);
	struct request request = {0, 0, SAMPLES, false};
	const struct batch *batch;

	owner.fail_batch = 2;
	take(prefetch, &request);
	request.batch = 1;
	take(prefetch, &request);
	request.batch = 2;
	for (int again = 0; again < 2; again++) {
		ck_assert_int_eq(prefetch_take(prefetch, &request, &batch, &error), PSGD_ERR_IO);
		ck_assert_str_eq(error.text, "sample 3");
	}
	request.batch = 3; /* who goes on all the same, can */
	take(prefetch, &request);
	prefetch_close(&prefetch);
}
END_TEST

/* Before anything, in the middle of making, with a batch in hand, with a full ring. */
START_TEST(test_close)
{
	struct request request = {3, 1, SAMPLES, false};
	const struct batch *batch;
	struct owner owner;

	for (int k = 0; k < 40; k++) {
		struct prefetch *prefetch = open_ring(&owner, _i);

		if (k % 4 > 0)
			take(prefetch, &request);
		if (k % 4 == 2)
			ck_assert_int_eq(
				prefetch_take(prefetch, &request, &batch, &error), PSGD_OK);
		for (int i = 0; k % 4 == 3 && i < 100; i++)
			(void)sched_yield();
		prefetch_close(&prefetch);
		prefetch_close(&prefetch);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_prefetch");
	TCase *c = tcase_create("prefetch");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_order, 0, N_RINGS);
	tcase_add_loop_test(c, test_seek, 0, N_RINGS);
	tcase_add_loop_test(c, test_bound, 0, N_RINGS);
	tcase_add_loop_test(c, test_error, 0, N_RINGS);
	tcase_add_loop_test(c, test_close, 0, N_RINGS);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
