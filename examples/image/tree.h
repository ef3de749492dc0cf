/* Folders of images, one a class. SPDX-License-Identifier: MIT */
#ifndef IMAGE_TREE_H
#define IMAGE_TREE_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

struct tree_entry {
	char *name;
	uint32_t place; /* among the images of its class, by name */
	uint16_t class;
};

struct tree_split {
	const char *folder; /* train, test or val */
	struct tree_entry *entries;
	size_t n;
};

struct tree {
	const char *root;		/* borrowed */
	const struct tree_rules *rules; /* borrowed */
	char **classes;			/* by name; a class's label is its index */
	size_t n_classes;
	struct tree_split train, test;
};

/* What is expected of a tree. */
struct tree_rules {
	const char *test[2];	     /* folder of the test split: the first that is there */
	const char *const *suffixes; /* of images, in small letters; NULL: all names */
	size_t most_classes;
	const char *help; /* what lines about missing folders end with */
};

/*
 * Finds the images of root/train/CLASS and root/test/CLASS. Names that begin with a dot, and
 * those without a suffix that is asked for, are left out; anything else that does not belong there
 * is refused. Entries go round the classes: the
 * first image of each, then the second of each, so that any part of a split has all classes.
 * The tree is ended by tree_free, also on failure. Errors: IO, CONFIG, NOMEM.
 */
psgd_status tree_read(struct tree *tree, const char *root, const struct tree_rules *rules,
	struct image_error *error);
void tree_free(struct tree *tree);

/* The path of an entry, into PATH_MAX bytes. Errors: CONFIG (too long). */
psgd_status tree_path(const struct tree *tree, const struct tree_split *split,
	const struct tree_entry *entry, char *path, struct image_error *error);

#endif
