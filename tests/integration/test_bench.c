/* psgd bench: what it writes is complete, adds up, and has the right bytes. Never how fast. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "integration/harness.h"
#include "support/suite.h"

static json_t *load(const char *path)
{
	json_error_t error;
	json_t *root = json_load_file(path, 0, &error);

	ck_assert_msg(root != NULL, "%s: %s", path, error.text);
	return root;
}

static double number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	ck_assert_msg(json_is_number(value), "'%s' is not a number", key);
	return json_number_value(value);
}

static const char *text(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	ck_assert_msg(json_is_string(value), "'%s' is not a text", key);
	return json_string_value(value);
}

static void check_near(double x, double y)
{
	ck_assert_double_eq_tol(x, y, 1e-6 * fabs(y));
}

static void check_width(const char *lines)
{
	for (; *lines; lines += strcspn(lines, "\n") + (strchr(lines, '\n') != NULL))
		ck_assert_uint_le(strcspn(lines, "\n"), 100);
}

/* ---- compress ---- */

static double sum_of_phases(const json_t *row, const char *key)
{
	const json_t *phases = json_object_get(row, key);

	ck_assert_uint_eq(json_object_size(phases), 3);
	return number(phases, "project") + number(phases, "back_project") +
	       number(phases, "reconstruct");
}

static void check_row(const json_t *row, double n_values)
{
	const json_t *quartiles = json_object_get(row, "over_floor_quartiles");
	double low = json_number_value(json_array_get(quartiles, 0));

	ck_assert_double_gt(number(row, "total_ms"), 0);
	ck_assert_double_gt(number(row, "floor_ms"), 0);
	check_near(number(row, "over_floor"), number(row, "total_ms") / number(row, "floor_ms"));
	check_near(sum_of_phases(row, "phases"), number(row, "total_ms"));
	check_near(sum_of_phases(row, "floor_phases"), number(row, "floor_ms"));
	ck_assert_double_gt(low, 0);
	ck_assert_double_ge(json_number_value(json_array_get(quartiles, 1)), low);
	check_near(number(row, "ratio"), 4 * n_values / number(row, "payload_bytes"));
	check_near(number(row, "memory_over_gradients"),
		(number(row, "state_bytes") + number(row, "message_bytes")) / 4 / n_values);
	/* The messages that are in memory are those that are sent, each on cache lines. */
	ck_assert_double_ge(number(row, "message_bytes"), number(row, "payload_bytes"));
	ck_assert_double_le(number(row, "message_bytes"), number(row, "payload_bytes") + 512);
}

/* The paper's model and bytes, in the order of the command line. */
START_TEST(compression_of_resnet18)
{
	static const struct {
		int rank;
		double ratio;
	} expected[] = {{0, 1}, {1, 243}, {2, 136}, {4, 72}};
	struct ended ended =
		run_psgd("bench compress --ranks dense,1,2,4 --iterations 4 --json out.json", 600);
	json_t *root, *results;

	ck_assert_str_eq(ended.err, "");
	ck_assert_int_eq(ended.code, 0);
	check_width(ended.out);
	root = load("out.json");
	ck_assert_str_eq(text(root, "model"), "resnet18");
	ck_assert_double_eq(number(root, "threads"), 1);
	ck_assert_str_ne(text(root, "isa"), "auto");
	ck_assert_double_eq(number(root, "iterations"), 4);
	ck_assert_double_gt(number(root, "working_set_bytes"), 0);
	results = json_object_get(root, "results");
	ck_assert_uint_eq(json_array_size(results), 4);
	for (size_t i = 0; i < 4; i++) {
		const json_t *row = json_array_get(results, i);

		ck_assert_double_eq(number(row, "rank"), expected[i].rank);
		ck_assert_double_eq(round(number(row, "ratio")), expected[i].ratio);
		check_row(row, 11173962);
		/* One error a value of a matrix; nothing when all is dense. */
		if (expected[i].rank)
			ck_assert_double_gt(number(row, "state_bytes"), 4 * 11150000.0);
		else
			ck_assert_double_eq(number(row, "state_bytes"), 0);
	}
	json_decref(root);
}
END_TEST

/* What is asked for is what runs. */
START_TEST(compression_as_asked_for)
{
	struct ended ended = run_psgd(
		"bench compress --model mlp --ranks 8 --threads 2 --isa plain --iterations 1 "
		"--json out.json",
		600);
	json_t *root, *results;

	ck_assert_str_eq(ended.err, "");
	ck_assert_int_eq(ended.code, 0);
	ck_assert_ptr_nonnull(strstr(ended.out, "threads 2, isa plain"));
	root = load("out.json");
	ck_assert_str_eq(text(root, "model"), "mlp");
	ck_assert_double_eq(number(root, "threads"), 2);
	ck_assert_str_eq(text(root, "isa"), "plain");
	results = json_object_get(root, "results");
	ck_assert_uint_eq(json_array_size(results), 1);
	check_row(json_array_get(results, 0), 1863690);
	json_decref(root);
}
END_TEST

/* ---- allreduce ---- */

static const struct {
	const char *arguments, *transport;
	int workers;
} all_reduces[] = {
	{"bench allreduce -b 4 -e 1M -f 8 -n 3 -w 1 --json out.json", "gloo", 2},
	{"bench allreduce -b 4 -e 1M -f 8 -n 3 -w 1 --workers 3 --json out.json", "gloo", 3},
	{"bench allreduce -b 4 -e 1M -f 8 -n 3 -w 0 --transport local --json out.json", "local", 2},
	{"bench allreduce -b 4 -e 1M -f 8 -n 3 -w 0 --transport=local --workers=3 --json=out.json",
		"local", 3},
};

START_TEST(sums_are_right)
{
	struct ended ended = run_psgd(all_reduces[_i].arguments, 300);
	double n = all_reduces[_i].workers, bytes = 4, average = 0;
	json_t *root, *results;

	ck_assert_str_eq(ended.err, "");
	ck_assert_int_eq(ended.code, 0);
	check_width(ended.out);
	ck_assert_ptr_nonnull(strstr(ended.out, "# Avg bus bandwidth    : "));
	root = load("out.json");
	ck_assert_str_eq(text(root, "transport"), all_reduces[_i].transport);
	ck_assert_double_eq(number(root, "workers"), n);
	results = json_object_get(root, "results");
	ck_assert_uint_eq(json_array_size(results), 7);
	for (size_t i = 0; i < 7; i++, bytes *= 8) {
		const json_t *row = json_array_get(results, i);

		ck_assert_double_eq(number(row, "size_bytes"), bytes);
		ck_assert_double_eq(number(row, "count"), bytes / 4);
		ck_assert_double_eq(number(row, "n_wrong"), 0);
		ck_assert_double_gt(number(row, "time_us"), 0);
		check_near(number(row, "algbw_mb_per_s"), bytes / number(row, "time_us"));
		check_near(number(row, "busbw_mb_per_s"),
			number(row, "algbw_mb_per_s") * 2 * (n - 1) / n);
		average += number(row, "busbw_mb_per_s") / 7;
	}
	check_near(number(root, "avg_busbw_mb_per_s"), average);
	json_decref(root);
}
END_TEST

START_TEST(an_interrupt_leaves_nothing)
{
	struct started started = start_psgd("bench allreduce -e 64M -n 500 --json out.json");
	double until = now_s() + 60;
	struct ended ended;

	/* Three lines of head and a row: it is in the middle. */
	while (count_lines(read_text(started.out)) < 4 && now_s() < until)
		sleep_s(0.02);
	ck_assert_uint_ge(count_lines(read_text(started.out)), 4);
	ck_assert_int_eq(kill(started.pid, SIGINT), 0);
	ended = finish(started, 60);
	ck_assert_int_eq(ended.code, 130);
	ck_assert(!exists("out.json"));
}
END_TEST

/* ---- bad input ---- */

static const struct {
	const char *arguments, *message;
} refused[] = {
	{"bench", "psgd bench: what to time is missing: compress or allreduce"},
	{"bench frobnicate", "psgd bench: 'frobnicate' is none of compress, allreduce"},
	{"bench --model mlp", "psgd bench: unrecognized option '--model'"},
	{"bench compress mlp", "psgd bench compress: 'mlp': no argument is expected"},
	{"bench compress --model alexnet",
		"psgd bench compress: --model: 'alexnet' is none of mlp, resnet18, resnet50, "
		"vgg16, gpt2"},
	{"bench compress --ranks 1,two",
		"psgd bench compress: --ranks: '1,two' is not a list of ranks from 1 to 1024, or "
		"'dense'"},
	{"bench compress --ranks 0",
		"psgd bench compress: --ranks: '0' is not a list of ranks from "
		"1 to 1024, or 'dense'"},
	{"bench compress --ranks ,",
		"psgd bench compress: --ranks: ',' is not a list of ranks from "
		"1 to 1024, or 'dense'"},
	{"bench compress --iterations 0",
		"psgd bench compress: --iterations: '0' is not a whole number from 1 to "
		"100000"},
	{"bench compress --threads 0", "psgd bench compress: --threads: '0' is not a whole number "
				       "from 1 to 1024"},
	{"bench compress --isa sse",
		"psgd bench compress: --isa: 'sse' is none of plain, avx2, avx512, auto"},
	{"bench compress --device gpu",
		"psgd bench compress: --device: 'gpu' is none of cpu, cuda"},
	{"bench compress --device cuda --isa plain",
		"psgd bench compress: --threads and --isa are of the CPU, not of --device cuda"},
	{"bench compress --device cuda --threads 2",
		"psgd bench compress: --threads and --isa are of the CPU, not of --device cuda"},
	{"bench compress --ordinal 1",
		"psgd bench compress: --ordinal is of a CUDA device: add --device cuda"},
	{"selftest --device cpu --ordinal 1",
		"psgd selftest: --ordinal is of a CUDA device, not of --device cpu"},
	{"bench compress --floor", "psgd bench compress: unrecognized option '--floor'"},
	{"bench allreduce -b 2",
		"psgd bench allreduce: -b: '2' is not a size from 4 to 1024G, such "
		"as 8, 64K or 128M"},
	{"bench allreduce -e 1T", "psgd bench allreduce: -e: '1T' is not a size from 4 to 1024G, "
				  "such as 8, 64K or 128M"},
	{"bench allreduce -e 2000G", "psgd bench allreduce: -e: '2000G' is not a size from 4 to "
				     "1024G, such as 8, 64K or "
				     "128M"},
	{"bench allreduce -b 1M -e 64K", "psgd bench allreduce: -b is above -e"},
	{"bench allreduce -f 1", "psgd bench allreduce: -f: '1' is not a whole number from 2 to "
				 "1024"},
	{"bench allreduce -n 0", "psgd bench allreduce: -n: '0' is not a whole number from 1 to "
				 "1000000"},
	{"bench allreduce -w -1", "psgd bench allreduce: -w: '-1' is not a whole number from 0 to "
				  "1000000"},
	{"bench allreduce --workers 65",
		"psgd bench allreduce: --workers: '65' is not a whole number from 1 to 64"},
	{"bench allreduce --transport mpi",
		"psgd bench allreduce: --transport: 'mpi' is none of gloo, local"},
	{"bench allreduce 8", "psgd bench allreduce: '8': no argument is expected"},
};

START_TEST(bad_flags)
{
	struct ended ended = run_psgd(refused[_i].arguments, 60);
	char line[512];

	snprintf(line, sizeof(line), "%.*s", (int)strcspn(ended.err, "\n"), ended.err);
	ck_assert_str_eq(line, refused[_i].message);
	/* the rest is a sentence about --help, on as many lines as it needs */
	ck_assert_ptr_eq(strstr(ended.err, "\nTry `psgd "), ended.err + strlen(line));
	ck_assert_str_eq(ended.out, "");
	ck_assert_int_eq(ended.code, 2);
}
END_TEST

START_TEST(a_file_that_cannot_be_written)
{
	struct ended ended = run_psgd(
		"bench allreduce -e 8 -n 1 -w 0 --transport local --json none/out.json", 60);

	ck_assert_str_eq(ended.err, "psgd bench: none/out.json: No such file or directory\n");
	ck_assert_int_eq(ended.code, 5);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("bench");
	TCase *c = tcase_create("bench");

	tcase_set_timeout(c, 900);
	tcase_add_checked_fixture(c, enter_folder, leave_folder);
	tcase_add_test(c, compression_of_resnet18);
	tcase_add_test(c, compression_as_asked_for);
	tcase_add_loop_test(c, sums_are_right, 0, sizeof(all_reduces) / sizeof(all_reduces[0]));
	tcase_add_test(c, an_interrupt_leaves_nothing);
	tcase_add_loop_test(c, bad_flags, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(c, a_file_that_cannot_be_written);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
