/*
 * psgd bench allreduce, in the manner of nccl-tests. Workers are threads of this process, each with
 * an endpoint of its own: whoever interrupts it leaves nothing behind.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/psgd.h>

#include "allreduce.h"
#include "bench.h"
#include "bench_team.h"

#define MAX_WORKERS 64

enum key { KEY_WORKERS = 256, KEY_TRANSPORT, KEY_JSON };

static const struct argp_option options[] = {
	{"workers", KEY_WORKERS, "N", 0, "Workers on this machine (2)", 0},
	{"transport", KEY_TRANSPORT, "NAME", 0,
		"gloo, over the loopback interface, or local (gloo)", 0},
	{"json", KEY_JSON, "FILE", 0, "Also writes the results to FILE", 0}, {0}};

static const char doc[] =
	"Times all-reduces of float sums, in place, between workers that are threads of this "
	"process.\v"
	"Without flags: -b 8 -e 128M -f 2 -n 20 -w 5.\n\n"
	"time is of one all-reduce, by the slowest worker. algbw is the message's bytes over it; "
	"busbw is algbw * 2 (n - 1) / n for n workers, which is what each of them must send at "
	"least, and can be compared with what a link carries. Both are in MB/s, 10^6 bytes a "
	"second. #wrong counts values, over all workers, that differ from the exact sum.";

struct arguments {
	struct cli_allreduce table;
	int64_t workers;
	const char *transport, *json;
};

struct bench {
	const struct arguments *arguments;
	struct cli_team team;
	struct psgd_transport transports[MAX_WORKERS];
	struct cli_allreduce_rows rows; /* of worker 0 */
};

/* ---- one worker ---- */

static psgd_status open_gloo(
	struct psgd_oob *oob, struct psgd_transport *transport, char *error, size_t error_bytes)
{
	struct psgd_gloo_options gloo = PSGD_INIT(psgd_gloo_options);

	gloo.oob = oob;
	gloo.error = error;
	gloo.error_bytes = error_bytes;
	return psgd_transport_gloo(&gloo, transport);
}

static void work(uint32_t number, void *user)
{
	struct bench *b = user;
	struct psgd_transport *transport = &b->transports[number];
	struct cli_team_member member = {&b->team, number};
	struct psgd_oob oob = cli_team_oob(&member);
	struct cli_allreduce_rows others;
	char error[CLI_TEAM_ERROR_BYTES] = "";
	psgd_status status = PSGD_OK;

	if (!transport->ops)
		status = open_gloo(&oob, transport, error, sizeof(error));
	if (status == PSGD_OK)
		status = cli_allreduce_run(&b->arguments->table, transport, &oob,
			number ? &others : &b->rows, error, sizeof(error));
	if (status == PSGD_OK)
		return;
	cli_team_fail(&b->team, status, error);
	if (transport->ops)
		transport->ops->abort(transport->self);
}

/* ---- all of them ---- */

static double average_busbw(const struct bench *b)
{
	double sum = 0;

	for (size_t i = 0; i < b->rows.n; i++)
		sum += b->rows.items[i].busbw;
	return b->rows.n ? sum / (double)b->rows.n : 0;
}

static json_t *to_json(const struct bench *b)
{
	const struct arguments *a = b->arguments;
	json_t *results = json_array();

	for (size_t i = 0; i < b->rows.n; i++) {
		const struct cli_allreduce_row *row = &b->rows.items[i];

		json_array_append_new(results,
			json_pack("{s:I, s:I, s:s, s:s, s:f, s:f, s:f, s:I}", "size_bytes",
				(json_int_t)(row->count * 4), "count", (json_int_t)row->count,
				"type", "float", "redop", "sum", "time_us", row->us,
				"algbw_mb_per_s", row->algbw, "busbw_mb_per_s", row->busbw,
				"n_wrong", (json_int_t)row->wrong));
	}
	return json_pack("{s:I, s:s, s:I, s:I, s:o, s:f}", "workers", (json_int_t)a->workers,
		"transport", a->transport, "iterations", (json_int_t)a->table.iterations, "warmup",
		(json_int_t)a->table.warmup, "results", results, "avg_busbw_mb_per_s",
		average_busbw(b));
}

static int exit_code(psgd_status status)
{
	return status == PSGD_ERR_UNSUPPORTED ? CLI_ENVIRONMENT : CLI_FAILED;
}

static int run_bench(struct bench *b)
{
	const struct arguments *a = b->arguments;
	psgd_status status = PSGD_OK;
	uint64_t wrong;

	if (strcmp(a->transport, "local") == 0)
		status = psgd_transport_local((uint32_t)a->workers, 0, b->transports);
	if (status == PSGD_OK) {
		printf("# %lld workers, transport %s; %lld all-reduces of each size after %lld to "
		       "warm up\n",
			(long long)a->workers, a->transport, (long long)a->table.iterations,
			(long long)a->table.warmup);
		status = cli_team_run(&b->team, (uint32_t)a->workers, work, b);
	}
	if (status < 0) {
		cli_complain_as(
			"bench", "%s", *b->team.error ? b->team.error : psgd_status_text(status));
		return exit_code(status);
	}
	printf("# Avg bus bandwidth    : %.2f MB/s\n", average_busbw(b));
	wrong = cli_allreduce_wrong(&b->rows);
	if (!wrong)
		return CLI_OK;
	cli_complain_as("bench", "%llu values are wrong", (unsigned long long)wrong);
	return CLI_FAILED;
}

/* ---- arguments ---- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case KEY_WORKERS:
		cli_bench_number("--workers", arg, 1, MAX_WORKERS, &a->workers, state);
		return 0;
	case KEY_TRANSPORT:
		if (strcmp(arg, "gloo") != 0 && strcmp(arg, "local") != 0)
			argp_error(state, "--transport: '%s' is none of gloo, local", arg);
		a->transport = arg;
		return 0;
	case KEY_JSON:
		a->json = arg;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': no argument is expected", arg);
		return 0;
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->table;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cli_bench_allreduce(int argc, char **argv)
{
	static const struct argp_child table[] = {{&cli_allreduce_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {
		.options = options, .parser = parse, .doc = doc, .children = table};
	struct arguments a = {.table = {8, INT64_C(128) << 20, 2, 20, 5, false},
		.workers = 2,
		.transport = "gloo"};
	struct bench b = {.arguments = &a};
	int code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	if (!cli_bench_writable(a.json))
		return CLI_ENVIRONMENT;
	code = run_bench(&b);
	if (code == CLI_OK && a.json) {
		json_t *root = to_json(&b);

		if (!cli_bench_write(root, a.json))
			code = CLI_ENVIRONMENT;
		json_decref(root);
	}
	for (int64_t k = 0; k < a.workers; k++)
		psgd_transport_destroy(&b.transports[k]);
	free(b.rows.items);
	return code;
}
