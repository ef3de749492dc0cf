/* Tensor ids to positions. */
#ifndef PSGD_INDEX_H
#define PSGD_INDEX_H

#include <psgd/types.h>

struct psgd__index {
	struct psgd__index_entry {
		uint32_t id, position;
	} * entries;
	size_t count;
};

/* INVALID: an id twice. On failure nothing is held. */
psgd_status psgd__index_init(
	struct psgd__index *index, const struct psgd_tensor *tensors, size_t count);
void psgd__index_finish(struct psgd__index *index);

/* Position of an id; SIZE_MAX if there is none. */
size_t psgd__index_find(const struct psgd__index *index, uint32_t id);

/* The same, at once when ids come in rising or falling order. *near: 0 at first, then kept. */
size_t psgd__index_find_near(const struct psgd__index *index, uint32_t id, size_t *near);

#endif
