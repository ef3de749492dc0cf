/* Small things about arguments and text. SPDX-License-Identifier: MIT */
#include "cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void cli_normalize_flags(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--") == 0)
			return;
		if (strncmp(argv[i], "--", 2) != 0)
			continue;
		for (char *c = argv[i] + 2; *c && *c != '='; c++) {
			if (*c == '_')
				*c = '-';
		}
	}
}

bool cli_parse_number(const char *text, int64_t min, int64_t max, int64_t *out)
{
	char *end;
	long long value;

	if (*text != '-' && (*text < '0' || *text > '9'))
		return false;
	errno = 0;
	value = strtoll(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max)
		return false;
	*out = value;
	return true;
}

bool cli_is_override(const char *text)
{
	size_t key = strcspn(text, "=/");

	return key > 0 && text[key] == '=';
}

/* Levenshtein's distance of two short words. */
static size_t distance(const char *a, const char *b)
{
	size_t row[64], n = strlen(b);

	if (n + 1 > CLI_COUNT(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 0; a[i]; i++) {
		size_t diagonal = row[0];

		row[0] = i + 1;
		for (size_t j = 0; j < n; j++) {
			size_t best = diagonal + (a[i] != b[j]);

			diagonal = row[j + 1];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (diagonal + 1 < best)
				best = diagonal + 1;
			row[j + 1] = best;
		}
	}
	return row[n];
}

const char *cli_closest(const char *word, const char *const *candidates)
{
	const char *best = NULL;
	size_t best_distance = strlen(word) / 3 + 2;

	for (; *candidates; candidates++) {
		size_t d = distance(word, *candidates);

		if (d < best_distance) {
			best_distance = d;
			best = *candidates;
		}
	}
	return best;
}

void cli_strings_add(struct cli_strings *list, const char *format, ...)
{
	char **items = realloc(list->items, (list->n + 2) * sizeof(*items));
	char *text = NULL;
	va_list args;

	va_start(args, format);
	if (!items || vasprintf(&text, format, args) < 0) {
		fputs("psgd: out of memory\n", stderr);
		exit(CLI_FAILED);
	}
	va_end(args);
	list->items = items;
	items[list->n++] = text;
	items[list->n] = NULL;
}

void cli_strings_free(struct cli_strings *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct cli_strings){0};
}

void cli_complain(const char *format, ...)
{
	va_list args;

	fputs("psgd: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

void cli_complain_as(const char *command, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "psgd %s: ", command);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* It wants no more, and a program that goes on all the same has lost nothing. */
static bool reader_is_gone(void)
{
	struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};

	return poll(&out, 1, 0) == 1 && (out.revents & (POLLERR | POLLHUP));
}

int cli_flush_output(int code)
{
	bool lost = ferror(stdout) != 0;

	errno = 0;
	if ((fflush(stdout) == 0 && !lost) || reader_is_gone())
		return code;
	/* why an earlier write failed is not known any more */
	cli_complain("standard output: %s", errno ? strerror(errno) : "cannot write all of it");
	return code == CLI_OK ? CLI_ENVIRONMENT : code;
}

const char *cli_bytes_text(char *to, size_t bytes, double value)
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
	size_t unit = 0;

	while (value >= 999.5 && unit + 1 < CLI_COUNT(units)) {
		value /= 1000;
		unit++;
	}
	snprintf(
		to, bytes, unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return to;
}

const char *cli_plural(long long n)
{
	return n == 1 ? "" : "s";
}

int64_t cli_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

const char *cli_module_dir(void)
{
	const char *dir = getenv("PSGD_MODULE_PATH");

	return dir && *dir ? dir : NULL;
}

bool cli_is_ignored(int signal_number)
{
	struct sigaction now;

	return sigaction(signal_number, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}
