/* What shaping puts on an interface, what it leaves alone, and that nothing of it stays. */
#include <math.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/left.h"
#include "net/pair.h"
#include "support/suite.h"

#define MBIT UINT64_C(1000000)
#define MS INT64_C(1000000)
#define TICK_NS 64 /* in which tc counts delays */

static const struct psgd_link links[] = {
	{.egress_bps = 100 * MBIT},
	{.ingress_bps = 50 * MBIT},
	{.egress_bps = 10000 * MBIT, .ingress_bps = 12345672, .burst_bytes = 50000},
	/* More than 32 bits of bytes per second. */
	{.egress_bps = 100000 * MBIT, .ingress_bps = 40000 * MBIT},
};

/* In a tick of 64 ns, which is what the kernel counts a burst in. */
static void burst_near(uint64_t got, uint64_t expected, uint64_t rate)
{
	ck_assert_double_le(fabs((double)got - (double)expected), 1 + 64e-9 * (double)rate / 8);
}

START_TEST(test_apply_show_clear)
{
	const struct psgd_link link = link_of(links[_i]);
	const struct psgd_tc_options o = left_options();
	const uint64_t rate = link.egress_bps ? link.egress_bps : link.ingress_bps;
	struct psgd_tc_state state;
	char *before, *after;

	pair_make();
	before = left_everything();
	ck_assert_msg(psgd_tc_check(&o, &link) == PSGD_OK, "%s", said);
	after = left_everything();
	ck_assert_str_eq(before, after);
	free(after);
	ck_assert_uint_eq(left_n_shaped(), 0);
	ck_assert_uint_eq(left_show("left").shaped, 0);
	for (int again = 0; again < 2; again++) {
		ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
		state = left_show("left");
		ck_assert_uint_eq(state.shaped, 1);
		ck_assert_uint_eq(state.foreign, 0);
		ck_assert_uint_eq(state.owner, PSGD_TC_NOBODY);
		ck_assert_uint_eq(state.link.egress_bps, link.egress_bps);
		ck_assert_uint_eq(state.link.ingress_bps, link.ingress_bps);
		burst_near(state.link.burst_bytes, psgd_tc_burst(&link, rate), rate);
		ck_assert_uint_eq(left_n_shaped(), 1);
	}
	ck_assert_uint_eq(left_clear("left", 1), 0); /* nobody's is no orphan */
	ck_assert_uint_eq(left_clear(_i % 2 ? NULL : "left", 0), 1);
	left_same(before, left_everything());
	ck_assert_uint_eq(left_clear("left", 0), 0);
}
END_TEST

/* Words of a text, but numbers after "burst" and "cburst" within a hundredth, and no counters. */
static void alike(const char *a, const char *b)
{
	char last[32] = "", x[128], y[128];
	int n, m;

	while (sscanf(a, "%127s%n", x, &n) == 1) {
		ck_assert_int_eq(sscanf(b, "%127s%n", y, &m), 1);
		if (!strcmp(last, "burst") || !strcmp(last, "cburst"))
			ck_assert_double_le(fabs(atof(x) / atof(y) - 1), 0.01);
		else if (strcmp(last, "index") && strcmp(last, "direct_packets_stat"))
			ck_assert_str_eq(x, y);
		snprintf(last, sizeof(last), "%.31s", x);
		a += n;
		b += m;
	}
	ck_assert_int_ne(sscanf(b, "%127s%n", y, &m), 1);
}

static char *tree_of(const char *mark)
{
	return pair_says("for d in left %s; do tc qdisc show dev $d; tc class show dev $d; "
			 "tc filter show dev $d; done; tc filter show dev left parent ffff:; "
			 "ip -o link show up dev %s type ifb | cut -d: -f2 | cut -d, -f1",
		mark, mark);
}

static const struct psgd_link said_by_tc[] = {
	{.egress_bps = 123456784, .ingress_bps = 10 * MBIT},
	{.egress_bps = 123456784,
		.ingress_bps = 10 * MBIT,
		.delay_ns = 10 * MS + 7,
		.jitter_ns = MS + 3,
		.loss_ppm = 12345},
};

START_TEST(test_commands_do_the_same)
{
	const uint16_t ports[] = {29500, 65535};
	const struct psgd_link link = link_of(said_by_tc[_i]);
	struct psgd_tc_options o = left_options();
	struct psgd_tc_state state;
	char commands[16384], mark[32], *by_module, *by_tc;
	unsigned index;
	FILE *shell;

	pair_make();
	if (link.delay_ns && !pair_has_netem())
		return;
	o.unshaped_ports = ports;
	o.n_unshaped_ports = 2;
	by_tc = pair_says("ip -o link show dev left");
	ck_assert_int_eq(sscanf(by_tc, "%u:", &index), 1);
	free(by_tc);
	snprintf(mark, sizeof(mark), "psgd%u", index);
	ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
	by_module = tree_of(mark);
	left_clear("left", 0);
	ck_assert_int_eq(psgd_tc_commands(&o, &link, index, commands, sizeof(commands)), PSGD_OK);
	shell = popen("sh -e", "w");
	ck_assert_ptr_nonnull(shell);
	fputs(commands, shell);
	ck_assert_int_eq(pclose(shell), 0);
	by_tc = tree_of(mark);
	ck_assert_ptr_nonnull(strstr(by_tc, "htb"));
	ck_assert_ptr_nonnull(strstr(by_tc, "mirred"));
	alike(by_module, by_tc);
	/* What they made is psgd's as well. */
	state = left_show("left");
	ck_assert_uint_eq(state.link.ingress_bps, 10 * MBIT);
	ck_assert_int_eq(state.link.delay_ns, link.delay_ns / TICK_NS * TICK_NS);
	ck_assert_int_eq(state.link.jitter_ns, link.jitter_ns / TICK_NS * TICK_NS);
	ck_assert_uint_eq(state.link.loss_ppm, link.loss_ppm);
	ck_assert_uint_eq(left_clear("left", 0), 1);
	free(by_module);
	free(by_tc);
}
END_TEST

/* A qdisc that somebody set stays as it is, byte for byte. */
START_TEST(test_foreign)
{
	const char *set[] = {"tc qdisc add dev left root tbf rate 5mbit burst 10kb latency 50ms",
		"tc qdisc add dev left root handle 1: pfifo limit 77",
		"tc qdisc add dev left root handle 7073: pfifo limit 77",
		"tc qdisc add dev left ingress; tc filter add dev left ingress u32 match u32 0 0"};
	const char *words[] = {"tbf", "pfifo 1:", "pfifo 7073:", "ingress ffff:"};
	const struct psgd_tc_options o = left_options();
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = MBIT});
	char *before;

	pair_make();
	pair_run("%s", set[_i]);
	before = left_everything();
	ck_assert_int_eq(psgd_tc_check(&o, &link), PSGD_ERR_STATE);
	ck_assert_ptr_nonnull(strstr(said, words[_i]));
	ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_STATE);
	ck_assert_ptr_nonnull(strstr(said, words[_i]));
	ck_assert_int_eq(psgd_tc_change(&o, &link), PSGD_ERR_STATE);
	ck_assert_uint_eq(left_show("left").foreign, 1);
	ck_assert_uint_eq(left_show("left").shaped, 0);
	ck_assert_uint_eq(left_clear("left", 0) + left_clear(NULL, 0), 0);
	left_same(before, left_everything());
}
END_TEST

/* An ingress qdisc that came after psgd, which has none there, is somebody's. */
START_TEST(test_foreign_beside)
{
	const struct psgd_tc_options o = left_options();
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = MBIT});
	char *before;

	pair_make();
	pair_run("tc qdisc add dev left ingress");
	before = left_everything();
	pair_run("tc qdisc del dev left ingress");
	ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
	pair_run("tc qdisc add dev left ingress");
	ck_assert_uint_eq(left_show("left").foreign, 1);
	ck_assert_uint_eq(left_clear("left", 0), 1);
	left_same(before, left_everything());
}
END_TEST

/* With netem, the link is what was asked for; without, that is said and nothing stays. */
START_TEST(test_delay)
{
	const struct psgd_tc_options o = left_options();
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = 100 * MBIT,
		.ingress_bps = 100 * MBIT,
		.delay_ns = 10 * MS + 7,
		.jitter_ns = MS,
		.loss_ppm = 12345});
	const struct psgd_link other = link_of((struct psgd_link){
		.egress_bps = 10 * MBIT, .ingress_bps = 20 * MBIT, .delay_ns = 30 * MS});
	const struct psgd_link without =
		link_of((struct psgd_link){.egress_bps = 100 * MBIT, .ingress_bps = 100 * MBIT});
	struct psgd_tc_state state;
	char *before;
	bool has;

	pair_make();
	has = pair_has_netem();
	fprintf(stderr, "# this kernel has %s netem\n", has ? "a" : "no");
	before = left_everything();
	if (has) {
		ck_assert_msg(psgd_tc_check(&o, &link) == PSGD_OK, "%s", said);
		ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
		state = left_show("left");
		ck_assert_int_eq(state.link.delay_ns, link.delay_ns);
		ck_assert_int_eq(state.link.jitter_ns, link.jitter_ns);
		ck_assert_uint_eq(state.link.loss_ppm, link.loss_ppm);
		ck_assert_int_eq(psgd_tc_change(&o, &without), PSGD_ERR_STATE);
		ck_assert_msg(psgd_tc_change(&o, &other) == PSGD_OK, "%s", said);
		state = left_show("left");
		ck_assert_int_eq(state.link.delay_ns, other.delay_ns);
		ck_assert_uint_eq(state.link.egress_bps, other.egress_bps);
		ck_assert_uint_eq(left_clear("left", 0), 1);
	} else {
		ck_assert_int_eq(psgd_tc_check(&o, &link), PSGD_ERR_UNSUPPORTED);
		ck_assert_ptr_nonnull(strstr(said, "no netem (sch_netem)"));
		ck_assert_ptr_nonnull(strstr(said, "latency_ms, jitter_ms and loss_pct"));
		memset(said, 0, sizeof(said));
		ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_UNSUPPORTED);
		ck_assert_ptr_nonnull(strstr(said, "no netem (sch_netem)"));
	}
	left_same(before, left_everything());
	ck_assert_msg(psgd_tc_check(&o, &without) == PSGD_OK, "%s", said);
	ck_assert_msg(psgd_tc_apply(&o, &without) == PSGD_OK, "%s", said);
	ck_assert_int_eq(psgd_tc_change(&o, &link), PSGD_ERR_STATE);
	ck_assert_ptr_nonnull(strstr(said, "neither come nor go"));
}
END_TEST

START_TEST(test_change)
{
	const struct psgd_tc_options o = left_options();
	const struct psgd_link both =
		link_of((struct psgd_link){.egress_bps = 100 * MBIT, .ingress_bps = 50 * MBIT});
	const struct psgd_link other = link_of((struct psgd_link){
		.egress_bps = 20 * MBIT, .ingress_bps = 30 * MBIT, .burst_bytes = 9000});
	const struct psgd_link out = link_of((struct psgd_link){.egress_bps = 100 * MBIT});
	struct psgd_tc_state state;

	pair_make();
	ck_assert_int_eq(psgd_tc_change(&o, &both), PSGD_ERR_STATE);
	ck_assert_str_eq(said, "the interface is not shaped");
	ck_assert_int_eq(psgd_tc_apply(&o, &both), PSGD_OK);
	ck_assert_int_eq(psgd_tc_change(&o, &out), PSGD_ERR_STATE);
	ck_assert_msg(psgd_tc_change(&o, &other) == PSGD_OK, "%s", said);
	state = left_show("left");
	ck_assert_uint_eq(state.link.egress_bps, 20 * MBIT);
	ck_assert_uint_eq(state.link.ingress_bps, 30 * MBIT);
	ck_assert_uint_eq(state.link.burst_bytes, 9000);
	left_clear("left", 0);
	ck_assert_int_eq(psgd_tc_apply(&o, &out), PSGD_OK);
	ck_assert_int_eq(psgd_tc_change(&o, &both), PSGD_ERR_STATE);
	ck_assert_uint_eq(left_show("left").link.egress_bps, 100 * MBIT);
}
END_TEST

/* What this kernel cannot do leaves the limits that stand. */
START_TEST(test_refused_in_place)
{
	const struct psgd_tc_options o = left_options();
	const struct psgd_link old =
		link_of((struct psgd_link){.egress_bps = 100 * MBIT, .ingress_bps = 50 * MBIT});
	const struct psgd_link delayed =
		link_of((struct psgd_link){.egress_bps = 5 * MBIT, .delay_ns = 5 * MS});
	char *before;

	pair_make();
	ck_assert_msg(psgd_tc_apply(&o, &old) == PSGD_OK, "%s", said);
	before = left_everything();
	if (pair_has_netem()) {
		ck_assert_msg(psgd_tc_apply(&o, &delayed) == PSGD_OK, "%s", said);
		ck_assert_uint_eq(left_show("left").link.egress_bps, 5 * MBIT);
		free(before);
		return;
	}
	ck_assert_int_eq(psgd_tc_apply(&o, &delayed), PSGD_ERR_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(said, "no netem (sch_netem)"));
	ck_assert_ptr_null(strstr(said, "are gone"));
	left_same(before, left_everything());
	ck_assert_uint_eq(left_show("left").link.egress_bps, 100 * MBIT);
}
END_TEST

/* Only the interface itself shows that its psgdN cannot be made: what stood is gone, and said. */
START_TEST(test_failed_half_way)
{
	const struct psgd_tc_options o = left_options();
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = 100 * MBIT});
	unsigned index;

	pair_make();
	index = if_nametoindex("left");
	ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
	pair_run("ip link set psgd%u down", index);
	pair_run("ip link set psgd%u name aside", index);
	pair_run("ip link add psgd%u type veth peer name beside", index);
	ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_STATE);
	ck_assert_ptr_nonnull(strstr(said, "the limits that stood on left are gone"));
	ck_assert_uint_eq(left_show("left").shaped, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("net_state");
	TCase *tcase = tcase_create("tc");

	if (pair_skips())
		return 0;
	tcase_set_timeout(tcase, 0);
	tcase_add_loop_test(tcase, test_apply_show_clear, 0, 4);
	tcase_add_loop_test(tcase, test_commands_do_the_same, 0, 2);
	tcase_add_loop_test(tcase, test_foreign, 0, 4);
	tcase_add_test(tcase, test_foreign_beside);
	tcase_add_test(tcase, test_delay);
	tcase_add_test(tcase, test_change);
	tcase_add_test(tcase, test_refused_in_place);
	tcase_add_test(tcase, test_failed_half_way);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
