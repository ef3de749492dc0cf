/* Folders of images, one a class. SPDX-License-Identifier: MIT */
#include "pack_tree.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The names in a folder, sorted by their bytes, whatever the locale. */
struct names {
	struct dirent **entries;
	size_t n;
};

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static psgd_status names_read(struct names *names, const char *path, struct image_error *error)
{
	int n = scandir(path, &names->entries, is_visible, by_bytes);

	names->n = n > 0 ? (size_t)n : 0;
	if (n >= 0)
		return PSGD_OK;
	names->entries = NULL;
	if (errno == ENOMEM)
		return image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", path);
	if (errno == ENOENT || errno == ENOTDIR)
		return image_fail(error, PSGD_ERR_CONFIG,
			"%s: %s; expected FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE",
			path, errno == ENOENT ? "no such folder" : "not a folder");
	return image_fail(error, PSGD_ERR_IO, "%s: %s", path, strerror(errno));
}

static void names_free(struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->entries[i]);
	free(names->entries);
}

static psgd_status join(
	char *path, struct image_error *error, const char *a, const char *b, const char *c)
{
	int n = snprintf(path, PATH_MAX, "%s/%s%s%s", a, b, c ? "/" : "", c ? c : "");

	if (n < 0 || n >= PATH_MAX)
		return image_fail(error, PSGD_ERR_CONFIG, "%.200s: the path is too long", a);
	return PSGD_OK;
}

static bool is_folder(const char *path)
{
	struct stat about;

	return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

/* Class folders, and nothing else. */
static psgd_status check_classes(
	const char *folder, const struct names *names, struct image_error *error)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < names->n; i++) {
		psgd_status status = join(path, error, folder, names->entries[i]->d_name, NULL);

		if (status)
			return status;
		if (!is_folder(path))
			return image_fail(error, PSGD_ERR_CONFIG,
				"%s: not a folder; images lie in the folder of their class", path);
		if (strpbrk(names->entries[i]->d_name, "\r\n"))
			return image_fail(error, PSGD_ERR_CONFIG,
				"%s: class %zu has a line break in its name", folder, i);
	}
	if (names->n < 2 || names->n > PACK_MAX_CLASSES)
		return image_fail(error, PSGD_ERR_CONFIG,
			"%s: the number of classes is %zu; labels are bytes: 2 to %d", folder,
			names->n, PACK_MAX_CLASSES);
	return PSGD_OK;
}

static psgd_status keep_classes(
	struct pack_tree *tree, const struct names *names, struct image_error *error)
{
	tree->classes = calloc(names->n, sizeof(*tree->classes));
	for (size_t i = 0; tree->classes && i < names->n; i++) {
		tree->classes[i] = strdup(names->entries[i]->d_name);
		if (!tree->classes[i])
			break;
		tree->n_classes++;
	}
	if (tree->n_classes < names->n)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	return PSGD_OK;
}

/* Else the two splits would number their classes differently. */
static psgd_status compare_classes(
	const struct pack_tree *tree, const struct names *names, struct image_error *error)
{
	for (size_t i = 0; i < tree->n_classes || i < names->n; i++) {
		const char *train = i < tree->n_classes ? tree->classes[i] : NULL;
		const char *test = i < names->n ? names->entries[i]->d_name : NULL;
		int order = !test ? -1 : !train ? 1 : strcmp(train, test);

		if (order != 0)
			return image_fail(error, PSGD_ERR_CONFIG,
				"%s: class '%s' is in %s but not in %s", tree->root,
				order < 0 ? train : test, order < 0 ? "train" : "test",
				order < 0 ? "test" : "train");
	}
	return PSGD_OK;
}

static psgd_status class_read(
	struct pack_split *split, const char *folder, size_t class, struct image_error *error)
{
	struct names names = {0};
	psgd_status status = names_read(&names, folder, error);
	struct pack_entry *grown = NULL;

	if (!status && names.n == 0)
		status = image_fail(error, PSGD_ERR_CONFIG, "%s: holds no images", folder);
	if (!status) {
		grown = realloc(split->entries, (split->n + names.n) * sizeof(*grown));
		if (!grown)
			status = image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", folder);
	}
	if (grown)
		split->entries = grown;
	for (size_t i = 0; !status && i < names.n; i++) {
		char *name = strdup(names.entries[i]->d_name);

		if (name)
			split->entries[split->n++] =
				(struct pack_entry){name, (uint32_t)i, (uint8_t) class};
		else
			status = image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", folder);
	}
	names_free(&names);
	return status;
}

static int by_place(const void *left, const void *right)
{
	const struct pack_entry *a = left, *b = right;

	if (a->place != b->place)
		return a->place < b->place ? -1 : 1;
	return a->class - b->class;
}

static psgd_status split_read(
	struct pack_tree *tree, struct pack_split *split, struct image_error *error)
{
	struct names names = {0};
	char folder[PATH_MAX], path[PATH_MAX];
	psgd_status status = join(folder, error, tree->root, split->folder, NULL);

	if (!status)
		status = names_read(&names, folder, error);
	if (!status)
		status = check_classes(folder, &names, error);
	if (!status)
		status = split == &tree->train ? keep_classes(tree, &names, error)
					       : compare_classes(tree, &names, error);
	for (size_t i = 0; !status && i < names.n; i++) {
		status = join(path, error, folder, names.entries[i]->d_name, NULL);
		if (!status)
			status = class_read(split, path, i, error);
	}
	names_free(&names);
	if (!status)
		qsort(split->entries, split->n, sizeof(*split->entries), by_place);
	return status;
}

psgd_status pack_tree_read(struct pack_tree *tree, const char *root, struct image_error *error)
{
	psgd_status status;

	*tree = (struct pack_tree){
		.root = root, .train = {.folder = "train"}, .test = {.folder = "test"}};
	status = split_read(tree, &tree->train, error);
	return status ? status : split_read(tree, &tree->test, error);
}

static void split_free(struct pack_split *split)
{
	for (size_t i = 0; i < split->n; i++)
		free(split->entries[i].name);
	free(split->entries);
}

void pack_tree_free(struct pack_tree *tree)
{
	for (size_t i = 0; i < tree->n_classes; i++)
		free(tree->classes[i]);
	free(tree->classes);
	split_free(&tree->train);
	split_free(&tree->test);
	*tree = (struct pack_tree){0};
}

psgd_status pack_tree_path(const struct pack_tree *tree, const struct pack_split *split,
	const struct pack_entry *entry, char *path, struct image_error *error)
{
	char folder[PATH_MAX];
	psgd_status status =
		join(folder, error, tree->root, split->folder, tree->classes[entry->class]);

	return status ? status : join(path, error, folder, entry->name, NULL);
}
