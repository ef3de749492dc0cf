#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "experiment/config_private.h"

#define MOST_LINE ((size_t)1 << 20)

struct replay {
	const char *path;
	size_t line;
	struct psgd_replay_entry *entries;
	size_t n, capacity;
	char *error;
	size_t error_bytes;
};

static psgd_status bad_line(struct replay *replay, const char *why)
{
	psgd__text(replay->error, replay->error_bytes, "%.1000s:%zu: %s", replay->path,
		replay->line, why);
	return PSGD_ERR_CONFIG;
}

/* dense is 0 in the records, or the word of the configuration. */
static bool rank_of(const json_t *rank, uint32_t *out)
{
	if (json_is_string(rank) && strcmp(json_string_value(rank), "dense") == 0) {
		*out = 0;
		return true;
	}
	if (!json_is_integer(rank) || json_integer_value(rank) < 0 ||
		json_integer_value(rank) >= PSGD_RANK_DENSE)
		return false;
	*out = (uint32_t)json_integer_value(rank);
	return true;
}

static psgd_status take_rank(struct replay *replay, const json_t *event)
{
	const json_t *step = json_object_get(event, "step");
	struct psgd_replay_entry entry = {0};

	if (!json_is_integer(step) || json_integer_value(step) < 0)
		return bad_line(replay, "a rank event needs \"step\", a whole number");
	if (!rank_of(json_object_get(event, "rank"), &entry.rank))
		return bad_line(replay, "a rank event needs \"rank\", a whole number or \"dense\"");
	entry.step = (uint64_t)json_integer_value(step);
	if (replay->n && entry.step <= replay->entries[replay->n - 1].step)
		return bad_line(replay, "the steps of rank events must increase");
	PSGD__TRY(psgd__grow(
		&replay->entries, &replay->capacity, replay->n + 1, sizeof(*replay->entries)));
	replay->entries[replay->n++] = entry;
	return PSGD_OK;
}

/* A run that went on from a checkpoint did those steps again. */
static psgd_status take_resume(struct replay *replay, const json_t *event)
{
	const json_t *iteration = json_object_get(event, "iteration");

	if (!json_is_integer(iteration) || json_integer_value(iteration) < 0)
		return bad_line(replay, "a resume event needs \"iteration\", a whole number");
	while (replay->n &&
		replay->entries[replay->n - 1].step >= (uint64_t)json_integer_value(iteration))
		replay->n--;
	return PSGD_OK;
}

static psgd_status take_line(struct replay *replay, const char *text, size_t bytes)
{
	json_error_t problem;
	json_t *event = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
	const char *name;
	char why[200];
	psgd_status status = PSGD_OK;

	if (!event) {
		psgd__text(why, sizeof(why), "not valid JSON: %.150s", problem.text);
		return json_error_code(&problem) == json_error_out_of_memory
			       ? PSGD_ERR_NOMEM
			       : bad_line(replay, why);
	}
	name = json_string_value(json_object_get(event, "event"));
	if (!name)
		status = bad_line(replay, "expected an object with \"event\"");
	else if (strcmp(name, "rank") == 0)
		status = take_rank(replay, event);
	else if (strcmp(name, "resume") == 0)
		status = take_resume(replay, event);
	json_decref(event);
	return status;
}

static psgd_status cannot_read(struct replay *replay)
{
	psgd__text(replay->error, replay->error_bytes, "%.1000s: cannot read: %s", replay->path,
		strerror(errno));
	return PSGD_ERR_IO;
}

psgd_status psgd__config_replay(const char *path, struct psgd_replay_entry **out, size_t *n,
	char *error, size_t error_bytes)
{
	struct replay replay = {.path = path, .error = error, .error_bytes = error_bytes};
	FILE *file = fopen(path, "re");
	char *line = malloc(MOST_LINE);
	psgd_status status = PSGD_OK;

	if (!file) {
		status = cannot_read(&replay);
		goto out;
	}
	if (!line) {
		status = PSGD_ERR_NOMEM;
		goto out;
	}
	errno = 0;
	while (status >= 0 && fgets(line, MOST_LINE, file)) {
		size_t bytes = strlen(line);

		replay.line++;
		if (bytes == MOST_LINE - 1 && line[bytes - 1] != '\n')
			status = bad_line(&replay, "the line is too long");
		else
			status = take_line(&replay, line, bytes);
	}
	if (status >= 0 && ferror(file))
		status = cannot_read(&replay);
	if (status >= 0 && !replay.n) {
		psgd__text(error, error_bytes, "%.1000s: holds no rank event to replay", path);
		status = PSGD_ERR_CONFIG;
	}
out:
	free(line);
	if (file)
		fclose(file);
	if (error && error_bytes && status < 0)
		psgd__one_line(error);
	if (status < 0) {
		free(replay.entries);
		return status;
	}
	*out = replay.entries;
	*n = replay.n;
	return PSGD_OK;
}
