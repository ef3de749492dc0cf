/* One configuration as the items of its grid. SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"

/* Keys in which nodes may differ, as in a run; the hash leaves them out. */
static const char *const free_keys[] = {"name", "save_dir", "results_csv", "benchmark_save_dir",
	"threads", "dataset.root", "dataset.loader_threads", "dataset.prefetch_batches",
	"communication.interface", "rank_control.replay", "network_limits.interface",
	"model.weights", "compression.calibration.save_dir", "compression.calibration.csv_name"};

/* ---- names and hashes ---- */

/* "x_seed3" is "x", as a name without its seed. */
static size_t without_seed(const char *name)
{
	size_t length = strlen(name), digits = length;

	while (digits > 0 && isdigit((unsigned char)name[digits - 1]))
		digits--;
	if (digits < length && digits > 5 && strncmp(name + digits - 5, "_seed", 5) == 0)
		return digits - 5;
	return length;
}

/* The name says this seed. */
static bool tells_seed(const char *name, uint64_t seed)
{
	char end[32];

	snprintf(end, sizeof(end), "_seed%llu", (unsigned long long)seed);
	return strcmp(name + without_seed(name), end) == 0;
}

static bool is_free(const char *key)
{
	for (size_t i = 0; i < CLI_COUNT(free_keys); i++) {
		if (strcmp(key, free_keys[i]) == 0)
			return true;
	}
	return false;
}

/* Mistakes are to be found, not forgers: FNV-1a of the resolved lines, each with its whole key. */
static void hash_lines(const char *yaml, char out[BATCH_HASH_BYTES])
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	char key[4][256] = {""};

	for (const char *line = yaml; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		size_t indent = strspn(line, " "), length = strcspn(line, "\n"), depth = indent / 2;

		if (depth < CLI_COUNT(key)) {
			snprintf(key[depth], sizeof(key[depth]), "%.100s%s%.*s",
				depth ? key[depth - 1] : "", depth ? "." : "",
				(int)strcspn(line + indent, ":\n"), line + indent);
			if (is_free(key[depth]))
				continue;
		}
		for (size_t i = 0; i <= length; i++)
			hash = (hash ^ (unsigned char)(i < length ? line[i] : '\n')) *
			       UINT64_C(0x100000001b3);
	}
	snprintf(out, BATCH_HASH_BYTES, "%016llx", (unsigned long long)hash);
}

static bool hash_config(const struct psgd_config *config, char out[BATCH_HASH_BYTES])
{
	char *yaml = NULL;

	if (psgd_config_yaml(config, &yaml) != PSGD_OK)
		return false;
	hash_lines(yaml, out);
	free(yaml);
	return true;
}

/* ---- items ---- */

static char *text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

static char *text_of(const char *format, ...)
{
	char *text = NULL;
	va_list args;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0) {
		fputs("psgd: out of memory\n", stderr);
		exit(CLI_FAILED);
	}
	va_end(args);
	return text;
}

/*
 * The folder must tell the seed, whoever names it; a folder in the file is for one item alone.
 * With seeds the suffix ends in one.
 */
static void name_item(struct batch_item *item, const struct psgd_config *config, const char *suffix,
	bool sweep, bool seeds)
{
	bool named = config->save_dir && !sweep;
	char end[320];

	if (named) {
		item->name = text_of("%s", config->name);
		item->save_dir = text_of("%s", config->save_dir);
		return;
	}
	if (!sweep && tells_seed(config->name, config->seed)) {
		item->name = text_of("%s", config->name);
		return;
	}
	snprintf(end, sizeof(end), "%s", suffix);
	if (!seeds)
		snprintf(end, sizeof(end), "%s_seed%llu", suffix, (unsigned long long)config->seed);
	item->name = text_of("%.*s%s", (int)without_seed(config->name), config->name, end);
	if (config->save_dir) {
		size_t length = strlen(config->save_dir);
		char *dir;

		while (length > 1 && config->save_dir[length - 1] == '/')
			length--;
		dir = text_of("%.*s", (int)length, config->save_dir);
		item->save_dir = text_of("%.*s%s", (int)without_seed(dir), dir, end);
		free(dir);
	}
}

/* Takes the item over, also when it fails. */
static int add_item(struct batch_list *list, struct batch_item *item,
	const struct batch_source *source, const char *suffix, bool sweep, bool seeds)
{
	struct psgd_config *config = NULL;
	char error[CLI_ERROR_BYTES] = "";
	struct batch_item *items = realloc(list->items, (list->n + 1) * sizeof(*items));
	psgd_status status =
		psgd_config_load(item->file, (const char *const *)item->overrides.items,
			item->overrides.n, &config, error, sizeof(error));

	if (items)
		list->items = items;
	if (status != PSGD_OK || !items || !hash_config(config, item->hash)) {
		fprintf(stderr, "%s%s\n", source->where,
			*error ? error : psgd_status_text(status ? status : PSGD_ERR_NOMEM));
		psgd_config_free(&config);
		batch_item_free(item);
		return CLI_USAGE;
	}
	name_item(item, config, suffix, sweep, seeds);
	cli_strings_add(&item->overrides, "name=%s", item->name);
	if (sweep) {
		/* folders that one file names would be shared by all of its items */
		cli_strings_add(&item->overrides, "benchmark_save_dir=null");
		cli_strings_add(&item->overrides, "compression.calibration.save_dir=null");
	}
	psgd_config_free(&config);
	list->items[list->n++] = *item;
	return CLI_OK;
}

/* One point of the grid; at[] says which value of each axis. */
static int add_point(struct batch_list *list, const struct batch_source *source, const size_t *at)
{
	struct batch_item item = {.file = text_of("%s", source->file), .code = -1};
	char suffix[256] = "", seed[128] = "", one[128];
	bool sweep = false;

	for (size_t a = 0; a < source->n_axes; a++) {
		const struct batch_axis *axis = &source->axes[a];
		const char *value = axis->values.items[at[a]];

		cli_strings_add(&item.overrides, "%s=%s", axis->key, value);
		if (!axis->varies)
			continue;
		sweep = true;
		batch_suffix(axis, value, one, sizeof(one));
		if (strcmp(axis->key, "seed") == 0)
			snprintf(seed, sizeof(seed), "%s", one);
		else
			strncat(suffix, one, sizeof(suffix) - strlen(suffix) - 1);
	}
	strncat(suffix, seed, sizeof(suffix) - strlen(suffix) - 1);
	if (list->n >= BATCH_MAX_ITEMS) {
		cli_complain("%smore than %d items", source->where, BATCH_MAX_ITEMS);
		batch_item_free(&item);
		return CLI_USAGE;
	}
	return add_item(list, &item, source, suffix, sweep, *seed != '\0');
}

/* The product of all axes; the last one turns fastest. */
static int add_product(struct batch_list *list, const struct batch_source *source)
{
	size_t *at = calloc(source->n_axes + 1, sizeof(*at)), a;
	int code = at ? CLI_OK : CLI_FAILED;

	while (code == CLI_OK) {
		code = add_point(list, source, at);
		for (a = source->n_axes; a > 0; a--) {
			if (++at[a - 1] < source->axes[a - 1].values.n)
				break;
			at[a - 1] = 0;
		}
		if (a == 0)
			break;
	}
	free(at);
	return code;
}

int batch_add(struct batch_list *list, struct batch_source *source, const struct cli_strings *own,
	const struct cli_strings *overrides)
{
	size_t n = own->n + overrides->n;
	char error[CLI_ERROR_BYTES] = "";
	int code = CLI_OK;

	source->axes = calloc(n + 1, sizeof(*source->axes));
	if (!source->axes)
		return CLI_FAILED;
	for (size_t i = 0; i < n && code == CLI_OK; i++) {
		const char *text = i < own->n ? own->items[i] : overrides->items[i - own->n];

		if (batch_axis_parse(text, &source->axes[i], error, sizeof(error))) {
			source->n_axes++;
		} else {
			cli_complain("%s%s", source->where, error);
			code = CLI_USAGE;
		}
	}
	if (code == CLI_OK)
		code = add_product(list, source);
	for (size_t i = 0; i < source->n_axes; i++)
		batch_axis_free(&source->axes[i]);
	free(source->axes);
	return code;
}
