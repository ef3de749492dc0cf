/* A folder of its own for each test of the run folder. */
#ifndef TESTS_EXPERIMENT_RUN_SUPPORT_H
#define TESTS_EXPERIMENT_RUN_SUPPORT_H

#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include <psgd/experiment/run.h>

#include "support/suite.h"

static char root[64];
static struct psgd_config *config;

static inline void write_file(const char *name, const char *text)
{
	FILE *file = fopen(name, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

static const char yaml[] = "# mine\n"
			   "name: unit\n"
			   "model: {name: mlp, num_classes: 10}\n"
			   "dataset: {name: synthetic, batch_size: 8}\n"
			   "training: {epochs: 3, learning_rate: 0.1}\n";

static inline struct psgd_config *load(const char *override)
{
	struct psgd_config *loaded = NULL;
	char error[512] = "";
	psgd_status status = psgd_config_load(
		"config-in.yaml", &override, override != NULL, &loaded, error, sizeof(error));

	ck_assert_msg(status == PSGD_OK, "%s", error);
	return loaded;
}

static inline void set_up(void)
{
	strcpy(root, "/tmp/psgd-run-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	ck_assert_int_eq(chdir(root), 0);
	write_file("config-in.yaml", yaml);
	config = load(NULL);
}

static inline void tear_down(void)
{
	char command[128];

	psgd_config_free(&config);
	ck_assert_int_eq(chdir("/"), 0);
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	ck_assert_int_eq(system(command), 0);
}

static inline char *read_all(const char *pattern)
{
	static char text[1 << 20];
	glob_t found;
	FILE *file;
	size_t n;

	ck_assert_msg(glob(pattern, 0, NULL, &found) == 0, "%s", pattern);
	ck_assert_uint_eq(found.gl_pathc, 1);
	file = fopen(found.gl_pathv[0], "r");
	ck_assert_ptr_nonnull(file);
	n = fread(text, 1, sizeof(text) - 1, file);
	text[n] = '\0';
	fclose(file);
	globfree(&found);
	return text;
}

static inline size_t count_matches(const char *pattern)
{
	glob_t found;
	size_t n = glob(pattern, 0, NULL, &found) ? 0 : found.gl_pathc;

	globfree(&found);
	return n;
}

static inline psgd_status open_run(const char *dir, bool overwrite, psgd_run **run, char error[512])
{
	struct psgd_run_options options = PSGD_INIT(psgd_run_options);

	options.dir = dir;
	options.config = config;
	options.command_line = "psgd run \"x\"";
	options.transport = "local";
	options.n_workers = 2;
	options.overwrite = overwrite;
	options.error = error;
	options.error_bytes = 512;
	return psgd_run_open(&options, run);
}

static inline psgd_run *must_open(const char *dir, bool overwrite)
{
	char error[512];
	psgd_run *run = NULL;
	psgd_status status = open_run(dir, overwrite, &run, error);

	ck_assert_msg(status == PSGD_OK, "%s", error);
	return run;
}

static inline struct psgd_report a_report(uint64_t step)
{
	struct psgd_report report = PSGD_INIT(psgd_report);

	report.step = step;
	report.step_ns = 2000000001;
	report.compute_ns = 1490000000;
	report.sync_ns = 10000000;
	report.sync_bytes = 1234;
	report.exposed_encode_ns = 100000000;
	report.exposed_wire_ns = 300000001;
	report.exposed_decode_ns = 100000000;
	report.encode_ns = 110000000;
	report.decode_ns = 120000000;
	report.wire_ns = 500000000;
	report.hidden_wire_ns = 199999999;
	report.raw_bytes = 1000000;
	report.payload_bytes = 8000;
	report.control_bytes = 96;
	report.sent_bytes = 8096;
	report.grad_norm = NAN;
	report.grad_sum_norm = NAN;
	report.n_messages = 6;
	report.rank_min = report.rank_max = 4;
	return report;
}

static inline void add_iteration(
	psgd_run *run, uint64_t iteration, const struct psgd_report *report)
{
	struct psgd_iteration_row row = PSGD_INIT(psgd_iteration_row);

	row.epoch = iteration / 10;
	row.iteration = iteration;
	row.iterations_in_epoch = 10;
	row.total_iterations = 30;
	row.loss = 0.1;
	row.accuracy = 87.5;
	row.learning_rate = 0.05;
	row.report = report;
	ck_assert_int_eq(psgd_run_iteration(run, &row), PSGD_OK);
}

#define CSV "r/benchmark/benchmark_*/csv/"

/* The field `index` of a CSV line. */
static inline const char *field(const char *line, int index)
{
	static char text[64];

	while (index--)
		line = strchr(line, ',') + 1;
	snprintf(text, sizeof(text), "%.*s", (int)strcspn(line, ",\n"), line);
	return text;
}

static const char columns[] =
	"epoch,iteration,communication_time,compression_time,decompression_time,"
	"total_processing_time,iteration_total_time,compute_time,memory_usage_mb,"
	"gpu_memory_usage_mb,compression_ratio,bandwidth_mbps,loss,accuracy,powerSGD_active,"
	"current_rank,wire_time,hidden_wire_time,encode_time,decode_time,raw_bytes,payload_bytes,"
	"control_bytes,sent_bytes,learning_rate,rank_cap,rank_choice,n_messages,"
	"sync_time,sync_bytes,configured_mbps\n";

/* The lines of events.jsonl whose event is `event`, as an array. */
static inline json_t *events(const char *event)
{
	json_t *all = json_array();
	char *text = read_all("r/events.jsonl"), *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		json_t *value = json_loads(line, 0, NULL);

		ck_assert_msg(json_is_object(value), "%s", line);
		ck_assert(json_is_real(json_object_get(value, "time")));
		if (strcmp(json_string_value(json_object_get(value, "event")), event) == 0)
			json_array_append(all, value);
		json_decref(value);
	}
	return all;
}

#endif
