/* Decoders of single images, each in a file with its library. SPDX-License-Identifier: MIT */
#ifndef IMAGE_PACK_DECODE_H
#define IMAGE_PACK_DECODE_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

/* A file in memory. */
struct encoded {
	const char *path; /* for error lines */
	const uint8_t *bytes;
	size_t n;
};

/*
 * Decodes an image of side x side pixels into rows of red, green, blue; grey is expanded, what is
 * transparent is laid on black. out has side * side * 3 bytes.
 * Errors: CONFIG (damaged, another size), UNSUPPORTED (built without the library), NOMEM.
 */
psgd_status pack_decode_jpeg(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error);
psgd_status pack_decode_png(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error);

/* By what the file begins with. */
psgd_status pack_decode(
	const struct encoded *image, size_t side, uint8_t *out, struct image_error *error);

/* For decoders: before anything of the image's own size is allocated. */
psgd_status pack_check_size(const struct encoded *image, size_t cols, size_t rows, size_t side,
	struct image_error *error);

#endif
