/* A data set without files. SPDX-License-Identifier: MIT */
#ifndef IMAGE_SYNTHETIC_H
#define IMAGE_SYNTHETIC_H

#include "data.h"

#define SYNTHETIC_TRAIN 10000
#define SYNTHETIC_TEST 2000
#define SYNTHETIC_SIDE 28

/*
 * Fills out->train and out->test: each class is a seeded pattern of blobs under strong noise. Can
 * be learnt, not at once. Equal for equal seeds. On failure what there is, is left to data_free.
 */
psgd_status synthetic_fill(struct data *out, unsigned classes, uint64_t seed, size_t train_limit,
	size_t test_limit, struct image_error *error);

#endif
