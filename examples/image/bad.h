/* Images that cannot be decoded. SPDX-License-Identifier: MIT */
#ifndef IMAGE_BAD_H
#define IMAGE_BAD_H

#include "error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define BAD_LINES 16

/* Which images of a split are known to be bad, and lines that nobody has taken yet. */
struct bad {
	pthread_mutex_t lock;
	bool *known;
	struct image_error line[BAD_LINES];
	size_t n_lines, unnamed;
};

/* Ended by bad_finish. Errors: NOMEM. */
psgd_status bad_init(struct bad *bad, size_t n);
void bad_finish(struct bad *bad);

/* From any thread. */
bool bad_knows(struct bad *bad, size_t index);
void bad_add(struct bad *bad, size_t index, const struct image_error *line);

/* The next line, each image once; false: there is none now. What had no room is counted. */
bool bad_take(struct bad *bad, struct image_error *line);

#endif
