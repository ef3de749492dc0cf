/* Controllers: which matrix rank the next step uses. SPDX-License-Identifier: MIT */
#ifndef PSGD_CONTROLLER_H
#define PSGD_CONTROLLER_H

#include <psgd/compressor.h>
#include <psgd/state.h>

PSGD_BEGIN

/*
 * What a controller asks of the engine for one step. Equal on all workers. For what is of gradients
 * worker 0's progress thread waits for an asynchronous device.
 */
enum psgd_needs {
	PSGD_NEED_DECISION = 1 << 0, /* decide() runs on worker 0, ranks are broadcast: 1 message */
	/* Times: 1 message of 8 * (6 + n_messages + 3 * n_buckets) * n_workers bytes. */
	PSGD_NEED_TIMING = 1 << 1,
	/* Sum of mean gradients since the last reset: 4 bytes per value and one pass, worker 0. */
	PSGD_NEED_GRAD_SUM = 1 << 2,
	PSGD_NEED_GRAD_NORM = 1 << 3, /* its norm, at this step: one pass over the sum, worker 0 */
	/*
	 * Of worker 0's own gradients, before compression and without the error: their sum since
	 * the last reset, 4 bytes per value and two passes in each step that asks for it. The next
	 * two are of that sum, at this step: the norm of each tensor, one pass; its spectrum, by
	 * seen->errors. All in worker 0's progress thread.
	 */
	PSGD_NEED_LOCAL_SUM = 1 << 4,
	PSGD_NEED_LOCAL_NORMS = 1 << 5,
	PSGD_NEED_SPECTRUM = 1 << 6,
	/* Of worker 0's own gradient: a histogram of at most 65536 of its values, evenly spread. */
	PSGD_NEED_ENTROPY = 1 << 7
};

/* A message of the step that was observed. */
struct psgd_message_time {
	uint64_t bytes;		 /* payload; of an all-gather, that of all workers together */
	int64_t ns;		 /* on the wire, the minimum over the workers */
	uint32_t bucket, round;	 /* indices into buckets, and into the bucket's plan */
	uint32_t kind, reserved; /* enum psgd_collective_kind; 0: PSGD_ALLREDUCE_SUM */
};

/* A bucket of the step that was observed; times since the start of the step, or durations. */
struct psgd_bucket_time {
	int64_t ready_ns;  /* submitted, the maximum over the workers */
	int64_t encode_ns; /* run(0), the mean */
	int64_t decode_ns; /* the later runs, the mean */
};

struct psgd_observation {
	size_t size;
	uint64_t step;	/* the step observed; the decision holds from step + 1 */
	uint64_t epoch; /* its epoch */
	double learning_rate;
	double grad_sum_norm; /* 2-norm of the sum, all tensors together; NaN when not asked for */
	uint64_t grad_sum_steps; /* steps of which it has something; what was not finite is 0 */
	int64_t step_ns; /* mean over the workers, as the next three; 0 when timing is not asked */
	int64_t exposed_ns; /* the part of it in which the trainer waited for buckets */
	int64_t wire_ns;
	int64_t compute_ns; /* the maximum over the workers of step - exposed; sums of
			     * psgd_session_sync are in it, but not what they wait for buckets,
			     * which is exposed and delays no ready_ns */
	const struct psgd_message_time *messages;
	size_t n_messages;
	const struct psgd_bucket_time *buckets;
	size_t n_buckets;
	const uint32_t *ranks; /* in force, per tensor */
	size_t n_tensors;
	/* What bucket `b` would send at rank r (0: dense). */
	psgd_status (*plan)(void *plan_user, size_t b, uint32_t rank, struct psgd_plan *out);
	void *plan_user;
	const double *local_norms; /* 2-norms, per tensor; NULL: not asked for, or no sum yet */
	uint64_t local_sum_steps;  /* of the local sum, as grad_sum_steps */
	/*
	 * out[k]: Frobenius norm of what the best approximation of rank k + 1 leaves of tensor i's
	 * local sum, for k < n: about 1 % above it at most, and never below but for rounding. Zeros
	 * for what cannot be compressed; above rank 1024 that of 1024. NULL when not asked for.
	 * Costs about 20 * (n + 8) operations a value, and while it runs memory for the matrix and
	 * three factors.
	 */
	psgd_status (*errors)(void *plan_user, size_t i, uint32_t n, double *out);
	double entropy; /* in nats, of those values; 0 of zeros; NaN: not asked for, or no value */
	const struct psgd_tensor *tensors; /* n_tensors, as in psgd_session_open */
	uint32_t n_workers;
	uint8_t first;			/* before the first step: the decision holds from step 0 */
	uint8_t epoch_end, reserved[2]; /* the step was the last of its epoch */
};

/* The decision's numbers, for records. Text is static or lives as long as the controller. */
struct psgd_decision {
	size_t size;
	const char *regime;   /* which rule fired: "force_max", "critical", "link_down" ... */
	double value;	      /* the number that the rule compared; NaN if none */
	double threshold;     /* with what; NaN if none */
	double link_delay_ns; /* of the fitted wire time a + b * bytes; NaN if none */
	double link_ns_per_byte;
	double predicted_exposed; /* share of the step at the chosen cap; NaN if none */
	uint64_t step;		  /* in force from this step; filled by the engine */
	uint32_t rank;		/* chosen: min(choice, cap), the largest of all tensors; 0: dense */
	uint32_t cap;		/* what the network carries; PSGD_RANK_DENSE: also dense */
	uint32_t choice;	/* what training asks for; dense as in cap */
	uint8_t changed;	/* rank differs from the one before; filled by the engine */
	uint8_t reset_grad_sum; /* start a new sum */
	uint8_t reset_local_sum, reserved; /* so of the local sum */
	/* In force from `step`, per tensor, clamped to shapes; 0: dense. NULL if there is no rank.
	 * Filled by the engine; valid until the end of the next psgd_session_finish_step. */
	const uint32_t *ranks;
	size_t n_ranks;
};

#define PSGD_RANK_DENSE UINT32_MAX /* "uncompressed" where ranks are compared by size */

/*
 * A controller. `needs` is pure, and alike on every worker; LOCAL_SUM and ENTROPY may depend on the
 * step alone, since they are asked for before the step's gradients come. `decide` runs on worker 0
 * only, on the session's progress thread; no clock, I/O or randomness in it. It fills
 * ranks[n_tensors], 0 for dense. If it fails the session fails.
 */
struct psgd_controller_ops {
	size_t size;
	const char *name;
	uint32_t (*needs)(void *self, uint64_t step, uint64_t epoch, bool epoch_end);
	psgd_status (*decide)(void *self, const struct psgd_observation *seen, uint32_t *ranks,
		struct psgd_decision *out);
	void (*destroy)(void *self);
	/* All that later decisions depend on; worker 0 only. NULL: there is no such state. */
	psgd_status (*save)(void *self, const struct psgd_state_writer *writer);
	psgd_status (*load)(void *self, const struct psgd_state_reader *reader);
};

struct psgd_controller {
	const struct psgd_controller_ops *ops;
	void *self;
};

/* Ends a controller after its session is closed, and zeroes it. NULL and zeros are fine. */
PSGD_API void psgd_controller_destroy(struct psgd_controller *controller);

PSGD_END
#endif
