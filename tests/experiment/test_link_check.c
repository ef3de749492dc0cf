/* Which changes of a link have come, and whether its limits act, over invented numbers. */
#include <math.h>
#include <string.h>

#include "experiment/stack_impl.h"
#include "support/suite.h"

#define S INT64_C(1000000000)

/* ---- when changes come ---- */

START_TEST(changes_by_iteration)
{
	struct psgd_config_link_change list[] = {{.at_iteration = 3}, {.at_iteration = 5}};
	struct psgd_config_network net = {.schedule = list, .schedule_count = 2};
	static const unsigned expected[] = {0, 0, 0, 1, 1, 2, 2};

	for (uint64_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		ck_assert_uint_eq(psgd__link_change_at(&net, i, 0), expected[i]);
		ck_assert_uint_eq(psgd__link_change_at(&net, i, 3600 * S), expected[i]);
	}
	net.schedule_count = 0;
	ck_assert_uint_eq(psgd__link_change_at(&net, 9, 9 * S), 0);
}
END_TEST

START_TEST(changes_by_second)
{
	struct psgd_config_link_change list[] = {{.at_second = 0.5}, {.at_second = 90}};
	struct psgd_config_network net = {.schedule = list, .schedule_count = 2};
	static const struct {
		int64_t ns;
		unsigned n;
	} expected[] = {
		{0, 0}, {S / 2 - 1, 0}, {S / 2, 1}, {90 * S - 1, 1}, {90 * S, 2}, {INT64_MAX, 2}};

	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		ck_assert_uint_eq(psgd__link_change_at(&net, 0, expected[i].ns), expected[i].n);
		ck_assert_uint_eq(
			psgd__link_change_at(&net, UINT64_MAX, expected[i].ns), expected[i].n);
	}
}
END_TEST

/* ---- what is seen at an interface ---- */

/* n workers measured `payload` Mbit/s and `delay_ns` by all-reduces of up to 4 MiB. */
static struct psgd_measured measured(uint32_t n, double payload, double delay_ns)
{
	struct psgd_measured m = PSGD_INIT(psgd_measured);
	struct psgd_measure_point points[3];
	const double share = 2.0 * (n - 1) / n;

	for (size_t i = 0; i < 3; i++) {
		points[i].bytes = UINT64_C(262144) << (2 * i);
		points[i].ns =
			(int64_t)(delay_ns + share * (double)points[i].bytes * 8000 / payload);
	}
	ck_assert_int_eq(psgd_measure_fit(points, 3, n, &m), PSGD_OK);
	m.delay_ns = delay_ns;
	m.sent_bytes = 16000000;
	return m;
}

static struct psgd__link_check check_of(
	const struct psgd_measured *found, const struct psgd_link *link, uint64_t burst)
{
	struct psgd__link_check c = {.interface_name = "eth0", .left_bytes = 16100000};

	psgd__link_check_rates(&c, found, link, burst);
	return c;
}

/* Of 100 Mbit/s that are configured, frames with all headers have so many. */
static const struct {
	double payload;
	psgd_status status;
	const char *text;
} rates[] = {
	{95.6, PSGD_OK, ""},
	{95.6 * 0.91, PSGD_OK, ""},
	{95.6 * 1.09, PSGD_OK, ""},
	{95.6 * 0.89, PSGD_ERR_IO,
		"measured 89 Mbit/s where 100 are configured on eth0: the network carries no more, "
		"something else limits it, too, or this machine is too busy"},
	{95.6 * 1.115, PSGD_ERR_IO,
		"measured 111 Mbit/s where 100 are configured on eth0: another process has removed "
		"the limit, or the messages pass it by"},
	{899.2, PSGD_ERR_IO,
		"measured 940 Mbit/s where 100 are configured on eth0: another process has removed "
		"the limit, or the messages pass it by"},
};

START_TEST(rates_are_judged)
{
	const uint32_t workers[] = {2, 3, 8};
	struct psgd_link link = {.size = sizeof(link),
		.egress_bps = _i % 2 ? 100000000 : 300000000,
		.ingress_bps = _i % 2 ? 0 : 100000000};

	for (size_t k = 0; k < sizeof(workers) / sizeof(workers[0]); k++) {
		struct psgd_measured found = measured(workers[k], rates[_i].payload, 0);
		struct psgd__link_check c = check_of(&found, &link, 0);
		char why[256] = "";

		ck_assert_double_eq_tol(c.configured_mbps, 100, 1e-9);
		ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), rates[_i].status);
		ck_assert_str_eq(why, rates[_i].text);
		ck_assert_int_eq(psgd__link_check_is_slow(&c), c.measured_mbps < 90);
	}
}
END_TEST

/* What is slower for another reason than the limit, or faster for a burst's, is no failure. */
START_TEST(excuses)
{
	const struct psgd_link plain = {.size = sizeof(plain), .egress_bps = 100000000};
	const double slow = 60, fast = 130;
	struct psgd_link link = plain;
	struct psgd_measured found = measured(2, slow, 0);
	struct psgd__link_check c = check_of(&found, &plain, 0);
	char why[256];

	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_ERR_IO);
	link.loss_ppm = 100;
	c = check_of(&found, &link, 0);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
	link = plain;
	link.jitter_ns = 1;
	c = check_of(&found, &link, 0);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
	/* The longest should take 351 ms. */
	found = measured(2, slow, 18e6);
	c = check_of(&found, &plain, 0);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
	found = measured(2, slow / 20, 18e6);
	c = check_of(&found, &plain, 0);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
	found = measured(2, slow, 17e6);
	c = check_of(&found, &plain, 0);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_ERR_IO);

	found = measured(2, fast, 0);
	c = check_of(&found, &plain, 0);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_ERR_IO);
	c = check_of(&found, &plain, 500000);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
	c = check_of(&found, &plain, 100000);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_ERR_IO);
	c = check_of(&found, &plain, UINT64_C(1) << 62);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
}
END_TEST

/* Without a limit of the rate there is nothing to be off from. */
START_TEST(no_rate)
{
	const struct psgd_link link = {.size = sizeof(link), .delay_ns = 1000};
	struct psgd_measured found = measured(2, 1e5, 0);
	struct psgd__link_check c = check_of(&found, &link, 3028);
	char why[256];

	ck_assert(isinf(c.configured_mbps));
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
	found.bandwidth_mbps = INFINITY;
	c = check_of(&found, &link, 3028);
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)), PSGD_OK);
}
END_TEST

static const struct {
	uint64_t left;
	bool alone;
	const char *used, *text;
} bypasses[] = {
	{16000000, false, NULL, ""},
	{14400001, false, NULL, ""},
	{48000000, true, NULL, ""}, /* of other workers beside */
	{14399999, false, NULL,
		"14.4 of 16 MB that were sent left by eth0; the rest went another way: is "
		"communication.interface another one?"},
	{4100000, false, "eth0",
		"4.1 of 16 MB that were sent left by eth0; the rest went another way: is "
		"communication.interface another one?"},
	{4100000, false, "eth1",
		"4.1 of 16 MB that were sent left by eth0: communication.interface is eth1"},
	{0, true, NULL,
		"0 of 16 MB that were sent left by eth0: all workers are on this node, and what "
		"they send stays in it"},
};

START_TEST(bypasses_are_named)
{
	const struct psgd_link link = {.size = sizeof(link), .egress_bps = 100000000};
	struct psgd_measured found = measured(2, 95, 0);
	struct psgd__link_check c = check_of(&found, &link, 0);
	char why[256] = "";

	c.left_bytes = bypasses[_i].left;
	c.alone = bypasses[_i].alone;
	c.used_name = bypasses[_i].used;
	ck_assert_int_eq(psgd__link_check_judge(&c, why, sizeof(why)),
		*bypasses[_i].text ? PSGD_ERR_IO : PSGD_OK);
	ck_assert_str_eq(why, bypasses[_i].text);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("link_check");
	TCase *t = tcase_create("link_check");

	tcase_add_test(t, changes_by_iteration);
	tcase_add_test(t, changes_by_second);
	tcase_add_loop_test(t, rates_are_judged, 0, sizeof(rates) / sizeof(rates[0]));
	tcase_add_test(t, excuses);
	tcase_add_test(t, no_rate);
	tcase_add_loop_test(t, bypasses_are_named, 0, sizeof(bypasses) / sizeof(bypasses[0]));
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
