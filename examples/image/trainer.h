/* What the parts of the training loop share. SPDX-License-Identifier: MIT */
#ifndef IMAGE_TRAINER_H
#define IMAGE_TRAINER_H

#include "accumulate.h"
#include "ahead.h"
#include "buckets.h"
#include "calibration.h"
#include "loader.h"
#include "loss.h"
#include "net.h"

#include <psgd/experiment/stack.h>

/* Of the epoch's steps so far. */
struct epoch_sums {
	struct loss loss; /* this worker's */
	double grad_norm; /* of those that have one */
	uint64_t grad_norms;
	double grad_sum_norm; /* of the last */
};

struct trainer {
	psgd_stack *stack; /* borrowed, with what belongs to it */
	const struct psgd_config *config;
	const struct psgd_launch *launch;
	psgd_run *run;
	psgd_session *session;
	struct image_error *error;

	struct nn *nn;
	struct net net;
	struct net_plan *plan; /* for a training batch */
	struct loader loader;
	struct buckets buckets;
	struct accumulate accumulate;
	struct calibration calibration;
	struct ahead ahead; /* batches of training */
	uint16_t *labels;   /* of a batch of evaluation */
	float *momentum;
	float *worker0_running; /* worker 0's batch norm statistics, for evaluation */

	/* Where training is: what the next step begins with. */
	uint64_t iteration; /* optimizer steps so far */
	uint64_t epoch;
	size_t batch;	  /* of the epoch */
	uint64_t samples; /* of all workers, so far */
	uint64_t total_iterations;
	unsigned nonfinite_steps;  /* in a row, up to now */
	uint64_t gpu_memory_bytes; /* when it was last asked for */
	struct epoch_sums sums;
};

/* What the workers know together after an epoch. */
struct evaluation {
	double train_loss;
	double accuracy;  /* percent of the test split */
	uint64_t skipped; /* bad images since the last evaluation */
};

/*
 * Evaluates the test split, a part on each worker, with worker 0's running statistics. All
 * workers call it together.
 */
psgd_status evaluate(struct trainer *trainer, struct evaluation *out);

/* Worker 0's n values, of the engine, for all workers. n may be 0. */
psgd_status trainer_share(struct trainer *trainer, float *values, size_t n, const char *what);

/* Turns a failure of a library call into a line with the library's own reason. */
psgd_status trainer_fail(struct trainer *trainer, psgd_status status, const char *what);

#endif
