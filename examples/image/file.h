/* Files that are read whole. SPDX-License-Identifier: MIT */
#ifndef IMAGE_FILE_H
#define IMAGE_FILE_H

#include "error.h"

#include <stdint.h>

/* Opens a regular file for reading; *out is closed by close(). Errors: IO, CONFIG. */
psgd_status file_open(const char *path, int *out, uint64_t *bytes, struct image_error *error);

#endif
