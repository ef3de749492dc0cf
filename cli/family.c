/* Child processes that end together, and which of them failed first. SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "family.h"

/* After the first failure the others may end by themselves, and say what they saw. */
#define GRACE_NS INT64_C(5000000000)

bool cli_family_open(struct cli_family *family, size_t n, int64_t grace_ns)
{
	static const int numbers[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGWINCH};
	sigset_t mask;

	*family = (struct cli_family){.n = n, .grace_ns = grace_ns, .first = CLI_NO_CHILD};
	sigemptyset(&mask);
	for (size_t i = 0; i < CLI_COUNT(numbers); i++)
		sigaddset(&mask, numbers[i]);
	/* a blocked signal comes even if it is ignored */
	if (cli_is_ignored(SIGHUP))
		sigdelset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, &family->old_mask);
	/* a reader of our output that goes away must not take the run with it */
	signal(SIGPIPE, SIG_IGN);
	family->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	family->children = calloc(n, sizeof(*family->children));
	if (!family->children)
		cli_complain("out of memory");
	return family->children != NULL;
}

void cli_family_close(struct cli_family *family)
{
	if (family->signal_fd >= 0)
		close(family->signal_fd);
	sigprocmask(SIG_SETMASK, &family->old_mask, NULL);
	free(family->children);
	family->children = NULL;
}

size_t cli_family_alive(const struct cli_family *family)
{
	size_t n = 0;

	for (size_t i = 0; i < family->n; i++)
		n += family->children[i].pid > 0;
	return n;
}

void cli_family_signal(struct cli_family *family, int number)
{
	family->signalled = true;
	for (size_t i = 0; i < family->n; i++) {
		if (family->children[i].pid > 0)
			kill(-family->children[i].pid, number);
	}
}

/* How much an end says about what went wrong: a lost peer is the echo of another failure. */
static int weight(int status)
{
	if (WIFSIGNALED(status))
		return 3;
	return WEXITSTATUS(status) == CLI_PEER_LOST ? 1 : 2;
}

static void note_end(struct cli_family *family, size_t i, int status, bool same_moment)
{
	struct cli_child *child = &family->children[i];
	const struct cli_child *first;

	child->pid = 0;
	child->status = status;
	child->failed = status != 0 && !family->signalled;
	if (!child->failed)
		return;
	first = family->first == CLI_NO_CHILD ? NULL : &family->children[family->first];
	if (!first || weight(first->status) == 1 ||
		(same_moment && weight(status) > weight(first->status)))
		family->first = i;
	if (!family->terminate_at)
		family->terminate_at = cli_now_ns() + GRACE_NS;
}

static void reap(struct cli_family *family)
{
	bool first_here = family->first == CLI_NO_CHILD;

	for (size_t i = 0; i < family->n; i++) {
		pid_t pid = family->children[i].pid;
		siginfo_t info = {0};
		int status;

		if (pid == 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
			info.si_pid != pid)
			continue;
		/* helpers that it leaves behind are in its group, whose number is still its own */
		kill(-pid, SIGKILL);
		if (waitpid(pid, &status, 0) == pid)
			note_end(family, i, status, first_here);
	}
}

/* The first asks, the second insists. */
static void end_by_signal(struct cli_family *family, int number)
{
	if (family->signal) {
		cli_family_signal(family, SIGKILL);
		return;
	}
	family->signal = number;
	cli_family_signal(family, number == SIGHUP ? SIGTERM : number);
	family->kill_at = cli_now_ns() + family->grace_ns;
}

bool cli_family_read_signals(struct cli_family *family)
{
	struct signalfd_siginfo info;
	bool resized = false;

	while (read(family->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGWINCH)
			resized = true;
		else if (info.ssi_signo != SIGCHLD)
			end_by_signal(family, (int)info.ssi_signo);
	}
	reap(family);
	return resized;
}

void cli_family_enforce(struct cli_family *family)
{
	int64_t now = cli_now_ns();

	if (family->kill_at && now >= family->kill_at) {
		cli_family_signal(family, SIGKILL);
		family->kill_at = 0;
	} else if (family->terminate_at && !family->signalled && now >= family->terminate_at) {
		cli_family_signal(family, SIGTERM);
		family->kill_at = now + family->grace_ns;
	}
}

int cli_family_patience_ms(const struct cli_family *family)
{
	int64_t at = family->kill_at	 ? family->kill_at
		     : family->signalled ? 0
					 : family->terminate_at;
	int64_t left;

	if (!at)
		return -1;
	left = (at - cli_now_ns()) / 1000000 + 1;
	return left < 0 ? 0 : (int)left;
}

int cli_family_exit_code(const struct cli_family *family)
{
	int status;

	if (family->signal)
		return 128 + family->signal;
	if (family->first == CLI_NO_CHILD)
		return CLI_OK;
	status = family->children[family->first].status;
	if (WIFEXITED(status)) {
		int code = WEXITSTATUS(status);

		return code >= CLI_FAILED && code <= CLI_ENVIRONMENT ? code : CLI_FAILED;
	}
	for (size_t i = 0; i < family->n; i++) {
		const struct cli_child *child = &family->children[i];

		if (child->failed && WIFEXITED(child->status) &&
			WEXITSTATUS(child->status) == CLI_PEER_LOST)
			return CLI_PEER_LOST;
	}
	return CLI_FAILED;
}

void cli_family_describe(
	const struct cli_child *child, const char *what, uint32_t number, char *out, size_t bytes)
{
	if (WIFSIGNALED(child->status))
		snprintf(out, bytes, "%s %u was killed by signal %d", what, number,
			WTERMSIG(child->status));
	else
		snprintf(out, bytes, "%s %u exited with code %d", what, number,
			WEXITSTATUS(child->status));
}

bool cli_read_tail(const char *path, char *out, size_t bytes)
{
	FILE *file = fopen(path, "re");
	size_t n;

	if (!file)
		return false;
	if (fseek(file, 0, SEEK_END) == 0 && ftell(file) > (long)bytes - 1)
		fseek(file, -((long)bytes - 1), SEEK_END);
	else
		rewind(file);
	n = fread(out, 1, bytes - 1, file);
	fclose(file);
	while (n > 0 && out[n - 1] == '\n')
		n--;
	out[n] = '\0';
	return n > 0;
}

const char *cli_last_lines(const char *text, size_t lines)
{
	for (const char *at = text + strlen(text); at > text; at--) {
		if (at[-1] == '\n' && --lines == 0)
			return at;
	}
	return text;
}
