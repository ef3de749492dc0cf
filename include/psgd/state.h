/* State as named arrays: what a checkpoint is made of. SPDX-License-Identifier: MIT */
#ifndef PSGD_STATE_H
#define PSGD_STATE_H

#include <psgd/types.h>

PSGD_BEGIN

/*
 * An array of state. Names are unique within what one object saves; letters, digits, '_', '.' and
 * '/'. Bytes are in the machine's order, which is little-endian where libpsgd runs.
 */
struct psgd_state_array {
	size_t size;
	const char *name;
	uint32_t dtype; /* enum psgd_dtype; PSGD_U8 also carries structs and 64-bit numbers */
	uint32_t n_dims;
	int64_t dims[PSGD_MAX_DIMS]; /* may be 0 here */
};

/* Takes arrays, one after the other. array and data are borrowed for the call. */
struct psgd_state_writer {
	psgd_status (*put)(void *user, const struct psgd_state_array *array, const void *data);
	void *user;
};

/*
 * Gives arrays by name. find fills *out (name stays the caller's); INVALID: there is none of that
 * name. read copies the whole array; bytes must be its size, else MISMATCH.
 */
struct psgd_state_reader {
	psgd_status (*find)(void *user, const char *name, struct psgd_state_array *out);
	psgd_status (*read)(void *user, const char *name, void *to, size_t bytes);
	void *user;
};

PSGD_END
#endif
