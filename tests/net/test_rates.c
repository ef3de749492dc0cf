/* What the kernel lets through, by transfers over real sockets. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <psgd/shaper.h>

#include "net/left.h"
#include "net/pair.h"
#include "support/suite.h"

#define MBIT UINT64_C(1000000)
#define KIB ((size_t)1024)
#define PORT 5001
#define FREE_PORT 29500

static void apply(struct psgd_link link)
{
	const struct psgd_link l = link_of(link);
	const struct psgd_tc_options o = left_options();

	ck_assert_msg(psgd_tc_apply(&o, &l) == PSGD_OK, "%s", said);
}

/*
 * A rate, by up to four connections. What else runs on the processors only makes a transfer slower,
 * so that one that is within 10 % is proof enough, and one that is above is a failure at once.
 */
static void rate_near(
	const struct pair *pair, bool to_right, double rate, double seconds, const char *what)
{
	double got = 0;

	for (int i = 0; i < 4 && got < 0.9 * rate; i++) {
		got = pair_rate(pair, to_right, PORT, seconds);
		fprintf(stderr, "# %s: %.4g bit/s of %.4g (%+.1f %%)\n", what, got, rate,
			100 * (got / rate - 1));
	}
	ck_assert_double_ge(got, 0.9 * rate);
	ck_assert_double_le(got, 1.1 * rate);
}

static const uint64_t rates[] = {10 * MBIT, 100 * MBIT, 400 * MBIT, 1000 * MBIT};

/* What leaves, what arrives, or both. */
START_TEST(test_rate)
{
	const uint64_t rate = rates[_i / 3];
	const bool out = _i % 3 != 1, in = _i % 3 != 0;
	const struct pair pair = pair_make();
	const double seconds = rate > 10 * MBIT ? 1 : 3; /* packets are up to 64 KiB */

	apply((struct psgd_link){.egress_bps = out ? rate : 0, .ingress_bps = in ? rate : 0});
	if (out)
		rate_near(&pair, true, (double)rate, seconds, "egress");
	if (in)
		rate_near(&pair, false, (double)rate, seconds, "ingress");
}
END_TEST

START_TEST(test_asymmetric)
{
	const uint64_t fast = 100 * MBIT, slow = 20 * MBIT;
	const struct pair pair = pair_make();

	apply((struct psgd_link){.egress_bps = _i ? fast : slow, .ingress_bps = _i ? slow : fast});
	rate_near(&pair, _i == 0, 20e6, 2, "the slow direction");
	rate_near(&pair, _i != 0, 100e6, 1, "the fast direction");
}
END_TEST

struct busy {
	struct flow flow;
	pthread_t thread;
	double rate;
};

static void *measure(void *argument)
{
	struct busy *b = argument;

	flow_rate(&b->flow, 1); /* until both have found their share of the queues */
	b->rate = flow_rate(&b->flow, 2);
	return NULL;
}

/* Both directions of one connection at once, as a collective uses it. */
START_TEST(test_full_duplex)
{
	const struct pair pair = pair_make();
	struct busy both[2] = {0};
	struct sender *senders[2];

	apply((struct psgd_link){.egress_bps = 100 * MBIT, .ingress_bps = 100 * MBIT});
	for (int i = 0; i < 4 && fmin(both[0].rate, both[1].rate) < 90e6; i++) {
		both[0].flow = flow_open(&pair, true, false, PORT);
		both[1].flow = (struct flow){both[0].flow.to, both[0].flow.from};
		for (int k = 0; k < 2; k++)
			senders[k] = flow_start(&both[k].flow);
		for (int k = 0; k < 2; k++)
			ck_assert_int_eq(
				pthread_create(&both[k].thread, NULL, measure, &both[k]), 0);
		for (int k = 0; k < 2; k++)
			pthread_join(both[k].thread, NULL);
		for (int k = 0; k < 2; k++)
			flow_stop(senders[k]);
		flow_close(&both[0].flow);
		fprintf(stderr, "# both ways at once: %.4g and %.4g bit/s\n", both[0].rate,
			both[1].rate);
	}
	for (int k = 0; k < 2; k++) {
		ck_assert_double_ge(both[k].rate, 90e6);
		ck_assert_double_le(both[k].rate, 110e6);
	}
}
END_TEST

/* The same of a connection that goes on. */
static void flow_near(const struct flow *flow, double rate, const char *what)
{
	double got = 0;

	for (int i = 0; i < 4 && got < 0.9 * rate; i++) {
		got = flow_rate(flow, 1.5);
		fprintf(stderr, "# %s: %.4g bit/s of %.4g\n", what, got, rate);
	}
	ck_assert_double_ge(got, 0.9 * rate);
	ck_assert_double_le(got, 1.1 * rate);
}

START_TEST(test_change_under_way)
{
	const struct pair pair = pair_make();
	const double steps[] = {200e6, 20e6, 200e6};
	const struct psgd_tc_options o = left_options();
	struct sender *sender;
	struct flow flow;

	apply((struct psgd_link){.egress_bps = 200 * MBIT, .ingress_bps = 300 * MBIT});
	flow = flow_open(&pair, true, false, PORT);
	sender = flow_start(&flow);
	for (int i = 0; i < 3; i++) {
		const struct psgd_link link = link_of((struct psgd_link){
			.egress_bps = (uint64_t)steps[i], .ingress_bps = 300 * MBIT});

		ck_assert_msg(psgd_tc_change(&o, &link) == PSGD_OK, "%s", said);
		flow_near(&flow, steps[i], "after a change");
	}
	flow_stop(sender);
	flow_close(&flow);
}
END_TEST

/* Its port is as fast as without limits, or at least ten times faster than the limit. */
START_TEST(test_unshaped_port)
{
	const struct pair pair = pair_make();
	const uint16_t ports[] = {1, FREE_PORT};
	struct psgd_tc_options o = left_options();
	const struct psgd_link link =
		link_of((struct psgd_link){.egress_bps = 20 * MBIT, .ingress_bps = 20 * MBIT});

	o.unshaped_ports = ports;
	o.n_unshaped_ports = 2;
	ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
	for (int i = 0; i < 4; i++) {
		const bool to_right = i % 2, ipv6 = i / 2;
		struct flow flow = flow_open(&pair, to_right, ipv6, FREE_PORT);
		struct sender *sender = flow_start(&flow);

		ck_assert_double_gt(flow_rate(&flow, 0.5), 200e6);
		flow_stop(sender);
		flow_close(&flow);
		flow = flow_open(&pair, to_right, ipv6, FREE_PORT + 1);
		sender = flow_start(&flow);
		flow_near(&flow, 20e6, "the port beside it");
		flow_stop(sender);
		flow_close(&flow);
	}
}
END_TEST

static void rest(long ms)
{
	const struct timespec t = {.tv_nsec = ms * 1000000};

	nanosleep(&t, NULL);
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/*
 * The time of a message that follows a rest, on a connection that has been used: above the
 * shortest, which now and then is early by one large packet, and below those that waited for a
 * processor.
 */
static double message_time(struct flow *flow, size_t bytes)
{
	const double once = flow_message(flow, 1024 * KIB);
	const size_t n = once * (double)bytes > 0.5 * 1024 * KIB ? 2 : 9;
	double times[9];

	for (size_t i = 0; i < n; i++) {
		rest(60); /* the bucket fills, and TCP has not yet forgotten what it knows */
		times[i] = flow_message(flow, bytes);
	}
	qsort(times, n, sizeof(times[0]), by_value);
	return times[n / 3];
}

static double model_time(struct psgd_link link, size_t bytes)
{
	struct psgd_message message = PSGD_INIT(psgd_message);
	const struct psgd_link l = link_of(link);
	struct psgd_shaper model;
	int64_t ns;

	message.steps = 1;
	message.bytes = bytes;
	ck_assert_int_eq(psgd_shaper_model(&l, &model), PSGD_OK);
	ns = model.ops->admit(model.self, &message, 0);
	psgd_shaper_destroy(&model);
	return (double)ns * 1e-9;
}

static const size_t messages[] = {256 * KIB, 1024 * KIB, 4096 * KIB};

/* A message by the model and by the kernel, with the same burst. */
START_TEST(test_model_against_kernel)
{
	const uint64_t rate = rates[_i / 3];
	const size_t bytes = messages[_i % 3];
	const struct pair pair = pair_make();
	struct psgd_link link = {.egress_bps = rate};
	struct flow flow;
	double time;

	link.burst_bytes = psgd_tc_burst(NULL, rate);
	apply(link);
	flow = flow_open(&pair, true, false, PORT);
	time = message_time(&flow, bytes);
	fprintf(stderr, "# %zu KiB at %.4g bit/s: %.4g s, by the model %.4g s (%+.1f %%)\n",
		bytes / KIB, (double)rate, time, model_time(link, bytes),
		100 * (time / model_time(link, bytes) - 1));
	ck_assert_double_ge(time, 0.85 * model_time(link, bytes));
	ck_assert_double_le(time, 1.15 * model_time(link, bytes));
	flow_close(&flow);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("net_rates");
	TCase *tcase = tcase_create("tc");

	if (pair_skips())
		return 0;
	tcase_set_timeout(tcase, 0);
	tcase_add_loop_test(tcase, test_rate, 0, 12);
	tcase_add_loop_test(tcase, test_asymmetric, 0, 2);
	tcase_add_test(tcase, test_full_duplex);
	tcase_add_test(tcase, test_change_under_way);
	tcase_add_test(tcase, test_unshaped_port);
	tcase_add_loop_test(tcase, test_model_against_kernel, 0, 12);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
