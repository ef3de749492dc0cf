/* The parts of `psgd run`. SPDX-License-Identifier: MIT */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include <signal.h>
#include <sys/types.h>
#include <time.h>

#include "cli.h"

struct cli_limits;

/* What is to be run; decided by run.c before anything is touched. */
struct cli_job {
	const struct psgd_config *config; /* for the workers */
	const struct cli_limits *limits;  /* of this node's network */
	const char *source;		  /* the file that the user named */
	char command_line[2048];	  /* as given, for the records */
	struct psgd_launch *workers;
	size_t n_workers;	     /* of this process, at least 1 */
	char run_dir[PATH_MAX - 64]; /* room is left for the names of the files in it */
	char **command;		     /* ends with NULL */
	const char *token_file;
	int64_t rdzv_timeout; /* seconds; -1: not given */
	const char *resume;   /* auto or a path; NULL: no */
	bool overwrite;
	bool foreign; /* the command is not our trainer */
};

/* ---- environment.c ---- */

/* Takes what a launcher or an outer run said from the environment of this process. */
void cli_forget_identity(void);

/* The variables that a worker gets beside the inherited ones. progress_fd -1: none. */
void cli_worker_settings(
	const struct cli_job *job, size_t i, int progress_fd, struct cli_strings *out);

/* The inherited environment without launchers' variables, then the settings: for execve. */
void cli_worker_environment(
	const struct cli_job *job, size_t i, int progress_fd, struct cli_strings *out);

/* Where this process's folder is as seen from the user's, if that is another. */
#define CLI_SEEN_AS "PSGD_SEEN_AS"

/* A path as the user sees it, for messages: in out, or path itself. */
const char *cli_seen_path(const char *path, char out[PATH_MAX]);

/* <run dir>/resolved.worker<N>.yaml, and worker<N>.log. */
void cli_worker_config_path(const struct cli_job *job, size_t i, char *out, size_t bytes);
void cli_worker_log_path(const struct cli_job *job, size_t i, char *out, size_t bytes);

/* ---- choose.c ---- */

/* Is it one checkpoint of a run? */
bool cli_names_checkpoint(const char *resume);

/*
 * The run folder: that of the configuration; of a run that goes on, where it is: what --resume
 * names, or, since the date is in the name that is made for a run, the last of that name. given:
 * the folder of the command line, or NULL. Complains and returns an exit code.
 */
int cli_choose_run_dir(struct cli_job *job, const char *given);

/*
 * A finished run is worth more than a mistyped command: it is neither begun anew nor gone back
 * into without `overwrite`. Complains and returns an exit code.
 */
int cli_refuse_finished(const struct cli_job *job, bool overwrite);

/* ---- smoke.c ---- */

/* What makes a smoke test of a run. */
void cli_smoke_overrides(struct cli_strings *overrides);

/*
 * Adds what makes the compression of this run begin within its few iterations; false: it does
 * without.
 */
bool cli_smoke_hasten(const struct psgd_config *config, struct cli_strings *overrides);

/* What it does, in a line; run_begins: the iteration at which the run begins to compress. */
void cli_smoke_print(const struct psgd_config *config, unsigned run_begins);

/* What it wrote must be readable again. Complains and returns an exit code. */
int cli_smoke_read_back(const struct cli_job *job);

/* ---- cuda.c ---- */

/* Where CUDA is asked for: whether every worker has a device. Complains, returns an exit code. */
int cli_check_cuda(const struct cli_job *job);

/*
 * What makes NCCL use the network that the run is about, where the workers may use NCCL. A leading
 * = is NCCL's exact match. Where the kernel limits an interface, everything between nodes must go
 * through its sockets, also where nodes are namespaces of one machine, which NCCL would take for
 * one host.
 */
void cli_nccl_settings(const struct cli_job *job, struct cli_strings *out);

/* ---- progress.c ---- */

struct cli_progress;

struct cli_progress *cli_progress_new(void);
void cli_progress_free(struct cli_progress *progress);

/* JSON lines from a trainer, in pieces of any size. */
void cli_progress_feed(struct cli_progress *progress, const char *bytes, size_t n);

/* Takes the live line away before other output, and puts it back. */
void cli_progress_hide(struct cli_progress *progress);
void cli_progress_show(struct cli_progress *progress);

/* The terminal has a new width. */
void cli_progress_resize(struct cli_progress *progress);

/* The last state as a line of its own. */
void cli_progress_end(struct cli_progress *progress);

/* "390 iterations, test accuracy 91.20 %, " or "" when the trainer reported nothing. */
void cli_progress_summary(const struct cli_progress *progress, char *out, size_t bytes);

/* ---- spawn.c ---- */

/* The supervisor's ends of the first worker: stderr, its log, progress. -1: closed. */
struct cli_pipes {
	int relay, log, progress;
};

/*
 * Starts worker i in a process group of its own, under the given signal mask; it is killed if
 * this process ends. stdout and stderr go to its log; stderr of one with pipes goes to
 * pipes->relay. -1: errno says why; pipes are to be closed in any case.
 */
pid_t cli_spawn(const struct cli_job *job, size_t i, const sigset_t *mask, struct cli_pipes *pipes);

/* ---- supervise.c ---- */

/*
 * Limits the network, starts the job's workers, waits for all of them, and says what failed first.
 * The limits are gone when it returns. reason gets the failure in words, "" if none. Returns the
 * exit code of psgd.
 */
int cli_supervise(const struct cli_job *job, struct cli_progress *progress, char *reason,
	size_t reason_bytes);

/* ---- hold.c ---- */

/* Two runs must not write one folder. -1: not held. */
struct cli_hold {
	int lock;   /* psgd.lock in it, of this process */
	int folder; /* itself, of this process and its workers */
};
#define CLI_HOLD_INIT ((struct cli_hold){-1, -1})

/*
 * Takes a folder that exists. One of a supervisor that lives is refused; after one that was killed
 * it waits, and says so, until its workers are gone, or for 10 s. Complains and returns an exit
 * code.
 */
int cli_hold_take(const char *run_dir, struct cli_hold *hold);
void cli_hold_release(const char *run_dir, struct cli_hold *hold);

/* ---- folder.c ---- */

/* A folder with all folders above it. False: errno says why. */
bool cli_make_dirs(const char *path);

/*
 * Creates the run folder with the workers' configurations in it. Where worker 0 is, the folder
 * is taken. Complains and returns an exit code; hold is to be released in any case.
 */
int cli_prepare_folder(const struct cli_job *job, struct cli_hold *hold);

/* The last results/<date>/<name> with checkpoints, if there is one. */
bool cli_find_resumable(const char *name, char *out, size_t bytes);

/* Removes the workers' configurations: the run's own resolved.yaml says the same. */
void cli_remove_configs(const struct cli_job *job);

/* Removes a folder and what is in it. */
void cli_remove_tree(const char *path);

/* ---- status.c ---- */

/* status.json as it was when the workers began. */
struct cli_status {
	struct timespec changed;
	ino_t inode;
	off_t bytes;
	bool any;
};

/*
 * Where worker 0 is: status.json says "running" while a trainer of another's runs, and then how
 * it ended, unless the trainer has said so itself.
 */
void cli_status_begin(const struct cli_job *job, struct cli_status *status);
void cli_status_end(
	const struct cli_job *job, const struct cli_status *before, int code, const char *reason);

#endif
