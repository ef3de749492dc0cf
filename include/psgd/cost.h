/* The cost model: what a step would take over a link. SPDX-License-Identifier: MIT */
#ifndef PSGD_COST_H
#define PSGD_COST_H

#include <psgd/compressor.h>

PSGD_BEGIN

/*
 * Time of an all-reduce of S bytes on the wire: delay_ns + ns_per_byte * S, and at least 0. An
 * all-gather is the second half of a ring all-reduce of all blocks together, of S * n_workers bytes
 * for blocks of S. A delay below 0 is that of a link that lets the first bytes of a message through
 * at once, as a token bucket does: -delay_ns / ns_per_byte bytes.
 */
struct psgd_cost_link {
	size_t size;
	double delay_ns;
	double ns_per_byte;
	uint32_t n_workers; /* 0: not known, so that all-gathers are INVALID */
	uint32_t reserved;
};

/* A bucket in the order of submission; times in ns since the start of the step. */
struct psgd_cost_bucket {
	const struct psgd_plan *plan;
	int64_t ready_ns;
	int64_t encode_ns; /* run(0) */
	int64_t decode_ns; /* all later runs together */
};

struct psgd_cost {
	size_t size;
	int64_t step_ns;    /* compute + exposed */
	int64_t exposed_ns; /* from the end of compute to the last gradient in place */
	int64_t wire_ns;    /* busy time of the wire */
	uint64_t payload_bytes;
};

/*
 * The link model in the form of the cost model: for rings of n_workers. Losses are what is sent
 * again; the round trips that they cost are no part of a straight line. Pure.
 */
PSGD_API psgd_status psgd_cost_link_of(
	const struct psgd_link *link, uint32_t n_workers, struct psgd_cost_link *out);

/*
 * Time of one round on the wire, in ns; 0 for a count of 0, which sends nothing.
 * Errors: INVALID (a negative rate, an infinite link, a round that nothing can send, an all-gather
 * without n_workers). Pure; any thread.
 */
PSGD_API psgd_status psgd_cost_round(
	const struct psgd_cost_link *link, const struct psgd_payload *payload, double *out);

/*
 * Walks through one step: messages go out in the order P0 Q0 P1 Q1 ..., one at a time; one thread
 * encodes and decodes beside them, a bucket whose message has come first, each later run taking the
 * same part of decode_ns; compute ends at compute_ns. Rounds with count 0 send nothing. Pure; any
 * thread.
 * Errors: INVALID (no bucket, negative times, a round as in psgd_cost_round), NOMEM.
 */
PSGD_API psgd_status psgd_cost_predict(const struct psgd_cost_bucket *buckets, size_t n_buckets,
	int64_t compute_ns, const struct psgd_cost_link *link, struct psgd_cost *out);

PSGD_END
#endif
