/* Shaping by the kernel, as far as no kernel is asked: commands, refusals, bursts, owners. */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <psgd/tc.h>

#include "shape/tc_impl.h"
#include "support/suite.h"

#define MBIT UINT64_C(1000000)
#define MS INT64_C(1000000)
#define NO_MODULE "/nonexistent"

static char said[512];

static struct psgd_tc_options options_for(const char *name)
{
	struct psgd_tc_options o = PSGD_INIT(psgd_tc_options);

	o.interface_name = name;
	o.module_dir = NO_MODULE;
	o.error = said;
	o.error_bytes = sizeof(said);
	return o;
}

static struct psgd_link link_of(struct psgd_link link)
{
	link.size = sizeof(link);
	return link;
}

/* Two frames, and 100 us of the rate. */
START_TEST(test_burst)
{
	const struct psgd_link stated = link_of((struct psgd_link){.burst_bytes = 20000});
	const struct psgd_link none = PSGD_INIT(psgd_link);

	ck_assert_uint_eq(psgd_tc_burst(&none, 0), 3028);
	ck_assert_uint_eq(psgd_tc_burst(&none, 10 * MBIT), 3028 + 125);
	ck_assert_uint_eq(psgd_tc_burst(&none, 1000 * MBIT), 3028 + 12500);
	ck_assert_uint_eq(psgd_tc_burst(NULL, 1000 * MBIT), 3028 + 12500);
	ck_assert_uint_eq(psgd_tc_burst(&stated, 1000 * MBIT), 20000);
	ck_assert_uint_eq(psgd_tc_burst(&stated, 0), 20000);
}
END_TEST

#define UNSHAPED_CLASS(device)                                                                     \
	"tc class add dev " device " parent 7073: classid 7073:20 htb rate 1000000000000bit "      \
	"ceil 1000000000000bit burst 12503028b cburst 12503028b quantum 65536\n"
#define UNSHAPED_LEAF(device)                                                                      \
	"tc qdisc add dev " device " parent 7073:20 handle 7075: bfifo limit 16777216\n"
#define PORT(device, ip, prio, match, end, port)                                                   \
	"tc filter add dev " device " parent 7073: protocol " ip " prio " prio " u32 match " match \
	" protocol 6 0xff match " match " " end " " port " 0xffff flowid 7073:20\n"
#define PORTS(device, port)                                                                        \
	PORT(device, "ip", "1", "ip", "sport", port)                                               \
	PORT(device, "ip", "1", "ip", "dport", port)                                               \
	PORT(device, "ipv6", "2", "ip6", "sport", port)                                            \
	PORT(device, "ipv6", "2", "ip6", "dport", port)

static const char egress_only[] =
	"ip link add name psgd7 type ifb\n"
	"ip link set dev psgd7 alias 'psgd nobody' up\n"
	"tc qdisc add dev eth0 root handle 7073: htb default 10\n"
	"tc class add dev eth0 parent 7073: classid 7073:10 htb rate 100000000bit "
	"ceil 100000000bit burst 4278b cburst 4278b quantum 65536\n" UNSHAPED_CLASS("eth0")
	/* 100 ms of the rate */
	"tc qdisc add dev eth0 parent 7073:10 handle 7074: bfifo limit 1250000\n" UNSHAPED_LEAF(
		"eth0");

/* 10 Mbit/s out with 20.5 ms +- 1 us and 0.01 %, 1 Mbit/s in; two ports. */
static const char everything[] =
	"ip link add name psgd12 type ifb\n"
	"ip link set dev psgd12 alias 'psgd nobody' up\n"
	"tc qdisc add dev psgd12 root handle 7073: htb default 10\n"
	"tc class add dev psgd12 parent 7073: classid 7073:10 htb rate 1000000bit "
	"ceil 1000000bit burst 5000b cburst 5000b quantum 65536\n" UNSHAPED_CLASS("psgd12")
	/* at least 256 KiB */
	"tc qdisc add dev psgd12 parent 7073:10 handle 7074: bfifo limit 262144\n" UNSHAPED_LEAF(
		"psgd12") PORTS("psgd12", "29500") PORTS("psgd12",
		"7") "tc qdisc add dev br-0.1 root handle 7073: htb default 10\n"
		     "tc class add dev br-0.1 parent 7073: classid 7073:10 htb rate 10000000bit "
		     "ceil 10000000bit burst 5000b cburst 5000b quantum 65536\n" UNSHAPED_CLASS(
			     "br-0.1") "tc qdisc add dev br-0.1 parent 7073:10 handle 7074: netem "
				       "limit 1000 "
				       "delay 20500.000us 1.007us loss 0.0100%\n" UNSHAPED_LEAF(
					       "br-0.1") PORTS("br-0.1", "29500") PORTS("br-0.1",
					       "7") "tc qdisc add dev br-0.1 handle ffff: ingress\n"
						    "tc filter add dev br-0.1 parent ffff: "
						    "protocol all prio 28787 u32 match u32 0 0 "
						    "action mirred egress redirect dev psgd12\n";

START_TEST(test_commands)
{
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = 100 * MBIT});
	const struct psgd_link all = link_of((struct psgd_link){.egress_bps = 10 * MBIT,
		.ingress_bps = MBIT,
		.delay_ns = 20500000,
		.jitter_ns = 1007,
		.loss_ppm = 100,
		.burst_bytes = 5000});
	const uint16_t ports[] = {29500, 7};
	struct psgd_tc_options o = options_for("eth0");
	char text[8192];

	ck_assert_int_eq(psgd_tc_commands(&o, &link, 7, text, sizeof(text)), PSGD_OK);
	ck_assert_str_eq(text, egress_only);
	ck_assert_str_eq(said, "");
	o.interface_name = "br-0.1";
	o.unshaped_ports = ports;
	o.n_unshaped_ports = 2;
	ck_assert_int_eq(psgd_tc_commands(&o, &all, 12, text, sizeof(text)), PSGD_OK);
	ck_assert_str_eq(text, everything);
}
END_TEST

/* netem holds what is on its way twice over, and 100 ms: (2 * 50 + 100) ms of 1 Gbit/s. */
START_TEST(test_netem_holds_the_link)
{
	const struct psgd_link link =
		link_of((struct psgd_link){.egress_bps = 1000 * MBIT, .delay_ns = 50 * MS});
	const struct psgd_link loss_alone = link_of((struct psgd_link){.loss_ppm = 999999});
	const struct psgd_tc_options o = options_for("eth0");
	char text[4096];

	ck_assert_int_eq(psgd_tc_commands(&o, &link, 1, text, sizeof(text)), PSGD_OK);
	ck_assert_ptr_nonnull(strstr(text, " netem limit 16666 delay 50000.000us\n"));
	ck_assert_int_eq(psgd_tc_commands(&o, &loss_alone, 1, text, sizeof(text)), PSGD_OK);
	ck_assert_ptr_nonnull(strstr(text, " loss 99.9999%\n"));
	/* Without a rate the class has one that is no limit. */
	ck_assert_ptr_nonnull(strstr(text, "classid 7073:10 htb rate 1000000000000bit "));
}
END_TEST

START_TEST(test_commands_that_do_not_fit)
{
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = 100 * MBIT});
	const struct psgd_tc_options o = options_for("eth0");
	const size_t needed = sizeof(egress_only);
	char text[sizeof(egress_only)];

	ck_assert_int_eq(psgd_tc_commands(&o, &link, 7, text, needed), PSGD_OK);
	memset(text, 'x', sizeof(text));
	ck_assert_int_eq(psgd_tc_commands(&o, &link, 7, text, needed - 1), PSGD_ERR_INVALID);
	ck_assert_str_eq(text, "");
	ck_assert_int_eq(text[needed - 1], 'x');
	ck_assert_ptr_nonnull(strstr(said, "bytes long"));
	ck_assert_int_eq(psgd_tc_commands(&o, &link, 7, NULL, 0), PSGD_ERR_INVALID);
}
END_TEST

/* Whatever would shape refuses it, before it asks for the module. */
static void refused(
	const struct psgd_tc_options *o, const struct psgd_link *link, const char *words)
{
	char text[4096];

	ck_assert_int_eq(psgd_tc_commands(o, link, 1, text, sizeof(text)), PSGD_ERR_INVALID);
	ck_assert_msg(strstr(said, words) != NULL, "'%s' is not in '%s'", words, said);
	ck_assert_str_eq(text, "");
	memset(said, 0, sizeof(said));
	ck_assert_int_eq(psgd_tc_apply(o, link), PSGD_ERR_INVALID);
	ck_assert_msg(strstr(said, words) != NULL, "'%s' is not in '%s'", words, said);
	ck_assert_int_eq(psgd_tc_check(o, link), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_tc_change(o, link), PSGD_ERR_INVALID);
}

START_TEST(test_bad_links)
{
	const struct {
		struct psgd_link link;
		const char *words;
	} bad[] = {
		{{0}, "limits nothing"},
		{{.burst_bytes = 5000}, "limits nothing"},
		{{.egress_bps = MBIT, .loss_ppm = 1000000}, "loses all frames"},
		{{.egress_bps = MBIT, .delay_ns = -1}, "bad link"},
		{{.egress_bps = MBIT, .delay_ns = 5, .jitter_ns = 6}, "jitter within the delay"},
		{{.egress_bps = MBIT, .jitter_ns = 6}, "jitter within the delay"},
		{{.egress_bps = MBIT, .reserved = 1}, "bad link"},
		{{.egress_bps = 7}, "7 bit/s; expected 8 to"},
		{{.ingress_bps = MBIT * MBIT + 8}, "1000000000008 bit/s; expected"},
		{{.egress_bps = 8, .burst_bytes = 300}, "300 bytes is more than the kernel's"},
		{{.delay_ns = 5000 * MS, .jitter_ns = 5000 * MS}, "more than 2.1 s"},
	};
	const struct psgd_tc_options o = options_for("eth0");
	const struct psgd_link link = link_of(bad[_i].link);

	refused(&o, &link, bad[_i].words);
}
END_TEST

START_TEST(test_bad_options)
{
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = MBIT});
	const char *names[] = {"", "sixteen-bytes-ab", "a b", "a;b", "a/b", "$(a)", "-a", "a'"};
	const uint16_t ports[257] = {1, 2, 0};
	struct psgd_tc_options o = options_for(NULL);

	refused(&o, &link, "no interface is named");
	for (size_t i = 0; i < PSGD__COUNT(names); i++) {
		o.interface_name = names[i];
		refused(&o, &link, "is no name of a network interface");
	}
	o.interface_name = "fifteen-bytes-a";
	o.n_unshaped_ports = 1;
	refused(&o, &link, "bad options");
	o.unshaped_ports = ports;
	o.n_unshaped_ports = 3;
	refused(&o, &link, "an unshaped port is 0");
	o.n_unshaped_ports = 257;
	refused(&o, &link, "257 unshaped ports; at most 256");
	o.n_unshaped_ports = 2;
	o.reserved = 1;
	refused(&o, &link, "bad options");
	o.reserved = 0;
	ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_UNSUPPORTED); /* for the module */
	o.owner_pid = 0x7fffffff;
	ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_INVALID);
	ck_assert_str_eq(said, "owner_pid: there is no process 2147483647");
	o.size = 3;
	ck_assert_int_eq(psgd_tc_apply(&o, &link), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_tc_apply(NULL, &link), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_tc_clear(&o, 0, NULL), PSGD_ERR_INVALID);
}
END_TEST

START_TEST(test_without_the_module)
{
	const struct psgd_link link = link_of((struct psgd_link){.egress_bps = MBIT});
	const struct psgd_tc_options o = options_for("eth0"), all = options_for(NULL);
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	size_t n = 7;
	char name[16] = "x";

#define SAYS_SO(call)                                                                              \
	do {                                                                                       \
		memset(said, 0, sizeof(said));                                                     \
		ck_assert_int_eq(call, PSGD_ERR_UNSUPPORTED);                                      \
		ck_assert_ptr_nonnull(strstr(said, "no traffic control module: "));                \
		ck_assert_ptr_nonnull(strstr(said, NO_MODULE "/psgd-tc.so"));                      \
	} while (0)
	SAYS_SO(psgd_tc_check(&o, &link));
	SAYS_SO(psgd_tc_apply(&o, &link));
	SAYS_SO(psgd_tc_change(&o, &link));
	SAYS_SO(psgd_tc_show(&o, &state, 1, &n));
	ck_assert_uint_eq(n, 0);
	SAYS_SO(psgd_tc_show(&all, NULL, 0, &n));
	n = 7;
	SAYS_SO(psgd_tc_clear(&all, 1, &n));
	ck_assert_uint_eq(n, 0);
	SAYS_SO(psgd_tc_interface_to("192.0.2.1", NO_MODULE, name, said, sizeof(said)));
	ck_assert_str_eq(name, "");
#undef SAYS_SO
	ck_assert_int_eq(psgd_tc_show(&o, &state, 1, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_tc_show(&o, NULL, 1, &n), PSGD_ERR_INVALID);
}
END_TEST

START_TEST(test_addresses)
{
	const char *bad[] = {
		"", "localhost", "192.0.2", "192.0.2.1/24", "fe80::1%eth0", "2001:db8"};
	char name[16];

	for (size_t i = 0; i < PSGD__COUNT(bad); i++) {
		ck_assert_int_eq(psgd_tc_interface_to(bad[i], NO_MODULE, name, said, sizeof(said)),
			PSGD_ERR_INVALID);
		ck_assert_ptr_nonnull(strstr(said, "is no address in numbers"));
	}
	ck_assert_int_eq(psgd_tc_interface_to(NULL, NO_MODULE, name, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_tc_interface_to("::1", NO_MODULE, NULL, NULL, 0), PSGD_ERR_INVALID);
}
END_TEST

struct mark {
	unsigned pid;
	unsigned long long start, names;
	char text[PSGD__TC_MARK_BYTES];
};

static struct mark mark_of(pid_t pid)
{
	struct mark m;

	ck_assert_int_eq(psgd__tc_mark((uint32_t)pid, m.text, said, sizeof(said)), PSGD_OK);
	ck_assert_int_eq(
		sscanf(m.text, "psgd pid=%u start=%llu pidns=%llu", &m.pid, &m.start, &m.names), 3);
	ck_assert_int_eq(m.pid, pid);
	return m;
}

static uint32_t owner_of(struct mark m, long long start, long long names, uint32_t *pid)
{
	snprintf(m.text, sizeof(m.text), "psgd pid=%u start=%llu pidns=%llu", m.pid,
		m.start + (unsigned long long)start, m.names + (unsigned long long)names);
	return psgd__tc_owner(m.text, pid);
}

START_TEST(test_owner_that_is_alive)
{
	struct mark m;
	uint32_t pid;

	/* A name that looks like the fields behind it. */
	ck_assert_int_eq(prctl(PR_SET_NAME, "a) Z 1 2 (", 0, 0, 0), 0);
	m = mark_of(getpid());
	ck_assert_uint_eq(psgd__tc_owner(m.text, &pid), PSGD_TC_ALIVE);
	ck_assert_uint_eq(pid, (uint32_t)getpid());
	/* The number has come again: another process. */
	ck_assert_uint_eq(owner_of(m, 0, 0, &pid), PSGD_TC_ALIVE);
	ck_assert_uint_eq(owner_of(m, -1, 0, &pid), PSGD_TC_GONE);
	ck_assert_uint_eq(owner_of(m, 1, 0, &pid), PSGD_TC_GONE);
	/* The number means nothing here. */
	ck_assert_uint_eq(owner_of(m, 0, 1, &pid), PSGD_TC_UNKNOWN);
	ck_assert_uint_eq(pid, (uint32_t)getpid());
}
END_TEST

START_TEST(test_owner_that_ends)
{
	int pipe_fds[2];
	struct mark m;
	uint32_t number;
	siginfo_t info;
	pid_t pid;
	char byte;

	ck_assert_int_eq(pipe(pipe_fds), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		close(pipe_fds[1]);
		_exit(read(pipe_fds[0], &byte, 1) != 0);
	}
	close(pipe_fds[0]);
	m = mark_of(pid);
	ck_assert_uint_eq(psgd__tc_owner(m.text, &number), PSGD_TC_ALIVE);
	close(pipe_fds[1]);
	/* Ended, and nobody has asked for it yet. */
	ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	ck_assert_uint_eq(psgd__tc_owner(m.text, &number), PSGD_TC_GONE);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	ck_assert_uint_eq(psgd__tc_owner(m.text, &number), PSGD_TC_GONE);
	ck_assert_uint_eq(number, (uint32_t)pid);
	ck_assert_int_eq(
		psgd__tc_mark((uint32_t)pid, m.text, said, sizeof(said)), PSGD_ERR_INVALID);
}
END_TEST

START_TEST(test_marks_of_nobody)
{
	const char *bad[] = {"", "psgd", "psgd pid=1 start=2", "psgd pid=0 start=2 pidns=3",
		"psgd pid=1 start=2 pidns=3 more", "mine", "psgd nobody else"};
	char mark[PSGD__TC_MARK_BYTES];
	uint32_t pid = 7;

	ck_assert_int_eq(psgd__tc_mark(0, mark, said, sizeof(said)), PSGD_OK);
	ck_assert_uint_eq(psgd__tc_owner(mark, &pid), PSGD_TC_NOBODY);
	ck_assert_uint_eq(pid, 0);
	for (size_t i = 0; i < PSGD__COUNT(bad); i++) {
		ck_assert_uint_eq(psgd__tc_owner(bad[i], &pid), PSGD_TC_UNKNOWN);
		ck_assert_uint_eq(pid, 0);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("shape_tc");
	TCase *tcase = tcase_create("tc");

	tcase_set_timeout(tcase, 0);
	tcase_add_test(tcase, test_burst);
	tcase_add_test(tcase, test_commands);
	tcase_add_test(tcase, test_netem_holds_the_link);
	tcase_add_test(tcase, test_commands_that_do_not_fit);
	tcase_add_loop_test(tcase, test_bad_links, 0, 11);
	tcase_add_test(tcase, test_bad_options);
	tcase_add_test(tcase, test_without_the_module);
	tcase_add_test(tcase, test_addresses);
	tcase_add_test(tcase, test_owner_that_is_alive);
	tcase_add_test(tcase, test_owner_that_ends);
	tcase_add_test(tcase, test_marks_of_nobody);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
