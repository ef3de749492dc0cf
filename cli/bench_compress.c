/* psgd bench compress. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <psgd/psgd.h>

#include "bench.h"

#define MAX_RANKS 32
#define MAX_RANK 1024
#define MAX_THREADS 1024
/* Of a CUDA device: larger than what any of them has. */
#define CUDA_CACHE_BYTES ((size_t)128 << 20)

enum key {
	KEY_MODEL = 256,
	KEY_RANKS,
	KEY_DEVICE,
	KEY_ORDINAL,
	KEY_THREADS,
	KEY_ISA,
	KEY_ITERATIONS,
	KEY_JSON
};

static const struct argp_option flags[] = {
	{"model", KEY_MODEL, "NAME", 0, "mlp, resnet18, resnet50, vgg16 or gpt2 (resnet18)", 0},
	{"ranks", KEY_RANKS, "LIST", 0, "Matrix ranks, or dense (1,2,4,8,16,32)", 0},
	{"device", KEY_DEVICE, "cpu|cuda", 0, "What computes (cpu)", 0},
	{"ordinal", KEY_ORDINAL, "N", 0, "Which CUDA device (0)", 0},
	{"threads", KEY_THREADS, "K", 0, "Threads of the worker (1)", 0},
	{"isa", KEY_ISA, "NAME", 0, "Kernels: plain, avx2, avx512 or auto, the best (auto)", 0},
	{"iterations", KEY_ITERATIONS, "N", 0, "Timed steps of each rank (20)", 0},
	{"json", KEY_JSON, "FILE", 0, "Also writes the results to FILE", 0}, {0}};

static const char doc[] =
	"Times the compression and decompression of a model's gradients by one worker, without a "
	"network.\v"
	"The floor is what must be done whatever the rank: for a tensor that is compressed three "
	"passes over its memory by the same kernels at rank 0 (g += e; read g; e = g and g = 0, "
	"28 bytes a value), for one that is not a copy to the message and one back. It runs "
	"before every step of every rank, on memory of its own.\n\n"
	"Every rank has sessions and gradients of its own; they take turns, so that more than 4 "
	"times the largest cache is used before memory is used again. A phase's time is its median "
	"over the rounds, total_ms and floor_ms are sums of their phases, and over_floor is the "
	"ratio of the two. The quartiles are of the ratios in single rounds: they tell how quiet "
	"the machine was.\n\n"
	"project is the first phase of a step (orthonormalize Q, g += e, P = g Q), back_project "
	"the second (Q = g' P), reconstruct the third (g = P Q', e = what is left). memory is "
	"error memory, Q and the messages of all buckets, over the gradients' bytes.\n\n"
	"With --device cuda a phase ends when the device is through with it, and the device's "
	"copies "
	"of a large buffer are timed in the same run: copy GB/s counts bytes read and written, as "
	"that of the floor does.";

/* What to leave out, so that the kernels of that name are the best that are left. */
static const struct isa {
	const char *name;
	uint32_t without;
} isas[] = {
	{"auto", 0},
	{"plain", PSGD_CPU_FEATURES},
	{"avx2", PSGD_CPU_FEATURES & ~PSGD_CPU_AVX2},
	{"avx512", PSGD_CPU_FEATURES & ~PSGD_CPU_AVX512},
};

struct arguments {
	const char *model, *json;
	const struct isa *isa;
	bool cuda;
	int64_t ordinal; /* -1: not given */
	int64_t threads; /* 0: not given */
	uint32_t ranks[MAX_RANKS];
	size_t n_ranks;
	int64_t iterations;
};

struct bench {
	const struct arguments *arguments;
	struct cli_bench_model model;
	struct psgd_device device;
	char device_name[512];
	double copy_gb_per_s; /* of a CUDA device */
	struct cli_bench_floor *floors;
	struct cli_bench_copy *copies; /* n_copies of each rank */
	struct cli_bench_series *series;
	struct cli_bench_figures *figures;
	struct cli_bench_rotation rotation;
};

/* ---- memory ---- */

static bool allocate(struct bench *b)
{
	size_t n_ranks = b->arguments->n_ranks, n = (size_t)b->arguments->iterations;

	b->floors = calloc(b->rotation.n_floors, sizeof(*b->floors));
	b->copies = calloc(b->rotation.n_copies * n_ranks, sizeof(*b->copies));
	b->series = calloc(n_ranks, sizeof(*b->series));
	b->figures = calloc(n_ranks, sizeof(*b->figures));
	if (!b->floors || !b->copies || !b->series || !b->figures)
		return false;
	for (size_t k = 0; k < n_ranks; k++) {
		struct cli_bench_series *s = &b->series[k];

		s->rank = b->arguments->ranks[k];
		s->n = n;
		s->n_values = b->model.n_values;
		s->report = PSGD_INIT(psgd_report);
		s->memory = PSGD_INIT(psgd_memory);
		s->steps = calloc(n, sizeof(*s->steps));
		s->floors = calloc(n, sizeof(*s->floors));
		if (!s->steps || !s->floors)
			return false;
	}
	return true;
}

static const char *isa_name(const struct bench *b)
{
	return b->device.ops->variant ? b->device.ops->variant(b->device.self) : "-";
}

/* Complains, and returns an exit code. */
static int open_device(struct bench *b)
{
	const struct arguments *a = b->arguments;
	struct psgd_device_cpu_options options = PSGD_INIT(psgd_device_cpu_options);
	psgd_status status;

	if (a->cuda) {
		status = cli_open_cuda(
			(uint32_t)a->ordinal, &b->device, b->device_name, sizeof(b->device_name));
		if (status == PSGD_OK)
			return CLI_OK;
		cli_complain_as("bench", "--device cuda: %s", b->device_name);
		return CLI_ENVIRONMENT;
	}
	options.threads = (uint32_t)a->threads;
	options.without = a->isa->without;
	snprintf(b->device_name, sizeof(b->device_name), "cpu");
	status = psgd_device_cpu(&options, &b->device);
	if (status < 0) {
		cli_complain_as("bench", "%s", psgd_status_text(status));
		return CLI_FAILED;
	}
	if (a->isa == isas || strcmp(a->isa->name, isa_name(b)) == 0)
		return CLI_OK;
	cli_complain_as("bench", "--isa %s: this processor does not have it", a->isa->name);
	return CLI_ENVIRONMENT;
}

static size_t available_bytes(const struct bench *b)
{
	uint64_t free_bytes = 0, total = 0;

	if (!b->arguments->cuda)
		return cli_bench_available_bytes();
	b->device.ops->memory(b->device.self, &free_bytes, &total);
	return (size_t)free_bytes;
}

static psgd_status open_all(struct bench *b)
{
	size_t n_ranks = b->arguments->n_ranks;
	psgd_status status = PSGD_OK;

	for (size_t i = 0; i < b->rotation.n_floors && status == PSGD_OK; i++)
		status = cli_bench_floor_open(&b->model, &b->device, i, &b->floors[i]);
	for (size_t i = 0; i < b->rotation.n_copies * n_ranks && status == PSGD_OK; i++)
		status = cli_bench_copy_open(
			&b->model, &b->device, b->arguments->ranks[i % n_ranks], i, &b->copies[i]);
	return status;
}

static void release(struct bench *b)
{
	size_t n_ranks = b->arguments->n_ranks;

	for (size_t i = 0; b->floors && i < b->rotation.n_floors; i++)
		cli_bench_floor_close(&b->floors[i]);
	for (size_t i = 0; b->copies && i < b->rotation.n_copies * n_ranks; i++)
		cli_bench_copy_close(&b->copies[i]);
	for (size_t k = 0; b->series && k < n_ranks; k++) {
		free(b->series[k].steps);
		free(b->series[k].floors);
	}
	psgd_device_destroy(&b->device);
	cli_bench_model_close(&b->model);
	free(b->floors);
	free(b->copies);
	free(b->series);
	free(b->figures);
}

/* ---- timing ---- */

/* Steps that are not timed: they touch all memory, and draw Q. */
static psgd_status warm_up(struct bench *b)
{
	size_t n_ranks = b->arguments->n_ranks;
	psgd_status status = PSGD_OK;

	for (size_t i = 0; i < b->rotation.n_copies * n_ranks && status == PSGD_OK; i++) {
		struct cli_bench_series *s = &b->series[i % n_ranks];
		struct cli_bench_times unused;

		status = cli_bench_copy_memory(&b->copies[i], &s->memory);
		if (status == PSGD_OK)
			status = cli_bench_copy_step(&b->copies[i], &unused, &s->report);
	}
	for (size_t k = 0; k < n_ranks; k++) {
		for (size_t i = 0; i < b->model.n_tensors; i++) {
			if (psgd_session_rank(b->copies[k].session, b->model.tensors[i].id))
				b->series[k].n_compressed += (size_t)b->model.counts[i];
		}
	}
	return status;
}

static psgd_status run_round(struct bench *b, size_t round)
{
	size_t n_ranks = b->arguments->n_ranks;
	psgd_status status = PSGD_OK;

	for (size_t k = 0; k < n_ranks && status == PSGD_OK; k++) {
		struct cli_bench_series *s = &b->series[k];
		struct cli_bench_copy *copy =
			&b->copies[round % b->rotation.n_copies * n_ranks + k];

		status = cli_bench_floor_run(
			&b->floors[(round * n_ranks + k) % b->rotation.n_floors], copy,
			&s->floors[round]);
		if (status == PSGD_OK)
			status = cli_bench_copy_step(copy, &s->steps[round], &s->report);
	}
	return status;
}

static psgd_status run_rounds(struct bench *b)
{
	size_t n = (size_t)b->arguments->iterations;
	bool terminal = isatty(STDERR_FILENO);
	psgd_status status = warm_up(b);

	for (size_t i = 0; i < n && status == PSGD_OK; i++) {
		status = run_round(b, i);
		if (terminal)
			fprintf(stderr, "\rround %zu of %zu%s", i + 1, n,
				i + 1 < n ? "" : "\r\33[K");
	}
	return status;
}

/* ---- output ---- */

static void print_setting(const struct bench *b)
{
	char gradients[32], cache[32], set[32];

	cli_bytes_text(gradients, sizeof(gradients), 4.0 * (double)b->model.n_values);
	cli_bytes_text(cache, sizeof(cache), (double)b->rotation.cache_bytes);
	cli_bytes_text(set, sizeof(set), (double)b->rotation.bytes);
	printf("%s: %zu values in %zu tensors and %zu bucket%s, %s; %lld round%s\n",
		b->arguments->model, b->model.n_values, b->model.n_tensors, b->model.n_buckets,
		b->model.n_buckets == 1 ? "" : "s", gradients, (long long)b->arguments->iterations,
		b->arguments->iterations == 1 ? "" : "s");
	if (b->arguments->cuda)
		printf("%s, copies %.1f GB/s", b->device_name, b->copy_gb_per_s);
	else
		printf("threads %lld, isa %s", (long long)b->arguments->threads, isa_name(b));
	printf("; working set %s (%zu of each rank, %zu of the floor), cache %s\n", set,
		b->rotation.n_copies, b->rotation.n_floors, cache);
	if (b->rotation.capped)
		printf("memory does not suffice for %d times the cache: times may be of warm "
		       "caches\n",
			CLI_BENCH_OVER_CACHE);
	fflush(stdout);
}

static json_t *to_json(const struct bench *b)
{
	json_t *root = json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:b, s:o}", "model",
		b->arguments->model, "device", b->device_name, "threads",
		(json_int_t)b->arguments->threads, "isa", isa_name(b), "iterations",
		(json_int_t)b->arguments->iterations, "cache_bytes",
		(json_int_t)b->rotation.cache_bytes, "working_set_bytes",
		(json_int_t)b->rotation.bytes, "working_set_capped", b->rotation.capped, "results",
		cli_bench_json(b->figures, b->arguments->n_ranks));

	if (b->arguments->cuda)
		json_object_set_new(root, "copy_gb_per_s", json_real(b->copy_gb_per_s));
	return root;
}

static const char *reason(const struct bench *b, psgd_status status)
{
	for (size_t i = 0; b->copies && i < b->rotation.n_copies * b->arguments->n_ranks; i++) {
		if (*b->copies[i].error)
			return b->copies[i].error;
	}
	return psgd_status_text(status);
}

static int run_bench(struct bench *b)
{
	const struct arguments *a = b->arguments;
	psgd_status status = PSGD_ERR_NOMEM;
	char set[32];
	int code;

	if (!cli_bench_model_open(a->model, &b->model))
		goto failed;
	code = open_device(b);
	if (code != CLI_OK)
		return code;
	b->rotation.cache_bytes = a->cuda ? CUDA_CACHE_BYTES : cli_bench_cache_bytes();
	if (!cli_bench_rotate(
		    &b->rotation, b->model.block_bytes, a->n_ranks, available_bytes(b) / 4 * 3)) {
		cli_complain_as("bench",
			"%zu ranks of %s need %s of memory, which is more than can be "
			"had: give fewer --ranks",
			a->n_ranks, a->model,
			cli_bytes_text(set, sizeof(set), (double)b->rotation.bytes));
		return CLI_ENVIRONMENT;
	}
	if (!allocate(b))
		goto failed;
	status = a->cuda ? cli_bench_bandwidth(&b->device, &b->copy_gb_per_s) : PSGD_OK;
	if (status < 0)
		goto failed;
	print_setting(b);
	status = open_all(b);
	if (status == PSGD_OK)
		status = run_rounds(b);
	for (size_t k = 0; k < a->n_ranks && status == PSGD_OK; k++) {
		if (!cli_bench_figures(&b->series[k], &b->figures[k]))
			status = PSGD_ERR_NOMEM;
	}
	if (status == PSGD_OK) {
		cli_bench_print(b->figures, a->n_ranks);
		return CLI_OK;
	}
failed:
	cli_complain_as("bench", "%s", reason(b, status));
	return CLI_FAILED;
}

/* ---- arguments ---- */

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
	argp_error(state, "--model: '%s' is none of %s", name, cli_bench_models_text);
}

static const struct isa *find_isa(const char *name, struct argp_state *state)
{
	for (size_t i = 0; i < CLI_COUNT(isas); i++) {
		if (strcmp(name, isas[i].name) == 0)
			return &isas[i];
	}
	argp_error(state, "--isa: '%s' is none of plain, avx2, avx512, auto", name);
	return NULL;
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
	case KEY_DEVICE:
		if (strcmp(arg, "cpu") != 0 && strcmp(arg, "cuda") != 0)
			argp_error(state, "--device: '%s' is none of cpu, cuda", arg);
		a->cuda = strcmp(arg, "cuda") == 0;
		return 0;
	case KEY_ORDINAL:
		cli_bench_number("--ordinal", arg, 0, 1023, &a->ordinal, state);
		return 0;
	case KEY_THREADS:
		cli_bench_number("--threads", arg, 1, MAX_THREADS, &a->threads, state);
		return 0;
	case KEY_ISA:
		a->isa = find_isa(arg, state);
		return 0;
	case KEY_ITERATIONS:
		cli_bench_number("--iterations", arg, 1, 100000, &a->iterations, state);
		return 0;
	case KEY_JSON:
		a->json = arg;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': no argument is expected", arg);
		return 0;
	case ARGP_KEY_END:
		if (a->cuda && (a->threads || a->isa != isas))
			argp_error(
				state, "--threads and --isa are of the CPU, not of --device cuda");
		if (!a->cuda && a->ordinal >= 0)
			argp_error(state, "--ordinal is of a CUDA device: add --device cuda");
		a->threads = a->threads ? a->threads : 1;
		a->ordinal = a->ordinal >= 0 ? a->ordinal : 0;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cli_bench_compress(int argc, char **argv)
{
	static const struct argp argp = {.options = flags, .parser = parse, .doc = doc};
	struct arguments a = {.model = "resnet18",
		.isa = isas,
		.ordinal = -1,
		.ranks = {1, 2, 4, 8, 16, 32},
		.n_ranks = 6,
		.iterations = 20};
	struct bench b = {.arguments = &a};
	json_t *root;
	int code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	if (!cli_bench_writable(a.json))
		return CLI_ENVIRONMENT;
	code = run_bench(&b);
	if (code == CLI_OK && a.json) {
		root = to_json(&b);
		if (!cli_bench_write(root, a.json))
			code = CLI_ENVIRONMENT;
		json_decref(root);
	}
	release(&b);
	return code;
}
