/* The link model against arithmetic done by hand. */
#include <math.h>

#include <psgd/shaper.h>

#include "support/suite.h"

#define MS INT64_C(1000000)
#define MBIT INT64_C(1000000)
#define BURST 3028

static struct psgd_shaper make(struct psgd_link link)
{
	struct psgd_shaper s;

	link.size = sizeof(link);
	ck_assert_int_eq(psgd_shaper_model(&link, &s), PSGD_OK);
	return s;
}

static int64_t admit(struct psgd_shaper *s, uint32_t steps, uint64_t bytes, int64_t start)
{
	struct psgd_message m = PSGD_INIT(psgd_message);

	m.steps = steps;
	m.bytes = bytes;
	return s->ops->admit(s->self, &m, start);
}

static int64_t wire_ns(uint64_t bytes, int64_t bps)
{
	return (int64_t)(((__int128)bytes * 8 * 1000000000 + bps - 1) / bps);
}

START_TEST(test_one_message)
{
	const int64_t delays[] = {0, 10 * MS, 50 * MS};
	const int64_t delay = delays[_i];
	struct psgd_shaper s = make((struct psgd_link){
		.egress_bps = 100 * MBIT, .ingress_bps = 100 * MBIT, .delay_ns = delay});

	for (uint32_t n = 2; n <= 4; n++) {
		const uint64_t bytes = 1000003, part = (bytes + n - 1) / n;
		const uint32_t steps = 2 * (n - 1);
		const int64_t start = n * 1000 * 1000 * MS;
		const int64_t through = admit(&s, steps, part, start);
		/* The bucket is full at the start, and refilled in each delay but the last. */
		const uint64_t bursts = delay ? steps : 1;
		const int64_t theory =
			wire_ns(steps * part - bursts * BURST, 100 * MBIT) + (int64_t)steps * delay;

		ck_assert_int_ge(through - start, theory);
		ck_assert_int_le(through - start, theory + steps);
	}
	psgd_shaper_destroy(&s);
}
END_TEST

START_TEST(test_burst)
{
	struct psgd_shaper s = make((struct psgd_link){
		.egress_bps = 8 * MBIT, .ingress_bps = 8 * MBIT, .burst_bytes = 10000});

	/* 1 byte a microsecond: the first 10000 pass at once, the next 5000 do not. */
	ck_assert_int_eq(admit(&s, 1, 10000, 0), 0);
	ck_assert_int_eq(admit(&s, 1, 5000, 0), 5 * MS);
	/* 4 ms of rest give 4000 back, of which 3000 are used. */
	ck_assert_int_eq(admit(&s, 1, 3000, 9 * MS), 9 * MS);
	ck_assert_int_eq(admit(&s, 1, 2000, 9 * MS), 10 * MS);
	/* However long the rest, no more than the depth. */
	ck_assert_int_eq(admit(&s, 1, 11000, 1000 * MS), 1001 * MS);
	psgd_shaper_destroy(&s);
}
END_TEST

START_TEST(test_asymmetric)
{
	struct psgd_shaper slow_out =
		make((struct psgd_link){.egress_bps = 10 * MBIT, .ingress_bps = 100 * MBIT});
	struct psgd_shaper slow_in =
		make((struct psgd_link){.egress_bps = 100 * MBIT, .ingress_bps = 10 * MBIT});
	struct psgd_shaper only_out = make((struct psgd_link){.egress_bps = 10 * MBIT});
	const int64_t theory = wire_ns(100000 - BURST, 10 * MBIT);

	ck_assert_int_eq(admit(&slow_out, 1, 100000, 0), theory);
	ck_assert_int_eq(admit(&slow_in, 1, 100000, 0), theory);
	ck_assert_int_eq(admit(&only_out, 1, 100000, 0), theory);
	psgd_shaper_destroy(&slow_out);
	psgd_shaper_destroy(&slow_in);
	psgd_shaper_destroy(&only_out);
}
END_TEST

START_TEST(test_no_limit)
{
	struct psgd_shaper s = make((struct psgd_link){0}),
			   d = make((struct psgd_link){.delay_ns = 7});

	ck_assert_int_eq(admit(&s, 6, UINT64_MAX, 5), 5);
	ck_assert_int_eq(admit(&s, 0, 0, 3), 5);
	ck_assert_int_eq(admit(&d, 6, UINT64_MAX, 5), 5 + 42);
	psgd_shaper_destroy(&s);
	psgd_shaper_destroy(&d);
	ck_assert_ptr_null(s.ops);
	psgd_shaper_destroy(&s);
	psgd_shaper_destroy(NULL);
}
END_TEST

/* A message behind another starts when that one is through, and not before it is ready. */
START_TEST(test_order)
{
	struct psgd_shaper s = make(
		(struct psgd_link){.egress_bps = 8 * MBIT, .burst_bytes = 1, .delay_ns = 2 * MS});

	ck_assert_int_eq(admit(&s, 1, 1001, 0), 3 * MS);
	ck_assert_int_eq(admit(&s, 1, 1001, 1 * MS), 6 * MS);
	ck_assert_int_eq(admit(&s, 1, 1001, 10 * MS), 13 * MS);
	psgd_shaper_destroy(&s);
}
END_TEST

START_TEST(test_jitter)
{
	const struct psgd_link link = {.delay_ns = 10 * MS, .jitter_ns = 4 * MS, .seed = 77};
	struct psgd_link other_seed = link;
	int64_t at = 0, low = INT64_MAX, high = 0, sum = 0;
	int n_different = 0;

	other_seed.seed = 78;
	struct psgd_shaper a = make(link), b = make(link), c = make(other_seed);
	for (int i = 0; i < 4000; i++) {
		const int64_t through = admit(&a, 1, 1, at), took = through - at;

		ck_assert_int_eq(admit(&b, 1, 1, at), through);
		n_different += admit(&c, 1, 1, at) != through;
		ck_assert_int_ge(took, 6 * MS);
		ck_assert_int_le(took, 14 * MS);
		low = took < low ? took : low;
		high = took > high ? took : high;
		sum += took;
		at += 20 * MS;
	}
	ck_assert_int_lt(low, 6 * MS + MS / 20);
	ck_assert_int_gt(high, 14 * MS - MS / 20);
	/* Five standard deviations of the mean of 4000 uniform values. */
	ck_assert_int_lt(llabs(sum / 4000 - 10 * MS), 190000);
	ck_assert_int_gt(n_different, 3900);
	psgd_shaper_destroy(&a);
	psgd_shaper_destroy(&b);
	psgd_shaper_destroy(&c);
}
END_TEST

/* The steps of one message have delays of their own. */
START_TEST(test_jitter_of_steps)
{
	const struct psgd_link link = {.delay_ns = MS, .jitter_ns = MS, .seed = 1};
	struct psgd_shaper s = make(link);
	const int64_t sum = admit(&s, 1000, 1, 0);

	ck_assert_int_gt(sum, 900 * MS);
	ck_assert_int_lt(sum, 1100 * MS);
	psgd_shaper_destroy(&s);
}
END_TEST

static void change(struct psgd_shaper *s, struct psgd_link link)
{
	link.size = sizeof(link);
	ck_assert_int_eq(psgd_shaper_set_link(s, &link), PSGD_OK);
}

/* Rates and delay change between messages; what was admitted keeps its time, in both directions. */
START_TEST(test_change)
{
	/* 1 byte a microsecond, then a tenth or ten times of it: out, in, both. */
	const int64_t out[] = {10 * MBIT, 80 * MBIT, MBIT}, in[] = {0, MBIT, 100 * MBIT};
	const int64_t slower[] = {10 * MBIT, MBIT, MBIT};
	struct psgd_shaper s = make((struct psgd_link){
		.egress_bps = 8 * MBIT, .ingress_bps = 8 * MBIT, .burst_bytes = 1});
	const int64_t first = admit(&s, 2, 5000, 0);
	int64_t second;

	ck_assert_int_eq(first, 9999000);
	change(&s, (struct psgd_link){.egress_bps = (uint64_t)out[_i],
			   .ingress_bps = (uint64_t)in[_i],
			   .burst_bytes = 1,
			   .delay_ns = 3 * MS});
	/* It was ready before the change, but is behind the first. */
	second = admit(&s, 2, 5000, MS);
	ck_assert_int_ge(second - first, wire_ns(9998, slower[_i]) + 6 * MS);
	ck_assert_int_le(second - first, wire_ns(10000, slower[_i]) + 6 * MS + 2);
	change(&s, (struct psgd_link){0});
	ck_assert_int_eq(admit(&s, 9, UINT64_MAX, 0), second);
	change(&s, (struct psgd_link){.egress_bps = 8 * MBIT, .burst_bytes = 1});
	ck_assert_int_eq(admit(&s, 1, 1001, second + MS), second + 2 * MS);
	psgd_shaper_destroy(&s);
}
END_TEST

/* A change to the same link is none, at whatever moment. */
START_TEST(test_change_to_the_same)
{
	const struct psgd_link link = {.egress_bps = 30 * MBIT,
		.ingress_bps = 20 * MBIT,
		.delay_ns = MS,
		.jitter_ns = MS,
		.seed = 5,
		.loss_ppm = 100000};
	struct psgd_shaper a = make(link), b = make(link);
	int64_t at = 0;

	for (int i = 0; i < 500; i++) {
		change(&b, link);
		ck_assert_int_eq(admit(&b, 3, 4000, at), admit(&a, 3, 4000, at));
		at += i % 3 * 2 * MS;
	}
	psgd_shaper_destroy(&a);
	psgd_shaper_destroy(&b);
}
END_TEST

static const struct psgd_shaper_ops old_ops = {
	.size = offsetof(struct psgd_shaper_ops, set_link), .name = "old"};

START_TEST(test_change_is_refused)
{
	struct psgd_link link = {.size = sizeof(link), .egress_bps = 8 * MBIT, .burst_bytes = 1},
			 bad = link;
	struct psgd_shaper s = make(link), none = {0}, old = {.ops = &old_ops};

	bad.delay_ns = -1;
	ck_assert_int_eq(psgd_shaper_set_link(&s, &bad), PSGD_ERR_INVALID);
	bad = link;
	bad.reserved = 1;
	ck_assert_int_eq(psgd_shaper_set_link(&s, &bad), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_shaper_set_link(NULL, &link), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_shaper_set_link(&none, &link), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_shaper_set_link(&old, &link), PSGD_ERR_UNSUPPORTED);
	/* A refused change is none. */
	ck_assert_int_eq(admit(&s, 1, 1001, 0), MS);
	psgd_shaper_destroy(&s);
}
END_TEST

/* A link that loses nothing is bit for bit the link that knows of no losses, with jitter too. */
START_TEST(test_no_loss)
{
	struct psgd_link link = {.egress_bps = 50 * MBIT,
		.ingress_bps = 70 * MBIT,
		.delay_ns = 2 * MS,
		.jitter_ns = MS,
		.seed = 9};
	struct psgd_shaper lossy, plain;
	struct psgd_link older = link;

	link.size = sizeof(link);
	older.size = offsetof(struct psgd_link, loss_ppm); /* of a caller before there were any */
	ck_assert_int_eq(psgd_shaper_model(&link, &lossy), PSGD_OK);
	ck_assert_int_eq(psgd_shaper_model(&older, &plain), PSGD_OK);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(admit(&lossy, 2, (uint64_t)i * 997, i * 3 * MS),
			admit(&plain, 2, (uint64_t)i * 997, i * 3 * MS));
	psgd_shaper_destroy(&lossy);
	psgd_shaper_destroy(&plain);
}
END_TEST

/* Of each flight the share p is sent again: bytes / (1 - p) in all. */
START_TEST(test_loss_takes_wire_time)
{
	const uint32_t ppm[] = {1000, 10000, 100000, 500000};
	const double p = ppm[_i] * 1e-6, frames = 4000, n = 200;
	struct psgd_shaper s = make((struct psgd_link){.egress_bps = 100 * MBIT,
		.ingress_bps = 100 * MBIT,
		.burst_bytes = 1,
		.loss_ppm = ppm[_i],
		.seed = 3});
	double sent, deviation;
	int64_t through = 0;

	for (int i = 0; i < (int)n; i++)
		through = admit(&s, 1, (uint64_t)frames * 1500, 0);
	sent = (double)through / (double)wire_ns(1500, 100 * MBIT) / (n * frames);
	/* Five standard deviations of the mean of geometric numbers. */
	deviation = 5 * sqrt(p / (n * frames)) / (1 - p);
	ck_assert_double_eq_tol(sent, 1 / (1 - p), deviation);
	psgd_shaper_destroy(&s);
}
END_TEST

/*
 * Without a rate only round trips remain: a step of f frames has another flight after k flights
 * with the probability 1 - (1 - p^k)^f.
 */
START_TEST(test_loss_takes_round_trips)
{
	const uint32_t ppm[] = {2000, 50000, 400000};
	const int frames[] = {1, 20, 300}, n = 4000;
	const double p = ppm[_i / 3] * 1e-6, f = frames[_i % 3];
	struct psgd_shaper s =
		make((struct psgd_link){.delay_ns = MS, .loss_ppm = ppm[_i / 3], .seed = 12});
	double flights = 0, squares = 0, mean;
	int64_t at = 0;

	for (int i = 0; i < n; i++) {
		const int64_t before = at;
		double extra;

		at = admit(&s, 1, (uint64_t)f * 1500, at);
		extra = (double)(at - before - MS) / (2.0 * MS);
		/* Whole round trips. */
		ck_assert_double_eq(extra, floor(extra));
		flights += extra;
		squares += extra * extra;
	}
	mean = flights / n;
	squares = squares / n - mean * mean;
	for (int k = 1; k < 200; k++)
		flights -= n * (1 - pow(1 - pow(p, k), f));
	ck_assert_double_lt(fabs(flights / n), 5 * sqrt(squares / n) + 1e-3);
	psgd_shaper_destroy(&s);
}
END_TEST

/* The same for the same seed, another for another; the steps of a message do not lose alike. */
START_TEST(test_loss_by_seed)
{
	struct psgd_link link = {.delay_ns = MS, .loss_ppm = 30000, .seed = 1}, other = link;
	int n_different = 0, n_uneven = 0;

	other.seed = 2;
	struct psgd_shaper a = make(link), b = make(link), c = make(other);
	for (int i = 0; i < 500; i++) {
		const int64_t start = i * 1000 * MS;
		const int64_t through = admit(&a, 4, 20 * 1500, start);

		ck_assert_int_eq(admit(&b, 4, 20 * 1500, start), through);
		n_different += admit(&c, 4, 20 * 1500, start) != through;
		n_uneven += (through - start - 4 * MS) / (2 * MS) % 4 != 0;
	}
	ck_assert_int_gt(n_different, 200);
	ck_assert_int_gt(n_uneven, 200);
	psgd_shaper_destroy(&a);
	psgd_shaper_destroy(&b);
	psgd_shaper_destroy(&c);
}
END_TEST

/* No rate loses or wins a nanosecond over a million messages. */
START_TEST(test_no_drift)
{
	const int64_t rates[] = {3, 9600, 7 * MBIT + 1, 100 * MBIT, 999999999989, 400000 * MBIT};
	const int64_t bps = rates[_i];
	const uint64_t bytes = bps < 10000 ? 1 : 1237, n = 1000000;
	struct psgd_shaper s =
		make((struct psgd_link){.egress_bps = (uint64_t)bps, .burst_bytes = 1});
	int64_t through = 0;

	for (uint64_t i = 0; i < n; i++)
		through = admit(&s, 1, bytes, 0);
	ck_assert_int_eq(through, wire_ns(n * bytes - 1, bps));
	psgd_shaper_destroy(&s);
}
END_TEST

START_TEST(test_extremes)
{
	struct psgd_shaper s =
		make((struct psgd_link){.egress_bps = 1, .delay_ns = INT64_MAX, .jitter_ns = 0});
	struct psgd_shaper lossy = make((struct psgd_link){.egress_bps = UINT64_MAX,
		.burst_bytes = UINT64_MAX,
		.delay_ns = 1,
		.loss_ppm = 999999});
	struct psgd_shaper fast = make((struct psgd_link){.egress_bps = UINT64_MAX,
		.ingress_bps = UINT64_MAX,
		.burst_bytes = UINT64_MAX,
		.delay_ns = INT64_MAX,
		.jitter_ns = INT64_MAX});

	ck_assert_int_eq(admit(&s, 2, UINT64_MAX, INT64_MAX - 1), INT64_MAX);
	ck_assert_int_eq(admit(&s, 2, UINT64_MAX, 0), INT64_MAX);
	ck_assert_int_ge(admit(&fast, 3, UINT64_MAX, INT64_MIN), INT64_MIN);
	ck_assert_int_ge(admit(&fast, 3, UINT64_MAX, INT64_MAX), INT64_MAX);
	/* Hopeless, but it ends. */
	ck_assert_int_gt(admit(&lossy, 1, 4500, 0), 1000);
	struct psgd_shaper tenth = make((struct psgd_link){.delay_ns = 1, .loss_ppm = 100000});
	const int64_t trips = admit(&tenth, 1, UINT64_C(15) << 50, 0);
	/* 10^13 frames: about as many flights as digits. */
	ck_assert_int_ge(trips, 1 + 2 * 12);
	ck_assert_int_le(trips, 1 + 2 * 20);
	psgd_shaper_destroy(&tenth);
	psgd_shaper_destroy(&s);
	psgd_shaper_destroy(&lossy);
	psgd_shaper_destroy(&fast);
}
END_TEST

START_TEST(test_invalid)
{
	const struct psgd_link bad[] = {
		{.delay_ns = -1},
		{.jitter_ns = -1, .delay_ns = 5},
		{.jitter_ns = 6, .delay_ns = 5},
		{.loss_ppm = 1000000},
	};
	struct psgd_link ok = PSGD_INIT(psgd_link);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct psgd_link link = bad[i];
		struct psgd_shaper s = {.self = &link};

		link.size = sizeof(link);
		ck_assert_int_eq(psgd_shaper_model(&link, &s), PSGD_ERR_INVALID);
		ck_assert_ptr_null(s.ops);
		ck_assert_ptr_null(s.self);
	}
	ck_assert_int_eq(psgd_shaper_model(&ok, NULL), PSGD_ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("shape model");
	TCase *c = tcase_create("model");

	tcase_set_timeout(c, 30);
	tcase_add_loop_test(c, test_one_message, 0, 3);
	tcase_add_test(c, test_burst);
	tcase_add_test(c, test_asymmetric);
	tcase_add_test(c, test_no_limit);
	tcase_add_test(c, test_order);
	tcase_add_test(c, test_jitter);
	tcase_add_test(c, test_jitter_of_steps);
	tcase_add_loop_test(c, test_change, 0, 3);
	tcase_add_test(c, test_change_to_the_same);
	tcase_add_test(c, test_change_is_refused);
	tcase_add_test(c, test_no_loss);
	tcase_add_loop_test(c, test_loss_takes_wire_time, 0, 4);
	tcase_add_loop_test(c, test_loss_takes_round_trips, 0, 9);
	tcase_add_test(c, test_loss_by_seed);
	tcase_add_loop_test(c, test_no_drift, 0, 6);
	tcase_add_test(c, test_extremes);
	tcase_add_test(c, test_invalid);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
