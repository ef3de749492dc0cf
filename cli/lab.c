/* psgd lab: several nodes on one machine. SPDX-License-Identifier: MIT */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "lab_run.h"
#include "net_limits.h"

/* ---- up ---- */

/* What a killed process left is removed; what is up is not. */
static int make_way(const char *name)
{
	struct lab lab;
	size_t n, ended;
	int code = lab_find(name, &lab);
	bool left_over = code == CLI_OK && lab_is_left_over(&lab);

	if (code == CLI_OK && lab.n && !left_over) {
		cli_complain_as("lab",
			"%s is up with %u node%s; psgd lab down --name %s removes it", name,
			lab_count_nodes(&lab), cli_plural(lab_count_nodes(&lab)), name);
		code = CLI_USAGE;
	}
	lab_free(&lab);
	return left_over ? lab_down(name, &n, &ended) : code;
}

static bool is_asked_to_end(void)
{
	sigset_t pending;

	return sigpending(&pending) == 0 &&
	       (sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1 ||
		       sigismember(&pending, SIGHUP) == 1);
}

/* All of it or nothing: a signal that asks for the end acts when it is undone. */
static int make_or_undo(const struct lab_plan *plan)
{
	struct cli_held held;
	size_t n, ended;
	int code;

	cli_hold_signals(&held);
	code = lab_up(plan);
	if (code == CLI_OK && is_asked_to_end())
		lab_down(plan->name, &n, &ended);
	cli_release_signals(&held);
	return code;
}

static int up(int argc, char **argv)
{
	static const char doc[] =
		"Makes N nodes on this machine: network namespaces NAME0, NAME1 ... with an "
		"interface eth0 and an address of the range, connected by a bridge in a namespace "
		"of its own, NAME-hub. The machine's own interfaces are not touched. `ip netns "
		"exec' works with the nodes, too.\v"
		"With limits each node is limited both ways by the kernel (tc), until a run with "
		"network_limits puts its own in their place. Needs root.";
	static const struct argp_child children[] = {{&lab_plan_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {.doc = doc, .children = children};
	struct lab_plan_flags flags = LAB_PLAN_FLAGS_INIT;
	struct lab_plan *plan = &flags.plan;
	char limits[128];
	int lock = -1, code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &flags) || !lab_check_plan(plan))
		return CLI_USAGE;
	plan->kept = true;
	code = lab_check_rights();
	if (code == CLI_OK)
		code = lab_lock(true, &lock);
	if (code == CLI_OK)
		code = make_way(plan->name);
	if (code == CLI_OK)
		code = make_or_undo(plan);
	if (lock >= 0)
		close(lock);
	if (code != CLI_OK)
		return code;
	cli_link_text(limits, sizeof(limits), &plan->link);
	printf("%s: %u node%s, %s0 to %s%u, %s, %s\n", plan->name, plan->n, cli_plural(plan->n),
		plan->name, plan->name, plan->n - 1,
		plan->macvlan ? "macvlan" : "veth pairs and a bridge",
		plan->limited ? limits : "not limited");
	return CLI_OK;
}

/* ---- flags of the others ---- */

enum key { KEY_NAME = 256, KEY_JSON, KEY_NPROC, KEY_DIR, KEY_OVERWRITE, KEY_RESUME, KEY_SMOKE };

static const struct argp_option name_option[] = {
	{"name", KEY_NAME, "NAME", 0, "Of the lab (lab)", 1}, {0}};

struct named {
	const char *name; /* NULL: not given */
	const char *node; /* of exec */
	bool json;
};

static error_t parse_name(int key, char *arg, struct argp_state *state)
{
	struct named *a = state->input;

	if (key != KEY_NAME)
		return ARGP_ERR_UNKNOWN;
	a->name = lab_check_name(state, arg);
	return 0;
}

/* ---- down ---- */

static int down(int argc, char **argv)
{
	static const char doc[] =
		"Ends the processes in the namespaces of a lab and removes it, also one that was "
		"left half made. Without one it does nothing.\vNeeds root.";
	static const struct argp argp = {.options = name_option, .parser = parse_name, .doc = doc};
	struct named a = {0};
	size_t n = 0, ended = 0;
	int lock = -1, code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	if (!a.name)
		a.name = LAB_DEFAULT_NAME;
	code = lab_check_rights();
	if (code == CLI_OK)
		code = lab_lock(false, &lock);
	if (code == CLI_OK)
		code = lab_down(a.name, &n, &ended);
	if (lock >= 0)
		close(lock);
	if (code == CLI_OK && n == 0)
		printf("%s: no such lab, nothing to do\n", a.name);
	else if (code == CLI_OK)
		printf("%s: %zu namespaces removed, %zu processes ended\n", a.name, n, ended);
	return code;
}

/* ---- status ---- */

static error_t parse_status(int key, char *arg, struct argp_state *state)
{
	struct named *a = state->input;

	if (key != KEY_JSON)
		return parse_name(key, arg, state);
	a->json = true;
	return 0;
}

static int status(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"name", KEY_NAME, "NAME", 0, "Only the lab of this name", 1},
		{"json", KEY_JSON, 0, 0, "As JSON", 1}, {0}};
	static const char doc[] =
		"Shows the labs of this machine: nodes, their addresses, what limits them, and the "
		"processes in them.\vNeeds root.";
	static const struct argp argp = {.options = options, .parser = parse_status, .doc = doc};
	struct named a = {0};
	int code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	code = lab_check_rights();
	return code == CLI_OK ? lab_status(a.name, a.json) : code;
}

/* ---- exec ---- */

static error_t parse_exec(int key, char *arg, struct argp_state *state)
{
	struct named *a = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (a->node)
			argp_error(state, "'%s' is too much: the command goes after --", arg);
		a->node = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->node)
			argp_error(state, "NODE is missing");
		return 0;
	default:
		return parse_name(key, arg, state);
	}
}

static int enter(const struct named *a, char **command)
{
	const char *name = a->name ? a->name : LAB_DEFAULT_NAME;
	const struct lab_space *space;
	char file[LAB_FILE_BYTES];
	struct lab lab;
	int64_t number;
	int code = lab_find(a->name, &lab);

	if (code != CLI_OK)
		return code;
	if (cli_parse_number(a->node, 0, LAB_MAX_NODES - 1, &number))
		lab_file(name, (int)number, file);
	else
		snprintf(file, sizeof(file), "%s", a->node);
	space = lab_node(&lab, file);
	if (space && space->fd >= 0) {
		code = lab_become(space, command);
	} else {
		cli_complain_as("lab",
			"there is no node '%s'; `psgd lab status' shows those that are up",
			a->node);
		code = CLI_USAGE;
	}
	lab_free(&lab);
	return code;
}

static int exec(int argc, char **argv)
{
	static const char doc[] =
		"Runs COMMAND in the network namespace of a node, with the node's /sys; its exit "
		"code is the command's. NODE is the name of a node, such as lab0, or its "
		"number.\vNeeds root.";
	static const struct argp argp = {.options = name_option,
		.parser = parse_exec,
		.args_doc = "NODE -- COMMAND [ARGUMENT...]",
		.doc = doc};
	struct named a = {0};
	char **command = lab_cut_command(&argc, argv);
	int code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	if (!command) {
		cli_complain_as(
			"lab exec", "the command is missing: psgd lab exec NODE -- COMMAND");
		return CLI_USAGE;
	}
	code = lab_check_rights();
	return code == CLI_OK ? enter(&a, command) : code;
}

/* ---- run ---- */

static error_t parse_run(int key, char *arg, struct argp_state *state)
{
	struct lab_run *run = state->input;

	switch (key) {
	case KEY_NPROC:
		run->n_workers = cli_number(state, "--nproc-per-node", arg, 1, 64);
		break;
	case KEY_DIR:
		run->dir = arg;
		break;
	case KEY_OVERWRITE:
		run->overwrite = true;
		break;
	case KEY_SMOKE:
		run->smoke = true;
		break;
	case KEY_RESUME:
		if (strcmp(arg, "auto") != 0)
			argp_error(state, "--resume: only auto, as each node has its own folders");
		run->resume = true;
		break;
	case ARGP_KEY_INIT:
		state->child_inputs[0] = run->flags;
		break;
	case ARGP_KEY_ARG:
		if (cli_is_override(arg))
			cli_strings_add(&run->overrides, "%s", arg);
		else if (!run->config)
			run->config = arg;
		else
			argp_error(state, "'%s' is not key=value (a trainer goes after --)", arg);
		break;
	case ARGP_KEY_END:
		if (!run->config)
			argp_error(state, "CONFIG is missing");
		if (run->resume && (run->overwrite || run->smoke))
			argp_error(state, "--resume keeps what %s removes",
				run->smoke ? "--smoke" : "--overwrite");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static int run(int argc, char **argv)
{
	static const struct argp_option options[] = {{.doc = "The run:", .group = 4},
		{"nproc-per-node", KEY_NPROC, "K", 0, "Workers of each node (1)", 4},
		{"dir", KEY_DIR, "FOLDER", 0, "Where the nodes have their folders (NAME)", 4},
		{"overwrite", KEY_OVERWRITE, 0, 0, "Replace an earlier run in the same folders", 4},
		{"resume", KEY_RESUME, "auto", 0, "Go on from the newest checkpoint", 4},
		{"smoke", KEY_SMOKE, 0, 0, "5 iterations in run folders that are removed", 4}, {0}};
	static const char doc[] =
		"Trains what CONFIG describes with a `psgd run' on each node, in folders of their "
		"own, FOLDER/node0 and so on: they share nothing but the network. Without a lab of "
		"that name one is made for the run, and removed at its end.\v"
		"Node 0 talks here, the others write to FOLDER/nodeN.log. Files that CONFIG names, "
		"CONFIG itself, COMMAND and the folder data are those of the folder where this is "
		"called. network_limits act on each node's eth0.\n\n"
		"The exit code is that of the node that failed first. Needs root.";
	static const struct argp_child children[] = {{&lab_plan_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {.options = options,
		.parser = parse_run,
		.args_doc = "CONFIG [key=value...] [-- COMMAND [ARGUMENT...]]",
		.doc = doc,
		.children = children};
	struct lab_plan_flags flags = LAB_PLAN_FLAGS_INIT;
	struct lab_run what = {.flags = &flags, .n_workers = 1};
	int code = CLI_USAGE;

	what.command = lab_cut_command(&argc, argv);
	if (argp_parse(&argp, argc, argv, 0, NULL, &what) == 0 && lab_check_plan(&flags.plan))
		code = lab_run(&what);
	cli_strings_free(&what.overrides);
	return code;
}

/* ---- the words ---- */

static const struct word {
	const char *name;
	int (*main)(int argc, char **argv);
} words[] = {{"up", up}, {"exec", exec}, {"run", run}, {"down", down}, {"status", status}};

static const char doc[] = "A lab: several nodes on this machine, each a network namespace, over "
			  "which runs talk as over "
			  "a real network.\v"
			  "What to do:\n"
			  "  up       make a lab\n"
			  "  exec     run a command on a node\n"
			  "  run      train with a `psgd run' on each node\n"
			  "  down     remove a lab, and what runs in it\n"
			  "  status   show the labs\n\n"
			  "`psgd lab WHAT --help' explains each. All need root.";

static const struct word *find(const char *name)
{
	for (size_t i = 0; i < CLI_COUNT(words); i++) {
		if (strcmp(words[i].name, name) == 0)
			return &words[i];
	}
	return NULL;
}

static error_t parse_word(int key, char *arg, struct argp_state *state)
{
	int *at = state->input;

	if (key == ARGP_KEY_ARG) {
		if (!find(arg))
			argp_error(state, "'%s' is none of up, exec, run, down, status", arg);
		*at = state->next - 1;
		state->next = state->argc;
		return 0;
	}
	if (key == ARGP_KEY_NO_ARGS)
		argp_error(state, "what to do is missing: up, exec, run, down or status");
	return ARGP_ERR_UNKNOWN;
}

int cli_lab(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse_word, .args_doc = "WHAT [ARGUMENT...]", .doc = doc};
	static char name[64];
	const struct word *word;
	int at = 0;

	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &at))
		return CLI_USAGE;
	word = find(argv[at]);
	snprintf(name, sizeof(name), "psgd lab %s", word->name);
	argv[at] = name;
	cli_normalize_flags(argc - at, argv + at);
	return word->main(argc - at, argv + at);
}
