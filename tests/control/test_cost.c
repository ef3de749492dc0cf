/* The cost model against timelines worked by hand, and against a clock that ticks. */
#include "support/suite.h"

#include <math.h>
#include <string.h>

#include <psgd/cost.h>
#include <psgd/shaper.h>

static struct psgd_plan plan_of(uint32_t n, int64_t c0, int64_t c1, int64_t c2)
{
	struct psgd_plan plan = PSGD_INIT(psgd_plan);

	plan.n_rounds = n;
	plan.round[0].count = c0;
	plan.round[1].count = c1;
	plan.round[2].count = c2;
	return plan;
}

static struct psgd_cost_link link_of(double delay, double per_byte)
{
	struct psgd_cost_link link = PSGD_INIT(psgd_cost_link);

	link.delay_ns = delay;
	link.ns_per_byte = per_byte;
	return link;
}

START_TEST(ring_allreduce)
{
	static const struct {
		uint64_t egress, ingress;
		int64_t delay;
		uint32_t n;
		double want_delay, want_per_byte;
	} cases[] = {
		{100000000, 0, 1000, 1, 0, 0},
		{100000000, 0, 1000, 2, 2000, 80},
		{0, 100000000, 1000, 2, 2000, 80},
		{100000000, 50000000, 0, 2, 0, 160},
		{50000000, 100000000, 0, 2, 0, 160},
		{0, 0, 5, 2, 10, 0},
		{1000000000, 1000000000, 7, 4, 42, 12},
		{8000000000, 0, 1, 3, 4, 4.0 / 3.0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct psgd_link link = PSGD_INIT(psgd_link);
		struct psgd_cost_link out = PSGD_INIT(psgd_cost_link);

		link.egress_bps = cases[i].egress;
		link.ingress_bps = cases[i].ingress;
		link.delay_ns = cases[i].delay;
		ck_assert_int_eq(psgd_cost_link_of(&link, cases[i].n, &out), PSGD_OK);
		ck_assert_double_eq_tol(out.delay_ns, cases[i].want_delay, 1e-9);
		ck_assert_double_eq_tol(out.ns_per_byte, cases[i].want_per_byte, 1e-9);
		ck_assert_uint_eq(out.size, sizeof(out));
		/* One of four is lost: four are sent for three. */
		link.loss_ppm = 250000;
		ck_assert_int_eq(psgd_cost_link_of(&link, cases[i].n, &out), PSGD_OK);
		ck_assert_double_eq_tol(out.ns_per_byte * 3, cases[i].want_per_byte * 4, 1e-9);
		link.loss_ppm = 1000000;
		ck_assert_int_eq(psgd_cost_link_of(&link, cases[i].n, &out), PSGD_ERR_INVALID);
	}
}
END_TEST

START_TEST(link_refused)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct psgd_cost_link out = PSGD_INIT(psgd_cost_link);

	ck_assert_int_eq(psgd_cost_link_of(NULL, 2, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_link_of(&link, 0, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_link_of(&link, 2, NULL), PSGD_ERR_INVALID);
	link.delay_ns = -1;
	ck_assert_int_eq(psgd_cost_link_of(&link, 2, &out), PSGD_ERR_INVALID);
}
END_TEST

/* A round on the wire: steps and bytes of a ring, by arithmetic. */
START_TEST(one_round)
{
	static const struct psgd_payload zero = {0}, sum = {0, 0, 1000}, sum64 = {1, PSGD_F64, 500};
	static const struct psgd_payload gather = {PSGD_ALLGATHER, PSGD_U8, 1000};
	static const struct psgd_payload bad[] = {
		{PSGD_BROADCAST, 0, 1}, {4, 0, 1}, {0, 9, 1}, {0, 0, -1}, {0, PSGD_F64, INT64_MAX}};
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct psgd_cost_link cost = PSGD_INIT(psgd_cost_link);
	double ns;

	link.egress_bps = 8000000; /* 1000 ns a byte */
	link.delay_ns = 70;
	for (uint32_t n = 1; n <= 5; n++) {
		ck_assert_int_eq(psgd_cost_link_of(&link, n, &cost), PSGD_OK);
		ck_assert_int_eq(psgd_cost_round(&cost, &sum, &ns), PSGD_OK);
		ck_assert_double_eq_tol(ns, 2 * (n - 1) * (70 + 4000.0 / n * 1000), 1e-3);
		ck_assert_int_eq(psgd_cost_round(&cost, &sum64, &ns), PSGD_OK);
		ck_assert_double_eq_tol(ns, 2 * (n - 1) * (70 + 4000.0 / n * 1000), 1e-3);
		ck_assert_int_eq(psgd_cost_round(&cost, &gather, &ns), PSGD_OK);
		ck_assert_double_eq_tol(ns, (n - 1) * (70 + 1000.0 * 1000), 1e-3);
		ck_assert_int_eq(psgd_cost_round(&cost, &zero, &ns), PSGD_OK);
		ck_assert(ns == 0);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(psgd_cost_round(&cost, &bad[i], &ns), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_round(NULL, &sum, &ns), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_round(&cost, NULL, &ns), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_round(&cost, &sum, NULL), PSGD_ERR_INVALID);
	/* The first 3000 bytes are free. */
	cost.delay_ns = -3000 * cost.ns_per_byte;
	ck_assert_int_eq(psgd_cost_round(&cost, &sum, &ns), PSGD_OK);
	ck_assert_double_eq_tol(ns, 1000 * cost.ns_per_byte, 1e-3);
	ck_assert_int_eq(psgd_cost_round(&cost, &gather, &ns), PSGD_OK);
	ck_assert_double_eq_tol(ns, 1000 * cost.ns_per_byte, 1e-3);
	cost.delay_ns *= 2;
	ck_assert_int_eq(psgd_cost_round(&cost, &sum, &ns), PSGD_OK);
	ck_assert_double_eq(ns, 0);
	cost.n_workers = 0;
	ck_assert_int_eq(psgd_cost_round(&cost, &gather, &ns), PSGD_ERR_INVALID);
	cost.ns_per_byte = -1;
	ck_assert_int_eq(psgd_cost_round(&cost, &sum, &ns), PSGD_ERR_INVALID);
}
END_TEST

/* A plan of both kinds: 100 bytes by all-reduce, then 50 in each of 3 blocks. */
START_TEST(mixed_rounds)
{
	struct psgd_plan plan = PSGD_INIT(psgd_plan);
	struct psgd_cost_bucket bucket = {&plan, 0, 0, 0};
	struct psgd_cost_link link = link_of(10, 2);
	struct psgd_cost out = PSGD_INIT(psgd_cost);

	plan.n_rounds = 2;
	plan.round[0].count = 25;
	plan.round[1] = (struct psgd_payload){PSGD_ALLGATHER, PSGD_U8, 50};
	ck_assert_int_eq(psgd_cost_predict(&bucket, 1, 0, &link, &out), PSGD_ERR_INVALID);
	link.n_workers = 3;
	ck_assert_int_eq(psgd_cost_predict(&bucket, 1, 0, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.wire_ns, 10 + 2 * 100 + (10 + 2 * 150) / 2);
	ck_assert_uint_eq(out.payload_bytes, 150);
}
END_TEST

/* One bucket of two messages: nothing overlaps, all is a sum. */
START_TEST(one_bucket)
{
	struct psgd_plan plan = plan_of(2, 10, 5, 0);
	struct psgd_cost_bucket bucket = {&plan, 100, 7, 20};
	struct psgd_cost_link link = link_of(3, 2);
	struct psgd_cost out = PSGD_INIT(psgd_cost);

	/* 100 +7 encode, +83 P (40 bytes), +10, +43 Q (20 bytes), +10 = 253 */
	ck_assert_int_eq(psgd_cost_predict(&bucket, 1, 100, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.exposed_ns, 153);
	ck_assert_int_eq(out.step_ns, 253);
	ck_assert_int_eq(out.wire_ns, 126);
	ck_assert_uint_eq(out.payload_bytes, 60);
	ck_assert_int_eq(psgd_cost_predict(&bucket, 1, 300, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.exposed_ns, 0);
	ck_assert_int_eq(out.step_ns, 300);
}
END_TEST

/*
 * Dense buckets ready at 0, 10, 20, each 100 on the wire, encode 4, decode 6, compute 30: the wire
 * is never idle from 4 on, and only the last decode adds to it: 4 + 3 * 100 + 6 = 310.
 */
START_TEST(wire_bound)
{
	struct psgd_plan plan = plan_of(1, 25, 0, 0);
	struct psgd_cost_bucket bucket[3] = {
		{&plan, 0, 4, 6}, {&plan, 10, 4, 6}, {&plan, 20, 4, 6}};
	struct psgd_cost_link link = link_of(0, 1);
	struct psgd_cost out = PSGD_INIT(psgd_cost);

	ck_assert_int_eq(psgd_cost_predict(bucket, 3, 30, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.exposed_ns, 280);
	ck_assert_int_eq(out.wire_ns, 300);
}
END_TEST

/*
 * P0 Q0 P1 Q1 by hand. Wire: P 10, Q 10. Encode 20, each decode run 5; both ready at 0.
 * E0 0-20. P0 20-30, E1 20-40 meanwhile: P0 is taken up at 40 only. D0 40-45, Q0 45-55, P1 55-65.
 * D0' 55-60. D1 65-70, Q1 70-80, D1' 80-85.
 */
START_TEST(thread_bound)
{
	struct psgd_plan plan = plan_of(2, 1, 1, 0);
	struct psgd_cost_bucket bucket[2] = {{&plan, 0, 20, 10}, {&plan, 0, 20, 10}};
	struct psgd_cost_link link = link_of(10, 0);
	struct psgd_cost out = PSGD_INIT(psgd_cost);

	ck_assert_int_eq(psgd_cost_predict(bucket, 2, 0, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.exposed_ns, 85);
	ck_assert_int_eq(out.wire_ns, 40);
}
END_TEST

/* A late first bucket holds back a later one that was ready before it: order is by submission. */
START_TEST(order_is_kept)
{
	struct psgd_plan plan = plan_of(1, 1, 0, 0);
	struct psgd_cost_bucket bucket[2] = {{&plan, 100, 0, 0}, {&plan, 0, 0, 0}};
	struct psgd_cost_link link = link_of(10, 0);
	struct psgd_cost out = PSGD_INIT(psgd_cost);

	ck_assert_int_eq(psgd_cost_predict(bucket, 2, 100, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.exposed_ns, 20);
}
END_TEST

/* A round with count 0 sends nothing, and does not even pay the delay. */
START_TEST(empty_rounds)
{
	struct psgd_plan none = plan_of(3, 0, 0, 0), last = plan_of(3, 0, 0, 4);
	struct psgd_cost_bucket bucket = {&none, 10, 5, 9};
	struct psgd_cost_link link = link_of(1000, 1);
	struct psgd_cost out = PSGD_INIT(psgd_cost);

	ck_assert_int_eq(psgd_cost_predict(&bucket, 1, 10, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.exposed_ns, 14);
	ck_assert_int_eq(out.wire_ns, 0);
	bucket.plan = &last;
	ck_assert_int_eq(psgd_cost_predict(&bucket, 1, 10, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.exposed_ns, 5 + 6 + 1016 + 3);
}
END_TEST

START_TEST(predict_refused)
{
	struct psgd_plan plan = plan_of(1, 1, 0, 0), no_round = plan_of(0, 1, 0, 0),
			 many = plan_of(PSGD_MAX_ROUNDS + 1, 1, 0, 0),
			 negative = plan_of(1, -1, 0, 0);
	struct psgd_cost_bucket good = {&plan, 0, 0, 0};
	struct psgd_cost_bucket bad[] = {{NULL, 0, 0, 0}, {&no_round, 0, 0, 0}, {&many, 0, 0, 0},
		{&negative, 0, 0, 0}, {&plan, -1, 0, 0}, {&plan, 0, -1, 0}, {&plan, 0, 0, -1}};
	struct psgd_cost_link link = link_of(1, 1);
	struct psgd_cost_link bad_link[] = {
		link_of(0, -1), link_of(NAN, 0), link_of(-INFINITY, 0), link_of(0, INFINITY)};
	struct psgd_cost out = PSGD_INIT(psgd_cost);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(psgd_cost_predict(&bad[i], 1, 0, &link, &out), PSGD_ERR_INVALID);
	for (size_t i = 0; i < sizeof(bad_link) / sizeof(bad_link[0]); i++)
		ck_assert_int_eq(
			psgd_cost_predict(&good, 1, 0, &bad_link[i], &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_predict(NULL, 1, 0, &link, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_predict(&good, 0, 0, &link, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_predict(&good, 1, -1, &link, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_predict(&good, 1, 0, NULL, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_predict(&good, 1, 0, &link, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_cost_predict(&good, 1, 0, &link, &out), PSGD_OK);
	good.ready_ns = INT64_MAX;
	good.encode_ns = INT64_MAX;
	ck_assert_int_eq(psgd_cost_predict(&good, 1, 0, &link, &out), PSGD_OK);
	ck_assert_int_eq(out.step_ns, INT64_MAX);
}
END_TEST

/*
 * The same step on a clock that ticks: at every tick whatever can happen happens, and nothing is
 * ever computed ahead.
 */
#define MAX_B 5

struct ticking {
	const struct psgd_cost_bucket *bucket;
	int n, delay, per_byte;
	struct {
		int bucket, round,
			state; /* 0 not made, 1 made, 2 on the wire, 3 came, 4 taken up */
	} message[MAX_B * 3];
	int n_messages;
	bool encoded[MAX_B];
	int job_bucket, job_round,
		job_end;	    /* of the thread; round 0 is the encode; bucket -1: idle */
	int wire_message, wire_end; /* -1: idle */
};

static int find(const struct ticking *k, int bucket, int round)
{
	for (int i = 0; i < k->n_messages; i++) {
		if (k->message[i].bucket == bucket && k->message[i].round == round)
			return i;
	}
	return -1;
}

static void begin_job(struct ticking *k, int bucket, int round, int now)
{
	const struct psgd_cost_bucket *b = &k->bucket[bucket];

	k->job_bucket = bucket;
	k->job_round = round;
	k->job_end = now + (int)(round ? b->decode_ns / b->plan->n_rounds : b->encode_ns);
}

/* True if something happened. */
static bool wire_tick(struct ticking *k, int now)
{
	if (k->wire_message >= 0 && k->wire_end == now) {
		k->message[k->wire_message].state = 3;
		k->wire_message = -1;
		return true;
	}
	for (int i = 0; k->wire_message < 0 && i < k->n_messages; i++) {
		if (k->message[i].state == 0)
			return false;
		if (k->message[i].state == 1) {
			int bucket = k->message[i].bucket, round = k->message[i].round;
			int bytes = 4 * (int)k->bucket[bucket].plan->round[round].count;

			k->message[i].state = 2;
			k->wire_message = i;
			k->wire_end = now + k->delay + k->per_byte * bytes;
			return true;
		}
	}
	return false;
}

static bool thread_tick(struct ticking *k, int now, int *finished)
{
	if (k->job_bucket >= 0 && k->job_end == now) {
		int bucket = k->job_bucket, next = k->job_round;
		int at = find(k, bucket, next);

		k->job_bucket = -1;
		if (at >= 0)
			k->message[at].state = 1;
		else if (next < (int)k->bucket[bucket].plan->n_rounds)
			begin_job(k, bucket, next + 1, now);
		else
			*finished += 1;
		return true;
	}
	if (k->job_bucket >= 0)
		return false;
	for (int i = 0; i < k->n_messages; i++) {
		if (k->message[i].state == 3) {
			k->message[i].state = 4;
			begin_job(k, k->message[i].bucket, k->message[i].round + 1, now);
			return true;
		}
	}
	for (int b = 0; b < k->n; b++) {
		if (k->encoded[b])
			continue;
		if (k->bucket[b].ready_ns > now)
			return false;
		k->encoded[b] = true;
		begin_job(k, b, 0, now);
		return true;
	}
	return false;
}

static int ticking_end(const struct psgd_cost_bucket *bucket, int n, int delay, int per_byte)
{
	struct ticking k = {.bucket = bucket,
		.n = n,
		.delay = delay,
		.per_byte = per_byte,
		.job_bucket = -1,
		.wire_message = -1};
	int finished = 0, now = 0;

	for (int b = 0; b < n; b++) {
		for (int r = 0; r < (int)bucket[b].plan->n_rounds; r++) {
			if (!bucket[b].plan->round[r].count)
				continue;
			k.message[k.n_messages].bucket = b;
			k.message[k.n_messages++].round = r;
		}
	}
	for (;; now++) {
		while (wire_tick(&k, now) || thread_tick(&k, now, &finished)) {
			if (finished == n)
				return now;
		}
	}
}

static int draw(unsigned *state, int n)
{
	*state = *state * 1103515245u + 12345u;
	return (int)(*state >> 16) % n;
}

START_TEST(agrees_with_clock)
{
	unsigned state = 12345;

	for (int round = 0; round < 20000; round++) {
		struct psgd_plan plan[MAX_B];
		struct psgd_cost_bucket bucket[MAX_B];
		struct psgd_cost out = PSGD_INIT(psgd_cost);
		int n = 1 + draw(&state, MAX_B), delay = draw(&state, 20),
		    per_byte = draw(&state, 3);
		int big = 1 + draw(&state, 40), compute = draw(&state, 100), ready = 0, want;
		struct psgd_cost_link link = link_of(delay, per_byte);

		for (int b = 0; b < n; b++) {
			uint32_t rounds = 1 + (uint32_t)draw(&state, 3);

			plan[b] =
				plan_of(rounds, draw(&state, 6), draw(&state, 6), draw(&state, 6));
			ready = draw(&state, 8) ? ready + draw(&state, 30) : draw(&state, 60);
			bucket[b] = (struct psgd_cost_bucket){&plan[b], ready, draw(&state, big),
				(int64_t)rounds * draw(&state, big)};
		}
		want = ticking_end(bucket, n, delay, per_byte) - compute;
		ck_assert_int_eq(
			psgd_cost_predict(bucket, (size_t)n, compute, &link, &out), PSGD_OK);
		ck_assert_msg(out.exposed_ns == (want > 0 ? want : 0), "round %d: %lld, not %d",
			round, (long long)out.exposed_ns, want);
		ck_assert_int_eq(out.step_ns, compute + out.exposed_ns);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cost");
	TCase *t = tcase_create("cost");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, ring_allreduce);
	tcase_add_test(t, one_round);
	tcase_add_test(t, mixed_rounds);
	tcase_add_test(t, link_refused);
	tcase_add_test(t, one_bucket);
	tcase_add_test(t, wire_bound);
	tcase_add_test(t, thread_bound);
	tcase_add_test(t, order_is_kept);
	tcase_add_test(t, empty_rounds);
	tcase_add_test(t, predict_refused);
	tcase_add_test(t, agrees_with_clock);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
