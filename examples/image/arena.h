/* One block of memory for buffers that are not all in use at once. SPDX-License-Identifier: MIT */
#ifndef IMAGE_ARENA_H
#define IMAGE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct arena_buffer {
	size_t values;
	size_t first, last; /* the steps between which it is in use, both included */
	size_t offset;	    /* out: its place, in values */
	bool placed;	    /* out */
};

/*
 * Places n buffers so that those which are in use in the same step do not overlap: the largest
 * first, each as low as it fits. Returns how many values that takes.
 */
size_t arena_place(struct arena_buffer *buffers, size_t n);

#endif
