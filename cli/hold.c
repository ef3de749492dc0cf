/* Whose a run folder is, among supervisors. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run.h"

#define NAME "psgd.lock"
#define PATIENCE_NS INT64_C(10000000000)

static void lock_path(const char *run_dir, char *out, size_t bytes)
{
	snprintf(out, bytes, "%s/" NAME, run_dir);
}

/*
 * Unlike flock's, this lock is the process's alone: a child that it has just forked, and that
 * outlives it by a moment, has no part in it. It ends when any descriptor of the file is closed.
 * False: another process has it, *owner, 0 if that is not known. A file system without locks keeps
 * nobody out.
 */
static bool lock(int fd, pid_t *owner)
{
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	while (fcntl(fd, F_SETLK, &whole) < 0 && (errno == EAGAIN || errno == EACCES)) {
		if (fcntl(fd, F_GETLK, &whole) < 0 || whole.l_type != F_UNLCK) {
			*owner = whole.l_pid > 0 ? whole.l_pid : 0;
			return false;
		}
		whole = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
	}
	return true;
}

/* The file goes at the end of a run: one that is gone when we have it is not the folder's lock. */
static int open_and_lock(const char *path, int *fd, pid_t *owner)
{
	struct stat info;

	for (;;) {
		*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		if (*fd < 0)
			return CLI_ENVIRONMENT;
		if (!lock(*fd, owner))
			return CLI_USAGE;
		if (fstat(*fd, &info) < 0 || info.st_nlink > 0)
			return CLI_OK;
		close(*fd);
	}
}

/*
 * The workers inherit this one, so that it is held until the last of them is gone. Those of a
 * supervisor that was killed are killed by the kernel, which takes a moment, on a GPU a long one:
 * until then they have ports and files.
 */
static void wait_for_workers(const char *run_dir, int folder)
{
	int64_t until = cli_now_ns() + PATIENCE_NS;
	bool told = false;

	while (flock(folder, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
		if (cli_now_ns() > until)
			return;
		if (!told)
			cli_complain(
				"%s: waiting for the workers of a run that was killed", run_dir);
		told = true;
		usleep(10000);
	}
}

int cli_hold_take(const char *run_dir, struct cli_hold *hold)
{
	char path[PATH_MAX], seen[PATH_MAX];
	pid_t owner = 0;
	int code;

	lock_path(run_dir, path, sizeof(path));
	code = open_and_lock(path, &hold->lock, &owner);
	if (code == CLI_ENVIRONMENT) {
		cli_complain("%s: %s", path, strerror(errno));
	} else if (code == CLI_USAGE) {
		char who[32] = "";

		if (owner)
			snprintf(who, sizeof(who), " (process %d)", (int)owner);
		cli_complain("%s: another psgd run is writing here%s", cli_seen_path(run_dir, seen),
			who);
		close(hold->lock);
		hold->lock = -1;
	}
	if (code != CLI_OK)
		return code;
	hold->folder = open(run_dir, O_RDONLY | O_DIRECTORY);
	if (hold->folder >= 0)
		wait_for_workers(run_dir, hold->folder);
	return CLI_OK;
}

void cli_hold_release(const char *run_dir, struct cli_hold *hold)
{
	char path[PATH_MAX];

	if (hold->folder >= 0)
		close(hold->folder);
	if (hold->lock >= 0) {
		lock_path(run_dir, path, sizeof(path));
		unlink(path);
		close(hold->lock);
	}
	*hold = CLI_HOLD_INIT;
}
