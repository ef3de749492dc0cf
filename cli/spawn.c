/* Starts children, and workers. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "family.h"
#include "run.h"

void cli_close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Only the child runs this; it comes back when it cannot. */
static void become(const struct cli_start *start, pid_t parent)
{
	int null_fd = open("/dev/null", O_RDONLY);

	setpgid(0, 0);
	/* a supervisor that is killed outright can tell nobody; the kernel does it */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CLI_FAILED);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, start->mask, NULL);
	dup2(null_fd, STDIN_FILENO);
	dup2(start->out, STDOUT_FILENO);
	dup2(start->err, STDERR_FILENO);
	if (null_fd > STDERR_FILENO)
		close(null_fd);
	if (start->progress >= 0)
		fcntl(start->progress, F_SETFD, 0);
	if (start->folder && chdir(start->folder) < 0)
		return;
	execvpe(start->command[0], start->command, start->environment);
}

/* The pipe that carries errno closes by itself when exec succeeds. */
pid_t cli_start(const struct cli_start *start)
{
	int report[2], failure = 0;
	pid_t parent = getpid(), pid;

	if (pipe2(report, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		become(start, parent);
		failure = errno;
		if (write(report[1], &failure, sizeof(failure)) < 0)
			_exit(CLI_FAILED);
		_exit(CLI_ENVIRONMENT);
	}
	close(report[1]);
	if (pid > 0) {
		/* here too: nobody knows which of the two runs first */
		setpgid(pid, pid);
		if (read(report[0], &failure, sizeof(failure)) != sizeof(failure))
			failure = 0;
	}
	close(report[0]);
	if (failure) {
		waitpid(pid, NULL, 0);
		errno = failure;
		return -1;
	}
	return pid;
}

static bool open_pipes(struct cli_pipes *pipes, struct cli_start *start)
{
	int pair[2], relay[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return false;
	pipes->progress = pair[0];
	start->progress = pair[1];
	if (pipe2(relay, O_CLOEXEC) < 0)
		return false;
	pipes->relay = relay[0];
	start->err = relay[1];
	return fcntl(pipes->relay, F_SETFL, O_NONBLOCK) == 0 &&
	       fcntl(pipes->progress, F_SETFL, O_NONBLOCK) == 0;
}

pid_t cli_spawn(const struct cli_job *job, size_t i, const sigset_t *mask, struct cli_pipes *pipes)
{
	struct cli_start start = {.command = job->command, .mask = mask, .err = -1, .progress = -1};
	struct cli_strings environment = {0};
	char log_path[PATH_MAX];
	pid_t pid = -1;
	int saved;

	cli_worker_log_path(job, i, log_path, sizeof(log_path));
	start.out = open(log_path,
		O_WRONLY | O_CREAT | (job->resume ? 0 : O_TRUNC) | O_APPEND | O_CLOEXEC, 0666);
	if (start.out < 0)
		return -1;
	if (pipes ? open_pipes(pipes, &start) : (start.err = start.out) >= 0) {
		cli_worker_environment(job, i, start.progress, &environment);
		start.environment = environment.items;
		pid = cli_start(&start);
	}
	saved = errno;
	if (pipes) {
		pipes->log = start.out;
		cli_close_fd(&start.err);
		cli_close_fd(&start.progress);
	} else {
		cli_close_fd(&start.out);
	}
	cli_strings_free(&environment);
	errno = saved;
	return pid;
}
