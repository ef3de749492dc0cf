/* No JPEG: what a build without TurboJPEG says. SPDX-License-Identifier: MIT */
#include "pack_decode.h"

psgd_status pack_decode_jpeg(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error)
{
	(void)side;
	(void)out;
	return image_fail(error, PSGD_ERR_UNSUPPORTED,
		"%s: a JPEG image, but this program was built without libturbojpeg "
		"(libturbojpeg0-dev)",
		image->path);
}
