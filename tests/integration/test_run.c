/* Whole runs: workers agree however they were started, and nothing is left when one dies. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "integration/harness.h"
#include "support/random.h"
#include "support/suite.h"

#define COLUMN_BYTES 65536

static char expected[COLUMN_BYTES], losses[COLUMN_BYTES];

static void write_config(const char *path, const char *iterations, const char *rest)
{
	char text[2048];

	snprintf(text, sizeof(text),
		"name: test\n"
		"seed: 7\n"
		"model: {name: mlp}\n"
		"dataset: {name: synthetic, batch_size: 16, train_limit: 512, test_limit: 64}\n"
		"training: {epochs: 1000, max_iterations: %s, learning_rate: 0.05}\n"
		"%s",
		iterations, rest);
	write_text(path, text);
}

static const char fixed_rank[] = "compression: {use_fixed_rank: true, fixed_rank_value: 2, "
				 "max_rank: 4, start_power_iterations: 2}\n";

static void check_finished(struct ended ended, const char *run_dir)
{
	char state[32];

	ck_assert_msg(ended.code == 0, "code %d\n%s%s", ended.code, ended.out, ended.err);
	ck_assert_ptr_nonnull(strstr(ended.out, "finished: "));
	read_state(run_dir, state, sizeof(state));
	ck_assert_str_eq(state, "finished");
	ck_assert_uint_eq(count_trainers(), 0);
}

static void run_standalone(const char *arguments, const char *run_dir, char *column)
{
	char line[512];

	snprintf(line, sizeof(line), "run fixed.yaml --standalone save_dir=%s %s", run_dir,
		arguments);
	check_finished(run_psgd(line, 100), run_dir);
	read_column(run_dir, "loss", column, COLUMN_BYTES);
}

START_TEST(same_seed_same_losses)
{
	write_config("fixed.yaml", "12", fixed_rank);
	run_standalone("--nproc-per-node 2", "a", expected);
	ck_assert_uint_eq(count_lines(expected), 12);
	run_standalone("--nproc_per_node=2", "b", losses);
	ck_assert_str_eq(expected, losses);
	run_standalone("--nproc-per-node=2 seed=8", "c", losses);
	ck_assert_str_ne(expected, losses);
}
END_TEST

/* Two supervisors of one run; the second may end a little after the first. */
static void check_both_finished(const struct started started[2], const char *run_dir)
{
	static struct ended ended[2];

	for (int i = 0; i < 2; i++)
		ended[i] = finish(started[i], 100);
	check_finished(ended[0], run_dir);
	check_finished(ended[1], run_dir);
}

/* Two supervisors with one worker each; `first` is started a second earlier. */
static void run_by_hand(int first, const char *run_dir)
{
	struct started started[2];
	unsigned port = free_port();
	char line[512];

	for (int i = 0; i < 2; i++) {
		int worker = i == 0 ? first : 1 - first;

		snprintf(line, sizeof(line),
			"run fixed.yaml save_dir=%s --rank %d --world-size 2 --master-port %u "
			"--rdzv-timeout 60",
			run_dir, worker, port);
		started[worker] = start_psgd(line);
		if (i == 0)
			sleep_s(1);
	}
	check_both_finished(started, run_dir);
	read_column(run_dir, "loss", losses, sizeof(losses));
}

START_TEST(by_hand_equals_standalone)
{
	write_config("fixed.yaml", "12", fixed_rank);
	run_standalone("--nproc-per-node 2", "a", expected);
	run_by_hand(0, "zero_first");
	ck_assert_str_eq(expected, losses);
	run_by_hand(1, "one_first");
	ck_assert_str_eq(expected, losses);
}
END_TEST

START_TEST(three_and_four_workers)
{
	char line[64], line_of_two_nodes[2][256];
	struct started nodes[2];
	unsigned port = free_port();

	write_config("fixed.yaml", "6", fixed_rank);
	for (int n = 3; n <= 4; n++) {
		snprintf(line, sizeof(line), "--nproc-per-node %d", n);
		run_standalone(line, n == 3 ? "three" : "four", expected);
		ck_assert_uint_eq(count_lines(expected), 6);
	}
	/* the same four as two nodes of two */
	for (int node = 0; node < 2; node++) {
		snprintf(line_of_two_nodes[node], sizeof(line_of_two_nodes[node]),
			"run fixed.yaml save_dir=nodes --nnodes 2 --node-rank %d "
			"--nproc-per-node 2 --rdzv-endpoint 127.0.0.1:%u",
			node, port);
		nodes[node] = start_psgd(line_of_two_nodes[node]);
	}
	check_both_finished(nodes, "nodes");
	read_column("nodes", "loss", losses, sizeof(losses));
	ck_assert_str_eq(expected, losses);
}
END_TEST

/*
 * Three workers whose kernels are plain C, AVX2 and AVX-512, through four ranks and dense training:
 * the parameters are compared in every iteration and at the end.
 */
START_TEST(kinds_of_cpu_agree)
{
	static const char *const cpus[] = {"plain", "avx2", "auto"};
	static struct ended ended;
	struct started workers[3];
	unsigned port = free_port();
	char line[256];

	/* 512 samples for 3 workers of 16: 10 iterations an epoch */
	write_config("fixed.yaml", "50",
		"compression: {max_rank: 8, start_power_iterations: 2, rank_schedule: {ranges: ["
		"{start_epoch: 0, end_epoch: 0, rank: 4}, {start_epoch: 1, end_epoch: 1, rank: 1}, "
		"{start_epoch: 2, end_epoch: 2, rank: 8}, "
		"{start_epoch: 3, end_epoch: 3, rank: dense}, "
		"{start_epoch: 4, end_epoch: 4, rank: 2}]}}\n"
		"rank_control: {cap: none, choice: schedule}\n"
		"communication: {check_every: 1}\n");
	for (int w = 2; w >= 0; w--) {
		ck_assert_int_eq(setenv("PSGD_CPU", cpus[w], 1), 0);
		snprintf(line, sizeof(line),
			"run fixed.yaml save_dir=cpus --rank %d --world-size 3 --master-port %u", w,
			port);
		workers[w] = start_psgd(line);
	}
	ck_assert_int_eq(unsetenv("PSGD_CPU"), 0);
	for (int w = 2; w >= 0; w--) {
		ended = finish(workers[w], 100);
		ck_assert_msg(ended.code == 0, "worker %d: %s", w, ended.err);
	}
	ck_assert_ptr_nonnull(
		strstr(read_text("cpus/events.jsonl"), "parameters bit-equal on all 3 workers"));
	read_column("cpus", "current_rank", losses, sizeof(losses));
	ck_assert_uint_eq(count_lines(losses), 50);
	for (const char *rank = "4\0001\0008\0000\0002\0"; *rank; rank += 2) {
		snprintf(line, sizeof(line), "\n%s\n", rank);
		ck_assert_msg(strstr(losses, line) != NULL, "never r=%s: %s", rank, losses);
	}
}
END_TEST

START_TEST(unusable_cpu_is_refused)
{
	struct ended ended;

	write_config("fixed.yaml", "2", fixed_rank);
	ck_assert_int_eq(setenv("PSGD_CPU", "sse9", 1), 0);
	ended = run_psgd("run fixed.yaml --standalone save_dir=no", 60);
	ck_assert_int_eq(unsetenv("PSGD_CPU"), 0);
	ck_assert_int_eq(ended.code, 2);
	ck_assert_msg(strstr(ended.err, "PSGD_CPU is \"sse9\", expected auto, plain, avx2 or "
					"avx512") != NULL,
		"%s", ended.err);
}
END_TEST

START_TEST(replay_repeats_an_adaptive_run)
{
	static char ranks[COLUMN_BYTES];

	write_config("fixed.yaml", "40",
		"compression: {min_rank: 1, max_rank: 8, start_power_iterations: 2}\n"
		"accordion: {enable: true, force_max_iters: 10, stride_iters: 5, "
		"rank_cooldown_iters: 5, lr_cooldown_iters: 5, threshold: 0.9}\n"
		"rank_control: {cap: live, choice: epochnorm, dwell_iters: 5}\n"
		"network_limits: {enable: true, method: model, bandwidth_mbps: 100, "
		"latency_ms: 1}\n");
	run_standalone("--nproc-per-node 2", "adaptive", expected);
	read_column("adaptive", "current_rank", ranks, sizeof(ranks));
	run_standalone("--nproc-per-node 2 rank_control.cap=none rank_control.choice=replay "
		       "rank_control.replay=adaptive/events.jsonl",
		"replay", losses);
	ck_assert_str_eq(expected, losses);
	read_column("replay", "current_rank", losses, sizeof(losses));
	ck_assert_str_eq(ranks, losses);
	/* a run that never changed its rank would prove nothing */
	losses[strcspn(losses, "\n") + 1] = '\0';
	ck_assert_msg(strspn(ranks, losses) < strlen(ranks), "the rank never changed");
}
END_TEST

/* A run that would take hours, under way. */
static struct started start_long(void)
{
	struct started started;

	write_config("fixed.yaml", "1000000", fixed_rank);
	started = start_psgd("run fixed.yaml --standalone --nproc-per-node 2 save_dir=long");
	ck_assert_msg(training_within("long", 60), "no iteration: %s", read_text("stderr.0"));
	ck_assert_uint_eq(count_trainers(), 2);
	return started;
}

static void check_killed_worker(unsigned worker)
{
	struct started started = start_long();
	char state[32], text[64], log[64];
	struct ended ended;
	double at;

	kill(find_trainer(worker), SIGKILL);
	at = now_s();
	ended = finish(started, 10);
	ck_assert_double_lt(now_s() - at, 10);
	ck_assert_int_eq(ended.code, 3);
	snprintf(text, sizeof(text), "worker %u was killed by signal 9 (first failure)", worker);
	ck_assert_msg(strstr(ended.err, text) != NULL, "%s", ended.err);
	/* the other one names it by itself */
	snprintf(text, sizeof(text), "worker %u", worker);
	snprintf(log, sizeof(log), "long/worker%u.log", 1 - worker);
	ck_assert_msg(strstr(read_text(log), text) != NULL, "%s", read_text(log));
	read_state("long", state, sizeof(state));
	ck_assert_str_eq(state, "failed");
	ck_assert(no_trainer_within(1));
}

START_TEST(killed_worker_is_named)
{
	check_killed_worker((unsigned)_i);
}
END_TEST

START_TEST(killed_supervisor_leaves_nothing)
{
	struct started started = start_long();

	kill(started.pid, SIGKILL);
	ck_assert_int_eq(finish(started, 5).code, 128 + SIGKILL);
	ck_assert(no_trainer_within(5));
}
END_TEST

#define AT_ONCE "run fixed.yaml --standalone --nproc-per-node 4 save_dir=r --overwrite"

/* The same command again, at once, whenever the first was killed: while it starts, too. */
START_TEST(killed_and_at_once_again)
{
	struct rng draws = {3};
	struct started started;
	static struct ended ended;

	write_config("fixed.yaml", "1000000", fixed_rank);
	for (int i = 0; i < 40; i++) {
		started = start_psgd(AT_ONCE);
		while (!exists("r/worker0.log") && now_s() < started.at + 20)
			;
		sleep_s(0.0001 * rng_range(&draws, 0, i % 2 ? 3000 : 30));
		kill(started.pid, SIGKILL);
		ended = finish(started, 20);
		ck_assert_msg(ended.code == 128 + SIGKILL, "code %d: %s", ended.code, ended.err);
		ck_assert_int_eq(unlink("r/worker0.log"), 0);
	}
	check_finished(run_psgd(AT_ONCE " training.max_iterations=4", 100), "r");
	ck_assert(!exists("r/psgd.lock"));
}
END_TEST

/* What the workers of a killed run left behind is waited for, in a line. */
START_TEST(leftovers_are_waited_for)
{
	struct started started;
	struct ended ended;
	double at;

	write_config("fixed.yaml", "4", fixed_rank);
	write_text("slow.sh", "sleep 2 & touch begun; wait");
	started = start_psgd("run fixed.yaml --standalone save_dir=r -- sh slow.sh");
	at = now_s();
	while (!exists("begun") && now_s() < at + 20)
		sleep_s(0.01);
	at = now_s();
	kill(started.pid, SIGKILL);
	finish(started, 20);
	ended = run_psgd("run fixed.yaml --standalone save_dir=r -- true", 30);
	ck_assert_msg(ended.code == 0, "code %d: %s", ended.code, ended.err);
	ck_assert_str_eq(ended.err, "psgd: r: waiting for the workers of a run that was killed\n");
	ck_assert_double_gt(now_s() - at, 1);
}
END_TEST

/* A trainer has its three, and what it inherits on purpose: nothing of the supervisor's. */
START_TEST(trainers_inherit_no_stray_descriptor)
{
	struct ended ended;
	const char *text;

	write_config("fixed.yaml", "4", fixed_rank);
	write_text("list.sh", "ls -l /proc/$$/fd >list");
	ended = run_psgd("run fixed.yaml --standalone save_dir=r -- sh list.sh", 30);
	ck_assert_msg(ended.code == 0, "code %d: %s", ended.code, ended.err);
	text = read_text("list");
	ck_assert_ptr_nonnull(strstr(text, " 0 -> /dev/null"));
	ck_assert_ptr_null(strstr(strstr(text, "/dev/null") + 1, "/dev/null"));
}
END_TEST

START_TEST(signals_end_a_run)
{
	static const int numbers[] = {SIGINT, SIGTERM};
	struct started started = start_long();
	char state[32];

	kill(started.pid, numbers[_i]);
	ck_assert_int_eq(finish(started, 15).code, 128 + numbers[_i]);
	ck_assert(no_trainer_within(1));
	read_state("long", state, sizeof(state));
	ck_assert_str_eq(state, "failed");
}
END_TEST

START_TEST(finished_run_is_kept)
{
	struct ended ended;

	write_config("fixed.yaml", "3", fixed_rank);
	run_standalone("--nproc-per-node 1", "done", expected);
	ended = run_psgd("run fixed.yaml --standalone save_dir=done", 20);
	ck_assert_int_eq(ended.code, 2);
	ck_assert_str_eq(ended.err, "psgd: done: holds a finished run; --overwrite replaces it, "
				    "save_dir=DIR makes another\n");
	read_column("done", "loss", losses, sizeof(losses));
	ck_assert_str_eq(expected, losses);
	run_standalone("--overwrite training.max_iterations=4", "done", losses);
	ck_assert_uint_eq(count_lines(losses), 4);
}
END_TEST

START_TEST(two_runs_do_not_share_a_folder)
{
	struct started started = start_long();
	struct ended ended = run_psgd("run fixed.yaml --standalone save_dir=long", 20);
	char text[128];

	ck_assert_int_eq(ended.code, 2);
	snprintf(text, sizeof(text), "psgd: long: another psgd run is writing here (process %d)\n",
		(int)started.pid);
	ck_assert_str_eq(ended.err, text);
	ck_assert_uint_eq(count_trainers(), 2);
	kill(started.pid, SIGTERM);
	finish(started, 15);
}
END_TEST

START_TEST(smoke_leaves_no_folder)
{
	struct ended ended;

	write_config("fixed.yaml", "100", fixed_rank);
	ended = run_psgd("run fixed.yaml --standalone --nproc-per-node 2 --smoke save_dir=s "
			 "benchmark_save_dir=b compression.calibration.save_dir=c "
			 "compression.calibration.enable=true compression.use_fixed_rank=false",
		60);
	ck_assert_msg(ended.code == 0, "%s%s", ended.out, ended.err);
	ck_assert_ptr_nonnull(strstr(ended.out, "finished: smoke test, 5 iterations, "));
	ck_assert_ptr_nonnull(
		strstr(ended.out, "checkpoint of iteration 5 written and read back\n"));
	ck_assert(!exists("s") && !exists("s.smoke"));
	ck_assert(!exists("b") && !exists("c"));
}
END_TEST

/* A smoke test compresses, however late the run begins to. */
START_TEST(smoke_compresses)
{
	static const struct {
		const char *settings, *line, *last;
	} cases[] = {
		{"compression.start_power_iterations=100",
			"\nsmoke test: 5 iterations, compression begins at iteration 2 (in the run "
			"at 100)\n",
			"  r=2  "},
		{"compression.start_power_iterations=5",
			"compression begins at iteration 2 (in the run at 5)\n", "  r=2  "},
		{"compression.start_power_iterations=4",
			"\nsmoke test: 5 iterations, compression begins at iteration 4\n",
			"  r=2  "},
		{"compression.enable_powerSGD=false",
			"\nsmoke test: 5 iterations, dense as the run\n", "  dense  "},
	};
	const char *last;
	struct ended ended;
	char line[256];

	write_config("fixed.yaml", "1000", fixed_rank);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(line, sizeof(line), "run fixed.yaml --standalone --smoke %s",
			cases[i].settings);
		ended = run_psgd(line, 60);
		ck_assert_msg(ended.code == 0, "%s%s", ended.out, ended.err);
		ck_assert_msg(strstr(ended.out, cases[i].line) != NULL, "%s", ended.out);
		last = strstr(ended.out, "  iter 5/5  ");
		ck_assert_msg(last && strstr(last, cases[i].last), "%s", ended.out);
	}
}
END_TEST

START_TEST(dry_run_touches_nothing)
{
	struct ended ended;

	write_config("fixed.yaml", "100", fixed_rank);
	ended = run_psgd("run --config fixed.yaml --nnodes=2 --node_rank=1 --nproc-per-node=2 "
			 "--rdzv-endpoint=10.0.0.1:4000 --dry-run save_dir=s -- /bin/false x",
		20);
	ck_assert_int_eq(ended.code, 0);
	ck_assert_ptr_nonnull(strstr(ended.out, "workers 2 to 3 of 4 (flags), 10.0.0.1:4000\n"));
	ck_assert_ptr_nonnull(strstr(ended.out, "worker 3:\n  command: /bin/false x\n"));
	ck_assert_ptr_nonnull(
		strstr(ended.out, "    RANK=3\n    WORLD_SIZE=4\n    LOCAL_RANK=1\n"));
	ck_assert_ptr_nonnull(strstr(ended.out, "max_iterations: 100\n"));
	ck_assert_ptr_nonnull(strstr(ended.out, "    NCCL_DEBUG=WARN\n"));
	ck_assert_ptr_null(strstr(ended.out, "NCCL_SOCKET_IFNAME"));
	ck_assert_ptr_nonnull(
		strstr(ended.out, "    PSGD_COMMAND_LINE=psgd run --config fixed.yaml "));
	ck_assert(!exists("s"));
}
END_TEST

/* What the user has not said, and only where NCCL may be used. */
START_TEST(nccl_gets_its_variables)
{
	static const struct {
		const char *set, *arguments;
		bool debug, interface;
	} cases[] = {
		{NULL, "--ifname=eth7", true, true},
		{NULL, "communication.interface=eth7 device=cuda", true, true},
		{"NCCL_DEBUG", "--ifname=eth7", false, true},
		{"NCCL_SOCKET_IFNAME", "--ifname=eth7", true, false},
		{NULL, "--ifname=eth7 device=cpu", false, false},
		{NULL, "--ifname=eth7 communication.transport=gloo", false, false},
	};

	write_config("fixed.yaml", "100", fixed_rank);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ended ended;
		char line[256];

		if (cases[i].set)
			setenv(cases[i].set, "mine", 1);
		snprintf(line, sizeof(line), "run fixed.yaml --nnodes=2 --node-rank=0 --dry-run %s",
			cases[i].arguments);
		ended = run_psgd(line, 20);
		if (cases[i].set)
			unsetenv(cases[i].set);
		ck_assert_msg(ended.code == 0, "%s", ended.err);
		ck_assert(cases[i].debug == !!strstr(ended.out, "    NCCL_DEBUG=WARN\n"));
		ck_assert(cases[i].interface ==
			  !!strstr(ended.out, "    NCCL_SOCKET_IFNAME==eth7\n"));
		ck_assert_ptr_null(strstr(ended.out, "NCCL_NET"));
	}
}
END_TEST

/* A machine without CUDA is named before anything is started or made. */
START_TEST(no_cuda_starts_nothing)
{
	struct ended ended;

	write_config("fixed.yaml", "100", fixed_rank);
	setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
	ended = run_psgd("run fixed.yaml --standalone device=cuda save_dir=s", 60);
	ck_assert_int_eq(ended.code, 5);
	ck_assert_int_eq(strncmp(ended.err, "psgd: device: cuda: ", 20), 0);
	ck_assert_uint_eq(count_lines(ended.err), 1);
	ck_assert(!exists("s"));
	ended = run_psgd("run fixed.yaml --standalone communication.transport=nccl save_dir=s", 60);
	ck_assert_int_eq(ended.code, 5);
	ck_assert_int_eq(strncmp(ended.err, "psgd: communication.transport: nccl: ", 37), 0);
	ck_assert(!exists("s"));
	ended = run_psgd("selftest --device cuda", 60);
	ck_assert_int_eq(ended.code, 5);
	ck_assert_int_eq(strncmp(ended.err, "psgd selftest: ", 15), 0);
	ended = run_psgd("bench compress --device cuda", 60);
	ck_assert_int_eq(ended.code, 5);
	ck_assert_int_eq(strncmp(ended.err, "psgd bench: --device cuda: ", 27), 0);
}
END_TEST

START_TEST(info_in_words_and_json)
{
	struct ended ended = run_psgd("info", 60);
	const char *name, *kernels;
	int gloo, cuda, nccl;
	json_t *all;

	ck_assert_int_eq(ended.code, 0);
	ck_assert_ptr_nonnull(strstr(ended.out, "\n  gloo      found\n"));
	ck_assert_ptr_nonnull(strstr(ended.out, "\n  cuda      "));
	ck_assert_ptr_nonnull(strstr(ended.out, "\n  nccl      "));
	ended = run_psgd("info --json", 60);
	ck_assert_int_eq(ended.code, 0);
	all = json_loads(ended.out, 0, NULL);
	ck_assert_int_eq(json_unpack(all, "{s:s, s:{s:s}, s:{s:{s:b}, s:{s:b}, s:{s:b}}}", "psgd",
				 &name, "processor", "kernels", &kernels, "modules", "gloo",
				 "found", &gloo, "cuda", "found", &cuda, "nccl", "found", &nccl),
		0);
	ck_assert_int_eq(gloo, 1);
	for (int i = 0; i < 2; i++) {
		const json_t *module =
			json_object_get(json_object_get(all, "modules"), i ? "nccl" : "cuda");

		/* It is there, or it is said why not. */
		ck_assert((i ? nccl : cuda) || json_is_string(json_object_get(module, "why")));
	}
	json_decref(all);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("run");
	TCase *c = tcase_create("run");

	tcase_set_timeout(c, 240);
	tcase_add_checked_fixture(c, enter_folder, leave_folder);
	tcase_add_test(c, same_seed_same_losses);
	tcase_add_test(c, by_hand_equals_standalone);
	tcase_add_test(c, three_and_four_workers);
	tcase_add_test(c, kinds_of_cpu_agree);
	tcase_add_test(c, unusable_cpu_is_refused);
	tcase_add_test(c, replay_repeats_an_adaptive_run);
	tcase_add_loop_test(c, killed_worker_is_named, 0, 2);
	tcase_add_test(c, killed_supervisor_leaves_nothing);
	tcase_add_test(c, killed_and_at_once_again);
	tcase_add_test(c, leftovers_are_waited_for);
	tcase_add_test(c, trainers_inherit_no_stray_descriptor);
	tcase_add_loop_test(c, signals_end_a_run, 0, 2);
	tcase_add_test(c, finished_run_is_kept);
	tcase_add_test(c, two_runs_do_not_share_a_folder);
	tcase_add_test(c, smoke_leaves_no_folder);
	tcase_add_test(c, smoke_compresses);
	tcase_add_test(c, dry_run_touches_nothing);
	tcase_add_test(c, nccl_gets_its_variables);
	tcase_add_test(c, no_cuda_starts_nothing);
	tcase_add_test(c, info_in_words_and_json);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
