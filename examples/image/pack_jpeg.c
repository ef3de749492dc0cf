/* JPEG by TurboJPEG. SPDX-License-Identifier: MIT */
#include "pack_decode.h"

#include <turbojpeg.h>

static psgd_status refuse(
	const struct encoded *image, const char *reason, struct image_error *error)
{
	return image_fail(
		error, PSGD_ERR_CONFIG, "%s: damaged JPEG image: %s", image->path, reason);
}

psgd_status pack_decode_jpeg(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error)
{
	/* A file that ends early is only a warning to the library. */
	int flags = TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING;
	tjhandle decoder = tjInitDecompress();
	int cols = 0, rows = 0, subsampling, colours;
	psgd_status status;

	if (!decoder)
		return image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", image->path);
	if (tjDecompressHeader3(
		    decoder, image->bytes, image->n, &cols, &rows, &subsampling, &colours) != 0)
		status = refuse(image, tjGetErrorStr2(decoder), error);
	else if (cols < 1 || rows < 1) /* tables alone are no error to the library */
		status = refuse(image, "there is no image in it", error);
	else
		status = pack_check_size(image, (size_t)cols, (size_t)rows, side, error);
	if (!status && tjDecompress2(decoder, image->bytes, image->n, out, cols, 0, rows, TJPF_RGB,
			       flags) != 0)
		status = refuse(image, tjGetErrorStr2(decoder), error);
	(void)tjDestroy(decoder);
	return status;
}
