/* psgd bench: times parts of the library on this machine. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/psgd.h>

#include "bench.h"

#define MAX_RANKS 32
#define MAX_RANK 1024
#define BUCKET_BYTES ((size_t)25 << 20)
#define WARMUP 2
#define LANES 16

enum key { KEY_MODEL = 256, KEY_RANKS, KEY_ITERATIONS, KEY_JSON };

static const struct argp_option options[] = {
	{"model", KEY_MODEL, "NAME", 0, "mlp, resnet18, resnet50 or vgg16 (resnet18)", 0},
	{"ranks", KEY_RANKS, "LIST", 0, "Matrix ranks, for example 1,2,4,8 (the default)", 0},
	{"iterations", KEY_ITERATIONS, "N", 0, "Timed iterations of each rank (10)", 0},
	{"json", KEY_JSON, "FILE", 0, "Also writes the results to FILE", 0}, {0}};

static const char doc[] =
	"Times the compression and decompression of a model's gradients by one worker, "
	"without a network: medians over the iterations.\v"
	"The floor is what this machine needs in the same run to move 28 bytes per value: three "
	"passes over the same memory that read and write as the compressor must, and compute "
	"next to nothing. over_floor = total_ms / floor_ms.";

struct arguments {
	const char *what, *model, *json;
	uint32_t ranks[MAX_RANKS];
	size_t n_ranks;
	int64_t iterations;
};

struct bench {
	const struct arguments *arguments;
	struct psgd_tensor *tensors;
	size_t n_tensors, n_values;
	struct psgd_grad *grads; /* in the order of a backward pass */
	struct psgd_bucket *buckets;
	size_t n_buckets;
	float *values, *errors;
	double *ms; /* of each iteration */
	double floor_ms;
	volatile float sink; /* keeps the floor's sums */
};

/* ---- memory ---- */

static void fill_gradients(struct bench *b, uint64_t step)
{
	uint64_t x = step * UINT64_C(0x9e3779b97f4a7c15) + 1;

	for (size_t i = 0; i < b->n_values; i++) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		b->values[i] = (float)(int32_t)(x >> 32) * 0x1p-38f;
	}
}

/* Buckets from the last tensor to the first, as a backward pass gives them. */
static void fill_buckets(struct bench *b)
{
	float *at = b->values;
	size_t bytes = 0;

	for (size_t i = 0; i < b->n_tensors; i++) {
		const struct psgd_tensor *tensor = &b->tensors[b->n_tensors - 1 - i];
		size_t count = (size_t)psgd_tensor_count(tensor);

		if (i == 0 || bytes >= BUCKET_BYTES) {
			b->buckets[b->n_buckets] = PSGD_INIT(psgd_bucket);
			b->buckets[b->n_buckets++].grads = b->grads + i;
			bytes = 0;
		}
		b->grads[i] = (struct psgd_grad){.id = tensor->id, .data = at};
		b->buckets[b->n_buckets - 1].n_grads++;
		bytes += count * sizeof(float);
		at += count;
	}
}

static bool prepare(struct bench *b)
{
	b->tensors = cli_bench_shapes(b->arguments->model, &b->n_tensors);
	if (!b->tensors)
		return false;
	for (size_t i = 0; i < b->n_tensors; i++)
		b->n_values += (size_t)psgd_tensor_count(&b->tensors[i]);
	b->grads = calloc(b->n_tensors, sizeof(*b->grads));
	b->buckets = calloc(b->n_tensors, sizeof(*b->buckets));
	b->values = calloc(b->n_values, sizeof(*b->values));
	b->errors = calloc(b->n_values, sizeof(*b->errors));
	b->ms = calloc((size_t)b->arguments->iterations, sizeof(*b->ms));
	if (!b->grads || !b->buckets || !b->values || !b->errors || !b->ms)
		return false;
	fill_buckets(b);
	return true;
}

static void release(struct bench *b)
{
	free(b->tensors);
	free(b->grads);
	free(b->buckets);
	free(b->values);
	free(b->errors);
	free(b->ms);
}

/* ---- timing ---- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), compare);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* g += e (12 bytes a value); a sum of g (4); e = g / 2, g -= e (12). */
static float floor_passes(float *restrict g, float *restrict e, size_t n)
{
	float lanes[LANES] = {0}, sum = 0;

	for (size_t i = 0; i < n; i++)
		g[i] += e[i];
	for (size_t i = 0; i + LANES <= n; i += LANES) {
		for (size_t l = 0; l < LANES; l++)
			lanes[l] += g[i + l];
	}
	for (size_t i = 0; i < n; i++) {
		float half = g[i] * 0.5f;

		e[i] = half;
		g[i] -= half;
	}
	for (size_t l = 0; l < LANES; l++)
		sum += lanes[l];
	return sum;
}

static void time_floor(struct bench *b)
{
	size_t n = (size_t)b->arguments->iterations;

	fill_gradients(b, 0);
	memset(b->errors, 0, b->n_values * sizeof(*b->errors));
	for (size_t i = 0; i < n + WARMUP; i++) {
		int64_t begin = cli_now_ns();

		b->sink = floor_passes(b->values, b->errors, b->n_values);
		if (i >= WARMUP)
			b->ms[i - WARMUP] = (double)(cli_now_ns() - begin) / 1e6;
	}
	b->floor_ms = median(b->ms, n);
}

/*
 * Runs an exchange to its end, which took *ns more. The only worker's sum is what is there: the
 * collectives that are handed out need no answer.
 */
static psgd_status drive(psgd_exchange **exchange, int64_t *ns)
{
	struct psgd_collective collective = PSGD_INIT(psgd_collective);
	int64_t begin = cli_now_ns();
	psgd_status status;

	do
		status = psgd_exchange_next(*exchange, &collective);
	while (status == PSGD_WANT_COLLECTIVE);
	*ns += cli_now_ns() - begin;
	psgd_exchange_end(exchange);
	return status == PSGD_PENDING ? PSGD_ERR_INTERNAL : status;
}

static psgd_status one_step(
	struct bench *b, psgd_session *session, struct psgd_report *report, int64_t *ns)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	psgd_exchange *exchange;
	psgd_status status = PSGD_OK;
	int64_t unused = 0;

	*ns = 0;
	for (size_t i = 0; i < b->n_buckets && status == PSGD_OK; i++) {
		status = psgd_exchange_begin(session, &b->buckets[i], NULL, &exchange);
		if (status == PSGD_OK)
			status = drive(&exchange, ns);
	}
	if (status == PSGD_OK)
		status = psgd_exchange_begin_finish(session, &info, report, &exchange);
	if (status == PSGD_OK)
		status = drive(&exchange, &unused);
	return status;
}

static psgd_status time_steps(struct bench *b, psgd_session *session, struct psgd_report *report)
{
	psgd_status status = PSGD_OK;
	size_t n = (size_t)b->arguments->iterations;

	for (size_t i = 0; i < n + WARMUP && status == PSGD_OK; i++) {
		int64_t ns;

		fill_gradients(b, i);
		status = one_step(b, session, report, &ns);
		if (i >= WARMUP)
			b->ms[i - WARMUP] = (double)ns / 1e6;
	}
	return status;
}

/* Rank 0 is the dense path. */
static psgd_status time_rank(
	struct bench *b, uint32_t rank, double *total_ms, struct psgd_report *report)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options session_options = PSGD_INIT(psgd_session_options);
	struct psgd_compressor compressor = {0};
	psgd_session *session = NULL;
	char error[512] = "";
	psgd_status status;

	powersgd.rank = rank;
	status = rank ? psgd_compressor_powersgd(&powersgd, &compressor)
		      : psgd_compressor_dense(&compressor);
	if (status != PSGD_OK)
		return status;
	session_options.compressor = &compressor;
	status = psgd_session_open(b->tensors, b->n_tensors, &session_options, &session);
	if (status == PSGD_OK) {
		status = time_steps(b, session, report);
		psgd_session_error(session, error, sizeof(error));
	}
	psgd_session_close(&session);
	psgd_compressor_destroy(&compressor);
	if (status == PSGD_OK)
		*total_ms = median(b->ms, (size_t)b->arguments->iterations);
	else
		cli_complain("bench: %s", *error ? error : psgd_status_text(status));
	return status;
}

/* ---- output ---- */

static void print_row(const struct bench *b, uint32_t rank, double total_ms,
	const struct psgd_report *report, json_t *results)
{
	double ratio = (double)report->raw_bytes /
		       (double)(report->payload_bytes ? report->payload_bytes : 1);
	char name[16] = "dense";

	if (rank)
		snprintf(name, sizeof(name), "r=%u", rank);
	printf("%-6s %10.3f %11.4f %14llu %9.1fx %10.3f %11.2f\n", name, total_ms,
		total_ms * 1e6 / (double)b->n_values, (unsigned long long)report->payload_bytes,
		ratio, b->floor_ms, total_ms / b->floor_ms);
	fflush(stdout);
	json_array_append_new(results,
		json_pack("{s:I,s:f,s:f,s:f,s:f,s:I,s:f}", "rank", (json_int_t)rank, "total_ms",
			total_ms, "ns_per_element", total_ms * 1e6 / (double)b->n_values,
			"floor_ms", b->floor_ms, "over_floor", total_ms / b->floor_ms,
			"payload_bytes", (json_int_t)report->payload_bytes, "ratio", ratio));
}

static int run_bench(struct bench *b, json_t *results)
{
	const struct arguments *a = b->arguments;

	if (!prepare(b)) {
		cli_complain("bench: out of memory");
		return CLI_FAILED;
	}
	printf("%s: %zu values in %zu tensors, %zu buckets; %lld iterations each\n", a->model,
		b->n_values, b->n_tensors, b->n_buckets, (long long)a->iterations);
	time_floor(b);
	printf("floor: %.2f GB/s\n", 28e-6 * (double)b->n_values / b->floor_ms);
	printf("%-6s %10s %11s %14s %10s %10s %11s\n", "rank", "total_ms", "ns/element",
		"payload_bytes", "ratio", "floor_ms", "over_floor");
	for (size_t i = 0; i < a->n_ranks; i++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		double total_ms = 0;

		if (time_rank(b, a->ranks[i], &total_ms, &report) != PSGD_OK)
			return CLI_FAILED;
		print_row(b, a->ranks[i], total_ms, &report, results);
	}
	return CLI_OK;
}

static bool parse_ranks(const char *text, struct arguments *a)
{
	char copy[256], *save = NULL;

	if ((size_t)snprintf(copy, sizeof(copy), "%s", text) >= sizeof(copy))
		return false;
	a->n_ranks = 0;
	for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		int64_t rank = 0;

		if (strcmp(word, "dense") != 0 && !cli_parse_number(word, 1, MAX_RANK, &rank))
			return false;
		if (a->n_ranks == MAX_RANKS)
			return false;
		a->ranks[a->n_ranks++] = (uint32_t)rank;
	}
	return a->n_ranks > 0;
}

static void check_model(const char *name, struct argp_state *state)
{
	for (size_t i = 0; cli_bench_models[i]; i++) {
		if (strcmp(name, cli_bench_models[i]) == 0)
			return;
	}
	argp_error(state, "--model: '%s' is none of mlp, resnet18, resnet50, vgg16", name);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case KEY_MODEL:
		check_model(arg, state);
		a->model = arg;
		return 0;
	case KEY_RANKS:
		if (!parse_ranks(arg, a))
			argp_error(state,
				"--ranks: '%s' is not a list of ranks from 1 to %d, or 'dense'",
				arg, MAX_RANK);
		return 0;
	case KEY_ITERATIONS:
		if (!cli_parse_number(arg, 1, 100000, &a->iterations))
			argp_error(state,
				"--iterations: '%s' is not a whole number from 1 to 100000", arg);
		return 0;
	case KEY_JSON:
		a->json = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (a->what || strcmp(arg, "compress") != 0)
			argp_error(state, "'%s': there is 'compress' only", arg);
		a->what = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->what)
			argp_error(state, "what to time is missing: compress");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cli_bench(int argc, char **argv)
{
	static const struct argp argp = {
		.options = options, .parser = parse, .args_doc = "compress", .doc = doc};
	struct arguments a = {
		.model = "resnet18", .ranks = {1, 2, 4, 8}, .n_ranks = 4, .iterations = 10};
	struct bench b = {.arguments = &a};
	json_t *root;
	int code;

	cli_normalize_flags(argc, argv);
	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	root = json_pack("{s:s,s:[]}", "model", a.model, "results");
	code = run_bench(&b, json_object_get(root, "results"));
	if (code == CLI_OK && a.json &&
		json_dump_file(root, a.json, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) < 0) {
		cli_complain("bench: %s: cannot write", a.json);
		code = CLI_ENVIRONMENT;
	}
	json_decref(root);
	release(&b);
	return code;
}
