/* A model's tensors as JSON, for those who plan its communication. SPDX-License-Identifier: MIT */
#ifndef IMAGE_PLAN_H
#define IMAGE_PLAN_H

#include "error.h"

#include <stddef.h>
#include <stdio.h>

/*
 * Prints {"tensors": [{"id", "name", "dims"} ...], "buckets": [[ids] ...] ...} for the model and
 * the data set of a configuration, and "sync_values": how many f32 values the norms add up over the
 * workers for a batch, if there are several, and
 * "notices": lines about files that are not on this machine. Buckets are in the order of
 * submission. Reads no images. Errors: CONFIG, IO, NOMEM; nothing is printed then.
 */
psgd_status plan_print(FILE *out, const char *config_path, const char *const *overrides,
	size_t n_overrides, struct image_error *error);

#endif
