/*
 * A compressor of rounds of every kind, whose result is the exact mean: the first half of a
 * bucket's values is gathered as F32, the second half summed as F64, and a gathered U8 label says
 * whose block it is.
 */
#ifndef TESTS_ENGINE_GATHER_H
#define TESTS_ENGINE_GATHER_H

#include <psgd/compressor.h>

/* Bytes of a label: no power of two, so that blocks do not lie where values would. */
#define LABEL 3

struct gather_options {
	bool sums;		     /* the first half is summed too: other kinds, equal counts */
	struct psgd_payload instead; /* of the first round, when its kind is not 0 */
	uint32_t n_rounds;	     /* instead of 3, when it is not 0 */
};

/* options: NULL or struct gather_options, copied. */
psgd_status gather_make(void *options, struct psgd_compressor *out);

#endif
