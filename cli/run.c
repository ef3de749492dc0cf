/* psgd run: starts and supervises the workers of this node. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <psgd/experiment/stack.h>

#include "net_limits.h"
#include "run.h"

enum key {
	KEY_OVERWRITE = 256,
	KEY_RESUME,
	KEY_DRY_RUN,
	KEY_SMOKE,
	KEY_BENCHMARK,
	KEY_NETWORK_TEST,
	KEY_CONFIG
};

static const struct argp_option options[] = {{.doc = "The run:", .group = 4},
	{"config", KEY_CONFIG, "FILE", 0, "The same as CONFIG", 4},
	{"overwrite", KEY_OVERWRITE, 0, 0,
		"Replace an earlier run in the same folder; with --resume, what a finished run did "
		"after that checkpoint",
		4},
	{"resume", KEY_RESUME, "auto|PATH", 0,
		"Go on from the newest checkpoint that all workers hold; PATH: of that run folder, "
		"or that one",
		4},
	{"dry-run", KEY_DRY_RUN, 0, 0, "Print what would be done; touch nothing", 4},
	{"smoke", KEY_SMOKE, 0, 0,
		"5 iterations, compressed as the run will be, in a folder that is removed after "
		"success",
		4},
	{"network-test", KEY_NETWORK_TEST, 0, 0, "Time all-reduces in place of training", 4},
	{"benchmark", KEY_BENCHMARK, 0, 0, "Accepted: the CSV per iteration is always written", 4},
	{0}};

static const char doc[] =
	"Trains what CONFIG describes: starts this node's workers, shows their progress and says "
	"which one failed first.\v"
	"key=value changes a key of the configuration, for example training.epochs=3. COMMAND is "
	"the trainer, psgd-train-image if none is given. A worker writes to "
	"RUN_FOLDER/workerN.log.\n\n"
	"Without identity flags the variables of psgd (PSGD_*), torchrun, Open MPI, Hydra or Slurm "
	"say which worker this is.\n\n"
	"Exit codes: 0 ok, 1 run failed, 2 usage or configuration, 3 peer lost (also when a worker "
	"of this node was killed and the others named it), 4 timeout, 5 environment, 128 + N ended "
	"by signal N.";

struct arguments {
	struct cli_place place;
	const char *config, *resume;
	struct cli_strings overrides;
	unsigned run_begins; /* to compress, whatever a smoke test does */
	bool overwrite, dry_run, smoke, network_test;
};

static void positional(struct arguments *a, char *arg, struct argp_state *state)
{
	if (cli_is_override(arg))
		cli_strings_add(&a->overrides, "%s", arg);
	else if (!a->config)
		a->config = arg;
	else
		argp_error(state, "'%s' is not key=value (a trainer goes after --)", arg);
}

/* A flag that says something about a run; NULL if none is given. */
static const char *other_than_test(const struct arguments *a)
{
	if (a->dry_run)
		return "--dry-run";
	if (a->smoke)
		return "--smoke";
	if (a->resume)
		return "--resume";
	return a->overwrite ? "--overwrite" : NULL;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case KEY_OVERWRITE:
		a->overwrite = true;
		break;
	case KEY_RESUME:
		if (!*arg)
			argp_error(state, "--resume: expected auto, a run folder or a checkpoint");
		a->resume = arg;
		break;
	case KEY_DRY_RUN:
		a->dry_run = true;
		break;
	case KEY_SMOKE:
		a->smoke = true;
		break;
	case KEY_NETWORK_TEST:
		a->network_test = true;
		break;
	case KEY_BENCHMARK:
		break;
	case KEY_CONFIG:
		if (a->config)
			argp_error(state, "--config: there is already '%s'", a->config);
		a->config = arg;
		break;
	case ARGP_KEY_ARG:
		positional(a, arg, state);
		break;
	case ARGP_KEY_END:
		if (!a->config)
			argp_error(state, "CONFIG is missing");
		if (a->resume && (a->smoke || (a->overwrite && !cli_names_checkpoint(a->resume))))
			argp_error(state, "--resume keeps what %s removes",
				a->smoke ? "--smoke" : "--overwrite");
		if (a->network_test && other_than_test(a))
			argp_error(state, "--network-test makes no run; %s has no meaning with it",
				other_than_test(a));
		break;
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->place;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* Arguments up to "--", and the command after it. */
static bool read_arguments(int argc, char **argv, struct arguments *a, char ***command)
{
	static const struct argp_child place[] = {{&cli_place_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {.options = options,
		.parser = parse,
		.args_doc = "CONFIG [key=value...] [-- COMMAND [ARGUMENT...]]",
		.doc = doc,
		.children = place};
	int n = argc;

	*a = (struct arguments){.place = CLI_PLACE_INIT};
	cli_normalize_flags(argc, argv);
	for (n = 1; n < argc && strcmp(argv[n], "--") != 0; n++)
		;
	*command = n + 1 < argc ? argv + n + 1 : NULL;
	if (argp_parse(&argp, n, argv, 0, NULL, a))
		return false;
	if (a->place.ifname)
		cli_strings_add(&a->overrides, "communication.interface=%s", a->place.ifname);
	if (a->smoke)
		cli_smoke_overrides(&a->overrides);
	return true;
}

/* What the configuration has that does nothing. */
static void print_notices(const struct psgd_config *config)
{
	for (const char *at = psgd_config_notices(config); *at;) {
		int n = (int)strcspn(at, "\n");

		printf("note: %.*s\n", n, at);
		at += n + (at[n] != '\0');
	}
}

static int dry_run(const struct cli_job *job)
{
	char *yaml = NULL;
	psgd_status status = psgd_config_yaml(job->config, &yaml);

	if (status != PSGD_OK) {
		cli_complain("%s", psgd_status_text(status));
		return psgd_exit_code(status);
	}
	printf("run folder: %s\n", job->run_dir);
	cli_limits_print_commands(job->limits);
	for (size_t i = 0; i < job->n_workers; i++) {
		struct cli_strings settings = {0};

		cli_worker_settings(job, i, -1, &settings);
		printf("worker %u:\n  command:", job->workers[i].worker);
		for (char **word = job->command; *word; word++)
			printf(" %s", *word);
		printf("\n  environment:\n");
		for (size_t s = 0; s < settings.n; s++)
			printf("    %s\n", settings.items[s]);
		cli_strings_free(&settings);
	}
	printf("configuration:\n%s", yaml);
	free(yaml);
	return CLI_OK;
}

static int supervise(const struct cli_job *job, bool smoke)
{
	struct cli_progress *progress = cli_progress_new();
	char reason[1024] = "", summary[128], seen[PATH_MAX];
	int64_t begin = cli_now_ns();
	struct cli_status status;
	int code;

	cli_status_begin(job, &status);
	code = cli_supervise(job, progress, reason, sizeof(reason));
	cli_remove_configs(job);
	/* A trainer of another's may have no checkpoints. */
	if (code == CLI_OK && smoke && !job->foreign)
		code = cli_smoke_read_back(job);
	cli_status_end(job, &status, code, reason);
	if (code == CLI_OK) {
		cli_progress_summary(progress, summary, sizeof(summary));
		printf("finished: %s, %s%.1f s\n",
			smoke ? "smoke test" : cli_seen_path(job->run_dir, seen), summary,
			(double)(cli_now_ns() - begin) / 1e9);
		if (smoke)
			cli_remove_tree(job->run_dir);
	}
	cli_progress_free(progress);
	return code;
}

/* The folder that the command line gives; NULL: none. */
static const char *given_save_dir(const struct arguments *a, const struct psgd_config *config)
{
	static const char key[] = "save_dir=";

	for (size_t i = 0; i < a->overrides.n; i++) {
		if (strncmp(a->overrides.items[i], key, sizeof(key) - 1) == 0)
			return config->save_dir;
	}
	return NULL;
}

static int decide(const struct arguments *a, char **command, struct cli_job *job)
{
	static char trainer[PATH_MAX];
	static char *default_command[] = {trainer, NULL};
	size_t length;
	int code = cli_find_workers(&a->place.identity, &job->workers, &job->n_workers);

	if (code != CLI_OK)
		return code;
	job->resume = a->resume;
	code = cli_choose_run_dir(job, given_save_dir(a, job->config));
	if (code != CLI_OK)
		return code;
	length = strlen(job->run_dir);
	if (a->smoke)
		snprintf(job->run_dir + length, sizeof(job->run_dir) - length, ".smoke");
	job->source = a->config;
	job->overwrite = (a->overwrite && !a->resume) || a->smoke;
	job->token_file = a->place.token_file;
	job->rdzv_timeout = a->place.rdzv_timeout;
	job->command = command ? command : default_command;
	job->foreign = command != NULL;
	if (!command && !cli_find_trainer(trainer, sizeof(trainer))) {
		cli_complain("no trainer: psgd-train-image is neither beside psgd nor in PATH; "
			     "name one after --");
		return CLI_ENVIRONMENT;
	}
	return CLI_OK;
}

/* Cut when it is very long. argv[0] is "psgd run". */
static void keep_command_line(int argc, char **argv, struct cli_job *job)
{
	size_t used = 0;

	for (int i = 0; i < argc && used < sizeof(job->command_line); i++) {
		int n = snprintf(job->command_line + used, sizeof(job->command_line) - used, "%s%s",
			i ? " " : "", argv[i]);

		used += n > 0 ? (size_t)n : 0;
	}
}

/* What is decided is said; then it is done. */
static int run(struct cli_job *job, const struct psgd_config *given, const struct arguments *a)
{
	struct cli_hold hold = CLI_HOLD_INIT;
	int code;

	setvbuf(stdout, NULL, _IOLBF, 0);
	cli_print_workers(job->workers, job->n_workers);
	cli_limits_print(job->limits, job->config, job->foreign);
	if (a->smoke)
		cli_smoke_print(job->config, a->run_begins);
	print_notices(given);
	if (a->dry_run)
		return dry_run(job);
	code = cli_refuse_finished(job, a->overwrite || a->smoke);
	if (code == CLI_OK)
		code = cli_check_interface(job->config, a->place.ifname);
	if (code == CLI_OK)
		code = cli_check_cuda(job);
	if (code == CLI_OK)
		code = cli_prepare_folder(job, &hold);
	if (code == CLI_OK) {
		cli_limits_tidy(job->limits);
		code = supervise(job, a->smoke);
	}
	cli_hold_release(job->run_dir, &hold);
	return code;
}

/* *config is to be freed in any case. */
static psgd_status load(
	struct arguments *a, struct psgd_config **config, char *error, size_t error_bytes)
{
	psgd_status status = psgd_config_load(a->config, (const char *const *)a->overrides.items,
		a->overrides.n, config, error, error_bytes);

	if (status != PSGD_OK)
		return status;
	a->run_begins = (*config)->compression.start_power_iterations;
	if (!a->smoke || !cli_smoke_hasten(*config, &a->overrides))
		return PSGD_OK;
	psgd_config_free(config);
	return psgd_config_load(a->config, (const char *const *)a->overrides.items, a->overrides.n,
		config, error, error_bytes);
}

int cli_run(int argc, char **argv)
{
	struct arguments a;
	struct cli_job job = {0};
	struct cli_limits limits;
	struct psgd_config *config = NULL, *resolved = NULL;
	char error[CLI_ERROR_BYTES] = "", **command;
	psgd_status status;
	int code = CLI_USAGE;

	keep_command_line(argc, argv, &job);
	if (!read_arguments(argc, argv, &a, &command))
		goto out;
	status = load(&a, &config, error, sizeof(error));
	if (status != PSGD_OK) {
		fprintf(stderr, "%s\n", *error ? error : psgd_status_text(status));
		goto out;
	}
	if (a.network_test) {
		code = cli_net_test(&a.place, config);
		goto out;
	}
	job.config = config;
	code = decide(&a, command, &job);
	if (code == CLI_OK)
		code = cli_limits_resolve(
			config, a.place.ifname, job.workers, job.n_workers, &limits, &resolved);
	if (code != CLI_OK)
		goto out;
	job.config = resolved ? resolved : config;
	job.limits = &limits;
	code = run(&job, config, &a);
out:
	free(job.workers);
	psgd_config_free(&resolved);
	psgd_config_free(&config);
	cli_strings_free(&a.overrides);
	return code;
}
