/* psgd net test, and a link that changes while the live cap watches it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/harness.h"
#include "integration/link_trainer.h"
#include "support/suite.h"

#define COLUMN_BYTES 65536

/* ---- psgd net test ---- */

static const char limits[] = "name: net\n"
			     "model: {name: mlp}\n"
			     "dataset: {name: synthetic, batch_size: 16}\n"
			     "training: {epochs: 1, learning_rate: 0.05}\n"
			     "network_limits: {enable: true, bandwidth_mbps: 50, latency_ms: 3}\n";

/* The sizes of a table, each with sums that are right. */
static void check_table(const char *out, const int *sizes, size_t n)
{
	const char *line = strstr(out, "#wrong");

	ck_assert_msg(line != NULL, "%s", out);
	ck_assert_ptr_nonnull(strstr(line, "(Mbit/s)"));
	line = strchr(strchr(line, '\n') + 1, '\n') + 1;
	for (size_t i = 0; i < n; i++) {
		long long bytes, count, wrong;
		double us, algbw, busbw;

		ck_assert_int_eq(sscanf(line, "%lld %lld float sum %lf %lf %lf %lld", &bytes,
					 &count, &us, &algbw, &busbw, &wrong),
			6);
		ck_assert_int_eq(bytes, sizes[i]);
		ck_assert_int_eq(count * 4, bytes);
		ck_assert_int_eq(wrong, 0);
		/* Two digits are printed. */
		ck_assert_double_eq_tol(algbw, (double)bytes * 8 / us, 0.006 + algbw * 1e-3);
		line = strchr(line, '\n') + 1;
	}
	ck_assert_msg(strncmp(line, "# Fitted  ", 10) == 0, "%s", line);
}

START_TEST(table_between_workers)
{
	static const int sizes[] = {8, 64, 512, 4096};
	static const char *const lines[] = {
		"net test --standalone --nproc-per-node 2 -b 8 -e 4K -f 8 -n 2 -w 0",
		"net test --standalone --nproc_per_node=3 --minbytes 8 --maxbytes 32767 -f 8"};
	struct ended ended = run_psgd(lines[_i], 60);

	ck_assert_msg(ended.code == 0, "%s%s", ended.out, ended.err);
	check_table(ended.out, sizes, 4);
	ck_assert_ptr_null(strstr(ended.out, "# Configured"));
}
END_TEST

/* Two processes; only worker 0's says what there is. A run's flag does the same. */
START_TEST(table_by_hand)
{
	static const int sizes[] = {8, 32, 128, 512, 2048, 8192, 32768, 131072, 524288};
	static struct ended ended[2];
	struct started started[2];
	unsigned port = free_port();
	char line[256];

	write_text("net.yaml", limits);
	for (int w = 1; w >= 0; w--) {
		snprintf(line, sizeof(line),
			_i ? "run --network_test net.yaml --rank %d --world_size 2 --master_port %u"
			   : "net test net.yaml --rank %d --world_size 2 --master_port %u",
			w, port);
		started[w] = start_psgd(line);
	}
	for (int w = 1; w >= 0; w--) {
		ended[w] = finish(started[w], 60);
		ck_assert_msg(ended[w].code == 0, "%s%s", ended[w].out, ended[w].err);
	}
	check_table(ended[0].out, sizes, 9);
	ck_assert_ptr_null(strstr(ended[1].out, "#wrong"));
	ck_assert(!exists("results"));
}
END_TEST

/* What is configured is measured. */
START_TEST(configured_against_measured)
{
	double latency_ms, mbps, part;
	struct ended ended;
	const char *at;

	write_text("net.yaml", limits);
	ended = run_psgd("net test net.yaml --standalone --nproc-per-node 2 -e 64K", 60);
	ck_assert_msg(ended.code == 0, "%s%s", ended.out, ended.err);
	at = strstr(ended.out, "# Fitted");
	ck_assert_int_eq(
		sscanf(at, "# Fitted : latency %lf ms, bandwidth %lf Mbit/s", &latency_ms, &mbps),
		2);
	ck_assert_double_ge(latency_ms, 3);
	ck_assert_double_lt(latency_ms, 6);
	ck_assert_double_eq_tol(mbps, 50, 10);
	ck_assert_ptr_nonnull(strstr(at, "# Configured           : latency 3.000 ms, egress 50 "
					 "Mbit/s, ingress 50 Mbit/s\n"));
	at = strstr(at, "# Measured of it");
	ck_assert_int_eq(sscanf(at, "# Measured of it : %lf %%", &part), 1);
	ck_assert_double_eq_tol(part, mbps * 2, 0.1);
}
END_TEST

static const struct {
	const char *arguments, *err;
} refused[] = {
	{"net", "psgd net: a word is missing; there are apply, show, clear and test\n"},
	{"net aply", "psgd net: unknown word 'aply'; there are apply, show, clear and test\n"},
	{"net test", "psgd net: one worker has no network; say who the others are, or --standalone "
		     "--nproc-per-node 2\n"},
	{"net test seed=1", "psgd net test: 'seed=1' needs a CONFIG\n"},
	{"net test none.yaml --standalone --nproc-per-node 2", "none.yaml: "},
	{"net test -b 1M -e 64K --standalone", "psgd net test: -b is above -e\n"},
};

START_TEST(bad_calls)
{
	struct ended ended = run_psgd(refused[_i].arguments, 20);

	ck_assert_int_eq(ended.code, 2);
	ck_assert_msg(
		strncmp(ended.err, refused[_i].err, strlen(refused[_i].err)) == 0, "%s", ended.err);
}
END_TEST

/* ---- the live cap ---- */

#define CHANGE 60
#define STEPS 170
#define MAX_EXPOSED 0.30

/* Milliseconds on the wire of all P and Q at a rank; 0: dense. Two workers send all of it once. */
static double wire_ms(unsigned rank, double mbps)
{
	double values = rank ? 2.0 * LINK_SIDE * rank : (double)LINK_SIDE * LINK_SIDE;

	return LINK_TENSORS * values * 4 * 8 / (mbps * 1e3);
}

/* The largest candidate that fits, and clearly: 0 (dense) is the largest of all. */
static unsigned right_rank(double mbps)
{
	static const unsigned ranks[] = {0, 16, 8, 4, 2, 1};

	for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
		double wire = wire_ms(ranks[i], mbps), compute = LINK_COMPUTE_NS * 1e-6;
		double share = wire / (wire + compute);

		/* A share near the limit would be decided by noise. */
		ck_assert(share < 0.75 * MAX_EXPOSED || share > 1.1 * MAX_EXPOSED);
		if (share <= MAX_EXPOSED)
			return ranks[i];
	}
	return 1;
}

/*
 * 200 Mbit/s, then 20. The cap must be at the right candidate before, within 50 iterations after,
 * and stay there.
 */
START_TEST(live_cap_follows_the_link)
{
	static char ranks[COLUMN_BYTES], rates[COLUMN_BYTES];
	unsigned rank[STEPS], before = right_rank(200), after = right_rank(20);
	int changes_after = 0, settled = -1, right = 0;
	char line[1024], *at = ranks;
	struct ended ended;

	ck_assert_uint_eq(before, 16);
	ck_assert_uint_eq(after, 4);
	snprintf(line, sizeof(line),
		"name: link\n"
		"model: {name: mlp}\n"
		"dataset: {name: synthetic, batch_size: 16}\n"
		"training: {epochs: 1000, max_iterations: %d, learning_rate: 0.1}\n"
		"compression: {max_rank: 16, start_power_iterations: 0}\n"
		"rank_control: {cap: live, choice: max, candidates: [1, 2, 4, 8, 16], "
		"max_exposed: %g, dwell_iters: 10}\n"
		"network_limits: {enable: true, bandwidth_mbps: 200, schedule: "
		"[{at_iteration: %d, egress_mbps: 20}]}\n",
		STEPS, MAX_EXPOSED, CHANGE);
	write_text("link.yaml", line);
	snprintf(line, sizeof(line),
		"run link.yaml --standalone --nproc-per-node 2 save_dir=r -- %s",
		getenv("LINK_TRAINER"));
	ended = run_psgd(line, 120);
	ck_assert_msg(ended.code == 0, "%s%s", ended.out, ended.err);
	snprintf(line, sizeof(line),
		"\nnetwork limited by model, in each worker that opens a psgd_stack (method auto): "
		"egress 200 Mbit/s, "
		"ingress 200 Mbit/s, latency 0 ms, changes at iteration %d\n",
		CHANGE);
	ck_assert_msg(strstr(ended.out, line) != NULL, "%s", ended.out);
	ck_assert_ptr_nonnull(strstr(read_text("r/manifest.json"), "\"method\": \"model\""));
	read_column("r", "current_rank", ranks, sizeof(ranks));
	read_column("r", "configured_mbps", rates, sizeof(rates));
	ck_assert_uint_eq(count_lines(ranks), STEPS);
	for (int i = 0; i < STEPS; i++)
		rank[i] = (unsigned)strtoul(at, &at, 10);
	at = rates;
	for (int i = 0; i < STEPS; i++)
		ck_assert_double_eq(strtod(at, &at), i < CHANGE ? 200 : 20);
	ck_assert_msg(rank[CHANGE - 1] == before, "at 200 Mbit/s: r=%u", rank[CHANGE - 1]);
	for (int i = CHANGE; i < STEPS; i++) {
		changes_after += rank[i] != rank[i - 1];
		if (rank[i] == after && settled < 0)
			settled = i - CHANGE;
		right += i >= CHANGE + 50 && rank[i] == after;
	}
	fprintf(stderr, "r=%u after %d iterations at 20 Mbit/s, %d changes\n", after, settled,
		changes_after);
	ck_assert_msg(settled >= 0 && settled <= 50, "settled %d: %s", settled, ranks);
	ck_assert_msg(right >= 0.8 * (STEPS - CHANGE - 50), "right in %d: %s", right, ranks);
	/* One move, and at most one that a busy machine has to answer for, there and back. */
	ck_assert_int_le(changes_after, 3);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("net");
	TCase *c = tcase_create("net");

	tcase_set_timeout(c, 180);
	tcase_add_checked_fixture(c, enter_folder, leave_folder);
	tcase_add_loop_test(c, table_between_workers, 0, 2);
	tcase_add_loop_test(c, table_by_hand, 0, 2);
	tcase_add_test(c, configured_against_measured);
	tcase_add_loop_test(c, bad_calls, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(c, live_cap_follows_the_link);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
