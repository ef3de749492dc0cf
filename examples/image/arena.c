/* One block of memory for buffers that are not all in use at once. SPDX-License-Identifier: MIT */
#include "arena.h"

static struct arena_buffer *largest(struct arena_buffer *buffers, size_t n)
{
	struct arena_buffer *found = NULL;

	for (size_t i = 0; i < n; i++)
		if (!buffers[i].placed && (!found || buffers[i].values > found->values))
			found = &buffers[i];
	return found;
}

/* A placed buffer that is in the way of `buffer`; NULL: none. */
static const struct arena_buffer *obstacle(
	const struct arena_buffer *buffers, size_t n, const struct arena_buffer *buffer)
{
	for (size_t i = 0; i < n; i++) {
		const struct arena_buffer *other = &buffers[i];

		if (other->placed && other->first <= buffer->last && buffer->first <= other->last &&
			other->offset < buffer->offset + buffer->values &&
			buffer->offset < other->offset + other->values)
			return other;
	}
	return NULL;
}

size_t arena_place(struct arena_buffer *buffers, size_t n)
{
	size_t total = 0;

	for (size_t i = 0; i < n; i++)
		buffers[i].placed = false;
	for (size_t i = 0; i < n; i++) {
		struct arena_buffer *buffer = largest(buffers, n);
		const struct arena_buffer *other;

		buffer->offset = 0;
		/* No place before the end of an obstacle is free of it. */
		while ((other = obstacle(buffers, n, buffer)))
			buffer->offset = other->offset + other->values;
		buffer->placed = true;
		if (buffer->offset + buffer->values > total)
			total = buffer->offset + buffer->values;
	}
	return total;
}
