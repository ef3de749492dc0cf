#include "base/index.h"

#include "base/base.h"

static int by_id(const void *a, const void *b)
{
	const struct psgd__index_entry *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

psgd_status psgd__index_init(
	struct psgd__index *index, const struct psgd_tensor *tensors, size_t count)
{
	index->count = 0;
	index->entries = psgd__calloc(count, sizeof(*index->entries));
	if (!index->entries)
		return PSGD_ERR_NOMEM;
	for (size_t i = 0; i < count; i++) {
		index->entries[i].id = tensors[i].id;
		index->entries[i].position = (uint32_t)i;
	}
	qsort(index->entries, count, sizeof(*index->entries), by_id);
	index->count = count;
	for (size_t i = 1; i < count; i++) {
		if (index->entries[i].id == index->entries[i - 1].id) {
			psgd__index_finish(index);
			return PSGD_ERR_INVALID;
		}
	}
	return PSGD_OK;
}

void psgd__index_finish(struct psgd__index *index)
{
	free(index->entries);
	index->entries = NULL;
	index->count = 0;
}

static const struct psgd__index_entry *search(const struct psgd__index *index, uint32_t id)
{
	struct psgd__index_entry key = {.id = id};

	return bsearch(&key, index->entries, index->count, sizeof(key), by_id);
}

size_t psgd__index_find(const struct psgd__index *index, uint32_t id)
{
	const struct psgd__index_entry *found = search(index, id);

	return found ? found->position : SIZE_MAX;
}

size_t psgd__index_find_near(const struct psgd__index *index, uint32_t id, size_t *near)
{
	const size_t next[] = {*near + 1, *near - 1};
	const struct psgd__index_entry *found;

	for (size_t i = 0; i < PSGD__COUNT(next); i++) {
		if (next[i] < index->count && index->entries[next[i]].id == id) {
			*near = next[i];
			return index->entries[next[i]].position;
		}
	}
	found = search(index, id);
	if (!found)
		return SIZE_MAX;
	*near = (size_t)(found - index->entries);
	return found->position;
}
