/* Work in a child process. SPDX-License-Identifier: MIT */
#ifndef CLI_CHILD_H
#define CLI_CHILD_H

#include <signal.h>

#include "cli.h"

/* Signals that wait until somebody asks for them, and the mask of before. */
struct cli_held {
	sigset_t signals, before;
};

/* Holds the signals that ask this process to end; release: those that came meanwhile act. */
void cli_hold_signals(struct cli_held *held);
void cli_release_signals(const struct cli_held *held);

/*
 * Runs work(user) in a child process, where signals are not held, and waits for it. Signals that
 * ask this process to end are handed on, and *signal is the first of them, else 0. The child is
 * killed if this process ends. Returns what work returned; CLI_FAILED for a child that was killed;
 * -1: there is no child, errno says why.
 */
int cli_in_child(const struct cli_held *held, int (*work)(void *user), void *user, int *signal);

#endif
