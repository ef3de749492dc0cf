/* PNG by libpng's simplified interface. SPDX-License-Identifier: MIT */
#include "decode.h"

#include <png.h>

static psgd_status refuse(
	const struct encoded *image, const png_image *png, struct image_error *error)
{
	return decode_refuse(image, "PNG", png->message, error);
}

psgd_status decode_png_size(
	const struct encoded *image, size_t *cols, size_t *rows, struct image_error *error)
{
	png_image png = {.version = PNG_IMAGE_VERSION};
	psgd_status status = PSGD_OK;

	if (!png_image_begin_read_from_memory(&png, image->bytes, image->n))
		status = refuse(image, &png, error);
	*cols = png.width;
	*rows = png.height;
	png_image_free(&png);
	return status;
}

psgd_status decode_png_pixels(const struct encoded *image, uint8_t *out, struct image_error *error)
{
	const png_color black = {0, 0, 0};
	png_image png = {.version = PNG_IMAGE_VERSION};
	psgd_status status = PSGD_OK;

	(void)png_image_begin_read_from_memory(&png, image->bytes, image->n);
	png.format = PNG_FORMAT_RGB;
	if (!PNG_IMAGE_FAILED(png))
		(void)png_image_finish_read(&png, &black, out, 0, NULL);
	if (PNG_IMAGE_FAILED(png))
		status = refuse(image, &png, error);
	png_image_free(&png);
	return status;
}
