/* A data set of photographs in class folders. SPDX-License-Identifier: MIT */
#ifndef IMAGE_FOLDER_H
#define IMAGE_FOLDER_H

#include "data.h"
#include "decode.h"
#include "file.h"
#include "resize.h"
#include "tree.h"

struct folder {
	struct tree tree;
	char *root;
};

/*
 * Finds root/train/CLASS/IMAGE and root/val/CLASS/IMAGE (or root/test); reads no image. On failure
 * what there is, is left to folder_free. Errors: IO, CONFIG, NOMEM.
 */
psgd_status folder_read(const char *root, const struct psgd_config_dataset *config,
	unsigned classes, struct data *out, struct image_error *error);
void folder_free(struct folder *folder); /* NULL is fine */

/* What a thread decodes with. Begins as zeros. */
struct darkroom {
	struct file_bytes file;
	struct decoder decoder;
	uint8_t *pixels; /* of the decoded image */
	size_t room;	 /* for so many of them */
	struct resizer resizer;
};

void darkroom_finish(struct darkroom *darkroom);

/* Which photograph, and which part of it. */
struct exposure {
	const struct tree_split *split;
	size_t index;
	bool draw; /* a part as crop_draw has it; else the middle */
	uint64_t key, position;
	size_t size; /* pixels a side of the result */
};

/*
 * Reads, decodes and resizes a photograph into size x size pixels of red, green, blue.
 * Errors: CONFIG (the file is bad: the line names it), IO, UNSUPPORTED, NOMEM.
 */
psgd_status folder_expose(const struct folder *folder, struct darkroom *darkroom,
	const struct exposure *exposure, uint8_t *out, struct image_error *error);

#endif
