/* Data sets: images in memory as bytes, or a folder of photographs. */
/* SPDX-License-Identifier: MIT */
#ifndef IMAGE_DATA_H
#define IMAGE_DATA_H

#include "augment.h"
#include "error.h"

#include <psgd/experiment/config.h>

#define DATA_MAX_CHANNELS 3

struct image_shape {
	size_t rows, cols, channels; /* channels: 1 (grey) or 3 (red, green, blue) */
};

struct split {
	uint8_t *images; /* count x rows x cols x channels */
	uint8_t *labels;
	size_t count;
};

struct folder;

struct data {
	struct split train, test;
	struct folder
		*folder; /* of photographs: splits have only their count; NULL: a set in memory */
	struct image_shape shape;
	/* value = byte * scale + shift has mean 0 and deviation 1 in each channel */
	float scale[DATA_MAX_CHANNELS], shift[DATA_MAX_CHANNELS];
};

/*
 * Loads what config->dataset names. Labels are checked against `classes`. seed: of a synthetic
 * set. On success *out is ended by data_free; on failure it is zeros.
 * Errors: IO, CONFIG (the line names the file or the key), NOMEM.
 */
psgd_status data_load(const struct psgd_config_dataset *config, unsigned classes, uint64_t seed,
	struct data *out, struct image_error *error);
void data_free(struct data *data);

/* The shape of an image, as data_load would find it; reads no more than a header. */
psgd_status data_image_shape(const struct psgd_config_dataset *config, struct image_shape *shape,
	struct image_error *error);

/* Whether the set's first file, or its folder, is on this machine. Errors: CONFIG. */
psgd_status data_find(const struct psgd_config_dataset *config, struct image_error *error);

size_t image_values(const struct image_shape *shape); /* rows * cols * channels */

/* Samples in batch i of n in a row, `batch` in each but the last; 0: there is no such batch. */
size_t data_batch_size(size_t n, size_t batch, size_t i);

/* n pixels' bytes as normalised values. */
void data_normalise(const struct data *data, const uint8_t *bytes, size_t n, float *values);

/*
 * Of a set in memory: samples picked by `indices`, normalised, one after the other as rows x cols x
 * channels. changes: what is done to each; NULL: nothing.
 */
void data_gather(const struct data *data, const struct split *split, const uint32_t *indices,
	const struct augment *changes, size_t n, float *images, uint16_t *labels);

#endif
