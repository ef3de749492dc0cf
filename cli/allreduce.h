/* The table of all-reduces, in the manner of nccl-tests. SPDX-License-Identifier: MIT */
#ifndef CLI_ALLREDUCE_H
#define CLI_ALLREDUCE_H

#include <argp.h>

#include <psgd/transport.h>

#include "cli.h"

struct cli_allreduce {
	int64_t min_bytes, max_bytes, factor, iterations, warmup;
	bool in_mbits; /* prints bandwidths in Mbit/s; else in MB/s */
};

struct cli_allreduce_row {
	int64_t count;		 /* floats */
	double us, algbw, busbw; /* of one all-reduce; MB/s */
	uint64_t wrong;		 /* values, over all workers */
};

/* Of worker 0; freed by free(). */
struct cli_allreduce_rows {
	struct cli_allreduce_row *items;
	size_t n;
};

/* -b -e -f -n -w; its input is a cli_allreduce with the defaults. */
extern const struct argp cli_allreduce_argp;

/*
 * All workers call it together; worker 0 prints a table and fills rows. On failure error says why
 * if the transport knows, and the others wait until it is aborted.
 */
psgd_status cli_allreduce_run(const struct cli_allreduce *options,
	const struct psgd_transport *transport, const struct psgd_oob *oob,
	struct cli_allreduce_rows *rows, char *error, size_t error_bytes);

/* The sum of all rows' wrong values. */
uint64_t cli_allreduce_wrong(const struct cli_allreduce_rows *rows);

#endif
