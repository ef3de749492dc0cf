/* psgd-train-image: trains small nets on images with libpsgd. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/checkpoint.h>

#include "cuda_open.h"
#include "pack_command.h"
#include "plan.h"
#include "train.h"

#define NAME "psgd-train-image"

enum exit_code { EXIT_RUN = 1, EXIT_USAGE = 2 };

struct arguments {
	const char *tensors; /* path of a configuration; NULL: train */
	const char *pack;    /* folder of images; NULL: nothing to pack */
	const char **rest;   /* overrides, or the folder to pack into */
	size_t n_rest;
};

static const struct argp_option options[] = {
	{"tensors", 't', "CONFIG", 0, "Print the model's tensors and buckets as JSON and end", 0},
	{"pack", 'p', "FOLDER", 0,
		"Pack the JPEG and PNG images of FOLDER/train/CLASS and FOLDER/test/CLASS into "
		"the new folder OUT as CIFAR-10's binary batches, and end",
		0},
	{0},
};

static const char doc[] =
	"Trains an image classifier as one worker of a run.\v"
	"Without options it takes its configuration and its place among the workers from the "
	"environment that `psgd run` sets up. The key=value arguments override the configuration "
	"of --tensors.";

static void check_rest(const struct argp_state *state, const struct arguments *arguments)
{
	if (arguments->pack && arguments->tensors)
		argp_error(state, "--pack and --tensors are two things");
	if (arguments->pack && arguments->n_rest != 1)
		argp_error(state, "--pack FOLDER needs OUT, the folder to pack into, and no more");
	if (arguments->pack)
		return;
	for (size_t i = 0; i < arguments->n_rest; i++)
		if (!strchr(arguments->rest[i], '='))
			argp_error(state, "'%s' is not a key=value override", arguments->rest[i]);
	if (arguments->n_rest > 0 && !arguments->tensors)
		argp_error(state, "overrides are for --tensors; give others to psgd run");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 't':
		arguments->tensors = arg;
		return 0;
	case 'p':
		arguments->pack = arg;
		return 0;
	case ARGP_KEY_ARG:
		arguments->rest[arguments->n_rest++] = arg;
		return 0;
	case ARGP_KEY_END:
		check_rest(state, arguments);
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

/* Whether this program can compute on CUDA devices, for psgd_stack_open. */
static psgd_status has_cuda(void *user, uint32_t ordinal, char *reason, size_t bytes)
{
	const struct image_cuda_module *module;
	struct image_error error = {""};
	psgd_status status = cuda_find(&module, &error);

	(void)user;
	(void)ordinal;
	if (status)
		(void)snprintf(reason, bytes, "%s", error.text);
	return status;
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
	stack_options.cuda = has_cuda;
	status = psgd_stack_open(&stack_options, &stack);
	if (status)
		return fail(psgd_exit_code(status), text[0] ? text : psgd_status_text(status));
	if (psgd_stack_done(stack)) {
		psgd_stack_close(&stack, PSGD_OK, NULL);
		return EXIT_SUCCESS;
	}
	status = train_run(&stack, &error);
	if (!status)
		return EXIT_SUCCESS;
	return fail(status == PSGD_ERR_MISMATCH ? EXIT_RUN : psgd_exit_code(status), error.text);
}

int main(int argc, char **argv)
{
	const struct argp argp = {
		options, parse, "[key=value...]\n--pack FOLDER OUT", doc, NULL, NULL, NULL};
	struct arguments arguments = {0};
	struct image_error error = {""};
	psgd_status status = PSGD_OK;
	int code = EXIT_SUCCESS;

	argp_program_version_hook = print_version;
	argp_err_exit_status = EXIT_USAGE;
	arguments.rest = calloc((size_t)argc, sizeof(*arguments.rest));
	if (!arguments.rest)
		return fail(EXIT_RUN, "out of memory");
	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	if (arguments.pack)
		status = pack_command(arguments.pack, arguments.rest[0], &error);
	else if (arguments.tensors)
		status = plan_print(
			stdout, arguments.tensors, arguments.rest, arguments.n_rest, &error);
	else
		code = train();
	if (status)
		code = fail(psgd_exit_code(status), error.text);
	free(arguments.rest);
	return code;
}
