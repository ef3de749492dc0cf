/* psgd bench: times parts of the library on this machine. SPDX-License-Identifier: MIT */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char doc[] =
	"Times parts of the library on this machine.\v"
	"What to time:\n"
	"  compress   compression and decompression, against the floor of memory\n"
	"  allreduce  all-reduces between workers of this machine\n\n"
	"`psgd bench WHAT --help' explains each.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
	int *what_at = state->input;

	if (key == ARGP_KEY_ARG) {
		if (strcmp(arg, "compress") != 0 && strcmp(arg, "allreduce") != 0)
			argp_error(state, "'%s' is none of compress, allreduce", arg);
		*what_at = state->next - 1;
		state->next = state->argc;
		return 0;
	}
	if (key == ARGP_KEY_NO_ARGS)
		argp_error(state, "what to time is missing: compress or allreduce");
	return ARGP_ERR_UNKNOWN;
}

void cli_bench_number(const char *flag, const char *text, int64_t min, int64_t max, int64_t *out,
	struct argp_state *state)
{
	if (!cli_parse_number(text, min, max, out))
		argp_error(state, "%s: '%s' is not a whole number from %lld to %lld", flag, text,
			(long long)min, (long long)max);
}

/* What is there is not opened: a pipe's reader would take that for the end. */
bool cli_bench_writable(const char *path)
{
	struct stat st;
	int fd, error = 0;

	if (!path)
		return true;
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			error = EISDIR;
		else if (access(path, W_OK) != 0)
			error = errno;
	} else {
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (fd >= 0) {
			close(fd);
			unlink(path);
		} else if (errno != EEXIST) { /* else a link to what is not there yet */
			error = errno;
		}
	}
	if (error)
		cli_complain_as("bench", "%s: %s", path, strerror(error));
	return !error;
}

bool cli_bench_write(const json_t *root, const char *path)
{
	if (json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0)
		return true;
	cli_complain_as("bench", "%s: cannot write", path);
	return false;
}

int cli_bench(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse, .args_doc = "WHAT [OPTION...]", .doc = doc};
	static char name[64];
	bool compress;
	int at = 0;

	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &at))
		return CLI_USAGE;
	argc -= at;
	argv += at;
	compress = strcmp(argv[0], "compress") == 0;
	snprintf(name, sizeof(name), "psgd bench %s", argv[0]);
	argv[0] = name;
	cli_normalize_flags(argc, argv);
	return compress ? cli_bench_compress(argc, argv) : cli_bench_allreduce(argc, argv);
}
