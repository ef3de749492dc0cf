/* The table of all-reduces, in the manner of nccl-tests. SPDX-License-Identifier: MIT */
#include "allreduce.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES (INT64_C(1) << 40)
#define PATTERN 251 /* values of the check are below it: their sums are exact */

struct table {
	const struct cli_allreduce *options;
	const struct psgd_transport *transport;
	const struct psgd_oob *oob;
	float *data;
	uint64_t tag;
};

/* What a worker tells the others of one size. */
struct told {
	double us;
	uint64_t wrong;
};

/* ---- one size ---- */

/* As in every worker; 0 to PATTERN - 1. */
static float pattern(size_t i, uint32_t worker)
{
	return (float)((i * 7 + (size_t)worker * 13) % PATTERN);
}

static psgd_status all_reduce(struct table *t, int64_t count)
{
	struct psgd_collective collective = PSGD_INIT(psgd_collective);
	void *request;
	psgd_status status;

	collective.kind = PSGD_ALLREDUCE_SUM;
	collective.dtype = PSGD_F32;
	collective.count = count;
	collective.data = t->data;
	collective.tag = ++t->tag;
	status = t->transport->ops->post(t->transport->self, &collective, &request);
	if (status != PSGD_OK)
		return status;
	do
		status = t->transport->ops->test(
			t->transport->self, request, INT64_C(1000000000), NULL);
	while (status == PSGD_PENDING);
	return status;
}

static uint64_t count_wrong(const struct table *t, int64_t count)
{
	uint32_t n = t->transport->n_workers;
	uint64_t wrong = 0;

	for (size_t i = 0; i < (size_t)count; i++) {
		float sum = 0;

		for (uint32_t k = 0; k < n; k++)
			sum += pattern(i, k);
		wrong += t->data[i] != sum;
	}
	return wrong;
}

/* Zeros are timed, so that a sum of sums stays what it is; then the pattern is summed once. */
static psgd_status run_size(struct table *t, int64_t count, struct told *told)
{
	const struct cli_allreduce *o = t->options;
	psgd_status status = PSGD_OK;
	int64_t begin = 0;

	memset(t->data, 0, (size_t)count * sizeof(float));
	for (int64_t i = -o->warmup; i < o->iterations && status == PSGD_OK; i++) {
		if (i == 0) {
			status = t->oob->allgather(t->oob->self, NULL, NULL, 0);
			begin = cli_now_ns();
		}
		if (status == PSGD_OK)
			status = all_reduce(t, count);
	}
	told->us = (double)(cli_now_ns() - begin) / 1e3 / (double)o->iterations;
	for (size_t i = 0; i < (size_t)count; i++)
		t->data[i] = pattern(i, t->transport->worker);
	if (status == PSGD_OK)
		status = all_reduce(t, count);
	if (status == PSGD_OK)
		told->wrong = count_wrong(t, count);
	return status;
}

/* ---- the table ---- */

static void print_head(const struct cli_allreduce *o)
{
	const char *unit = o->in_mbits ? "(Mbit/s)" : "(MB/s)";

	printf("#%11s %12s %8s %6s %12s %10s %10s %8s\n", "size", "count", "type", "redop", "time",
		"algbw", "busbw", "#wrong");
	printf("#%11s %12s %8s %6s %12s %10s %10s %8s\n", "(B)", "(values)", "", "", "(us)", unit,
		unit, "");
	fflush(stdout);
}

static void print_row(const struct cli_allreduce *o, const struct cli_allreduce_row *row)
{
	double unit = o->in_mbits ? 8 : 1;

	printf("%12lld %12lld %8s %6s %12.1f %10.2f %10.2f %8llu\n", (long long)row->count * 4,
		(long long)row->count, "float", "sum", row->us, row->algbw * unit,
		row->busbw * unit, (unsigned long long)row->wrong);
	fflush(stdout);
}

/* By the slowest worker. */
static struct cli_allreduce_row row_of(int64_t count, const struct told *all, uint32_t n)
{
	struct cli_allreduce_row row = {.count = count};

	for (uint32_t k = 0; k < n; k++) {
		if (all[k].us > row.us)
			row.us = all[k].us;
		row.wrong += all[k].wrong;
	}
	row.algbw = (double)count * sizeof(float) / row.us;
	row.busbw = row.algbw * 2 * (n - 1) / n;
	return row;
}

/* The next size, or 0. */
static int64_t next_bytes(const struct cli_allreduce *o, int64_t bytes)
{
	return bytes > o->max_bytes / o->factor ? 0 : bytes * o->factor;
}

static psgd_status run_sizes(struct table *t, struct told *all, struct cli_allreduce_rows *rows)
{
	const struct cli_allreduce *o = t->options;
	psgd_status status = PSGD_OK;

	for (int64_t bytes = o->min_bytes; bytes; bytes = next_bytes(o, bytes)) {
		int64_t count = bytes / (int64_t)sizeof(float);
		struct told mine = {0};

		status = run_size(t, count, &mine);
		if (status == PSGD_OK)
			status = t->oob->allgather(t->oob->self, &mine, all, sizeof(mine));
		if (status != PSGD_OK)
			break;
		if (t->transport->worker != 0)
			continue;
		rows->items[rows->n] = row_of(count, all, t->transport->n_workers);
		print_row(o, &rows->items[rows->n++]);
	}
	return status;
}

psgd_status cli_allreduce_run(const struct cli_allreduce *options,
	const struct psgd_transport *transport, const struct psgd_oob *oob,
	struct cli_allreduce_rows *rows, char *error, size_t error_bytes)
{
	struct table t = {.options = options, .transport = transport, .oob = oob};
	struct told *all = calloc(transport->n_workers, sizeof(*all));
	bool first = transport->worker == 0, enough;
	psgd_status status = PSGD_ERR_NOMEM;
	size_t n_rows = 0;

	for (int64_t bytes = options->min_bytes; bytes; bytes = next_bytes(options, bytes))
		n_rows++;
	t.data = malloc((size_t)options->max_bytes);
	*rows = (struct cli_allreduce_rows){0};
	if (first)
		rows->items = calloc(n_rows, sizeof(*rows->items));
	enough = all && t.data && (!first || rows->items);
	if (enough && first)
		print_head(options);
	if (enough)
		status = run_sizes(&t, all, rows);
	if (status != PSGD_OK)
		transport->ops->error(transport->self, error, error_bytes);
	free(t.data);
	free(all);
	return status;
}

uint64_t cli_allreduce_wrong(const struct cli_allreduce_rows *rows)
{
	uint64_t wrong = 0;

	for (size_t i = 0; i < rows->n; i++)
		wrong += rows->items[i].wrong;
	return wrong;
}

/* ---- arguments ---- */

static const struct argp_option argp_options[] = {{.doc = "Sizes and repetitions:", .group = 5},
	{"minbytes", 'b', "SIZE", 0, "Smallest message (8); K, M and G are powers of 1024", 5},
	{"maxbytes", 'e', "SIZE", 0, "Largest message", 5},
	{"stepfactor", 'f', "N", 0, "From one size to the next", 5},
	{"iters", 'n', "N", 0, "Timed all-reduces of each size", 5},
	{"warmup-iters", 'w', "N", 0, "All-reduces before them", 5}, {0}};

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
	struct cli_allreduce *o = state->input;

	switch (key) {
	case 'b':
		take_bytes("-b", arg, &o->min_bytes, state);
		return 0;
	case 'e':
		take_bytes("-e", arg, &o->max_bytes, state);
		return 0;
	case 'f':
		o->factor = cli_number(state, "-f", arg, 2, 1024);
		return 0;
	case 'n':
		o->iterations = cli_number(state, "-n", arg, 1, 1000000);
		return 0;
	case 'w':
		o->warmup = cli_number(state, "-w", arg, 0, 1000000);
		return 0;
	case ARGP_KEY_END:
		if (o->min_bytes > o->max_bytes)
			argp_error(state, "-b is above -e");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp cli_allreduce_argp = {.options = argp_options, .parser = parse};
