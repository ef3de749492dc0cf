/* The rank control: r = min(choice, cap). SPDX-License-Identifier: MIT */
#ifndef PSGD_RANK_CONTROL_H
#define PSGD_RANK_CONTROL_H

#include <psgd/controller.h>

PSGD_BEGIN

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

PSGD_END
#endif
