/* No JPEG: what a build without TurboJPEG says. SPDX-License-Identifier: MIT */
#include "decode.h"

static psgd_status refuse(const struct encoded *image, struct image_error *error)
{
	return image_fail(error, PSGD_ERR_UNSUPPORTED,
		"%s: a JPEG image, but this program was built without libturbojpeg "
		"(libturbojpeg0-dev)",
		image->path);
}

psgd_status decode_jpeg_size(struct decoder *decoder, const struct encoded *image, size_t *cols,
	size_t *rows, struct image_error *error)
{
	(void)decoder;
	*cols = *rows = 0;
	return refuse(image, error);
}

psgd_status decode_jpeg_pixels(struct decoder *decoder, const struct encoded *image,
	unsigned shrink, uint8_t *out, struct image_error *error)
{
	(void)decoder;
	(void)shrink;
	(void)out;
	return refuse(image, error);
}

void decode_jpeg_finish(struct decoder *decoder)
{
	(void)decoder;
}
