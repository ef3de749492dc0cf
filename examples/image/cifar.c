/* Reader of CIFAR's binary batches. SPDX-License-Identifier: MIT */
#include "cifar.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"

const struct cifar_format cifar10_format = {
	.name = "cifar10",
	.folder = "cifar-10-batches-bin",
	.archive = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
	.train = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
		"data_batch_5.bin", NULL},
	.test = {"test_batch.bin", NULL},
};

const struct cifar_format cifar100_format = {
	.name = "cifar100",
	.folder = "cifar-100-binary",
	.archive = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
	.train = {"train.bin", NULL},
	.test = {"test.bin", NULL},
	.coarse = 20,
};

/* A split that is being read. */
struct reader {
	const struct cifar_format *format;
	const char *folder;
	unsigned classes;
	struct split *split;
	size_t room; /* of the split, in samples */
	struct image_error *error;
};

static size_t record_bytes(const struct cifar_format *format)
{
	return (format->coarse ? 2 : 1) + CIFAR_BYTES;
}

static psgd_status path_join(
	const char *folder, const char *file, char *path, struct image_error *error)
{
	int n = snprintf(path, PATH_MAX, "%s/%s", folder, file);

	if (n < 0 || n >= PATH_MAX)
		return image_fail(error, PSGD_ERR_CONFIG, "dataset.root is too long");
	return PSGD_OK;
}

/* The folder of the files: root itself, or the one that the archive makes in it. */
static psgd_status find_folder(const struct cifar_format *format, const char *root, char *folder,
	struct image_error *error)
{
	char path[PATH_MAX];
	psgd_status status;

	for (int inner = 1; inner >= 0; inner--) {
		int n = snprintf(folder, PATH_MAX, "%s%s%s", root, inner ? "/" : "",
			inner ? format->folder : "");

		if (n < 0 || n >= PATH_MAX)
			return image_fail(error, PSGD_ERR_CONFIG, "dataset.root is too long");
		status = path_join(folder, format->train[0], path, error);
		if (status || access(path, F_OK) == 0)
			return status;
	}
	return image_fail(error, PSGD_ERR_CONFIG,
		"%s is missing, also in %s: dataset.root is for the binary version of %s (%s)%s",
		path, format->folder, format->name, format->archive,
		format == &cifar10_format
			? ", or for images packed by `psgd-train-image --pack FOLDER OUT`"
			: "");
}

psgd_status cifar_find(
	const struct cifar_format *format, const char *root, struct image_error *error)
{
	char folder[PATH_MAX];

	return find_folder(format, root, folder, error);
}

static psgd_status batch_open(struct reader *reader, const char *path, int *out, size_t *records)
{
	size_t record = record_bytes(reader->format);
	psgd_status status;
	uint64_t bytes;

	if (access(path, F_OK) != 0 && errno == ENOENT)
		return image_fail(reader->error, PSGD_ERR_CONFIG, "%s is missing: %s is incomplete",
			path, reader->format->name);
	status = file_open(path, out, &bytes, reader->error);
	if (status)
		return status;
	if (bytes == 0 || bytes % record != 0) {
		(void)close(*out);
		return image_fail(reader->error, PSGD_ERR_CONFIG,
			"%s: %" PRIu64 " bytes, expected records of %zu bytes", path, bytes,
			record);
	}
	*records = (size_t)(bytes / record);
	return PSGD_OK;
}

static psgd_status take_label(
	struct reader *reader, const char *path, size_t index, const uint8_t *record)
{
	const struct cifar_format *format = reader->format;
	unsigned label = record[format->coarse ? 1 : 0];

	if (format->coarse && record[0] >= format->coarse)
		return image_fail(reader->error, PSGD_ERR_CONFIG,
			"%s: coarse label %u of record %zu; %s has %u", path, record[0], index,
			format->name, format->coarse);
	if (label >= reader->classes)
		return image_fail(reader->error, PSGD_ERR_CONFIG,
			"%s: label %u of record %zu; model.num_classes is %u", path, label, index,
			reader->classes);
	reader->split->labels[reader->split->count] = (uint8_t)label;
	return PSGD_OK;
}

/* Planes become pixels. */
static void take_image(struct reader *reader, const uint8_t *planes)
{
	uint8_t *to = reader->split->images + reader->split->count * CIFAR_BYTES;

	for (size_t i = 0; i < CIFAR_PIXELS; i++)
		for (size_t c = 0; c < CIFAR_CHANNELS; c++)
			to[i * CIFAR_CHANNELS + c] = planes[c * CIFAR_PIXELS + i];
	reader->split->count++;
}

static psgd_status batch_read(struct reader *reader, const char *path)
{
	size_t record = record_bytes(reader->format), records;
	uint8_t bytes[2 + CIFAR_BYTES];
	psgd_status status;
	FILE *stream;
	int file;

	status = batch_open(reader, path, &file, &records);
	if (status)
		return status;
	stream = fdopen(file, "rb");
	if (!stream) {
		(void)close(file);
		return image_fail(reader->error, PSGD_ERR_NOMEM, "%s: out of memory", path);
	}
	for (size_t i = 0; !status && i < records; i++) {
		if (reader->split->count == reader->room)
			break;
		errno = 0;
		if (fread(bytes, 1, record, stream) != record)
			status = image_fail(reader->error, PSGD_ERR_IO, "%s: %s", path,
				errno ? strerror(errno) : "it got shorter while it was read");
		else
			status = take_label(reader, path, i, bytes);
		if (!status)
			take_image(reader, bytes + record - CIFAR_BYTES);
	}
	(void)fclose(stream);
	return status;
}

/* Files that a limit leaves unread must be there and whole all the same. */
static psgd_status count_samples(
	struct reader *reader, const char *const *files, size_t limit, size_t *out)
{
	char path[PATH_MAX];
	size_t total = 0;

	for (; *files; files++) {
		psgd_status status = path_join(reader->folder, *files, path, reader->error);
		size_t records;
		int file;

		if (!status)
			status = batch_open(reader, path, &file, &records);
		if (status)
			return status;
		(void)close(file);
		total += records;
	}
	*out = limit && limit < total ? limit : total;
	return PSGD_OK;
}

static psgd_status split_read(struct reader *reader, const char *const *files, size_t limit)
{
	struct split *split = reader->split;
	char path[PATH_MAX];
	psgd_status status = count_samples(reader, files, limit, &reader->room);

	if (status)
		return status;
	split->images = calloc(reader->room, CIFAR_BYTES);
	split->labels = calloc(reader->room, 1);
	if (!split->images || !split->labels)
		return image_fail(reader->error, PSGD_ERR_NOMEM, "%s: out of memory for %zu images",
			reader->folder, reader->room);
	for (; !status && *files; files++) {
		status = path_join(reader->folder, *files, path, reader->error);
		if (!status)
			status = batch_read(reader, path);
	}
	return status;
}

psgd_status cifar_read(const struct cifar_format *format, const char *root, size_t train_limit,
	size_t test_limit, unsigned classes, struct data *out, struct image_error *error)
{
	char folder[PATH_MAX];
	struct reader reader = {
		.format = format, .folder = folder, .classes = classes, .error = error};
	psgd_status status = find_folder(format, root, folder, error);

	out->shape = (struct image_shape){CIFAR_SIDE, CIFAR_SIDE, CIFAR_CHANNELS};
	if (status)
		return status;
	reader.split = &out->train;
	status = split_read(&reader, format->train, train_limit);
	if (status)
		return status;
	reader.split = &out->test;
	return split_read(&reader, format->test, test_limit);
}
