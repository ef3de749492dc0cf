/* Reader of CIFAR's binary batches. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CIFAR_H
#define IMAGE_CIFAR_H

#include "data.h"

#define CIFAR_SIDE 32
#define CIFAR_CHANNELS 3
#define CIFAR_PIXELS ((size_t)CIFAR_SIDE * CIFAR_SIDE)
#define CIFAR_BYTES (CIFAR_PIXELS * CIFAR_CHANNELS)

#define CIFAR_MAX_FILES 5

/* A record is its label, then the red, the green and the blue plane, each row by row. */
struct cifar_format {
	const char *name;   /* dataset.name */
	const char *folder; /* the published archive has its files in it */
	const char *archive;
	const char *train[CIFAR_MAX_FILES + 1]; /* ended by NULL */
	const char *test[2];
	unsigned coarse; /* values of a label before the one that is used; 0: there is none */
};

extern const struct cifar_format cifar10_format, cifar100_format;

/*
 * Reads both splits from `root`, or from the archive's folder in it. Limits count samples, 0: all.
 * On failure what there is, is left to data_free. Errors: IO, CONFIG, NOMEM.
 */
psgd_status cifar_read(const struct cifar_format *format, const char *root, size_t train_limit,
	size_t test_limit, unsigned classes, struct data *out, struct image_error *error);

/* Whether the first file is there. Errors: CONFIG. */
psgd_status cifar_find(
	const struct cifar_format *format, const char *root, struct image_error *error);

#endif
