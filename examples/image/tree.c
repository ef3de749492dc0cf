/* Folders of images, one a class. SPDX-License-Identifier: MIT */
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
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

static psgd_status names_read(
	struct names *names, const char *path, const char *help, struct image_error *error)
{
	int n = scandir(path, &names->entries, is_visible, by_bytes);

	names->n = n > 0 ? (size_t)n : 0;
	if (n >= 0)
		return PSGD_OK;
	names->entries = NULL;
	if (errno == ENOMEM)
		return image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", path);
	if (errno == ENOENT || errno == ENOTDIR)
		return image_fail(error, PSGD_ERR_CONFIG, "%s: %s; %s", path,
			errno == ENOENT ? "no such folder" : "not a folder", help);
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
static psgd_status check_classes(const struct tree_rules *rules, const char *folder,
	const struct names *names, struct image_error *error)
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
	if (names->n < 2 || names->n > rules->most_classes)
		return image_fail(error, PSGD_ERR_CONFIG,
			"%s: the number of classes is %zu, expected 2 to %zu", folder, names->n,
			rules->most_classes);
	return PSGD_OK;
}

static psgd_status keep_classes(
	struct tree *tree, const struct names *names, struct image_error *error)
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
	const struct tree *tree, const struct names *names, struct image_error *error)
{
	for (size_t i = 0; i < tree->n_classes || i < names->n; i++) {
		const char *train = i < tree->n_classes ? tree->classes[i] : NULL;
		const char *test = i < names->n ? names->entries[i]->d_name : NULL;
		int order = !test ? -1 : !train ? 1 : strcmp(train, test);

		if (order != 0)
			return image_fail(error, PSGD_ERR_CONFIG,
				"%s: class '%s' is in %s but not in %s", tree->root,
				order < 0 ? train : test,
				order < 0 ? tree->train.folder : tree->test.folder,
				order < 0 ? tree->test.folder : tree->train.folder);
	}
	return PSGD_OK;
}

static bool is_image(const struct tree_rules *rules, const char *name)
{
	size_t length = strlen(name);

	for (const char *const *suffix = rules->suffixes; suffix && *suffix; suffix++)
		if (length >= strlen(*suffix) &&
			strcasecmp(name + length - strlen(*suffix), *suffix) == 0)
			return true;
	return !rules->suffixes;
}

static psgd_status class_read(const struct tree_rules *rules, struct tree_split *split,
	const char *folder, size_t class, struct image_error *error)
{
	struct names names = {0};
	psgd_status status = names_read(&names, folder, rules->help, error);
	struct tree_entry *grown = NULL;
	uint32_t place = 0;

	if (!status && names.n > 0) {
		grown = realloc(split->entries, (split->n + names.n) * sizeof(*grown));
		if (!grown)
			status = image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", folder);
	}
	if (grown)
		split->entries = grown;
	for (size_t i = 0; !status && i < names.n; i++) {
		char *name;

		if (!is_image(rules, names.entries[i]->d_name))
			continue;
		name = strdup(names.entries[i]->d_name);
		if (name)
			split->entries[split->n++] =
				(struct tree_entry){name, place++, (uint16_t) class};
		else
			status = image_fail(error, PSGD_ERR_NOMEM, "%s: out of memory", folder);
	}
	names_free(&names);
	if (!status && place == 0)
		status = image_fail(error, PSGD_ERR_CONFIG, "%s: holds no images%s%s", folder,
			rules->suffixes ? ": " : "", rules->suffixes ? rules->help : "");
	return status;
}

static int by_place(const void *left, const void *right)
{
	const struct tree_entry *a = left, *b = right;

	if (a->place != b->place)
		return a->place < b->place ? -1 : 1;
	return a->class - b->class;
}

static psgd_status split_read(
	struct tree *tree, struct tree_split *split, struct image_error *error)
{
	struct names names = {0};
	char folder[PATH_MAX], path[PATH_MAX];
	psgd_status status = join(folder, error, tree->root, split->folder, NULL);

	if (!status)
		status = names_read(&names, folder, tree->rules->help, error);
	if (!status)
		status = check_classes(tree->rules, folder, &names, error);
	if (!status)
		status = split == &tree->train ? keep_classes(tree, &names, error)
					       : compare_classes(tree, &names, error);
	for (size_t i = 0; !status && i < names.n; i++) {
		status = join(path, error, folder, names.entries[i]->d_name, NULL);
		if (!status)
			status = class_read(tree->rules, split, path, i, error);
	}
	names_free(&names);
	if (!status)
		qsort(split->entries, split->n, sizeof(*split->entries), by_place);
	return status;
}

static psgd_status find_test(struct tree *tree, struct image_error *error)
{
	char path[PATH_MAX];
	psgd_status status = join(path, error, tree->root, tree->rules->test[0], NULL);

	if (!status && tree->rules->test[1] && !is_folder(path))
		tree->test.folder = tree->rules->test[1];
	return status;
}

psgd_status tree_read(struct tree *tree, const char *root, const struct tree_rules *rules,
	struct image_error *error)
{
	psgd_status status;

	*tree = (struct tree){.root = root,
		.rules = rules,
		.train = {.folder = "train"},
		.test = {.folder = rules->test[0]}};
	status = find_test(tree, error);
	if (status)
		return status;
	status = split_read(tree, &tree->train, error);
	return status ? status : split_read(tree, &tree->test, error);
}

static void split_free(struct tree_split *split)
{
	for (size_t i = 0; i < split->n; i++)
		free(split->entries[i].name);
	free(split->entries);
}

void tree_free(struct tree *tree)
{
	for (size_t i = 0; i < tree->n_classes; i++)
		free(tree->classes[i]);
	free(tree->classes);
	split_free(&tree->train);
	split_free(&tree->test);
	*tree = (struct tree){0};
}

psgd_status tree_path(const struct tree *tree, const struct tree_split *split,
	const struct tree_entry *entry, char *path, struct image_error *error)
{
	char folder[PATH_MAX];
	psgd_status status =
		join(folder, error, tree->root, split->folder, tree->classes[entry->class]);

	return status ? status : join(path, error, folder, entry->name, NULL);
}
