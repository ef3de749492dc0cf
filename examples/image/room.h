/* Memory that grows and keeps nothing. SPDX-License-Identifier: MIT */
#ifndef IMAGE_ROOM_H
#define IMAGE_ROOM_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Afterwards *memory has room for n elements of `size` bytes, zeros where it is new. memory: the
 * address of a pointer that begins as NULL, with *room elements of the same size, and is freed by
 * free(). False: out of memory; there is none then.
 */
bool room_for(void *memory, size_t *room, size_t n, size_t size);

#endif
