/* Batches of a data set: a worker's part, by number. SPDX-License-Identifier: MIT */
#include "loader.h"

#include <stdlib.h>
#include <string.h>

#define TEST_BATCH 250 /* at most */
#define TEST_PIXELS ((size_t)TEST_BATCH * 64 * 64)

/* Fewer of large images: a batch's values are memory. */
static size_t test_batch(const struct image_shape *shape)
{
	size_t most = TEST_PIXELS / (shape->rows * shape->cols);

	return most < 1 ? 1 : most > TEST_BATCH ? TEST_BATCH : most;
}

static psgd_status open_stream(
	struct loader *loader, const struct psgd_config_dataset *config, struct image_error *error)
{
	const struct stream_options options = {.config = config,
		.data = &loader->data,
		.sampler = &loader->sampler,
		.test_begin = loader->test_begin,
		.test_n = loader->test_end - loader->test_begin,
		.test_batch = loader->test_batch,
		.largest_batch = loader_largest(loader)};

	return stream_open(&options, &loader->stream, error);
}

psgd_status loader_open(struct loader *loader, const struct psgd_config *config, uint32_t worker,
	uint32_t n_workers, struct image_error *error)
{
	size_t count, largest;
	psgd_status status;

	*loader = (struct loader){.epoch = UINT64_MAX};
	status = data_load(
		&config->dataset, config->model.num_classes, config->seed, &loader->data, error);
	if (!status)
		status = sampler_init(&loader->sampler, loader->data.train.count,
			config->dataset.batch_size, worker, n_workers, config->seed, error);
	if (status)
		return status;
	count = loader->data.test.count;
	loader->test_begin = count * worker / n_workers;
	loader->test_end = count * (worker + 1) / n_workers;
	loader->test_batch = test_batch(&loader->data.shape);
	if (loader->data.folder)
		return open_stream(loader, &config->dataset, error);
	loader->crop_flip = strcmp(config->dataset.augment, "crop_flip") == 0;
	largest = loader_largest(loader);
	loader->indices = calloc(largest, sizeof(*loader->indices));
	loader->changes = calloc(largest, sizeof(*loader->changes));
	if (!loader->indices || !loader->changes)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	return PSGD_OK;
}

void loader_close(struct loader *loader)
{
	stream_close(&loader->stream);
	free(loader->changes);
	free(loader->indices);
	sampler_finish(&loader->sampler);
	data_free(&loader->data);
}

/* The good samples of a batch. */
static size_t copy_batch(
	struct loader *loader, const struct batch *batch, float *images, uint16_t *labels)
{
	const struct image_shape *shape = &loader->data.shape;
	size_t values = image_values(shape), n = 0;

	for (size_t i = 0; i < batch->request.n; i++) {
		const struct sample *sample = &batch->samples[i];

		loader->skipped += sample->skipped;
		if (!sample->good)
			continue;
		data_normalise(&loader->data, batch->pixels + i * values, shape->rows * shape->cols,
			images + n * values);
		labels[n++] = sample->label;
	}
	stream_release(loader->stream);
	return n;
}

psgd_status loader_train(struct loader *loader, uint64_t epoch, size_t iteration, float *images,
	uint16_t *labels, struct image_error *error)
{
	const struct sampler *sampler = &loader->sampler;
	uint64_t key = augment_key(sampler->seed, epoch);
	const struct batch *batch;
	psgd_status status;

	if (loader->stream) {
		status = stream_train(loader->stream, epoch, iteration, &batch, error);
		if (!status)
			(void)copy_batch(loader, batch, images, labels);
		return status;
	}
	if (epoch != loader->epoch)
		sampler_start(&loader->sampler, epoch);
	loader->epoch = epoch;
	sampler_batch(sampler, iteration, loader->indices);
	for (size_t i = 0; loader->crop_flip && i < sampler->batch; i++)
		loader->changes[i] = augment_draw(key, sampler_position(sampler, iteration, i));
	data_gather(&loader->data, &loader->data.train, loader->indices,
		loader->crop_flip ? loader->changes : NULL, sampler->batch, images, labels);
	return PSGD_OK;
}

size_t loader_test_size(const struct loader *loader, size_t i)
{
	return data_batch_size(loader->test_end - loader->test_begin, loader->test_batch, i);
}

psgd_status loader_test(struct loader *loader, size_t i, float *images, uint16_t *labels,
	size_t *n_good, struct image_error *error)
{
	size_t begin = loader->test_begin + i * loader->test_batch;
	size_t n = loader_test_size(loader, i);
	const struct batch *batch;
	psgd_status status;

	if (loader->stream) {
		status = stream_test(loader->stream, i, &batch, error);
		if (!status)
			*n_good = copy_batch(loader, batch, images, labels);
		return status;
	}
	*n_good = n;
	for (size_t k = 0; k < n; k++)
		loader->indices[k] = (uint32_t)(begin + k);
	data_gather(&loader->data, &loader->data.test, loader->indices, NULL, n, images, labels);
	return PSGD_OK;
}

size_t loader_largest(const struct loader *loader)
{
	size_t batch = loader->sampler.batch;

	return batch > loader->test_batch ? batch : loader->test_batch;
}

bool loader_bad(struct loader *loader, struct image_error *line)
{
	return loader->stream && stream_bad(loader->stream, line);
}
