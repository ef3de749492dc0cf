/* A data set of photographs in class folders. SPDX-License-Identifier: MIT */
#include "folder.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "room.h"

#define CHANNELS 3
#define MOST_FILE_BYTES ((size_t)256 << 20)

/* How much larger than the result a part stays that is decoded at a lower resolution. */
#define SHRINK_MARGIN 1.5

static const char *const suffixes[] = {".jpeg", ".jpg", NULL};

static const struct tree_rules rules = {
	.test = {"val", "test"},
	.suffixes = suffixes,
	.most_classes = 65535, /* a label is a uint16_t */
	.help = "dataset.root is for train/CLASS/*.JPEG and val/CLASS/*.JPEG (or test), as made "
		"from the archives of ILSVRC 2012 (https://image-net.org)",
};

/* From here on a limit is as if the others were not there; they go round the classes. */
static size_t limited(const struct tree_split *split, size_t limit)
{
	return limit && limit < split->n ? limit : split->n;
}

psgd_status folder_read(const char *root, const struct psgd_config_dataset *config,
	unsigned classes, struct data *out, struct image_error *error)
{
	struct folder *folder = calloc(1, sizeof(*folder));
	psgd_status status;

	out->folder = folder;
	if (folder)
		folder->root = strdup(root);
	if (!folder || !folder->root)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	status = tree_read(&folder->tree, folder->root, &rules, error);
	if (status)
		return status;
	if (folder->tree.n_classes > classes)
		return image_fail(error, PSGD_ERR_CONFIG,
			"%s/train has %zu classes, but model.num_classes is %u", root,
			folder->tree.n_classes, classes);
	out->train.count = limited(&folder->tree.train, config->train_limit);
	out->test.count = limited(&folder->tree.test, config->test_limit);
	out->shape = (struct image_shape){config->image_size, config->image_size, CHANNELS};
	return PSGD_OK;
}

void folder_free(struct folder *folder)
{
	if (!folder)
		return;
	tree_free(&folder->tree);
	free(folder->root);
	free(folder);
}

void darkroom_finish(struct darkroom *darkroom)
{
	free(darkroom->file.bytes);
	free(darkroom->pixels);
	decoder_finish(&darkroom->decoder);
	resizer_finish(&darkroom->resizer);
	*darkroom = (struct darkroom){0};
}

/* Decoding at a lower resolution costs nothing that is seen while the result is lower still. */
static unsigned find_shrink(const struct encoded *image, const struct crop *part, size_t size)
{
	double least = part->cols < part->rows ? part->cols : part->rows;
	unsigned shrink = 1;

	if (!decode_shrinks(image))
		return 1;
	while (shrink < 8 && least >= (double)size * shrink * 2.0 * SHRINK_MARGIN)
		shrink *= 2;
	return shrink;
}

static struct crop scaled(const struct crop *part, unsigned shrink)
{
	return (struct crop){part->left / shrink, part->top / shrink, part->cols / shrink,
		part->rows / shrink, part->mirror};
}

static psgd_status develop(struct darkroom *darkroom, const struct encoded *image,
	const struct exposure *exposure, uint8_t *out, struct image_error *error)
{
	struct picture picture = {0};
	struct crop part, within;
	size_t cols, rows;
	unsigned shrink;
	psgd_status status = decode_size(&darkroom->decoder, image, &cols, &rows, error);

	if (status)
		return status;
	if (exposure->draw)
		within = part = crop_draw(exposure->key, exposure->position, cols, rows);
	else {
		part = crop_middle(exposure->size, cols, rows);
		within = (struct crop){0, 0, (double)cols, (double)rows, false};
	}
	shrink = find_shrink(image, &part, exposure->size);
	picture.cols = decode_shrunk(cols, shrink);
	picture.rows = decode_shrunk(rows, shrink);
	if (!room_for(&darkroom->pixels, &darkroom->room, picture.cols * picture.rows, CHANNELS))
		return image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", image->path);
	picture.pixels = darkroom->pixels;
	status = decode_pixels(&darkroom->decoder, image, shrink, picture.pixels, error);
	if (status)
		return status;
	part = scaled(&part, shrink);
	within = scaled(&within, shrink);
	status = resize(&darkroom->resizer, &picture, &part, &within, exposure->size, out);
	return status ? image_fail(error, status, "%s: out of memory", image->path) : PSGD_OK;
}

psgd_status folder_expose(const struct folder *folder, struct darkroom *darkroom,
	const struct exposure *exposure, uint8_t *out, struct image_error *error)
{
	struct encoded image;
	char path[PATH_MAX];
	psgd_status status = tree_path(&folder->tree, exposure->split,
		&exposure->split->entries[exposure->index], path, error);

	if (!status)
		status = file_read(path, MOST_FILE_BYTES, &darkroom->file, error);
	if (status)
		return status;
	image = (struct encoded){path, darkroom->file.bytes, darkroom->file.n};
	return develop(darkroom, &image, exposure, out, error);
}
