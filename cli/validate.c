/* psgd validate: checks configurations and says what they would send. SPDX-License-Identifier: MIT
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

#include <psgd/psgd.h>

#include "cli.h"

enum key { KEY_JSON = 256, KEY_TRAINER, KEY_WORLD_SIZE, KEY_COMPUTE };

static const struct argp_option options[] = {{"json", KEY_JSON, 0, 0, "Print JSON", 0},
	{"trainer", KEY_TRAINER, "COMMAND", 0,
		"Asks COMMAND --tensors FILE for the model's tensors (psgd-train-image)", 0},
	{"compute-ms", KEY_COMPUTE, "X", 0,
		"Compute time of a step, forward and backward: predicts steps on the link", 0},
	{"world-size", KEY_WORLD_SIZE, "W", 0, "Number of workers to plan for (2)", 0}, {0}};

static const char doc[] =
	"Checks configurations strictly and shows, for every rank that they may use, the bytes of "
	"an iteration, how many times smaller than the gradients they are, the memory that a "
	"worker "
	"needs for them, and the time on the configured link.\v"
	"key=value changes a key of all files. The exit code is that of the first file that "
	"is not good: 0 all are good, 2 a configuration, 1 the trainer failed, 5 the environment.";

struct arguments {
	struct cli_strings files, overrides;
	struct cli_plan_options plan;
	bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	int64_t value;
	char *end;

	switch (key) {
	case KEY_JSON:
		a->json = true;
		return 0;
	case KEY_TRAINER:
		a->plan.trainer = arg;
		return 0;
	case KEY_COMPUTE:
		a->plan.compute_ms = strtod(arg, &end);
		if (end == arg || *end || !(a->plan.compute_ms > 0 && a->plan.compute_ms <= 1e9))
			argp_error(state, "--compute-ms: '%s' is not a number above 0", arg);
		return 0;
	case KEY_WORLD_SIZE:
		if (!cli_parse_number(arg, 1, 4096, &value))
			argp_error(state, "--world-size: '%s' is not a whole number from 1 to 4096",
				arg);
		else
			a->plan.n_workers = (uint32_t)value;
		return 0;
	case ARGP_KEY_ARG:
		cli_strings_add(cli_is_override(arg) ? &a->overrides : &a->files, "%s", arg);
		return 0;
	case ARGP_KEY_END:
		if (a->files.n == 0)
			argp_error(state, "FILE is missing");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static json_int_t integer(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static void print_limit(const char *name, double mbps)
{
	if (mbps > 0)
		printf(", %s %g Mbit/s", name, mbps);
	else
		printf(", %s unlimited", name);
}

static void print_link(const struct psgd_config *config, json_int_t workers)
{
	const struct psgd_config_network *net = &config->network_limits;

	printf("  %lld worker%s", (long long)workers, cli_plural(workers));
	if (net->enable) {
		print_limit("out", net->egress_mbps);
		print_limit("in", net->ingress_mbps);
		printf(", delay %g ms", net->latency_ms);
	} else {
		printf(", no limit on the link");
	}
	putchar('\n');
}

static double real(const json_t *object, const char *key)
{
	return json_real_value(json_object_get(object, key));
}

/* Times and memory of a rank, as far as they are known. */
static void print_row(const json_t *row, long long matrices, bool limited, bool predicted)
{
	char rank[32] = "dense", compressed[32], wire[32] = "-", memory[32];
	json_int_t bytes = integer(row, "error_bytes") + integer(row, "q_bytes") +
			   integer(row, "message_bytes");

	if (integer(row, "rank") > 0)
		snprintf(rank, sizeof(rank), "r=%lld", (long long)integer(row, "rank"));
	snprintf(compressed, sizeof(compressed), "%lld/%lld",
		(long long)integer(row, "compressed_matrices"), matrices);
	if (limited)
		snprintf(wire, sizeof(wire), "%.2f", real(row, "wire_ms"));
	printf("  %-6s %10s %16lld %8.1fx %18s %10s", rank, compressed,
		(long long)integer(row, "payload_bytes"), real(row, "ratio"), wire,
		cli_bytes_text(memory, sizeof(memory), (double)bytes));
	if (predicted)
		printf(" %10.2f %7.1f %%", real(row, "step_ms"), 100 * real(row, "exposed_share"));
	putchar('\n');
}

static void print_plan(const struct psgd_config *config, const json_t *plan)
{
	bool limited = json_is_true(json_object_get(plan, "link_limited"));
	bool predicted = limited && json_is_real(json_object_get(plan, "compute_ms"));
	long long parameters = integer(plan, "parameters"), matrices = integer(plan, "matrices");
	long long dense = integer(plan, "tensors") - matrices, buckets = integer(plan, "buckets");
	long long dense_steps = integer(plan, "dense_steps");
	const json_t *row;
	size_t i;

	printf("  %s: %lld parameter%s, %lld %s, %lld dense tensor%s, %lld bucket%s\n",
		config->model.name, parameters, cli_plural(parameters), matrices,
		matrices == 1 ? "matrix" : "matrices", dense, cli_plural(dense), buckets,
		cli_plural(buckets));
	print_link(config, integer(plan, "workers"));
	printf("  rank control: %s\n", json_string_value(json_object_get(plan, "rank_control")));
	if (dense_steps == 1)
		printf("  the first step is dense\n");
	else if (dense_steps > 1)
		printf("  the first %lld steps are dense\n", dense_steps);
	if (integer(plan, "sync_bytes") > 0)
		printf("  SyncBatchNorm: at most %lld bytes more in a step, not in these times\n",
			(long long)integer(plan, "sync_bytes"));
	json_array_foreach(json_object_get(plan, "notices"), i, row)
		printf("  note: %s\n", json_string_value(row));
	printf("  %-6s %10s %16s %9s %18s %10s", "rank", "compressed", "bytes/iteration", "ratio",
		"wire ms/iteration", "memory");
	if (predicted)
		printf(" %10s %9s", "step ms", "exposed");
	putchar('\n');
	json_array_foreach(json_object_get(plan, "ranks"), i, row)
		print_row(row, matrices, limited, predicted);
}

/* One file. Its lines, or its entry in results. */
static int check(const char *file, const struct arguments *a, json_t *results)
{
	char error[CLI_ERROR_BYTES] = "";
	struct psgd_config *config = NULL;
	json_t *entry = json_object(), *plan = NULL;
	psgd_status status = psgd_config_load(file, (const char *const *)a->overrides.items,
		a->overrides.n, &config, error, sizeof(error));
	int code = CLI_USAGE;

	if (status == PSGD_OK) {
		plan = cli_plan(config, &a->plan, &code, error, sizeof(error));
		if (plan)
			code = CLI_OK;
	} else if (!*error) {
		snprintf(error, sizeof(error), "%s: %s", file, psgd_status_text(status));
	}
	json_object_set_new(entry, "file", json_string(file));
	json_object_set_new(entry, "ok", json_boolean(code == CLI_OK));
	if (plan)
		json_object_set_new(entry, "plan", plan);
	else
		json_object_set_new(entry, "error", json_string(error));
	json_array_append_new(results, entry);
	if (!a->json && code == CLI_OK)
		printf("%s: ok\n", file);
	if (!a->json && plan)
		print_plan(config, plan);
	else if (!plan && status == PSGD_OK)
		fprintf(stderr, "%s: %s\n", file, error);
	else if (!plan)
		fprintf(stderr, "%s\n", error);
	psgd_config_free(&config);
	return code;
}

int cli_validate(int argc, char **argv)
{
	static const struct argp argp = {.options = options,
		.parser = parse,
		.args_doc = "FILE... [key=value...]",
		.doc = doc};
	struct arguments a = {.plan.n_workers = 2};
	json_t *results = json_array();
	int code = CLI_OK;

	cli_normalize_flags(argc, argv);
	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	for (size_t i = 0; i < a.files.n; i++) {
		int one = check(a.files.items[i], &a, results);

		if (code == CLI_OK)
			code = one;
	}
	if (a.json) {
		json_t *root = json_pack("{s:O}", "files", results);

		json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
		putchar('\n');
		json_decref(root);
	}
	json_decref(results);
	cli_strings_free(&a.files);
	cli_strings_free(&a.overrides);
	return code;
}
