/* Arrays of a safetensors file. */
#include <psgd/experiment/checkpoint.h>

#include <string.h>

#include "base/base.h"
#include "experiment/safetensors.h"

static void describe(const struct psgd__safetensors_entry *entry, struct psgd_safetensor *out)
{
	struct psgd_safetensor found = {.size = sizeof(found),
		.name = entry->name,
		.dtype = entry->type->name,
		.n_dims = entry->n_dims,
		.bytes = entry->end - entry->begin};

	memcpy(found.dims, entry->dims, sizeof(found.dims));
	psgd__copy_report(out, &found, sizeof(found));
}

static const struct psgd__safetensors_entry *find(
	const psgd_safetensors *file, const char *prefix, const char *name)
{
	size_t n = strlen(prefix);

	for (size_t i = 0; i < file->n_entries; i++) {
		const char *full = file->entries[i].name;

		if (strncmp(full, prefix, n) == 0 && strcmp(full + n, name) == 0)
			return &file->entries[i];
	}
	return NULL;
}

size_t psgd_safetensors_count(const psgd_safetensors *file)
{
	return file ? file->n_entries : 0;
}

psgd_status psgd_safetensors_get(
	const psgd_safetensors *file, size_t index, struct psgd_safetensor *out)
{
	if (!out || !psgd__report_fits(out) || index >= psgd_safetensors_count(file))
		return PSGD_ERR_INVALID;
	describe(&file->entries[index], out);
	return PSGD_OK;
}

psgd_status psgd_safetensors_find(
	const psgd_safetensors *file, const char *name, struct psgd_safetensor *out)
{
	const struct psgd__safetensors_entry *entry = file && name ? find(file, "", name) : NULL;

	if (!entry || !out || !psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	describe(entry, out);
	return PSGD_OK;
}

const char *psgd_safetensors_metadata(const psgd_safetensors *file, const char *key)
{
	if (!file || !key)
		return NULL;
	return json_string_value(
		json_object_get(json_object_get(file->header, "__metadata__"), key));
}

static psgd_status read_entry(const psgd_safetensors *file,
	const struct psgd__safetensors_entry *entry, void *to, size_t bytes)
{
	if (!entry || (bytes && !to))
		return PSGD_ERR_INVALID;
	if (bytes != entry->end - entry->begin)
		return PSGD_ERR_MISMATCH;
	return psgd__read_at(file->fd, to, bytes, file->data_at + entry->begin);
}

psgd_status psgd_safetensors_read(
	const psgd_safetensors *file, const char *name, void *to, size_t bytes)
{
	return read_entry(file, file && name ? find(file, "", name) : NULL, to, bytes);
}

/* --- floats --- */

static float from_bf16(const unsigned char *at)
{
	uint32_t bits = (uint32_t)at[1] << 24 | (uint32_t)at[0] << 16;
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* Every half is a float: the subnormal ones too, which are multiples of 2^-24. */
static float from_f16(const unsigned char *at)
{
	uint32_t half = (uint32_t)at[1] << 8 | at[0], magnitude = half & 0x7fff;
	uint32_t sign = (half & 0x8000) << 16, bits;
	float value;

	if (magnitude < 0x400) {
		value = (float)magnitude * 0x1p-24f;
		return sign ? -value : value;
	}
	bits = sign | (magnitude >= 0x7c00 ? 0x7f800000 | (magnitude & 0x3ff) << 13
					   : (magnitude << 13) + (UINT32_C(112) << 23));
	memcpy(&value, &bits, sizeof(value));
	return value;
}

static float from_f64(const unsigned char *at)
{
	double value;

	memcpy(&value, at, sizeof(value));
	return (float)value;
}

psgd_status psgd_safetensors_read_floats(
	const psgd_safetensors *file, const char *name, float *to, size_t count)
{
	const struct psgd__safetensors_entry *entry = file && name ? find(file, "", name) : NULL;
	float (*convert)(const unsigned char *) = NULL;
	unsigned char chunk[8192];
	size_t size, done = 0;

	if (!entry || (count && !to))
		return PSGD_ERR_INVALID;
	if (count != entry->count)
		return PSGD_ERR_MISMATCH;
	size = entry->type->bytes;
	if (entry->type->dtype == PSGD_F32)
		return read_entry(file, entry, to, count * sizeof(float));
	if (strcmp(entry->type->name, "F16") == 0)
		convert = from_f16;
	else if (strcmp(entry->type->name, "BF16") == 0)
		convert = from_bf16;
	else if (entry->type->dtype == PSGD_F64)
		convert = from_f64;
	if (!convert)
		return PSGD_ERR_UNSUPPORTED;
	while (done < count) {
		size_t n =
			sizeof(chunk) / size < count - done ? sizeof(chunk) / size : count - done;

		PSGD__TRY(psgd__read_at(
			file->fd, chunk, n * size, file->data_at + entry->begin + done * size));
		for (size_t i = 0; i < n; i++)
			to[done + i] = convert(chunk + i * size);
		done += n;
	}
	return PSGD_OK;
}

/* --- as a psgd_state_reader --- */

static psgd_status view_find(void *user, const char *name, struct psgd_state_array *out)
{
	const struct psgd_safetensors_view *view = user;
	const struct psgd__safetensors_entry *entry = find(view->file, view->prefix, name);
	struct psgd_state_array found = {.size = sizeof(found)};

	if (!entry || !out || !psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	if (!entry->type->dtype)
		return PSGD_ERR_MISMATCH;
	found.name = name;
	found.dtype = entry->type->dtype;
	found.n_dims = entry->n_dims;
	memcpy(found.dims, entry->dims, sizeof(found.dims));
	psgd__copy_report(out, &found, sizeof(found));
	return PSGD_OK;
}

static psgd_status view_read(void *user, const char *name, void *to, size_t bytes)
{
	const struct psgd_safetensors_view *view = user;

	return read_entry(view->file, find(view->file, view->prefix, name), to, bytes);
}

struct psgd_state_reader psgd_safetensors_reader(struct psgd_safetensors_view *view)
{
	return (struct psgd_state_reader){view_find, view_read, view};
}
