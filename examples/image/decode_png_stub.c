/* No PNG: what a build without libpng says. SPDX-License-Identifier: MIT */
#include "decode.h"

static psgd_status refuse(const struct encoded *image, struct image_error *error)
{
	return image_fail(error, PSGD_ERR_UNSUPPORTED,
		"%s: a PNG image, but this program was built without libpng (libpng-dev)",
		image->path);
}

psgd_status decode_png_size(
	const struct encoded *image, size_t *cols, size_t *rows, struct image_error *error)
{
	*cols = *rows = 0;
	return refuse(image, error);
}

psgd_status decode_png_pixels(const struct encoded *image, uint8_t *out, struct image_error *error)
{
	(void)out;
	return refuse(image, error);
}
