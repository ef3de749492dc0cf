#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "experiment/run_impl.h"

#define ETA_PACE 0.1

static void forget_window(struct psgd__live *live)
{
	live->told = false;
	live->n_window = live->payload_bytes = live->sent_bytes = 0;
	live->step_ns = live->compute_ns = live->encode_ns = live->wire_ns = live->decode_ns = 0;
	live->sync_ns = 0;
}

void psgd__live_see(struct psgd_run *run, const struct psgd_iteration_row *row,
	const struct psgd_report *report)
{
	struct psgd__live *live = &run->live;
	int64_t now = psgd__now_ns();

	/* Recent iterations count, so that a dense start phase is soon forgotten. */
	if (live->any && live->iteration_ns > 0.0)
		live->iteration_ns +=
			ETA_PACE * ((double)(now - live->last_ns) - live->iteration_ns);
	else if (live->any)
		live->iteration_ns = (double)(now - live->last_ns);
	live->any = true;
	live->last_ns = now;
	if (live->told)
		forget_window(live);
	live->epoch = row->epoch;
	live->iteration = row->iteration;
	live->total = row->total_iterations;
	live->accuracy = row->accuracy;
	live->loss = row->loss;
	live->learning_rate = row->learning_rate;
	live->rank = report->rank_max;
	live->eta_s = NAN;
	if (live->iteration_ns > 0.0 && row->total_iterations > row->iteration)
		live->eta_s = live->iteration_ns / 1e9 *
			      (double)(row->total_iterations - row->iteration - 1);
	live->n_window++;
	live->step_ns += report->step_ns;
	live->compute_ns += report->compute_ns;
	live->encode_ns += report->exposed_encode_ns;
	live->wire_ns += report->exposed_wire_ns;
	live->decode_ns += report->exposed_decode_ns;
	live->sync_ns += report->sync_ns;
	live->payload_bytes += report->payload_bytes;
	live->sent_bytes += report->sent_bytes;
}

/*
 * A pipe has no MSG_NOSIGNAL: keep its SIGPIPE from the process by blocking it in this thread, and
 * take away the one that the write made.
 */
static ssize_t write_quietly(int fd, const char *text, size_t n)
{
	const struct timespec now = {0};
	sigset_t pipe_signal, before, pending;
	ssize_t wrote;
	int error;

	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	sigpending(&pending);
	if (pthread_sigmask(SIG_BLOCK, &pipe_signal, &before))
		return -1;
	wrote = write(fd, text, n);
	error = errno;
	if (wrote < 0 && error == EPIPE && !sigismember(&pending, SIGPIPE))
		sigtimedwait(&pipe_signal, NULL, &now);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = error;
	return wrote;
}

/* A reader that is slow loses lines; one that is gone gets no more. */
static void send_line(struct psgd_run *run, const char *text, size_t n)
{
	struct pollfd room = {.fd = run->progress_fd, .events = POLLOUT};
	ssize_t sent = send(run->progress_fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0 && errno == ENOTSOCK) {
		if (poll(&room, 1, 0) == 1 && (room.revents & POLLOUT))
			sent = write_quietly(run->progress_fd, text, n);
		else if (!(room.revents & (POLLERR | POLLHUP | POLLNVAL)))
			return;
	}
	if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
		run->progress_fd = -1;
}

static json_t *mean_ms(const struct psgd__live *live, int64_t ns)
{
	return psgd__json_number((double)ns / 1e6 / (double)live->n_window);
}

/* Epoch and iteration count from 1 here: this line is for people. */
static json_t *progress_line(const struct psgd_run *run)
{
	const struct psgd__live *live = &run->live;

	return json_pack(
		"{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, "
		"s:o}",
		"epoch", (json_int_t)live->epoch + 1, "epochs", (json_int_t)run->n_epochs,
		"iteration", (json_int_t)live->iteration + 1, "total", (json_int_t)live->total,
		"accuracy", psgd__json_number(live->accuracy), "loss",
		psgd__json_number(live->loss), "test_accuracy",
		psgd__json_number(live->test_accuracy), "rank", (json_int_t)live->rank, "ms",
		mean_ms(live, live->step_ns), "compute_ms", mean_ms(live, live->compute_ns),
		"compress_ms", mean_ms(live, live->encode_ns), "comm_ms",
		mean_ms(live, live->wire_ns), "decompress_ms", mean_ms(live, live->decode_ns),
		"sync_ms", mean_ms(live, live->sync_ns), "payload_bytes",
		(json_int_t)(live->payload_bytes / live->n_window), "sent_bytes",
		(json_int_t)(live->sent_bytes / live->n_window), "eta_s",
		psgd__json_number(live->eta_s));
}

void psgd__progress_write(struct psgd_run *run)
{
	struct psgd__live *live = &run->live;
	json_t *line;
	char *text;
	size_t n;

	if (run->progress_fd < 0 || !live->n_window)
		return;
	line = progress_line(run);
	text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
	json_decref(line);
	if (!text)
		return;
	n = strlen(text);
	text[n] = '\n'; /* in the place of the zero */
	send_line(run, text, n + 1);
	free(text);
	live->told = true;
}
