/* Controllers: which matrix rank the next step uses. SPDX-License-Identifier: MIT */
#ifndef PSGD_CONTROLLER_H
#define PSGD_CONTROLLER_H

#include <psgd/compressor.h>

PSGD_BEGIN

/* What a controller asks of the engine for one step. Equal on all workers. */
enum psgd_needs {
	PSGD_NEED_DECISION = 1 << 0, /* decide() runs on worker 0, ranks are broadcast: 1 message */
	/* Times: 1 message of 8 * (6 + n_messages + 3 * n_buckets) * n_workers bytes. */
	PSGD_NEED_TIMING = 1 << 1,
	/* Sum of mean gradients since the last reset: 4 bytes per value and one pass, worker 0. */
	PSGD_NEED_GRAD_SUM = 1 << 2,
	PSGD_NEED_GRAD_NORM = 1 << 3 /* its norm, at this step: one pass over the sum, worker 0 */
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
	uint64_t grad_sum_steps; /* how many gradients are in it */
	int64_t step_ns; /* mean over the workers, as the next three; 0 when timing is not asked */
	int64_t exposed_ns; /* the part of it in which the trainer waited */
	int64_t wire_ns;
	int64_t compute_ns; /* the maximum over the workers of step - exposed */
	const struct psgd_message_time *messages;
	size_t n_messages;
	const struct psgd_bucket_time *buckets;
	size_t n_buckets;
	const uint32_t *ranks; /* in force, per tensor */
	size_t n_tensors;
	/* What bucket `b` would send at rank r (0: dense). */
	psgd_status (*plan)(void *plan_user, size_t b, uint32_t rank, struct psgd_plan *out);
	void *plan_user;
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
	uint32_t rank;		  /* chosen: min(choice, cap); 0: dense */
	uint32_t cap;		  /* what the network carries; PSGD_RANK_DENSE: also dense */
	uint32_t choice;	  /* what training asks for; dense as in cap */
	uint8_t changed;	  /* rank differs from the one before; filled by the engine */
	uint8_t reset_grad_sum, reserved[2]; /* start a new sum */
};

#define PSGD_RANK_DENSE UINT32_MAX /* "uncompressed" where ranks are compared by size */

/*
 * A controller. `needs` is pure, and alike on every worker. `decide` runs on worker 0 only, on the
 * session's progress thread; no clock, I/O or randomness in it. It fills ranks[n_tensors], 0 for
 * dense. If it fails the session fails.
 */
struct psgd_controller_ops {
	size_t size;
	const char *name;
	uint32_t (*needs)(void *self, uint64_t step, uint64_t epoch, bool epoch_end);
	psgd_status (*decide)(void *self, const struct psgd_observation *seen, uint32_t *ranks,
		struct psgd_decision *out);
	void (*destroy)(void *self);
};

struct psgd_controller {
	const struct psgd_controller_ops *ops;
	void *self;
};

enum psgd_cap_kind {
	PSGD_CAP_NONE = 0,
	PSGD_CAP_CALIBRATION = 1, /* tries the candidates first, keeps the best feasible */
	PSGD_CAP_LIVE = 2	  /* follows the link by a fitted cost model */
};

enum psgd_choice_kind {
	PSGD_CHOICE_MAX = 0,   /* whatever the cap allows, at most max_rank */
	PSGD_CHOICE_FIXED = 1, /* fixed_rank */
	PSGD_CHOICE_SCHEDULE = 2,
	PSGD_CHOICE_EPOCHNORM = 3, /* max while the gradient sum changes much, min else */
	PSGD_CHOICE_REPLAY = 4	   /* the ranks of a recorded run */
};

struct psgd_schedule_range {
	uint64_t start_epoch, end_epoch; /* inclusive */
	uint32_t rank, reserved;	 /* rank 0: dense */
};

struct psgd_replay_entry {
	uint64_t step;		 /* first step with this rank; strictly increasing from 0 */
	uint32_t rank, reserved; /* rank 0: dense */
};

/* Windows of epochnorm, in epochs, or in steps when `in_steps` is set. */
struct psgd_epochnorm_options {
	size_t size;
	uint64_t force_max;	  /* max before this; 0: 20 epochs */
	uint64_t stride;	  /* decide every so often; 0: 10 epochs */
	uint64_t rank_cooldown;	  /* hold up to so long after a change; 0: 10 epochs */
	uint64_t lr_cooldown;	  /* max after a drop of the learning rate; 0: 20 epochs */
	double threshold;	  /* relative change that is critical; 0: 0.5 */
	uint8_t in_steps;	  /* all four must be given then; they count steps */
	uint8_t no_rank_cooldown; /* really 0, not the default; so the next two */
	uint8_t no_force_max, no_lr_cooldown, reserved[4];
};

struct psgd_live_options {
	size_t size;
	double max_exposed;    /* largest share of a step that may be exposed; 0: 0.30 */
	uint64_t dwell_steps;  /* between two steps up; 0: 50 */
	uint64_t warmup_steps; /* observed before the first move; 0: 5 */
};

struct psgd_calibration_options {
	size_t size;
	uint64_t start_step;	/* the first step of the first candidate */
	uint64_t warmup_steps;	/* of each candidate, not measured; 0: 5 */
	uint64_t measure_steps; /* 0: 20 */
	double max_exposed;	/* largest feasible exposed share; 0: 0.30 */
	/* 0: a best of 1 becomes the smallest candidate above 1. */
	uint32_t allow_rank_one, reserved;
};

struct psgd_rank_control_options {
	size_t size;
	uint32_t cap;	       /* enum psgd_cap_kind */
	uint32_t choice;       /* enum psgd_choice_kind */
	uint32_t min_rank;     /* of max, epochnorm and the caps; 0: 1 */
	uint32_t max_rank;     /* 0: the largest candidate; PSGD_RANK_DENSE: dense is allowed */
	uint32_t fixed_rank;   /* of PSGD_CHOICE_FIXED; 0: dense */
	uint32_t default_rank; /* of a schedule, outside its ranges; 0: 1 */
	/* Strictly increasing; PSGD_RANK_DENSE may be last. NULL: 1, 2, 4 .. 32. */
	const uint32_t *candidates;
	size_t n_candidates;
	const struct psgd_schedule_range *ranges; /* must not overlap */
	size_t n_ranges;
	const struct psgd_replay_entry *replay;
	size_t n_replay;
	const struct psgd_epochnorm_options *epochnorm; /* NULL: defaults, as the next two */
	const struct psgd_live_options *live;
	const struct psgd_calibration_options *calibration;
};

/*
 * r = min(choice, cap), one rank for all tensors. Everything in options is copied.
 * On success *out is the caller's; on failure zeroed, and error (may be NULL) says why.
 * Errors: INVALID, NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_controller_rank_control(const struct psgd_rank_control_options *options,
	char *error, size_t error_bytes, struct psgd_controller *out);

/* One candidate's measurement by PSGD_CAP_CALIBRATION, means over the measured steps. */
struct psgd_calibration_row {
	uint32_t rank;	/* 0: dense */
	uint32_t steps; /* measured so far */
	int64_t step_ns;
	int64_t exposed_ns;
	uint64_t raw_bytes; /* of the gradients */
	uint64_t payload_bytes;
};

/*
 * Rows measured by a rank control with PSGD_CAP_CALIBRATION, on worker 0: fills up to n_rows rows
 * and returns how many candidates there are; 0 for any other controller. Call between two steps.
 */
PSGD_API size_t psgd_controller_calibration(
	const struct psgd_controller *controller, struct psgd_calibration_row *rows, size_t n_rows);

/* Ends a controller after its session is closed, and zeroes it. NULL and zeros are fine. */
PSGD_API void psgd_controller_destroy(struct psgd_controller *controller);

PSGD_END
#endif
