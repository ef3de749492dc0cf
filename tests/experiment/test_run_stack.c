/* Whole stacks: one process alone, and processes that meet over loopback. */
#include <errno.h>
#include <sys/stat.h>

#include "experiment/checkpoint_impl.h"
#include "experiment/stack_support.h"
#include "support/locale.h"

static void replace(const char *name, const char *what, const char *with)
{
	char command[256];

	snprintf(command, sizeof(command), "sed -i 's/%s/%s/' %s", what, with, name);
	ck_assert_int_eq(system(command), 0);
}

static json_t *read_status(void)
{
	json_t *value = json_load_file("r/status.json", 0, NULL);

	ck_assert(json_is_object(value));
	return value;
}

START_TEST(trains_and_records)
{
	uint32_t n = (uint32_t)_i + 1;
	json_t *status;
	FILE *events;
	char line[1024];
	unsigned ranks = 0;

	write_file("given.yaml", "# as it was given\n", yaml);
	setenv("PSGD_CONFIG_SOURCE", "given.yaml", 1);
	run_workers(n);
	for (uint32_t w = 0; w < n; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "worker %u: %s", w, outcomes[w].error);
		ck_assert_mem_eq(
			outcomes[w].gradient, outcomes[0].gradient, sizeof(outcomes[0].gradient));
	}
	status = read_status();
	ck_assert_str_eq(json_string_value(json_object_get(status, "state")), "finished");
	ck_assert_int_eq(json_integer_value(json_object_get(status, "iteration")), STEPS - 1);
	json_decref(status);
	events = fopen("r/events.jsonl", "r");
	while (fgets(line, sizeof(line), events))
		ranks += strstr(line, "\"event\":\"rank\",\"step\":0,\"rank\":2,") != NULL;
	fclose(events);
	ck_assert_uint_eq(ranks, 1);
	events = fopen("r/config.yaml", "r");
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), events));
	fclose(events);
	ck_assert_str_eq(line, "# as it was given\n");
}
END_TEST

/* What was measured, as the records have it; NULL: nothing was. */
static json_t *read_env(void)
{
	json_t *env = json_load_file("r/env_metrics.json", 0, NULL);
	char text[1024] = "";
	FILE *file = popen("cat r/env_metrics_rank0_*.txt 2>&1", "r");

	text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
	pclose(file);
	if (!env) {
		ck_assert_ptr_nonnull(strstr(text, "No such file"));
		return NULL;
	}
	/* One run, one text. */
	ck_assert_ptr_nonnull(strstr(text, "workers: "));
	ck_assert_ptr_null(strstr(strstr(text, "workers: ") + 1, "workers: "));
	ck_assert_ptr_nonnull(strstr(text, "\nallreduce_bandwidth_mbps: "));
	ck_assert_ptr_nonnull(strstr(text, "\nlatency_ms: "));
	ck_assert_ptr_nonnull(strstr(text, "\nconfigured_egress_mbps: 100\n"));
	return env;
}

/* Measured before training unless the configuration says no; the training is the same, to the bit.
 */
START_TEST(measures_the_network)
{
	static const char limits[] =
		"network_limits: {enable: true, bandwidth_mbps: 100, latency_ms: 5, "
		"jitter_ms: 1, loss_pct: 1}\n";
	struct outcome first[2];
	json_t *env;

	setenv("PSGD_OVERWRITE", "1", 1);
	for (int k = 0; k < 3; k++) {
		for (int w = 0; w < 2; w++) {
			char name[32];

			snprintf(name, sizeof(name), "config%d.yaml", w);
			write_file(name, yaml, limits);
			if (k == 1)
				replace(name, "timeout_s: 20", "timeout_s: 20, measure: false");
		}
		run_workers(2);
		for (int w = 0; w < 2; w++) {
			ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
			if (k == 0)
				first[w] = outcomes[w];
			ck_assert_mem_eq(
				outcomes[w].gradient, first[w].gradient, sizeof(first[w].gradient));
		}
		env = read_env();
		ck_assert(k == 1 ? !env : json_is_object(env));
		if (env) {
			ck_assert_double_gt(
				json_number_value(json_object_get(env, "latency_ms")), 3.9);
			ck_assert_uint_ge(json_array_size(json_object_get(env, "points")), 5);
		}
		json_decref(env);
	}
}
END_TEST

START_TEST(shaped_link)
{
	write_configs(2, "network_limits: {enable: true, method: model, bandwidth_mbps: 100, "
			 "latency_ms: 20}\n");
	run_workers(2);
	for (int w = 0; w < 2; w++)
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
}
END_TEST

static const char schedule[] =
	"network_limits:\n"
	"  enable: true\n"
	"  method: model\n"
	"  schedule:\n"
	"  - {at_iteration: 2, egress_mbps: 50, latency_ms: 30}\n"
	"  - {at_iteration: 4, egress_mbps: 0, ingress_mbps: 20, latency_ms: 60}\n";

/* The link is that of the iteration on every worker, from its start or from a resume on. */
START_TEST(link_changes)
{
	static const char *const links[] = {
		"2 50 50 30\n4 0 20 60\n", "3 50 50 30\n4 0 20 60\n", "4 0 20 60\n"};
	static const char *const columns[] = {"\n\n50\n50\n\n", "50\n\n", "\n"};
	static const int64_t latency_ms[STEPS] = {0, 0, 30, 30, 60};
	const uint32_t n = 2 + (uint32_t)_i % 2;
	char text[256];

	first_step = _i ? 2 + (uint64_t)_i : 0;
	write_configs(n, schedule);
	run_workers(n);
	for (uint32_t w = 0; w < n; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
		/* A message at least, of a ring's steps. */
		for (uint64_t step = first_step; step < STEPS; step++)
			ck_assert_int_ge(outcomes[w].wire_ns[step],
				2 * (n - 1) * latency_ms[step] * 1000000);
		if (!first_step)
			ck_assert_int_lt(outcomes[w].wire_ns[1], 60 * 1000000);
	}
	read_links(text, sizeof(text));
	ck_assert_str_eq(text, links[_i]);
	read_configured(text, sizeof(text));
	ck_assert_str_eq(text, columns[_i]);
	first_step = 0;
}
END_TEST

/* The second step begins a microsecond after the first, but not an hour. */
START_TEST(link_changes_by_time)
{
	char text[256];

	write_configs(2, "network_limits: {enable: true, schedule: [{at_second: 1e-6, "
			 "egress_mbps: 50, latency_ms: 30}, {at_second: 3600, egress_mbps: 1}]}\n");
	run_workers(2);
	for (int w = 0; w < 2; w++) {
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
		for (int step = 1; step < STEPS; step++)
			ck_assert_int_ge(outcomes[w].wire_ns[step], 2 * 30 * 1000000);
	}
	read_links(text, sizeof(text));
	ck_assert_str_eq(text, "1 50 50 30\n");
	read_configured(text, sizeof(text));
	ck_assert_str_eq(text, "\n50\n50\n50\n50\n");
}
END_TEST

START_TEST(configurations_that_differ)
{
	static const char table[] = "training.learning_rate: worker 0 has 0.1, worker 2 has 0.2";

	write_file("config1.yaml", yaml, "threads: 2\nsave_dir: elsewhere\n");
	write_file("config2.yaml",
		"name: other\n"
		"model: {name: mlp, num_classes: 10}\n"
		"dataset: {name: synthetic, batch_size: 8}\n"
		"training: {epochs: 1, learning_rate: 0.2}\n"
		"communication: {timeout_s: 20}\n"
		"compression: {max_rank: 2, min_rank: 1, use_fixed_rank: true, "
		"fixed_rank_value: 2, start_power_iterations: 0}\n",
		"");
	run_workers(3);
	for (int w = 0; w < 3; w++) {
		ck_assert_int_eq(outcomes[w].status, PSGD_ERR_MISMATCH);
		ck_assert_str_eq(outcomes[w].error, table);
	}
	ck_assert_int_ne(access("r", F_OK), 0);
}
END_TEST

START_TEST(finished_folder_is_said_to_all)
{
	ck_assert_int_eq(mkdir("r", 0777), 0);
	write_file("r/status.json", "{\"state\": \"finished\"}", "");
	run_workers(2);
	for (int w = 0; w < 2; w++) {
		ck_assert_int_eq(outcomes[w].status, PSGD_ERR_STATE);
		ck_assert_str_eq(outcomes[w].error, "worker 0: r holds a finished run (use "
						    "--overwrite or another save_dir)");
	}
	setenv("PSGD_OVERWRITE", "1", 1);
	run_workers(2);
	for (int w = 0; w < 2; w++)
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
}
END_TEST

static const struct {
	const char *name, *value;
	psgd_status status;
	const char *text;
} settings[] = {
	{"PSGD_CONFIG", NULL, PSGD_ERR_CONFIG, "PSGD_CONFIG is not set"},
	{"PSGD_CONFIG", "missing.yaml", PSGD_ERR_CONFIG, "missing.yaml: cannot read"},
	{"PSGD_RDZV_TIMEOUT", "5x", PSGD_ERR_CONFIG, "PSGD_RDZV_TIMEOUT is \"5x\""},
	{"PSGD_RDZV_TIMEOUT", "-1", PSGD_ERR_CONFIG, "PSGD_RDZV_TIMEOUT is \"-1\""},
	{"PSGD_RDZV_TIMEOUT", "20.5", PSGD_OK, ""},
	{"PSGD_RDZV_TIMEOUT", "20,5", PSGD_ERR_CONFIG, "PSGD_RDZV_TIMEOUT is \"20,5\""},
	{"PSGD_PROGRESS_FD", "three", PSGD_ERR_CONFIG, "PSGD_PROGRESS_FD is \"three\""},
	{"RANK", "1", PSGD_ERR_CONFIG, "RANK 1 is out of range: WORLD_SIZE is 1"},
	{"PSGD_TOKEN_FILE", "missing", PSGD_OK, ""},
};

static void write_checkpoint(uint64_t iteration, uint32_t worker)
{
	struct psgd__checkpoint c = {iteration, 0, 1, worker, 2};
	psgd_safetensors_writer *writer = psgd_safetensors_writer_new();
	char error[512];

	ck_assert_int_eq(
		psgd__checkpoint_write("r", &c, "a: 1\n", writer, error, sizeof(error)), PSGD_OK);
	psgd_safetensors_writer_free(&writer);
}

/* What some workers hold is not thrown away because one has lost its own. */
START_TEST(resume_needs_all_workers)
{
	static const char *const why[] = {
		"worker %u: r: no checkpoint that all 2 workers hold, which --resume auto needs "
		"(worker 1 has none); --overwrite begins anew",
		"worker %u: r: no checkpoint that all 2 workers hold, which --resume auto needs; "
		"--overwrite begins anew",
	};
	char text[256], path[64];

	setenv("PSGD_RESUME", "auto", 1);
	write_checkpoint(4, 0);
	write_checkpoint(8, 0);
	for (int i = 0; i < 2; i++) {
		if (i) {
			ck_assert_int_eq(unlink("r/ckpt/iter_00000004/worker0.json"), 0);
			write_checkpoint(4, 1);
		}
		run_workers(2);
		for (uint32_t w = 0; w < 2; w++) {
			snprintf(text, sizeof(text), why[i], w);
			ck_assert_int_eq(outcomes[w].status, PSGD_ERR_CONFIG);
			ck_assert_msg(
				strstr(outcomes[w].error, text) != NULL, "%s", outcomes[w].error);
		}
		snprintf(path, sizeof(path), "r/ckpt/iter_%08d/worker0.json", 8);
		ck_assert_int_eq(access(path, F_OK), 0);
	}
	/* As a kill in the middle of the first one leaves it. */
	ck_assert_int_eq(unlink("r/ckpt/iter_00000004/worker1.json"), 0);
	run_workers(2);
	for (uint32_t w = 0; w < 2; w++)
		ck_assert_msg(outcomes[w].status == PSGD_OK, "%s", outcomes[w].error);
	ck_assert_int_ne(access(path, F_OK), 0);
	unsetenv("PSGD_RESUME");
}
END_TEST

START_TEST(bad_environment)
{
	struct psgd_stack_options options = PSGD_INIT(psgd_stack_options);
	psgd_stack *stack = NULL;
	char error[512] = "";

	setenv("PSGD_CONFIG", "config0.yaml", 1);
	setenv("RANK", "0", 1);
	setenv("WORLD_SIZE", "1", 1);
	if (settings[_i].value)
		setenv(settings[_i].name, settings[_i].value, 1);
	else
		unsetenv(settings[_i].name);
	options.error = error;
	options.error_bytes = sizeof(error);
	use_decimal_comma();
	ck_assert_int_eq(psgd_stack_open(&options, &stack), settings[_i].status);
	ck_assert_msg(strstr(error, settings[_i].text) != NULL, "%s", error);
	psgd_stack_close(&stack, PSGD_OK, NULL);
}
END_TEST

/* The failure that training ended with is what the run folder says. */
START_TEST(close_writes_the_reason)
{
	psgd_stack *stack = NULL;
	json_t *status;

	setenv("PSGD_CONFIG", "config0.yaml", 1);
	ck_assert_int_eq(psgd_stack_open(NULL, &stack), PSGD_OK);
	ck_assert_ptr_nonnull(psgd_stack_config(stack));
	ck_assert_uint_eq(psgd_stack_launch(stack)->n_workers, 1);
	ck_assert_ptr_nonnull(psgd_stack_controller(stack)->ops);
	ck_assert_int_eq(psgd_stack_begin_step(stack, 0), PSGD_OK);
	ck_assert_int_eq(psgd_stack_begin_step(NULL, 0), PSGD_ERR_INVALID);
	psgd_stack_close(&stack, PSGD_ERR_PEER_LOST, "worker 1 is gone");
	ck_assert_ptr_null(stack);
	status = read_status();
	ck_assert_str_eq(json_string_value(json_object_get(status, "state")), "failed");
	ck_assert_str_eq(json_string_value(json_object_get(status, "error")), "worker 1 is gone");
	json_decref(status);
	psgd_stack_close(&stack, PSGD_OK, NULL);
	psgd_stack_close(NULL, PSGD_OK, NULL);
}
END_TEST

START_TEST(exit_codes)
{
	static const struct {
		psgd_status status;
		int code;
	} codes[] = {{PSGD_OK, 0}, {PSGD_PENDING, 0}, {PSGD_ERR_CONFIG, 2}, {PSGD_ERR_INVALID, 2},
		{PSGD_ERR_STATE, 2}, {PSGD_ERR_MISMATCH, 2}, {PSGD_ERR_PEER_LOST, 3},
		{PSGD_ERR_TIMEOUT, 4}, {PSGD_ERR_UNSUPPORTED, 5}, {PSGD_ERR_AUTH, 5},
		{PSGD_ERR_IO, 5}, {PSGD_ERR_DEVICE, 5}, {PSGD_ERR_NOMEM, 1},
		{PSGD_ERR_TRANSPORT, 1}, {PSGD_ERR_FAILED, 1}, {PSGD_ERR_INTERNAL, 1}};

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		ck_assert_int_eq(psgd_exit_code(codes[i].status), codes[i].code);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("run_stack");
	TCase *t = tcase_create("alone"), *m = tcase_create("together");

	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_loop_test(t, trains_and_records, 0, 1);
	tcase_add_loop_test(t, bad_environment, 0, sizeof(settings) / sizeof(settings[0]));
	tcase_add_test(t, close_writes_the_reason);
	tcase_add_test(t, exit_codes);
	tcase_set_timeout(t, 30);
	suite_add_tcase(s, t);
#ifdef HAVE_GLOO
	tcase_add_checked_fixture(m, set_up, tear_down);
	tcase_add_loop_test(m, trains_and_records, 1, MAX_WORKERS);
	tcase_add_test(m, shaped_link);
	tcase_add_test(m, measures_the_network);
	tcase_add_loop_test(m, link_changes, 0, 3);
	tcase_add_test(m, link_changes_by_time);
	tcase_add_test(m, configurations_that_differ);
	tcase_add_test(m, finished_folder_is_said_to_all);
	tcase_add_test(m, resume_needs_all_workers);
#endif
	tcase_set_timeout(m, 60);
	suite_add_tcase(s, m);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
