/* Reader of idx files (the format of MNIST), gzipped or not. SPDX-License-Identifier: MIT */
#ifndef IMAGE_IDX_H
#define IMAGE_IDX_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

/* Unsigned bytes: rows x cols per sample; labels have 1 x 1. */
struct idx {
	uint8_t *values;
	size_t total; /* samples in the file */
	size_t count; /* samples in memory */
	size_t rows, cols;
};

/*
 * Reads at most `limit` samples (0: all, and nothing may follow them). On success out->values is
 * freed by free(); on failure *out is zeros. Errors: IO, CONFIG (not what it should be), NOMEM.
 */
psgd_status idx_read_images(
	const char *path, size_t limit, struct idx *out, struct image_error *error);
psgd_status idx_read_labels(
	const char *path, size_t limit, struct idx *out, struct image_error *error);

/* Only the header: values stays NULL. */
psgd_status idx_read_image_size(const char *path, struct idx *out, struct image_error *error);

#endif
