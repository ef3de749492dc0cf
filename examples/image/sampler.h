/* Which samples a worker takes in which iteration. SPDX-License-Identifier: MIT */
#ifndef IMAGE_SAMPLER_H
#define IMAGE_SAMPLER_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

/*
 * One permutation of the training set per (seed, epoch), the same on every worker. A global batch
 * is n_workers * batch of it in a row, and worker w takes every n_workers-th from w: so the set of
 * samples in a step does not depend on who is who. A last partial batch is dropped.
 */
struct sampler {
	uint32_t *order;
	size_t n_samples;
	size_t batch; /* per worker */
	size_t iterations;
	uint32_t worker, n_workers;
	uint64_t seed;
};

/* On success ended by sampler_finish. Errors: CONFIG (no full batch), NOMEM. */
psgd_status sampler_init(struct sampler *sampler, size_t n_samples, size_t batch, uint32_t worker,
	uint32_t n_workers, uint64_t seed, struct image_error *error);
void sampler_finish(struct sampler *sampler);

void sampler_start(struct sampler *sampler, uint64_t epoch);

/* Of the worker's sample i of an iteration, in the epoch's permutation. */
size_t sampler_position(const struct sampler *sampler, size_t iteration, size_t i);

/* The worker's batch in iteration 0 .. iterations-1 of the epoch that was started. */
void sampler_batch(const struct sampler *sampler, size_t iteration, uint32_t *indices);

#endif
