/* Whose a shaped interface is, what becomes of it, and who may shape at all. */
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/left.h"
#include "net/pair.h"
#include "support/suite.h"

#define MBIT UINT64_C(1000000)

/* A process that shapes "left" and then only waits. */
static pid_t start_owner(void)
{
	const struct psgd_link link =
		link_of((struct psgd_link){.egress_bps = 100 * MBIT, .ingress_bps = 100 * MBIT});
	int ready[2];
	char byte = 1;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		struct psgd_tc_options o = left_options();

		o.owner_pid = (uint32_t)getpid();
		byte = psgd_tc_apply(&o, &link) == PSGD_OK;
		if (write(ready[1], &byte, 1) == 1)
			pause();
		_exit(0);
	}
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	ck_assert_int_eq(byte, 1);
	return pid;
}

START_TEST(test_orphan)
{
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = 10 * MBIT});
	struct psgd_tc_options o = left_options();
	char *before;
	pid_t owner;

	pair_make();
	before = left_everything();
	owner = start_owner();
	ck_assert_uint_eq(left_show("left").owner, PSGD_TC_ALIVE);
	ck_assert_uint_eq(left_show("left").owner_pid, (uint32_t)owner);
	ck_assert_uint_eq(left_clear(NULL, 1), 0);
	ck_assert_uint_eq(left_clear("left", 1), 0);
	/* Two runs cannot shape one interface. */
	ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_STATE);
	ck_assert_ptr_nonnull(strstr(said, "which is alive"));
	o.owner_pid = (uint32_t)getpid();
	ck_assert_int_eq(psgd_tc_check(&o, &link), PSGD_ERR_STATE);
	ck_assert_uint_eq(left_show("left").link.egress_bps, 100 * MBIT);
	ck_assert_int_eq(kill(owner, SIGKILL), 0);
	ck_assert_int_eq(waitpid(owner, NULL, 0), owner);
	ck_assert_uint_eq(left_show("left").owner, PSGD_TC_GONE);
	ck_assert_uint_eq(left_clear(NULL, 1), 1);
	left_same(before, left_everything());
	/* And the next one may shape what an orphan holds. */
	owner = start_owner();
	kill(owner, SIGKILL);
	waitpid(owner, NULL, 0);
	ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
	ck_assert_uint_eq(left_show("left").owner_pid, (uint32_t)getpid());
	ck_assert_uint_eq(left_show("left").link.ingress_bps, 0);
}
END_TEST

/* The interface goes, and psgdN stays to be found. */
START_TEST(test_interface_that_is_gone)
{
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = 10 * MBIT});
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	struct psgd_tc_options o = left_options(), all = o;
	size_t n;
	char *before;

	pair_make();
	before = left_everything();
	pair_run("ip link add going type veth peer name gone");
	o.interface_name = "going";
	ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
	pair_run("ip link del going");
	ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_IO);
	ck_assert_str_eq(said, "no network interface named going");
	all.interface_name = NULL;
	ck_assert_int_eq(psgd_tc_show(&all, &state, 1, &n), PSGD_OK);
	ck_assert_uint_eq(n, 1);
	ck_assert_int_eq(strncmp(state.interface_name, "psgd", 4), 0);
	ck_assert_uint_eq(left_clear(state.interface_name, 0), 1);
	left_same(before, left_everything());
}
END_TEST

/* Bytes are counted where they pass. */
START_TEST(test_counters)
{
	const struct psgd_tc_options o = left_options();
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = 400 * MBIT});
	const struct pair pair = pair_make();
	const size_t bytes = 4 << 20;
	struct psgd_tc_state before, after;
	struct flow flow;

	ck_assert_msg(psgd_tc_apply(&o, &link) == PSGD_OK, "%s", said);
	before = left_show("left");
	flow = flow_open(&pair, true, false, 5001);
	flow_message(&flow, bytes);
	after = left_show("left");
	flow_close(&flow);
	ck_assert_uint_ge(after.tx_bytes - before.tx_bytes, bytes);
	ck_assert_uint_ge(after.shaped_bytes - before.shaped_bytes, bytes);
	ck_assert_uint_le(after.shaped_bytes - before.shaped_bytes, bytes + bytes / 8);
	ck_assert_uint_gt(after.rx_bytes, before.rx_bytes);
}
END_TEST

START_TEST(test_interface_to)
{
	const char *ways[][2] = {{"10.77.0.2", "left"}, {"10.77.0.1", "left"}, {"fd77::2", "left"},
		{"fd77::1", "left"}, {"127.0.0.1", "lo"}, {"::1", "lo"}, {"127.3.2.1", "lo"}};
	char name[16];

	pair_make();
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		ck_assert_msg(psgd_tc_interface_to(ways[i][0], TC_MODULE_DIR, name, said,
				      sizeof(said)) == PSGD_OK,
			"%s: %s", ways[i][0], said);
		ck_assert_str_eq(name, ways[i][1]);
	}
	ck_assert_int_eq(
		psgd_tc_interface_to("203.0.113.9", TC_MODULE_DIR, name, said, sizeof(said)),
		PSGD_ERR_IO);
	ck_assert_ptr_nonnull(strstr(said, "no route to 203.0.113.9"));
}
END_TEST

static void drop_the_right(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct rights[2];

	if (syscall(SYS_capget, &head, rights))
		_exit(1);
	for (int i = 0; i < 2; i++)
		rights[i].inheritable = 0;
	rights[0].effective &= ~(1u << CAP_NET_ADMIN);
	rights[0].permitted &= ~(1u << CAP_NET_ADMIN);
	if (syscall(SYS_capset, &head, rights))
		_exit(1);
}

/* Without the right to, that is what is said, and nothing changes. */
START_TEST(test_without_the_right)
{
	const struct psgd_tc_options o = left_options();
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = MBIT});
	psgd_status status[3];
	char *before;
	int text[2];
	pid_t pid;

	pair_make();
	before = left_everything();
	ck_assert_int_eq(pipe(text), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		drop_the_right();
		status[0] = psgd_tc_check(&o, &link);
		status[1] = psgd_tc_apply(&o, &link);
		status[2] = strstr(said, "CAP_NET_ADMIN") ? PSGD_OK : PSGD_ERR_INTERNAL;
		_exit(write(text[1], status, sizeof(status)) != sizeof(status));
	}
	close(text[1]);
	ck_assert_int_eq(read(text[0], status, sizeof(status)), sizeof(status));
	waitpid(pid, NULL, 0);
	ck_assert_int_eq(status[0], PSGD_ERR_UNSUPPORTED);
	ck_assert_int_eq(status[1], PSGD_ERR_UNSUPPORTED);
	ck_assert_int_eq(status[2], PSGD_OK);
	left_same(before, left_everything());
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("net_owner");
	TCase *tcase = tcase_create("tc");

	if (pair_skips())
		return 0;
	tcase_set_timeout(tcase, 0);
	tcase_add_test(tcase, test_orphan);
	tcase_add_test(tcase, test_interface_that_is_gone);
	tcase_add_test(tcase, test_counters);
	tcase_add_test(tcase, test_interface_to);
	tcase_add_test(tcase, test_without_the_right);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
