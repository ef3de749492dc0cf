/* The run folder, as far as the supervisor touches it. SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run.h"

bool cli_make_dirs(const char *path)
{
	char part[PATH_MAX];

	if ((size_t)snprintf(part, sizeof(part), "%s", path) >= sizeof(part)) {
		errno = ENAMETOOLONG;
		return false;
	}
	for (char *c = part + 1; *c; c++) {
		if (*c != '/')
			continue;
		*c = '\0';
		if (mkdir(part, 0777) < 0 && errno != EEXIST)
			return false;
		*c = '/';
	}
	return mkdir(part, 0777) == 0 || errno == EEXIST;
}

static bool write_config(const struct cli_job *job, size_t i)
{
	char path[PATH_MAX], *yaml = NULL;
	FILE *file = NULL;
	bool ok;

	if (psgd_config_yaml(job->config, &yaml) != PSGD_OK)
		return false;
	cli_worker_config_path(job, i, path, sizeof(path));
	file = fopen(path, "we");
	ok = file && fputs(yaml, file) >= 0;
	if (file && fclose(file) != 0)
		ok = false;
	free(yaml);
	return ok;
}

bool cli_find_resumable(const char *name, char *out, size_t bytes)
{
	DIR *results = opendir("results");
	char path[PATH_MAX], last[NAME_MAX + 1] = "";
	struct dirent *entry;

	while (results && (entry = readdir(results))) {
		if (strspn(entry->d_name, "0123456789") != 8 || entry->d_name[8] ||
			strcmp(entry->d_name, last) <= 0)
			continue;
		snprintf(path, sizeof(path), "results/%s/%s/ckpt", entry->d_name, name);
		if (access(path, F_OK) == 0)
			snprintf(last, sizeof(last), "%s", entry->d_name);
	}
	if (results)
		closedir(results);
	return *last && (size_t)snprintf(out, bytes, "results/%s/%s", last, name) < bytes;
}

void cli_remove_configs(const struct cli_job *job)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < job->n_workers; i++) {
		cli_worker_config_path(job, i, path, sizeof(path));
		unlink(path);
	}
}

int cli_prepare_folder(const struct cli_job *job, struct cli_hold *hold)
{
	int code;

	if (!cli_make_dirs(job->run_dir)) {
		cli_complain("%s: %s", job->run_dir, strerror(errno));
		return CLI_ENVIRONMENT;
	}
	code = job->workers[0].worker == 0 ? cli_hold_take(job->run_dir, hold) : CLI_OK;
	if (code != CLI_OK)
		return code;
	for (size_t i = 0; i < job->n_workers; i++) {
		if (!write_config(job, i)) {
			cli_complain("%s: cannot write: %s", job->run_dir, strerror(errno));
			return CLI_ENVIRONMENT;
		}
	}
	return CLI_OK;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
	(void)st;
	(void)type;
	(void)walk;
	return remove(path);
}

void cli_remove_tree(const char *path)
{
	nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}
