/* Photographs for tests: JPEG images of any size, and a folder of them. */
#include "photo_files.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

uint8_t photo_value(unsigned number, size_t col, size_t row, size_t channel)
{
	double wave = sin((double)col * 0.21 + (double)number) *
		      cos((double)row * 0.17 + (double)channel);

	return (uint8_t)(128.0 + 100.0 * wave);
}

static struct photo encode(enum photo_kind kind, size_t cols, size_t rows, const uint8_t *pixels)
{
	int format = kind == PHOTO_GREY ? TJPF_GRAY : kind == PHOTO_INKS ? TJPF_CMYK : TJPF_RGB;
	tjhandle encoder = tjInitCompress();
	struct photo photo = {0};
	unsigned long n = 0;

	ck_assert_int_eq(tjCompress2(encoder, pixels, (int)cols, 0, (int)rows, format, &photo.bytes,
				 &n, kind == PHOTO_GREY ? TJSAMP_GRAY : TJSAMP_444, 98,
				 kind == PHOTO_PROGRESSIVE ? TJFLAG_PROGRESSIVE : 0),
		0);
	(void)tjDestroy(encoder);
	photo.n = n;
	return photo;
}

struct photo photo_encode(enum photo_kind kind, size_t cols, size_t rows, unsigned number)
{
	size_t channels = kind == PHOTO_GREY ? 1 : kind == PHOTO_INKS ? 4 : 3;
	uint8_t *pixels = malloc(cols * rows * channels);
	struct photo photo;

	for (size_t r = 0; r < rows; r++)
		for (size_t x = 0; x < cols; x++)
			for (size_t c = 0; c < channels; c++)
				pixels[(r * cols + x) * channels + c] =
					photo_value(number, x, r, c);
	photo = encode(kind, cols, rows, pixels);
	free(pixels);
	return photo;
}

struct photo photo_flat(size_t cols, size_t rows, uint8_t value)
{
	uint8_t *pixels = malloc(cols * rows);
	struct photo photo;

	memset(pixels, value, cols * rows);
	photo = encode(PHOTO_GREY, cols, rows, pixels);
	free(pixels);
	return photo;
}

void photo_free(struct photo *photo)
{
	tjFree(photo->bytes);
	*photo = (struct photo){0};
}

void photo_write(const char *name, const struct photo *photo)
{
	write_bytes(name, photo->bytes, photo->n);
}
