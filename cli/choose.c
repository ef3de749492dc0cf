/* The folder of a run, and what in it is not given up by mistake. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <psgd/experiment/checkpoint.h>
#include <psgd/experiment/run.h>

#include "run.h"

bool cli_names_checkpoint(const char *resume)
{
	char folder[PATH_MAX];
	uint64_t iteration;

	return strcmp(resume, "auto") != 0 &&
	       psgd_checkpoint_path(resume, folder, sizeof(folder), &iteration) == PSGD_OK &&
	       iteration != UINT64_MAX;
}

static bool is_same_folder(const char *a, const char *b)
{
	struct stat at, bt;

	return strcmp(a, b) == 0 || (stat(a, &at) == 0 && stat(b, &bt) == 0 &&
					    at.st_dev == bt.st_dev && at.st_ino == bt.st_ino);
}

/* What --resume names. A folder that the command line gives beside it must be the same. */
static int take_named(struct cli_job *job, const char *given)
{
	if (access(job->run_dir, F_OK) != 0) {
		cli_complain("--resume %s: there is no run folder %s", job->resume, job->run_dir);
		return CLI_USAGE;
	}
	if (!given || is_same_folder(given, job->run_dir))
		return CLI_OK;
	cli_complain("--resume %s goes on in %s, not in save_dir=%s: leave save_dir out, or copy "
		     "the run there and name the copy",
		job->resume, job->run_dir, given);
	return CLI_USAGE;
}

int cli_choose_run_dir(struct cli_job *job, const char *given)
{
	size_t room = sizeof(job->run_dir) - sizeof(".smoke");
	bool named = job->resume && strcmp(job->resume, "auto") != 0;
	uint64_t iteration;
	psgd_status status = PSGD_OK;

	if (named)
		status = psgd_checkpoint_path(job->resume, job->run_dir, room, &iteration);
	else if (!job->resume || job->config->save_dir ||
		 !cli_find_resumable(job->config->name, job->run_dir, room))
		status = psgd_run_dir(job->config, job->run_dir, room);
	if (status != PSGD_OK) {
		cli_complain("run folder: %s", psgd_status_text(status));
		return CLI_USAGE;
	}
	return named ? take_named(job, given) : CLI_OK;
}

/* Of a checkpoint before the last one, which going on would remove. */
static int refuse_redo(const struct cli_job *job)
{
	struct psgd_checkpoint_position last = PSGD_INIT(psgd_checkpoint_position);
	char folder[PATH_MAX];
	uint64_t iteration;

	if (!cli_names_checkpoint(job->resume) || access(job->resume, F_OK) != 0 ||
		psgd_checkpoint_path(job->resume, folder, sizeof(folder), &iteration) != PSGD_OK ||
		psgd_checkpoint_newest(job->run_dir, 0, &last, NULL, 0) != PSGD_OK ||
		last.iteration <= iteration)
		return CLI_OK;
	cli_complain("%s: holds a finished run, with a checkpoint of iteration %llu; --overwrite "
		     "replaces what came after iteration %llu",
		job->run_dir, (unsigned long long)last.iteration, (unsigned long long)iteration);
	return CLI_USAGE;
}

int cli_refuse_finished(const struct cli_job *job, bool overwrite)
{
	char state[32] = "", seen[PATH_MAX];

	if (overwrite || job->workers[0].worker != 0 ||
		psgd_run_state(job->run_dir, state, sizeof(state)) != PSGD_OK ||
		strcmp(state, "finished") != 0)
		return CLI_OK;
	if (job->resume)
		return refuse_redo(job);
	cli_complain(
		"%s: holds a finished run; --overwrite replaces it, save_dir=DIR makes another",
		cli_seen_path(job->run_dir, seen));
	return CLI_USAGE;
}
