/* Work in a child process, which its parent outlives. SPDX-License-Identifier: MIT */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"

void cli_hold_signals(struct cli_held *held)
{
	sigemptyset(&held->signals);
	sigaddset(&held->signals, SIGCHLD);
	sigaddset(&held->signals, SIGINT);
	sigaddset(&held->signals, SIGTERM);
	/* a blocked signal comes even if it is ignored */
	if (!cli_is_ignored(SIGHUP))
		sigaddset(&held->signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &held->signals, &held->before);
}

void cli_release_signals(const struct cli_held *held)
{
	sigprocmask(SIG_SETMASK, &held->before, NULL);
}

static int await_end(pid_t pid, const sigset_t *signals, int *signal)
{
	for (;;) {
		int number = sigwaitinfo(signals, NULL), status;

		if (number == SIGCHLD) {
			if (waitpid(pid, &status, WNOHANG) != pid)
				continue;
			return WIFEXITED(status) ? WEXITSTATUS(status) : CLI_FAILED;
		}
		if (number <= 0)
			continue;
		if (!*signal)
			*signal = number;
		kill(pid, number);
	}
}

int cli_in_child(const struct cli_held *held, int (*work)(void *user), void *user, int *signal)
{
	pid_t parent = getpid(), pid;
	int code;

	*signal = 0;
	/* what is in our buffers must not be written twice */
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		return -1;
	if (pid > 0)
		return await_end(pid, &held->signals, signal);
	/* the terminal's Ctrl-C comes once, from the parent: a second one would be insisting */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CLI_FAILED);
	cli_release_signals(held);
	code = work(user);
	_exit(cli_flush_output(code));
}
