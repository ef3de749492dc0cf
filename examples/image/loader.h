/* Batches of a data set: a worker's part, by number. SPDX-License-Identifier: MIT */
#ifndef IMAGE_LOADER_H
#define IMAGE_LOADER_H

#include "data.h"
#include "sampler.h"
#include "stream.h"

struct loader {
	struct data data;
	struct sampler sampler;
	uint64_t epoch;		 /* that the sampler's order is of; UINT64_MAX: none yet */
	bool crop_flip;		 /* training images */
	struct augment *changes; /* of a training batch */
	uint32_t *indices;	 /* of a batch */
	struct stream *stream;	 /* of a folder; NULL: the set is in memory */
	uint64_t skipped; /* bad images so far, in batches that were asked for; the caller's */
	size_t test_begin, test_end;
	size_t test_batch; /* samples in a test batch, but for the last */
};

/*
 * Loads the data set of a configuration, of which worker `worker` of n_workers takes its part.
 * The loader is ended by loader_close, also on failure. Errors: as data_load and sampler_init.
 */
psgd_status loader_open(struct loader *loader, const struct psgd_config *config, uint32_t worker,
	uint32_t n_workers, struct image_error *error);
void loader_close(struct loader *loader);

/*
 * Batch `iteration`, 0 .. loader->sampler.iterations - 1, of an epoch: batch_size images as rows x
 * cols x channels, normalised, and their labels. What a batch holds depends on its number alone,
 * so it may be asked for again, and in any order; the order of training, with the test split after
 * each epoch, is the quick one: photographs are decoded ahead of it.
 * Errors of photographs: CONFIG (a bad image, unless skip_bad), IO, UNSUPPORTED, NOMEM.
 */
psgd_status loader_train(struct loader *loader, uint64_t epoch, size_t iteration, float *images,
	uint16_t *labels, struct image_error *error);

/*
 * The worker's part of the test split, in batches 0, 1, ...: how many samples batch i has; 0: there
 * is no such batch.
 */
size_t loader_test_size(const struct loader *loader, size_t i);

/* Good images come first, *n_good of them; what follows them is of no meaning. */
psgd_status loader_test(struct loader *loader, size_t i, float *images, uint16_t *labels,
	size_t *n_good, struct image_error *error);

/* As stream_bad. */
bool loader_bad(struct loader *loader, struct image_error *line);

/* Samples of the largest batch, of training or test. */
size_t loader_largest(const struct loader *loader);

#endif
