/* JPEG by TurboJPEG. SPDX-License-Identifier: MIT */
#include "decode.h"

#include <stdlib.h>
#include <string.h>

#include <turbojpeg.h>

/* Scans are limited: a small progressive file can ask for hours. */
#define FLAGS (TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS)

enum { SCAN = 0xda, APP14 = 0xee, ADOBE_BYTES = 14 }; /* markers; a segment with its length */

/* What a failure left in the library's decoder would spoil the next image: it begins anew. */
static psgd_status refuse(struct decoder *decoder, const struct encoded *image, const char *reason,
	struct image_error *error)
{
	psgd_status status = decode_refuse(image, "JPEG", reason, error);

	decode_jpeg_finish(decoder);
	return status;
}

static psgd_status read_header(struct decoder *decoder, const struct encoded *image, int *cols,
	int *rows, int *colours, struct image_error *error)
{
	int subsampling;

	*cols = *rows = 0;
	if (!decoder->jpeg)
		decoder->jpeg = tjInitDecompress();
	if (!decoder->jpeg)
		return image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", image->path);
	if (tjDecompressHeader3(
		    decoder->jpeg, image->bytes, image->n, cols, rows, &subsampling, colours) != 0)
		return refuse(decoder, image, tjGetErrorStr2(decoder->jpeg), error);
	if (*cols < 1 || *rows < 1) /* tables alone are no error to the library */
		return refuse(decoder, image, "there is no image in it", error);
	return PSGD_OK;
}

psgd_status decode_jpeg_size(struct decoder *decoder, const struct encoded *image, size_t *cols,
	size_t *rows, struct image_error *error)
{
	int width, height, colours;
	psgd_status status = read_header(decoder, image, &width, &height, &colours, error);

	*cols = (size_t)width;
	*rows = (size_t)height;
	return status;
}

/* Bytes between the end of the image's data and its marker: encoders have left some. */
static bool is_harmless(const struct decoder *decoder)
{
	return tjGetErrorCode(decoder->jpeg) == TJERR_WARNING &&
	       strstr(tjGetErrorStr2(decoder->jpeg), "extraneous bytes");
}

/*
 * A file that ends early is only a warning to the library, as other damage is. The first warning
 * ends decoding; if it is a harmless one the image is decoded to its end.
 */
static psgd_status decompress(struct decoder *decoder, const struct encoded *image, size_t cols,
	size_t rows, int format, uint8_t *out, struct image_error *error)
{
	for (int strict = 1; strict >= 0; strict--) {
		if (tjDecompress2(decoder->jpeg, image->bytes, image->n, out, (int)cols, 0,
			    (int)rows, format, FLAGS | (strict ? TJFLAG_STOPONWARNING : 0)) == 0)
			return PSGD_OK;
		if (!is_harmless(decoder))
			return refuse(decoder, image, tjGetErrorStr2(decoder->jpeg), error);
	}
	return PSGD_OK;
}

/*
 * Whether one of the segments before the image's data is Adobe's. What cannot be walked through is
 * damaged, as the library will find.
 */
static bool is_adobes(const struct encoded *image)
{
	const uint8_t *bytes = image->bytes;
	size_t at = 2, length;

	while (at + 4 <= image->n && bytes[at] == 0xff && bytes[at + 1] != SCAN) {
		length = (size_t)bytes[at + 2] << 8 | bytes[at + 3];
		if (bytes[at + 1] == 0xff) { /* one that fills */
			at++;
			continue;
		}
		if (length < 2 || length > image->n - at - 2)
			return false;
		if (bytes[at + 1] == APP14 && length >= ADOBE_BYTES &&
			memcmp(bytes + at + 4, "Adobe", 5) == 0)
			return true;
		at += 2 + length;
	}
	return false;
}

/* Adobe's programs write inks inverted, 255 is none; others, as it is said, write 255 for full. */
static psgd_status mix_inks(struct decoder *decoder, const struct encoded *image, size_t cols,
	size_t rows, uint8_t *out, struct image_error *error)
{
	const unsigned flip = is_adobes(image) ? 0 : 255;
	uint8_t *inks = malloc(cols * rows * 4);
	psgd_status status;

	if (!inks)
		return image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", image->path);
	status = decompress(decoder, image, cols, rows, TJPF_CMYK, inks, error);
	for (size_t i = 0; !status && i < cols * rows; i++) {
		unsigned black = inks[4 * i + 3] ^ flip;

		for (size_t c = 0; c < 3; c++)
			out[3 * i + c] = (uint8_t)(((inks[4 * i + c] ^ flip) * black + 127) / 255);
	}
	free(inks);
	return status;
}

psgd_status decode_jpeg_pixels(struct decoder *decoder, const struct encoded *image,
	unsigned shrink, uint8_t *out, struct image_error *error)
{
	int width, height, colours;
	psgd_status status = read_header(decoder, image, &width, &height, &colours, error);
	size_t cols, rows;

	if (status)
		return status;
	cols = decode_shrunk((size_t)width, shrink);
	rows = decode_shrunk((size_t)height, shrink);
	if (colours == TJCS_CMYK || colours == TJCS_YCCK)
		return mix_inks(decoder, image, cols, rows, out, error);
	return decompress(decoder, image, cols, rows, TJPF_RGB, out, error);
}

void decode_jpeg_finish(struct decoder *decoder)
{
	if (decoder->jpeg)
		(void)tjDestroy(decoder->jpeg);
	decoder->jpeg = NULL;
}
