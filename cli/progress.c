/* The live line, or a plain line now and then. SPDX-License-Identifier: MIT */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "run.h"

#define PLAIN_INTERVAL_NS INT64_C(10000000000)
#define LINE_BYTES 4096

struct state {
	double epoch, epochs, iteration, total, accuracy, test_accuracy, loss, rank, ms;
	double compute_ms, compress_ms, comm_ms, decompress_ms, sync_ms, sent_bytes, eta_s;
};

struct cli_progress {
	struct state last;
	char line[LINE_BYTES]; /* JSON received so far */
	size_t used;
	int64_t next_plain_ns;
	int width;
	bool any;	   /* a line was understood */
	bool live;	   /* stdout is a terminal */
	bool bold;	   /* NO_COLOR is not set */
	bool visible;	   /* the live line is on the screen */
	char printed[512]; /* the last line of its own */
};

struct cli_progress *cli_progress_new(void)
{
	const char *no_color = getenv("NO_COLOR");
	struct cli_progress *progress = calloc(1, sizeof(*progress));

	if (!progress) {
		cli_complain("out of memory");
		exit(CLI_FAILED);
	}
	progress->live = isatty(STDOUT_FILENO) == 1;
	progress->bold = progress->live && (!no_color || !*no_color);
	progress->next_plain_ns = cli_now_ns() + PLAIN_INTERVAL_NS;
	cli_progress_resize(progress);
	return progress;
}

void cli_progress_free(struct cli_progress *progress)
{
	free(progress);
}

static bool take(const char *line, size_t n, struct state *out)
{
	struct state s = {.test_accuracy = NAN, .loss = NAN};
	json_t *root = json_loadb(line, n, 0, NULL);
	const struct {
		const char *name;
		double *to;
	} fields[] = {{"epoch", &s.epoch}, {"epochs", &s.epochs}, {"iteration", &s.iteration},
		{"total", &s.total}, {"accuracy", &s.accuracy}, {"test_accuracy", &s.test_accuracy},
		{"loss", &s.loss}, {"rank", &s.rank}, {"ms", &s.ms}, {"compute_ms", &s.compute_ms},
		{"compress_ms", &s.compress_ms}, {"comm_ms", &s.comm_ms},
		{"decompress_ms", &s.decompress_ms}, {"sync_ms", &s.sync_ms},
		{"sent_bytes", &s.sent_bytes}, {"eta_s", &s.eta_s}};
	bool ok = json_is_object(root);

	for (size_t i = 0; ok && i < CLI_COUNT(fields); i++) {
		const json_t *value = json_object_get(root, fields[i].name);

		if (json_is_number(value))
			*fields[i].to = json_number_value(value);
	}
	json_decref(root);
	if (ok)
		*out = s;
	return ok;
}

static const char *duration(char *to, size_t bytes, double seconds)
{
	long s = seconds > 0 && seconds < 1e9 ? (long)(seconds + 0.5) : 0;

	if (s >= 3600)
		snprintf(to, bytes, "%ldh%02ldm", s / 3600, s / 60 % 60);
	else if (s >= 60)
		snprintf(to, bytes, "%ldm%02lds", s / 60, s % 60);
	else
		snprintf(to, bytes, "%lds", s);
	return to;
}

static const char *ms(char to[16], double value)
{
	snprintf(to, 16, value < 9.95 ? "%.1f" : "%.0f", value);
	return to;
}

/*
 * The rank's place in the text is returned for the terminal. What does not fit in `width` columns
 * (0: no limit) is left out: first the parts of an iteration, then the bytes, the test, the loss.
 */
static size_t compose(const struct state *s, int width, char *out, size_t bytes, size_t *rank_begin)
{
	char split[160], wire[40], loss[24], sync[32];
	char head[160], epochs[24] = "", test[24] = "", rank[24], sent[24], eta[24], t[6][16];
	size_t rank_length;

	if (s->epochs > 0)
		snprintf(epochs, sizeof(epochs), "/%.0f", s->epochs);
	if (s->rank > 0)
		rank_length = (size_t)snprintf(rank, sizeof(rank), "r=%.0f", s->rank);
	else
		rank_length = (size_t)snprintf(rank, sizeof(rank), "dense");
	for (int leave = 0; leave <= 4; leave++) {
		split[0] = wire[0] = test[0] = loss[0] = sync[0] = '\0';
		if (s->sync_ms > 0)
			snprintf(sync, sizeof(sync), " | sync %s", ms(t[5], s->sync_ms));
		if (leave < 1)
			snprintf(split, sizeof(split),
				" (compute %s | compress %s | comm %s | decompress %s%s)",
				ms(t[1], s->compute_ms), ms(t[2], s->compress_ms),
				ms(t[3], s->comm_ms), ms(t[4], s->decompress_ms), sync);
		if (leave < 2)
			snprintf(wire, sizeof(wire), "  wire %s/it",
				cli_bytes_text(sent, sizeof(sent), s->sent_bytes));
		if (leave < 3 && !isnan(s->test_accuracy))
			snprintf(test, sizeof(test), "  test %.1f%%", s->test_accuracy);
		if (leave < 4)
			snprintf(loss, sizeof(loss), "  loss %.3g", s->loss);
		snprintf(head, sizeof(head), "epoch %.0f%s  iter %.0f/%.0f  acc %.1f%%%s%s  ",
			s->epoch, epochs, s->iteration, s->total, s->accuracy, test, loss);
		snprintf(out, bytes, "%s%s  %s ms/it%s%s  ETA %s", head, rank, ms(t[0], s->ms),
			split, wire, duration(eta, sizeof(eta), s->eta_s));
		if (!width || strlen(out) < (size_t)width)
			break;
	}
	*rank_begin = strlen(head);
	return rank_length;
}

/*
 * The cursor rests in the first column: a terminal that folds a long line when it gets narrower
 * keeps it there, and what is below is cleared.
 */
static void draw(struct cli_progress *progress)
{
	char text[512];
	size_t begin, n = compose(&progress->last, progress->width, text, sizeof(text), &begin);

	if (progress->width > 1 && (size_t)progress->width <= strlen(text))
		text[progress->width - 1] = '\0';
	if (progress->bold && strlen(text) >= begin + n)
		printf("%.*s\033[1m%.*s\033[0m%s\033[J\r", (int)begin, text, (int)n, text + begin,
			text + begin + n);
	else
		printf("%s\033[J\r", text);
	fflush(stdout);
	progress->visible = true;
}

static void print_plain(struct cli_progress *progress)
{
	char text[512];
	size_t begin;

	compose(&progress->last, 0, text, sizeof(text), &begin);
	if (strcmp(text, progress->printed) == 0)
		return;
	strcpy(progress->printed, text);
	printf("%s\n", text);
	fflush(stdout);
}

void cli_progress_feed(struct cli_progress *progress, const char *bytes, size_t n)
{
	bool fresh = false;
	int64_t now;

	for (size_t i = 0; i < n; i++) {
		if (bytes[i] != '\n') {
			if (progress->used < LINE_BYTES)
				progress->line[progress->used++] = bytes[i];
			continue;
		}
		fresh |= progress->used < LINE_BYTES &&
			 take(progress->line, progress->used, &progress->last);
		progress->used = 0;
	}
	if (!fresh)
		return;
	progress->any = true;
	if (progress->live) {
		draw(progress);
		return;
	}
	now = cli_now_ns();
	if (now >= progress->next_plain_ns) {
		print_plain(progress);
		progress->next_plain_ns = now + PLAIN_INTERVAL_NS;
	}
}

void cli_progress_hide(struct cli_progress *progress)
{
	if (!progress->visible)
		return;
	printf("\033[K");
	fflush(stdout);
	progress->visible = false;
}

void cli_progress_show(struct cli_progress *progress)
{
	if (progress->live && progress->any)
		draw(progress);
}

void cli_progress_resize(struct cli_progress *progress)
{
	struct winsize size = {0};

	progress->width = 0;
	if (progress->live && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
		progress->width = size.ws_col;
	if (progress->visible)
		draw(progress);
}

void cli_progress_end(struct cli_progress *progress)
{
	if (progress->live)
		cli_progress_hide(progress);
	if (progress->any)
		print_plain(progress);
}

void cli_progress_summary(const struct cli_progress *progress, char *out, size_t bytes)
{
	const struct state *s = &progress->last;
	bool tested = !isnan(s->test_accuracy);

	snprintf(out, bytes, "%s", "");
	if (progress->any)
		snprintf(out, bytes, "%.0f iteration%s, %s %.2f %%, ", s->iteration,
			s->iteration == 1 ? "" : "s",
			tested ? "test accuracy" : "training accuracy of its last batch",
			tested ? s->test_accuracy : s->accuracy);
}
