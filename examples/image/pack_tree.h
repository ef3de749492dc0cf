/* Folders of images, one a class. SPDX-License-Identifier: MIT */
#ifndef IMAGE_PACK_TREE_H
#define IMAGE_PACK_TREE_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

#define PACK_MAX_CLASSES 256 /* a label is a byte */

struct pack_entry {
	char *name;
	uint32_t place; /* among the images of its class, by name */
	uint8_t class;
};

struct pack_split {
	const char *folder; /* train, test */
	struct pack_entry *entries;
	size_t n;
};

struct pack_tree {
	const char *root; /* borrowed */
	char **classes;	  /* by name; a class's label is its index */
	size_t n_classes;
	struct pack_split train, test;
};

/*
 * Finds the images of root/train/CLASS and root/test/CLASS. Names that begin with a dot are left
 * out; anything else that does not belong there is refused. Entries go round the classes: the
 * first image of each, then the second of each, so that any part of a split has all classes.
 * The tree is ended by pack_tree_free, also on failure. Errors: IO, CONFIG, NOMEM.
 */
psgd_status pack_tree_read(struct pack_tree *tree, const char *root, struct image_error *error);
void pack_tree_free(struct pack_tree *tree);

/* The path of an entry, into PATH_MAX bytes. Errors: CONFIG (too long). */
psgd_status pack_tree_path(const struct pack_tree *tree, const struct pack_split *split,
	const struct pack_entry *entry, char *path, struct image_error *error);

#endif
