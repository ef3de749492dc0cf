/* psgd: the command. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <psgd/psgd.h>

#include "cli.h"

static const struct command {
	const char *name;
	int (*main)(int argc, char **argv);
} commands[] = {
	{"run", cli_run},
	{"batch", cli_batch},
	{"validate", cli_validate},
	{"info", cli_info},
	{"bench", cli_bench},
	{"net", cli_net},
	{"lab", cli_lab},
	{"selftest", cli_selftest},
};

static const char doc[] =
	"Compresses the gradients of distributed training, and runs experiments with it.\v"
	"Commands:\n"
	"  run CONFIG      train: start and supervise this node's workers\n"
	"  batch WHAT      run many experiments, one after the other\n"
	"  validate FILE   check a configuration, show what each rank would send\n"
	"  info            versions, processor, modules and data sets found\n"
	"  bench WHAT      time compression, or all-reduces, on this machine\n"
	"  net WHAT        limit a network interface, time all-reduces between workers\n"
	"  lab WHAT        several nodes on this machine, for runs over a real network\n"
	"  selftest        whether the kernels of a device compute what they should\n\n"
	"`psgd help COMMAND', or `psgd COMMAND --help', explains a command.\n\n"
	"Exit codes: 0 ok, 1 run failed, 2 usage or configuration, 3 peer lost,\n"
	"4 timeout, 5 environment, 128 + N ended by signal N.";

static void print_version(FILE *stream, struct argp_state *state)
{
	(void)state;
	fprintf(stream, "psgd %s\n", psgd_version_string());
}

/* The first argument that is no option is the command; the rest belongs to it. */
static error_t parse(int key, char *arg, struct argp_state *state)
{
	int *command_at = state->input;

	(void)arg;
	if (key == ARGP_KEY_ARG) {
		*command_at = state->next - 1;
		state->next = state->argc;
		return 0;
	}
	if (key == ARGP_KEY_NO_ARGS)
		argp_error(state,
			"a command is missing: run, batch, validate, info, bench, net, lab or "
			"selftest");
	return ARGP_ERR_UNKNOWN;
}

static int unknown_command(const char *name)
{
	const char *names[CLI_COUNT(commands) + 1] = {NULL};
	const char *closest;

	for (size_t i = 0; i < CLI_COUNT(commands); i++)
		names[i] = commands[i].name;
	closest = cli_closest(name, names);
	if (closest)
		cli_complain("unknown command '%s'; did you mean '%s'?", name, closest);
	else
		cli_complain("unknown command '%s'; there are run, batch, validate, info, bench, "
			     "net, lab and selftest",
			name);
	return CLI_USAGE;
}

/*
 * "-h", and "help" before a command, are --help; of help's own there is none but that of psgd.
 */
static void spell_help(int argc, char **argv)
{
	static char help[] = "--help";
	bool asked = argc > 1 && strcmp(argv[1], "help") == 0;

	if (asked && argc > 2 && strcmp(argv[2], "help") != 0) {
		memmove(&argv[1], &argv[2], (size_t)(argc - 2) * sizeof(*argv));
		argv[argc - 1] = help;
	} else if (asked) {
		argv[1] = help;
	}
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "-h") == 0)
			argv[i] = help;
	}
}

/* However the program ends, also after --help: what was not written is no success. */
static void flush_at_exit(int code, void *user)
{
	int after = cli_flush_output(code);

	(void)user;
	if (after != code)
		_exit(after);
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse, .args_doc = "COMMAND [ARGUMENT...]", .doc = doc};
	static char top[] = "psgd", name[64];
	int at = 0;

	/* messages begin with the name that users type, wherever the program lies */
	argv[0] = top;
	on_exit(flush_at_exit, NULL);
	argp_err_exit_status = CLI_USAGE;
	argp_program_version_hook = print_version;
	spell_help(argc, argv);
	if (argc < 1 || argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &at))
		return CLI_USAGE;
	for (size_t i = 0; i < CLI_COUNT(commands); i++) {
		if (strcmp(argv[at], commands[i].name) != 0)
			continue;
		snprintf(name, sizeof(name), "psgd %s", commands[i].name);
		argv[at] = name;
		return commands[i].main(argc - at, argv + at);
	}
	return unknown_command(argv[at]);
}
