/* Starts workers, watches them, and leaves none behind. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run.h"

#define GRACE_NS INT64_C(5000000000)
#define TAIL_LINES 5
#define NO_WORKER SIZE_MAX

struct child {
	pid_t pid;   /* 0: reaped, or never started */
	int status;  /* of waitpid */
	bool failed; /* by itself: before the supervisor signalled it */
};

struct supervisor {
	const struct cli_job *job;
	struct cli_progress *progress;
	struct child *children;
	sigset_t old_mask;
	int signal_fd;
	struct cli_pipes pipes; /* of the first worker */
	char line[1024];	/* of the relay, incomplete */
	size_t used;
	size_t first;		       /* the root cause, or NO_WORKER */
	int signal;		       /* that was asked to end the run; 0: none */
	int64_t terminate_at, kill_at; /* 0: not planned */
	bool signalled;		       /* workers end because they were told to */
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static uint32_t worker_of(const struct supervisor *s, size_t i)
{
	return s->job->workers[i].worker;
}

/* ---- what the workers say ---- */

static void print_line(struct supervisor *s)
{
	cli_progress_hide(s->progress);
	fprintf(stderr, "worker %u: %.*s\n", worker_of(s, 0), (int)s->used, s->line);
	s->used = 0;
}

static void relay(struct supervisor *s, const char *bytes, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t part = write(s->pipes.log, bytes + done, n - done);

		if (part < 0 && errno != EINTR)
			break;
		done += part > 0 ? (size_t)part : 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (bytes[i] != '\n')
			s->line[s->used++] = bytes[i];
		if (bytes[i] == '\n' || s->used == sizeof(s->line))
			print_line(s);
	}
	cli_progress_show(s->progress);
}

/* Reads what is there; closes at the end of file. */
static void read_relay(struct supervisor *s)
{
	char buffer[4096];
	ssize_t n;

	while (s->pipes.relay >= 0) {
		n = read(s->pipes.relay, buffer, sizeof(buffer));
		if (n > 0)
			relay(s, buffer, (size_t)n);
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && errno == EAGAIN)
			return;
		else
			close_fd(&s->pipes.relay);
	}
}

static void read_progress(struct supervisor *s)
{
	char buffer[4096];
	ssize_t n;

	while (s->pipes.progress >= 0) {
		n = read(s->pipes.progress, buffer, sizeof(buffer));
		if (n > 0)
			cli_progress_feed(s->progress, buffer, (size_t)n);
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && errno == EAGAIN)
			return;
		else
			close_fd(&s->pipes.progress);
	}
}

/* ---- ends ---- */

static size_t n_alive(const struct supervisor *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->job->n_workers; i++)
		n += s->children[i].pid > 0;
	return n;
}

static void signal_all(struct supervisor *s, int number)
{
	s->signalled = true;
	for (size_t i = 0; i < s->job->n_workers; i++) {
		if (s->children[i].pid > 0)
			kill(-s->children[i].pid, number);
	}
}

/* How much an end says about what went wrong: a lost peer is the echo of another failure. */
static int weight(int status)
{
	if (WIFSIGNALED(status))
		return 3;
	return WEXITSTATUS(status) == CLI_PEER_LOST ? 1 : 2;
}

static void note_end(struct supervisor *s, size_t i, int status, bool same_moment)
{
	struct child *child = &s->children[i];

	child->pid = 0;
	child->status = status;
	child->failed = status != 0 && !s->signalled;
	if (!child->failed)
		return;
	if (s->first == NO_WORKER || weight(s->children[s->first].status) == 1 ||
		(same_moment && weight(status) > weight(s->children[s->first].status)))
		s->first = i;
	if (!s->terminate_at)
		s->terminate_at = cli_now_ns() + GRACE_NS;
}

static void reap(struct supervisor *s)
{
	bool first_here = s->first == NO_WORKER;

	for (size_t i = 0; i < s->job->n_workers; i++) {
		pid_t pid = s->children[i].pid;
		siginfo_t info = {0};
		int status;

		if (pid == 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
			info.si_pid != pid)
			continue;
		/* helpers that it leaves behind are in its group, whose number is still its own */
		kill(-pid, SIGKILL);
		if (waitpid(pid, &status, 0) == pid)
			note_end(s, i, status, first_here);
	}
}

/* The first asks, the second insists. */
static void end_by_signal(struct supervisor *s, int number)
{
	if (s->signal) {
		signal_all(s, SIGKILL);
		return;
	}
	s->signal = number;
	signal_all(s, number == SIGHUP ? SIGTERM : number);
	s->kill_at = cli_now_ns() + GRACE_NS;
}

static void read_signals(struct supervisor *s)
{
	struct signalfd_siginfo info;

	while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGWINCH)
			cli_progress_resize(s->progress);
		else if (info.ssi_signo != SIGCHLD)
			end_by_signal(s, (int)info.ssi_signo);
	}
	reap(s);
}

static void enforce_deadlines(struct supervisor *s)
{
	int64_t now = cli_now_ns();

	if (s->kill_at && now >= s->kill_at) {
		signal_all(s, SIGKILL);
		s->kill_at = 0;
	} else if (s->terminate_at && !s->signalled && now >= s->terminate_at) {
		signal_all(s, SIGTERM);
		s->kill_at = now + GRACE_NS;
	}
}

static int milliseconds_to_deadline(const struct supervisor *s)
{
	int64_t at = s->kill_at ? s->kill_at : s->signalled ? 0 : s->terminate_at;
	int64_t left;

	if (!at)
		return -1;
	left = (at - cli_now_ns()) / 1000000 + 1;
	return left < 0 ? 0 : (int)left;
}

static void watch(struct supervisor *s)
{
	while (n_alive(s) > 0) {
		struct pollfd fds[] = {{.fd = s->signal_fd, .events = POLLIN},
			{.fd = s->pipes.relay, .events = POLLIN},
			{.fd = s->pipes.progress, .events = POLLIN}};

		poll(fds, CLI_COUNT(fds), milliseconds_to_deadline(s));
		read_progress(s);
		read_relay(s);
		read_signals(s);
		enforce_deadlines(s);
	}
	/* what was written just before the end */
	read_progress(s);
	read_relay(s);
	if (s->used)
		print_line(s);
}

/* ---- the report ---- */

/* The end of a file without its last newlines; false: there is nothing. */
static bool read_tail(const char *path, char *out, size_t bytes)
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

/* The last lines of a text. */
static const char *last_lines(const char *text, size_t lines)
{
	for (const char *at = text + strlen(text); at > text; at--) {
		if (at[-1] == '\n' && --lines == 0)
			return at;
	}
	return text;
}

static void describe(const struct supervisor *s, size_t i, char *out, size_t bytes)
{
	int status = s->children[i].status;

	if (WIFSIGNALED(status))
		snprintf(out, bytes, "worker %u was killed by signal %d", worker_of(s, i),
			WTERMSIG(status));
	else
		snprintf(out, bytes, "worker %u exited with code %d", worker_of(s, i),
			WEXITSTATUS(status));
}

/*
 * For people, and as the reason in status.json. The first local worker's errors have been on the
 * terminal already.
 */
static void report_failure(const struct supervisor *s, char *reason, size_t bytes)
{
	char path[PATH_MAX], tail[4096], what[64];
	bool any;

	describe(s, s->first, what, sizeof(what));
	cli_worker_log_path(s->job, s->first, path, sizeof(path));
	any = read_tail(path, tail, sizeof(tail));
	snprintf(reason, bytes, "%s%s%s", what, any ? ": " : "", any ? last_lines(tail, 1) : "");
	if (s->first == 0 || !any) {
		fprintf(stderr, "%s (first failure); its log: %s\n", what, path);
		return;
	}
	fprintf(stderr, "%s (first failure); last lines of %s:\n", what, path);
	fprintf(stderr, "%s\n", last_lines(tail, TAIL_LINES));
}

static int exit_code(const struct supervisor *s)
{
	int status;

	if (s->signal)
		return 128 + s->signal;
	if (s->first == NO_WORKER)
		return CLI_OK;
	status = s->children[s->first].status;
	if (WIFEXITED(status)) {
		int code = WEXITSTATUS(status);

		return code >= CLI_FAILED && code <= CLI_ENVIRONMENT ? code : CLI_FAILED;
	}
	for (size_t i = 0; i < s->job->n_workers; i++) {
		const struct child *child = &s->children[i];

		if (child->failed && WIFEXITED(child->status) &&
			WEXITSTATUS(child->status) == CLI_PEER_LOST)
			return CLI_PEER_LOST;
	}
	return CLI_FAILED;
}

static void mask_signals(struct supervisor *s)
{
	static const int numbers[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGWINCH};
	sigset_t mask;

	sigemptyset(&mask);
	for (size_t i = 0; i < CLI_COUNT(numbers); i++)
		sigaddset(&mask, numbers[i]);
	/* a blocked signal comes even if it is ignored */
	if (cli_is_ignored(SIGHUP))
		sigdelset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, &s->old_mask);
	/* a reader of our output that goes away must not take the run with it */
	signal(SIGPIPE, SIG_IGN);
	s->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int start_all(struct supervisor *s, char *reason, size_t reason_bytes)
{
	for (size_t i = 0; i < s->job->n_workers; i++) {
		pid_t pid = cli_spawn(s->job, i, &s->old_mask, i == 0 ? &s->pipes : NULL);

		if (pid > 0) {
			s->children[i].pid = pid;
			continue;
		}
		snprintf(reason, reason_bytes, "cannot start %s: %s", s->job->command[0],
			strerror(errno));
		cli_complain("%s", reason);
		signal_all(s, SIGKILL);
		return CLI_ENVIRONMENT;
	}
	return CLI_OK;
}

int cli_supervise(
	const struct cli_job *job, struct cli_progress *progress, char *reason, size_t reason_bytes)
{
	struct supervisor s = {.job = job,
		.progress = progress,
		.signal_fd = -1,
		.pipes = {-1, -1, -1},
		.first = NO_WORKER};
	int code;

	s.children = calloc(job->n_workers, sizeof(*s.children));
	if (!s.children) {
		cli_complain("out of memory");
		return CLI_FAILED;
	}
	mask_signals(&s);
	code = start_all(&s, reason, reason_bytes);
	watch(&s);
	cli_progress_end(progress);
	if (code == CLI_OK) {
		code = exit_code(&s);
		if (s.signal) {
			snprintf(reason, reason_bytes, "ended by signal %d", s.signal);
			fprintf(stderr, "%s: %s\n", job->run_dir, reason);
		} else if (s.first != NO_WORKER) {
			report_failure(&s, reason, reason_bytes);
		}
	}
	close_fd(&s.pipes.relay);
	close_fd(&s.pipes.progress);
	close_fd(&s.pipes.log);
	close_fd(&s.signal_fd);
	sigprocmask(SIG_SETMASK, &s.old_mask, NULL);
	free(s.children);
	return code;
}
