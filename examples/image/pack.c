/* From folders of images to CIFAR's binary batches. SPDX-License-Identifier: MIT */
#include "pack.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cifar.h"
#include "decode.h"
#include "file.h"
#include "tree.h"

#define META_FILE "batches.meta.txt"

static const struct tree_rules rules = {
	.test = {"test"},
	.most_classes = 256, /* a label is a byte */
	.help = "expected FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE",
};

/* What an image of 32 x 32 pixels may come in, with all its metadata. */
#define MAX_FILE_BYTES ((size_t)16 << 20)

struct packer {
	struct tree tree;
	char source[PATH_MAX];
	char target[PATH_MAX], folder[PATH_MAX]; /* in the end, and until then */
	struct file_bytes file;			 /* that is read */
	struct decoder decoder;
	pack_progress progress;
	void *user;
	size_t done;
	uint64_t written;
	struct image_error *error;
};

/* One that is being written. */
struct batch {
	char path[PATH_MAX];
	FILE *stream;
};

static psgd_status batch_fail(const struct packer *packer, const struct batch *batch, int number)
{
	return image_fail(packer->error, PSGD_ERR_IO, "%s: %s", batch->path, strerror(number));
}

static psgd_status batch_create(struct packer *packer, struct batch *batch, const char *name)
{
	int n = snprintf(batch->path, sizeof(batch->path), "%s/%s", packer->folder, name);

	if (n < 0 || (size_t)n >= sizeof(batch->path))
		return image_fail(packer->error, PSGD_ERR_CONFIG, "%.200s: the path is too long",
			packer->target);
	batch->stream = fopen(batch->path, "wbxe");
	return batch->stream ? PSGD_OK : batch_fail(packer, batch, errno);
}

static psgd_status batch_write(
	struct packer *packer, struct batch *batch, const void *bytes, size_t n)
{
	if (fwrite(bytes, 1, n, batch->stream) != n)
		return batch_fail(packer, batch, errno);
	packer->written += n;
	return PSGD_OK;
}

/* What is buffered may fail only now. */
static psgd_status batch_close(struct packer *packer, struct batch *batch, psgd_status status)
{
	if (fclose(batch->stream) != 0 && !status)
		return batch_fail(packer, batch, errno);
	return status;
}

static psgd_status read_image(
	struct packer *packer, const char *path, uint8_t *pixels, struct image_error *error)
{
	struct encoded image = {.path = path};
	size_t cols, rows;
	psgd_status status = file_read(path, MAX_FILE_BYTES, &packer->file, error);

	image.bytes = packer->file.bytes;
	image.n = packer->file.n;
	if (!status)
		status = decode_size(&packer->decoder, &image, &cols, &rows, error);
	if (!status && (cols != CIFAR_SIDE || rows != CIFAR_SIDE))
		status =
			image_fail(error, PSGD_ERR_CONFIG, "%s: %zu x %zu pixels, expected %d x %d",
				path, cols, rows, CIFAR_SIDE, CIFAR_SIDE);
	return status ? status : decode_pixels(&packer->decoder, &image, 1, pixels, error);
}

/* Pixels become planes. */
static psgd_status pack_image(struct packer *packer, struct batch *batch,
	const struct tree_split *split, const struct tree_entry *entry)
{
	uint8_t pixels[CIFAR_BYTES], record[1 + CIFAR_BYTES];
	char path[PATH_MAX];
	psgd_status status = tree_path(&packer->tree, split, entry, path, packer->error);

	if (!status)
		status = read_image(packer, path, pixels, packer->error);
	if (status)
		return status;
	record[0] = (uint8_t)entry->class;
	for (size_t i = 0; i < CIFAR_PIXELS; i++)
		for (size_t c = 0; c < CIFAR_CHANNELS; c++)
			record[1 + c * CIFAR_PIXELS + i] = pixels[i * CIFAR_CHANNELS + c];
	return batch_write(packer, batch, record, sizeof(record));
}

static psgd_status pack_batch(struct packer *packer, const char *name,
	const struct tree_split *split, size_t begin, size_t end)
{
	size_t total = packer->tree.train.n + packer->tree.test.n;
	struct batch batch;
	psgd_status status = batch_create(packer, &batch, name);

	if (status)
		return status;
	for (size_t i = begin; !status && i < end; i++) {
		if (packer->progress)
			status = packer->progress(packer->user, packer->done, total);
		if (!status)
			status = pack_image(packer, &batch, split, &split->entries[i]);
		packer->done++;
	}
	return batch_close(packer, &batch, status);
}

static psgd_status write_names(struct packer *packer)
{
	struct batch batch;
	psgd_status status = batch_create(packer, &batch, META_FILE);

	if (status)
		return status;
	for (size_t i = 0; !status && i < packer->tree.n_classes; i++) {
		const char *name = packer->tree.classes[i];

		status = batch_write(packer, &batch, name, strlen(name));
		if (!status)
			status = batch_write(packer, &batch, "\n", 1);
	}
	return batch_close(packer, &batch, status);
}

static psgd_status pack_all(struct packer *packer)
{
	const struct cifar_format *format = &cifar10_format;
	const struct tree_split *train = &packer->tree.train, *test = &packer->tree.test;
	psgd_status status = PSGD_OK;

	for (size_t i = 0; !status && i < CIFAR_MAX_FILES; i++)
		status = pack_batch(packer, format->train[i], train, train->n * i / CIFAR_MAX_FILES,
			train->n * (i + 1) / CIFAR_MAX_FILES);
	if (!status)
		status = pack_batch(packer, format->test[0], test, 0, test->n);
	return status ? status : write_names(packer);
}

static void remove_file(const struct packer *packer, const char *name)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", packer->folder, name);

	if (n > 0 && (size_t)n < sizeof(path))
		(void)unlink(path);
}

static void remove_all(const struct packer *packer)
{
	for (size_t i = 0; i < CIFAR_MAX_FILES; i++)
		remove_file(packer, cifar10_format.train[i]);
	remove_file(packer, cifar10_format.test[0]);
	remove_file(packer, META_FILE);
	(void)rmdir(packer->folder);
}

/* Without slashes at its end. */
static psgd_status name_folder(
	const struct packer *packer, const char *path, const char *suffix, char *out)
{
	size_t length = strlen(path);
	int n;

	while (length > 1 && path[length - 1] == '/')
		length--;
	if (length == 0)
		return image_fail(packer->error, PSGD_ERR_CONFIG, "the name of a folder is empty");
	if (length >= PATH_MAX)
		length = PATH_MAX; /* too long in any case, and an int */
	n = snprintf(out, PATH_MAX, "%.*s%s", (int)length, path, suffix);
	if (n < 0 || n >= PATH_MAX)
		return image_fail(
			packer->error, PSGD_ERR_CONFIG, "%.200s: the path is too long", path);
	return PSGD_OK;
}

static psgd_status name_folders(struct packer *packer, const char *from, const char *to)
{
	char suffix[40];
	psgd_status status = name_folder(packer, from, "", packer->source);

	(void)snprintf(suffix, sizeof(suffix), ".partial-%ld", (long)getpid());
	if (!status)
		status = name_folder(packer, to, "", packer->target);
	return status ? status : name_folder(packer, to, suffix, packer->folder);
}

static psgd_status target_taken(const struct packer *packer)
{
	return image_fail(packer->error, PSGD_ERR_CONFIG,
		"%s is there already: give another folder, or remove it", packer->target);
}

/* An empty folder is as good as none; rename replaces it. */
static psgd_status check_target(const struct packer *packer)
{
	DIR *folder = opendir(packer->target);
	const struct dirent *entry;
	bool empty = true;

	if (!folder)
		return errno == ENOENT ? PSGD_OK : target_taken(packer);
	while (empty && (entry = readdir(folder)))
		empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
	(void)closedir(folder);
	return empty ? PSGD_OK : target_taken(packer);
}

static psgd_status pack(struct packer *packer, const char *from, const char *to)
{
	psgd_status status = name_folders(packer, from, to);

	if (!status)
		status = check_target(packer);
	if (!status)
		status = tree_read(&packer->tree, packer->source, &rules, packer->error);
	if (!status && packer->tree.train.n < CIFAR_MAX_FILES)
		status = image_fail(packer->error, PSGD_ERR_CONFIG,
			"%s: %zu training images, expected at least %d, one for each batch",
			packer->source, packer->tree.train.n, CIFAR_MAX_FILES);
	if (status)
		return status;
	if (mkdir(packer->folder, 0777) != 0)
		return image_fail(
			packer->error, PSGD_ERR_IO, "%s: %s", packer->folder, strerror(errno));
	status = pack_all(packer);
	if (!status && rename(packer->folder, packer->target) != 0)
		status = errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR
				 ? target_taken(packer)
				 : image_fail(packer->error, PSGD_ERR_IO, "%s: %s", packer->target,
					   strerror(errno));
	if (status)
		remove_all(packer);
	return status;
}

psgd_status pack_images(const char *from, const char *to, pack_progress progress, void *user,
	struct pack_summary *out, struct image_error *error)
{
	struct packer packer = {.progress = progress, .user = user, .error = error};
	psgd_status status;

	status = pack(&packer, from, to);
	*out = (struct pack_summary){
		packer.tree.train.n, packer.tree.test.n, packer.tree.n_classes, packer.written};
	tree_free(&packer.tree);
	free(packer.file.bytes);
	decoder_finish(&packer.decoder);
	return status;
}
