/* Batches of photographs, made ahead by threads. SPDX-License-Identifier: MIT */
#include "stream.h"

#include <stdlib.h>
#include <string.h>

#include "bad.h"
#include "folder.h"

struct stream {
	struct stream_options options;
	uint64_t epoch;	  /* of the sampler's order; UINT64_MAX: none yet */
	uint64_t trained; /* the epoch that training is in */
	size_t most_skipped;
	struct bad bad_train, bad_test;
	struct darkroom *darkrooms; /* one of each thread */
	struct prefetch *prefetch;
};

static struct request train_request(const struct stream *stream, uint64_t epoch, size_t iteration)
{
	return (struct request){epoch, iteration, stream->options.sampler->batch, false};
}

static struct request test_request(const struct stream *stream, uint64_t epoch, size_t i)
{
	const struct stream_options *o = &stream->options;

	return (struct request){epoch, i, data_batch_size(o->test_n, o->test_batch, i), true};
}

/* The batches of an epoch, those of the test split, the next epoch. */
static void follow(void *user, struct request *request)
{
	const struct stream *stream = user;
	uint64_t epoch = request->epoch;
	size_t next = request->batch + 1;

	if (!request->test && next < stream->options.sampler->iterations)
		*request = train_request(stream, epoch, next);
	else
		*request = test_request(stream, epoch, request->test ? next : 0);
	if (request->n == 0)
		*request = train_request(stream, epoch + 1, 0);
}

/* Of a global batch, and of the places after it; the first place is the first worker's. */
static void plan_train(struct stream *stream, struct batch *batch)
{
	struct sampler *sampler = stream->options.sampler;
	size_t all = sampler->batch * sampler->n_workers;
	size_t place = batch->request.batch * all;

	if (batch->request.epoch != stream->epoch)
		sampler_start(sampler, batch->request.epoch);
	stream->epoch = batch->request.epoch;
	for (size_t i = 0; i < all + stream->most_skipped; i++)
		batch->ids[i] = sampler->order[(place + i) % sampler->n_samples];
}

static void plan(void *user, struct batch *batch)
{
	struct stream *stream = user;
	size_t begin =
		stream->options.test_begin + batch->request.batch * stream->options.test_batch;

	if (!batch->request.test)
		plan_train(stream, batch);
	for (size_t i = 0; batch->request.test && i < batch->request.n; i++)
		batch->ids[i] = (uint32_t)(begin + i);
}

static uint8_t *pixels_of(const struct stream *stream, const struct batch *batch, size_t i)
{
	size_t side = stream->options.data->shape.rows;

	return batch->pixels + i * side * side * 3;
}

/* One that is bad, and may be, is not good afterwards, and no failure. */
static psgd_status try_image(struct stream *stream, unsigned thread, struct bad *bad,
	const struct exposure *exposure, uint8_t *pixels, struct sample *sample,
	struct image_error *error)
{
	psgd_status status;

	sample->good = false;
	sample->label = exposure->split->entries[exposure->index].class;
	if (bad_knows(bad, exposure->index))
		return PSGD_OK;
	status = folder_expose(
		stream->options.data->folder, &stream->darkrooms[thread], exposure, pixels, error);
	sample->good = !status;
	if (status != PSGD_ERR_CONFIG || !stream->options.config->skip_bad)
		return status;
	bad_add(bad, exposure->index, error);
	return PSGD_OK;
}

static psgd_status make_train(struct stream *stream, unsigned thread, struct batch *batch, size_t i,
	struct image_error *error)
{
	const struct sampler *sampler = stream->options.sampler;
	const struct psgd_config_dataset *config = stream->options.config;
	const uint32_t *id = batch->ids + i * sampler->n_workers + sampler->worker;
	struct sample *sample = &batch->samples[i];
	struct exposure exposure = {.split = &stream->options.data->folder->tree.train,
		.draw = strcmp(config->augment, "resized_crop_flip") == 0,
		.key = crop_key(sampler->seed, batch->request.epoch),
		.position = sampler_position(sampler, batch->request.batch, i),
		.size = stream->options.data->shape.rows};

	for (uint32_t k = 0; k <= stream->most_skipped; k++) {
		psgd_status status;

		exposure.index = id[k];
		status = try_image(stream, thread, &stream->bad_train, &exposure,
			pixels_of(stream, batch, i), sample, error);
		sample->skipped = k;
		if (status || sample->good)
			return status;
	}
	return image_fail(error, PSGD_ERR_CONFIG,
		"%zu training images in a row, in the order of epoch %llu, cannot be decoded",
		stream->most_skipped + 1, (unsigned long long)batch->request.epoch + 1);
}

static psgd_status make_test(struct stream *stream, unsigned thread, struct batch *batch, size_t i,
	struct image_error *error)
{
	struct sample *sample = &batch->samples[i];
	const struct exposure exposure = {.split = &stream->options.data->folder->tree.test,
		.index = batch->ids[i],
		.size = stream->options.data->shape.rows};
	psgd_status status = try_image(stream, thread, &stream->bad_test, &exposure,
		pixels_of(stream, batch, i), sample, error);

	sample->skipped = !sample->good;
	return status;
}

static psgd_status make(
	void *user, unsigned thread, struct batch *batch, size_t i, struct image_error *error)
{
	if (batch->request.test)
		return make_test(user, thread, batch, i, error);
	return make_train(user, thread, batch, i, error);
}

static const struct prefetch_ops ops = {follow, plan, make};

psgd_status stream_open(
	const struct stream_options *options, struct stream **out, struct image_error *error)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	const struct sampler *sampler = options->sampler;
	struct prefetch_options prefetch = {.ops = &ops,
		.user = stream,
		.threads = options->config->loader_threads,
		.batches = options->config->prefetch_batches,
		.samples = options->largest_batch,
		.sample_bytes = image_values(&options->data->shape)};

	*out = stream;
	if (!stream)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	stream->options = *options;
	stream->epoch = UINT64_MAX;
	/* After so many, a place would come round to itself. */
	stream->most_skipped = sampler->n_samples - 1 < STREAM_MOST_SKIPPED ? sampler->n_samples - 1
									    : STREAM_MOST_SKIPPED;
	prefetch.ids = sampler->batch * sampler->n_workers + STREAM_MOST_SKIPPED;
	if (prefetch.ids < options->largest_batch)
		prefetch.ids = options->largest_batch;
	stream->darkrooms = calloc(prefetch.threads, sizeof(*stream->darkrooms));
	if (bad_init(&stream->bad_train, options->data->train.count) |
			bad_init(&stream->bad_test, options->data->test.count) ||
		!stream->darkrooms)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	return prefetch_open(&prefetch, &stream->prefetch, error);
}

void stream_close(struct stream **out)
{
	struct stream *stream = *out;

	if (!stream)
		return;
	prefetch_close(&stream->prefetch);
	for (unsigned i = 0; stream->darkrooms && i < stream->options.config->loader_threads; i++)
		darkroom_finish(&stream->darkrooms[i]);
	free(stream->darkrooms);
	bad_finish(&stream->bad_test);
	bad_finish(&stream->bad_train);
	free(stream);
	*out = NULL;
}

psgd_status stream_train(struct stream *stream, uint64_t epoch, size_t iteration,
	const struct batch **out, struct image_error *error)
{
	struct request request = train_request(stream, epoch, iteration);

	stream->trained = epoch;
	return prefetch_take(stream->prefetch, &request, out, error);
}

psgd_status stream_test(
	struct stream *stream, size_t i, const struct batch **out, struct image_error *error)
{
	struct request request = test_request(stream, stream->trained, i);

	return prefetch_take(stream->prefetch, &request, out, error);
}

void stream_release(struct stream *stream)
{
	prefetch_release(stream->prefetch);
}

bool stream_bad(struct stream *stream, struct image_error *line)
{
	return bad_take(&stream->bad_train, line) || bad_take(&stream->bad_test, line);
}
