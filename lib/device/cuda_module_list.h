/* Lists for a launch over many items of different sizes, which are cut into tiles. */
#ifndef PSGD_DEVICE_CUDA_MODULE_LIST_H
#define PSGD_DEVICE_CUDA_MODULE_LIST_H

#include "device/cuda_module_impl.h"

struct psgd__cuda_cut;

/* A list in a slot, and how many tiles it has. */
struct psgd__cuda_list {
	struct psgd__cuda_call *call;
	void *items;
	uint32_t *first;
	size_t count;
	uint64_t tiles;
};

/* Of count items of `each` bytes, none of which is cut yet. */
struct psgd__cuda_list psgd__cuda_list_put(struct psgd__cuda_call *call, size_t count, size_t each);
/* Items are cut one after the other, from the first. */
void psgd__cuda_list_cut(struct psgd__cuda_list *list, size_t k, int64_t tiles);
/* For the launch. Errors: INVALID (too many tiles). */
psgd_status psgd__cuda_list_ready(const struct psgd__cuda_list *list, struct psgd__cuda_cut *cut);

struct psgd__cuda_list psgd__cuda_list_spans(
	struct psgd__cuda_call *call, const struct psgd__span *from, size_t count);
/* Whether values of spans that were sent are not finite goes to *bad, of the slot. */
psgd_status psgd__cuda_look(
	struct psgd__cuda_call *call, const struct psgd__cuda_list *spans, uint32_t *bad);

/* For loads of whole vectors. */
static inline bool psgd__cuda_aligned(const void *memory)
{
	return (uintptr_t)memory % 16 == 0;
}

static inline int64_t psgd__cuda_pieces(int64_t all, int64_t piece)
{
	return all / piece + (all % piece != 0);
}

#endif
