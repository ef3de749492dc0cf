/* Packing: what gets into the batches, and that a failure leaves nothing. */
#include "pack_files.h"

#include "examples/image/pack.h"
#include "support/suite.h"

#include <png.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD (1 + CIFAR_BYTES)

static struct image_error error;
static struct pack_summary packed;

static psgd_status pack(pack_progress progress, void *user)
{
	char from[256], to[256];

	work_path("in", from);
	work_path("out", to);
	return pack_images(from, to, progress, user, &packed, &error);
}

static psgd_status load(struct data *data, unsigned classes)
{
	char root[256];
	struct psgd_config_dataset config = {.name = (char[]){"cifar10"}, .root = root};

	work_path("out", root);
	return data_load(&config, classes, 1, data, &error);
}

static void check_image(const struct split *split, size_t i, unsigned label, unsigned number)
{
	ck_assert_uint_eq(split->labels[i], label);
	for (size_t p = 0; p < CIFAR_PIXELS; p++)
		for (size_t c = 0; c < CIFAR_CHANNELS; c++)
			ck_assert_uint_eq(
				split->images[i * CIFAR_BYTES + p * 3 + c], shade(number, p, c));
}

/* By name within a class, round the classes while they last. */
static const struct {
	unsigned label, number;
} zoo[] = {{0, 0}, {1, 5}, {2, 7}, {0, 1}, {1, 6}, {2, 8}, {0, 2}, {2, 9}, {0, 3}, {0, 4}};

START_TEST(test_round_trip)
{
	char names[64], list[512];
	struct data data;

	write_zoo();
	ck_assert_msg(pack(NULL, NULL) == PSGD_OK, "%s", error.text);
	ck_assert_uint_eq(packed.n_train, 10);
	ck_assert_uint_eq(packed.n_test, 3);
	ck_assert_uint_eq(packed.n_classes, 3);
	ck_assert_uint_eq(packed.bytes, 13 * RECORD + 12);
	ck_assert_int_eq(load(&data, 3), PSGD_OK);
	ck_assert_uint_eq(data.train.count, 10);
	for (size_t i = 0; i < 10; i++)
		check_image(&data.train, i, zoo[i].label, zoo[i].number);
	ck_assert_uint_eq(data.test.count, 3);
	for (unsigned i = 0; i < 3; i++)
		check_image(&data.test, i, i, 10 + i);
	data_free(&data);
	names[read_bytes("out/batches.meta.txt", names, sizeof(names) - 1)] = 0;
	ck_assert_str_eq(names, "ant\nbee\ncow\n");
	list_work(list);
	ck_assert_str_eq(list, "in out ");
	/* more classes than the model has */
	ck_assert_int_eq(load(&data, 2), PSGD_ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(
		error.text, "/data_batch_2.bin: label 2 of record 0; model.num_classes is 2"));
}
END_TEST

/* Other ways to write the same kind of image. */
START_TEST(test_kinds)
{
	static uint8_t grey[CIFAR_PIXELS], clear[CIFAR_PIXELS * 4];
	struct data data;

	for (size_t i = 0; i < CIFAR_PIXELS; i++) {
		grey[i] = shade(20, i, 0);
		clear[i * 4] = 200;
		clear[i * 4 + 3] = i % 2 ? 255 : 0;
	}
	write_zoo();
	write_png("in/test/ant/x.png", 32, PNG_FORMAT_GRAY, grey);
	write_png("in/test/bee/x.png", 32, PNG_FORMAT_RGBA, clear);
	/* What a file is called does not matter; what begins with a dot is not seen. */
	write_shades("in/test/cow/x.png", 30);
	write_bytes("in/test/cow/.hidden", "x", 1);
	ck_assert_msg(pack(NULL, NULL) == PSGD_OK, "%s", error.text);
	ck_assert_int_eq(load(&data, 3), PSGD_OK);
	for (size_t i = 0; i < CIFAR_BYTES; i++)
		ck_assert_uint_eq(data.test.images[i], grey[i / 3]);
	for (size_t i = 0; i < CIFAR_PIXELS; i++) {
		const uint8_t *pixel = data.test.images + CIFAR_BYTES + i * 3;

		ck_assert(pixel[0] == (i % 2 ? 200 : 0) && pixel[1] == 0 && pixel[2] == 0);
	}
	check_image(&data.test, 2, 2, 30);
	data_free(&data);
}
END_TEST

START_TEST(test_jpeg)
{
	struct data data;

	write_zoo();
	write_jpeg("in/test/ant/x.png", 32, false, 0);
	write_jpeg("in/test/bee/x.png", 32, true, 1);
	ck_assert_msg(pack(NULL, NULL) == PSGD_OK, "%s", error.text);
	ck_assert_int_eq(load(&data, 3), PSGD_OK);
	for (size_t p = 0; p < CIFAR_PIXELS; p++)
		for (size_t c = 0; c < 3; c++) {
			int colour = data.test.images[p * 3 + c];
			int grey = data.test.images[CIFAR_BYTES + p * 3 + c];

			ck_assert_int_le(abs(colour - shade(0, p, c)), 8);
			ck_assert_int_le(abs(grey - shade(1, p, 0)), 4);
		}
	data_free(&data);
}
END_TEST

/* Made twice, in another order of creation, it is the same to the byte. */
START_TEST(test_repeats)
{
	static uint8_t first[5 * RECORD], second[5 * RECORD];
	char from[256], to[256];

	write_zoo();
	work_path("in", from);
	work_path("out", to);
	ck_assert_int_eq(pack(NULL, NULL), PSGD_OK);
	work_path("in/train/ant/2.png", from);
	ck_assert_int_eq(unlink(from), 0);
	write_shades("in/train/ant/2.png", 2);
	work_path("in/", from);
	work_path("again//", to);
	ck_assert_int_eq(pack_images(from, to, NULL, NULL, &packed, &error), PSGD_OK);
	for (int i = 0; i < 5; i++) {
		char a[64], b[64];
		size_t n;

		(void)snprintf(a, sizeof(a), "out/data_batch_%d.bin", i + 1);
		(void)snprintf(b, sizeof(b), "again/data_batch_%d.bin", i + 1);
		n = read_bytes(a, first, sizeof(first));
		ck_assert_uint_eq(n, 2 * RECORD);
		ck_assert_uint_eq(read_bytes(b, second, sizeof(second)), n);
		ck_assert_mem_eq(first, second, n);
	}
}
END_TEST

/* What is wrong with the images; %s is the folder. */
enum wrong {
	SIZE,
	JPEG_SIZE,
	PNG_CUT,
	JPEG_CUT,
	PNG_HEADER,
	JPEG_HEADER,
	TEXT,
	NOTHING,
	FOLDER_AS_IMAGE,
	PIPE_AS_IMAGE,
	LARGE,
	FILE_AS_CLASS,
	EMPTY_CLASS,
	TEST_ONLY,
	TRAIN_ONLY,
	NO_TEST,
	TEST_FILE,
	FEW,
	ONE_CLASS,
	MANY_CLASSES,
	LINE_BREAK,
};

static const struct {
	enum wrong wrong;
	const char *line;
} wrongs[] = {
	{SIZE, "%s/in/train/bee/2.png: 31 x 31 pixels, expected 32 x 32"},
	{JPEG_SIZE, "%s/in/test/cow/x.png: 64 x 64 pixels, expected 32 x 32"},
	{PNG_CUT, "%s/in/train/cow/c.png: damaged PNG image: "},
	{JPEG_CUT, "%s/in/test/cow/x.png: damaged JPEG image: "},
	{PNG_HEADER, "%s/in/train/cow/c.png: damaged PNG image: "},
	{JPEG_HEADER, "%s/in/train/cow/c.png: damaged JPEG image: "},
	{TEXT, "%s/in/train/cow/c.png: neither JPEG nor PNG"},
	{NOTHING, "%s/in/train/cow/c.png: neither JPEG nor PNG, the file is empty"},
	{FOLDER_AS_IMAGE, "%s/in/train/cow/d.png: not a regular file"},
	{PIPE_AS_IMAGE, "%s/in/train/cow/d.png: not a regular file"},
	{LARGE, "%s/in/train/cow/c.png: 16777217 bytes, expected at most 16777216"},
	{FILE_AS_CLASS,
		"%s/in/train/list.txt: not a folder; images lie in the folder of their class"},
	{EMPTY_CLASS, "%s/in/test/cow: holds no images"},
	{TEST_ONLY, "%s/in: class 'bat' is in test but not in train"},
	{TRAIN_ONLY, "%s/in: class 'dog' is in train but not in test"},
	{NO_TEST, "%s/in/test: no such folder; expected FOLDER/train/CLASS/IMAGE and "
		  "FOLDER/test/CLASS/IMAGE"},
	{TEST_FILE, "%s/in/test: not a folder; expected FOLDER/train/CLASS/IMAGE and "
		    "FOLDER/test/CLASS/IMAGE"},
	{FEW, "%s/in: 4 training images, expected at least 5, one for each batch"},
	{ONE_CLASS, "%s/in/train: the number of classes is 1, expected 2 to 256"},
	{MANY_CLASSES, "%s/in/train: the number of classes is 257, expected 2 to 256"},
	{LINE_BREAK, "%s/in/test: class 0 has a line break in its name"},
};

static void discard(const char *name)
{
	char path[256];

	work_path(name, path);
	ck_assert_int_eq(remove(path), 0);
}

static void cut(const char *name)
{
	static uint8_t bytes[65536];
	size_t n = read_bytes(name, bytes, sizeof(bytes));

	write_bytes(name, bytes, n - n / 3);
}

static void spoil_file(enum wrong wrong)
{
	static const uint8_t pixels[CIFAR_BYTES];
	static const uint8_t jpeg[] = {0xff, 0xd8, 0xff, 0xe0, 0, 16, 1, 2, 3};
	const char *name = "in/train/cow/c.png";
	char path[256];

	if (wrong == SIZE)
		write_png("in/train/bee/2.png", 31, PNG_FORMAT_RGB, pixels);
	else if (wrong == JPEG_SIZE || wrong == JPEG_CUT)
		write_jpeg("in/test/cow/x.png", wrong == JPEG_SIZE ? 64 : 32, false, 1);
	else if (wrong == PNG_CUT)
		cut(name);
	else if (wrong == PNG_HEADER)
		write_bytes(name, "\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16);
	else if (wrong == JPEG_HEADER)
		write_bytes(name, jpeg, sizeof(jpeg));
	else if (wrong == TEXT || wrong == NOTHING)
		write_bytes(name, "text", wrong == TEXT ? 4 : 0);
	work_path("in/train/cow/d.png", path);
	if (wrong == FOLDER_AS_IMAGE)
		ck_assert_int_eq(mkdir(path, 0700), 0);
	if (wrong == PIPE_AS_IMAGE)
		ck_assert_int_eq(mkfifo(path, 0600), 0);
	work_path(name, path);
	if (wrong == LARGE)
		ck_assert_int_eq(truncate(path, ((off_t)16 << 20) + 1), 0);
	if (wrong == JPEG_CUT)
		cut("in/test/cow/x.png");
}

static void spoil_tree(enum wrong wrong)
{
	char name[64];

	if (wrong == FILE_AS_CLASS)
		write_bytes("in/train/list.txt", "x", 1);
	if (wrong == TEST_ONLY)
		write_shades("in/test/bat/1.png", 1);
	if (wrong == TRAIN_ONLY)
		write_shades("in/train/dog/1.png", 1);
	if (wrong == LINE_BREAK)
		write_shades("in/test/a\nb/1.png", 1);
	if (wrong == EMPTY_CLASS || wrong == NO_TEST || wrong == TEST_FILE)
		discard("in/test/cow/x.png");
	for (int i = 0; wrong == MANY_CLASSES && i < 254; i++) {
		(void)snprintf(name, sizeof(name), "in/train/class%03d/1.png", i);
		write_bytes(name, "", 0);
	}
}

/* Classes that are taken away, until too little is left. */
static void spoil_less(enum wrong wrong)
{
	static const char *const test[] = {"in/test/ant/x.png", "in/test/ant", "in/test/bee/x.png",
		"in/test/bee", "in/test/cow", "in/test"};
	static const char *const cows[] = {"in/train/cow/a.png", "in/train/cow/b.png",
		"in/train/cow/c.png", "in/train/cow", "in/test/cow/x.png", "in/test/cow"};
	static const char *const ants[] = {
		"in/train/ant/1.png", "in/train/ant/10.png", "in/train/ant/2.png"};
	static const char *const bees[] = {
		"in/train/bee/1.png", "in/train/bee/2.png", "in/train/bee"};

	for (size_t i = 0; (wrong == NO_TEST || wrong == TEST_FILE) && i < 6; i++)
		discard(test[i]);
	if (wrong == TEST_FILE)
		write_bytes("in/test", "x", 1);
	for (size_t i = 0; (wrong == FEW || wrong == ONE_CLASS) && i < 6; i++)
		discard(cows[i]);
	for (size_t i = 0; wrong == FEW && i < 3; i++)
		discard(ants[i]);
	for (size_t i = 0; wrong == ONE_CLASS && i < 3; i++)
		discard(bees[i]);
}

/* The line begins with `expected`, which has %s where the folder is; nothing is left. */
static void expect_failure(psgd_status status, psgd_status wanted, const char *expected)
{
	char line[512], list[512];

	ck_assert_msg(status == wanted, "%d: %s", status, error.text);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(line, sizeof(line), expected, work);
#pragma GCC diagnostic pop
	if (line[strlen(line) - 1] == ' ')
		ck_assert_msg(strncmp(error.text, line, strlen(line)) == 0 &&
				      strlen(error.text) > strlen(line),
			"%s", error.text);
	else
		ck_assert_str_eq(error.text, line);
	ck_assert_ptr_null(strchr(error.text, '\n'));
	list_work(list);
	ck_assert_str_eq(list, "in ");
}

START_TEST(test_wrong)
{
	enum wrong wrong = wrongs[_i].wrong;

	write_zoo();
	spoil_file(wrong);
	spoil_tree(wrong);
	spoil_less(wrong);
	expect_failure(pack(NULL, NULL), PSGD_ERR_CONFIG, wrongs[_i].line);
}
END_TEST

static psgd_status stop_at(void *user, size_t done, size_t total)
{
	ck_assert_uint_eq(total, 13);
	return done == *(const size_t *)user ? image_fail(&error, PSGD_ERR_FAILED, "stopped")
					     : PSGD_OK;
}

START_TEST(test_stopped)
{
	size_t at = (size_t)_i;

	write_zoo();
	expect_failure(pack(stop_at, &at), PSGD_ERR_FAILED, "stopped");
	at = 13;
	ck_assert_int_eq(pack(stop_at, &at), PSGD_OK);
}
END_TEST

/* As on a full disk, and found at the latest when a batch is closed. */
START_TEST(test_no_room)
{
	struct rlimit limit = {2 * RECORD - 1, RLIM_INFINITY};

	write_zoo();
	(void)signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	error.text[0] = 0;
	ck_assert_int_eq(pack(NULL, NULL), PSGD_ERR_IO);
	ck_assert_ptr_nonnull(strstr(error.text, "/data_batch_1.bin: File too large"));
	expect_failure(PSGD_ERR_IO, PSGD_ERR_IO, error.text);
}
END_TEST

START_TEST(test_target)
{
	char path[256], line[400], byte = 0;

	write_zoo();
	work_path("out", path);
	(void)snprintf(
		line, sizeof(line), "%s is there already: give another folder, or remove it", path);
	write_bytes("out", "x", 1);
	ck_assert_int_eq(pack(NULL, NULL), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, line);
	ck_assert_int_eq(unlink(path), 0);
	write_bytes("out/kept", "k", 1);
	ck_assert_int_eq(pack(NULL, NULL), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, line);
	ck_assert_uint_eq(read_bytes("out/kept", &byte, 1), 1);
	ck_assert_int_eq(byte, 'k');
	/* an empty one will do */
	discard("out/kept");
	ck_assert_int_eq(pack(NULL, NULL), PSGD_OK);
	ck_assert_int_eq(pack(NULL, NULL), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, line);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_pack");
	TCase *c = tcase_create("pack");

	tcase_add_checked_fixture(c, pack_files_create, pack_files_remove);
	tcase_add_test(c, test_round_trip);
	tcase_add_test(c, test_kinds);
	tcase_add_test(c, test_jpeg);
	tcase_add_test(c, test_repeats);
	tcase_add_loop_test(c, test_wrong, 0, (int)(sizeof(wrongs) / sizeof(wrongs[0])));
	tcase_add_loop_test(c, test_stopped, 0, 13);
	tcase_add_test(c, test_no_room);
	tcase_add_test(c, test_target);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
