/* A decoder that lacks memory says so: a good image is never taken for a damaged one. */
#include "examples/image/decode.h"
#include "photo_files.h"
#include "support/suite.h"

#include <errno.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#define COLS 61
#define ROWS 43
#define PIXEL_BYTES ((size_t)COLS * ROWS * 3)

/* The libraries' allocations come from here, too: they are not asked for any other way. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t n);

static long left = -1; /* allocations until one fails, once; below 0: none does */

static bool fails(void)
{
	if (left < 0 || left-- > 0)
		return false;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t n)
{
	return fails() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *memory, size_t n)
{
	return fails() ? NULL : __libc_realloc(memory, n);
}

static struct image_error error;
static struct decoder decoder;

/* Asserts nothing: that would allocate. */
static psgd_status decode(const struct encoded *image, uint8_t *out)
{
	size_t cols, rows;
	psgd_status status = decode_size(&decoder, image, &cols, &rows, &error);

	return status ? status : decode_pixels(&decoder, image, 1, out, &error);
}

/* Each allocation of a decoder that begins anew fails in turn; the next image is decoded again. */
static void fail_each(const struct encoded *image)
{
	static uint8_t whole[PIXEL_BYTES], got[PIXEL_BYTES];
	bool failed = true;
	long refused = 0;

	ck_assert_msg(decode(image, whole) == PSGD_OK, "%s", error.text);
	for (long k = 0; failed; k++) {
		psgd_status status;

		decoder_finish(&decoder);
		memset(got, 0, sizeof(got));
		left = k;
		status = decode(image, got);
		failed = left < 0;
		left = -1;
		if (status) {
			ck_assert_msg(status == PSGD_ERR_NOMEM, "allocation %ld: status %d, %s", k,
				status, error.text);
			ck_assert_str_eq(error.text, "a.JPEG: out of memory");
			refused++;
			ck_assert_int_eq(decode(image, got), PSGD_OK);
		}
		ck_assert_mem_eq(got, whole, sizeof(got));
	}
	ck_assert_int_ge(refused, 5);
	decoder_finish(&decoder);
}

START_TEST(test_jpeg)
{
	struct photo photo = photo_encode((enum photo_kind)_i, COLS, ROWS, 3);
	const struct encoded image = {"a.JPEG", photo.bytes, photo.n};

	fail_each(&image);
	photo_free(&photo);
}
END_TEST

START_TEST(test_png)
{
	static uint8_t pixels[PIXEL_BYTES], file[2 * PIXEL_BYTES];
	png_image png = {.version = PNG_IMAGE_VERSION,
		.width = COLS,
		.height = ROWS,
		.format = PNG_FORMAT_RGB};
	png_alloc_size_t n = sizeof(file);
	struct encoded image = {"a.JPEG", file, 0};

	for (size_t i = 0; i < PIXEL_BYTES; i++)
		pixels[i] = (uint8_t)(i * 7);
	ck_assert(png_image_write_to_memory(&png, file, &n, 0, pixels, 0, NULL));
	image.n = n;
	fail_each(&image);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_decode_memory");
	TCase *c = tcase_create("memory");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_jpeg, 0, 4);
	tcase_add_test(c, test_png);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
