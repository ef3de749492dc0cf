/* What a run writes: exact formats, and the progress line. */
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include <psgd/tc.h>

#include "experiment/run_support.h"
#include "support/locale.h"

START_TEST(layout)
{
	psgd_run *run = must_open("r", false);
	static const char *const files[] = {"r/config.yaml", "r/resolved.yaml", "r/manifest.json",
		"r/status.json", "r/events.jsonl", "r/accuracy/accuracy_results.csv",
		CSV "powerSGD_benchmark_*.csv", CSV "epoch_accuracy.csv",
		"r/benchmark/benchmark_*/visualizations",
		"r/benchmark/benchmark_*/configs/resolved.yaml"};
	char *resolved;

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		ck_assert_msg(count_matches(files[i]) == 1, "%s", files[i]);
	ck_assert_str_eq(read_all("r/config.yaml"), yaml);
	ck_assert_int_eq(psgd_config_yaml(config, &resolved), PSGD_OK);
	ck_assert_str_eq(read_all("r/resolved.yaml"), resolved);
	ck_assert_str_eq(read_all("r/benchmark/benchmark_*/configs/resolved.yaml"), resolved);
	free(resolved);
	psgd_run_close(&run);
	ck_assert_ptr_null(run);
	psgd_run_close(&run);
	psgd_run_close(NULL);
}
END_TEST

START_TEST(iteration_rows)
{
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	char *text;
	double memory;

	/* A decimal comma in the program must not reach the file. */
	use_decimal_comma();
	report.decided = 1;
	report.decision.rank = 4;
	report.decision.cap = PSGD_RANK_DENSE;
	report.decision.choice = 4;
	add_iteration(run, 0, &report);
	report = a_report(1);
	report.payload_bytes = 0;
	report.wire_ns = 0;
	report.rank_max = 0;
	add_iteration(run, 1, &report);
	text = read_all(CSV "powerSGD_benchmark_*.csv");
	ck_assert_int_eq(strncmp(text, columns, strlen(columns)), 0);
	text += strlen(columns);
	memory = strtod(field(text, 8), NULL);
	ck_assert(memory > 1 && memory < 1e6);
	/* 8096 - 1234 bytes in 0.5 s */
	ck_assert_str_eq(field(text, 11), "0.109792");
	ck_assert_int_eq(strncmp(text,
				 "0,0,0.300000001,0.100000000,0.100000000,0.500000001,2.000000001,"
				 "1.490000000,",
				 76),
		0);
	ck_assert_ptr_nonnull(strstr(text,
		",0,125,0.109792,0.1,87.5,True,4,0.500000000,0.199999999,0.110000000,0.120000000,"
		"1000000,8000,96,8096,0.05,dense,4,6,0.010000000,1234,\n0,1,"));
	text = strchr(text, '\n') + 1;
	ck_assert_ptr_nonnull(strstr(text,
		",0,,,0.1,87.5,False,0,0.000000000,0.199999999,0.110000000,0.120000000,"
		"1000000,0,96,8096,0.05,dense,4,6,0.010000000,1234,\n"));
	psgd_run_close(&run);
}
END_TEST

START_TEST(numbers_come_back)
{
	static const double values[] = {0.1, 1.0 / 3, 1e-300, 5e-324, 123456789.123456789, -0.0,
		87.5, 2.3025850929940459, 1e22};
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	struct psgd_iteration_row row = PSGD_INIT(psgd_iteration_row);
	char *text;

	row.report = &report;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		row.iteration = i;
		row.loss = values[i];
		ck_assert_int_eq(psgd_run_iteration(run, &row), PSGD_OK);
	}
	row.loss = NAN;
	ck_assert_int_eq(psgd_run_iteration(run, &row), PSGD_OK);
	text = read_all(CSV "powerSGD_benchmark_*.csv");
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		text = strchr(text, '\n') + 1;
		ck_assert(strtod(field(text, 12), NULL) == values[i]);
	}
	text = strchr(text, '\n') + 1;
	ck_assert_str_eq(field(text, 12), "");
	psgd_run_close(&run);
}
END_TEST

START_TEST(epoch_rows)
{
	psgd_run *run = must_open("r", false);
	struct psgd_epoch_row row = PSGD_INIT(psgd_epoch_row);
	char *text;

	row.epoch = 0;
	row.iteration = 9;
	row.epoch_loss = 1.25;
	row.accuracy = 80;
	row.grad_norm_avg = 2;
	row.grad_accum_norm = 4;
	row.num_data_processed = 160;
	ck_assert_int_eq(psgd_run_epoch(run, &row), PSGD_OK);
	row.epoch = 1;
	row.iteration = 19;
	row.grad_accum_norm = 3;
	row.grad_norm_avg = NAN;
	ck_assert_int_eq(psgd_run_epoch(run, &row), PSGD_OK);
	row.epoch = 2;
	row.grad_accum_norm = NAN;
	ck_assert_int_eq(psgd_run_epoch(run, &row), PSGD_OK);
	ck_assert_str_eq(read_all(CSV "epoch_accuracy.csv"),
		"epoch,iteration,val_accuracy_pct\n0,9,80\n1,19,80\n2,19,80\n");
	text = read_all("r/accuracy/accuracy_results.csv");
	ck_assert_int_eq(strncmp(text,
				 "epoch,epoch_loss,accuracy,elapsed_time,num_data_processed,"
				 "grad_norm_avg,grad_accum_norm,grad_change_rate\n0,1.25,80,",
				 115),
		0);
	text = strchr(text, '\n') + 1;
	ck_assert(strtod(field(text, 3), NULL) < 60);
	ck_assert_ptr_nonnull(strstr(text, ",160,2,4,\n1,1.25,80,"));
	text = strchr(text, '\n') + 1;
	ck_assert_ptr_nonnull(strstr(text, ",160,,3,0.25\n2,"));
	text = strchr(text, '\n') + 1;
	ck_assert_ptr_nonnull(strstr(text, ",160,,,\n"));
	psgd_run_close(&run);
}
END_TEST

START_TEST(calibration)
{
	static const struct psgd_calibration_row rows[] = {
		{1, 20, 1000000000, 250000000, 4000, 40, 750000000},
		{PSGD_RANK_DENSE, 20, 0, 0, 4000, 4000, 0}};
	psgd_run *run = must_open("r", false);

	ck_assert_int_eq(psgd_run_calibration(run, rows, 2, 1), PSGD_OK);
	ck_assert_str_eq(read_all("r/calibration_rank_stats.csv"),
		"rank,t_nosync_s,t_sync_s,comm_overhead_s,comm_ratio,full_param_bytes,"
		"approx_comp_bytes,measured_steps,chosen\n"
		"1,0.750000000,1.000000000,0.250000000,0.25,4000,40,20,True\n"
		"dense,0.000000000,0.000000000,0.000000000,,4000,4000,20,False\n");
	psgd_run_close(&run);
}
END_TEST

START_TEST(calibration_where_it_is_asked)
{
	static const struct psgd_calibration_row row = {.rank = 1, .steps = 2, .step_ns = 10};
	psgd_run *run;

	psgd_config_free(&config);
	config = load("compression.calibration={save_dir: a/b, csv_name: mine.csv}");
	run = must_open("r", false);
	ck_assert_int_eq(psgd_run_calibration(run, &row, 1, 1), PSGD_OK);
	ck_assert_ptr_nonnull(strstr(read_all("a/b/mine.csv"), "\n1,"));
	ck_assert_uint_eq(count_matches("r/*.csv"), 0);
	psgd_run_close(&run);
	psgd_config_free(&config);
	config = load("compression.calibration={save_dir: config-in.yaml/b}");
	run = must_open("s", false);
	ck_assert_int_eq(psgd_run_calibration(run, &row, 1, 1), PSGD_ERR_IO);
	psgd_run_close(&run);
}
END_TEST

/* The n-th event of a kind, from 0; NULL when there is none. */
static json_t *event_of(const char *path, const char *kind, size_t n)
{
	char *at = read_all(path);

	for (char *line = strtok(at, "\n"); line; line = strtok(NULL, "\n")) {
		json_t *event = json_loads(line, 0, NULL);

		ck_assert_ptr_nonnull(event);
		if (strcmp(json_string_value(json_object_get(event, "event")), kind) == 0 &&
			n-- == 0)
			return event;
		json_decref(event);
	}
	return NULL;
}

/* Sums since the one before, after every so many steps. */
START_TEST(stats_every_so_often)
{
	struct psgd_report report = a_report(0);
	json_int_t iteration, steps, raw, payload, low, high;
	double ratio;
	json_t *event;
	psgd_run *run;

	psgd_config_free(&config);
	config = load("powerSGD.compression_stats_logging_frequency=3");
	run = must_open("r", false);
	for (uint64_t i = 0; i < 8; i++) {
		report = a_report(i);
		report.payload_bytes = i == 5 ? 11000 : 8000;
		report.rank_min = 2;
		add_iteration(run, i, &report);
	}
	psgd_run_close(&run);
	ck_assert_ptr_null(event_of("r/events.jsonl", "stats", 2));
	event = event_of("r/events.jsonl", "stats", 1);
	ck_assert_int_eq(json_unpack(event, "{s:I, s:I, s:I, s:I, s:F, s:I, s:I}", "iteration",
				 &iteration, "steps", &steps, "raw_bytes", &raw, "payload_bytes",
				 &payload, "ratio", &ratio, "rank_min", &low, "rank_max", &high),
		0);
	ck_assert_int_eq(iteration, 5);
	ck_assert_int_eq(steps, 3);
	ck_assert_int_eq(raw, 3000000);
	ck_assert_int_eq(payload, 27000);
	ck_assert(fabs(ratio - 3000000.0 / 27000.0) < 1e-9);
	ck_assert_int_eq(low, 2);
	ck_assert_int_eq(high, 4);
	json_decref(event);
	psgd_config_free(&config);
	config = load("powerSGD.compression_stats_logging_frequency=0");
	run = must_open("s", false);
	report = a_report(0);
	add_iteration(run, 0, &report);
	psgd_run_close(&run);
	ck_assert_ptr_null(event_of("s/events.jsonl", "stats", 0));
}
END_TEST

/* Epochs of ten steps: 0 has no stage, 1 has one with a name, 2 one without. */
START_TEST(stages_are_events)
{
	static const char *const ends[] = {"r/events.jsonl", "stage"};
	struct psgd_report report = a_report(0);
	json_t *first, *second;
	psgd_run *run;

	psgd_config_free(&config);
	config = load("adaptive_training={enable: true, stages: [{start_epoch: 1, end_epoch: 1, "
		      "name: warm}, {start_epoch: 2, end_epoch: 9}]}");
	run = must_open("r", false);
	for (uint64_t i = 0; i < 25; i++)
		add_iteration(run, i, &report);
	psgd_run_close(&run);
	first = event_of(ends[0], ends[1], 0);
	second = event_of(ends[0], ends[1], 1);
	ck_assert_ptr_null(event_of(ends[0], ends[1], 2));
	ck_assert_int_eq(json_integer_value(json_object_get(first, "iteration")), 10);
	ck_assert_str_eq(json_string_value(json_object_get(first, "name")), "warm");
	ck_assert_int_eq(json_integer_value(json_object_get(second, "iteration")), 20);
	ck_assert_int_eq(json_integer_value(json_object_get(second, "stage")), 1);
	ck_assert(json_is_null(json_object_get(second, "name")));
	json_decref(first);
	json_decref(second);
}
END_TEST

START_TEST(notices_are_events)
{
	json_t *event;
	psgd_run *run;

	psgd_config_free(&config);
	config = load("accordion={ema_beta: 0.9, update_interval: 100}");
	run = must_open("r", false);
	psgd_run_close(&run);
	event = event_of("r/events.jsonl", "notice", 1);
	ck_assert_ptr_nonnull(event);
	ck_assert_str_eq(json_string_value(json_object_get(event, "text")),
		"accordion.update_interval: inactive, it acts with accordion.rule: ema");
	json_decref(event);
	ck_assert_ptr_null(event_of("r/events.jsonl", "notice", 2));
}
END_TEST

START_TEST(events_hold_every_decision)
{
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	json_t *ranks, *line, *lr;

	/* The first decision is no change; a replay begins with it all the same. */
	report.decided = 1;
	report.decision.regime = "force_max";
	report.decision.value = report.decision.threshold = NAN;
	report.decision.link_delay_ns = 2500;
	report.decision.link_ns_per_byte = 80;
	report.decision.predicted_exposed = 0.25;
	report.decision.rank = 4;
	report.decision.cap = PSGD_RANK_DENSE;
	report.decision.choice = 4;
	add_iteration(run, 0, &report);
	report.step = report.decision.step = 1;
	add_iteration(run, 1, &report);
	report.step = report.decision.step = 12;
	report.decision.changed = 1;
	report.decision.rank = 0;
	report.decision.regime = "link_up";
	report.decision.value = 0.5;
	report.n_nonfinite = 2;
	add_iteration(run, 12, &report);
	ck_assert_int_eq(psgd_run_event(run, "peer", 12, "a \"b\"\n\xff"), PSGD_OK);
	psgd_run_finish(run, "finished", NULL);
	psgd_run_finish(run, "failed", "too late");
	ranks = events("rank");
	ck_assert_uint_eq(json_array_size(ranks), 2);
	line = json_array_get(ranks, 0);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "step")), 0);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "rank")), 4);
	ck_assert(json_is_null(json_object_get(line, "previous")));
	ck_assert_str_eq(json_string_value(json_object_get(line, "cap")), "dense");
	ck_assert_int_eq(json_integer_value(json_object_get(line, "choice")), 4);
	ck_assert_str_eq(json_string_value(json_object_get(line, "regime")), "force_max");
	ck_assert(json_is_null(json_object_get(line, "value")));
	ck_assert(json_real_value(json_object_get(line, "link_delay_us")) == 2.5);
	ck_assert(json_real_value(json_object_get(line, "link_mbps")) == 100);
	ck_assert(json_real_value(json_object_get(line, "predicted_exposed")) == 0.25);
	line = json_array_get(ranks, 1);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "step")), 12);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "rank")), 0);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "previous")), 4);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "epoch")), 1);
	ck_assert(json_real_value(json_object_get(line, "value")) == 0.5);
	json_decref(ranks);
	lr = events("lr");
	ck_assert_uint_eq(json_array_size(lr), 1);
	ck_assert(json_real_value(json_object_get(json_array_get(lr, 0), "learning_rate")) == 0.05);
	json_decref(lr);
	line = events("nonfinite");
	ck_assert_int_eq(
		json_integer_value(json_object_get(json_array_get(line, 0), "buckets")), 2);
	json_decref(line);
	line = events("peer");
	ck_assert_str_eq(
		json_string_value(json_object_get(json_array_get(line, 0), "text")), "a \"b\"\n?");
	json_decref(line);
	line = events("finish");
	ck_assert_uint_eq(json_array_size(line), 1);
	json_decref(line);
	psgd_run_close(&run);
}
END_TEST

/* Nobody decides: the rank that is in force is still on record. */
START_TEST(rank_without_decision)
{
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	json_t *ranks;

	add_iteration(run, 0, &report);
	add_iteration(run, 1, &report);
	ranks = events("rank");
	ck_assert_uint_eq(json_array_size(ranks), 1);
	ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(ranks, 0), "rank")), 4);
	ck_assert(json_is_null(json_object_get(json_array_get(ranks, 0), "cap")));
	json_decref(ranks);
	psgd_run_close(&run);
}
END_TEST

START_TEST(manifest)
{
	psgd_run *run;
	json_t *value, *environment;

	setenv("PSGD_TOKEN_FILE", "/path/token", 1);
	setenv("PSGD_TOKEN", "hush", 1);
	setenv("NCCL_SOCKET_IFNAME", "lo\xff", 1);
	setenv("OTHER", "x", 1);
	run = must_open("r", false);
	value = json_loads(read_all("r/manifest.json"), 0, NULL);
	ck_assert_int_eq(json_integer_value(json_object_get(value, "schema")), 1);
	ck_assert_str_eq(
		json_string_value(json_object_get(value, "psgd_version")), psgd_version_string());
	ck_assert_str_eq(
		json_string_value(json_object_get(value, "command_line")), "psgd run \"x\"");
	ck_assert_int_eq(json_integer_value(json_object_get(value, "workers")), 2);
	ck_assert_uint_eq(strlen(json_string_value(json_object_get(value, "config_sha256"))), 64);
	ck_assert_int_eq(
		json_integer_value(json_object_get(value, "seed")), (json_int_t)config->seed);
	environment = json_object_get(value, "environment");
	ck_assert_str_eq(
		json_string_value(json_object_get(environment, "PSGD_TOKEN_FILE")), "/path/token");
	ck_assert_str_eq(
		json_string_value(json_object_get(environment, "NCCL_SOCKET_IFNAME")), "lo?");
	ck_assert_ptr_null(json_object_get(environment, "PSGD_TOKEN"));
	ck_assert_ptr_null(json_object_get(environment, "OTHER"));
	json_decref(value);
	psgd_run_close(&run);
}
END_TEST

/* What is in force, with the burst that there really is. */
START_TEST(manifest_of_the_link)
{
	static const struct {
		const char *limits, *method, *interface_name;
		uint64_t kernel_bps; /* 0: the model's burst */
	} cases[] = {
		{"bandwidth_mbps: 100", "model", NULL, 0},
		{"method: tc, interface: eth3, egress_mbps: 100, ingress_mbps: 5", "tc", "eth3",
			100000000},
		{"method: tc, interface: eth3, egress_mbps: 0, ingress_mbps: 5", "tc", "eth3",
			5000000},
		{"method: tc+model, interface: eth3, egress_mbps: 100, latency_ms: 2", "tc+model",
			"eth3", 100000000},
		{"method: tc+model, interface: eth3, egress_mbps: 100", "tc", "eth3", 100000000},
		{"method: tc+model, interface: eth3, latency_ms: 2", "model", NULL, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct psgd_link none = PSGD_INIT(psgd_link);
		json_t *value, *link;
		char text[128];
		psgd_run *run;

		snprintf(text, sizeof(text), "network_limits={enable: true, %s}", cases[i].limits);
		psgd_config_free(&config);
		config = load(text);
		snprintf(text, sizeof(text), "r%zu", i);
		run = must_open(text, false);
		snprintf(text, sizeof(text), "r%zu/manifest.json", i);
		value = json_loads(read_all(text), 0, NULL);
		link = json_object_get(value, "link");
		ck_assert_str_eq(
			json_string_value(json_object_get(link, "method")), cases[i].method);
		ck_assert_pstr_eq(json_string_value(json_object_get(link, "interface")),
			cases[i].interface_name);
		ck_assert_uint_eq(
			(uint64_t)json_integer_value(json_object_get(link, "burst_bytes")),
			cases[i].kernel_bps ? psgd_tc_burst(&none, cases[i].kernel_bps) : 3028);
		json_decref(value);
		psgd_run_close(&run);
	}
}
END_TEST

static psgd_run *open_with_progress(int fd, uint32_t worker)
{
	struct psgd_run_options options = PSGD_INIT(psgd_run_options);
	psgd_run *run;

	options.dir = worker ? NULL : "r";
	options.config = config;
	options.worker = worker;
	options.n_workers = 2;
	options.progress_fd = fd;
	ck_assert_int_eq(psgd_run_open(&options, &run), PSGD_OK);
	return run;
}

/* _i 0: a socket, 1: a pipe. Worker 1 writes no file. */
START_TEST(progress_lines)
{
	static const char *const keys[] = {"epoch", "epochs", "iteration", "total", "accuracy",
		"loss", "rank", "ms", "compute_ms", "compress_ms", "comm_ms", "decompress_ms",
		"sync_ms", "payload_bytes", "sent_bytes", "eta_s"};
	struct psgd_report report = a_report(0);
	char text[8192] = "", *second;
	psgd_run *run;
	json_t *value;
	int fds[2];

	if (_i)
		ck_assert_int_eq(pipe(fds), 0);
	else
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	report.sync_ns = 20700000;
	run = open_with_progress(fds[1], 1);
	for (uint64_t i = 0; i < 30; i++)
		add_iteration(run, i, &report);
	psgd_run_finish(run, "finished", NULL);
	psgd_run_close(&run);
	ck_assert_uint_eq(count_matches("r"), 0);
	ck_assert_int_gt(read(fds[0], text, sizeof(text) - 1), 0);
	/* The first, and the last with all in between. */
	second = strchr(text, '\n') + 1;
	ck_assert_ptr_eq(strchr(second, '\n') + 1, text + strlen(text));
	value = json_loads(second, JSON_DISABLE_EOF_CHECK, NULL);
	for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
		ck_assert_msg(json_object_get(value, keys[k]) != NULL, "%s", keys[k]);
	ck_assert_int_eq(json_integer_value(json_object_get(value, "iteration")), 30);
	ck_assert_int_eq(json_integer_value(json_object_get(value, "epoch")), 3);
	ck_assert_int_eq(json_integer_value(json_object_get(value, "epochs")), 3);
	ck_assert(fabs(json_number_value(json_object_get(value, "ms")) - 2000.000001) < 1e-5);
	ck_assert_int_eq(json_integer_value(json_object_get(value, "payload_bytes")), 8000);
	ck_assert(fabs(json_number_value(json_object_get(value, "sync_ms")) - 20.7) < 1e-5);
	json_decref(value);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(closed_progress_reader)
{
	struct psgd_report report = a_report(0);
	psgd_run *run;
	int fds[2];

	signal(SIGPIPE, SIG_DFL);
	if (_i)
		ck_assert_int_eq(pipe(fds), 0);
	else
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	close(fds[0]);
	run = open_with_progress(fds[1], 0);
	add_iteration(run, 0, &report);
	usleep(300000);
	add_iteration(run, 1, &report);
	ck_assert_int_eq(psgd_run_finish(run, "finished", NULL), PSGD_OK);
	psgd_run_close(&run);
	close(fds[1]);
}
END_TEST

/* Nobody reads: the trainer is not stopped. */
START_TEST(slow_progress_reader)
{
	struct psgd_report report = a_report(0);
	char sink[4096] = {0};
	psgd_run *run;
	int fds[2];

	if (_i)
		ck_assert_int_eq(pipe2(fds, O_NONBLOCK), 0);
	else
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	while (write(fds[1], sink, sizeof(sink)) > 0)
		;
	fcntl(fds[1], F_SETFL, 0);
	run = open_with_progress(fds[1], 1);
	add_iteration(run, 0, &report);
	ck_assert_int_eq(psgd_run_finish(run, "finished", NULL), PSGD_OK);
	psgd_run_close(&run);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("run");
	TCase *t = tcase_create("formats"), *p = tcase_create("progress");

	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, layout);
	tcase_add_test(t, iteration_rows);
	tcase_add_test(t, numbers_come_back);
	tcase_add_test(t, epoch_rows);
	tcase_add_test(t, calibration);
	tcase_add_test(t, calibration_where_it_is_asked);
	tcase_add_test(t, stats_every_so_often);
	tcase_add_test(t, notices_are_events);
	tcase_add_test(t, stages_are_events);
	tcase_add_test(t, events_hold_every_decision);
	tcase_add_test(t, rank_without_decision);
	tcase_add_test(t, manifest);
	tcase_add_test(t, manifest_of_the_link);
	tcase_set_timeout(t, 30);
	suite_add_tcase(s, t);
	tcase_add_checked_fixture(p, set_up, tear_down);
	tcase_add_loop_test(p, progress_lines, 0, 2);
	tcase_add_loop_test(p, closed_progress_reader, 0, 2);
	tcase_add_loop_test(p, slow_progress_reader, 0, 2);
	tcase_set_timeout(p, 30);
	suite_add_tcase(s, p);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
