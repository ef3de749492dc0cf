/* Child processes that end together. SPDX-License-Identifier: MIT */
#ifndef CLI_FAMILY_H
#define CLI_FAMILY_H

#include <signal.h>

#include "cli.h"

/* What a child becomes from fork to exec. */
struct cli_start {
	char **command, **environment;
	const char *folder; /* where it runs; NULL: here */
	const sigset_t *mask;
	int out, err, progress; /* progress -1: none */
};

/* ---- spawn.c ---- */

/*
 * Starts a child in a process group of its own; it is killed if this process ends. -1: errno says
 * why.
 */
pid_t cli_start(const struct cli_start *start);

/* Closes it if it is open; it is -1 then. */
void cli_close_fd(int *fd);

/* ---- family.c ---- */

#define CLI_NO_CHILD SIZE_MAX

struct cli_child {
	pid_t pid;   /* 0: reaped, or never started */
	int status;  /* of waitpid */
	bool failed; /* by itself: before it was signalled */
};

struct cli_family {
	struct cli_child *children;
	size_t n;
	sigset_t old_mask; /* of before: children get it */
	int signal_fd;
	int64_t grace_ns;	       /* from asking them to end until they are killed */
	size_t first;		       /* the root cause, or CLI_NO_CHILD */
	int signal;		       /* that was asked to end all; 0: none */
	int64_t terminate_at, kill_at; /* 0: not planned */
	bool signalled;		       /* children end because they were told to */
};

/*
 * Room for n children; from here on the signals that ask this process to end wait for
 * cli_family_read_signals. False: no memory. Ended by cli_family_close in any case.
 */
bool cli_family_open(struct cli_family *family, size_t n, int64_t grace_ns);
void cli_family_close(struct cli_family *family);

size_t cli_family_alive(const struct cli_family *family);
void cli_family_signal(struct cli_family *family, int number);

/*
 * Takes what signal_fd has: hands on what asks for the end, reaps, and plans the end of the others
 * when one has failed. True: the terminal has a new width.
 */
bool cli_family_read_signals(struct cli_family *family);

/* What was planned and is due; and how long poll may wait for it, -1: for ever. */
void cli_family_enforce(struct cli_family *family);
int cli_family_patience_ms(const struct cli_family *family);

/* The exit code of psgd: of the signal, else of the first failure. */
int cli_family_exit_code(const struct cli_family *family);

/* "worker 1 was killed by signal 9"; what is "worker", number its number. */
void cli_family_describe(
	const struct cli_child *child, const char *what, uint32_t number, char *out, size_t bytes);

/* The end of a file without its last newlines; false: there is nothing. */
bool cli_read_tail(const char *path, char *out, size_t bytes);

/* The last lines of a text. */
const char *cli_last_lines(const char *text, size_t lines);

#endif
