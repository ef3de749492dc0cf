/* Writing safetensors: all arrays first, since the header names their places. */
#include <psgd/experiment/checkpoint.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/base.h"
#include "experiment/safetensors.h"

#define ALIGNMENT 8

struct kept {
	const struct psgd__safetensors_type *type;
	uint32_t n_dims;
	int64_t dims[PSGD_MAX_DIMS];
	size_t bytes;
	char *name;
	void *data;
};

struct psgd_safetensors_writer {
	struct kept *kept;
	size_t n, capacity;
	json_t *metadata;
	json_t *names; /* a set */
};

psgd_safetensors_writer *psgd_safetensors_writer_new(void)
{
	psgd_safetensors_writer *writer = psgd__calloc(1, sizeof(*writer));

	if (!writer)
		return NULL;
	writer->metadata = json_object();
	writer->names = json_object();
	if (!writer->metadata || !writer->names)
		psgd_safetensors_writer_free(&writer);
	return writer;
}

void psgd_safetensors_writer_free(psgd_safetensors_writer **writer)
{
	if (!writer || !*writer)
		return;
	for (size_t i = 0; i < (*writer)->n; i++) {
		free((*writer)->kept[i].name);
		free((*writer)->kept[i].data);
	}
	free((*writer)->kept);
	json_decref((*writer)->metadata);
	json_decref((*writer)->names);
	free(*writer);
	*writer = NULL;
}

static psgd_status measure(const struct psgd_state_array *array, struct kept *kept)
{
	kept->type = psgd__safetensors_type(NULL, array->dtype ? array->dtype : UINT32_MAX);
	if (!kept->type || array->n_dims > PSGD_MAX_DIMS)
		return PSGD_ERR_INVALID;
	kept->n_dims = array->n_dims;
	kept->bytes = kept->type->bytes;
	for (uint32_t i = 0; i < array->n_dims; i++) {
		if (array->dims[i] < 0 ||
			psgd__mul_overflows(kept->bytes, (size_t)array->dims[i], &kept->bytes))
			return PSGD_ERR_INVALID;
		kept->dims[i] = array->dims[i];
	}
	return PSGD_OK;
}

static psgd_status take_name(
	psgd_safetensors_writer *writer, const char *prefix, const char *name, struct kept *kept)
{
	size_t bytes = strlen(prefix) + strlen(name) + 1;

	kept->name = malloc(bytes);
	if (!kept->name)
		return PSGD_ERR_NOMEM;
	snprintf(kept->name, bytes, "%s%s", prefix, name);
	if (!kept->name[0] || strcmp(kept->name, "__metadata__") == 0 ||
		json_object_get(writer->names, kept->name))
		return PSGD_ERR_INVALID;
	return PSGD_OK;
}

psgd_status psgd_safetensors_add(psgd_safetensors_writer *writer, const char *prefix,
	const struct psgd_state_array *array, const void *data)
{
	struct psgd_state_array own;
	struct kept kept = {0};
	psgd_status status;

	if (!writer || !prefix || !array)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&own, sizeof(own), array));
	if (!own.name)
		return PSGD_ERR_INVALID;
	PSGD__TRY(measure(&own, &kept));
	if (kept.bytes && !data)
		return PSGD_ERR_INVALID;
	PSGD__TRY(
		psgd__grow(&writer->kept, &writer->capacity, writer->n + 1, sizeof(*writer->kept)));
	status = take_name(writer, prefix, own.name, &kept);
	if (!status) {
		kept.data = malloc(kept.bytes ? kept.bytes : 1);
		status = kept.data ? PSGD_OK : PSGD_ERR_NOMEM;
	}
	/* Fails for a name that is not UTF-8. */
	if (!status && json_object_set_new(writer->names, kept.name, json_true()) != 0)
		status = PSGD_ERR_INVALID;
	if (status) {
		free(kept.name);
		free(kept.data);
		return status;
	}
	if (kept.bytes)
		memcpy(kept.data, data, kept.bytes);
	writer->kept[writer->n++] = kept;
	return PSGD_OK;
}

psgd_status psgd_safetensors_note(
	psgd_safetensors_writer *writer, const char *key, const char *value)
{
	json_t *text;

	if (!writer || !key || !value)
		return PSGD_ERR_INVALID;
	text = json_string(value);
	if (!text || json_object_set_new(writer->metadata, key, text) != 0)
		return PSGD_ERR_INVALID;
	return PSGD_OK;
}

/* --- writing --- */

/* The format allows no gaps, so that wide values come first. */
static int by_width(const void *a, const void *b)
{
	const struct kept *x = *(const struct kept *const *)a, *y = *(const struct kept *const *)b;

	if (x->type->bytes != y->type->bytes)
		return x->type->bytes > y->type->bytes ? -1 : 1;
	return (x > y) - (x < y);
}

/* NULL: out of memory. */
static json_t *describe(const struct kept *kept, uint64_t at)
{
	json_t *shape = json_array();

	for (uint32_t i = 0; i < kept->n_dims; i++) {
		if (json_array_append_new(shape, json_integer(kept->dims[i])) == 0)
			continue;
		json_decref(shape);
		return NULL;
	}
	return json_pack("{s:s, s:o, s:[I, I]}", "dtype", kept->type->name, "shape", shape,
		"data_offsets", (json_int_t)at, (json_int_t)(at + kept->bytes));
}

/* The header with its length before it, padded by spaces. NULL: out of memory. */
static char *make_header(
	const psgd_safetensors_writer *writer, const struct kept *const *order, size_t *out_bytes)
{
	json_t *header = json_object();
	char *json = NULL, *text = NULL;
	uint64_t at = 0, n;
	int failed = json_object_size(writer->metadata) &&
		     json_object_set(header, "__metadata__", writer->metadata) != 0;

	for (size_t i = 0; i < writer->n && !failed; i++) {
		failed = json_object_set_new(header, order[i]->name, describe(order[i], at)) != 0;
		at += order[i]->bytes;
	}
	if (!failed)
		json = json_dumps(header, JSON_COMPACT);
	json_decref(header);
	if (!json)
		return NULL;
	n = (strlen(json) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	text = malloc(8 + (size_t)n);
	if (text) {
		for (int i = 0; i < 8; i++)
			text[i] = (char)(n >> 8 * i & 0xff);
		memset(text + 8, ' ', (size_t)n);
		memcpy(text + 8, json, strlen(json));
		*out_bytes = 8 + (size_t)n;
	}
	free(json);
	return text;
}

static psgd_status write_values(
	int fd, const char *header, size_t header_bytes, const struct kept *const *order, size_t n)
{
	PSGD__TRY(psgd__write_all(fd, header, header_bytes));
	for (size_t i = 0; i < n; i++)
		PSGD__TRY(psgd__write_all(fd, order[i]->data, order[i]->bytes));
	return fsync(fd) == 0 ? PSGD_OK : PSGD_ERR_IO;
}

/* The folder of a path, "." if it names none. */
static void sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];
	int fd;

	psgd__text(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) + 1 : 1,
		slash ? path : ".");
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	fsync(fd); /* some file systems cannot; the rename itself has succeeded */
	close(fd);
}

static psgd_status write_file(const char *path, const char *header, size_t header_bytes,
	const struct kept *const *order, size_t n)
{
	char temporary[PATH_MAX];
	psgd_status status;
	int fd, error;

	if (strlen(path) + sizeof(".new") > sizeof(temporary)) {
		errno = ENAMETOOLONG;
		return PSGD_ERR_IO;
	}
	psgd__text(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		return PSGD_ERR_IO;
	status = write_values(fd, header, header_bytes, order, n);
	error = errno;
	if (close(fd) != 0 && !status) {
		status = PSGD_ERR_IO;
		error = errno;
	}
	if (!status && rename(temporary, path) != 0) {
		status = PSGD_ERR_IO;
		error = errno;
	}
	if (status)
		unlink(temporary);
	else
		sync_folder(path);
	errno = error;
	return status;
}

psgd_status psgd_safetensors_write(
	const psgd_safetensors_writer *writer, const char *path, char *error, size_t error_bytes)
{
	psgd_status status = PSGD_ERR_NOMEM;
	const struct kept **order;
	size_t header_bytes = 0;
	char *header = NULL;

	psgd__text(error, error_bytes, "%s", "");
	if (!writer || !path)
		return PSGD_ERR_INVALID;
	order = psgd__calloc(writer->n, sizeof(*order));
	if (order) {
		for (size_t i = 0; i < writer->n; i++)
			order[i] = &writer->kept[i];
		qsort(order, writer->n, sizeof(*order), by_width);
		header = make_header(writer, order, &header_bytes);
	}
	if (header)
		status = write_file(path, header, header_bytes, order, writer->n);
	if (status == PSGD_ERR_IO)
		psgd__text(
			error, error_bytes, "%s: cannot write: %s", path, strerrordesc_np(errno));
	else if (status)
		psgd__text(error, error_bytes, "%s: out of memory", path);
	free(header);
	free(order);
	return status;
}
