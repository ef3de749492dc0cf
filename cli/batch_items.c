/* Which experiments a campaign has. SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "batch.h"

static int read_line(struct batch_list *list, const char *list_file, unsigned number, char *line,
	const struct cli_strings *overrides)
{
	const char *slash = strrchr(list_file, '/');
	struct batch_source source = {0};
	struct cli_strings own = {0};
	char path[PATH_MAX], *save = NULL, *file = strtok_r(line, " \t\r\n", &save), *word;
	int code = CLI_OK;

	if (!file || *file == '#')
		return CLI_OK;
	snprintf(source.where, sizeof(source.where), "%s:%u: ", list_file, number);
	snprintf(path, sizeof(path), "%.*s%s",
		*file == '/' || !slash ? 0 : (int)(slash - list_file + 1), list_file, file);
	source.file = path;
	while ((word = strtok_r(NULL, " \t\r\n", &save)) && *word != '#') {
		if (!cli_is_override(word)) {
			cli_complain("%s'%s' is not key=value", source.where, word);
			code = CLI_USAGE;
			break;
		}
		cli_strings_add(&own, "%s", word);
	}
	if (code == CLI_OK)
		code = batch_add(list, &source, &own, overrides);
	cli_strings_free(&own);
	return code;
}

static int read_list(struct batch_list *list, const char *file, const struct cli_strings *overrides)
{
	FILE *in = fopen(file, "re");
	char *line = NULL;
	size_t bytes = 0;
	int code = CLI_OK;

	if (!in) {
		cli_complain("%s: %s", file, strerror(errno));
		return CLI_USAGE;
	}
	for (unsigned number = 1; code == CLI_OK && getline(&line, &bytes, in) >= 0; number++)
		code = read_line(list, file, number, line, overrides);
	free(line);
	fclose(in);
	return code;
}

static bool is_config(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && dot != name && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static int select_config(const struct dirent *entry)
{
	return entry->d_name[0] != '.' && is_config(entry->d_name);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_folder(
	struct batch_list *list, const char *folder, const struct cli_strings *overrides)
{
	static const struct cli_strings none;
	struct dirent **entries = NULL;
	int n = scandir(folder, &entries, select_config, by_name), code = CLI_OK;

	if (n < 0) {
		cli_complain("%s: %s", folder, strerror(errno));
		return CLI_USAGE;
	}
	for (int i = 0; i < n; i++) {
		char path[PATH_MAX];
		struct batch_source source = {.file = path};

		snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
		if (code == CLI_OK)
			code = batch_add(list, &source, &none, overrides);
		free(entries[i]);
	}
	free(entries);
	return code;
}

static bool share_folder(const struct batch_item *a, const struct batch_item *b)
{
	if (a->save_dir && b->save_dir)
		return strcmp(a->save_dir, b->save_dir) == 0;
	return !a->save_dir && !b->save_dir && strcmp(a->name, b->name) == 0;
}

/* Two runs in one folder: the second would be refused, or replace the first. */
static int check_folders(const struct batch_list *list)
{
	for (size_t i = 0; i < list->n; i++) {
		for (size_t j = i + 1; j < list->n; j++) {
			const struct batch_item *a = &list->items[i], *b = &list->items[j];

			if (!share_folder(a, b))
				continue;
			cli_complain("items %zu (%s) and %zu (%s) have the same folder, %s", i,
				a->file, j, b->file, a->save_dir ? a->save_dir : a->name);
			return CLI_USAGE;
		}
	}
	return CLI_OK;
}

int batch_list_read(const char *what, const struct cli_strings *overrides, struct batch_list *out)
{
	static const struct cli_strings none;
	struct batch_source source = {.file = what};
	struct stat st;
	int code;

	*out = (struct batch_list){0};
	if (stat(what, &st) == 0 && S_ISDIR(st.st_mode))
		code = read_folder(out, what, overrides);
	else if (is_config(what))
		code = batch_add(out, &source, &none, overrides);
	else
		code = read_list(out, what, overrides);
	if (code == CLI_OK && out->n == 0) {
		cli_complain("%s: no configuration in it", what);
		code = CLI_USAGE;
	}
	return code == CLI_OK ? check_folders(out) : code;
}

void batch_item_free(struct batch_item *item)
{
	cli_strings_free(&item->overrides);
	free(item->file);
	free(item->name);
	free(item->save_dir);
}

void batch_list_free(struct batch_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		batch_item_free(&list->items[i]);
	free(list->items);
	*list = (struct batch_list){0};
}

static bool is_file(const char *file, const char *text)
{
	const char *slash = strrchr(file, '/'), *bare = slash ? slash + 1 : file;
	const char *dot = strrchr(bare, '.');
	size_t length = dot ? (size_t)(dot - bare) : strlen(bare);

	return strcmp(file, text) == 0 || strcmp(bare, text) == 0 ||
	       (strlen(text) == length && strncmp(bare, text, length) == 0);
}

size_t batch_list_find(const struct batch_list *list, const char *text)
{
	int64_t index;

	if (cli_parse_number(text, 0, INT32_MAX, &index))
		return (size_t)index < list->n ? (size_t)index : SIZE_MAX;
	for (size_t i = 0; i < list->n; i++) {
		if (strcmp(list->items[i].name, text) == 0)
			return i;
	}
	for (size_t i = 0; i < list->n; i++) {
		if (is_file(list->items[i].file, text))
			return i;
	}
	return SIZE_MAX;
}
