/* psgd-train-image: trains small nets on images with libpsgd. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/stack.h>

#include "plan.h"
#include "train.h"

#define NAME "psgd-train-image"

enum exit_code { EXIT_RUN = 1, EXIT_USAGE = 2 };

struct arguments {
	const char *tensors; /* path of a configuration; NULL: train */
	const char **overrides;
	size_t n_overrides;
};

static const struct argp_option options[] = {
	{"tensors", 't', "CONFIG", 0, "Print the model's tensors and buckets as JSON and end", 0},
	{0},
};

static const char doc[] =
	"Trains an image classifier as one worker of a run.\v"
	"Without options it takes its configuration and its place among the workers from the "
	"environment that `psgd run` sets up. The key=value arguments override the configuration "
	"of --tensors.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 't':
		arguments->tensors = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (!strchr(arg, '='))
			argp_error(state, "'%s' is not a key=value override", arg);
		arguments->overrides[arguments->n_overrides++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (arguments->n_overrides > 0 && !arguments->tensors)
			argp_error(state, "overrides are for --tensors; give others to psgd run");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void print_version(FILE *out, struct argp_state *state)
{
	(void)state;
	fprintf(out, NAME " %s\n", psgd_version_string());
}

/*
 * Lines of the library go where the errors go: standard output is for results. An error is not
 * said here, since it comes back as a status and is said once, at the end.
 */
static void log_line(void *user, enum psgd_log_level level, const char *message)
{
	(void)user;
	if (level == PSGD_LOG_ERROR)
		return;
	fprintf(stderr, NAME ": %s%s\n", level == PSGD_LOG_WARN ? "warning: " : "", message);
}

static int fail(int code, const char *text)
{
	fprintf(stderr, NAME ": %s\n", text);
	return code;
}

static int train(void)
{
	struct psgd_stack_options stack_options = PSGD_INIT(psgd_stack_options);
	struct image_error error = {""};
	psgd_stack *stack = NULL;
	char text[4096] = ""; /* a table of keys, where configurations differ */
	psgd_status status;

	stack_options.log = log_line;
	stack_options.log_level = PSGD_LOG_INFO;
	stack_options.error = text;
	stack_options.error_bytes = sizeof(text);
	status = psgd_stack_open(&stack_options, &stack);
	if (status)
		return fail(psgd_exit_code(status), text[0] ? text : psgd_status_text(status));
	status = train_run(&stack, &error);
	if (!status)
		return EXIT_SUCCESS;
	return fail(status == PSGD_ERR_MISMATCH ? EXIT_RUN : psgd_exit_code(status), error.text);
}

int main(int argc, char **argv)
{
	const struct argp argp = {options, parse, "[key=value...]", doc, NULL, NULL, NULL};
	struct arguments arguments = {0};
	struct image_error error = {""};
	psgd_status status;
	int code = EXIT_SUCCESS;

	argp_program_version_hook = print_version;
	argp_err_exit_status = EXIT_USAGE;
	arguments.overrides = calloc((size_t)argc, sizeof(*arguments.overrides));
	if (!arguments.overrides)
		return fail(EXIT_RUN, "out of memory");
	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	if (arguments.tensors) {
		status = plan_print(stdout, arguments.tensors, arguments.overrides,
			arguments.n_overrides, &error);
		if (status)
			code = fail(psgd_exit_code(status), error.text);
	} else {
		code = train();
	}
	free(arguments.overrides);
	return code;
}
