/* No PNG: what a build without libpng says. SPDX-License-Identifier: MIT */
#include "pack_decode.h"

psgd_status pack_decode_png(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error)
{
	(void)side;
	(void)out;
	return image_fail(error, PSGD_ERR_UNSUPPORTED,
		"%s: a PNG image, but this program was built without libpng (libpng-dev)",
		image->path);
}
