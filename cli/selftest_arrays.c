/* The state of a compressor, kept in memory. SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "selftest.h"

struct cli_array {
	char *name;
	struct psgd_state_array shape;
	void *data;
	size_t bytes;
};

static size_t bytes_of(const struct psgd_state_array *shape)
{
	size_t bytes = psgd_dtype_bytes(shape->dtype);

	for (uint32_t d = 0; d < shape->n_dims; d++)
		bytes *= (size_t)shape->dims[d];
	return bytes;
}

static psgd_status put(void *user, const struct psgd_state_array *array, const void *data)
{
	struct cli_arrays *arrays = user;
	struct cli_array *grown = realloc(arrays->list, (arrays->n + 1) * sizeof(*arrays->list)),
			 *one;

	if (!grown)
		return PSGD_ERR_NOMEM;
	arrays->list = grown;
	one = &grown[arrays->n];
	*one = (struct cli_array){
		.name = strdup(array->name), .shape = *array, .bytes = bytes_of(array)};
	one->data = malloc(one->bytes + 1);
	arrays->n++;
	if (!one->name || !one->data)
		return PSGD_ERR_NOMEM;
	if (one->bytes > 0)
		memcpy(one->data, data, one->bytes);
	return PSGD_OK;
}

static const struct cli_array *find(const struct cli_arrays *arrays, const char *name)
{
	for (size_t i = 0; i < arrays->n; i++) {
		if (strcmp(arrays->list[i].name, name) == 0)
			return &arrays->list[i];
	}
	return NULL;
}

static psgd_status find_shape(void *user, const char *name, struct psgd_state_array *out)
{
	const struct cli_array *found = find(user, name);

	if (!found)
		return PSGD_ERR_INVALID;
	*out = found->shape;
	out->name = name;
	return PSGD_OK;
}

static psgd_status read_data(void *user, const char *name, void *to, size_t bytes)
{
	const struct cli_array *found = find(user, name);

	if (!found)
		return PSGD_ERR_INVALID;
	if (found->bytes != bytes)
		return PSGD_ERR_MISMATCH;
	if (bytes > 0)
		memcpy(to, found->data, bytes);
	return PSGD_OK;
}

psgd_status cli_arrays_save(struct cli_arrays *arrays, const struct psgd_compressor *from)
{
	struct psgd_state_writer writer = {put, arrays};

	*arrays = (struct cli_arrays){0};
	return from->ops->save(from->self, &writer);
}

psgd_status cli_arrays_load(const struct cli_arrays *arrays, const struct psgd_compressor *to)
{
	struct cli_arrays lent = *arrays;
	struct psgd_state_reader reader = {find_shape, read_data, &lent};

	return to->ops->load(to->self, &reader);
}

void cli_arrays_free(struct cli_arrays *arrays)
{
	for (size_t i = 0; i < arrays->n; i++) {
		free(arrays->list[i].name);
		free(arrays->list[i].data);
	}
	free(arrays->list);
	*arrays = (struct cli_arrays){0};
}

static bool same(const struct cli_array *a, const struct cli_array *b)
{
	return strcmp(a->name, b->name) == 0 && a->shape.dtype == b->shape.dtype &&
	       a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

const char *cli_arrays_differ(const struct cli_arrays *a, const struct cli_arrays *b)
{
	for (size_t i = 0; i < a->n; i++) {
		if (i >= b->n || !same(&a->list[i], &b->list[i]))
			return a->list[i].name;
	}
	return a->n < b->n ? b->list[a->n].name : NULL;
}
