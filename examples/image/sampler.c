/* Which samples a worker takes in which iteration. SPDX-License-Identifier: MIT */
#include "sampler.h"

#include <stdlib.h>

#include "rng.h"

psgd_status sampler_init(struct sampler *sampler, size_t n_samples, size_t batch, uint32_t worker,
	uint32_t n_workers, uint64_t seed, struct image_error *error)
{
	*sampler = (struct sampler){.n_samples = n_samples,
		.batch = batch,
		.worker = worker,
		.n_workers = n_workers,
		.seed = seed};
	if (batch < 1 || batch > n_samples / n_workers)
		return image_fail(error, PSGD_ERR_CONFIG,
			"dataset.batch_size %zu is more than the %zu samples that each of %u "
			"workers has (%zu training samples)",
			batch, n_samples / n_workers, n_workers, n_samples);
	if (n_samples > UINT32_MAX)
		return image_fail(error, PSGD_ERR_CONFIG, "%zu samples are too many", n_samples);
	sampler->iterations = n_samples / n_workers / batch;
	sampler->order = malloc(n_samples * sizeof(*sampler->order));
	if (!sampler->order)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	return PSGD_OK;
}

void sampler_finish(struct sampler *sampler)
{
	free(sampler->order);
	sampler->order = NULL;
}

void sampler_start(struct sampler *sampler, uint64_t epoch)
{
	uint64_t key = rng_key(sampler->seed, RNG_SHUFFLE, epoch);
	uint32_t *order = sampler->order;

	for (size_t i = 0; i < sampler->n_samples; i++)
		order[i] = (uint32_t)i;
	for (size_t i = sampler->n_samples; i-- > 1;) {
		size_t j = rng_below(key, i, i + 1);
		uint32_t kept = order[i];

		order[i] = order[j];
		order[j] = kept;
	}
}

size_t sampler_position(const struct sampler *sampler, size_t iteration, size_t i)
{
	return (iteration * sampler->batch + i) * sampler->n_workers + sampler->worker;
}

void sampler_batch(const struct sampler *sampler, size_t iteration, uint32_t *indices)
{
	for (size_t i = 0; i < sampler->batch; i++)
		indices[i] = sampler->order[sampler_position(sampler, iteration, i)];
}
