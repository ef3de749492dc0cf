/* Killed runs go on to the bit: ten kills of everything, and the records of a run never killed. */
#include <dirent.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "integration/harness.h"
#include "support/random.h"
#include "support/suite.h"

#define COLUMN_BYTES 65536
#define N_KILLS 10

static void write_config(const char *path, const char *rest)
{
	char text[2048];

	snprintf(text, sizeof(text),
		"name: test\n"
		"seed: 7\n"
		"model: {name: resnet8}\n"
		"dataset: {name: synthetic, batch_size: 8, train_limit: 208, test_limit: 32}\n"
		"training: {epochs: 1000, max_iterations: 90, learning_rate: 0.02}\n"
		"checkpoint: {every_epochs: 1, every_iters: 3, keep: 2}\n"
		"communication: {measure: false}\n"
		"%s",
		rest);
	write_text(path, text);
}

static const char fixed_rank[] = "compression: {use_fixed_rank: true, fixed_rank_value: 2, "
				 "max_rank: 4, start_power_iterations: 2}\n";

static struct ended run(const char *format, const char *run_dir, const char *rest)
{
	char line[512];

	snprintf(line, sizeof(line), format, run_dir, rest);
	return run_psgd(line, 200);
}

#define TWO "run test.yaml --standalone --nproc-per-node 2 save_dir=%s %s"

static void check_finished(struct ended ended, const char *run_dir)
{
	char state[32];

	ck_assert_msg(ended.code == 0, "code %d\n%s%s", ended.code, ended.out, ended.err);
	read_state(run_dir, state, sizeof(state));
	ck_assert_str_eq(state, "finished");
}

/* ---- what must be equal ---- */

static const char *find_one(const char *pattern)
{
	static char path[512];
	glob_t found;

	ck_assert_msg(glob(pattern, 0, NULL, &found) == 0, "no %s", pattern);
	ck_assert_uint_eq(found.gl_pathc, 1);
	snprintf(path, sizeof(path), "%s", found.gl_pathv[0]);
	globfree(&found);
	return path;
}

/* All fields of a CSV but the one of that index, -1: none. */
static void read_csv(const char *run_dir, const char *file, int without, char *out)
{
	char pattern[256];
	const char *text;
	size_t used = 0;
	int index = 0;

	snprintf(pattern, sizeof(pattern), "%s/%s", run_dir, file);
	text = read_text(find_one(pattern));
	for (; *text; text++) {
		if (index != without)
			out[used++] = *text;
		if (*text == ',' || *text == '\n')
			index = *text == ',' ? index + 1 : 0;
		ck_assert_uint_lt(used, COLUMN_BYTES);
	}
	out[used] = '\0';
}

/* All but times and memory, which differ from run to run. */
static const char *const columns[] = {"epoch", "iteration", "compression_ratio", "loss", "accuracy",
	"powerSGD_active", "current_rank", "raw_bytes", "payload_bytes", "learning_rate",
	"rank_cap", "rank_choice", "n_messages", "control_bytes", "sent_bytes", "sync_bytes",
	"configured_mbps"};

static void check_equal(const char *run_dir, const char *other)
{
	static char expected[COLUMN_BYTES], seen[COLUMN_BYTES];

	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
		read_column(run_dir, columns[i], expected, sizeof(expected));
		read_column(other, columns[i], seen, sizeof(seen));
		ck_assert_msg(strcmp(expected, seen) == 0, "%s:\n%s\nnot\n%s", columns[i], seen,
			expected);
	}
	read_csv(run_dir, "accuracy/accuracy_results.csv", 3, expected);
	read_csv(other, "accuracy/accuracy_results.csv", 3, seen);
	ck_assert_str_eq(expected, seen);
	read_csv(run_dir, "benchmark/*/csv/epoch_accuracy.csv", -1, expected);
	read_csv(other, "benchmark/*/csv/epoch_accuracy.csv", -1, seen);
	ck_assert_str_eq(expected, seen);
}

/* The hash in "parameters bit-equal on all N workers (hash ...)" of a run's last end. */
static void read_hash(const char *run_dir, char out[17])
{
	char path[256];
	const char *at, *last = NULL;

	snprintf(path, sizeof(path), "%s/events.jsonl", run_dir);
	for (at = read_text(path); (at = strstr(at, "(hash ")); at++)
		last = at;
	ck_assert_ptr_nonnull(last);
	snprintf(out, 17, "%.16s", last + 6);
}

static void check_same_hash(const char *run_dir, const char *other)
{
	char expected[17], seen[17];

	read_hash(run_dir, expected);
	read_hash(other, seen);
	ck_assert_str_eq(expected, seen);
}

/* elapsed_time goes on, so that it only grows. */
static void check_times(const char *run_dir)
{
	char path[256];
	const char *line;
	double before = 0, now;

	snprintf(path, sizeof(path), "%s/accuracy/accuracy_results.csv", run_dir);
	line = strchr(read_text(path), '\n');
	for (; line && line[1]; line = strchr(line + 1, '\n')) {
		ck_assert_int_eq(sscanf(line + 1, "%*[^,],%*[^,],%*[^,],%lf", &now), 1);
		ck_assert_msg(now > before, "%g after %g", now, before);
		before = now;
	}
	ck_assert(before > 0);
}

/* ---- killing ---- */

/* The newest checkpoint folder, complete or not; -1: none. */
static int newest_folder(const char *run_dir)
{
	char path[256];
	struct dirent *entry;
	int newest = -1, n;
	DIR *folder;

	snprintf(path, sizeof(path), "%s/ckpt", run_dir);
	folder = opendir(path);
	while (folder && (entry = readdir(folder))) {
		if (sscanf(entry->d_name, "iter_%d", &n) == 1 && n > newest)
			newest = n;
	}
	if (folder)
		closedir(folder);
	return newest;
}

/* A kill at any moment: of the start, or soon after a checkpoint's writing has begun. */
static void kill_once(const char *run_dir, const char *rest, struct rng *draws)
{
	int begin = newest_folder(run_dir), steps = (int)rng_range(draws, 3, 7);
	double after = rng_range(draws, 0, 3) ? 200 : 0.02 * rng_range(draws, 1, 60);
	double until = now_s() + after;
	char line[512];
	struct started started;
	struct ended ended;

	snprintf(line, sizeof(line), TWO " --resume auto", run_dir, rest);
	started = start_psgd(line);
	while (now_s() < until && newest_folder(run_dir) < begin + steps)
		sleep_s(0.0005);
	sleep_s(0.0005 * rng_range(draws, 0, 40));
	kill(started.pid, SIGKILL);
	ended = finish(started, 60);
	ck_assert_msg(ended.code == 128 + SIGKILL, "code %d\n%s", ended.code, ended.err);
	ck_assert(no_trainer_within(20));
}

static void kill_and_go_on(const char *run_dir, const char *rest, uint64_t seed)
{
	struct rng draws = {seed};
	char auto_rest[256];
	unsigned n_resumed = 0;

	for (int i = 0; i < N_KILLS; i++)
		kill_once(run_dir, rest, &draws);
	snprintf(auto_rest, sizeof(auto_rest), "%s --resume auto", rest);
	check_finished(run(TWO, run_dir, auto_rest), run_dir);
	snprintf(auto_rest, sizeof(auto_rest), "%s/events.jsonl", run_dir);
	for (const char *at = read_text(auto_rest); (at = strstr(at, "\"resume\"")); at++)
		n_resumed++;
	ck_assert_uint_ge(n_resumed, N_KILLS / 3);
	check_times(run_dir);
}

START_TEST(ten_kills_fixed)
{
	write_config("test.yaml", fixed_rank);
	check_finished(run(TWO, "whole", ""), "whole");
	kill_and_go_on("killed", "", 11);
	check_equal("whole", "killed");
	check_same_hash("whole", "killed");
}
END_TEST

#define REPLAY                                                                                     \
	"rank_control.cap=none rank_control.choice=replay "                                        \
	"rank_control.replay=%s/events.jsonl network_limits.enable=false"

/*
 * A run whose ranks depend on times is killed and goes on; its recording repeats it whole, and
 * repeats it killed.
 */
START_TEST(ten_kills_replay)
{
	static char ranks[COLUMN_BYTES];
	char replay[256];

	write_config("test.yaml",
		"compression: {min_rank: 1, max_rank: 8, start_power_iterations: 2}\n"
		"accordion: {enable: true, force_max_iters: 10, stride_iters: 5, "
		"rank_cooldown_iters: 5, lr_cooldown_iters: 5, threshold: 0.9}\n"
		"rank_control: {cap: live, choice: epochnorm, dwell_iters: 5}\n"
		"network_limits: {enable: true, method: model, bandwidth_mbps: 100, "
		"latency_ms: 1}\n");
	kill_and_go_on("adaptive", "communication.measure=true", 12);
	read_column("adaptive", "current_rank", ranks, sizeof(ranks));
	ck_assert_msg(strspn(ranks, (char[]){ranks[0], '\n', '\0'}) < strlen(ranks),
		"the rank never changed");
	snprintf(replay, sizeof(replay), REPLAY, "adaptive");
	check_finished(run(TWO, "whole", replay), "whole");
	check_same_hash("adaptive", "whole");
	kill_and_go_on("killed", replay, 13);
	check_equal("whole", "killed");
	check_same_hash("whole", "killed");
}
END_TEST

/*
 * Layers with ranks of their own, batch norm over all workers, steps of two batches and a
 * calibration: all of it goes on, and the ranks of layers are repeated from the recording.
 */
START_TEST(everything_goes_on)
{
	struct rng draws = {14};
	char replay[256];

	write_config("test.yaml",
		"compression: {min_rank: 1, max_rank: 8, base_rank: 4, start_power_iterations: 2, "
		"enable_adaptive_sync: true, calibration: {enable: true, ranks: [1, 2, 8], "
		"warmup_iters: 1, measure_iters: 1, force_start_iter: 5, "
		"comm_ratio_threshold: 1.0}}\n"
		"rank_control: {cap: calibration, choice: lgreco}\n"
		"lgreco: {adjust_iters: 8, sample_iters: 3}\n"
		"adaptive_training: {enable: true, stages: [{name: two, start_epoch: 1, "
		"end_epoch: 2, base_sync_frequency: 2}]}\n");
	for (int i = 0; i < 5; i++)
		kill_once("r", "model.sync_batchnorm=true training.max_iterations=60", &draws);
	check_finished(run(TWO, "r",
			       "model.sync_batchnorm=true training.max_iterations=60 "
			       "--resume auto"),
		"r");
	ck_assert_ptr_nonnull(strstr(read_text("r/events.jsonl"), "\"ranks\":["));
	snprintf(replay, sizeof(replay),
		REPLAY " model.sync_batchnorm=true training.max_iterations=60 "
		       "compression.calibration.enable=false",
		"r");
	check_finished(run(TWO, "replay", replay), "replay");
	check_same_hash("r", "replay");
}
END_TEST

/* The rows of a calibration are kept until the cap that was chosen is marked in them. */
START_TEST(calibration_waits_for_its_verdict)
{
	const char *table = "r/calibration_rank_stats.csv";

	write_config("test.yaml",
		"compression: {min_rank: 1, max_rank: 8, start_power_iterations: 0, "
		"calibration: {enable: true, ranks: [1, 8], warmup_iters: 1, measure_iters: 1, "
		"force_start_iter: 3}}\n");
	check_finished(run(TWO, "r", "training.max_iterations=4"), "r");
	ck_assert_ptr_nonnull(strstr(read_text(table), ",False"));
	ck_assert_ptr_null(strstr(read_text(table), ",True"));
	check_finished(run(TWO, "r", "training.max_iterations=8 --resume auto"), "r");
	ck_assert_ptr_nonnull(strstr(read_text(table), ",True"));
}
END_TEST

/* ---- workers that share no disk ---- */

/* Worker w in its own folder, the last first; kill_s 0: to the end. */
static void run_apart(const char *rest, double kill_s, const char *watched, int until)
{
	static struct ended ended;
	struct started workers[3];
	unsigned port = free_port();
	double deadline = now_s() + kill_s;
	char line[512];

	for (int w = 2; w >= 0; w--) {
		snprintf(line, sizeof(line),
			"run test.yaml save_dir=own%d --rank %d --world-size 3 --master-port %u %s",
			w, w, port, rest);
		workers[w] = start_psgd(line);
	}
	while (kill_s > 0 && now_s() < deadline && newest_folder(watched) < until)
		sleep_s(0.001);
	for (int w = 2; w >= 0 && kill_s > 0; w--)
		kill(workers[w].pid, SIGKILL);
	for (int w = 2; w >= 0; w--) {
		ended = finish(workers[w], 200);
		ck_assert_msg(ended.code == (kill_s > 0 ? 128 + SIGKILL : 0), "worker %d: %d %s", w,
			ended.code, ended.err);
	}
	ck_assert(no_trainer_within(20));
}

static void flip_byte(const char *path, long at, int whence)
{
	FILE *file = fopen(path, "r+");
	int byte;

	ck_assert_msg(file != NULL, "%s", path);
	ck_assert_int_eq(fseek(file, at, whence), 0);
	byte = fgetc(file);
	ck_assert_int_eq(fseek(file, at, whence), 0);
	fputc(byte ^ 1, file);
	ck_assert_int_eq(fclose(file), 0);
}

/* The newest is damaged on one worker, the second is missing on another: the third is used. */
START_TEST(every_worker_has_its_own)
{
	const char *log;

	write_config("test.yaml", fixed_rank);
	check_finished(run("run test.yaml --standalone --nproc-per-node 3 save_dir=%s %s", "whole",
			       "training.max_iterations=40"),
		"whole");
	run_apart("training.max_iterations=21 checkpoint.keep=3", 0, NULL, 0);
	ck_assert(exists("own1/ckpt/iter_00000021/worker1.json"));
	ck_assert(!exists("own1/ckpt/iter_00000021/worker0.json"));
	ck_assert(!exists("own1/ckpt/iter_00000012"));
	flip_byte("own2/ckpt/iter_00000021/worker2.safetensors", -100, SEEK_END);
	ck_assert_int_eq(unlink("own1/ckpt/iter_00000018/worker1.json"), 0);
	run_apart("training.max_iterations=40 --resume auto", 0, NULL, 0);
	log = read_text("own2/worker2.log");
	ck_assert_msg(strstr(log, "own2/ckpt/iter_00000021: worker 2's checkpoint is not used: its "
				  "values are damaged") != NULL,
		"%s", log);
	log = read_text("own1/worker1.log");
	ck_assert_msg(strstr(log, "iter_00000018: worker 1's checkpoint is not used: it was not "
				  "written to its end") != NULL,
		"%s", log);
	log = read_text("own0/worker0.log");
	/* of every third iteration and of the epochs' ends, each of 8 */
	ck_assert_msg(
		strstr(log, "own0: the run goes on from its checkpoint of iteration 16") != NULL,
		"%s", log);
	check_equal("whole", "own0");
	check_same_hash("whole", "own0");
}
END_TEST

/* ---- what is refused, and what is not ---- */

/* The 64 digits of sha256sum. */
static void sum_of(const char *path, char out[65])
{
	char command[256];
	FILE *pipe;

	snprintf(command, sizeof(command), "sha256sum %s", path);
	pipe = popen(command, "r");
	ck_assert_ptr_nonnull(pipe);
	ck_assert_int_eq(fscanf(pipe, "%64s", out), 1);
	ck_assert_int_eq(pclose(pipe), 0);
}

/* Where the first array of that name's beginning has its values; the header is JSON in one line. */
static long values_at(const char *path, const char *name)
{
	static char header[1 << 20];
	unsigned char length[8];
	FILE *file = fopen(path, "r");
	const char *at;
	long offset;
	size_t n = 0;

	ck_assert_msg(file != NULL, "%s", path);
	ck_assert_uint_eq(fread(length, 1, 8, file), 8);
	for (int i = 8; i-- > 0;)
		n = n << 8 | length[i];
	ck_assert_uint_lt(n, sizeof(header));
	ck_assert_uint_eq(fread(header, 1, n, file), n);
	header[n] = '\0';
	fclose(file);
	at = strstr(header, name);
	ck_assert_msg(at != NULL, "%s has no %s", path, name);
	at = strstr(at, "\"data_offsets\":[");
	ck_assert(at && sscanf(at, "\"data_offsets\":[%ld", &offset) == 1);
	return 8 + (long)n + offset;
}

/* Changes the last bit of an array's first value, and the manifest so that nobody notices. */
static void alter(const char *checkpoint, const char *name)
{
	char values[128], manifest[128], before[65], after[65], *text, *at;

	snprintf(values, sizeof(values), "%s.safetensors", checkpoint);
	snprintf(manifest, sizeof(manifest), "%s.json", checkpoint);
	sum_of(values, before);
	flip_byte(values, values_at(values, name), SEEK_SET);
	sum_of(values, after);
	ck_assert_str_ne(before, after);
	text = strdup(read_text(manifest));
	at = strstr(text, before);
	ck_assert_msg(at != NULL, "%s: %s", manifest, text);
	memcpy(at, after, 64);
	write_text(manifest, text);
	free(text);
}

static void refused(const char *rest, const char *why)
{
	struct ended ended = run_psgd(rest, 100);
	char state[32];

	ck_assert_msg(ended.code == 2, "%s: code %d\n%s", rest, ended.code, ended.err);
	ck_assert_msg(strstr(ended.err, why) != NULL, "%s: %s", rest, ended.err);
	read_state("r", state, sizeof(state));
	ck_assert_str_ne(state, "running");
}

#define R "run test.yaml --standalone save_dir=r --nproc-per-node "

START_TEST(refusals)
{
	struct ended ended;
	char line[256];

	write_config("test.yaml", fixed_rank);
	check_finished(run(TWO, "r", "training.max_iterations=6"), "r");
	refused(R "3 --resume auto", "r/ckpt is of 2 workers, this run has 3");
	refused(R "2 --resume auto model.name=resnet20",
		"another configuration: model.name: it has resnet8, this run has resnet20");
	refused(R "2 --resume auto seed=8", "seed: it has 7, this run has 8");
	refused(R "2 --resume r dataset.batch_size=4", "dataset.batch_size: it has 8");
	refused(R "2 --resume r/ckpt/iter_00000001", "r: nothing to resume");
	refused(R "2 --resume nowhere", "there is no run folder nowhere");
	refused(R "2 --resume auto --overwrite", "--resume keeps what --overwrite removes");
	refused(R "2", "holds a finished run");
	/* nothing of this has touched it */
	ended = run_psgd(R "2 --resume auto training.max_iterations=6", 100);
	check_finished(ended, "r");
	ck_assert_msg(strstr(ended.err, "r: the run has finished, nothing is left to do") != NULL,
		"%s", ended.err);
	/* named by its older checkpoint, from another folder of the configuration */
	refused("run test.yaml --standalone save_dir=k --resume r/ckpt/iter_00000003",
		"psgd: --resume r/ckpt/iter_00000003 goes on in r, not in save_dir=k: ");
	refused("run test.yaml --standalone --nproc-per-node 2 --resume r/ckpt/iter_00000003",
		"psgd: r: holds a finished run, with a checkpoint of iteration 6; --overwrite "
		"replaces what came after iteration 3\n");
	ck_assert(!exists("k") && exists("r/ckpt/iter_00000006"));
	snprintf(line, sizeof(line),
		"run test.yaml --standalone --nproc-per-node 2 training.max_iterations=9 "
		"--overwrite save_dir=./r --resume r/ckpt/iter_%08d",
		3);
	check_finished(run_psgd(line, 100), "r");
	ck_assert(!exists("results"));
	ck_assert(exists("r/ckpt/iter_00000009"));
	check_finished(run(TWO, "whole", "training.max_iterations=9"), "whole");
	check_equal("whole", "r");
	check_same_hash("whole", "r");
}
END_TEST

/* No sum of a file tells that workers hold different things; training must not go on from them. */
START_TEST(unequal_workers_do_not_go_on)
{
	static const char *const names[] = {"\"trainer/params/", "\"trainer/momentum/"};
	const char *checkpoint = "r/ckpt/iter_00000006/worker1";
	static struct ended ended;
	char seen[COLUMN_BYTES];

	write_config("test.yaml", fixed_rank);
	check_finished(run(TWO, "r", "training.max_iterations=6"), "r");
	for (size_t i = 0; i < 2; i++) {
		alter(checkpoint, names[i]);
		ended = run(TWO, "r", "training.max_iterations=9 --resume auto");
		ck_assert_int_eq(ended.code, 1);
		ck_assert_msg(strstr(ended.err, "parameters, momentum or position on worker 1 "
						"differ from worker 0's") != NULL,
			"%s", ended.err);
		read_column("r", "iteration", seen, sizeof(seen));
		ck_assert_str_eq(seen, "0\n1\n2\n3\n4\n5\n");
		alter(checkpoint, names[i]); /* as it was */
	}
	check_finished(run(TWO, "r", "training.max_iterations=9 --resume auto"), "r");
}
END_TEST

START_TEST(unfinished_run_is_kept)
{
	struct rng draws = {5};
	struct ended ended;

	write_config("test.yaml", fixed_rank);
	while (newest_folder("r") < 6)
		kill_once("r", "", &draws);
	ended = run(TWO, "r", "");
	ck_assert_int_eq(ended.code, 2);
	ck_assert_msg(
		strstr(ended.err, "--resume auto goes on from it, --overwrite begins anew") != NULL,
		"%s", ended.err);
	ended = run(TWO, "r", "--overwrite training.max_iterations=4");
	check_finished(ended, "r");
	ck_assert_int_eq(newest_folder("r"), 4);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("resume");
	TCase *c = tcase_create("resume");

	tcase_set_timeout(c, 400);
	tcase_add_checked_fixture(c, enter_folder, leave_folder);
	tcase_add_test(c, ten_kills_fixed);
	tcase_add_test(c, ten_kills_replay);
	tcase_add_test(c, everything_goes_on);
	tcase_add_test(c, calibration_waits_for_its_verdict);
	tcase_add_test(c, every_worker_has_its_own);
	tcase_add_test(c, refusals);
	tcase_add_test(c, unequal_workers_do_not_go_on);
	tcase_add_test(c, unfinished_run_is_kept);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
