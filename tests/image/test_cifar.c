/* CIFAR's binary batches: what is read, and the one line that bad files get. */
#include "examples/image/cifar.h"
#include "support/suite.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PER_FILE 3

static char root[64];
static struct image_error error;

static const struct cifar_format *const formats[] = {&cifar10_format, &cifar100_format};

static size_t label_bytes(const struct cifar_format *format)
{
	return format == &cifar100_format ? 2 : 1;
}

static void path_of(const char *file, char out[256])
{
	(void)snprintf(out, 256, "%s/%s", root, file);
}

/* The byte of a pixel, by where it is: any mistake in an index shows. */
static uint8_t pixel_of(unsigned file, size_t record, size_t channel, size_t pixel)
{
	return (uint8_t)(file * 59 + record * 101 + channel * 83 + pixel * 7 + pixel / 32 * 3);
}

/* Label of record i of file f: f + i; the coarse one differs. */
static void write_batch(const struct cifar_format *format, unsigned file, const char *name)
{
	char path[256];
	FILE *stream;

	path_of(name, path);
	stream = fopen(path, "wb");
	ck_assert_ptr_nonnull(stream);
	for (unsigned i = 0; i < PER_FILE; i++) {
		if (label_bytes(format) == 2)
			(void)fputc(19 - (int)i, stream);
		(void)fputc((int)(file + i), stream);
		for (size_t c = 0; c < 3; c++)
			for (size_t p = 0; p < 1024; p++)
				(void)fputc(pixel_of(file, i, c, p), stream);
	}
	ck_assert_int_eq(fclose(stream), 0);
}

static void write_set(const struct cifar_format *format)
{
	unsigned file = 0;

	for (; format->train[file]; file++)
		write_batch(format, file, format->train[file]);
	write_batch(format, file, format->test[0]);
}

static void remove_all(const char *folder)
{
	char path[400];

	for (size_t f = 0; f < 2; f++) {
		for (size_t i = 0; formats[f]->train[i]; i++) {
			(void)snprintf(path, sizeof(path), "%s/%s", folder, formats[f]->train[i]);
			(void)remove(path);
		}
		(void)snprintf(path, sizeof(path), "%s/%s", folder, formats[f]->test[0]);
		(void)remove(path);
	}
	(void)rmdir(folder);
}

static void setup(void)
{
	(void)snprintf(root, sizeof(root), "/tmp/psgd-cifar-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	write_set(&cifar10_format);
	write_set(&cifar100_format);
}

static void teardown(void)
{
	remove_all(root);
}

static psgd_status load(
	const char *name, unsigned train_limit, unsigned test_limit, struct data *data)
{
	char copy[16];
	struct psgd_config_dataset config = {
		.name = copy, .root = root, .train_limit = train_limit, .test_limit = test_limit};

	(void)snprintf(copy, sizeof(copy), "%s", name);
	return data_load(&config, 10, 1, data, &error);
}

static void check_split(const struct split *split, size_t count, unsigned first_file)
{
	ck_assert_uint_eq(split->count, count);
	for (size_t s = 0; s < count; s++) {
		unsigned file = first_file + (unsigned)(s / PER_FILE);
		size_t record = s % PER_FILE;

		ck_assert_uint_eq(split->labels[s], file + record);
		for (size_t p = 0; p < 1024; p++)
			for (size_t c = 0; c < 3; c++)
				ck_assert_uint_eq(split->images[(s * 1024 + p) * 3 + c],
					pixel_of(file, record, c, p));
	}
}

START_TEST(test_read)
{
	unsigned files = _i ? 1 : 5;
	struct data data;

	ck_assert_int_eq(load(formats[_i]->name, 0, 0, &data), PSGD_OK);
	ck_assert(data.shape.rows == 32 && data.shape.cols == 32 && data.shape.channels == 3);
	check_split(&data.train, files * PER_FILE, 0);
	check_split(&data.test, PER_FILE, files);
	data_free(&data);
}
END_TEST

START_TEST(test_archive_folder)
{
	char inner[256], from[300], to[300];
	struct data data;

	path_of(cifar10_format.folder, inner);
	ck_assert_int_eq(mkdir(inner, 0700), 0);
	for (size_t i = 0; i < 6; i++) {
		const char *name = i < 5 ? cifar10_format.train[i] : cifar10_format.test[0];

		(void)snprintf(from, sizeof(from), "%s/%s", root, name);
		(void)snprintf(to, sizeof(to), "%s/%s", inner, name);
		ck_assert_int_eq(rename(from, to), 0);
	}
	ck_assert_int_eq(load("cifar10", 0, 0, &data), PSGD_OK);
	ck_assert_uint_eq(data.train.count, 15);
	data_free(&data);
	remove_all(inner);
}
END_TEST

START_TEST(test_limits)
{
	struct data data;

	ck_assert_int_eq(load("cifar10", 7, 99, &data), PSGD_OK);
	check_split(&data.train, 7, 0);
	check_split(&data.test, PER_FILE, 5);
	data_free(&data);
	ck_assert_int_eq(load("cifar10", 1, 1, &data), PSGD_OK);
	check_split(&data.train, 1, 0);
	check_split(&data.test, 1, 5);
	data_free(&data);
}
END_TEST

/* Published means and deviations, in the order red, green, blue. */
static const double published[2][2][3] = {
	{{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}},
	{{0.5071, 0.4867, 0.4408}, {0.2675, 0.2565, 0.2761}},
};

START_TEST(test_normalised)
{
	float values[CIFAR_BYTES];
	struct data data;
	uint16_t label;

	ck_assert_int_eq(load(formats[_i]->name, 0, 0, &data), PSGD_OK);
	data_gather(&data, &data.test, &(uint32_t){2}, NULL, 1, values, &label);
	ck_assert_uint_eq(label, _i ? 3 : 7);
	for (size_t p = 0; p < 1024; p++)
		for (size_t c = 0; c < 3; c++) {
			double byte = pixel_of(_i ? 1 : 5, 2, c, p) / 255.0;
			double expected = (byte - published[_i][0][c]) / published[_i][1][c];

			ck_assert_double_eq_tol(values[p * 3 + c], expected, 1e-5);
		}
	data_free(&data);
}
END_TEST

/* How a folder is spoilt, and what is said; %s is the folder. */
enum spoil { CUT, GROW, EMPTY, REMOVE, FOLDER, PIPE, LABEL, COARSE };

struct hostile {
	const char *name, *file;
	enum spoil spoil;
	unsigned limit;
	psgd_status status;
	const char *line;
};

static const struct hostile hostile[] = {
	{"cifar10", "data_batch_2.bin", CUT, 0, PSGD_ERR_CONFIG,
		"%s/data_batch_2.bin: 9218 bytes, expected records of 3073 bytes"},
	{"cifar10", "test_batch.bin", GROW, 0, PSGD_ERR_CONFIG,
		"%s/test_batch.bin: 9220 bytes, expected records of 3073 bytes"},
	{"cifar10", "data_batch_5.bin", EMPTY, 0, PSGD_ERR_CONFIG,
		"%s/data_batch_5.bin: 0 bytes, expected records of 3073 bytes"},
	{"cifar10", "data_batch_4.bin", EMPTY, 2, PSGD_ERR_CONFIG,
		"%s/data_batch_4.bin: 0 bytes, expected records of 3073 bytes"},
	{"cifar10", "data_batch_3.bin", REMOVE, 0, PSGD_ERR_CONFIG,
		"%s/data_batch_3.bin is missing: cifar10 is incomplete"},
	{"cifar10", "test_batch.bin", REMOVE, 0, PSGD_ERR_CONFIG,
		"%s/test_batch.bin is missing: cifar10 is incomplete"},
	{"cifar10", "data_batch_1.bin", REMOVE, 0, PSGD_ERR_CONFIG,
		"%s/data_batch_1.bin is missing, also in cifar-10-batches-bin: dataset.root is for "
		"the binary version of cifar10 "
		"(https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz), or for images packed "
		"by `psgd-train-image --pack FOLDER OUT`"},
	{"cifar100", "train.bin", REMOVE, 0, PSGD_ERR_CONFIG,
		"%s/train.bin is missing, also in cifar-100-binary: dataset.root is for the binary "
		"version of cifar100 (https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz)"},
	{"cifar10", "data_batch_2.bin", FOLDER, 0, PSGD_ERR_CONFIG,
		"%s/data_batch_2.bin: not a regular file"},
	{"cifar10", "data_batch_1.bin", PIPE, 0, PSGD_ERR_CONFIG,
		"%s/data_batch_1.bin: not a regular file"},
	{"cifar10", "data_batch_4.bin", LABEL, 0, PSGD_ERR_CONFIG,
		"%s/data_batch_4.bin: label 10 of record 1; model.num_classes is 10"},
	{"cifar100", "test.bin", LABEL, 0, PSGD_ERR_CONFIG,
		"%s/test.bin: label 10 of record 1; model.num_classes is 10"},
	{"cifar100", "train.bin", COARSE, 0, PSGD_ERR_CONFIG,
		"%s/train.bin: coarse label 20 of record 1; cifar100 has 20"},
	{"cifar100", "test.bin", CUT, 0, PSGD_ERR_CONFIG,
		"%s/test.bin: 9221 bytes, expected records of 3074 bytes"},
};

static void put_byte(const char *path, long offset, int byte)
{
	FILE *stream = fopen(path, "r+b");

	ck_assert_ptr_nonnull(stream);
	ck_assert_int_eq(fseek(stream, offset, SEEK_SET), 0);
	ck_assert_int_eq(fputc(byte, stream), byte);
	ck_assert_int_eq(fclose(stream), 0);
}

static void spoil(const struct hostile *h)
{
	long record = strcmp(h->name, "cifar100") == 0 ? 3074 : 3073;
	char path[256];

	path_of(h->file, path);
	if (h->spoil == CUT || h->spoil == GROW || h->spoil == EMPTY)
		ck_assert_int_eq(
			truncate(path, h->spoil == EMPTY
					       ? 0
					       : PER_FILE * record + (h->spoil == CUT ? -1 : 1)),
			0);
	else if (h->spoil == LABEL)
		put_byte(path, record + (record - 3073), 10);
	else if (h->spoil == COARSE)
		put_byte(path, record, 20);
	else
		ck_assert_int_eq(unlink(path), 0);
	if (h->spoil == FOLDER)
		ck_assert_int_eq(mkdir(path, 0700), 0);
	if (h->spoil == PIPE)
		ck_assert_int_eq(mkfifo(path, 0600), 0);
}

START_TEST(test_hostile)
{
	const struct hostile *h = &hostile[_i];
	struct data data;
	char line[512];

	spoil(h);
	ck_assert_int_eq(load(h->name, h->limit, 0, &data), h->status);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(line, sizeof(line), h->line, root);
#pragma GCC diagnostic pop
	ck_assert_str_eq(error.text, line);
	ck_assert_ptr_null(data.train.images);
	ck_assert_ptr_null(data.test.images);
}
END_TEST

START_TEST(test_shape_needs_no_files)
{
	struct psgd_config_dataset config = {
		.name = (char[]){"cifar100"}, .root = (char[]){"nowhere"}};
	struct image_shape shape;

	ck_assert_int_eq(data_image_shape(&config, &shape, &error), PSGD_OK);
	ck_assert(shape.rows == 32 && shape.cols == 32 && shape.channels == 3);
}
END_TEST

START_TEST(test_long_root)
{
	static char lengthy[5000];
	struct psgd_config_dataset config = {.name = (char[]){"cifar10"}, .root = lengthy};
	struct data data;

	memset(lengthy, 'x', sizeof(lengthy) - 1);
	ck_assert_int_eq(data_load(&config, 10, 1, &data, &error), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text, "dataset.root is too long");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_cifar");
	TCase *c = tcase_create("cifar");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_loop_test(c, test_read, 0, 2);
	tcase_add_test(c, test_archive_folder);
	tcase_add_test(c, test_limits);
	tcase_add_loop_test(c, test_normalised, 0, 2);
	tcase_add_loop_test(c, test_hostile, 0, (int)(sizeof(hostile) / sizeof(hostile[0])));
	tcase_add_test(c, test_shape_needs_no_files);
	tcase_add_test(c, test_long_root);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
