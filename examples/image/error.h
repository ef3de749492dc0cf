/* One line that says what went wrong. SPDX-License-Identifier: MIT */
#ifndef IMAGE_ERROR_H
#define IMAGE_ERROR_H

#include <psgd/status.h>

struct image_error {
	char text[512];
};

/* Fills *error and returns `status`, so that a failure is one statement. */
psgd_status image_fail(struct image_error *error, psgd_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
