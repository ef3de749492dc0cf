#include "base/state.h"

#include <string.h>

#include "base/base.h"

#define NAME_BYTES 160

/* Bytes of an array; MISMATCH when there is no such array. */
static psgd_status array_bytes(const struct psgd_state_array *array, size_t *out)
{
	*out = psgd_dtype_bytes(array->dtype);
	if (!*out || array->n_dims > PSGD_MAX_DIMS)
		return PSGD_ERR_MISMATCH;
	for (uint32_t i = 0; i < array->n_dims; i++) {
		if (array->dims[i] < 0 || psgd__mul_overflows(*out, (size_t)array->dims[i], out))
			return PSGD_ERR_MISMATCH;
	}
	return PSGD_OK;
}

psgd_status psgd__state_put(const struct psgd_state_writer *writer, const char *name,
	uint32_t dtype, int64_t rows, int64_t cols, const void *data)
{
	struct psgd_state_array array = {
		.size = sizeof(array),
		.name = name,
		.dtype = dtype,
		.n_dims = 2,
		.dims = {rows, cols},
	};

	return writer->put(writer->user, &array, data);
}

psgd_status psgd__state_get(const struct psgd_state_reader *reader, const char *name,
	uint32_t dtype, int64_t count, void *to)
{
	struct psgd_state_array array = PSGD_INIT(psgd_state_array);
	size_t bytes;

	PSGD__TRY(reader->find(reader->user, name, &array));
	PSGD__TRY(array_bytes(&array, &bytes));
	if (array.dtype != dtype || bytes != (size_t)count * psgd_dtype_bytes(dtype))
		return PSGD_ERR_MISMATCH;
	return reader->read(reader->user, name, to, bytes);
}

static psgd_status whole_name(const struct psgd__state_prefix *p, const char *name, char *out)
{
	if (strlen(p->prefix) + strlen(name) + 2 > NAME_BYTES)
		return PSGD_ERR_INVALID;
	psgd__text(out, NAME_BYTES, "%s/%s", p->prefix, name);
	return PSGD_OK;
}

static psgd_status prefixed_put(void *user, const struct psgd_state_array *array, const void *data)
{
	const struct psgd__state_prefix *p = user;
	struct psgd_state_array renamed;
	char name[NAME_BYTES];

	PSGD__TRY(psgd__copy_options(&renamed, sizeof(renamed), array));
	if (!renamed.name)
		return PSGD_ERR_INVALID;
	PSGD__TRY(whole_name(p, renamed.name, name));
	renamed.size = sizeof(renamed);
	renamed.name = name;
	return p->writer->put(p->writer->user, &renamed, data);
}

static psgd_status prefixed_find(void *user, const char *name, struct psgd_state_array *out)
{
	const struct psgd__state_prefix *p = user;
	char whole[NAME_BYTES];

	PSGD__TRY(whole_name(p, name, whole));
	return p->reader->find(p->reader->user, whole, out);
}

static psgd_status prefixed_read(void *user, const char *name, void *to, size_t bytes)
{
	const struct psgd__state_prefix *p = user;
	char whole[NAME_BYTES];

	PSGD__TRY(whole_name(p, name, whole));
	return p->reader->read(p->reader->user, whole, to, bytes);
}

struct psgd_state_writer psgd__state_prefixed_writer(struct psgd__state_prefix *prefix)
{
	return (struct psgd_state_writer){prefixed_put, prefix};
}

struct psgd_state_reader psgd__state_prefixed_reader(struct psgd__state_prefix *prefix)
{
	return (struct psgd_state_reader){prefixed_find, prefixed_read, prefix};
}

static const struct psgd__kept_array *kept_of(const struct psgd__kept *kept, const char *name)
{
	for (size_t i = 0; i < kept->n; i++) {
		if (!strcmp(kept->arrays[i].array.name, name))
			return &kept->arrays[i];
	}
	return NULL;
}

static psgd_status kept_put(void *user, const struct psgd_state_array *array, const void *data)
{
	struct psgd__kept *kept = user;
	struct psgd__kept_array mine = {.data = NULL};

	PSGD__TRY(psgd__copy_options(&mine.array, sizeof(mine.array), array));
	PSGD__TRY(array_bytes(&mine.array, &mine.bytes));
	if (!mine.array.name || kept_of(kept, mine.array.name))
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__grow(&kept->arrays, &kept->capacity, kept->n + 1, sizeof(*kept->arrays)));
	mine.array.name = psgd__strdup(mine.array.name);
	mine.data = psgd__calloc(mine.bytes, 1);
	if (!mine.array.name || !mine.data) {
		free((char *)mine.array.name);
		free(mine.data);
		return PSGD_ERR_NOMEM;
	}
	if (mine.bytes)
		memcpy(mine.data, data, mine.bytes);
	kept->arrays[kept->n++] = mine;
	return PSGD_OK;
}

static psgd_status kept_find(void *user, const char *name, struct psgd_state_array *out)
{
	const struct psgd__kept_array *found = kept_of(user, name);

	if (!found)
		return PSGD_ERR_INVALID;
	psgd__copy_report(out, &found->array, sizeof(found->array));
	return PSGD_OK;
}

static psgd_status kept_read(void *user, const char *name, void *to, size_t bytes)
{
	const struct psgd__kept_array *found = kept_of(user, name);

	if (!found)
		return PSGD_ERR_INVALID;
	if (found->bytes != bytes)
		return PSGD_ERR_MISMATCH;
	if (bytes)
		memcpy(to, found->data, bytes);
	return PSGD_OK;
}

struct psgd_state_writer psgd__kept_writer(struct psgd__kept *kept)
{
	return (struct psgd_state_writer){kept_put, kept};
}

struct psgd_state_reader psgd__kept_reader(struct psgd__kept *kept)
{
	return (struct psgd_state_reader){kept_find, kept_read, kept};
}

void psgd__kept_free(struct psgd__kept *kept)
{
	for (size_t i = 0; i < kept->n; i++) {
		free((char *)kept->arrays[i].array.name);
		free(kept->arrays[i].data);
	}
	free(kept->arrays);
	memset(kept, 0, sizeof(*kept));
}
