/* Checkpoints of one worker, and the records of a run that goes on. */
#include <fcntl.h>
#include <sys/stat.h>

#include <psgd/experiment/checkpoint.h>

#include "experiment/checkpoint_impl.h"
#include "experiment/run_impl.h"
#include "experiment/run_support.h"

#define VALUES 32

/* --- a stack of one worker and one 8 x 4 tensor --- */

struct training {
	psgd_stack *stack;
	psgd_session *session;
	uint64_t iteration;
	float values[VALUES];
};

static psgd_status begin(struct training *t, const char *resume, char error[512])
{
	struct psgd_stack_options options = PSGD_INIT(psgd_stack_options);
	struct psgd_tensor tensor = {
		.id = 7, .dtype = PSGD_F32, .n_dims = 2, .dims = {8, 4}, .name = "w"};
	psgd_status status;

	*t = (struct training){0};
	setenv("PSGD_CONFIG", "config-in.yaml", 1);
	setenv("PSGD_RUN_DIR", "r", 1);
	setenv("RANK", "0", 1);
	setenv("WORLD_SIZE", "1", 1);
	setenv("PSGD_RESUME", resume, 1);
	options.error = error;
	options.error_bytes = 512;
	status = psgd_stack_open(&options, &t->stack);
	if (!status && !psgd_stack_done(t->stack))
		ck_assert_int_eq(psgd_stack_session(t->stack, &tensor, 1, &t->session), PSGD_OK);
	return status;
}

static void must_begin(struct training *t, const char *resume)
{
	char error[512] = "";
	psgd_status status = begin(t, resume, error);

	ck_assert_msg(status == PSGD_OK, "%s", error);
}

static psgd_status save_values(void *user, const struct psgd_state_writer *writer)
{
	struct training *t = user;
	struct psgd_state_array array = PSGD_INIT(psgd_state_array);

	array.name = "values";
	array.dtype = PSGD_F32;
	array.n_dims = 1;
	array.dims[0] = VALUES;
	return writer->put(writer->user, &array, t->values);
}

static psgd_status load_values(void *user, const struct psgd_state_reader *reader)
{
	struct training *t = user;

	return reader->read(reader->user, "values", t->values, sizeof(t->values));
}

static psgd_status load_others(void *user, const struct psgd_state_reader *reader)
{
	struct training *t = user;

	return reader->read(reader->user, "others", t->values, sizeof(t->values));
}

/* Steps whose gradients depend on the iteration alone; the error feedback adds up. */
static void train(struct training *t, uint64_t until, uint64_t save_every)
{
	for (; t->iteration < until; t->iteration++) {
		struct psgd_grad grad = {7, (float[VALUES]){0}};
		struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
		struct psgd_step_info info = PSGD_INIT(psgd_step_info);
		struct psgd_report report = PSGD_INIT(psgd_report);
		psgd_ticket ticket;

		for (uint64_t i = 0; i < VALUES; i++)
			grad.data[i] = (float)((i * 7 + t->iteration * 13) % 11) - 5;
		bucket.grads = &grad;
		bucket.n_grads = 1;
		ck_assert_int_eq(psgd_session_submit(t->session, &bucket, NULL, &ticket), PSGD_OK);
		ck_assert_int_eq(psgd_session_finish_step(t->session, &info, &report), PSGD_OK);
		for (int i = 0; i < VALUES; i++)
			t->values[i] += grad.data[i];
		add_iteration(psgd_stack_run(t->stack), t->iteration, &report);
		if ((t->iteration + 1) % save_every == 0) {
			struct psgd_checkpoint_position at = PSGD_INIT(psgd_checkpoint_position);

			at.iteration = t->iteration + 1;
			at.epoch = at.iteration / 10;
			ck_assert_int_eq(psgd_stack_save(t->stack, &at, save_values, t), PSGD_OK);
		}
	}
}

/* As a killed process leaves it. */
static void leave(struct training *t)
{
	psgd_stack_close(&t->stack, PSGD_ERR_FAILED, "killed");
}

static void resume_at(struct training *t, const char *resume, uint64_t iteration)
{
	struct psgd_checkpoint_position at = PSGD_INIT(psgd_checkpoint_position);

	must_begin(t, resume);
	ck_assert(psgd_stack_resumes(t->stack, &at));
	ck_assert_uint_eq(at.iteration, iteration);
	ck_assert_uint_eq(at.epoch, iteration / 10);
	ck_assert_int_eq(psgd_stack_load(t->stack, load_values, t), PSGD_OK);
	t->iteration = iteration;
}

static void use_powersgd(void)
{
	char text[1024];

	snprintf(text, sizeof(text),
		"%scompression: {use_fixed_rank: true, fixed_rank_value: 1, max_rank: 2, "
		"start_power_iterations: 0}\n",
		yaml);
	write_file("config-in.yaml", text);
}

START_TEST(goes_on_to_the_bit)
{
	struct training whole, parts;

	use_powersgd();
	must_begin(&whole, "");
	ck_assert(!psgd_stack_resumes(whole.stack, NULL));
	ck_assert_int_eq(psgd_stack_load(whole.stack, load_values, &whole), PSGD_ERR_STATE);
	train(&whole, 20, 100);
	leave(&whole);
	must_begin(&parts, "auto"); /* there is nothing yet */
	ck_assert(!psgd_stack_resumes(parts.stack, NULL));
	train(&parts, 9, 4);
	leave(&parts);
	ck_assert_uint_eq(count_matches("r/ckpt/*"), 2);
	resume_at(&parts, "auto", 8);
	train(&parts, 13, 4);
	leave(&parts);
	resume_at(&parts, "r", 12);
	train(&parts, 20, 100);
	ck_assert_int_eq(memcmp(whole.values, parts.values, sizeof(whole.values)), 0);
	psgd_stack_close(&parts.stack, PSGD_OK, NULL);
	must_begin(&parts, "auto");
	ck_assert(psgd_stack_done(parts.stack));
	ck_assert_ptr_null(psgd_stack_run(parts.stack));
	psgd_stack_close(&parts.stack, PSGD_OK, NULL);
}
END_TEST

static void hurt(const char *path, long at, bool cut)
{
	FILE *file = fopen(path, "r+");
	int byte;

	ck_assert_msg(file != NULL, "%s", path);
	ck_assert_int_eq(fseek(file, at, at < 0 ? SEEK_END : SEEK_SET), 0);
	if (cut) {
		ck_assert_int_eq(ftruncate(fileno(file), ftell(file)), 0);
	} else {
		byte = fgetc(file);
		ck_assert_int_eq(fseek(file, -1, SEEK_CUR), 0);
		fputc(byte ^ 4, file);
	}
	ck_assert_int_eq(fclose(file), 0);
}

#define NEWEST "r/ckpt/iter_00000008/worker0"

/* Whatever is wrong with the newest, the one before is used. */
START_TEST(damage_takes_the_one_before)
{
	struct training t;

	use_powersgd();
	must_begin(&t, "");
	train(&t, 9, 4);
	leave(&t);
	switch (_i) {
	case 0:
		hurt(NEWEST ".safetensors", -1, false);
		break;
	case 1:
		hurt(NEWEST ".safetensors", 12, false);
		break;
	case 2:
		hurt(NEWEST ".safetensors", -1, true);
		break;
	case 3:
		hurt(NEWEST ".json", 40, true);
		break;
	case 4:
		hurt(NEWEST ".json", -10, false);
		break;
	case 5:
		ck_assert_int_eq(unlink(NEWEST ".safetensors"), 0);
		break;
	case 6: /* killed while it was written */
		ck_assert_int_eq(unlink(NEWEST ".json"), 0);
		ck_assert_int_eq(rename(NEWEST ".safetensors", NEWEST ".safetensors.new"), 0);
		break;
	default: /* somebody renamed a folder */
		ck_assert_int_eq(rename("r/ckpt/iter_00000008", "r/ckpt/iter_00000009"), 0);
	}
	resume_at(&t, "auto", 4);
	/* What is beyond it would be another run's soon. */
	ck_assert_uint_eq(count_matches("r/ckpt/*"), 1);
	leave(&t);
}
END_TEST

START_TEST(refusals)
{
	struct training t;
	char error[512];

	use_powersgd();
	must_begin(&t, "");
	train(&t, 9, 4);
	leave(&t);
	ck_assert_int_eq(begin(&t, "", error), PSGD_ERR_STATE);
	ck_assert_ptr_nonnull(strstr(error, "r holds a run with a checkpoint of iteration 8: "
					    "--resume auto goes on from it"));
	ck_assert_int_eq(begin(&t, "r/ckpt/iter_00000007", error), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error, "r: nothing to resume: no complete checkpoint");
	must_begin(&t, "auto");
	ck_assert_int_eq(psgd_stack_load(t.stack, load_others, &t), PSGD_ERR_CONFIG);
	psgd_stack_error(t.stack, error, sizeof(error));
	ck_assert_ptr_nonnull(strstr(error, "the trainer's state is not of this model"));
	leave(&t);
	write_file("config-in.yaml", yaml);
	ck_assert_int_eq(begin(&t, "auto", error), PSGD_ERR_CONFIG);
	ck_assert_msg(
		strstr(error, "r: the checkpoint is of another configuration: compression.") !=
			NULL,
		"%s", error);
	ck_assert_ptr_null(strchr(error, '\n'));
	/* What was refused has changed nothing. */
	use_powersgd();
	resume_at(&t, "r/ckpt/iter_00000004/", 4);
	leave(&t);
}
END_TEST

/* --- files and folders --- */

static void write_one(const char *dir, uint64_t iteration, uint32_t worker)
{
	struct psgd__checkpoint c = {iteration, 0, 1, worker, 2};
	psgd_safetensors_writer *writer = psgd_safetensors_writer_new();
	char error[512];

	ck_assert_int_eq(
		psgd__checkpoint_write(dir, &c, "a: 1\n", writer, error, sizeof(error)), PSGD_OK);
	psgd_safetensors_writer_free(&writer);
}

START_TEST(workers_share_a_folder)
{
	struct psgd_checkpoint_position at = PSGD_INIT(psgd_checkpoint_position);
	struct psgd__checkpoint list[PSGD__CHECKPOINTS_MAX];
	char error[512];
	size_t n;

	for (uint64_t i = 1; i <= 3; i++) {
		write_one("d", i, 0);
		write_one("d", i, 1);
	}
	ck_assert_int_eq(mkdir("d/ckpt/iter_5", 0777), 0); /* not a name of ours */
	psgd__checkpoint_prune("d", 0, 3, 2);
	ck_assert_uint_eq(count_matches("d/ckpt/iter_0000000[123]"), 3);
	psgd__checkpoint_prune("d", 1, 2, 5); /* 3 is beyond */
	ck_assert_uint_eq(count_matches("d/ckpt/*/worker0.json"), 2);
	ck_assert_uint_eq(count_matches("d/ckpt/*/worker1.json"), 2);
	ck_assert_int_eq(psgd_checkpoint_newest("d", 1, &at, error, sizeof(error)), PSGD_OK);
	ck_assert_uint_eq(at.iteration, 2);
	for (uint64_t i = 4; i < 40; i++)
		write_one("d", i, 1);
	ck_assert_int_eq(
		psgd__checkpoint_list("d", 1, PSGD__NO_ITERATION, NULL, list, &n), PSGD_OK);
	ck_assert_uint_eq(n, PSGD__CHECKPOINTS_MAX);
	ck_assert_uint_eq(list[0].iteration, 39);
	ck_assert_int_eq(psgd__checkpoint_list("d", 1, 2, NULL, list, &n), PSGD_OK);
	ck_assert_uint_eq(n, 1); /* which is older than so many */
	ck_assert_uint_eq(list[0].iteration, 2);
	psgd__checkpoint_prune("d", 0, 0, 0);
	psgd__checkpoint_prune("d", 1, 0, 0);
	ck_assert_uint_eq(count_matches("d/ckpt/*"), 1);
	ck_assert_int_eq(
		psgd_checkpoint_newest("d", 1, &at, error, sizeof(error)), PSGD_ERR_INVALID);
	ck_assert_str_eq(error, "d: worker 1 has no complete checkpoint");
	write_file("f", "");
	ck_assert_int_eq(psgd_checkpoint_newest("f", 0, &at, error, sizeof(error)), PSGD_ERR_IO);
}
END_TEST

START_TEST(paths)
{
	static const struct {
		const char *path, *dir;
		uint64_t iteration;
	} cases[] = {{"a/b", "a/b", UINT64_MAX}, {"a/b/", "a/b", UINT64_MAX},
		{"a/ckpt", "a", UINT64_MAX}, {"/a/ckpt/iter_00000012", "/a", 12},
		{"/a/ckpt/iter_00000012//", "/a", 12}, {"ckpt/iter_00000003", ".", 3},
		{"ckpt", ".", UINT64_MAX}, {"a/iter_x", "a/iter_x", UINT64_MAX},
		{"iter_00000003", "iter_00000003", UINT64_MAX}, {"/", "/", UINT64_MAX},
		{"a/iter_+3", "a/iter_+3", UINT64_MAX}, {"a/iter_-3", "a/iter_-3", UINT64_MAX},
		{"a/iter_", "a/iter_", UINT64_MAX}, {"a/iter_3x", "a/iter_3x", UINT64_MAX},
		{"iter_99999999999999999999999/iter_3", "iter_99999999999999999999999", 3},
		{"a/iter_99999999999999999999", "a/iter_99999999999999999999", UINT64_MAX}};
	uint64_t iteration;
	char dir[48];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_int_eq(
			psgd_checkpoint_path(cases[i].path, dir, sizeof(dir), &iteration), PSGD_OK);
		ck_assert_str_eq(dir, cases[i].dir);
		ck_assert_uint_eq(iteration, cases[i].iteration);
	}
	ck_assert_int_eq(psgd_checkpoint_path("abc", dir, 3, &iteration), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_checkpoint_path("", dir, 3, &iteration), PSGD_ERR_INVALID);
}
END_TEST

/* --- records --- */

static psgd_status resume_run(uint64_t iteration, uint64_t epoch, psgd_run **run, char *error)
{
	struct psgd_run_options options = PSGD_INIT(psgd_run_options);

	options.dir = "r";
	options.config = config;
	options.resume = 1;
	options.resume_iteration = iteration;
	options.resume_epoch = epoch;
	options.error = error;
	options.error_bytes = 512;
	return psgd_run_open(&options, run);
}

static void add_epoch(psgd_run *run, uint64_t epoch)
{
	struct psgd_epoch_row row = PSGD_INIT(psgd_epoch_row);

	row.epoch = epoch;
	row.iteration = epoch * 10 + 9;
	ck_assert_int_eq(psgd_run_epoch(run, &row), PSGD_OK);
}

static size_t lines_of(const char *pattern)
{
	size_t n = 0;

	for (const char *text = read_all(pattern); *text; text++)
		n += *text == '\n';
	return n;
}

/* A run killed in the middle of a row is cut to iteration 12, and goes on in its own files. */
START_TEST(rows_are_cut)
{
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	char error[512], state[16];
	json_t *resumed;
	FILE *file;

	for (uint64_t i = 0; i < 25; i++) {
		add_iteration(run, i, &report);
		if (i % 10 == 9)
			add_epoch(run, i / 10);
	}
	psgd_run_close(&run);
	file = fopen("r/events.jsonl", "a");
	fputs("{\"event\": \"ra", file);
	fclose(file);
	ck_assert_int_eq(
		system("for f in " CSV "powerSGD_*.csv; do printf 2,25,0.1 >> $f; done"), 0);
	/* the process that wrote it has ended */
	ck_assert_int_eq(system("sed -i 's/\"pid\": .*/\"pid\": 4194304,/' r/status.json"), 0);
	ck_assert_int_eq(resume_run(12, 1, &run, error), PSGD_OK);
	ck_assert_int_eq(psgd_run_state("r", state, sizeof(state)), PSGD_OK);
	ck_assert_str_eq(state, "running");
	ck_assert_uint_eq(count_matches("r/benchmark/*"), 1);
	ck_assert_uint_eq(lines_of(CSV "powerSGD_benchmark_*.csv"), 13);
	ck_assert_uint_eq(lines_of(CSV "epoch_accuracy.csv"), 2);
	ck_assert_uint_eq(lines_of("r/accuracy/accuracy_results.csv"), 2);
	add_iteration(run, 12, &report);
	add_epoch(run, 1);
	ck_assert_uint_eq(lines_of(CSV "powerSGD_benchmark_*.csv"), 14);
	ck_assert_uint_eq(lines_of(CSV "epoch_accuracy.csv"), 3);
	ck_assert_ptr_nonnull(strstr(read_all(CSV "powerSGD_benchmark_*.csv"), "\n1,12,"));
	resumed = events("resume"); /* which reads every line as JSON */
	ck_assert_uint_eq(json_array_size(resumed), 1);
	ck_assert_int_eq(
		json_integer_value(json_object_get(json_array_get(resumed, 0), "iteration")), 12);
	json_decref(resumed);
	psgd_run_finish(run, "finished", NULL);
	psgd_run_close(&run);
	ck_assert_int_eq(system("sed -i '1s/^epoch/step/' " CSV "epoch_accuracy.csv"), 0);
	ck_assert_int_eq(resume_run(12, 1, &run, error), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error, "r: cannot go on with epoch_accuracy.csv: its columns are another "
				"version's");
}
END_TEST

/* A power cut leaves an empty status file and zeros behind rows: the benchmark is found, and
 * mended. */
START_TEST(power_cut)
{
	struct psgd_report report = a_report(0);
	struct psgd_config *own = config;
	char error[512];
	psgd_run *run;

	if (_i)
		config = load("benchmark_save_dir=r/benchmark");
	run = must_open("r", false);
	for (uint64_t i = 0; i < 5; i++)
		add_iteration(run, i, &report);
	add_epoch(run, 0);
	psgd_run_close(&run);
	ck_assert_int_eq(system("sed -i 's/\"started\": \".*\"/\"started\": \"once\"/' "
				"r/manifest.json"),
		0);
	write_file("r/status.json", "");
	ck_assert_int_eq(system("for f in " CSV "*.csv r/accuracy/*.csv r/events.jsonl; do "
				"head -c 40 /dev/zero >> $f; done"),
		0);
	ck_assert_int_eq(resume_run(4, 1, &run, error), PSGD_OK);
	add_iteration(run, 4, &report);
	psgd_run_finish(run, "finished", NULL);
	psgd_run_close(&run);
	ck_assert_uint_eq(count_matches("r/benchmark/*"), 1);
	ck_assert_uint_eq(lines_of(CSV "powerSGD_benchmark_*.csv"), 6);
	ck_assert_uint_eq(lines_of(CSV "epoch_accuracy.csv"), 2);
	ck_assert_uint_eq(lines_of("r/accuracy/accuracy_results.csv"), 2);
	ck_assert_ptr_nonnull(strstr(read_all("r/manifest.json"), "\"started\": \"once\""));
	json_decref(events("resume")); /* which reads every line as JSON */
	if (_i)
		psgd_config_free(&config);
	config = own;
}
END_TEST

/* Whatever comes after, nothing goes on from records that end before it. */
START_TEST(old_checkpoints_go_first)
{
	char error[512];
	psgd_run *run;

	for (uint64_t i = 1; i <= 3; i++)
		write_one("r", i, 0);
	write_file("r/benchmark", ""); /* no folder: the run cannot begin */
	ck_assert_int_eq(resume_run(2, 0, &run, error), PSGD_ERR_IO);
	ck_assert_uint_eq(count_matches("r/ckpt/*"), 2);
	ck_assert_int_eq(open_run("r", true, &run, error), PSGD_ERR_IO);
	ck_assert_uint_eq(count_matches("r/ckpt/*"), 0);
}
END_TEST

/* The run's state, as a checkpoint holds it. */
struct held {
	char counts[512], numbers[128];
	size_t n_counts;
};

static psgd_status hold(void *user, const struct psgd_state_array *array, const void *data)
{
	struct held *held = user;
	bool numbers = array->dtype == PSGD_F64;

	memcpy(numbers ? held->numbers : held->counts, data,
		(size_t)array->dims[0] * (numbers ? 8 : 1));
	if (!numbers)
		held->n_counts = (size_t)array->dims[0];
	return PSGD_OK;
}

static psgd_status give(void *user, const char *name, void *to, size_t bytes)
{
	struct held *held = user;

	memcpy(to, strcmp(name, "counts") == 0 ? held->counts : held->numbers, bytes);
	return PSGD_OK;
}

/* Since the run began, and since its first iteration: on from where the checkpoint was. */
START_TEST(time_goes_on)
{
	static const int64_t before_ns = INT64_C(1000000000000), minute_ns = INT64_C(60000000000);
	static struct held held;
	struct psgd_state_writer writer = {hold, &held};
	struct psgd_state_reader reader = {NULL, give, &held};
	psgd_run *run = must_open("r", false);
	int64_t elapsed_ns, training_ns = -1;
	double seconds;
	char *last;

	ck_assert_int_eq(psgd__run_save(run, &writer), PSGD_OK);
	last = held.counts + held.n_counts - sizeof(training_ns);
	memcpy(&elapsed_ns, held.counts, sizeof(elapsed_ns));
	memcpy(&training_ns, last, sizeof(training_ns));
	ck_assert(elapsed_ns > 0 && elapsed_ns < minute_ns);
	ck_assert_int_eq(training_ns, 0);
	ck_assert_int_eq(psgd__run_load(run, &reader), PSGD_OK);
	ck_assert_int_eq(psgd__run_training_ns(run), 0);
	memcpy(held.counts, &before_ns, sizeof(before_ns));
	memcpy(last, &before_ns, sizeof(before_ns));
	ck_assert_int_eq(psgd__run_load(run, &reader), PSGD_OK);
	training_ns = psgd__run_training_ns(run) - before_ns;
	ck_assert(training_ns > 0 && training_ns < minute_ns);
	add_epoch(run, 0);
	psgd_run_close(&run);
	seconds = strtod(
		field(strchr(read_all("r/accuracy/accuracy_results.csv"), '\n') + 1, 3), NULL);
	ck_assert_msg(seconds >= 1000 && seconds < 1060, "%g", seconds);
}
END_TEST

/* Ranks of layers are in the records, also when only they have changed. */
START_TEST(ranks_of_layers)
{
	static const uint32_t alike[] = {0, 4, 4}, one[] = {0, 4, 2}, two[] = {0, 2, 4};
	static const uint32_t *const ranks[] = {alike, alike, one, one, two};
	psgd_run *run = must_open("r", false);
	json_t *all, *list;

	for (uint64_t i = 0; i < 5; i++) {
		struct psgd_report report = a_report(i);

		report.decided = 1;
		report.decision.rank = 4;
		report.decision.step = i;
		report.decision.ranks = ranks[i];
		report.decision.n_ranks = 3;
		add_iteration(run, i, &report);
	}
	psgd_run_close(&run);
	all = events("rank");
	ck_assert_uint_eq(json_array_size(all), 3);
	ck_assert_ptr_null(json_object_get(json_array_get(all, 0), "ranks"));
	list = json_object_get(json_array_get(all, 2), "ranks");
	ck_assert_uint_eq(json_array_size(list), 3);
	ck_assert_int_eq(json_integer_value(json_array_get(list, 1)), 2);
	ck_assert_int_eq(json_integer_value(json_array_get(list, 2)), 4);
	json_decref(all);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("checkpoint");
	TCase *t = tcase_create("checkpoint");

	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, goes_on_to_the_bit);
	tcase_add_loop_test(t, damage_takes_the_one_before, 0, 8);
	tcase_add_test(t, refusals);
	tcase_add_test(t, workers_share_a_folder);
	tcase_add_test(t, paths);
	tcase_add_test(t, rows_are_cut);
	tcase_add_loop_test(t, power_cut, 0, 2);
	tcase_add_test(t, old_checkpoints_go_first);
	tcase_add_test(t, time_goes_on);
	tcase_add_test(t, ranks_of_layers);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
