#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "experiment/config_private.h"

#define MOST_LINE ((size_t)1 << 20)

#define MOST_TENSORS 100000

struct replay {
	const char *path;
	size_t line;
	struct psgd__replay got;
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

/* Rows of entries that had one rank for all, up to the last. */
static psgd_status fill_rows(struct psgd__replay *got, size_t from)
{
	PSGD__TRY(psgd__grow(
		&got->ranks, &got->ranks_capacity, got->n * got->n_tensors, sizeof(*got->ranks)));
	for (size_t i = from * got->n_tensors; i < got->n * got->n_tensors; i++)
		got->ranks[i] = got->entries[i / got->n_tensors].rank;
	return PSGD_OK;
}

/* The ranks of the tensors at the last entry, if they are said. */
static psgd_status take_ranks(struct replay *replay, const json_t *ranks)
{
	struct psgd__replay *got = &replay->got;
	size_t n = json_array_size(ranks), first;

	if (!ranks)
		return got->n_tensors ? fill_rows(got, got->n - 1) : PSGD_OK;
	if (!n || n > MOST_TENSORS || (got->n_tensors && n != got->n_tensors))
		return bad_line(replay, "\"ranks\" is not a list of one rank for each tensor");
	first = got->n_tensors ? got->n - 1 : 0;
	got->n_tensors = n;
	PSGD__TRY(fill_rows(got, first));
	for (size_t i = 0; i < n; i++) {
		if (!rank_of(json_array_get(ranks, i), &got->ranks[(got->n - 1) * n + i]))
			return bad_line(replay, "\"ranks\" holds what is no rank");
	}
	return PSGD_OK;
}

static psgd_status take_rank(struct replay *replay, const json_t *event)
{
	struct psgd__replay *got = &replay->got;
	const json_t *step = json_object_get(event, "step");
	struct psgd_replay_entry entry = {0};

	if (!json_is_integer(step) || json_integer_value(step) < 0)
		return bad_line(replay, "a rank event needs \"step\", a whole number");
	if (!rank_of(json_object_get(event, "rank"), &entry.rank))
		return bad_line(replay, "a rank event needs \"rank\", a whole number or \"dense\"");
	entry.step = (uint64_t)json_integer_value(step);
	if (got->n && entry.step <= got->entries[got->n - 1].step)
		return bad_line(replay, "the steps of rank events must increase");
	PSGD__TRY(psgd__grow(&got->entries, &got->capacity, got->n + 1, sizeof(*got->entries)));
	got->entries[got->n++] = entry;
	return take_ranks(replay, json_object_get(event, "ranks"));
}

/* A run that went on from a checkpoint did those steps again. */
static psgd_status take_resume(struct replay *replay, const json_t *event)
{
	const json_t *iteration = json_object_get(event, "iteration");
	struct psgd__replay *got = &replay->got;

	if (!json_is_integer(iteration) || json_integer_value(iteration) < 0)
		return bad_line(replay, "a resume event needs \"iteration\", a whole number");
	while (got->n && got->entries[got->n - 1].step >= (uint64_t)json_integer_value(iteration))
		got->n--;
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

void psgd__replay_free(struct psgd__replay *replay)
{
	free(replay->entries);
	free(replay->ranks);
	*replay = (struct psgd__replay){0};
}

psgd_status psgd__config_replay(
	const char *path, struct psgd__replay *out, char *error, size_t error_bytes)
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
	if (status >= 0 && !replay.got.n) {
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
		psgd__replay_free(&replay.got);
		return status;
	}
	*out = replay.got;
	return PSGD_OK;
}
