/* Data sets: all of a worker's images in memory as bytes. SPDX-License-Identifier: MIT */
#ifndef IMAGE_DATA_H
#define IMAGE_DATA_H

#include "error.h"

#include <psgd/experiment/config.h>

struct split {
	uint8_t *images; /* count x rows x cols */
	uint8_t *labels;
	size_t count;
};

struct data {
	struct split train, test;
	size_t rows, cols;
	float scale, shift; /* value = byte * scale + shift has mean 0 and deviation 1 */
};

/*
 * Loads what config->dataset names. Labels are checked against `classes`. seed: of a synthetic
 * set. On success *out is ended by data_free; on failure it is zeros.
 * Errors: IO, CONFIG (the line names the file or the key), NOMEM.
 */
psgd_status data_load(const struct psgd_config_dataset *config, unsigned classes, uint64_t seed,
	struct data *out, struct image_error *error);
void data_free(struct data *data);

/* The size of an image, as data_load would find it; reads no more than a header. */
psgd_status data_image_size(const struct psgd_config_dataset *config, size_t *rows, size_t *cols,
	struct image_error *error);

/* Samples picked by `indices`, normalised, one after the other. */
void data_gather(const struct data *data, const struct split *split, const uint32_t *indices,
	size_t n, float *images, uint8_t *labels);

#endif
