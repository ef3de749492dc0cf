/* What a build that lacks a decoder says. */
#include "examples/image/decode.h"
#include "support/suite.h"

static struct image_error error;

START_TEST(test_jpeg_missing)
{
	const uint8_t bytes[] = {0xff, 0xd8, 0xff, 0xe0};
	struct decoder decoder = {0};
	size_t cols, rows;
	const struct encoded image = {"a/b.jpg", bytes, sizeof(bytes)};

	ck_assert_int_eq(decode_size(&decoder, &image, &cols, &rows, &error), PSGD_ERR_UNSUPPORTED);
	ck_assert_str_eq(error.text, "a/b.jpg: a JPEG image, but this program was built without "
				     "libturbojpeg (libturbojpeg0-dev)");
}
END_TEST

START_TEST(test_png_missing)
{
	const uint8_t bytes[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
	struct decoder decoder = {0};
	size_t cols, rows;
	const struct encoded image = {"a/b.png", bytes, sizeof(bytes)};

	ck_assert_int_eq(decode_size(&decoder, &image, &cols, &rows, &error), PSGD_ERR_UNSUPPORTED);
	ck_assert_str_eq(error.text, "a/b.png: a PNG image, but this program was built without "
				     "libpng (libpng-dev)");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_stubs");
	TCase *c = tcase_create("stubs");

	tcase_add_test(c, test_jpeg_missing);
	tcase_add_test(c, test_png_missing);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
