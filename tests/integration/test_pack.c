/* psgd-train-image --pack: from class folders to a run, and what a mistake or a signal leaves. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/pack_files.h"
#include "integration/harness.h"
#include "support/suite.h"

#define COLUMN_BYTES 65536

static void enter(void)
{
	enter_folder();
	snprintf(work, sizeof(work), "%s", folder());
}

static struct ended run_trainer(const char *arguments)
{
	return finish(start_program("TRAINER_BIN", arguments), 60);
}

/* Three classes of dark, grey and light images. */
static void write_images(unsigned n_train, unsigned n_test)
{
	char name[64];

	for (unsigned i = 0; i < n_train + n_test; i++) {
		snprintf(name, sizeof(name), "in/%s/c%u/%05u.png", i < n_train ? "train" : "test",
			i % 3, i);
		write_shades(name, i % 3 * 5 + i / 3 % 2);
	}
}

static void losses_of(const char *run_dir, const char *arguments, char *out)
{
	struct ended ended;
	char line[512];

	snprintf(line, sizeof(line), "run packed.yaml --standalone save_dir=%s %s", run_dir,
		arguments);
	ended = run_psgd(line, 100);
	ck_assert_msg(ended.code == 0, "code %d\n%s%s", ended.code, ended.out, ended.err);
	read_column(run_dir, "loss", out, COLUMN_BYTES);
	ck_assert_uint_eq(count_lines(out), 6);
}

/* The augmentation is on, repeats, and can be turned off. */
START_TEST(packed_images_train)
{
	static char first[COLUMN_BYTES], other[COLUMN_BYTES];
	struct ended ended;

	write_images(48, 12);
	ended = run_trainer("--pack in packed");
	ck_assert_msg(ended.code == 0, "%s", ended.err);
	ck_assert_str_eq(ended.err, "");
	ck_assert_str_eq(ended.out,
		"packed 48 training and 12 test images of 3 classes, 184389 bytes\n"
		"use it with: dataset.name=cifar10 dataset.root=packed model.num_classes=3\n");
	write_text("packed.yaml", "model: {name: mlp, num_classes: 3}\n"
				  "dataset: {name: cifar10, root: packed, batch_size: 8}\n"
				  "training: {max_iterations: 6, learning_rate: 0.01}\n");
	losses_of("a", "--nproc-per-node 2", first);
	losses_of("b", "--nproc-per-node 2 dataset.augment=crop_flip", other);
	ck_assert_str_eq(first, other);
	losses_of("c", "--nproc-per-node 2 dataset.augment=none", other);
	ck_assert_str_ne(first, other);
}
END_TEST

START_TEST(validate_sees_three_channels)
{
	struct ended ended;

	write_text("c.yaml", "model: {name: mlp}\n"
			     "dataset: {name: cifar, batch_size: 8}\n"
			     "training: {max_iterations: 6, learning_rate: 0.01}\n");
	ended = run_trainer("--tensors c.yaml");
	ck_assert_msg(ended.code == 0, "%s", ended.err);
	ck_assert_ptr_nonnull(strstr(ended.out, "\"dims\": [1024, 3072]"));
	ended = run_psgd("validate c.yaml", 20);
	ck_assert_msg(ended.code == 0, "%s", ended.err);
}
END_TEST

/* Needs no images. */
START_TEST(shipped_files_are_valid)
{
	static const char *const methods[] = {"dense", "r1", "r4", "adaptive"};
	const char *configs = getenv("CONFIGS");

	ck_assert_ptr_nonnull(configs);
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		struct ended ended;
		char line[512];

		snprintf(line, sizeof(line), "validate %s/cifar10/resnet20_%s.yaml", configs,
			methods[i]);
		ended = run_psgd(line, 20);
		ck_assert_msg(ended.code == 0, "%s", ended.err);
		ck_assert_ptr_nonnull(strstr(ended.out, "resnet20: 272474 parameters"));
		ck_assert_ptr_nonnull(strstr(ended.out, " 1089896 "));
	}
}
END_TEST

#define SEE "\nTry `psgd-train-image --help' or `psgd-train-image --usage' for more"

static const struct {
	const char *arguments, *message;
	int code;
} refused[] = {
	{"--pack in",
		"psgd-train-image: --pack FOLDER needs OUT, the folder to pack into, and no "
		"more" SEE,
		2},
	{"--pack in a b",
		"psgd-train-image: --pack FOLDER needs OUT, the folder to pack into, and no "
		"more" SEE,
		2},
	{"--pack in out --tensors c.yaml",
		"psgd-train-image: --pack and --tensors are two things" SEE, 2},
	{"--tensors c.yaml out", "psgd-train-image: 'out' is not a key=value override" SEE, 2},
	{"--pack nowhere out",
		"psgd-train-image: nowhere/train: no such folder; expected "
		"FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE\n",
		2},
	{"--pack in in",
		"psgd-train-image: in is there already: give another folder, or remove it\n", 2},
	{"--pack in no/such/out", "psgd-train-image: no/such/out.partial-", 5},
};

START_TEST(refused_by_the_trainer)
{
	struct ended ended;

	write_images(9, 3);
	ended = run_trainer(refused[_i].arguments);
	ck_assert_msg(strncmp(ended.err, refused[_i].message, strlen(refused[_i].message)) == 0,
		"%s", ended.err);
	ck_assert_int_eq(ended.code, refused[_i].code);
	ck_assert_str_eq(ended.out, "");
	ck_assert(!exists("out"));
}
END_TEST

/* One image under many names, so that there is time for a signal. */
START_TEST(signal_leaves_nothing)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
	struct started started;
	struct ended ended;
	char name[64];

	write_images(9, 3);
	for (unsigned i = 0; i < 8000; i++) {
		snprintf(name, sizeof(name), "in/train/c1/more%05u.png", i);
		ck_assert_int_eq(link("in/train/c1/00001.png", name), 0);
	}
	started = start_program("TRAINER_BIN", "--pack in out");
	snprintf(name, sizeof(name), "out.partial-%d/data_batch_1.bin", (int)started.pid);
	for (double until = now_s() + 20; !exists(name) && now_s() < until;)
		sleep_s(0.001);
	ck_assert(exists(name));
	ck_assert_int_eq(kill(started.pid, signals[_i]), 0);
	ended = finish(started, 20);
	ck_assert_int_eq(ended.code, 128 + signals[_i]);
	ck_assert_str_eq(ended.out, "");
	name[strcspn(name, "/")] = '\0';
	ck_assert(!exists(name));
	ck_assert(!exists("out"));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("integration pack");
	TCase *t = tcase_create("pack");

	tcase_set_timeout(t, 300);
	tcase_add_checked_fixture(t, enter, leave_folder);
	tcase_add_test(t, packed_images_train);
	tcase_add_test(t, validate_sees_three_channels);
	tcase_add_test(t, shipped_files_are_valid);
	tcase_add_loop_test(
		t, refused_by_the_trainer, 0, (int)(sizeof(refused) / sizeof(refused[0])));
	tcase_add_loop_test(t, signal_leaves_nothing, 0, 3);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
