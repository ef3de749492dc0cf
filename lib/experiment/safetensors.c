/* Reading safetensors: 8 bytes length of the header, header in JSON, values. */
#include <psgd/experiment/checkpoint.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/base.h"
#include "experiment/safetensors.h"

#define HEADER_MAX_BYTES UINT64_C(100000000) /* the format's own limit */

static const struct psgd__safetensors_type types[] = {{"F32", 4, PSGD_F32}, {"F64", 8, PSGD_F64},
	{"U8", 1, PSGD_U8}, {"F16", 2, 0}, {"BF16", 2, 0}, {"BOOL", 1, 0}, {"I8", 1, 0},
	{"F8_E4M3", 1, 0}, {"F8_E5M2", 1, 0}, {"I16", 2, 0}, {"U16", 2, 0}, {"I32", 4, 0},
	{"U32", 4, 0}, {"I64", 8, 0}, {"U64", 8, 0}};

const struct psgd__safetensors_type *psgd__safetensors_type(const char *name, uint32_t dtype)
{
	for (size_t i = 0; i < PSGD__COUNT(types); i++) {
		if (name ? strcmp(types[i].name, name) == 0 : types[i].dtype == dtype)
			return &types[i];
	}
	return NULL;
}

/* --- opening --- */

struct opening {
	const char *path;
	char *error;
	size_t error_bytes;
};

static psgd_status bad(const struct opening *o, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static psgd_status bad(const struct opening *o, const char *format, ...)
{
	char why[256];
	va_list args;

	va_start(args, format);
	psgd__vtext(why, sizeof(why), format, args);
	va_end(args);
	psgd__text(o->error, o->error_bytes, "%s: no safetensors file: %s", o->path, why);
	return PSGD_ERR_CONFIG;
}

static psgd_status cannot_read(const struct opening *o)
{
	psgd__text(
		o->error, o->error_bytes, "%s: cannot read: %s", o->path, strerrordesc_np(errno));
	return PSGD_ERR_IO;
}

psgd_status psgd__read_at(int fd, void *to, size_t n, uint64_t at)
{
	char *out = to;

	while (n) {
		ssize_t got = pread(fd, out, n, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			errno = got ? errno : EIO;
			return PSGD_ERR_IO;
		}
		out += got;
		at += (uint64_t)got;
		n -= (size_t)got;
	}
	return PSGD_OK;
}

/* A count, at least 0. */
static bool count_of(const json_t *value, uint64_t *out)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return false;
	*out = (uint64_t)json_integer_value(value);
	return true;
}

static psgd_status take_shape(
	const struct opening *o, const json_t *shape, struct psgd__safetensors_entry *entry)
{
	size_t n = json_array_size(shape);

	if (!json_is_array(shape) || n > PSGD_MAX_DIMS)
		return bad(o, "\"%.80s\": its shape is not a list of at most %d sizes", entry->name,
			PSGD_MAX_DIMS);
	entry->n_dims = (uint32_t)n;
	entry->count = 1;
	for (size_t i = 0; i < n; i++) {
		uint64_t size;

		if (!count_of(json_array_get(shape, i), &size) ||
			__builtin_mul_overflow(entry->count, size, &entry->count))
			return bad(o, "\"%.80s\": impossible shape", entry->name);
		entry->dims[i] = (int64_t)size;
	}
	return PSGD_OK;
}

static psgd_status take_entry(const struct opening *o, const json_t *value, uint64_t data_bytes,
	struct psgd__safetensors_entry *entry)
{
	const char *dtype = json_string_value(json_object_get(value, "dtype"));
	const json_t *offsets = json_object_get(value, "data_offsets");
	uint64_t bytes;

	if (!dtype || json_object_size(value) != 3)
		return bad(o, "\"%.80s\": expected dtype, shape and data_offsets", entry->name);
	entry->type = psgd__safetensors_type(dtype, 0);
	if (!entry->type)
		return bad(o, "\"%.80s\": unknown dtype \"%.20s\"", entry->name, dtype);
	PSGD__TRY(take_shape(o, json_object_get(value, "shape"), entry));
	if (json_array_size(offsets) != 2 || !count_of(json_array_get(offsets, 0), &entry->begin) ||
		!count_of(json_array_get(offsets, 1), &entry->end) || entry->end < entry->begin ||
		entry->end > data_bytes)
		return bad(o, "\"%.80s\": its data_offsets are not in the file", entry->name);
	if (__builtin_mul_overflow(entry->count, entry->type->bytes, &bytes) ||
		bytes != entry->end - entry->begin)
		return bad(o, "\"%.80s\": its shape does not fit its data_offsets", entry->name);
	return PSGD_OK;
}

static psgd_status check_metadata(const struct opening *o, json_t *metadata)
{
	const char *key;
	json_t *value;

	if (!json_is_object(metadata))
		return bad(o, "__metadata__ is not an object");
	json_object_foreach(metadata, key, value)
	{
		if (!json_is_string(value))
			return bad(o, "__metadata__: \"%.80s\" is no text", key);
	}
	return PSGD_OK;
}

static int by_place(const void *a, const void *b)
{
	const struct psgd__safetensors_entry *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return (x->end > y->end) - (x->end < y->end);
}

/* The arrays must fill the data: what is left out or counted twice is damage. */
static psgd_status check_places(
	const struct opening *o, const psgd_safetensors *file, uint64_t data_bytes)
{
	uint64_t end = 0;

	for (size_t i = 0; i < file->n_entries; i++) {
		if (file->entries[i].begin != end)
			return bad(o, "\"%.80s\" does not begin where the array before it ends",
				file->entries[i].name);
		end = file->entries[i].end;
	}
	return end == data_bytes ? PSGD_OK : bad(o, "bytes behind the last array");
}

static psgd_status take_entries(
	const struct opening *o, psgd_safetensors *file, uint64_t data_bytes)
{
	const char *key;
	json_t *value;

	file->entries = psgd__calloc(json_object_size(file->header), sizeof(*file->entries));
	if (!file->entries)
		return PSGD_ERR_NOMEM;
	json_object_foreach(file->header, key, value)
	{
		struct psgd__safetensors_entry *entry = &file->entries[file->n_entries];

		if (strcmp(key, "__metadata__") == 0) {
			PSGD__TRY(check_metadata(o, value));
			continue;
		}
		entry->name = key;
		PSGD__TRY(take_entry(o, value, data_bytes, entry));
		file->n_entries++;
	}
	qsort(file->entries, file->n_entries, sizeof(*file->entries), by_place);
	return check_places(o, file, data_bytes);
}

static psgd_status parse(const struct opening *o, psgd_safetensors *file, char *text, size_t n)
{
	json_error_t problem;

	if (text[0] != '{')
		return bad(o, "the header does not begin with '{'");
	file->header = json_loadb(text, n, JSON_REJECT_DUPLICATES, &problem);
	if (file->header)
		return PSGD_OK;
	if (json_error_code(&problem) == json_error_out_of_memory)
		return PSGD_ERR_NOMEM;
	return bad(o, "bad header: %.150s", problem.text);
}

static psgd_status read_file(const struct opening *o, psgd_safetensors *file)
{
	unsigned char length[8];
	uint64_t n = 0, bytes;
	struct stat info;
	psgd_status status;
	char *text;

	file->fd = open(o->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->fd < 0 || fstat(file->fd, &info) != 0)
		return cannot_read(o);
	if (!S_ISREG(info.st_mode))
		return bad(o, "not a regular file");
	bytes = (uint64_t)info.st_size;
	if (bytes < sizeof(length) + 2)
		return bad(o, "only %llu bytes", (unsigned long long)bytes);
	if (psgd__read_at(file->fd, length, sizeof(length), 0))
		return cannot_read(o);
	for (int i = 7; i >= 0; i--)
		n = n << 8 | length[i];
	if (n < 2 || n > HEADER_MAX_BYTES || n > bytes - sizeof(length))
		return bad(o, "its header cannot be %llu bytes long", (unsigned long long)n);
	file->data_at = sizeof(length) + n;
	text = malloc((size_t)n);
	if (!text)
		return PSGD_ERR_NOMEM;
	status = psgd__read_at(file->fd, text, (size_t)n, sizeof(length))
			 ? cannot_read(o)
			 : parse(o, file, text, (size_t)n);
	free(text);
	return status ? status : take_entries(o, file, bytes - file->data_at);
}

psgd_status psgd_safetensors_open(
	const char *path, psgd_safetensors **out, char *error, size_t error_bytes)
{
	struct opening o = {path, error, error_bytes};
	psgd_safetensors *file;
	psgd_status status;

	psgd__text(error, error_bytes, "%s", "");
	if (!out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	if (!path)
		return PSGD_ERR_INVALID;
	file = psgd__calloc(1, sizeof(*file));
	if (!file)
		return PSGD_ERR_NOMEM;
	status = read_file(&o, file);
	if (status == PSGD_ERR_NOMEM)
		psgd__text(error, error_bytes, "%s: out of memory", path);
	if (status)
		psgd_safetensors_close(&file);
	*out = file;
	return status;
}

void psgd_safetensors_close(psgd_safetensors **file)
{
	if (!file || !*file)
		return;
	if ((*file)->fd >= 0)
		close((*file)->fd);
	json_decref((*file)->header);
	free((*file)->entries);
	free(*file);
	*file = NULL;
}
