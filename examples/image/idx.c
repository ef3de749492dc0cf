/* Reader of idx files, gzipped or not. SPDX-License-Identifier: MIT */
#include "idx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#define MAGIC_IMAGES 0x00000803u
#define MAGIC_LABELS 0x00000801u
#define MAX_SIDE 4096

/* Memory grows with what has really been read, so that a header cannot ask for a terabyte. */
#define CHUNK_BYTES ((size_t)16 << 20)

struct source {
	const char *path;
	gzFile file;
	struct image_error *error;
};

static psgd_status source_open(struct source *source)
{
	errno = 0;
	source->file = gzopen(source->path, "rb");
	if (!source->file)
		return image_fail(source->error, errno ? PSGD_ERR_IO : PSGD_ERR_NOMEM, "%s: %s",
			source->path, errno ? strerror(errno) : "out of memory");
	(void)gzbuffer(source->file, 256 * 1024);
	return PSGD_OK;
}

/* *got is below `bytes` only at the end of the file, also where a gzip stream breaks off. */
static psgd_status source_read(struct source *source, void *out, size_t bytes, size_t *got)
{
	int n, code = Z_OK, system_error;

	errno = 0;
	n = gzread(source->file, out, (unsigned)bytes);
	system_error = errno;
	*got = n > 0 ? (size_t)n : 0;
	if (n >= 0)
		return PSGD_OK;
	(void)gzerror(source->file, &code);
	if (code == Z_ERRNO)
		return image_fail(
			source->error, PSGD_ERR_IO, "%s: %s", source->path, strerror(system_error));
	if (code == Z_BUF_ERROR)
		return PSGD_OK;
	return image_fail(source->error, PSGD_ERR_CONFIG, "%s: damaged gzip data", source->path);
}

static uint32_t big_endian(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static psgd_status read_header(struct source *source, uint32_t magic, struct idx *out)
{
	size_t bytes = magic == MAGIC_IMAGES ? 16 : 8, got;
	uint8_t header[16];
	psgd_status status = source_read(source, header, bytes, &got);

	if (status)
		return status;
	if (got >= 4 && big_endian(header) != magic)
		return image_fail(source->error, PSGD_ERR_CONFIG,
			"%s: wrong magic number 0x%08x, expected 0x%08x (idx %s)", source->path,
			big_endian(header), magic, magic == MAGIC_IMAGES ? "images" : "labels");
	if (got < bytes)
		return image_fail(source->error, PSGD_ERR_CONFIG,
			"%s: truncated: %zu of %zu bytes of the header", source->path, got, bytes);
	out->total = big_endian(header + 4);
	out->rows = magic == MAGIC_IMAGES ? big_endian(header + 8) : 1;
	out->cols = magic == MAGIC_IMAGES ? big_endian(header + 12) : 1;
	if (out->total == 0)
		return image_fail(
			source->error, PSGD_ERR_CONFIG, "%s: holds no samples", source->path);
	if (out->rows < 1 || out->cols < 1 || out->rows > MAX_SIDE || out->cols > MAX_SIDE)
		return image_fail(source->error, PSGD_ERR_CONFIG,
			"%s: images of %zu x %zu pixels; each side must be 1 to %d", source->path,
			out->rows, out->cols, MAX_SIDE);
	return PSGD_OK;
}

static psgd_status read_values(struct source *source, size_t wanted, struct idx *out)
{
	size_t have = 0, room = 0;

	while (have < wanted) {
		size_t left = wanted - have, got;
		psgd_status status;

		if (have == room) {
			uint8_t *grown;

			room = 2 * room + CHUNK_BYTES;
			if (room > wanted)
				room = wanted;
			grown = realloc(out->values, room);
			if (!grown)
				return image_fail(source->error, PSGD_ERR_NOMEM,
					"%s: out of memory", source->path);
			out->values = grown;
		}
		if (left > room - have)
			left = room - have;
		if (left > CHUNK_BYTES)
			left = CHUNK_BYTES;
		status = source_read(source, out->values + have, left, &got);
		if (status)
			return status;
		have += got;
		if (got < left)
			return image_fail(source->error, PSGD_ERR_CONFIG,
				"%s: truncated: %zu of %zu bytes after the header", source->path,
				have, wanted);
	}
	return PSGD_OK;
}

static psgd_status read_end(struct source *source)
{
	uint8_t byte;
	size_t got;
	psgd_status status = source_read(source, &byte, 1, &got);

	if (!status && got)
		return image_fail(source->error, PSGD_ERR_CONFIG,
			"%s: more data than its header says", source->path);
	return status;
}

static psgd_status read_file(
	const char *path, uint32_t magic, size_t limit, struct idx *out, struct image_error *error)
{
	struct source source = {.path = path, .error = error};
	size_t wanted;
	psgd_status status;

	*out = (struct idx){0};
	status = source_open(&source);
	if (status)
		return status;
	status = read_header(&source, magic, out);
	if (!status) {
		out->count = limit && limit < out->total ? limit : out->total;
		/* At most 2^32 * 4096^2 = 2^56. */
		wanted = out->count * out->rows * out->cols;
		status = read_values(&source, wanted, out);
	}
	if (!status && !limit)
		status = read_end(&source);
	(void)gzclose(source.file);
	if (status) {
		free(out->values);
		*out = (struct idx){0};
	}
	return status;
}

psgd_status idx_read_images(
	const char *path, size_t limit, struct idx *out, struct image_error *error)
{
	return read_file(path, MAGIC_IMAGES, limit, out, error);
}

psgd_status idx_read_labels(
	const char *path, size_t limit, struct idx *out, struct image_error *error)
{
	return read_file(path, MAGIC_LABELS, limit, out, error);
}

psgd_status idx_read_image_size(const char *path, struct idx *out, struct image_error *error)
{
	struct source source = {.path = path, .error = error};
	psgd_status status;

	*out = (struct idx){0};
	status = source_open(&source);
	if (status)
		return status;
	status = read_header(&source, MAGIC_IMAGES, out);
	(void)gzclose(source.file);
	return status;
}
