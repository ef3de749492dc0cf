/* The rank control: r = min(choice, cap). SPDX-License-Identifier: MIT */
#ifndef PSGD_RANK_CONTROL_H
#define PSGD_RANK_CONTROL_H

#include <psgd/controller.h>

PSGD_BEGIN

enum psgd_cap_kind {
	PSGD_CAP_NONE = 0,
	PSGD_CAP_CALIBRATION = 1, /* the best of measured candidates; psgd_controller_calibrate */
	PSGD_CAP_LIVE = 2	  /* follows the link by a fitted cost model */
};

/* What training asks for. The options of each say what it asks of the engine, and what it costs. */
enum psgd_choice_kind {
	PSGD_CHOICE_MAX = 0,   /* whatever the cap allows, at most max_rank */
	PSGD_CHOICE_FIXED = 1, /* fixed_rank */
	PSGD_CHOICE_SCHEDULE = 2,
	PSGD_CHOICE_EPOCHNORM = 3, /* max while the gradient sum changes much, min else */
	PSGD_CHOICE_REPLAY = 4,	   /* the ranks of a recorded run */
	PSGD_CHOICE_EMA = 5,	   /* a candidate up or down by the gradient's norm over its mean */
	PSGD_CHOICE_ACCORDION = 6, /* max or min for each layer, by its own gradient */
	PSGD_CHOICE_LGRECO = 7,	   /* the cheapest ranks of layers within an error budget */
	PSGD_CHOICE_ENTROPY = 8	   /* falls with the change of the gradient's entropy */
};

struct psgd_schedule_range {
	uint64_t start_epoch, end_epoch; /* inclusive */
	uint32_t rank, reserved;	 /* rank 0: dense */
};

struct psgd_replay_entry {
	uint64_t step;		 /* first step with this rank; strictly increasing from 0 */
	uint32_t rank, reserved; /* rank 0: dense */
};

/*
 * Windows of epochnorm, in epochs, or in steps when `in_steps` is set. Costs GRAD_SUM in every step
 * and GRAD_NORM once a window.
 */
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

/*
 * Every interval_steps the norm of the mean gradient over the interval is divided by the moving
 * average of those before: at or above `critical` one candidate up, at or below `relaxed` one down.
 * The average is free of the bias of its start; the first interval holds. Begins at the largest
 * candidate. Costs GRAD_SUM in every step and GRAD_NORM once an interval.
 */
struct psgd_ema_options {
	size_t size;
	double beta;		 /* share of the old average, below 1; 0: 0.9 */
	double critical;	 /* 0: 1.2 */
	double relaxed;		 /* below critical; 0: 0.95 */
	uint64_t interval_steps; /* 0: 100 */
	/* Not 0: candidates are min_rank, half of this and this; min_rank and one more if equal. */
	uint32_t base_rank, reserved;
};

/*
 * Accordion (Agarwal, Wang, Lee, Venkataraman, Papailiopoulos, MLSys 2021), for each layer:
 * max_rank while the norm of worker 0's own gradient, summed over a window, changes by `threshold`
 * of what it was or more, and in the first window; min_rank else. A window is one epoch out of
 * `stride`, or `stride` steps on end. After a drop of the learning rate all layers are at max_rank
 * until the end of the next window. Costs LOCAL_SUM and a decision in every step, with no_lr_drop a
 * decision at the end of windows and epochs only, and LOCAL_NORMS once a window.
 */
struct psgd_accordion_options {
	size_t size;
	double threshold; /* 0: 0.5 */
	uint64_t stride;  /* 0: 10 epochs; in steps it must be given */
	uint8_t in_steps, no_lr_drop, reserved[6];
};

/*
 * L-GreCo (Markov, Alim, Frantar, Alistarh, MLSys 2024): every adjust_steps the ranks with the
 * fewest values to send among those that leave, over all layers, at most alpha times the error that
 * base_rank leaves. Errors are of worker 0's own gradients, summed over the last sample_steps. All
 * that min_rank and max_rank allow of [floor(low * base_rank), ceil(high * base_rank)] is tried.
 * Costs LOCAL_SUM in sample_steps of adjust_steps steps, and at the last one SPECTRUM of every
 * matrix and a dynamic program: layers * ranks tried * 10,000 additions, layers * 20,002 bytes.
 */
struct psgd_lgreco_options {
	size_t size;
	uint64_t adjust_steps; /* 0: 100 */
	uint64_t sample_steps; /* at most adjust_steps; 0: 10, or adjust_steps */
	double alpha;	       /* 0: 1 */
	double low, high;      /* 0: 0.5 and 2 */
	uint32_t base_rank;    /* 0: 4 */
	uint32_t reserved;
};

/*
 * The windowed rule of EDGC (entropy-driven gradient compression): the rank goes from min_rank to
 * max_rank with the change of the gradient's mean entropy from window to window, relative to that
 * between the first two. The first two windows are at max_rank. With the first change 0, the first
 * that is not takes its place. Costs a decision and ENTROPY every sample_every steps.
 */
struct psgd_entropy_options {
	size_t size;
	uint64_t window_steps; /* 0: 1000 */
	uint64_t sample_every; /* at most window_steps; 0: 10, or window_steps */
	uint32_t slew; /* most that the rank moves in a window, at least round_to; 0: 4, or that */
	uint32_t round_to; /* rounded down to a multiple of this; 0: 2, or 1 if slew is 1 */
};

/* Costs a decision and TIMING in the first 64 steps, every 4th later, and where the choice asks. */
struct psgd_live_options {
	size_t size;
	double max_exposed;    /* largest share of a step that may be exposed; 0: 0.30 */
	uint64_t dwell_steps;  /* between two steps up; 0: 50 */
	uint64_t warmup_steps; /* observed before the first move; 0: 5, or 3 with a prior */
	/* Of a message, as in psgd_cost_link, until messages say otherwise. Both 0: no prior. */
	double prior_delay_ns, prior_ns_per_byte;
};

/* Asks for a decision at start_step, and 1, 2, 4, 8 .. steps later should the rows be late. */
struct psgd_calibration_options {
	size_t size;
	uint64_t start_step; /* rows are handed over before this step */
	double max_exposed;  /* largest feasible exposed share; 0: 0.30 */
	/* 0: a best of 1 becomes the smallest candidate above 1. */
	uint32_t allow_rank_one, reserved;
};

struct psgd_rank_control_options {
	size_t size;
	uint32_t cap;	       /* enum psgd_cap_kind */
	uint32_t choice;       /* enum psgd_choice_kind */
	uint32_t min_rank;     /* 0: 1 */
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
	const uint32_t *replay_ranks; /* for each entry those of all tensors; NULL: its `rank` */
	size_t n_replay_tensors;
	const struct psgd_epochnorm_options *epochnorm; /* NULL: defaults, as the next ones */
	const struct psgd_live_options *live;
	const struct psgd_calibration_options *calibration;
	const struct psgd_ema_options *ema;
	const struct psgd_accordion_options *accordion;
	const struct psgd_lgreco_options *lgreco;
	const struct psgd_entropy_options *entropy;
};

/*
 * r = min(choice, cap), for each tensor. Accordion and L-GreCo decide for each matrix by itself,
 * the others, and the caps, for all alike. Everything in options is copied.
 * On success *out is the caller's; on failure zeroed, and error (may be NULL) says why.
 * Errors: INVALID, NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_controller_rank_control(const struct psgd_rank_control_options *options,
	char *error, size_t error_bytes, struct psgd_controller *out);

/*
 * The candidates of its cap: fills up to n, and returns how many there are; PSGD_RANK_DENSE is
 * last. 0 for a controller that is not of this kind, or has no cap. Any thread.
 */
PSGD_API size_t psgd_controller_candidates(
	const struct psgd_controller *controller, uint32_t *ranks, size_t n);

/* One candidate's measurement: means over the measured steps, and over the workers. */
struct psgd_calibration_row {
	uint32_t rank;	/* 0: dense */
	uint32_t steps; /* measured */
	int64_t step_ns;
	int64_t exposed_ns;
	uint64_t raw_bytes; /* of the gradients */
	uint64_t payload_bytes;
	int64_t compute_ns;
};

/*
 * Hands PSGD_CAP_CALIBRATION what was measured; on worker 0, between two steps. The decision after
 * it makes the best the cap: the largest candidate whose exposed_ns / step_ns is at most
 * max_exposed, the shares made monotone first. Until then the cap is the largest candidate that is
 * not dense. Rows of other ranks are passed over, and candidates without a row cannot be the best.
 * Errors: INVALID (no row of a candidate, two of one, times below 0), UNSUPPORTED (no such cap).
 */
PSGD_API psgd_status psgd_controller_calibrate(const struct psgd_controller *controller,
	const struct psgd_calibration_row *rows, size_t n_rows);

PSGD_END
#endif
