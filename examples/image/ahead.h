/* Batches of training, the next one made while a device computes. SPDX-License-Identifier: MIT */
#ifndef IMAGE_AHEAD_H
#define IMAGE_AHEAD_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trainer;

struct ahead {
	uint16_t *labels; /* of the batch that was taken */
	uint16_t *next;	  /* of the one that has been loaded */
	bool loaded;
	uint64_t epoch;
	size_t batch;
	uint64_t skipped; /* bad images on the way to it; they count when it is taken */
};

/* batch: its samples. Ended by ahead_finish, also on failure. Errors: NOMEM. */
psgd_status ahead_init(struct ahead *ahead, size_t batch, struct image_error *error);
void ahead_finish(struct ahead *ahead); /* of zeros is fine */

/* The batch that the next forward pass of trainer->plan takes, whether it was made ahead or not. */
psgd_status ahead_take(struct trainer *trainer, uint64_t epoch, size_t batch);

/* After a forward pass has begun. Does nothing where the net has room for one batch only. */
psgd_status ahead_load(struct trainer *trainer, uint64_t epoch, size_t batch);

#endif
