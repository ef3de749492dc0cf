/* psgd selftest: whether a device computes what it should. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/psgd.h>

#include "selftest.h"

enum key { KEY_DEVICE = 256, KEY_ORDINAL, KEY_GROUPS, KEY_SEED, KEY_JSON };

static const struct argp_option options[] = {
	{"device", KEY_DEVICE, "cpu|cuda", 0, "The device to test (cuda if there is one, else cpu)",
		0},
	{"ordinal", KEY_ORDINAL, "N", 0, "Which CUDA device (0)", 0},
	{"groups", KEY_GROUPS, "N", 0, "Groups of matrices to compute (16)", 0},
	{"seed", KEY_SEED, "N", 0, "Of what is drawn (1)", 0},
	{"json", KEY_JSON, 0, 0, "Print JSON", 0}, {0}};

static const char doc[] =
	"Tests a device by the public interface of the library: memory and streams, and PowerSGD "
	"on random groups of matrices beside the plain C kernels of the CPU. What every worker "
	"computes for itself must have the same bits there, the rest is held against float64.\v"
	"Prints a line for each claim, in the form of TAP. Exit codes: 0 all hold, 1 some do not, "
	"5 the device is not there.";

struct arguments {
	const char *device; /* NULL: auto */
	int64_t ordinal;    /* -1: not given */
	int64_t groups, seed;
	bool json;
};

static const char *const claims[CLI_CLAIMS] = {
	[CLI_CLAIM_MEMORY] = "memory: copies and zeros",
	[CLI_CLAIM_ORDER] = "streams and events keep their order",
	[CLI_CLAIM_CALLS] = "host functions come in their stream's order",
	[CLI_CLAIM_ABSORB] = "g + e, and dense messages, bit for bit",
	[CLI_CLAIM_START] = "Q at the beginning of a step, bit for bit",
	[CLI_CLAIM_PROJECT] = "P = (g + e) Q, within 1e-5 of float64",
	[CLI_CLAIM_ORTHONORMAL] = "P orthonormalized, bit for bit",
	[CLI_CLAIM_BACK_PROJECT] = "Q = (g + e)' P, within 1e-5 of float64",
	[CLI_CLAIM_RECONSTRUCT] = "gradients reconstructed, bit for bit",
	[CLI_CLAIM_STATE] = "error memory and the next Q, bit for bit",
	[CLI_CLAIM_RANKS] = "changes of ranks, bit for bit",
	[CLI_CLAIM_NONFINITE] = "messages that are not finite leave the state as it was",
	[CLI_CLAIM_MOVE] = "states move between the devices",
	[CLI_CLAIM_EXCHANGE] = "exchanges of a session, bit for bit",
};

/* ---- claims ---- */

void cli_claim_fails(struct cli_selftest *t, enum cli_claim claim, const char *format, ...)
{
	struct cli_check *check = &t->checks[claim];
	va_list args;

	if (*check->why)
		return;
	va_start(args, format);
	vsnprintf(check->why, sizeof(check->why), format, args);
	va_end(args);
}

bool cli_claim_ok(struct cli_selftest *t, enum cli_claim claim, psgd_status status,
	const struct cli_side *side, const char *what)
{
	char text[200] = "";

	if (status >= 0)
		return true;
	if (cli_side_is_async(side))
		side->device.ops->error(side->device.self, text, sizeof(text));
	cli_claim_fails(
		t, claim, "%s: %s%s%s", what, psgd_status_text(status), *text ? ": " : "", text);
	return false;
}

bool cli_claim_equal(struct cli_selftest *t, enum cli_claim claim, const float *tested,
	const float *reference, size_t n, const char *what, size_t which)
{
	size_t i = 0;

	t->checks[claim].n++;
	if (memcmp(tested, reference, n * sizeof(*tested)) == 0)
		return true;
	while (memcmp(&tested[i], &reference[i], sizeof(*tested)) == 0)
		i++;
	cli_claim_fails(t, claim, "%s %zu: value %zu of %zu is %.9g, not %.9g", what, which, i, n,
		(double)tested[i], (double)reference[i]);
	return false;
}

/* splitmix64 */
static uint64_t draw(struct cli_selftest *t)
{
	uint64_t z = (t->random += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint32_t cli_draw(struct cli_selftest *t, uint32_t low, uint32_t high)
{
	return low + (uint32_t)(draw(t) % ((uint64_t)high - low + 1));
}

float cli_draw_value(struct cli_selftest *t)
{
	return (float)((double)(draw(t) >> 11) * 0x1p-52 - 1.0);
}

/* ---- devices ---- */

static int open_cpu(uint32_t without, struct cli_side *side, char *name, size_t bytes)
{
	struct psgd_device_cpu_options cpu = PSGD_INIT(psgd_device_cpu_options);
	psgd_status status;

	cpu.without = without;
	status = psgd_device_cpu(&cpu, &side->device);
	if (status == PSGD_OK)
		snprintf(name, bytes, "cpu (%s)", side->device.ops->variant(side->device.self));
	else
		snprintf(name, bytes, "%s", psgd_status_text(status));
	return status == PSGD_OK ? CLI_OK : CLI_ENVIRONMENT;
}

/* name: of the device; where there is none, why. */
static int open_tested(const struct arguments *a, struct cli_side *side, char *name, size_t bytes)
{
	uint32_t ordinal = a->ordinal < 0 ? 0 : (uint32_t)a->ordinal;
	int code = CLI_ENVIRONMENT;

	if (!a->device || strcmp(a->device, "cuda") == 0)
		code = cli_open_cuda(ordinal, &side->device, name, bytes) == PSGD_OK
			       ? CLI_OK
			       : CLI_ENVIRONMENT;
	if (code != CLI_OK && !a->device && !a->json)
		printf("# not cuda: %s\n", name);
	if (code != CLI_OK && (!a->device || strcmp(a->device, "cpu") == 0))
		code = open_cpu(0, side, name, bytes);
	if (code == CLI_OK && cli_side_is_async(side) &&
		side->device.ops->stream_create(side->device.self, &side->stream) != PSGD_OK) {
		side->device.ops->error(side->device.self, name, bytes);
		code = CLI_ENVIRONMENT;
	}
	return code;
}

static void close_side(struct cli_side *side)
{
	if (side->device.ops && cli_side_is_async(side) && side->stream)
		side->device.ops->stream_destroy(side->device.self, side->stream);
	psgd_device_destroy(&side->device);
}

/* ---- output ---- */

static const char *result_of(const struct cli_check *check)
{
	return check->skip ? "skip" : *check->why || !check->n ? "not ok" : "ok";
}

static unsigned count(const struct cli_selftest *t, const char *result)
{
	unsigned n = 0;

	for (int i = 0; i < CLI_CLAIMS; i++)
		n += strcmp(result_of(&t->checks[i]), result) == 0;
	return n;
}

static void print(const struct cli_selftest *t, const char *tested, const char *reference)
{
	printf("# %s, beside %s\n1..%d\n", tested, reference, CLI_CLAIMS);
	for (int i = 0; i < CLI_CLAIMS; i++) {
		const struct cli_check *check = &t->checks[i];

		printf("%s %d - %s", check->skip ? "ok" : result_of(check), i + 1, claims[i]);
		if (check->skip)
			printf(" # SKIP %s\n", check->skip);
		else if (*check->why)
			printf(": %s\n", check->why);
		else if (!check->n)
			printf(": nothing was compared\n");
		else if (check->largest > 0)
			printf(": %" PRIu64 " compared, off by at most %.1e\n", check->n,
				check->largest);
		else
			printf(": %" PRIu64 " compared\n", check->n);
	}
	printf("# %s: %u passed, %u failed, %u skipped\n", tested, count(t, "ok"),
		count(t, "not ok"), count(t, "skip"));
}

static void print_json(const struct cli_selftest *t, const char *tested, const char *reference)
{
	json_t *list = json_array(), *root;

	for (int i = 0; i < CLI_CLAIMS; i++) {
		const struct cli_check *check = &t->checks[i];

		json_array_append_new(
			list, json_pack("{s:s, s:s, s:I, s:f, s:s?}", "claim", claims[i], "result",
				      result_of(check), "compared", (json_int_t)check->n,
				      "largest_error", check->largest, "why",
				      check->skip   ? check->skip
				      : *check->why ? check->why
						    : NULL));
	}
	root = json_pack("{s:s, s:s, s:o, s:i, s:i, s:i}", "device", tested, "beside", reference,
		"claims", list, "passed", (int)count(t, "ok"), "failed", (int)count(t, "not ok"),
		"skipped", (int)count(t, "skip"));
	json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(root);
}

/* ---- arguments ---- */

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case KEY_DEVICE:
		if (strcmp(arg, "cpu") != 0 && strcmp(arg, "cuda") != 0)
			argp_error(state, "--device: '%s' is none of cpu, cuda", arg);
		a->device = arg;
		return 0;
	case KEY_ORDINAL:
		a->ordinal = cli_number(state, "--ordinal", arg, 0, 1023);
		return 0;
	case KEY_GROUPS:
		a->groups = cli_number(state, "--groups", arg, 1, 100000);
		return 0;
	case KEY_SEED:
		a->seed = cli_number(state, "--seed", arg, 0, INT64_MAX);
		return 0;
	case KEY_JSON:
		a->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': no argument is expected", arg);
		return 0;
	case ARGP_KEY_END:
		/* Who names one wants no other device. */
		if (a->ordinal >= 0 && a->device && strcmp(a->device, "cpu") == 0)
			argp_error(state, "--ordinal is of a CUDA device, not of --device cpu");
		if (a->ordinal >= 0)
			a->device = "cuda";
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run(const struct arguments *a, struct cli_selftest *t)
{
	char tested[512] = "", reference[64] = "";
	int code = open_tested(a, &t->sides[CLI_TESTED], tested, sizeof(tested));

	if (code != CLI_OK) {
		cli_complain_as("selftest", "%s", tested);
		return code;
	}
	code = open_cpu(PSGD_CPU_FEATURES, &t->sides[CLI_REFERENCE], reference, sizeof(reference));
	if (code != CLI_OK) {
		cli_complain_as("selftest", "%s", reference);
		return code;
	}
	t->random = (uint64_t)a->seed;
	cli_check_memory(t);
	cli_check_groups(t, (uint32_t)a->groups);
	cli_check_sessions(t);
	if (a->json)
		print_json(t, tested, reference);
	else
		print(t, tested, reference);
	return count(t, "not ok") ? CLI_FAILED : CLI_OK;
}

int cli_selftest(int argc, char **argv)
{
	static const struct argp argp = {.options = options, .parser = parse, .doc = doc};
	struct arguments a = {.ordinal = -1, .groups = 16, .seed = 1};
	struct cli_selftest *t;
	int code;

	cli_normalize_flags(argc, argv);
	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	t = calloc(1, sizeof(*t));
	if (!t) {
		cli_complain_as("selftest", "out of memory");
		return CLI_FAILED;
	}
	code = run(&a, t);
	for (int side = 0; side < CLI_SIDES; side++)
		close_side(&t->sides[side]);
	free(t);
	return code;
}
