/* What the folders of a campaign hold, as tables. SPDX-License-Identifier: MIT */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <psgd/experiment/run.h>

#include "batch.h"

void batch_item_dir(const struct batch_item *item, const char *date, char *out, size_t bytes)
{
	if (item->save_dir)
		snprintf(out, bytes, "%s", item->save_dir);
	else
		snprintf(out, bytes, "results/%s/%s", date, item->name);
}

/* The last date of results/<date>/<name>; names of folders that are no date do not count. */
static void look_for(const struct batch_item *item, char out[16])
{
	char pattern[PATH_MAX];
	glob_t found = {0};

	if (item->save_dir)
		return;
	batch_item_dir(item, "[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]", pattern, sizeof(pattern));
	if (glob(pattern, 0, NULL, &found) == 0) {
		const char *last = found.gl_pathv[found.gl_pathc - 1] + strlen("results/");

		if (strncmp(last, out, 8) > 0)
			snprintf(out, 16, "%.8s", last);
	}
	globfree(&found);
}

void batch_date(const struct batch_list *list, bool look, char out[16])
{
	time_t now = time(NULL);
	struct tm local;

	out[0] = '\0';
	for (size_t i = 0; look && i < list->n; i++)
		look_for(&list->items[i], out);
	if (!out[0] && localtime_r(&now, &local))
		strftime(out, 16, "%Y%m%d", &local);
}

void batch_item_state(const struct batch_item *item, const char *date, char *out, size_t bytes)
{
	char dir[PATH_MAX], state[32] = "";

	batch_item_dir(item, date, dir, sizeof(dir));
	if (psgd_run_state(dir, state, sizeof(state)) != PSGD_OK)
		snprintf(state, sizeof(state), "unreadable");
	if (!state[0])
		snprintf(state, sizeof(state), "new");
	/* the records of a run that was cut off say the same as those of one that runs */
	if (strcmp(state, "running") == 0)
		snprintf(state, sizeof(state), "begun");
	snprintf(out, bytes, "%s", state);
}

/* Tells what is under that name in an item's folder from what is there later; "": nothing. */
static void stamp(const struct batch_item *item, const char *date, const char *name,
	char out[BATCH_STAMP_BYTES])
{
	char dir[PATH_MAX], path[PATH_MAX + 16];
	struct stat st;

	out[0] = '\0';
	batch_item_dir(item, date, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (stat(path, &st) == 0)
		snprintf(out, BATCH_STAMP_BYTES, "%llu %lld.%09ld %lld",
			(unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec,
			st.st_mtim.tv_nsec, (long long)st.st_size);
}

void batch_item_remember(struct batch_item *item, const char *date)
{
	stamp(item, date, "events.jsonl", item->events);
	stamp(item, date, "ckpt", item->checkpoints);
}

/* Every run writes its events, and nothing else does: they are truncated, or grow. */
bool batch_item_began(const struct batch_item *item, const char *date)
{
	char now[BATCH_STAMP_BYTES];

	stamp(item, date, "events.jsonl", now);
	return strcmp(now, item->events) != 0;
}

/* A run that is not to go on removes older checkpoints before it makes its own. */
bool batch_item_saved(const struct batch_item *item, const char *date)
{
	char now[BATCH_STAMP_BYTES];

	stamp(item, date, "ckpt", now);
	return strcmp(now, item->checkpoints) != 0;
}

static int name_width(const struct batch_list *list)
{
	size_t width = strlen("name");

	for (size_t i = 0; i < list->n; i++) {
		if (strlen(list->items[i].name) > width)
			width = strlen(list->items[i].name);
	}
	return width < 200 ? (int)width : 200;
}

void batch_print_list(const struct batch_list *list, const char *date, uint32_t base)
{
	int width = name_width(list);

	printf("%5s  %-*s  %5s  %s\n", "index", width, "name", "port", "state");
	for (size_t i = 0; i < list->n; i++) {
		char state[32], port[16] = "free";

		batch_item_state(&list->items[i], date, state, sizeof(state));
		if (base)
			snprintf(port, sizeof(port), "%zu", base + i);
		printf("%5zu  %-*s  %5s  %s\n", i, width, list->items[i].name, port, state);
	}
}

static void number_text(
	const json_t *status, const char *key, const char *format, char *out, size_t bytes)
{
	const json_t *value = json_object_get(status, key);

	snprintf(out, bytes, "-");
	if (json_is_number(value))
		snprintf(out, bytes, format, json_number_value(value));
}

/* The value of a field of a line of CSV; false: it has no such field, or no number there. */
static bool field(const char *line, size_t index, double *out)
{
	char *end;

	for (; index > 0 && line; index--) {
		line = strchr(line, ',');
		line += line != NULL;
	}
	if (!line)
		return false;
	*out = strtod(line, &end);
	return end != line && strchr(",\r\n", *end);
}

/* The place of a name in the first line of CSV. */
static bool find_column(const char *header, const char *name, size_t *index)
{
	size_t length = strlen(name);

	for (*index = 0;; (*index)++) {
		size_t n = strcspn(header, ",\r\n");

		if (n == length && strncmp(header, name, n) == 0)
			return true;
		if (header[n] != ',')
			return false;
		header += n + 1;
	}
}

/* Iterations of a run over their time, evaluation left out, as tools/campaign.py has it; 0: none.
 */
static double iterations_per_s(const char *dir, const json_t *status)
{
	const char *name = json_string_value(json_object_get(status, "benchmark"));
	char path[2 * PATH_MAX], *line = NULL;
	double seconds = 0, n = 0, one;
	size_t size = 0, column;
	FILE *file;

	if (!name)
		return 0;
	snprintf(path, sizeof(path), "%s/benchmark/%s/csv/powerSGD_%s.csv", dir, name, name);
	file = fopen(path, "re");
	if (file && getline(&line, &size, file) > 0 &&
		find_column(line, "iteration_total_time", &column)) {
		for (; getline(&line, &size, file) > 0 && field(line, column, &one); n++)
			seconds += one;
	}
	free(line);
	if (file)
		fclose(file);
	return seconds > 0 ? n / seconds : 0;
}

static void print_numbers(FILE *out, const struct batch_item *item, const char *date)
{
	char path[PATH_MAX + 16], dir[PATH_MAX], accuracy[32], seconds[32], speed[32] = "-";
	json_t *status = NULL;
	double rate;

	batch_item_dir(item, date, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/status.json", dir);
	/* what a smoke test left, or an item that never began, is an older run's */
	if (item->skipped || (item->code >= 0 && batch_item_began(item, date)))
		status = json_load_file(path, 0, NULL);
	number_text(status, "test_accuracy", "%.2f", accuracy, sizeof(accuracy));
	number_text(status, "seconds", "%.1f", seconds, sizeof(seconds));
	rate = iterations_per_s(dir, status);
	if (rate > 0)
		snprintf(speed, sizeof(speed), "%.2f", rate);
	fprintf(out, "  %9s  %9s  %12s\n", accuracy, seconds, speed);
	json_decref(status);
}

char *batch_results(const struct batch_list *list, const char *date)
{
	int width = name_width(list);
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	if (!out)
		return NULL;
	fprintf(out, "%5s  %-*s  %-10s  %9s  %9s  %12s\n", "index", width, "name", "state",
		"accuracy", "seconds", "iterations/s");
	for (size_t i = 0; i < list->n; i++) {
		const struct batch_item *item = &list->items[i];
		char state[32] = "not run";

		if (item->skipped)
			snprintf(state, sizeof(state), "skipped");
		else if (item->code == CLI_OK)
			snprintf(state, sizeof(state), "finished");
		else if (item->code > 0)
			snprintf(state, sizeof(state), "failed (%d)", item->code);
		fprintf(out, "%5zu  %-*s  %-10s", i, width, item->name, state);
		print_numbers(out, item, date);
	}
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
