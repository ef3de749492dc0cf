/* A trainer after `--': what is the supervisor's part, and how the run is said to have ended. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/harness.h"
#include "support/suite.h"

static void write_config(void)
{
	write_text("fixed.yaml",
		"name: test\n"
		"model: {name: mlp}\n"
		"dataset: {name: synthetic, batch_size: 16, train_limit: 64, test_limit: 16}\n"
		"training: {epochs: 3, max_iterations: 3, learning_rate: 0.05}\n");
}

/* A trainer that is not ours: environment, exit codes, and groups are the supervisor's part. */
START_TEST(foreign_trainer)
{
	struct ended ended;

	write_config();
	write_text("trainer.sh", "[ $RANK = 1 ] || exec sleep 60\n"
				 "echo $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR\n"
				 "test -f $PSGD_CONFIG || exit 7\n"
				 "sleep 1000 &\n"
				 "echo last words >&2\n"
				 "exit 4\n");
	ended = run_psgd("run fixed.yaml --standalone --nproc-per-node 2 save_dir=s -- sh "
			 "trainer.sh",
		20);
	ck_assert_int_eq(ended.code, 4);
	ck_assert_str_eq(ended.err,
		"worker 1 exited with code 4 (first failure); last lines of s/worker1.log:\n"
		"2 1 2 127.0.0.1\nlast words\n");
	ck_assert_double_gt(ended.seconds, 4.5); /* the others are given 5 s */
	ck_assert(no_trainer_within(1));
}
END_TEST

static void status_is(const char *run_dir, const char *expected)
{
	char state[32];

	read_state(run_dir, state, sizeof(state));
	ck_assert_str_eq(state, expected);
}

/* status.json is the supervisor's where the trainer has none, and else the trainer's. */
START_TEST(foreign_status)
{
	static const char *const forces[] = {"", "--overwrite "};
	struct ended ended;
	char line[256];

	write_config();
	write_text("see.sh", "grep -q '\"state\": \"running\"' $PSGD_RUN_DIR/status.json\n");
	for (size_t i = 0; i < 2; i++) {
		ended = run_psgd("run fixed.yaml --standalone save_dir=s -- /bin/false", 20);
		ck_assert_int_eq(ended.code, i == 0 ? 1 : 2);
		status_is("s", i == 0 ? "failed" : "finished");
		snprintf(line, sizeof(line),
			"run fixed.yaml --standalone %ssave_dir=s -- sh see.sh", forces[i]);
		ended = run_psgd(line, 20);
		ck_assert_msg(ended.code == 0, "%s", ended.err);
		status_is("s", "finished");
		ck_assert_ptr_null(strstr(read_text("s/status.json"), "exited with"));
	}
	run_psgd("run fixed.yaml --standalone --overwrite save_dir=s -- /bin/false", 20);
	status_is("s", "failed");
	ended = run_psgd("run fixed.yaml --standalone --resume s -- /bin/true", 20);
	ck_assert_int_eq(ended.code, 0);
	status_is("s", "finished");
	/* of a trainer with a word of its own */
	snprintf(line, sizeof(line), "run fixed.yaml --standalone save_dir=t -- %s",
		getenv("TRAINER_BIN"));
	ended = run_psgd(line, 60);
	ck_assert_msg(ended.code == 0, "%s", ended.err);
	status_is("t", "finished");
	ck_assert_ptr_nonnull(strstr(read_text("t/status.json"), "\"test_accuracy\": "));
	write_text("own.sh", "rm $PSGD_RUN_DIR/status.json\n"
			     "echo '{\"state\": \"failed\", \"error\": \"mine\"}' "
			     "> $PSGD_RUN_DIR/status.json\n"
			     "exit $1\n");
	for (int code = 0; code < 2; code++) {
		snprintf(line, sizeof(line),
			"run fixed.yaml --standalone save_dir=u -- sh own.sh %d", code);
		ended = run_psgd(line, 20);
		ck_assert_int_eq(ended.code, code);
		ck_assert_ptr_nonnull(strstr(read_text("u/status.json"), "\"mine\""));
	}
}
END_TEST

/* The model is in a psgd_stack, and the line must be true of any trainer. */
START_TEST(foreign_limits)
{
	struct ended ended;

	write_config();
	ended = run_psgd("run fixed.yaml --standalone save_dir=s network_limits.enable=true "
			 "network_limits.bandwidth_mbps=100 -- /bin/true",
		20);
	ck_assert_int_eq(ended.code, 0);
	ck_assert_msg(strstr(ended.out, "network limited by model, in each worker that opens a "
					"psgd_stack (method ") != NULL,
		"%s", ended.out);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("foreign");
	TCase *c = tcase_create("foreign");

	tcase_set_timeout(c, 240);
	tcase_add_checked_fixture(c, enter_folder, leave_folder);
	tcase_add_test(c, foreign_trainer);
	tcase_add_test(c, foreign_status);
	tcase_add_test(c, foreign_limits);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
