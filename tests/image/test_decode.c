/* Decoding of image files: pixels, inks, smaller on the way, and whatever a file may hold. */
#include "examples/image/decode.h"
#include "photo_files.h"
#include "support/suite.h"

#include <png.h>
#include <string.h>
#include <turbojpeg.h>

#define MOST_PIXELS ((size_t)(200 * 200))

static struct image_error error;
static struct decoder decoder;
static uint8_t got[MOST_PIXELS * 3], other[MOST_PIXELS * 3];

static void finish(void)
{
	decoder_finish(&decoder);
}

/* Its size, and its pixels in `got`. */
static psgd_status decode(const uint8_t *bytes, size_t n, size_t *cols, size_t *rows)
{
	const struct encoded image = {"a.JPEG", bytes, n};
	psgd_status status = decode_size(&decoder, &image, cols, rows, &error);

	if (!status && *cols * *rows <= MOST_PIXELS)
		status = decode_pixels(&decoder, &image, 1, got, &error);
	return status;
}

static void decode_photo(const struct photo *photo, size_t cols, size_t rows)
{
	size_t have[2];

	ck_assert_msg(
		decode(photo->bytes, photo->n, &have[0], &have[1]) == PSGD_OK, "%s", error.text);
	ck_assert_uint_eq(have[0], cols);
	ck_assert_uint_eq(have[1], rows);
}

static void expect_near(size_t i, double want, double tolerance)
{
	ck_assert_double_eq_tol(got[i], want, tolerance);
}

/* What was encoded comes back, nearly; and the library's own call gives the same to the bit. */
START_TEST(test_colour)
{
	enum photo_kind kind = _i == 0 ? PHOTO_COLOUR : PHOTO_PROGRESSIVE;
	struct photo photo = photo_encode(kind, 61, 43, 3);
	tjhandle reference = tjInitDecompress();

	decode_photo(&photo, 61, 43);
	for (size_t r = 0; r < 43; r++)
		for (size_t x = 0; x < 61; x++)
			for (size_t c = 0; c < 3; c++)
				expect_near((r * 61 + x) * 3 + c, photo_value(3, x, r, c), 6);
	ck_assert_int_eq(tjDecompress2(reference, photo.bytes, photo.n, other, 61, 0, 43, TJPF_RGB,
				 TJFLAG_ACCURATEDCT),
		0);
	ck_assert_mem_eq(got, other, 61 * 43 * 3);
	(void)tjDestroy(reference);
	photo_free(&photo);
}
END_TEST

START_TEST(test_grey)
{
	struct photo photo = photo_encode(PHOTO_GREY, 33, 20, 1);

	decode_photo(&photo, 33, 20);
	for (size_t i = 0; i < (size_t)33 * 20 * 3; i++)
		expect_near(i, photo_value(1, i / 3 % 33, i / 99, 0), 4);
	photo_free(&photo);
}
END_TEST

/* Stored as Adobe's programs do: 255 is no ink, and black darkens all three. */
START_TEST(test_inks)
{
	struct photo photo = photo_encode(PHOTO_INKS, 40, 24, 2);

	decode_photo(&photo, 40, 24);
	for (size_t r = 0; r < 24; r++)
		for (size_t x = 0; x < 40; x++)
			for (size_t c = 0; c < 3; c++)
				expect_near((r * 40 + x) * 3 + c,
					photo_value(2, x, r, c) * photo_value(2, x, r, 3) / 255.0,
					6);
	photo_free(&photo);
}
END_TEST

/* What is stored of the inks before the transform is undone: they were encoded by way of it. */
static double stored(size_t col, size_t row, size_t channel)
{
	static const double share[3][3] = {
		{0.299, 0.587, 0.114}, {-0.168736, -0.331264, 0.5}, {0.5, -0.418688, -0.081312}};
	double value = channel ? 128.0 : 0.0;

	if (channel == 3)
		return photo_value(2, col, row, 3);
	for (size_t c = 0; c < 3; c++)
		value += share[channel][c] * (255.0 - photo_value(2, col, row, c));
	return value;
}

/* 0: Adobe's, without a transform; 1: without a marker; 2: with one of somebody else. */
START_TEST(test_whose_inks)
{
	static const char marker[] = "\xff\xee\x00\x0e"
				     "Adobe";
	struct photo photo = photo_encode(PHOTO_INKS, 40, 24, 2);
	uint8_t *at = memmem(photo.bytes, photo.n, marker, 9);

	ck_assert_ptr_nonnull(at);
	if (_i == 0) {
		at[15] = 0;
	} else if (_i == 1) {
		photo.n -= 16;
		memmove(at, at + 16, photo.n - (size_t)(at - photo.bytes));
	} else {
		memcpy(at + 4, "Other", 5);
	}
	decode_photo(&photo, 40, 24);
	for (size_t r = 0; r < 24; r++)
		for (size_t x = 0; x < 40; x++)
			for (size_t c = 0; c < 3; c++) {
				double ink = stored(x, r, c), black = stored(x, r, 3);

				if (_i > 0) {
					ink = 255.0 - ink;
					black = 255.0 - black;
				}
				expect_near((r * 40 + x) * 3 + c, ink * black / 255.0, 6);
			}
	photo_free(&photo);
}
END_TEST

/* A pixel of the smaller image is about the mean of those that it stands for. */
START_TEST(test_shrink)
{
	const unsigned shrink = 1u << _i;
	struct photo photo = photo_encode(PHOTO_COLOUR, 128, 96, 5);
	const struct encoded image = {"a.JPEG", photo.bytes, photo.n};
	size_t cols = 128 / shrink;

	decode_photo(&photo, 128, 96);
	ck_assert(decode_shrinks(&image));
	ck_assert_int_eq(decode_pixels(&decoder, &image, shrink, other, &error), PSGD_OK);
	for (size_t i = 0; i < cols * 96 / shrink; i++) {
		double sum = 0.0;

		for (size_t k = 0; k < (size_t)shrink * shrink; k++)
			sum += got[((i / cols * shrink + k / shrink) * 128 + i % cols * shrink +
					   k % shrink) *
					   3 +
				   1];
		ck_assert_double_eq_tol(other[i * 3 + 1], sum / (shrink * shrink), 3.0);
	}
	photo_free(&photo);
	ck_assert_uint_eq(decode_shrunk(129, 8), 17);
}
END_TEST

/* A PNG image by another name, as ImageNet has one. */
START_TEST(test_png)
{
	static uint8_t pixels[20 * 20 * 3], file[4096];
	size_t n, cols, rows;

	for (size_t i = 0; i < sizeof(pixels); i++)
		pixels[i] = (uint8_t)(i * 7);
	pack_files_create();
	write_png("x.JPEG", 20, PNG_FORMAT_RGB, pixels);
	n = read_bytes("x.JPEG", file, sizeof(file));
	ck_assert_int_eq(decode(file, n, &cols, &rows), PSGD_OK);
	ck_assert(cols == 20 && rows == 20);
	ck_assert_mem_eq(got, pixels, sizeof(pixels));
	ck_assert(!decode_shrinks(&(struct encoded){"x", file, n}));
	pack_files_remove();
}
END_TEST

/* Some bytes before the last marker, which some encoders left there, are no damage. */
START_TEST(test_extraneous)
{
	struct photo photo = photo_encode(PHOTO_COLOUR, 64, 40, 9);
	uint8_t *more = malloc(photo.n + 5);
	size_t cols, rows;

	decode_photo(&photo, 64, 40);
	memcpy(other, got, 64 * 40 * 3);
	memcpy(more, photo.bytes, photo.n - 2);
	memset(more + photo.n - 2, 0x11, 5);
	memcpy(more + photo.n + 3, photo.bytes + photo.n - 2, 2);
	ck_assert_msg(decode(more, photo.n + 5, &cols, &rows) == PSGD_OK, "%s", error.text);
	ck_assert_mem_eq(got, other, 64 * 40 * 3);
	free(more);
	photo_free(&photo);
}
END_TEST

static void expect_refusal(const uint8_t *bytes, size_t n, const char *line)
{
	size_t cols, rows;

	ck_assert_int_eq(decode(bytes, n, &cols, &rows), PSGD_ERR_CONFIG);
	ck_assert_msg(strncmp(error.text, line, strlen(line)) == 0, "%s", error.text);
}

START_TEST(test_refusals)
{
	struct photo photo = photo_encode(PHOTO_COLOUR, 64, 40, 9);
	uint8_t *at;

	expect_refusal(NULL, 0, "a.JPEG: neither JPEG nor PNG, the file is empty");
	expect_refusal((const uint8_t *)"text", 4, "a.JPEG: neither JPEG nor PNG");
	expect_refusal(photo.bytes, photo.n / 2, "a.JPEG: damaged JPEG image: Premature end");
	expect_refusal(photo.bytes, photo.n - 2, "a.JPEG: damaged JPEG image: Premature end");
	expect_refusal(photo.bytes, 3, "a.JPEG: damaged JPEG image: ");
	at = memmem(photo.bytes, photo.n, "\xff\xc0\x00\x11\x08", 5);
	ck_assert_ptr_nonnull(at);
	memset(at + 5, 0xfd, 4);
	expect_refusal(
		photo.bytes, photo.n, "a.JPEG: 65021 x 65021 pixels, more than 67108864 in all");
	photo_free(&photo);
}
END_TEST

static uint32_t state;

static uint32_t chance(size_t below)
{
	state = state * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(state >> 8) * below >> 24);
}

/* Spoilt in any way it is an image or a refusal, in one line; never more. */
START_TEST(test_fuzz)
{
	struct photo photo = photo_encode((enum photo_kind)_i, 90, 70, 4);
	uint8_t *bytes = malloc(photo.n);
	size_t refused = 0;

	state = (uint32_t)_i;
	for (int k = 0; k < 200; k++) {
		size_t n = k % 5 == 4 ? chance(photo.n) : photo.n, cols, rows;
		psgd_status status;

		memcpy(bytes, photo.bytes, photo.n);
		for (int flips = 0; flips < 1 + k % 8; flips++)
			bytes[chance(k % 2 ? photo.n : 700)] ^= (uint8_t)(1 + chance(255));
		error.text[0] = 0;
		status = decode(bytes, n, &cols, &rows);
		ck_assert(status == PSGD_OK || status == PSGD_ERR_CONFIG);
		ck_assert(!status || (error.text[0] && !strchr(error.text, '\n')));
		refused += status != PSGD_OK;
	}
	/* It still is a decoder. */
	ck_assert_uint_gt(refused, 20);
	decode_photo(&photo, 90, 70);
	free(bytes);
	photo_free(&photo);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_decode");
	TCase *c = tcase_create("decode");

	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, NULL, finish);
	tcase_add_loop_test(c, test_colour, 0, 2);
	tcase_add_test(c, test_grey);
	tcase_add_test(c, test_inks);
	tcase_add_loop_test(c, test_whose_inks, 0, 3);
	tcase_add_loop_test(c, test_shrink, 1, 4);
	tcase_add_test(c, test_png);
	tcase_add_test(c, test_extraneous);
	tcase_add_test(c, test_refusals);
	tcase_add_loop_test(c, test_fuzz, 0, 4);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
