/*
 * psgd bench allreduce, in the manner of nccl-tests. Workers are threads of this process, each with
 * an endpoint of its own: whoever interrupts it leaves nothing behind.
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/psgd.h>

#include "bench.h"
#include "bench_team.h"

#define MAX_WORKERS 64
#define MAX_BYTES (INT64_C(1) << 40)
#define PATTERN 251 /* values of the check are below it: their sums are exact */

enum key { KEY_WORKERS = 256, KEY_TRANSPORT, KEY_JSON };

static const struct argp_option options[] = {
	{"minbytes", 'b', "SIZE", 0, "Smallest message (8); K, M and G are powers of 1024", 0},
	{"maxbytes", 'e', "SIZE", 0, "Largest message (128M)", 0},
	{"stepfactor", 'f', "N", 0, "From one size to the next (2)", 0},
	{"iters", 'n', "N", 0, "Timed all-reduces of each size (20)", 0},
	{"warmup-iters", 'w', "N", 0, "All-reduces before them (5)", 0},
	{"workers", KEY_WORKERS, "N", 0, "Workers on this machine (2)", 0},
	{"transport", KEY_TRANSPORT, "NAME", 0,
		"gloo, over the loopback interface, or local (gloo)", 0},
	{"json", KEY_JSON, "FILE", 0, "Also writes the results to FILE", 0}, {0}};

static const char doc[] =
	"Times all-reduces of float sums, in place, between workers that are threads of this "
	"process.\v"
	"time is of one all-reduce, by the slowest worker. algbw is the message's bytes over it; "
	"busbw is algbw * 2 (n - 1) / n for n workers, which is what each of them must send at "
	"least, and can be compared with what a link carries. Both are in MB/s, 10^6 bytes a "
	"second. #wrong counts values, over all workers, that differ from the exact sum.";

struct arguments {
	int64_t min_bytes, max_bytes, factor, iterations, warmup, workers;
	const char *transport, *json;
};

struct row {
	int64_t count;
	double us, algbw, busbw;
	size_t wrong;
};

struct worker {
	struct bench *bench;
	struct psgd_transport transport;
	uint32_t number;
	float *data;
	double us;
	size_t wrong;
};

struct bench {
	const struct arguments *arguments;
	struct cli_team team;
	struct worker workers[MAX_WORKERS];
	struct row *rows; /* written by worker 0 */
	size_t n_rows;
};

/* ---- one worker ---- */

/* As in every worker; 0 to PATTERN - 1. */
static float pattern(size_t i, uint32_t worker)
{
	return (float)((i * 7 + (size_t)worker * 13) % PATTERN);
}

static psgd_status all_reduce(struct worker *w, int64_t count, uint64_t *tag)
{
	struct psgd_collective collective = PSGD_INIT(psgd_collective);
	void *request;
	psgd_status status;

	collective.kind = PSGD_ALLREDUCE_SUM;
	collective.dtype = PSGD_F32;
	collective.count = count;
	collective.data = w->data;
	collective.tag = ++*tag;
	status = w->transport.ops->post(w->transport.self, &collective, &request);
	if (status != PSGD_OK)
		return status;
	do
		status = w->transport.ops->test(
			w->transport.self, request, INT64_C(1000000000), NULL);
	while (status == PSGD_PENDING);
	return status;
}

static size_t count_wrong(const struct worker *w, int64_t count)
{
	uint32_t n = w->transport.n_workers;
	size_t wrong = 0;

	for (size_t i = 0; i < (size_t)count; i++) {
		float sum = 0;

		for (uint32_t k = 0; k < n; k++)
			sum += pattern(i, k);
		wrong += w->data[i] != sum;
	}
	return wrong;
}

/* Zeros are timed, so that a sum of sums stays what it is; then the pattern is summed once. */
static psgd_status run_size(struct worker *w, int64_t count, uint64_t *tag)
{
	const struct arguments *a = w->bench->arguments;
	psgd_status status = PSGD_OK;
	int64_t begin = 0;

	memset(w->data, 0, (size_t)count * sizeof(float));
	for (int64_t i = -a->warmup; i < a->iterations && status == PSGD_OK; i++) {
		if (i == 0) {
			status = cli_team_meet(&w->bench->team);
			begin = cli_now_ns();
		}
		if (status == PSGD_OK)
			status = all_reduce(w, count, tag);
	}
	w->us = (double)(cli_now_ns() - begin) / 1e3 / (double)a->iterations;
	for (size_t i = 0; i < (size_t)count; i++)
		w->data[i] = pattern(i, w->number);
	if (status == PSGD_OK)
		status = all_reduce(w, count, tag);
	if (status == PSGD_OK)
		w->wrong = count_wrong(w, count);
	return status;
}

static void print_row(const struct row *row)
{
	printf("%12lld %12lld %8s %6s %12.1f %10.2f %10.2f %8zu\n", (long long)row->count * 4,
		(long long)row->count, "float", "sum", row->us, row->algbw, row->busbw, row->wrong);
	fflush(stdout);
}

/* By worker 0, while the others wait. */
static void add_row(struct bench *b, int64_t count)
{
	double n = (double)b->arguments->workers;
	struct row *row = &b->rows[b->n_rows++];

	*row = (struct row){.count = count};
	for (int64_t k = 0; k < b->arguments->workers; k++) {
		if (b->workers[k].us > row->us)
			row->us = b->workers[k].us;
		row->wrong += b->workers[k].wrong;
	}
	row->algbw = (double)count * sizeof(float) / row->us;
	row->busbw = row->algbw * 2 * (n - 1) / n;
	print_row(row);
}

/* The next size, or 0. */
static int64_t next_bytes(const struct arguments *a, int64_t bytes)
{
	return bytes > a->max_bytes / a->factor ? 0 : bytes * a->factor;
}

static psgd_status run_sizes(struct worker *w)
{
	struct bench *b = w->bench;
	psgd_status status = PSGD_OK;
	uint64_t tag = 0;

	for (int64_t bytes = b->arguments->min_bytes; bytes && status == PSGD_OK;
		bytes = next_bytes(b->arguments, bytes)) {
		int64_t count = bytes / (int64_t)sizeof(float);

		status = run_size(w, count, &tag);
		if (status == PSGD_OK)
			status = cli_team_meet(&b->team);
		if (status == PSGD_OK && w->number == 0)
			add_row(b, count);
		if (status == PSGD_OK)
			status = cli_team_meet(&b->team);
	}
	return status;
}

static psgd_status open_gloo(struct worker *w, char *error, size_t error_bytes)
{
	struct psgd_gloo_options gloo = PSGD_INIT(psgd_gloo_options);
	struct cli_team_member member = {&w->bench->team, w->number};
	struct psgd_oob oob = cli_team_oob(&member);

	gloo.oob = &oob;
	gloo.error = error;
	gloo.error_bytes = error_bytes;
	return psgd_transport_gloo(&gloo, &w->transport);
}

static void work(uint32_t number, void *user)
{
	struct bench *b = user;
	struct worker *w = &b->workers[number];
	char error[CLI_TEAM_ERROR_BYTES] = "";
	psgd_status status = PSGD_OK;

	if (!w->transport.ops)
		status = open_gloo(w, error, sizeof(error));
	if (status == PSGD_OK) {
		status = run_sizes(w);
		if (status < 0)
			w->transport.ops->error(w->transport.self, error, sizeof(error));
	}
	if (status < 0) {
		cli_team_fail(&b->team, status, error);
		if (w->transport.ops)
			w->transport.ops->abort(w->transport.self);
	}
}

/* ---- all of them ---- */

static psgd_status prepare(struct bench *b)
{
	const struct arguments *a = b->arguments;
	struct psgd_transport local[MAX_WORKERS] = {{0}};
	size_t n_rows = 0;

	for (int64_t bytes = a->min_bytes; bytes; bytes = next_bytes(a, bytes))
		n_rows++;
	b->rows = calloc(n_rows, sizeof(*b->rows));
	if (!b->rows)
		return PSGD_ERR_NOMEM;
	for (uint32_t k = 0; k < (uint32_t)a->workers; k++) {
		b->workers[k] = (struct worker){.bench = b, .number = k};
		b->workers[k].data = malloc((size_t)a->max_bytes);
		if (!b->workers[k].data)
			return PSGD_ERR_NOMEM;
	}
	if (strcmp(a->transport, "local") == 0) {
		psgd_status status = psgd_transport_local((uint32_t)a->workers, 0, local);

		if (status < 0)
			return status;
	}
	for (uint32_t k = 0; k < (uint32_t)a->workers; k++)
		b->workers[k].transport = local[k];
	return PSGD_OK;
}

static double average_busbw(const struct bench *b)
{
	double sum = 0;

	for (size_t i = 0; i < b->n_rows; i++)
		sum += b->rows[i].busbw;
	return b->n_rows ? sum / (double)b->n_rows : 0;
}

static void print_head(const struct arguments *a)
{
	printf("# %lld workers, transport %s; %lld all-reduces of each size after %lld to warm "
	       "up\n",
		(long long)a->workers, a->transport, (long long)a->iterations,
		(long long)a->warmup);
	printf("#%11s %12s %8s %6s %12s %10s %10s %8s\n", "size", "count", "type", "redop", "time",
		"algbw", "busbw", "#wrong");
	printf("#%11s %12s %8s %6s %12s %10s %10s %8s\n", "(B)", "(values)", "", "", "(us)",
		"(MB/s)", "(MB/s)", "");
	fflush(stdout);
}

static json_t *to_json(const struct bench *b)
{
	const struct arguments *a = b->arguments;
	json_t *results = json_array();

	for (size_t i = 0; i < b->n_rows; i++) {
		const struct row *row = &b->rows[i];

		json_array_append_new(results,
			json_pack("{s:I, s:I, s:s, s:s, s:f, s:f, s:f, s:I}", "size_bytes",
				(json_int_t)(row->count * 4), "count", (json_int_t)row->count,
				"type", "float", "redop", "sum", "time_us", row->us,
				"algbw_mb_per_s", row->algbw, "busbw_mb_per_s", row->busbw,
				"n_wrong", (json_int_t)row->wrong));
	}
	return json_pack("{s:I, s:s, s:I, s:I, s:o, s:f}", "workers", (json_int_t)a->workers,
		"transport", a->transport, "iterations", (json_int_t)a->iterations, "warmup",
		(json_int_t)a->warmup, "results", results, "avg_busbw_mb_per_s", average_busbw(b));
}

static int exit_code(psgd_status status)
{
	return status == PSGD_ERR_UNSUPPORTED ? CLI_ENVIRONMENT : CLI_FAILED;
}

static int run_bench(struct bench *b)
{
	const struct arguments *a = b->arguments;
	psgd_status status = prepare(b);
	size_t wrong = 0;

	if (status == PSGD_OK) {
		print_head(a);
		status = cli_team_run(&b->team, (uint32_t)a->workers, work, b);
	}
	if (status < 0) {
		cli_complain(
			"bench: %s", *b->team.error ? b->team.error : psgd_status_text(status));
		return exit_code(status);
	}
	printf("# Avg bus bandwidth    : %.2f MB/s\n", average_busbw(b));
	for (size_t i = 0; i < b->n_rows; i++)
		wrong += b->rows[i].wrong;
	if (!wrong)
		return CLI_OK;
	cli_complain("bench: %zu values are wrong", wrong);
	return CLI_FAILED;
}

static void release(struct bench *b)
{
	for (int64_t k = 0; k < b->arguments->workers; k++) {
		psgd_transport_destroy(&b->workers[k].transport);
		free(b->workers[k].data);
	}
	free(b->rows);
}

/* ---- arguments ---- */

/* "8", "64K", "128M", "1G". */
static bool parse_bytes(const char *text, int64_t *out)
{
	static const char units[] = "KMG";
	size_t n = strlen(text);
	char digits[24];
	const char *unit = n ? strchr(units, text[n - 1]) : NULL;
	int shift = unit ? 10 * (int)(unit - units + 1) : 0;

	if (n == 0 || n >= sizeof(digits))
		return false;
	snprintf(digits, sizeof(digits), "%.*s", (int)(n - (unit != NULL)), text);
	if (!cli_parse_number(digits, 1, MAX_BYTES >> shift, out))
		return false;
	*out <<= shift;
	return *out >= (int64_t)sizeof(float);
}

static void take_bytes(const char *flag, const char *text, int64_t *out, struct argp_state *state)
{
	if (!parse_bytes(text, out))
		argp_error(state, "%s: '%s' is not a size from 4 to 1024G, such as 8, 64K or 128M",
			flag, text);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case 'b':
		take_bytes("-b", arg, &a->min_bytes, state);
		return 0;
	case 'e':
		take_bytes("-e", arg, &a->max_bytes, state);
		return 0;
	case 'f':
		cli_bench_number("-f", arg, 2, 1024, &a->factor, state);
		return 0;
	case 'n':
		cli_bench_number("-n", arg, 1, 1000000, &a->iterations, state);
		return 0;
	case 'w':
		cli_bench_number("-w", arg, 0, 1000000, &a->warmup, state);
		return 0;
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
	case ARGP_KEY_END:
		if (a->min_bytes > a->max_bytes)
			argp_error(state, "-b is above -e");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cli_bench_allreduce(int argc, char **argv)
{
	static const struct argp argp = {.options = options, .parser = parse, .doc = doc};
	struct arguments a = {.min_bytes = 8,
		.max_bytes = INT64_C(128) << 20,
		.factor = 2,
		.iterations = 20,
		.warmup = 5,
		.workers = 2,
		.transport = "gloo"};
	struct bench b = {.arguments = &a};
	int code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	code = run_bench(&b);
	if (code == CLI_OK && a.json) {
		json_t *root = to_json(&b);

		if (!cli_bench_write(root, a.json))
			code = CLI_ENVIRONMENT;
		json_decref(root);
	}
	release(&b);
	return code;
}
