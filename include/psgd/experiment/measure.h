/* Measuring a network by all-reduces. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_MEASURE_H
#define PSGD_EXPERIMENT_MEASURE_H

#include <psgd/transport.h>

PSGD_BEGIN

#define PSGD_MEASURE_MAX_POINTS 16

/* The fastest all-reduce of one size. */
struct psgd_measure_point {
	uint64_t bytes;
	int64_t ns;
};

struct psgd_measured {
	size_t size;
	uint32_t n_workers, n_points;
	/* An all-reduce of S bytes takes delay_ns + ns_per_byte * S, as in struct psgd_cost_link.
	 */
	double delay_ns, ns_per_byte;
	/* The same for one message of a ring: one way; what a worker sends. Infinite: no limit. */
	double latency_ms, bandwidth_mbps;
	int64_t elapsed_ns;					   /* that the measuring took */
	struct psgd_measure_point points[PSGD_MEASURE_MAX_POINTS]; /* by increasing size */
	uint64_t sent_bytes; /* by this worker, in all all-reduces */
};

/*
 * Delay and rate that the points show, robustly: messages may be late, never early, and a network
 * may carry the first few for nothing. The delay is the least time of up to 1 KiB (without such: of
 * the line through smallest and largest); the rate the median of the three largest sizes above.
 * Fills *out but for elapsed_ns and sent_bytes. n_workers: of the all-reduces. Errors: INVALID (no
 * point or more than PSGD_MEASURE_MAX_POINTS, two of one size, no time, fewer than two workers).
 * Pure; any thread.
 */
PSGD_API psgd_status psgd_measure_fit(const struct psgd_measure_point *points, size_t n_points,
	uint32_t n_workers, struct psgd_measured *out);

/*
 * Times all-reduces of 8 B to 4 MiB, as many sizes and repetitions as budget_ns allows (0: 1 s,
 * which a network of 1 Mbit/s or more keeps to within a half), each by its fastest repetition and
 * its fastest worker, who waited for nobody. All workers call it together, with no other
 * collective under way; all get the same *out but for sent_bytes. oob carries their times. Errors:
 * INVALID (fewer than two workers, negative budget), NOMEM, and those of the transport and of oob;
 * all workers fail together, unless oob or the first memory fails.
 */
PSGD_API psgd_status psgd_measure_network(const struct psgd_transport *transport,
	const struct psgd_oob *oob, int64_t budget_ns, struct psgd_measured *out);

PSGD_END
#endif
