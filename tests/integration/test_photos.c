/* Runs on folders of photographs: good ones, bad ones, too many classes; and grey digits. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/data_files.h"
#include "image/photo_files.h"
#include "integration/harness.h"
#include "support/suite.h"

#define COLUMN_BYTES 65536
#define RUN "run photos.yaml --standalone --nproc-per-node 2 "

/* Three classes of dark, grey and light photographs. */
static void enter(void)
{
	enter_folder();
	snprintf(work, sizeof(work), "%s", folder());
	for (unsigned i = 0; i < 36 + 9; i++) {
		struct photo photo = photo_flat(40 + i % 7, 50 - i % 9, (uint8_t)(40 + i % 3 * 80));
		char name[64];

		snprintf(name, sizeof(name), "photos/%s/class%u/%02u.JPEG",
			i < 36 ? "train" : "val", i % 3, i);
		photo_write(name, &photo);
		photo_free(&photo);
	}
	write_text("photos.yaml",
		"model: {name: cnn, num_classes: 3}\n"
		"dataset: {name: imagenet, root: photos, image_size: 32, batch_size: 4}\n"
		"training: {epochs: 3, learning_rate: 0.05}\n");
}

static void expect_run(const char *arguments, int code, struct ended *ended)
{
	char line[512];

	snprintf(line, sizeof(line), RUN "%s", arguments);
	*ended = run_psgd(line, 100);
	ck_assert_msg(ended->code == code, "code %d\n%s%s", ended->code, ended->out, ended->err);
}

START_TEST(photographs_train)
{
	static char first[COLUMN_BYTES], other[COLUMN_BYTES];
	static struct ended ended;

	expect_run("save_dir=a", 0, &ended);
	read_column("a", "loss", first, sizeof(first));
	ck_assert_uint_eq(count_lines(first), 12);
	expect_run("save_dir=b dataset.loader_threads=3 dataset.prefetch_batches=1", 0, &ended);
	read_column("b", "loss", other, sizeof(other));
	ck_assert_str_eq(first, other);
	expect_run("save_dir=c dataset.augment=none training.epochs=8", 0, &ended);
	ck_assert_msg(
		strstr(ended.out, "test accuracy 100.00 %") != NULL, "%s%s", ended.out, ended.err);
}
END_TEST

/* By the worker that has met it first, or by both. */
static bool in_logs(const char *text)
{
	char line[256];

	snprintf(line, sizeof(line), "psgd-train-image: warning: left out: %s", text);
	return strstr(read_text("b/worker0.log"), line) || strstr(read_text("b/worker1.log"), line);
}

START_TEST(bad_photographs)
{
	static struct ended ended;
	char losses[COLUMN_BYTES];

	ck_assert_int_eq(truncate("photos/train/class1/13.JPEG", 250), 0);
	write_text("photos/train/class2/20.JPEG", "");
	write_text("photos/val/class0/36.JPEG", "text");
	expect_run("save_dir=a", 2, &ended);
	ck_assert_ptr_nonnull(strstr(ended.err, "photos/train/class"));
	expect_run("save_dir=b dataset.skip_bad=true", 0, &ended);
	read_column("b", "loss", losses, sizeof(losses));
	ck_assert_uint_eq(count_lines(losses), 12);
	ck_assert(in_logs("photos/train/class1/13.JPEG: damaged JPEG image: "));
	ck_assert(in_logs("photos/train/class2/20.JPEG: neither JPEG nor PNG, the file is empty"));
	ck_assert(in_logs("photos/val/class0/36.JPEG: neither JPEG nor PNG\n"));
	/* In each epoch two places of training, of which none is dropped, and one of the test. */
	ck_assert_ptr_nonnull(strstr(read_text("b/events.jsonl"),
		"3 times an image that cannot be decoded was left out"));
}
END_TEST

static const struct {
	const char *arguments, *message;
} refused[] = {
	{"model.num_classes=2", "photos/train has 3 classes, but model.num_classes is 2"},
	{"dataset.root=~", "data/imagenet/train: no such folder; dataset.root is for "},
	{"dataset.root=photos/train", "photos/train/train: no such folder; dataset.root is for "},
	{"dataset.batch_size=19", "dataset.batch_size 19 is more than the 18 samples that each"},
};

START_TEST(refused_photographs)
{
	static struct ended ended;

	expect_run(refused[_i].arguments, 2, &ended);
	ck_assert_msg(strstr(ended.err, refused[_i].message) != NULL, "%s", ended.err);
}
END_TEST

/* One channel, without dataset.root: where torchvision lays the files. */
START_TEST(digits_through_a_resnet)
{
	struct blob images = images_blob(5, 28, 28), labels = labels_blob(5);
	static const char *const models[] = {"resnet8", "resnet18"};
	static struct ended ended;
	char line[256];

	snprintf(root, sizeof(root), "data/MNIST/raw");
	ck_assert_int_eq(mkdir("data", 0700) | mkdir("data/MNIST", 0700) | mkdir(root, 0700), 0);
	write_plain(TRAIN_IMAGES, "", &images);
	write_plain(TEST_IMAGES, "", &images);
	write_plain(TRAIN_LABELS, "", &labels);
	write_plain(TEST_LABELS, "", &labels);
	write_text("mnist.yaml", "model: {name: resnet8}\n"
				 "dataset: {name: mnist, batch_size: 2}\n"
				 "training: {max_iterations: 3, learning_rate: 0.01}\n");
	snprintf(line, sizeof(line), "run mnist.yaml --standalone model.name=%s save_dir=a",
		models[_i]);
	ended = run_psgd(line, 100);
	ck_assert_msg(ended.code == 0, "code %d\n%s%s", ended.code, ended.out, ended.err);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("integration photos");
	TCase *t = tcase_create("photos");

	tcase_set_timeout(t, 300);
	tcase_add_checked_fixture(t, enter, leave_folder);
	tcase_add_test(t, photographs_train);
	tcase_add_test(t, bad_photographs);
	tcase_add_loop_test(t, refused_photographs, 0, (int)(sizeof(refused) / sizeof(refused[0])));
	tcase_add_loop_test(t, digits_through_a_resnet, 0, 2);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
