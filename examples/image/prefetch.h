/* Batches that threads make ahead of their use, in a ring. SPDX-License-Identifier: MIT */
#ifndef IMAGE_PREFETCH_H
#define IMAGE_PREFETCH_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which batch: of training, or of the test split. */
struct request {
	uint64_t epoch; /* of a test batch: after which it comes; two that differ only here are
			   one */
	size_t batch;
	size_t n; /* its samples */
	bool test;
};

/* What became of a sample. */
struct sample {
	uint16_t label;
	bool good;
	uint32_t skipped; /* bad ones that were met on the way to it */
};

/* A batch. */
struct batch {
	struct request request;
	uint32_t *ids; /* as the plan has it */
	uint8_t *pixels;
	struct sample *samples;
};

/* What the threads call; user is the owner's. */
struct prefetch_ops {
	/* Turns a request into the one that will follow it. One thread at a time. */
	void (*follow)(void *user, struct request *request);
	/* Fills batch->ids for batch->request. One thread at a time. */
	void (*plan)(void *user, struct batch *batch);
	/* Makes sample i. Threads 0, 1 ... at the same time, on different samples. */
	psgd_status (*make)(void *user, unsigned thread, struct batch *batch, size_t i,
		struct image_error *error);
};

struct prefetch_options {
	const struct prefetch_ops *ops; /* borrowed */
	void *user;
	unsigned threads, batches; /* at least 1 each */
	size_t ids, samples;	   /* of a batch, at most */
	size_t sample_bytes;	   /* of its pixels */
};

struct prefetch;

/*
 * Starts the threads, which wait for the first prefetch_take. All memory of batches is allocated
 * here. On success *out is ended by prefetch_close. Errors: NOMEM, FAILED (no thread).
 */
psgd_status prefetch_open(
	const struct prefetch_options *options, struct prefetch **out, struct image_error *error);

/* At any time: what the threads are at is finished, the rest is dropped. NULL is fine. */
void prefetch_close(struct prefetch **prefetch);

/*
 * Waits for a batch. When it is not the one that follows the last, all that was made ahead is
 * dropped. *out is the caller's until prefetch_release; one at a time. What is made ahead does not
 * depend on the number of threads, nor on when they run. Errors: those of `make`, of the first
 * sample that has one.
 */
psgd_status prefetch_take(struct prefetch *prefetch, const struct request *request,
	const struct batch **out, struct image_error *error);
void prefetch_release(struct prefetch *prefetch);

#endif
