/*
 * Workers in one thread, on a device that may be asynchronous: gradients are made late in the
 * trainer's streams, and collectives are run by hand in the order of the sessions' streams.
 */
#ifndef TESTS_ENGINE_HAND_H
#define TESTS_ENGINE_HAND_H

#include "base/state.h"
#include "grads.h"

#define HAND_WORKERS 3
#define HAND_STEPS 12

struct hand {
	/* What to do. */
	uint64_t seed;
	uint32_t n_workers, flags; /* of the session */
	int steps;
	bool dense, with_trial;
	const struct psgd_device *device; /* NULL: the CPU */

	/* What came of it. */
	bool broken;	 /* a promise was not kept */
	bool own;	 /* what failed was an opening, or a call of the trainer's own */
	char error[256]; /* the words of the session that failed */
	uint64_t hash[HAND_STEPS];
	struct psgd_report report[HAND_STEPS]; /* worker 0's */
	struct psgd__kept kept[HAND_WORKERS];  /* states, saved at the end; the caller's to free */
};

/* Runs all of it; the first failure ends it. All is closed and released, but the device. */
psgd_status hand_run(struct hand *hand);

#endif
