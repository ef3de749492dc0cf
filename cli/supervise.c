/* Starts workers, watches them, and leaves none behind. SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "family.h"
#include "net_limits.h"
#include "run.h"

#define GRACE_NS INT64_C(5000000000)
#define TAIL_LINES 5

struct supervisor {
	const struct cli_job *job;
	struct cli_progress *progress;
	struct cli_family workers;
	struct cli_pipes pipes; /* of the first worker */
	char line[1024];	/* of the relay, incomplete */
	size_t used;
};

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
			cli_close_fd(&s->pipes.relay);
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
			cli_close_fd(&s->pipes.progress);
	}
}

/* ---- the run ---- */

static void watch(struct supervisor *s)
{
	while (cli_family_alive(&s->workers) > 0) {
		struct pollfd fds[] = {{.fd = s->workers.signal_fd, .events = POLLIN},
			{.fd = s->pipes.relay, .events = POLLIN},
			{.fd = s->pipes.progress, .events = POLLIN}};

		poll(fds, CLI_COUNT(fds), cli_family_patience_ms(&s->workers));
		read_progress(s);
		read_relay(s);
		if (cli_family_read_signals(&s->workers))
			cli_progress_resize(s->progress);
		cli_family_enforce(&s->workers);
	}
	/* what was written just before the end */
	read_progress(s);
	read_relay(s);
	if (s->used)
		print_line(s);
}

/*
 * For people, and as the reason in status.json. The first local worker's errors have been on the
 * terminal already.
 */
static void report_failure(const struct supervisor *s, char *reason, size_t bytes)
{
	size_t first = s->workers.first;
	char path[PATH_MAX], seen_path[PATH_MAX], tail[4096], what[64];
	const char *seen;
	bool any;

	cli_family_describe(
		&s->workers.children[first], "worker", worker_of(s, first), what, sizeof(what));
	cli_worker_log_path(s->job, first, path, sizeof(path));
	seen = cli_seen_path(path, seen_path);
	any = cli_read_tail(path, tail, sizeof(tail));
	snprintf(
		reason, bytes, "%s%s%s", what, any ? ": " : "", any ? cli_last_lines(tail, 1) : "");
	if (first == 0 || !any) {
		fprintf(stderr, "%s (first failure); its log: %s\n", what, seen);
		return;
	}
	fprintf(stderr, "%s (first failure); last lines of %s:\n", what, seen);
	fprintf(stderr, "%s\n", cli_last_lines(tail, TAIL_LINES));
}

static int start_all(struct supervisor *s, char *reason, size_t reason_bytes)
{
	for (size_t i = 0; i < s->job->n_workers; i++) {
		pid_t pid = cli_spawn(s->job, i, &s->workers.old_mask, i == 0 ? &s->pipes : NULL);

		if (pid > 0) {
			s->workers.children[i].pid = pid;
			continue;
		}
		snprintf(reason, reason_bytes, "cannot start %s: %s", s->job->command[0],
			strerror(errno));
		cli_complain("%s", reason);
		cli_family_signal(&s->workers, SIGKILL);
		return CLI_ENVIRONMENT;
	}
	return CLI_OK;
}

int cli_supervise(
	const struct cli_job *job, struct cli_progress *progress, char *reason, size_t reason_bytes)
{
	struct supervisor s = {.job = job, .progress = progress, .pipes = {-1, -1, -1}};
	char seen[PATH_MAX];
	int code = CLI_FAILED;

	if (!cli_family_open(&s.workers, job->n_workers, GRACE_NS))
		goto out;
	code = cli_limits_apply(job->limits, reason, reason_bytes);
	if (code == CLI_OK)
		code = start_all(&s, reason, reason_bytes);
	watch(&s);
	cli_progress_end(progress);
	if (code == CLI_OK) {
		code = cli_family_exit_code(&s.workers);
		if (s.workers.signal) {
			snprintf(reason, reason_bytes, "ended by signal %d", s.workers.signal);
			fprintf(stderr, "%s: %s\n", cli_seen_path(job->run_dir, seen), reason);
		} else if (s.workers.first != CLI_NO_CHILD) {
			report_failure(&s, reason, reason_bytes);
		}
	}
	/* signals still wait: nothing comes between the run and this */
	if (cli_limits_remove(job->limits) != CLI_OK && code == CLI_OK)
		code = CLI_ENVIRONMENT;
	cli_close_fd(&s.pipes.relay);
	cli_close_fd(&s.pipes.progress);
	cli_close_fd(&s.pipes.log);
out:
	cli_family_close(&s.workers);
	return code;
}
