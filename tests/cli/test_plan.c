/* psgd validate's plan: against figures worked out by hand, and against a session's memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/plan.h"
#include "support/suite.h"

/* A matrix and its bias in the first bucket, a matrix in the second. */
static const struct psgd_tensor tensors[] = {
	{.id = 0, .dtype = PSGD_F32, .n_dims = 2, .dims = {40, 60}},
	{.id = 1, .dtype = PSGD_F32, .n_dims = 1, .dims = {40}},
	{.id = 2, .dtype = PSGD_F32, .n_dims = 2, .dims = {100, 50}},
};
static const char model[] = "{\"tensors\": [{\"id\": 0, \"name\": \"a\", \"dims\": [40, 60]},"
			    "{\"id\": 1, \"name\": \"b\", \"dims\": [40]},"
			    "{\"id\": 2, \"name\": \"c\", \"dims\": [100, 50]}],"
			    "\"buckets\": [[0, 1], [2]], \"sync_values\": 6}";
static const char yaml[] = "model: {name: mlp}\n"
			   "dataset: {name: synthetic, batch_size: 8}\n"
			   "training: {epochs: 2, learning_rate: 0.1}\n"
			   "powerSGD: {matrix_approximation_rank: 3, start_power_iterations: 7}\n"
			   "rank_control: {candidates: [1, 2, 4]}\n"
			   "network_limits: {enable: true, bandwidth_mbps: 100, latency_ms: 0.1}\n";

static char folder[] = "/tmp/psgd-plan-XXXXXX";

static void put(const char *name, const char *text)
{
	FILE *file = fopen(name, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	ck_assert_int_eq(fclose(file), 0);
}

static void enter(void)
{
	ck_assert_ptr_nonnull(mkdtemp(folder));
	ck_assert_int_eq(chdir(folder), 0);
	put("c.yaml", yaml);
	put("model.json", model);
}

static void leave(void)
{
	unlink("c.yaml");
	unlink("model.json");
	ck_assert_int_eq(rmdir(folder), 0);
}

static json_t *plan_of(const char *const *overrides, size_t n, double compute_ms)
{
	struct cli_plan_options options = {
		.trainer = "sh -c 'cat model.json'", .n_workers = 2, .compute_ms = compute_ms};
	struct psgd_config *config;
	char error[500] = "";
	json_t *out;
	int code;

	ck_assert_msg(
		psgd_config_load("c.yaml", overrides, n, &config, error, sizeof(error)) == PSGD_OK,
		"%s", error);
	out = cli_plan(config, &options, &code, error, sizeof(error));
	ck_assert_msg(out != NULL, "%s", error);
	psgd_config_free(&config);
	return out;
}

static json_t *plan(const char *override, double compute_ms)
{
	return plan_of(&override, override ? 1 : 0, compute_ms);
}

static const json_t *row_of(const json_t *from, json_int_t rank)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(from, "ranks"), i,
		row) if (json_integer_value(json_object_get(row, "rank")) == rank) return row;
	ck_abort_msg("no row for r=%d", (int)rank);
	return NULL;
}

static void is(const json_t *object, const char *key, json_int_t expected)
{
	ck_assert_msg(json_integer_value(json_object_get(object, key)) == expected, "%s is %lld",
		key, (long long)json_integer_value(json_object_get(object, key)));
}

static void is_near(const json_t *object, const char *key, double expected)
{
	double value = json_real_value(json_object_get(object, key));

	ck_assert_msg(value > expected - 1e-4 && value < expected + 1e-4, "%s is %.9g, not %.9g",
		key, value, expected);
}

START_TEST(bytes_and_memory)
{
	static const char *const accumulation[] = {
		"adaptive_training={enable: true, stages: ["
		"{name: a, start_epoch: 0, end_epoch: 0, base_sync_frequency: 3}, "
		"{name: b, start_epoch: 1, end_epoch: 1, base_sync_frequency: 2}]}",
		"compression.enable_adaptive_sync=true"};
	json_t *p = plan(NULL, 0);
	const json_t *row = row_of(p, 2);

	is(p, "parameters", 2400 + 40 + 5000);
	is(p, "matrices", 2);
	is(p, "dense_steps", 7);
	is(p, "sync_bytes", 24);
	is(row, "compressed_matrices", 2);
	/* P and the bias, Q; P, Q. */
	is(row, "payload_bytes", 4 * (80 + 40 + 120 + 200 + 100));
	is_near(row, "ratio", 7440.0 / 540.0);
	is(row, "error_bytes", 4 * (2400 + 5000));
	is(row, "q_bytes", 4 * (120 + 100));
	is(row, "message_bytes", 512 + 512 + 832 + 448);
	ck_assert_ptr_null(json_object_get(row, "step_ms"));
	row = row_of(p, 0);
	is(row, "payload_bytes", 4 * 7440);
	is(row, "error_bytes", 0);
	is(row, "q_bytes", 0);
	is(row, "message_bytes", 9792 + 20032);
	json_decref(p);
	p = plan("powerSGD={use_error_feedback: false, warm_start: false}", 0);
	is(row_of(p, 2), "error_bytes", 0);
	is(row_of(p, 2), "q_bytes", 0);
	json_decref(p);
	/* a step of several batches has the sums of each */
	p = plan_of(accumulation, 1, 0);
	is(p, "sync_bytes", 24);
	json_decref(p);
	p = plan_of(accumulation, 2, 0);
	is(p, "sync_bytes", 3 * 24);
	json_decref(p);
}
END_TEST

/*
 * A ring of two: a message has two hops of 0.1 ms and sends its bytes once, at 80 ns each. The
 * first bucket has 2440 of 7440 gradients, so it is ready after (1 + 2 * 0.328) / 3 of 6 ms; its
 * messages are through before the second is ready, whose two are all that is exposed.
 */
START_TEST(times)
{
	json_t *p = plan(NULL, 6);
	const json_t *row = row_of(p, 2);

	is_near(row, "wire_ms", 4 * 0.2 + 2160 * 80e-6);
	is_near(row, "exposed_ms", 2 * 0.2 + 1200 * 80e-6);
	is_near(row, "step_ms", 6.496);
	is_near(row, "exposed_share", 0.496 / 6.496);
	json_decref(p);
	p = plan("communication.overlap=false", 6);
	is_near(row_of(p, 2), "step_ms", 6 + 4 * 0.2 + 2160 * 80e-6);
	/* Dense: two messages of one round each, the first 3.3118 ms before the end of compute. */
	json_decref(p);
	p = plan("network_limits={enable: true, egress_mbps: 1000000000, ingress_mbps: 0, "
		 "latency_ms: 4}",
		6);
	is_near(row_of(p, 0), "step_ms", 2 * (1 + 2 * 2440.0 / 7440.0) + 2 * 8.0);
	json_decref(p);
	p = plan("network_limits.enable=false", 6);
	ck_assert(json_is_false(json_object_get(p, "link_limited")));
	ck_assert_ptr_null(json_object_get(row_of(p, 2), "step_ms"));
	json_decref(p);
}
END_TEST

/* What a session of one worker has, with all buckets under way. */
static struct psgd_memory session_memory(uint32_t rank)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	static float data[7440];
	struct psgd_grad grads[] = {{0, data}, {1, data + 2400}, {2, data + 2440}};
	struct psgd_bucket buckets[] = {PSGD_INIT(psgd_bucket), PSGD_INIT(psgd_bucket)};
	struct psgd_compressor compressor;
	struct psgd_device device;
	struct psgd_collective c;
	psgd_exchange *x[2], *end;
	psgd_session *session;

	for (size_t i = 0; i < 7440; i++)
		data[i] = (float)(i % 17) - 8;
	powersgd.rank = rank;
	ck_assert_int_eq(psgd_device_cpu(NULL, &device), PSGD_OK);
	ck_assert_int_eq(psgd_compressor_powersgd(&powersgd, &compressor), PSGD_OK);
	options.device = &device;
	options.compressor = &compressor;
	ck_assert_int_eq(psgd_session_open(tensors, 3, &options, &session), PSGD_OK);
	for (size_t b = 0; b < 2; b++) {
		buckets[b].grads = grads + 2 * b;
		buckets[b].n_grads = b ? 1 : 2;
		ck_assert_int_eq(psgd_exchange_begin(session, &buckets[b], NULL, &x[b]), PSGD_OK);
	}
	/* Both are under way before the first is done, as on a slow network. */
	ck_assert_int_eq(psgd_exchange_next(x[0], &c), PSGD_WANT_COLLECTIVE);
	ck_assert_int_eq(psgd_exchange_next(x[1], &c), PSGD_PENDING);
	for (size_t b = 0; b < 2; b++)
		while (psgd_exchange_next(x[b], &c) == PSGD_WANT_COLLECTIVE)
			;
	for (size_t b = 0; b < 2; b++)
		psgd_exchange_end(&x[b]);
	ck_assert_int_eq(psgd_exchange_begin_finish(session, NULL, NULL, &end), PSGD_OK);
	psgd_exchange_end(&end);
	ck_assert_int_eq(psgd_session_memory(session, &memory), PSGD_OK);
	psgd_session_close(&session);
	psgd_compressor_destroy(&compressor);
	psgd_device_destroy(&device);
	return memory;
}

START_TEST(memory_is_a_sessions)
{
	static const uint32_t ranks[] = {1, 2, 4};
	json_t *p = plan(NULL, 0);

	for (size_t i = 0; i < 3; i++) {
		struct psgd_memory memory = session_memory(ranks[i]);
		const json_t *row = row_of(p, ranks[i]);

		ck_assert_uint_eq(memory.state_bytes,
			(uint64_t)(json_integer_value(json_object_get(row, "error_bytes")) +
				   json_integer_value(json_object_get(row, "q_bytes"))));
		ck_assert_uint_eq(memory.message_bytes,
			(uint64_t)json_integer_value(json_object_get(row, "message_bytes")));
	}
	json_decref(p);
}
END_TEST

START_TEST(who_decides)
{
	static const struct {
		const char *override, *words;
	} cases[] = {
		{NULL, "r=3"},
		{"compression.enable_powerSGD=false", "dense in the whole run"},
		{"compression={use_fixed_rank: true, fixed_rank_value: 2}", "r=2"},
		{"rank_control={choice: fixed, candidates: [1, 2]}", "r=3"},
		{"rank_control={cap: live, candidates: [1, 4], max_exposed: 0.25}",
			"the largest of r=1, r=4 or dense that leaves at most 25 % of a step "
			"exposed, followed while training runs"},
		{"compression.calibration={enable: true, ranks: [1, 2], force_start_iter: 9}",
			"the largest of r=1, r=2 or dense that leaves at most 30 % of a step "
			"exposed, measured once at step 9"},
		{"accordion={enable: true, stride_iters: 50}",
			"r=8 while the gradient changes by 50 % or more in 50 steps, else r=1"},
		{"rank_control={choice: accordion, cap: live, candidates: [1]}",
			"for each layer dense while its gradient changes by 50 % or more in 10 "
			"epochs, else r=1, at most the largest of r=1 or dense that leaves at "
			"most 30 % of a step exposed, followed while training runs"},
		{"accordion={enable: true, rule: ema}",
			"a candidate up where the gradient is 1.2 times its average, one down at "
			"0.95 times, every 100 steps"},
		{"rank_control.choice=lgreco",
			"for each layer anew every 100 steps, cheapest with 1 times the error of "
			"r=3"},
		{"rank_control.choice=entropy",
			"falls from the largest to r=1 with the gradient's entropy, every 1000 "
			"steps"},
		{"rank_control={choice: replay, replay: e.jsonl}", "the ranks of e.jsonl"},
		{"compression.rank_schedule={default_rank: 5, ranges: [{start_epoch: 0, "
		 "end_epoch: 1, rank: 2}]}",
			"by 1 range of epochs, else r=5"},
		{"rank_control.choice=max", "r=8"},
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		json_t *p = plan(cases[i].override, 0);

		ck_assert_str_eq(
			json_string_value(json_object_get(p, "rank_control")), cases[i].words);
		json_decref(p);
	}
}
END_TEST

/* Also where candidates or ranges are listed, and the rank is none of them. */
START_TEST(who_decides_has_a_row)
{
	static const struct {
		const char *override;
		json_int_t rank;
	} cases[] = {
		{NULL, 3},
		{"compression={use_fixed_rank: true, fixed_rank_value: 5}", 5},
		{"rank_control={choice: fixed, candidates: [1, 2]}", 3},
		{"rank_control={choice: lgreco, candidates: [1, 2]}", 3},
		{"compression.rank_schedule={default_rank: 5, ranges: [{start_epoch: 0, "
		 "end_epoch: 1, rank: 2}, {start_epoch: 2, end_epoch: 3, rank: 4}]}",
			5},
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		json_t *p = plan(cases[i].override, 0);

		row_of(p, cases[i].rank);
		json_decref(p);
	}
}
END_TEST

START_TEST(notices_are_listed)
{
	json_t *p = plan("accordion={ema_beta: 0.9, update_interval: 3}", 0), *list;

	list = json_object_get(p, "notices");
	ck_assert_uint_eq(json_array_size(list), 2);
	ck_assert_str_eq(json_string_value(json_array_get(list, 1)),
		"accordion.update_interval: inactive, it acts with accordion.rule: ema");
	json_decref(p);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("plan");
	TCase *t = tcase_create("plan");

	tcase_add_checked_fixture(t, enter, leave);
	tcase_add_test(t, bytes_and_memory);
	tcase_add_test(t, times);
	tcase_add_test(t, memory_is_a_sessions);
	tcase_add_test(t, who_decides);
	tcase_add_test(t, who_decides_has_a_row);
	tcase_add_test(t, notices_are_listed);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
