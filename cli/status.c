/* How a run stands, where its trainer does not say so. SPDX-License-Identifier: MIT */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <psgd/experiment/run.h>

#include "run.h"

static void path_of(const char *run_dir, char *out, size_t bytes)
{
	snprintf(out, bytes, "%s/status.json", run_dir);
}

static bool write_json(const json_t *value, const char *path)
{
	FILE *file = fopen(path, "we");
	bool ok = file && json_dumpf(value, file, JSON_INDENT(2) | JSON_REAL_PRECISION(16)) == 0 &&
		  fputc('\n', file) != EOF;

	return file && fclose(file) == 0 && ok;
}

/* What the file says; an empty object where it says nothing. */
static json_t *read_json(const char *run_dir)
{
	char path[PATH_MAX + 32];
	json_t *status;

	path_of(run_dir, path, sizeof(path));
	status = json_load_file(path, 0, NULL);
	if (json_is_object(status))
		return status;
	json_decref(status);
	return json_object();
}

/* Takes the status. */
static void say(const char *run_dir, json_t *status, const char *state, const char *reason)
{
	char path[PATH_MAX + 32], temporary[PATH_MAX + 32];

	path_of(run_dir, path, sizeof(path));
	snprintf(temporary, sizeof(temporary), "%s/status.json.psgd", run_dir);
	json_object_set_new(status, "state", json_string(state));
	json_object_set_new(status, "error", reason ? json_string(reason) : json_null());
	json_object_set_new(status, "time", json_integer((json_int_t)time(NULL)));
	if (!write_json(status, temporary) || rename(temporary, path) < 0)
		unlink(temporary);
	json_decref(status);
}

/* Who writes the file replaces it. */
static void look(const char *run_dir, struct cli_status *status)
{
	char path[PATH_MAX + 32];
	struct stat info;

	path_of(run_dir, path, sizeof(path));
	status->any = stat(path, &info) == 0;
	if (!status->any)
		return;
	status->inode = info.st_ino;
	status->bytes = info.st_size;
	status->changed = info.st_mtim;
}

static bool is_same(const struct cli_status *a, const struct cli_status *b)
{
	return a->any == b->any && (!a->any || (a->inode == b->inode && a->bytes == b->bytes &&
						       a->changed.tv_sec == b->changed.tv_sec &&
						       a->changed.tv_nsec == b->changed.tv_nsec));
}

/* The names of what an earlier run wrote stay: one that replaces it removes that. */
static void say_running(const char *run_dir)
{
	static const char *const kept[] = {"benchmark", "results_csv"};
	json_t *old = read_json(run_dir), *status = json_object();
	struct utsname own;

	for (size_t i = 0; i < CLI_COUNT(kept); i++) {
		json_t *value = json_object_get(old, kept[i]);

		if (value)
			json_object_set(status, kept[i], value);
	}
	json_decref(old);
	if (uname(&own) == 0)
		json_object_set_new(status, "host", json_string(own.nodename));
	say(run_dir, status, "running", NULL);
}

void cli_status_begin(const struct cli_job *job, struct cli_status *status)
{
	char state[32];

	*status = (struct cli_status){0};
	if (job->workers[0].worker != 0)
		return;
	/* A trainer asks what a run that goes on has been, and who else may be writing. */
	if (job->foreign && !job->resume &&
		psgd_run_state(job->run_dir, state, sizeof(state)) == PSGD_OK &&
		strcmp(state, "running") != 0)
		say_running(job->run_dir);
	look(job->run_dir, status);
}

static void say_failed(const struct cli_job *job, const char *state, bool ours, const char *reason)
{
	bool said = strcmp(state, "finished") == 0 || (strcmp(state, "failed") == 0 && !ours);

	if (!said)
		say(job->run_dir, read_json(job->run_dir), "failed", reason);
}

void cli_status_end(
	const struct cli_job *job, const struct cli_status *before, int code, const char *reason)
{
	struct cli_status now = {0};
	char state[32] = "";
	bool readable, ours;

	if (job->workers[0].worker != 0)
		return;
	readable = psgd_run_state(job->run_dir, state, sizeof(state)) == PSGD_OK;
	look(job->run_dir, &now);
	/* psgd-train-image says all of it itself, unless it is killed. */
	ours = job->foreign && is_same(before, &now);
	if (code != CLI_OK) {
		if (readable)
			say_failed(job, state, ours, reason);
		return;
	}
	if (job->foreign && strcmp(state, "finished") != 0 &&
		(ours || strcmp(state, "failed") != 0))
		say(job->run_dir, read_json(job->run_dir), "finished", NULL);
}
