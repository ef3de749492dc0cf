/* Batches of photographs, made ahead by threads. SPDX-License-Identifier: MIT */
#ifndef IMAGE_STREAM_H
#define IMAGE_STREAM_H

#include "data.h"
#include "prefetch.h"
#include "sampler.h"

/*
 * A bad image among the training images is skipped: its place is taken by the image of the next
 * place in the epoch's order (after the last comes the first), with the place's own crop. That is
 * a matter of files and order alone, so that any number of workers trains on the same samples,
 * and no step is lost. A bad test image is left out. More bad ones in a row are an error.
 */
#define STREAM_MOST_SKIPPED 100

struct stream;

struct stream_options {
	const struct psgd_config_dataset *config;
	const struct data *data;   /* of a folder; borrowed */
	struct sampler *sampler;   /* borrowed; the stream starts its epochs */
	size_t test_begin, test_n; /* this worker's part of the test split */
	size_t test_batch, largest_batch;
};

/*
 * Memory: prefetch_batches * largest_batch * image_size^2 * 3 bytes, and for each thread its
 * largest image (3 bytes for a pixel, 4 more of one in inks), file, and rows that are resized. *out
 * is ended by stream_close, also on failure. Errors: NOMEM, FAILED.
 */
psgd_status stream_open(
	const struct stream_options *options, struct stream **out, struct image_error *error);
void stream_close(struct stream **stream); /* at any time; NULL is fine */

/*
 * A batch, as prefetch_take has it, until stream_release. Errors: CONFIG (a bad image, unless
 * skip_bad; the line names it), IO, UNSUPPORTED, NOMEM.
 */
psgd_status stream_train(struct stream *stream, uint64_t epoch, size_t iteration,
	const struct batch **out, struct image_error *error);
psgd_status stream_test(
	struct stream *stream, size_t i, const struct batch **out, struct image_error *error);
void stream_release(struct stream *stream);

/*
 * The line of an image that was found to be bad, each image once; false: no more have been found
 * up to now. Past the first few that wait, images are not named but counted.
 */
bool stream_bad(struct stream *stream, struct image_error *line);

#endif
