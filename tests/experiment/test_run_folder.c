/* Whose a run folder is, and what a killed or hindered process leaves in it. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "experiment/run_support.h"

static json_t *status(void)
{
	json_t *value = json_loads(read_all("r/status.json"), 0, NULL);

	ck_assert(json_is_object(value));
	return value;
}

START_TEST(status_follows)
{
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	char state[16];
	json_t *value;

	ck_assert_int_eq(psgd_run_state("r", state, sizeof(state)), PSGD_OK);
	ck_assert_str_eq(state, "running");
	ck_assert_int_eq(psgd_run_state("r", state, 7), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_state("none", state, sizeof(state)), PSGD_OK);
	ck_assert_str_eq(state, "");
	add_iteration(run, 29, &report);
	psgd_run_finish(run, "nonsense", NULL);
	psgd_run_finish(run, "failed", "worker 1 is gone");
	psgd_run_close(&run);
	value = status();
	ck_assert_str_eq(json_string_value(json_object_get(value, "state")), "failed");
	ck_assert_str_eq(json_string_value(json_object_get(value, "error")), "worker 1 is gone");
	ck_assert_int_eq(json_integer_value(json_object_get(value, "iteration")), 29);
	ck_assert_int_eq(json_integer_value(json_object_get(value, "rank")), 4);
	ck_assert_int_eq(json_integer_value(json_object_get(value, "pid")), getpid());
	json_decref(value);
}
END_TEST

START_TEST(finished_runs_are_kept)
{
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	char error[512];

	add_iteration(run, 0, &report);
	psgd_run_finish(run, "finished", NULL);
	psgd_run_close(&run);
	write_file("r/mine.txt", "mine");
	write_file("r/accuracy/mine.txt", "mine");
	ck_assert_int_eq(open_run("r", false, &run, error), PSGD_ERR_STATE);
	ck_assert_ptr_null(run);
	ck_assert_str_eq(error, "r holds a finished run (use --overwrite or another save_dir)");
	ck_assert_ptr_nonnull(strstr(read_all(CSV "powerSGD_benchmark_*.csv"), ",True,4,"));
	run = must_open("r", true);
	/* One benchmark folder: the old one is gone, with nothing in its place. */
	ck_assert_uint_eq(count_matches("r/benchmark/*"), 1);
	ck_assert_str_eq(read_all(CSV "powerSGD_benchmark_*.csv"), columns);
	ck_assert_ptr_null(strstr(read_all("r/events.jsonl"), "\"rank\""));
	ck_assert_str_eq(read_all("r/mine.txt"), "mine");
	ck_assert_str_eq(read_all("r/accuracy/mine.txt"), "mine");
	psgd_run_close(&run);
}
END_TEST

START_TEST(failed_runs_are_replaced)
{
	psgd_run *run = must_open("r", false);
	char pattern[300];
	glob_t found;

	psgd_run_finish(run, "failed", "x");
	psgd_run_close(&run);
	ck_assert_int_eq(glob("r/benchmark/benchmark_*", 0, NULL, &found), 0);
	snprintf(pattern, sizeof(pattern), "%s/notes.txt", found.gl_pathv[0]);
	globfree(&found);
	write_file(pattern, "mine");
	run = must_open("r", false);
	ck_assert_uint_eq(count_matches(CSV "powerSGD_benchmark_*.csv"), 1);
	ck_assert_str_eq(read_all(pattern), "mine");
	psgd_run_close(&run);
}
END_TEST

START_TEST(running_runs_are_refused)
{
	psgd_run *run = must_open("r", false), *other;
	char error[512], text[64];

	snprintf(text, sizeof(text), "r is in use by process %d", (int)getpid());
	ck_assert_int_eq(open_run("r", true, &other, error), PSGD_ERR_STATE);
	ck_assert_str_eq(error, text);
	psgd_run_close(&run);
}
END_TEST

/* A number that another process has now is not the run's. */
START_TEST(reused_process_number)
{
	char text[256], host[128];
	psgd_run *run;

	gethostname(host, sizeof(host));
	ck_assert_int_eq(mkdir("r", 0777), 0);
	snprintf(text, sizeof(text),
		"{\"state\": \"running\", \"pid\": %d, \"pid_start\": 1, \"host\": \"%s\"}",
		(int)getpid(), host);
	write_file("r/status.json", text);
	run = must_open("r", false);
	psgd_run_close(&run);
}
END_TEST

/* Who has the lock has the folder, whatever process the status names. */
START_TEST(the_lock_decides)
{
	psgd_run *run = must_open("r", false), *other;
	char error[512], state[16];
	int fd;

	psgd_run_close(&run);
	ck_assert_int_eq(psgd_run_state("r", state, sizeof(state)), PSGD_OK);
	ck_assert_str_eq(state, "running");
	run = must_open("r", false);
	psgd_run_finish(run, "failed", "x");
	psgd_run_close(&run);
	fd = open("r/events.jsonl", O_RDWR);
	ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
	ck_assert_int_eq(open_run("r", true, &other, error), PSGD_ERR_STATE);
	ck_assert_str_eq(error, "r is in use by another process");
	close(fd);
	run = must_open("r", true);
	psgd_run_close(&run);
}
END_TEST

START_TEST(strange_status_files)
{
	static const char *const texts[] = {"", "{", "[]", "{\"state\": 3}", "{}", "\xff"};
	char state[16], error[512];
	psgd_run *run;

	ck_assert_int_eq(mkdir("r", 0777), 0);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		write_file("r/status.json", texts[i]);
		ck_assert_int_eq(psgd_run_state("r", state, sizeof(state)), PSGD_ERR_IO);
		ck_assert_int_eq(open_run("r", false, &run, error), PSGD_ERR_STATE);
		ck_assert_str_eq(read_all("r/status.json"), texts[i]);
	}
	/* Names in it must not lead out of the folder. */
	ck_assert_int_eq(mkdir("benchmark_x", 0777), 0);
	write_file("precious.csv", "x");
	write_file("r/status.json", "{\"state\": \"failed\", \"results_csv\": \"../precious.csv\", "
				    "\"benchmark\": \"benchmark_/../../benchmark_x\"}");
	ck_assert_int_eq(mkdir("r/accuracy", 0777), 0);
	run = must_open("r", false);
	psgd_run_close(&run);
	ck_assert_uint_eq(count_matches("precious.csv"), 1);
	ck_assert_uint_eq(count_matches("benchmark_x"), 1);
}
END_TEST

START_TEST(folders)
{
	struct psgd_config *other;
	char dir[256], error[512];
	psgd_run *run;

	ck_assert_int_eq(psgd_run_dir(config, dir, sizeof(dir)), PSGD_OK);
	ck_assert_int_eq(strncmp(dir, "results/20", 10), 0);
	ck_assert_str_eq(dir + strlen("results/20260101"), "/unit");
	ck_assert_int_eq(psgd_run_dir(config, dir, 10), PSGD_ERR_INVALID);
	other = load("save_dir=a/b/c");
	ck_assert_int_eq(psgd_run_dir(other, dir, sizeof(dir)), PSGD_OK);
	ck_assert_str_eq(dir, "a/b/c");
	psgd_config_free(&other);
	run = must_open("a/b/c", false);
	psgd_run_close(&run);
	write_file("file", "");
	ck_assert_int_eq(open_run("file/x", false, &run, error), PSGD_ERR_IO);
	ck_assert_str_eq(error, "cannot write file/x: Not a directory");
}
END_TEST

/* A file of the table's name is not the run's when the table is elsewhere. */
START_TEST(tables_elsewhere)
{
	struct psgd_config *own = config;
	psgd_run *run;

	for (int elsewhere = 1; elsewhere >= 0; elsewhere--) {
		config = load(elsewhere ? "compression.calibration.save_dir=tables"
					: "compression.calibration.csv_name=t.csv");
		run = must_open("r", true);
		psgd_run_finish(run, "failed", NULL);
		psgd_run_close(&run);
		write_file("r/calibration_rank_stats.csv", "mine");
		write_file("r/t.csv", "");
		run = must_open("r", true);
		psgd_run_finish(run, "failed", NULL);
		psgd_run_close(&run);
		ck_assert_str_eq(read_all("r/calibration_rank_stats.csv"), "mine");
		ck_assert_uint_eq(count_matches("r/t.csv"), elsewhere ? 1 : 0);
		ck_assert_int_eq(system("rm -r r"), 0);
		psgd_config_free(&config);
	}
	config = own;
}
END_TEST

/* Two runs that share a folder for their benchmarks. */
START_TEST(benchmarks_elsewhere)
{
	struct psgd_config *own = config;
	psgd_run *a, *b;

	config = load("benchmark_save_dir=shared/bench");
	a = must_open("a", false);
	b = must_open("b", false);
	ck_assert_uint_eq(
		count_matches("shared/bench/benchmark_*/csv/powerSGD_benchmark_*.csv"), 2);
	psgd_run_finish(a, "failed", NULL);
	psgd_run_close(&a);
	a = must_open("a", false);
	/* b's are still there, a's were replaced. */
	ck_assert_uint_eq(
		count_matches("shared/bench/benchmark_*/csv/powerSGD_benchmark_*.csv"), 2);
	psgd_run_close(&a);
	psgd_run_close(&b);
	psgd_config_free(&config);
	config = own;
}
END_TEST

/* Killed while it writes: every file is whole lines, and the folder can be used again. */
START_TEST(killed_writer_leaves_whole_rows)
{
	char *text, *last;
	int ready[2], wait_status;
	psgd_run *run;
	pid_t child;
	json_t *value;
	size_t commas = 0;

	ck_assert_int_eq(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		struct psgd_report report = a_report(0);

		run = must_open("r", false);
		for (uint64_t i = 0;; i++) {
			report.step = i;
			report.decided = report.decision.changed = 1;
			report.decision.step = i;
			add_iteration(run, i, &report);
			if (i == 200 && write(ready[1], "x", 1) != 1)
				_exit(1);
		}
	}
	ck_assert_int_eq(read(ready[0], &wait_status, 1), 1);
	usleep(1000 * (unsigned)(_i * 7));
	kill(child, SIGKILL);
	waitpid(child, &wait_status, 0);
	text = read_all(CSV "powerSGD_benchmark_*.csv");
	last = text + strlen(text) - 1;
	ck_assert_int_eq(*last, '\n');
	*last = '\0';
	last = strrchr(text, '\n');
	for (; *last; last++)
		commas += *last == ',';
	ck_assert_uint_eq(commas, 30);
	value = events("rank"); /* which reads every line as JSON */
	ck_assert_uint_gt(json_array_size(value), 200);
	json_decref(value);
	value = status();
	ck_assert_str_eq(json_string_value(json_object_get(value, "state")), "running");
	json_decref(value);
	run = must_open("r", false);
	ck_assert_str_eq(read_all(CSV "powerSGD_benchmark_*.csv"), columns);
	psgd_run_close(&run);
}
END_TEST

/* /dev/full takes nothing: the failure has a name, and nothing is half-written. */
START_TEST(full_disk_is_said)
{
	psgd_run *run = must_open("r", false);
	struct psgd_report report = a_report(0);
	struct psgd_iteration_row row = PSGD_INIT(psgd_iteration_row);
	DIR *dir = opendir("/proc/self/fd");
	char link[300], target[300], error[512];
	int full = open("/dev/full", O_WRONLY);

	for (struct dirent *entry; (entry = readdir(dir));) {
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/self/fd/%s", entry->d_name);
		n = readlink(link, target, sizeof(target) - 1);
		if (n > 0) {
			target[n] = '\0';
			if (strstr(target, "/powerSGD_benchmark_"))
				dup2(full, atoi(entry->d_name));
		}
	}
	closedir(dir);
	row.report = &report;
	ck_assert_int_eq(psgd_run_iteration(run, &row), PSGD_ERR_IO);
	psgd_run_error(run, error, sizeof(error));
	ck_assert_ptr_nonnull(strstr(error, "No space left on device"));
	ck_assert_ptr_nonnull(strstr(error, "cannot write r/powerSGD_benchmark_"));
	close(full);
	psgd_run_close(&run);
}
END_TEST

START_TEST(arguments)
{
	struct psgd_run_options options = PSGD_INIT(psgd_run_options);
	psgd_run *run = (psgd_run *)&options;

	ck_assert_int_eq(psgd_run_open(&options, &run), PSGD_ERR_INVALID);
	ck_assert_ptr_null(run);
	ck_assert_int_eq(psgd_run_open(NULL, &run), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_iteration(NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_epoch(NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_calibration(NULL, NULL, 0, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_event(NULL, "x", 0, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_finish(NULL, "failed", NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_state(NULL, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_run_dir(NULL, NULL, 0), PSGD_ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("run_folder");
	TCase *t = tcase_create("folder");

	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, status_follows);
	tcase_add_test(t, finished_runs_are_kept);
	tcase_add_test(t, failed_runs_are_replaced);
	tcase_add_test(t, running_runs_are_refused);
	tcase_add_test(t, reused_process_number);
	tcase_add_test(t, the_lock_decides);
	tcase_add_test(t, strange_status_files);
	tcase_add_test(t, folders);
	tcase_add_test(t, tables_elsewhere);
	tcase_add_test(t, benchmarks_elsewhere);
	tcase_add_loop_test(t, killed_writer_leaves_whole_rows, 0, 4);
	tcase_add_test(t, full_disk_is_said);
	tcase_add_test(t, arguments);
	tcase_set_timeout(t, 30);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
