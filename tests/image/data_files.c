/* A folder of small idx files, to be spoilt. */
#include "data_files.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

static const char *const files[] = {TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS};
char root[64];

void put32(struct blob *blob, uint32_t value)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		blob->bytes[blob->n++] = (uint8_t)(value >> shift);
}

struct blob images_blob(uint32_t count, uint32_t rows, uint32_t cols)
{
	struct blob blob = {.n = 0};

	put32(&blob, 0x803);
	put32(&blob, count);
	put32(&blob, rows);
	put32(&blob, cols);
	for (uint32_t i = 0; i < count * rows * cols; i++)
		blob.bytes[blob.n++] = (uint8_t)(i * 37);
	return blob;
}

struct blob labels_blob(uint32_t count)
{
	struct blob blob = {.n = 0};

	put32(&blob, 0x801);
	put32(&blob, count);
	for (uint32_t i = 0; i < count; i++)
		blob.bytes[blob.n++] = (uint8_t)(i % 10);
	return blob;
}

void path_of(const char *name, const char *suffix, char out[256])
{
	(void)snprintf(out, 256, "%s/%s%s", root, name, suffix);
}

void write_plain(const char *name, const char *suffix, const struct blob *blob)
{
	char path[256];
	FILE *file;

	path_of(name, suffix, path);
	file = fopen(path, "wb");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(blob->bytes, 1, blob->n, file), blob->n);
	ck_assert_int_eq(fclose(file), 0);
}

static void write_packed(const char *name, const struct blob *blob)
{
	char path[256];
	gzFile file;

	path_of(name, ".gz", path);
	file = gzopen(path, "wb");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(gzwrite(file, blob->bytes, (unsigned)blob->n), (int)blob->n);
	ck_assert_int_eq(gzclose(file), Z_OK);
}

void remove_file(const char *name)
{
	char path[256];

	path_of(name, "", path);
	(void)unlink(path);
	path_of(name, ".gz", path);
	(void)unlink(path);
}

void data_files_create(void)
{
	struct blob blob;

	(void)snprintf(root, sizeof(root), "/tmp/psgd-image-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	blob = images_blob(12, 4, 6);
	write_packed(TRAIN_IMAGES, &blob);
	blob = labels_blob(12);
	write_plain(TRAIN_LABELS, "", &blob);
	blob = images_blob(5, 4, 6);
	write_plain(TEST_IMAGES, "", &blob);
	blob = labels_blob(5);
	write_packed(TEST_LABELS, &blob);
}

void data_files_remove(void)
{
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		remove_file(files[i]);
	(void)rmdir(root);
}
