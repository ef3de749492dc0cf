/* network_limits: what is refused, what follows, and who makes which part of the link. */
#include "experiment/config_support.h"
#include "support/suite.h"

#define SAME(a, b) ck_assert_uint_eq((uint64_t)(a), (uint64_t)(b))
#define EXACT(a, b) ck_assert_msg((a) == (b), #a " is %.17g", (double)(a))

/* clang-format off */
static const struct refusal refusals[] = {
	{"", "network_limits.method=netem", "override 'network_limits.method=netem': "
		"expected one of auto, tc, model, tc+model, got 'netem'"},
	{"", "network_limits.method=model+tc", "override 'network_limits.method=model+tc': "
		"expected one of auto, tc, model, tc+model, got 'model+tc'"},
	{"network_limits:\n  target_ip: 10.0.0.2", NULL, "t.yaml:9:14: network_limits.target_ip: "
		"cannot be chosen, limits hold for all that an interface sends: "
		"choose network_limits.interface"},
	{"network_limits:\n  auto_cleanup: false", NULL,
		"t.yaml:9:17: network_limits.auto_cleanup: "
		"expected true, limits are always removed when the run ends"},
	{"network_limits:\n  enable: true\n  method: tc\n  bandwidth_mbps: 0", NULL,
		"t.yaml:10:11: network_limits.method: tc needs a limit: egress_mbps, ingress_mbps, "
		"latency_ms and loss_pct are 0, which is none"},
	{"", "network_limits={enable: true, method: tc+model, burst_bytes: 9000, "
		"schedule: [{at_second: 1, egress_mbps: 0}]}",
		"override 'network_limits={enable: true, method: tc+model, burst_bytes: 9000, "
		"schedule: [{at_second: 1, egress_mbps: 0}]}': network_limits.method: tc+model "
		"needs a limit: egress_mbps, ingress_mbps, latency_ms and loss_pct are 0, which is "
		"none"},
	{"", "network_limits.loss_pct=100", "override 'network_limits.loss_pct=100': "
		"expected a number of at least 0 and below 100, got '100'"},
	{"", "network_limits.loss_pct=1e-5", "override 'network_limits.loss_pct=1e-5': "
		"expected 0 or a number from 0.0001 to 99.9999"},
	{"network_limits:\n  schedule: [{at_iteration: 3, egress_mbps: 4}]", NULL,
		"t.yaml:9:13: network_limits.schedule: needs network_limits.enable: true"},
	{"network_limits:\n  enable: true\n  schedule:\n    - {at_iteration: 3, egress_mbps: 4}\n"
		"    - {at_iteration: 3, egress_mbps: 5}", NULL,
		"t.yaml:12:22: network_limits.schedule[1].at_iteration: "
		"expected increasing values, got 3 after 3"},
	{"network_limits:\n  enable: true\n  schedule: [{at_iteration: 0, egress_mbps: 4}]", NULL,
		"t.yaml:10:29: network_limits.schedule[0].at_iteration: "
		"expected a whole number of at least 1, got '0'"},
	{"network_limits:\n  enable: true\n  schedule: [{egress_mbps: 4}]", NULL,
		"t.yaml:10:14: network_limits.schedule[0]: required key 'at_iteration' is missing "
		"(or 'at_second')"},
	{"network_limits:\n  enable: true\n"
		"  schedule: [{at_iteration: 2, at_second: 1, egress_mbps: 4}]", NULL,
		"t.yaml:10:43: network_limits.schedule[0].at_second: contradicts at_iteration, an "
		"entry has one of the two"},
	{"network_limits:\n  enable: true\n  schedule:\n    - {at_second: 3, egress_mbps: 4}\n"
		"    - {at_iteration: 3, egress_mbps: 5}", NULL,
		"t.yaml:12:22: network_limits.schedule[1].at_iteration: "
		"expected at_second, as in the first entry"},
	{"network_limits:\n  enable: true\n  schedule:\n    - {at_iteration: 3, egress_mbps: 4}\n"
		"    - {at_second: 3, egress_mbps: 5}", NULL,
		"t.yaml:12:19: network_limits.schedule[1].at_second: "
		"expected at_iteration, as in the first entry"},
	{"network_limits:\n  enable: true\n  schedule:\n    - {at_second: 3, egress_mbps: 4}\n"
		"    - {at_second: 2.5, egress_mbps: 5}", NULL,
		"t.yaml:12:19: network_limits.schedule[1].at_second: "
		"expected increasing values, got 2.5 after 3"},
	{"network_limits:\n  enable: true\n  schedule: [{at_second: 0, egress_mbps: 4}]", NULL,
		"t.yaml:10:26: network_limits.schedule[0].at_second: "
		"expected a number above 0 and at most 1000000000, got '0'"},
	{"network_limits:\n  enable: true\n  schedule: [{at_iteration: 1}]", NULL,
		"t.yaml:10:14: network_limits.schedule[0]: required key 'egress_mbps' is missing"},
	{"network_limits:\n  enable: true\n"
		"  schedule: [{at_iteration: 1, egress_mbps: 1e-9}]", NULL,
		"t.yaml:10:45: network_limits.schedule[0].egress_mbps: "
		"expected 0 (no limit) or at least 0.001"},
	{"network_limits: {enable: true, latency_ms: 2, jitter_ms: 1}",
		"network_limits.schedule=[{at_iteration: 1, egress_mbps: 4, latency_ms: 0.5}]",
		"override 'network_limits.schedule=[{at_iteration: 1, egress_mbps: 4, "
		"latency_ms: 0.5}]': network_limits.schedule[0].latency_ms: "
		"0.5 is below network_limits.jitter_ms, which is 1"},
};
/* clang-format on */

START_TEST(refuses)
{
	refused(refusals, sizeof(refusals) / sizeof(refusals[0]));
}
END_TEST

START_TEST(link_changes)
{
	struct psgd_config *c = load_text(SMALLEST,
		"network_limits={enable: yes, latency_ms: 3, interface: eth7, schedule: "
		"[{at_iteration: 5, egress_mbps: 8}, "
		"{at_iteration: 7, egress_mbps: 9, ingress_mbps: 0, latency_ms: 0}, "
		"{at_iteration: 8, egress_mbps: 2}]}");
	const struct psgd_config_link_change *s = c->network_limits.schedule;

	SAME(c->network_limits.schedule_count, 3);
	SAME(s[0].at_iteration, 5);
	EXACT(s[0].at_second, 0);
	EXACT(s[0].ingress_mbps, 8);
	EXACT(s[0].latency_ms, 3);
	EXACT(s[1].ingress_mbps, 0);
	EXACT(s[1].latency_ms, 0);
	EXACT(s[2].ingress_mbps, 2);
	EXACT(s[2].latency_ms, 0);
	ck_assert_str_eq(c->communication.interface, "eth7");
	psgd_config_free(&c);
	c = load_text(SMALLEST, "network_limits={enable: yes, schedule: [{at_second: 0.25, "
				"egress_mbps: 8}]}");
	SAME(c->network_limits.schedule->at_iteration, 0);
	EXACT(c->network_limits.schedule->at_second, 0.25);
	psgd_config_free(&c);
	write_text("t.yaml", SMALLEST "network_limits: {interface: eth7}\n");
	c = load_file("t.yaml", "communication.interface=lo");
	ck_assert_str_eq(c->communication.interface, "lo");
	psgd_config_free(&c);
	c = load_file("t.yaml", "network_limits.interface=auto");
	ck_assert_ptr_null(c->communication.interface);
	psgd_config_free(&c);
}
END_TEST

static struct psgd_link link_of(const char *override, bool expected)
{
	struct psgd_config *config = load_file("t.yaml", override);
	struct psgd_link link = PSGD_INIT(psgd_link);
	bool limited = !expected;

	ck_assert_int_eq(psgd_config_link(config, &link, &limited), PSGD_OK);
	ck_assert(limited == expected);
	psgd_config_free(&config);
	return link;
}

START_TEST(links)
{
	struct psgd_link link;

	write_text("t.yaml", SMALLEST);
	link_of(NULL, false);
	link_of("network_limits={egress_mbps: 100}", false);
	link_of("network_limits={enable: true, burst_bytes: 9000}", false);
	link = link_of("network_limits={enable: true, bandwidth_mbps: 100.5, latency_ms: 0.2, "
		       "jitter_ms: 0.000001, burst_bytes: 9000}",
		true);
	ck_assert_uint_eq(link.size, sizeof(link));
	ck_assert_uint_eq(link.egress_bps, 100500000);
	ck_assert_uint_eq(link.ingress_bps, 100500000);
	ck_assert_int_eq(link.delay_ns, 200000);
	ck_assert_int_eq(link.jitter_ns, 1);
	ck_assert_uint_eq(link.burst_bytes, 9000);
	ck_assert_uint_eq(link.seed, 7);
	link = link_of("network_limits={enable: true, egress_mbps: 10, ingress_mbps: 0.001}", true);
	ck_assert_uint_eq(link.egress_bps, 10000000);
	ck_assert_uint_eq(link.ingress_bps, 1000);
	link = link_of("network_limits={enable: true, loss_pct: 0.05}", true);
	ck_assert_uint_eq(link.loss_ppm, 500);
	link = link_of("network_limits={enable: true, schedule: [{at_iteration: 3, "
		       "egress_mbps: 8}]}",
		true);
	ck_assert_uint_eq(link.egress_bps, 0);
	link_of("network_limits={enable: true, schedule: [{at_iteration: 3, egress_mbps: 0}]}",
		false);
	link = link_of("network_limits={enable: true, latency_ms: 3}", true);
	ck_assert_uint_eq(link.egress_bps, 0);
	ck_assert_int_eq(link.delay_ns, 3000000);
	link = link_of("network_limits={enable: true, egress_mbps: 1000000000}", true);
	ck_assert_uint_eq(link.egress_bps, UINT64_C(1000000000000000));
}
END_TEST

/* Rates in Mbit/s, delays in ms; a part that is not limited has a minus. */
static const struct {
	const char *limits;
	double process[4], kernel[4]; /* egress, ingress, delay, loss in percent */
} splits[] = {
	{"method: model, bandwidth_mbps: 8, latency_ms: 3, loss_pct: 2", {8, 8, 3, 2}, {-1}},
	{"method: auto, bandwidth_mbps: 8, latency_ms: 3, loss_pct: 2", {8, 8, 3, 2}, {-1}},
	{"method: tc, bandwidth_mbps: 8, latency_ms: 3, loss_pct: 2", {-1}, {8, 8, 3, 2}},
	{"method: tc+model, bandwidth_mbps: 8, latency_ms: 3, loss_pct: 2", {0, 0, 3, 2},
		{8, 8, 0, 0}},
	{"method: tc+model, bandwidth_mbps: 8", {-1}, {8, 8, 0, 0}},
	{"method: tc+model, latency_ms: 3", {0, 0, 3, 0}, {-1}},
	{"method: tc, egress_mbps: 8, ingress_mbps: 0", {-1}, {8, 0, 0, 0}},
	/* what comes later has a place from the start */
	{"method: tc, schedule: [{at_second: 1, egress_mbps: 8, latency_ms: 3}]", {-1},
		{1e6, 1e6, 1e-6, 0}},
	{"method: tc, ingress_mbps: 5, schedule: [{at_second: 1, egress_mbps: 8}]", {-1},
		{1e6, 5, 0, 0}},
	{"method: tc, egress_mbps: 5, ingress_mbps: 0, schedule: "
	 "[{at_second: 1, egress_mbps: 0}]",
		{-1}, {5, 0, 0, 0}},
	{"method: tc+model, egress_mbps: 5, schedule: [{at_second: 1, egress_mbps: 8, "
	 "latency_ms: 3}]",
		{0, 0, 0, 0}, {5, 5, 0, 0}},
};

static void same_link(psgd_status (*part)(const struct psgd_config *, struct psgd_link *, bool *),
	const struct psgd_config *config, const double expected[4])
{
	struct psgd_link link = {.egress_bps = 77};
	bool limited = expected[0] < 0;

	ck_assert_int_eq(part(config, &link, &limited), PSGD_OK);
	ck_assert(limited == (expected[0] >= 0));
	if (!limited) {
		ck_assert_uint_eq(link.egress_bps, 77);
		return;
	}
	ck_assert_uint_eq(link.size, sizeof(link));
	ck_assert_uint_eq(link.egress_bps, (uint64_t)(expected[0] * 1e6));
	ck_assert_uint_eq(link.ingress_bps, (uint64_t)(expected[1] * 1e6));
	ck_assert_int_eq(link.delay_ns, (int64_t)(expected[2] * 1e6 + 0.5));
	ck_assert_uint_eq(link.loss_ppm, (uint32_t)(expected[3] * 1e4));
}

/* Each part of the link is made once, and both together are what is asked for. */
START_TEST(parts_of_links)
{
	struct psgd_config *config;
	struct psgd_link whole = PSGD_INIT(psgd_link);
	char override[300];
	bool limited;

	write_text("t.yaml", SMALLEST);
	snprintf(
		override, sizeof(override), "network_limits={enable: true, %s}", splits[_i].limits);
	config = load_file("t.yaml", override);
	same_link(psgd_config_link, config, splits[_i].process);
	same_link(psgd_config_kernel_link, config, splits[_i].kernel);
	ck_assert_int_eq(psgd_config_limits(config, &whole, &limited), PSGD_OK);
	ck_assert(limited);
	ck_assert_uint_eq(whole.egress_bps, (uint64_t)(config->network_limits.egress_mbps * 1e6));
	ck_assert_uint_eq(whole.ingress_bps, (uint64_t)(config->network_limits.ingress_mbps * 1e6));
	ck_assert_int_eq(whole.delay_ns, (int64_t)(config->network_limits.latency_ms * 1e6 + 0.5));
	ck_assert_int_eq(psgd_config_kernel_link(NULL, &whole, &limited), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_config_limits(config, NULL, &limited), PSGD_ERR_INVALID);
	psgd_config_free(&config);
	config = load_file("t.yaml", "network_limits={method: tc, bandwidth_mbps: 8}");
	ck_assert_int_eq(psgd_config_kernel_link(config, &whole, &limited), PSGD_OK);
	ck_assert(!limited);
	psgd_config_free(&config);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("config link");
	TCase *t = tcase_create("link");

	tcase_add_checked_fixture(t, enter_folder, leave_folder);
	tcase_add_test(t, refuses);
	tcase_add_test(t, link_changes);
	tcase_add_test(t, links);
	tcase_add_loop_test(t, parts_of_links, 0, sizeof(splits) / sizeof(splits[0]));
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
