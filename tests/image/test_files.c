/* Data sets: the one line that bad files get. */
#include "data_files.h"
#include "examples/image/data.h"
#include "support/suite.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct image_error error;

static psgd_status load(struct data *data)
{
	struct psgd_config_dataset config = {.name = (char[]){"idx"}, .root = root};

	return data_load(&config, 10, 1, data, &error);
}

/* expected has %s where the folder is. */
static void expect_failure(const char *expected)
{
	struct data data;
	char line[512];

	ck_assert_int_eq(load(&data), PSGD_ERR_CONFIG);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(line, sizeof(line), expected, root, root);
#pragma GCC diagnostic pop
	ck_assert_str_eq(error.text, line);
	ck_assert_ptr_null(data.train.images);
}

START_TEST(test_wrong_magic)
{
	struct blob blob = labels_blob(12);

	remove_file(TRAIN_IMAGES);
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure("%s/" TRAIN_IMAGES
		       ": wrong magic number 0x00000801, expected 0x00000803 (idx images)");
	blob = images_blob(12, 4, 6);
	remove_file(TRAIN_IMAGES);
	write_plain(TRAIN_IMAGES, "", &blob);
	write_plain(TRAIN_LABELS, "", &blob);
	expect_failure("%s/" TRAIN_LABELS
		       ": wrong magic number 0x00000803, expected 0x00000801 (idx labels)");
}
END_TEST

START_TEST(test_truncated)
{
	struct blob blob = images_blob(12, 4, 6);

	remove_file(TRAIN_IMAGES);
	blob.n -= 1;
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure("%s/" TRAIN_IMAGES ": truncated: 287 of 288 bytes after the header");
	blob.n = 9;
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure("%s/" TRAIN_IMAGES ": truncated: 9 of 16 bytes of the header");
	blob.n = 0;
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure("%s/" TRAIN_IMAGES ": truncated: 0 of 16 bytes of the header");
}
END_TEST

/* A header may claim what it likes: memory follows what is there. */
START_TEST(test_claims)
{
	struct blob blob = {.n = 0};

	remove_file(TRAIN_IMAGES);
	put32(&blob, 0x803);
	put32(&blob, 0xffffffff);
	put32(&blob, 4096);
	put32(&blob, 4096);
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure(
		"%s/" TRAIN_IMAGES ": truncated: 0 of 72057594021150720 bytes after the header");
	blob = images_blob(0, 4, 6);
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure("%s/" TRAIN_IMAGES ": holds no samples");
	blob = images_blob(3, 0, 6);
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure("%s/" TRAIN_IMAGES ": images of 0 x 6 pixels; each side must be 1 to 4096");
}
END_TEST

START_TEST(test_trailing)
{
	struct blob blob = images_blob(12, 4, 6);

	remove_file(TRAIN_IMAGES);
	blob.n++;
	write_plain(TRAIN_IMAGES, "", &blob);
	expect_failure("%s/" TRAIN_IMAGES ": more data than its header says");
}
END_TEST

START_TEST(test_gzip_cut)
{
	struct blob blob = {.n = 0};
	char path[256];
	FILE *file;

	path_of(TRAIN_IMAGES, ".gz", path);
	file = fopen(path, "rb");
	blob.n = fread(blob.bytes, 1, sizeof(blob.bytes), file);
	(void)fclose(file);
	blob.n -= 30;
	write_plain(TRAIN_IMAGES, ".gz", &blob);
	ck_assert_int_eq(load(&(struct data){0}), PSGD_ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(error.text, TRAIN_IMAGES ".gz: truncated: "));
}
END_TEST

START_TEST(test_gzip_damaged)
{
	struct blob blob = {.n = 0};
	char path[256];
	FILE *file;

	path_of(TRAIN_IMAGES, ".gz", path);
	file = fopen(path, "rb");
	blob.n = fread(blob.bytes, 1, sizeof(blob.bytes), file);
	(void)fclose(file);
	blob.bytes[blob.n - 6] ^= 1; /* the checksum */
	write_plain(TRAIN_IMAGES, ".gz", &blob);
	expect_failure("%s/" TRAIN_IMAGES ".gz: damaged gzip data");
}
END_TEST

START_TEST(test_label_range)
{
	struct blob blob = labels_blob(12);

	blob.bytes[8 + 4] = 10;
	write_plain(TRAIN_LABELS, "", &blob);
	expect_failure("%s/" TRAIN_LABELS ": label 10 of sample 4; model.num_classes is 10");
}
END_TEST

START_TEST(test_counts_differ)
{
	struct blob blob = labels_blob(11);

	write_plain(TRAIN_LABELS, "", &blob);
	expect_failure(
		"%s/" TRAIN_IMAGES ".gz has 12 images but %s/" TRAIN_LABELS " has 11 labels");
}
END_TEST

START_TEST(test_sizes_differ)
{
	struct blob blob = images_blob(5, 4, 7);

	write_plain(TEST_IMAGES, "", &blob);
	expect_failure("test images are 4 x 7 pixels but training images 4 x 6");
}
END_TEST

START_TEST(test_folder_as_file)
{
	char path[256];

	remove_file(TRAIN_IMAGES);
	path_of(TRAIN_IMAGES, "", path);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(load(&(struct data){0}), PSGD_ERR_IO);
	ck_assert_ptr_nonnull(strstr(error.text, TRAIN_IMAGES ": Is a directory"));
	(void)rmdir(path);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_files");
	TCase *c = tcase_create("files");

	tcase_add_checked_fixture(c, data_files_create, data_files_remove);
	tcase_add_test(c, test_wrong_magic);
	tcase_add_test(c, test_truncated);
	tcase_add_test(c, test_claims);
	tcase_add_test(c, test_trailing);
	tcase_add_test(c, test_gzip_cut);
	tcase_add_test(c, test_gzip_damaged);
	tcase_add_test(c, test_label_range);
	tcase_add_test(c, test_counts_differ);
	tcase_add_test(c, test_sizes_differ);
	tcase_add_test(c, test_folder_as_file);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
