/* PNG by libpng's simplified interface. SPDX-License-Identifier: MIT */
#include "pack_decode.h"

#include <png.h>

psgd_status pack_decode_png(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error)
{
	const png_color black = {0, 0, 0};
	png_image png = {.version = PNG_IMAGE_VERSION};
	psgd_status status = PSGD_OK;

	if (png_image_begin_read_from_memory(&png, image->bytes, image->n))
		status = pack_check_size(image, png.width, png.height, side, error);
	png.format = PNG_FORMAT_RGB;
	if (!status && !PNG_IMAGE_FAILED(png))
		(void)png_image_finish_read(&png, &black, out, 0, NULL);
	if (!status && PNG_IMAGE_FAILED(png))
		status = image_fail(error, PSGD_ERR_CONFIG, "%s: damaged PNG image: %s",
			image->path, png.message);
	png_image_free(&png);
	return status;
}
