/*
 * What the files of this room share. A rank control is a choice under a cap, r = min(choice, cap);
 * both are small tables of functions, made by the constructors below and put together in
 * rank_control.c. Nothing here reads a clock, does I/O or draws random numbers.
 *
 * Inside the room a rank is always comparable by size: dense is PSGD_RANK_DENSE, never 0.
 */
#ifndef PSGD_CONTROL_H
#define PSGD_CONTROL_H

#include "base/base.h"

#include <psgd/cost.h>
#include <psgd/rank_control.h>

#define PSGD__MAX_CANDIDATES 64

/* Ranks in increasing order. */
struct psgd__candidates {
	uint32_t rank[PSGD__MAX_CANDIDATES];
	size_t n;
};

/* Where a constructor writes why it refused its options. */
struct psgd__refusal {
	char *text;
	size_t bytes;
};

/* Writes the text; always PSGD_ERR_INVALID. */
psgd_status psgd__refuse(const struct psgd__refusal *refusal, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Copies options by size, and says so when that fails. */
psgd_status psgd__take_options(void *to, size_t to_size, const void *from, const char *name,
	const struct psgd__refusal *refusal);

/* What later versions may give a meaning must be 0. */
psgd_status psgd__check_reserved(
	const void *reserved, size_t bytes, const char *name, const struct psgd__refusal *refusal);

/* 0 gives 0.30; refuses what is no share of a step. */
psgd_status psgd__check_share(double *share, const char *name, const struct psgd__refusal *refusal);

static inline uint32_t psgd__lesser(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static inline uint32_t psgd__comparable(uint32_t rank)
{
	return rank ? rank : PSGD_RANK_DENSE;
}

static inline uint32_t psgd__public(uint32_t rank)
{
	return rank == PSGD_RANK_DENSE ? 0 : rank;
}

/* The step and the epoch that a decision is for. No step is observed in the first one. */
static inline uint64_t psgd__next_step(const struct psgd_observation *seen)
{
	return seen->first ? 0 : seen->step + 1;
}

static inline uint64_t psgd__next_epoch(const struct psgd_observation *seen)
{
	return seen->first || !seen->epoch_end ? seen->epoch : seen->epoch + 1;
}

/* The end of a window: one epoch out of `stride`, or `stride` steps on end. */
static inline bool psgd__window_ends(
	bool in_steps, uint64_t stride, uint64_t step, uint64_t epoch, bool epoch_end)
{
	return in_steps ? (step + 1) % stride == 0 : epoch_end && epoch % stride == 0;
}

/* Can the tensor be compressed at all? */
static inline bool psgd__is_matrix(const struct psgd_tensor *tensor)
{
	return tensor->n_dims >= 2 && !(tensor->flags & PSGD_TENSOR_DENSE);
}

/* Of the learning rate, as decisions see it. Zeros at first. */
struct psgd__rate_watch {
	double last;			    /* at the decision before; 0: never given */
	double epoch_end, epoch_end_before; /* of the last two epochs that ended; 0: not known */
	uint64_t epoch;
};

/* True when the learning rate has dropped since the decision before, and not only decayed. */
bool psgd__rate_dropped(struct psgd__rate_watch *rate, const struct psgd_observation *seen);

/* The k-th smallest of n values, k < n; changes their order. */
double psgd__nth(double *values, size_t n, size_t k);

struct psgd__choice_verdict {
	uint32_t rank;	       /* the largest */
	const uint32_t *ranks; /* per tensor, the choice's own; NULL: all at `rank` */
	const char *regime;
	double value, threshold;
	bool moved; /* ranks differ from those of the decision before */
	bool reset_grad_sum, reset_local_sum;
};

/*
 * A piece of state: a struct, or an array of structs whose length is only known while it runs.
 * What save writes, load checks and puts back, all pieces or none (state.c).
 */
struct psgd__state_piece {
	const char *name;
	void *at;     /* the struct; for an array, the pointer to its first element */
	size_t bytes; /* of one element */
	size_t *n;    /* of an array: its length. NULL: a struct */
	/* False for bytes that no run can have left; n elements. NULL: all are possible. */
	bool (*possible)(const void *self, const void *data, size_t n);
};

#define PSGD__MAX_PIECES 4

/* Fills pieces and returns how many there are. NULL: no later decision depends on earlier ones. */
typedef size_t psgd__pieces_of(void *self, struct psgd__state_piece *pieces);

/* What is saved and loaded together. */
struct psgd__state_owner {
	void *self;
	psgd__pieces_of *pieces;
};

psgd_status psgd__state_save(const struct psgd__state_owner *owners, size_t n_owners,
	const struct psgd_state_writer *writer);
psgd_status psgd__state_load(const struct psgd__state_owner *owners, size_t n_owners,
	const struct psgd_state_reader *reader);

/* decide may be called at steps for which the choice did not ask; it then repeats itself. */
struct psgd__choice_ops {
	uint32_t (*needs)(const void *self, uint64_t step, uint64_t epoch, bool epoch_end);
	psgd_status (*decide)(
		void *self, const struct psgd_observation *seen, struct psgd__choice_verdict *out);
	void (*destroy)(void *self);
	psgd__pieces_of *pieces;
};

struct psgd__choice {
	const struct psgd__choice_ops *ops;
	void *self;
};

struct psgd__cap_verdict {
	uint32_t rank;
	bool moved;	    /* differs from the decision before */
	const char *regime; /* NULL: the cap has nothing to say */
	double value, threshold;
	double delay_ns, ns_per_byte, predicted_exposed;
};

struct psgd__cap_ops {
	/* decision: the choice asks for one anyway */
	uint32_t (*needs)(const void *self, uint64_t step, bool decision);
	psgd_status (*decide)(
		void *self, const struct psgd_observation *seen, struct psgd__cap_verdict *out);
	void (*destroy)(void *self);
	psgd__pieces_of *pieces;
};

struct psgd__cap {
	const struct psgd__cap_ops *ops;
	void *self;
};

/* Constructors copy what they are given. On failure *out is as it was. */
psgd_status psgd__choice_fixed(uint32_t rank, const char *regime, struct psgd__choice *out);
psgd_status psgd__choice_schedule(const struct psgd_rank_control_options *options,
	const struct psgd__refusal *refusal, struct psgd__choice *out);
psgd_status psgd__choice_replay(const struct psgd_rank_control_options *options,
	const struct psgd__refusal *refusal, struct psgd__choice *out);
psgd_status psgd__choice_epochnorm(const struct psgd_epochnorm_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out);
psgd_status psgd__choice_ema(const struct psgd_ema_options *options,
	const struct psgd_rank_control_options *bounds, const struct psgd__candidates *candidates,
	const struct psgd__refusal *refusal, struct psgd__choice *out);
psgd_status psgd__choice_accordion(const struct psgd_accordion_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out);
psgd_status psgd__choice_lgreco(const struct psgd_lgreco_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out);
psgd_status psgd__choice_entropy(const struct psgd_entropy_options *options, uint32_t min_rank,
	uint32_t max_rank, const struct psgd__refusal *refusal, struct psgd__choice *out);

psgd_status psgd__cap_calibration(const struct psgd_calibration_options *options,
	const struct psgd__candidates *candidates, const struct psgd__refusal *refusal,
	struct psgd__cap *out);
psgd_status psgd__cap_live(const struct psgd_live_options *options,
	const struct psgd__candidates *candidates, const struct psgd__refusal *refusal,
	struct psgd__cap *out);

/* As psgd_controller_calibrate; UNSUPPORTED for a cap of another kind. */
psgd_status psgd__cap_calibration_take(
	const struct psgd__cap *cap, const struct psgd_calibration_row *rows, size_t n_rows);

/*
 * Makes *layers, of a choice that holds `size` bytes of each tensor, fit the session that is seen:
 * one element a tensor, zeros for the caller to fill when they are *fresh. layers: the pointer's
 * address; *n is 0 at first, or as a loaded state has it. Errors: INVALID (no tensors),
 * MISMATCH (a state of another session), NOMEM.
 */
psgd_status psgd__fit_layers(
	const struct psgd_observation *seen, void *layers, size_t *n, size_t size, bool *fresh);

/* The switch of epochnorm at a decision point; everything it may know is here. */
struct psgd__epochnorm_facts {
	uint64_t now; /* the unit (epoch or step) that the decision is for */
	uint64_t force_max;
	double norm, past; /* NaN: not known */
	double threshold;
	uint32_t current, min, max;
	bool in_lr_cooldown, in_rank_cooldown;
};

/* *out: but for moved and resets. Returns the regime as a number, which state can keep. */
uint32_t psgd__epochnorm_decide(
	const struct psgd__epochnorm_facts *facts, struct psgd__choice_verdict *out);

/*
 * Index of the best candidate by the exposed shares measured at each: the largest that is at most
 * `threshold`, after the shares were made monotone; the first if there is none. Unless
 * allow_rank_one is set, a best of r=1 becomes the next candidate, if that is not dense.
 * *fitted (may be NULL): the monotone share of the result.
 */
size_t psgd__calibration_select(const uint32_t *ranks, const double *shares, size_t n,
	double threshold, bool allow_rank_one, double *fitted);

/*
 * Candidates from a base rank: min_rank, half of base and base, the last two kept within the
 * bounds; with base = min_rank the largest is one above it, if the bounds allow. No two are equal.
 */
void psgd__candidates_of_base(
	uint32_t base, uint32_t min_rank, uint32_t max_rank, struct psgd__candidates *out);

/* A matrix that shares an error budget: ranks low to high, of `weight` values each. */
struct psgd__share {
	uint32_t low, high, start; /* start is between them */
	uint32_t rank;		   /* out */
	uint64_t weight;
	const double *error; /* error[r - low], at least 0 and not increasing */
};

/*
 * Ranks with (nearly) the least sum of rank * weight among those whose errors sum to at most
 * budget: exact for budgets smaller by n / 10,000 of it, never above the budget, never worse than
 * start where that is within it. *within: false when nothing is; all are at high then.
 * Errors: NOMEM.
 */
psgd_status psgd__share_budget(struct psgd__share *shares, size_t n, double budget, bool *within);

/* The sum of the errors at the chosen ranks. */
double psgd__shared_error(const struct psgd__share *shares, size_t n);

/*
 * Wire time of a message = delay_ns + ns_per_byte * bytes, by recent messages. delay_ns is below 0
 * where the first bytes take no time.
 */
#define PSGD__FIT_STEPS 16
#define PSGD__FIT_MESSAGES 32

struct psgd__fit_step {
	size_t n;
	double bytes[PSGD__FIT_MESSAGES];
	double ns[PSGD__FIT_MESSAGES];
};

#define PSGD__FIT_ANCHORS 48

struct psgd__link_fit {
	struct psgd__fit_step step[PSGD__FIT_STEPS]; /* oldest first */
	size_t n_steps;
	uint64_t taken; /* steps ever added */
	/*
	 * One remembered message per power of two. While all messages are small they say little of
	 * the rate: what larger ones took is kept until the link is seen to change.
	 */
	struct psgd__fit_anchor {
		double bytes, ns;
		uint32_t seen, reserved; /* messages; too few are not used */
	} anchor[PSGD__FIT_ANCHORS];
	double delay_ns, ns_per_byte;
	double known_delay_ns;	  /* while `known`: it holds unless messages say otherwise, */
	double known_free_bytes;  /* or these do */
	double prior_ns_per_byte; /* 0: none */
	uint32_t known, known_off;
};

/* What is taken for the link before messages say otherwise. */
void psgd__link_fit_prior(struct psgd__link_fit *fit, double delay_ns, double ns_per_byte);

/* Adds a step's messages. True when they show that the link is another one than before. */
bool psgd__link_fit_add(
	struct psgd__link_fit *fit, const struct psgd_message_time *messages, size_t n);

/* False for what psgd__link_fit_add cannot have left. */
bool psgd__link_fit_possible(const struct psgd__link_fit *fit);

#endif
