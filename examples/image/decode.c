/* Which decoder an image needs. SPDX-License-Identifier: MIT */
#include "decode.h"

#include <string.h>

static const uint8_t jpeg_magic[] = {0xff, 0xd8, 0xff};
static const uint8_t png_magic[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

static bool begins(const struct encoded *image, const uint8_t *magic, size_t n)
{
	return image->n >= n && memcmp(image->bytes, magic, n) == 0;
}

bool decode_shrinks(const struct encoded *image)
{
	return begins(image, jpeg_magic, sizeof(jpeg_magic));
}

size_t decode_shrunk(size_t side, unsigned shrink)
{
	return (side + shrink - 1) / shrink;
}

/* No library has a code for it. */
static bool lacks_memory(const char *reason)
{
	static const char *const texts[] = {
		"out of memory", "insufficient memory", "memory allocation failure"};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (strcasestr(reason, texts[i]))
			return true;
	return false;
}

psgd_status decode_refuse(const struct encoded *image, const char *format, const char *reason,
	struct image_error *error)
{
	if (lacks_memory(reason))
		return image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", image->path);
	return image_fail(
		error, PSGD_ERR_CONFIG, "%s: damaged %s image: %s", image->path, format, reason);
}

psgd_status decode_size(struct decoder *decoder, const struct encoded *image, size_t *cols,
	size_t *rows, struct image_error *error)
{
	psgd_status status;

	if (begins(image, jpeg_magic, sizeof(jpeg_magic)))
		status = decode_jpeg_size(decoder, image, cols, rows, error);
	else if (begins(image, png_magic, sizeof(png_magic)))
		status = decode_png_size(image, cols, rows, error);
	else
		status = image_fail(error, PSGD_ERR_CONFIG, "%s: neither JPEG nor PNG%s",
			image->path, image->n ? "" : ", the file is empty");
	if (!status && *rows > DECODE_MOST_PIXELS / *cols)
		status = image_fail(error, PSGD_ERR_CONFIG,
			"%s: %zu x %zu pixels, more than %zu in all", image->path, *cols, *rows,
			DECODE_MOST_PIXELS);
	return status;
}

psgd_status decode_pixels(struct decoder *decoder, const struct encoded *image, unsigned shrink,
	uint8_t *out, struct image_error *error)
{
	if (begins(image, jpeg_magic, sizeof(jpeg_magic)))
		return decode_jpeg_pixels(decoder, image, shrink, out, error);
	return decode_png_pixels(image, out, error);
}

void decoder_finish(struct decoder *decoder)
{
	decode_jpeg_finish(decoder);
}
