/* Decoders of single images, each in a file with its library. SPDX-License-Identifier: MIT */
#ifndef IMAGE_DECODE_H
#define IMAGE_DECODE_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Pixels of an image, at most: what a header may make a decoder allocate. */
#define DECODE_MOST_PIXELS ((size_t)1 << 26)

/* A file in memory. */
struct encoded {
	const char *path; /* for error lines */
	const uint8_t *bytes;
	size_t n;
};

/* What is kept from one image to the next; of one thread at a time. Begins as zeros. */
struct decoder {
	void *jpeg; /* TurboJPEG's */
};

void decoder_finish(struct decoder *decoder);

/*
 * The size of an image, by what the file begins with and its header.
 * Errors: CONFIG (damaged, larger than DECODE_MOST_PIXELS), UNSUPPORTED (built without the
 * library), NOMEM.
 */
psgd_status decode_size(struct decoder *decoder, const struct encoded *image, size_t *cols,
	size_t *rows, struct image_error *error);

/* Whether decode_pixels can make it smaller. */
bool decode_shrinks(const struct encoded *image);

/* A side of an image that decode_pixels makes smaller. */
size_t decode_shrunk(size_t side, unsigned shrink);

/*
 * After decode_size: rows of red, green, blue. Grey is expanded, inks (CMYK) are mixed: 255 is full
 * ink, or none in a file with a marker of Adobe's programs. What is transparent is laid on black.
 * shrink: 1, or 2, 4, 8 where decode_shrinks: so many times smaller in each direction, rounded up;
 * done on the way, so that it takes less time.
 * out: decode_shrunk(cols) * decode_shrunk(rows) * 3 bytes. Errors: as decode_size.
 */
psgd_status decode_pixels(struct decoder *decoder, const struct encoded *image, unsigned shrink,
	uint8_t *out, struct image_error *error);

/*
 * What a library says of an image that it could not decode, in a line. CONFIG, unless it lacked
 * memory: NOMEM, since that says nothing about the image. format: "JPEG", "PNG".
 */
psgd_status decode_refuse(const struct encoded *image, const char *format, const char *reason,
	struct image_error *error);

/* Of the formats; decode_size and decode_pixels find the right one. */
psgd_status decode_jpeg_size(struct decoder *decoder, const struct encoded *image, size_t *cols,
	size_t *rows, struct image_error *error);
psgd_status decode_jpeg_pixels(struct decoder *decoder, const struct encoded *image,
	unsigned shrink, uint8_t *out, struct image_error *error);
void decode_jpeg_finish(struct decoder *decoder);
psgd_status decode_png_size(
	const struct encoded *image, size_t *cols, size_t *rows, struct image_error *error);
psgd_status decode_png_pixels(const struct encoded *image, uint8_t *out, struct image_error *error);

#endif
