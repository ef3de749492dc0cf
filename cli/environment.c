/* What a trainer finds in its environment. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run.h"

/* A worker must see one identity: what another launcher, or an outer run, said is taken away. */
static const char *const removed[] = {"PSGD_RANK", "PSGD_WORLD_SIZE", "PSGD_LOCAL_RANK",
	"PSGD_LOCAL_SIZE", "PSGD_MASTER_ADDR", "PSGD_MASTER_PORT", "PSGD_CONFIG",
	"PSGD_CONFIG_SOURCE", "PSGD_COMMAND_LINE", "PSGD_RUN_DIR", "PSGD_PROGRESS_FD",
	"PSGD_OVERWRITE", "PSGD_RESUME", CLI_SEEN_AS, "RANK", "WORLD_SIZE", "LOCAL_RANK",
	"LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK",
	"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
	"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "SLURM_PROCID",
	"SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST"};

static bool names(const char *entry, const char *name, size_t length)
{
	return strncmp(entry, name, length) == 0 && entry[length] == '=';
}

static bool is_removed(const char *entry)
{
	for (size_t i = 0; i < CLI_COUNT(removed); i++) {
		if (names(entry, removed[i], strlen(removed[i])))
			return true;
	}
	return false;
}

void cli_forget_identity(void)
{
	for (size_t i = 0; i < CLI_COUNT(removed); i++)
		unsetenv(removed[i]);
}

const char *cli_seen_path(const char *path, char out[PATH_MAX])
{
	const char *here = getenv(CLI_SEEN_AS);
	int n;

	if (!here || *path == '/')
		return path;
	n = snprintf(out, PATH_MAX, "%s/%s", here, path);
	return n > 0 && n < PATH_MAX ? out : path;
}

void cli_worker_config_path(const struct cli_job *job, size_t i, char *out, size_t bytes)
{
	snprintf(out, bytes, "%s/resolved.worker%u.yaml", job->run_dir, job->workers[i].worker);
}

void cli_worker_log_path(const struct cli_job *job, size_t i, char *out, size_t bytes)
{
	snprintf(out, bytes, "%s/worker%u.log", job->run_dir, job->workers[i].worker);
}

void cli_worker_settings(
	const struct cli_job *job, size_t i, int progress_fd, struct cli_strings *out)
{
	const struct psgd_launch *launch = &job->workers[i];
	char config[PATH_MAX];

	cli_worker_config_path(job, i, config, sizeof(config));
	cli_strings_add(out, "RANK=%u", launch->worker);
	cli_strings_add(out, "WORLD_SIZE=%u", launch->n_workers);
	cli_strings_add(out, "LOCAL_RANK=%u", launch->local_rank);
	cli_strings_add(out, "LOCAL_WORLD_SIZE=%u", launch->local_size);
	cli_strings_add(out, "MASTER_ADDR=%s", launch->master_addr);
	cli_strings_add(out, "MASTER_PORT=%u", launch->master_port);
	cli_strings_add(out, "PSGD_CONFIG=%s", config);
	cli_strings_add(out, "PSGD_CONFIG_SOURCE=%s", job->source);
	cli_strings_add(out, "PSGD_COMMAND_LINE=%s", job->command_line);
	cli_strings_add(out, "PSGD_RUN_DIR=%s", job->run_dir);
	if (job->token_file)
		cli_strings_add(out, "PSGD_TOKEN_FILE=%s", job->token_file);
	if (job->rdzv_timeout >= 0)
		cli_strings_add(out, "PSGD_RDZV_TIMEOUT=%lld", (long long)job->rdzv_timeout);
	if (progress_fd >= 0)
		cli_strings_add(out, "PSGD_PROGRESS_FD=%d", progress_fd);
	if (job->overwrite)
		cli_strings_add(out, "PSGD_OVERWRITE=1");
	if (job->resume)
		cli_strings_add(out, "PSGD_RESUME=%s", job->resume);
	if (!getenv("OMP_NUM_THREADS"))
		cli_strings_add(out, "OMP_NUM_THREADS=%u", job->config->threads);
	cli_nccl_settings(job, out);
}

void cli_worker_environment(
	const struct cli_job *job, size_t i, int progress_fd, struct cli_strings *out)
{
	struct cli_strings settings = {0};

	cli_worker_settings(job, i, progress_fd, &settings);
	for (char **entry = environ; *entry; entry++) {
		bool replaced = is_removed(*entry);

		for (size_t s = 0; s < settings.n && !replaced; s++)
			replaced =
				names(*entry, settings.items[s], strcspn(settings.items[s], "="));
		if (!replaced)
			cli_strings_add(out, "%s", *entry);
	}
	for (size_t s = 0; s < settings.n; s++)
		cli_strings_add(out, "%s", settings.items[s]);
	cli_strings_free(&settings);
}
