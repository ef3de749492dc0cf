/* safetensors: the documented format both ways, and nothing of a file is trusted. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <psgd/experiment/checkpoint.h>

#include "support/random.h"
#include "support/suite.h"

#define FILE_NAME "t.safetensors"

static char root[64];

static void set_up(void)
{
	strcpy(root, "/tmp/psgd-tensors-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	ck_assert_int_eq(chdir(root), 0);
}

static void tear_down(void)
{
	unlink(FILE_NAME);
	unlink(FILE_NAME ".new");
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(rmdir(root), 0);
}

static void put_bytes(const void *bytes, size_t n)
{
	FILE *file = fopen(FILE_NAME, "w");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(bytes, 1, n, file), n);
	ck_assert_int_eq(fclose(file), 0);
}

/* A file by hand: length, header, data. */
static void put_file(const char *header, const void *data, size_t n)
{
	unsigned char bytes[4096] = {
		(unsigned char)strlen(header), (unsigned char)(strlen(header) >> 8)};

	memcpy(bytes + 8, header, strlen(header));
	if (n)
		memcpy(bytes + 8 + strlen(header), data, n);
	put_bytes(bytes, 8 + strlen(header) + n);
}

static psgd_safetensors *must_open(void)
{
	psgd_safetensors *file = NULL;
	char error[512];
	psgd_status status = psgd_safetensors_open(FILE_NAME, &file, error, sizeof(error));

	ck_assert_msg(status == PSGD_OK, "%s", error);
	return file;
}

static void refused(const char *header, size_t n_data, const char *why)
{
	static const char data[64];
	psgd_safetensors *file = NULL;
	char error[512];

	put_file(header, data, n_data);
	ck_assert_msg(
		psgd_safetensors_open(FILE_NAME, &file, error, sizeof(error)) == PSGD_ERR_CONFIG,
		"taken: %s", header);
	ck_assert_ptr_null(file);
	ck_assert_msg(strstr(error, why) != NULL, "%s: %s", header, error);
}

/* The example of the format's documentation, as other programs write it. */
START_TEST(foreign_file)
{
	static const char header[] =
		"{\"__metadata__\":{\"format\":\"pt\"},"
		"\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
		"\"half\":{\"dtype\":\"F16\",\"shape\":[6],\"data_offsets\":[8,20]},"
		"\"brain\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[20,24]},"
		"\"n\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[24,32]}}  ";
	/* 1, -2; 1, -2, 65504, the smallest subnormal, infinity, 0; 1.5, -3; 7 */
	static const unsigned char data[] = {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0, 0x3c, 0, 0xc0,
		0xff, 0x7b, 1, 0, 0, 0x7c, 0, 0, 0xc0, 0x3f, 0x40, 0xc0, 7, 0, 0, 0, 0, 0, 0, 0};
	struct psgd_safetensor found = PSGD_INIT(psgd_safetensor);
	psgd_safetensors *file;
	float values[6];
	int64_t n;

	put_file(header, data, sizeof(data));
	file = must_open();
	ck_assert_uint_eq(psgd_safetensors_count(file), 4);
	ck_assert_str_eq(psgd_safetensors_metadata(file, "format"), "pt");
	ck_assert_ptr_null(psgd_safetensors_metadata(file, "other"));
	ck_assert_int_eq(psgd_safetensors_get(file, 2, &found), PSGD_OK);
	ck_assert_str_eq(found.name, "brain");
	ck_assert_str_eq(found.dtype, "BF16");
	ck_assert_int_eq(psgd_safetensors_get(file, 4, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_safetensors_find(file, "a", &found), PSGD_OK);
	ck_assert_uint_eq(found.n_dims, 2);
	ck_assert_int_eq(found.dims[0], 2);
	ck_assert_int_eq(found.dims[1], 1);
	ck_assert_uint_eq(found.bytes, 8);
	ck_assert_int_eq(psgd_safetensors_find(file, "__metadata__", &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_safetensors_read_floats(file, "a", values, 2), PSGD_OK);
	ck_assert(values[0] == 1 && values[1] == -2);
	ck_assert_int_eq(psgd_safetensors_read_floats(file, "half", values, 6), PSGD_OK);
	ck_assert(values[0] == 1 && values[1] == -2 && values[2] == 65504);
	ck_assert(values[3] == 0x1p-24f && isinf(values[4]) && values[5] == 0);
	ck_assert_int_eq(psgd_safetensors_read_floats(file, "brain", values, 2), PSGD_OK);
	ck_assert(values[0] == 1.5F && values[1] == -3);
	ck_assert_int_eq(psgd_safetensors_read_floats(file, "a", values, 1), PSGD_ERR_MISMATCH);
	ck_assert_int_eq(psgd_safetensors_read_floats(file, "n", values, 1), PSGD_ERR_UNSUPPORTED);
	ck_assert_int_eq(psgd_safetensors_read(file, "n", &n, sizeof(n)), PSGD_OK);
	ck_assert_int_eq(n, 7);
	ck_assert_int_eq(psgd_safetensors_read(file, "n", &n, 4), PSGD_ERR_MISMATCH);
	ck_assert_int_eq(psgd_safetensors_read(file, "m", &n, 8), PSGD_ERR_INVALID);
	psgd_safetensors_close(&file);
	ck_assert_ptr_null(file);
}
END_TEST

static struct psgd_state_array array_of(const char *name, uint32_t dtype, int64_t n)
{
	struct psgd_state_array array = PSGD_INIT(psgd_state_array);

	array.name = name;
	array.dtype = dtype;
	array.n_dims = 1;
	array.dims[0] = n;
	return array;
}

static psgd_safetensors_writer *sample(void)
{
	static const float weights[6] = {1, 2, 3, 4, 5, 6};
	static const double sums[2] = {0.1, NAN};
	struct psgd_state_array bytes = array_of("bytes", PSGD_U8, 3);
	struct psgd_state_array matrix = array_of("weights", PSGD_F32, 2);
	struct psgd_state_array numbers = array_of("sums", PSGD_F64, 2);
	struct psgd_state_array none = array_of("none", PSGD_F32, 0);
	psgd_safetensors_writer *writer = psgd_safetensors_writer_new();

	matrix.n_dims = 2;
	matrix.dims[1] = 3;
	ck_assert_ptr_nonnull(writer);
	ck_assert_int_eq(psgd_safetensors_add(writer, "p/", &bytes, "abc"), PSGD_OK);
	ck_assert_int_eq(psgd_safetensors_add(writer, "p/", &matrix, weights), PSGD_OK);
	ck_assert_int_eq(psgd_safetensors_add(writer, "q/", &numbers, sums), PSGD_OK);
	ck_assert_int_eq(psgd_safetensors_add(writer, "", &none, NULL), PSGD_OK);
	ck_assert_int_eq(psgd_safetensors_note(writer, "kind", "a \"test\""), PSGD_OK);
	return writer;
}

static size_t write_sample(unsigned char *bytes, size_t room)
{
	psgd_safetensors_writer *writer = sample();
	char error[512];
	FILE *file;
	size_t n;

	ck_assert_int_eq(psgd_safetensors_write(writer, FILE_NAME, error, sizeof(error)), PSGD_OK);
	psgd_safetensors_writer_free(&writer);
	ck_assert_ptr_null(writer);
	ck_assert_int_ne(access(FILE_NAME ".new", F_OK), 0);
	file = fopen(FILE_NAME, "r");
	ck_assert_ptr_nonnull(file);
	n = fread(bytes, 1, room, file);
	fclose(file);
	return n;
}

START_TEST(round_trip)
{
	unsigned char bytes[4096];
	size_t n = write_sample(bytes, sizeof(bytes)), header = bytes[0] + 256U * bytes[1];
	psgd_safetensors *file = must_open();
	struct psgd_safetensors_view view = {file, "p/"};
	struct psgd_state_reader reader = psgd_safetensors_reader(&view);
	struct psgd_state_array found = PSGD_INIT(psgd_state_array);
	float weights[6];
	double sums[2];
	char text[3];

	/* Values of every width lie on multiples of it, in the file and in the data. */
	ck_assert_uint_eq(header % 8, 0);
	ck_assert_uint_eq(n, 8 + header + 16 + 24 + 3);
	ck_assert_uint_eq(psgd_safetensors_count(file), 4);
	ck_assert_str_eq(psgd_safetensors_metadata(file, "kind"), "a \"test\"");
	ck_assert_int_eq(reader.find(reader.user, "weights", &found), PSGD_OK);
	ck_assert_uint_eq(found.dtype, PSGD_F32);
	ck_assert_uint_eq(found.n_dims, 2);
	ck_assert_int_eq(found.dims[0], 2);
	ck_assert_int_eq(found.dims[1], 3);
	ck_assert_int_eq(reader.read(reader.user, "weights", weights, sizeof(weights)), PSGD_OK);
	for (int i = 0; i < 6; i++)
		ck_assert(weights[i] == (float)(i + 1));
	ck_assert_int_eq(reader.read(reader.user, "weights", weights, 20), PSGD_ERR_MISMATCH);
	ck_assert_int_eq(reader.read(reader.user, "bytes", text, 3), PSGD_OK);
	ck_assert_int_eq(memcmp(text, "abc", 3), 0);
	ck_assert_int_eq(reader.find(reader.user, "sums", &found), PSGD_ERR_INVALID);
	view.prefix = "q/";
	ck_assert_int_eq(reader.read(reader.user, "sums", sums, sizeof(sums)), PSGD_OK);
	ck_assert(sums[0] == 0.1 && isnan(sums[1]));
	psgd_safetensors_close(&file);
}
END_TEST

START_TEST(writer_refuses)
{
	psgd_safetensors_writer *writer = sample();
	struct psgd_state_array array = array_of("weights", PSGD_F32, 1);
	char error[512];
	float value = 0;

	ck_assert_int_eq(psgd_safetensors_add(writer, "p/", &array, &value), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_safetensors_add(writer, "r/", &array, NULL), PSGD_ERR_INVALID);
	array.dims[0] = INT64_MAX;
	ck_assert_int_eq(psgd_safetensors_add(writer, "r/", &array, &value), PSGD_ERR_INVALID);
	array.dims[0] = -1;
	ck_assert_int_eq(psgd_safetensors_add(writer, "r/", &array, &value), PSGD_ERR_INVALID);
	array = array_of("__metadata__", PSGD_F32, 1);
	ck_assert_int_eq(psgd_safetensors_add(writer, "", &array, &value), PSGD_ERR_INVALID);
	array = array_of("x", 9, 1);
	ck_assert_int_eq(psgd_safetensors_add(writer, "", &array, &value), PSGD_ERR_INVALID);
	array = array_of("\xff", PSGD_F32, 1);
	ck_assert_int_eq(psgd_safetensors_add(writer, "", &array, &value), PSGD_ERR_INVALID);
	ck_assert_int_eq(
		psgd_safetensors_write(writer, "none/x", error, sizeof(error)), PSGD_ERR_IO);
	ck_assert_str_eq(error, "none/x: cannot write: No such file or directory");
	psgd_safetensors_writer_free(&writer);
	psgd_safetensors_writer_free(&writer);
}
END_TEST

#define T(dtype, shape, offsets)                                                                   \
	"{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

START_TEST(hostile_headers)
{
	psgd_safetensors *file = NULL;
	char error[512];

	refused("[]", 0, "begin with '{'");
	refused("{\"a\":1}", 0, "expected dtype, shape and data_offsets");
	refused("{\"a\":" T("F32", "[1]", "[0,4]") "", 4, "bad header");
	refused("{\"a\":" T("F31", "[1]", "[0,4]") "}", 4, "unknown dtype \"F31\"");
	refused("{\"a\":" T("F32", "[2]", "[0,4]") "}", 4, "shape does not fit");
	refused("{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, "impossible shape");
	refused("{\"a\":" T("F32", "[1.0]", "[0,4]") "}", 4, "impossible shape");
	refused("{\"a\":" T("F32", "[4611686018427387904,4611686018427387904]", "[0,4]") "}", 4,
		"impossible shape");
	/* times 4 it wraps around to 4 */
	refused("{\"a\":" T("F32", "[4611686018427387905]", "[0,4]") "}", 4, "shape does not fit");
	refused("{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "at most 8 sizes");
	refused("{\"a\":" T("F32", "{}", "[0,4]") "}", 4, "not a list");
	refused("{\"a\":" T("F32", "[1]", "[0,8]") "}", 4, "not in the file");
	refused("{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, "not in the file");
	refused("{\"a\":" T("F32", "[1]", "[0,4,8]") "}", 4, "not in the file");
	refused("{\"a\":" T("F32", "[1]", "[0,4]") "}", 5, "behind the last");
	refused("{\"a\":" T("F32", "[1]", "[1,5]") "}", 5, "does not begin where");
	refused("{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4,
		"does not begin where");
	refused("{\"a\":" T("U8", "[1]", "[0,1]") ",\"a\":" T("U8", "[1]", "[0,1]") "}", 1,
		"bad header");
	refused("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
	refused("{\"__metadata__\":{\"a\":1}}", 0, "\"a\" is no text");
	put_bytes("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
	ck_assert_int_eq(
		psgd_safetensors_open(FILE_NAME, &file, error, sizeof(error)), PSGD_ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(error, "cannot be 18446744073709551615 bytes long"));
	put_bytes("", 0);
	ck_assert_int_eq(
		psgd_safetensors_open(FILE_NAME, &file, error, sizeof(error)), PSGD_ERR_CONFIG);
	ck_assert_int_eq(psgd_safetensors_open(".", &file, error, sizeof(error)), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error, ".: no safetensors file: not a regular file");
	ck_assert_int_eq(psgd_safetensors_open("no", &file, error, sizeof(error)), PSGD_ERR_IO);
	ck_assert_int_eq(psgd_safetensors_open(NULL, &file, NULL, 0), PSGD_ERR_INVALID);
}
END_TEST

/* Flips and truncations are refused or read; sanitizers see whether anything else happens. */
START_TEST(damage_is_harmless)
{
	unsigned char bytes[4096], hurt[4096], to[64];
	size_t n = write_sample(bytes, sizeof(bytes));
	struct rng draws = {1};
	unsigned n_refused = 0;

	for (int round = 0; round < 1500; round++) {
		psgd_safetensors *file = NULL;
		size_t left = round % 4 ? n : rng_next(&draws) % n;

		memcpy(hurt, bytes, n);
		for (uint64_t flips = 1 + rng_next(&draws) % 3; flips; flips--)
			hurt[rng_next(&draws) % n] ^= (unsigned char)(1U << rng_next(&draws) % 8);
		put_bytes(hurt, left);
		if (psgd_safetensors_open(FILE_NAME, &file, NULL, 0)) {
			n_refused++;
			continue;
		}
		ck_assert_uint_eq(left, n);
		for (size_t i = 0; i < psgd_safetensors_count(file); i++) {
			struct psgd_safetensor found = PSGD_INIT(psgd_safetensor);

			ck_assert_int_eq(psgd_safetensors_get(file, i, &found), PSGD_OK);
			ck_assert_uint_le(found.bytes, sizeof(to));
			ck_assert_int_eq(
				psgd_safetensors_read(file, found.name, to, (size_t)found.bytes),
				PSGD_OK);
		}
		psgd_safetensors_close(&file);
	}
	ck_assert_uint_gt(n_refused, 700);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("safetensors");
	TCase *tcase = tcase_create("safetensors");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, foreign_file);
	tcase_add_test(tcase, round_trip);
	tcase_add_test(tcase, writer_refuses);
	tcase_add_test(tcase, hostile_headers);
	tcase_add_test(tcase, damage_is_harmless);
	tcase_set_timeout(tcase, 60);
	suite_add_tcase(s, tcase);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
