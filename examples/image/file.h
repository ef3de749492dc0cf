/* Files that are read whole. SPDX-License-Identifier: MIT */
#ifndef IMAGE_FILE_H
#define IMAGE_FILE_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

/* Opens a regular file for reading; *out is closed by close(). Errors: IO, CONFIG. */
psgd_status file_open(const char *path, int *out, uint64_t *bytes, struct image_error *error);

/* What was read last; begins as zeros, is freed by free(bytes). */
struct file_bytes {
	uint8_t *bytes;
	size_t n, room;
};

/* Reads a regular file of at most `most` bytes. Errors: IO, CONFIG, NOMEM. */
psgd_status file_read(
	const char *path, size_t most, struct file_bytes *out, struct image_error *error);

#endif
