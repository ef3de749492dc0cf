#include "device/cuda_module_list.h"

#include "base/base.h"
#include "device/cuda_items.h"

struct psgd__cuda_list psgd__cuda_list_put(struct psgd__cuda_call *call, size_t count, size_t each)
{
	struct psgd__cuda_list list = {.call = call, .count = count};

	list.items = psgd__cuda_put(call, count * each);
	list.first = psgd__cuda_put(call, count * sizeof(*list.first));
	return list;
}

void psgd__cuda_list_cut(struct psgd__cuda_list *list, size_t k, int64_t tiles)
{
	list->first[k] = (uint32_t)list->tiles;
	list->tiles += (uint64_t)tiles;
}

psgd_status psgd__cuda_list_ready(const struct psgd__cuda_list *list, struct psgd__cuda_cut *cut)
{
	if (list->tiles > INT32_MAX) {
		psgd__cuda_say(list->call->d, "a list too large for one launch");
		return PSGD_ERR_INVALID;
	}
	cut->first = psgd__cuda_place(list->call, list->first);
	cut->count = (uint32_t)list->count;
	cut->tiles = (uint32_t)list->tiles;
	return PSGD_OK;
}

struct psgd__cuda_list psgd__cuda_list_spans(
	struct psgd__cuda_call *call, const struct psgd__span *from, size_t count)
{
	struct psgd__cuda_list list =
		psgd__cuda_list_put(call, count, sizeof(struct psgd__cuda_span));
	struct psgd__cuda_span *items = list.items;

	for (size_t k = 0; k < count; k++) {
		items[k] = (struct psgd__cuda_span){from[k].data, from[k].count};
		psgd__cuda_list_cut(&list, k, psgd__cuda_pieces(from[k].count, PSGD__CUDA_FLAT));
	}
	return list;
}

psgd_status psgd__cuda_look(
	struct psgd__cuda_call *call, const struct psgd__cuda_list *spans, uint32_t *bad)
{
	struct psgd__cuda_cut cut;

	PSGD__TRY(psgd__cuda_list_ready(spans, &cut));
	if (!cut.tiles)
		return PSGD_OK;
	return psgd__cuda_status(call->d,
		psgd__cuda_finite(psgd__cuda_place(call, spans->items), &cut,
			psgd__cuda_place(call, bad), call->stream),
		"finite");
}
