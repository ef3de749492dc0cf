/* Which decoder an image needs. SPDX-License-Identifier: MIT */
#include "pack_decode.h"

#include <string.h>

static const uint8_t jpeg_magic[] = {0xff, 0xd8, 0xff};
static const uint8_t png_magic[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

psgd_status pack_decode(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error)
{
	if (image->n >= sizeof(jpeg_magic) &&
		memcmp(image->bytes, jpeg_magic, sizeof(jpeg_magic)) == 0)
		return pack_decode_jpeg(image, side, out, error);
	if (image->n >= sizeof(png_magic) &&
		memcmp(image->bytes, png_magic, sizeof(png_magic)) == 0)
		return pack_decode_png(image, side, out, error);
	return image_fail(error, PSGD_ERR_CONFIG, "%s: neither JPEG nor PNG", image->path);
}

psgd_status pack_check_size(const struct encoded *image, size_t cols, size_t rows, size_t side,
	struct image_error *error)
{
	if (cols == side && rows == side)
		return PSGD_OK;
	return image_fail(error, PSGD_ERR_CONFIG, "%s: %zu x %zu pixels, expected %zu x %zu",
		image->path, cols, rows, side, side);
}
