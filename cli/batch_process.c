/* Each experiment is `psgd run`, as a process of its own. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "batch.h"

/* Only the child runs this. */
static void become_run(char **arguments, const sigset_t *mask, pid_t parent)
{
	/* the terminal's Ctrl-C comes once, from the parent: a second one would be insisting */
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CLI_FAILED);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execv("/proc/self/exe", arguments);
	cli_complain("cannot start psgd: %s", strerror(errno));
	_exit(CLI_ENVIRONMENT);
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

int batch_process(char **arguments, int *signal)
{
	sigset_t signals, before;
	pid_t parent = getpid(), pid;
	int code = CLI_ENVIRONMENT;

	*signal = 0;
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	/* a blocked signal comes even if it is ignored */
	if (!cli_is_ignored(SIGHUP))
		sigaddset(&signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &signals, &before);
	/* what is in our buffers must not be written twice */
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		become_run(arguments, &before, parent);
	if (pid > 0)
		code = await_end(pid, &signals, signal);
	else
		cli_complain("cannot start psgd: %s", strerror(errno));
	sigprocmask(SIG_SETMASK, &before, NULL);
	return code;
}

bool batch_port_is_free(const struct psgd_launch *launch, uint32_t port)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	char service[16];
	bool in_use = false;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(launch->master_addr, service, &hints, &list) != 0)
		return true;
	for (const struct addrinfo *a = list; a && !in_use; a = a->ai_next) {
		const int on = 1;
		int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		in_use = (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 1) < 0) &&
			 errno == EADDRINUSE;
		close(fd);
	}
	freeaddrinfo(list);
	return !in_use;
}
