/* From folders of images to CIFAR's binary batches. SPDX-License-Identifier: MIT */
#ifndef IMAGE_PACK_H
#define IMAGE_PACK_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

struct pack_summary {
	size_t n_train, n_test, n_classes;
	uint64_t bytes;
};

/* Called before each image; a failure ends the packing. */
typedef psgd_status (*pack_progress)(void *user, size_t done, size_t total);

/*
 * Packs from/train/CLASS/IMAGE and from/test/CLASS/IMAGE into the folder `to`, which must not be
 * there, or be empty. It is written under another name beside it and renamed at the end; a
 * failure leaves nothing. progress may be NULL.
 * Errors: CONFIG (the line names the file), IO, UNSUPPORTED (built without a decoder), NOMEM, and
 * what progress returns.
 */
psgd_status pack_images(const char *from, const char *to, pack_progress progress, void *user,
	struct pack_summary *out, struct image_error *error);

#endif
