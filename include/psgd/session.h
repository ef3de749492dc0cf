/* Sessions: the asynchronous driver that a trainer uses. SPDX-License-Identifier: MIT */
#ifndef PSGD_SESSION_H
#define PSGD_SESSION_H

#include <psgd/compressor.h>
#include <psgd/controller.h>
#include <psgd/device.h>
#include <psgd/state.h>
#include <psgd/transport.h>

PSGD_BEGIN

typedef struct psgd_session psgd_session;

enum psgd_session_flags {
	PSGD_SESSION_NO_OVERLAP = 1 << 0, /* work starts in finish_step: for comparison */
	PSGD_SESSION_GRAD_NORM = 1 << 1, /* report.grad_norm; one more pass; waits for the device */
	PSGD_SESSION_GRAD_SUM = 1 << 2	 /* report.grad_sum_norm of an epoch, worker 0; waits too */
};

/* All pointers are borrowed until the session is closed. */
struct psgd_session_options {
	size_t size;
	const struct psgd_device *device;	  /* NULL: the CPU */
	const struct psgd_compressor *compressor; /* NULL: dense */
	const struct psgd_controller *controller; /* NULL: ranks change by psgd_session_set_ranks */
	/* NULL: no progress thread; the caller runs the collectives, see exchange.h. */
	const struct psgd_transport *transport;
	uint32_t worker, n_workers; /* without a transport; n_workers 0: 1 */
	uint32_t flags;		    /* enum psgd_session_flags */
	uint32_t check_every;	    /* steps between comparisons of param_hash; 0: never */
	int64_t timeout_ns;	    /* deadline of a message in flight; 0: 600 s */
	psgd_log_fn log;
	void *log_user;
	enum psgd_log_level log_level;
	uint32_t reserved;
};

struct psgd_step_info {
	size_t size;
	uint64_t epoch;	      /* of the step that ends */
	double learning_rate; /* of the step that ends */
	uint64_t param_hash;  /* of the parameters that the step began with; 0: not given */
	uint32_t epoch_end;   /* 1: the last step of its epoch */
	uint32_t reserved;
};

/*
 * What a step was. Times in ns. The driver thread's time is partitioned:
 * step = compute + exposed_encode + exposed_wire + exposed_decode + sync, where an exposed part is
 * time in which the thread waited in this library, named after what the progress thread, or an
 * asynchronous device, did then; exposed_wire is all the rest of the waiting (the wire, and peers
 * that were not there yet). While such a device has yet to come to a bucket's `ready`, it is
 * compute. The messages of psgd_session_sync are in sync_* and sent_bytes alone.
 */
struct psgd_report {
	size_t size;
	uint64_t step;
	int64_t step_ns; /* from the end of the previous finish_step to the end of this one */
	int64_t compute_ns, exposed_encode_ns, exposed_wire_ns, exposed_decode_ns;
	/* Busy times, hidden or not: run(0), the later runs, messages on the wire. */
	int64_t encode_ns, decode_ns, wire_ns;
	int64_t hidden_wire_ns; /* the part of wire_ns in which the driver thread did not wait */
	int64_t sync_ns;	/* in psgd_session_sync */
	uint64_t raw_bytes;	/* gradients */
	uint64_t payload_bytes; /* messages of the buckets; of an all-gather, the own block */
	uint64_t control_bytes; /* payload of agreements, observations, ranks */
	uint64_t sent_bytes;	/* what the transport sent for all of these */
	uint64_t sync_bytes;	/* what it sent for psgd_session_sync */
	double grad_norm;	/* of the mean gradient; NaN without PSGD_SESSION_GRAD_NORM */
	double grad_sum_norm;	/* NaN unless epoch_end and PSGD_SESSION_GRAD_SUM, on worker 0 */
	uint32_t n_buckets, n_messages;
	uint32_t rank_min, rank_max;   /* over the compressed tensors of the step; 0: none */
	uint32_t n_nonfinite;	       /* buckets whose messages were not finite */
	uint32_t decided;	       /* 1: `decision` was taken after the previous step */
	struct psgd_decision decision; /* text lives as long as the session; worker 0 only */
};

struct psgd_memory {
	size_t size;
	uint64_t state_bytes;	/* of the compressor: error and Q */
	uint64_t message_bytes; /* P, Q and dense values of the buckets in use */
	uint64_t observe_bytes; /* gradient sums, samples */
};

/*
 * Opens a session over `tensors` (copied). No message is sent. Sessions in one process do not know
 * of each other. One thread drives a session at a time; psgd_session_abort and psgd_session_error
 * may be called by any. On success *out is the caller's, ended by psgd_session_close; else NULL.
 * Errors: INVALID (no tensor, id twice, bad shape or dtype, unknown flags), NOMEM, UNSUPPORTED,
 * STATE (the compressor is another session's), DEVICE.
 */
PSGD_API psgd_status psgd_session_open(const struct psgd_tensor *tensors, size_t n_tensors,
	const struct psgd_session_options *options, psgd_session **out);

/*
 * Restarts the clock of the step, so that work between two steps (evaluation, checkpoints) is not
 * counted as compute of the next. Not needed otherwise: a step begins where the last one ended, so
 * that the optimizer's time is in it. Errors: STATE (a bucket of the step is submitted already).
 */
PSGD_API psgd_status psgd_session_begin_step(psgd_session *session);

/*
 * Hands a bucket over, which is copied. The values at grads[i].data belong to the library until
 * the bucket is done, and are the mean over the workers then. All submit alike, in the same order.
 * A new one that differs is named; a known one in another place ends in TIMEOUT, over NCCL in wrong
 * sums. ready: stream of the values. On failure nothing was started. Errors: INVALID (unknown id,
 * NULL data, twice in this step), STATE (no transport), NOMEM, DEVICE, or the session's own.
 */
PSGD_API psgd_status psgd_session_submit(psgd_session *session, const struct psgd_bucket *bucket,
	psgd_stream ready, psgd_ticket *out);

/* Waits up to timeout_ns for a bucket: OK, PENDING, or the session's failure. */
PSGD_API psgd_status psgd_session_wait(
	psgd_session *session, psgd_ticket ticket, int64_t timeout_ns);

/*
 * Waits for all buckets of the step, fills *report (may be NULL), and lets the controller prepare
 * the ranks of the next step, which goes on while the trainer computes. Errors: INVALID and
 * UNSUPPORTED (the size of info or report, a field of info that this library does not know):
 * nothing has changed. Any failure of the step: the session has failed, gradients are undefined.
 */
PSGD_API psgd_status psgd_session_finish_step(
	psgd_session *session, const struct psgd_step_info *info, struct psgd_report *report);

/*
 * Adds up n values over the workers in the middle of a step; blocks; the same bits on all. In the
 * order of submits, on every worker alike; with NO_OVERLAP before all buckets. One worker: nothing
 * is sent. Errors: INVALID, STATE (no transport), NOMEM, or the session's: MISMATCH of n, named.
 * What is in memory of an asynchronous device, here and below, must be there when it is called.
 */
PSGD_API psgd_status psgd_session_sync(psgd_session *session, float *values, size_t n);

/* Copies n bytes from `root` to all workers. Between steps; blocks. Errors as finish_step. */
PSGD_API psgd_status psgd_session_broadcast(
	psgd_session *session, void *data, size_t bytes, uint32_t root);

/* Sums n values over the workers, the same bits on all. Between steps; blocks. */
PSGD_API psgd_status psgd_session_sum(psgd_session *session, double *values, size_t n);

/*
 * Compares a hash over the workers. Between steps; blocks. MISMATCH: psgd_session_error names the
 * workers that differ from worker 0, on every worker; the session goes on.
 */
PSGD_API psgd_status psgd_session_agree(psgd_session *session, uint64_t hash);

/*
 * Ranks from the next step on, one per tensor in the order of open, 0 for dense: the same on every
 * worker, between steps, for sessions without a controller. Errors: INVALID, STATE (there is a
 * controller, a step is open), UNSUPPORTED (the compressor has no rank), NOMEM.
 */
PSGD_API psgd_status psgd_session_set_ranks(
	psgd_session *session, const uint32_t *ranks, size_t n_ranks);

/*
 * State of this worker between two steps: step count, ranks, the decision that no report has told
 * yet, sums, the compressor's state and, on worker 0, the controller's. save waits for a decision
 * on its way. load: with the same tensors and options, before the first step or between two, on all
 * workers, of the same step; all goes on bit for bit as it would have where it was saved.
 * Errors: INVALID (an array is missing, or cannot have been saved), MISMATCH (of other tensors,
 * workers, options: see psgd_session_error), STATE (a step, an exchange, a trial is open), NOMEM,
 * those of writer and reader. A load that fails has changed nothing.
 */
PSGD_API psgd_status psgd_session_save(
	psgd_session *session, const struct psgd_state_writer *writer);
PSGD_API psgd_status psgd_session_load(
	psgd_session *session, const struct psgd_state_reader *reader);

#define PSGD_TRIAL_END UINT32_MAX

/*
 * Trial steps, between two steps, the same call on all workers. The first call keeps all state in
 * memory; the steps that follow use `rank` (0: dense) for all tensors, whatever the start phase and
 * the controller, which is not asked, and compare no hashes. Every further call restores what was
 * kept first, and PSGD_TRIAL_END ends the trial. Nothing of it stays, but of a compressor without
 * a state no more than its ranks is kept. Errors: STATE (a step or an exchange is open; END without
 * a trial), UNSUPPORTED (no ranks), MISMATCH (another rank on another worker), NOMEM: call again.
 */
PSGD_API psgd_status psgd_session_trial(psgd_session *session, uint32_t rank);

/* The rank in force of a tensor, clamped to its shape; 0: dense, or no such tensor. */
PSGD_API uint32_t psgd_session_rank(psgd_session *session, uint32_t tensor_id);

/* Device memory in use now. */
PSGD_API psgd_status psgd_session_memory(psgd_session *session, struct psgd_memory *out);

/* Copies the text of the last failure, "" if none. Any thread. */
PSGD_API void psgd_session_error(psgd_session *session, char *text, size_t bytes);

/* Makes all waiting calls fail soon, here and on the peers. Any thread. */
PSGD_API void psgd_session_abort(psgd_session *session);

/*
 * Ends a session and sets *session to NULL; work in flight is aborted. Between two steps the last
 * decision on ranks is let through first, for up to 60 s. NULL is fine.
 */
PSGD_API void psgd_session_close(psgd_session **session);

PSGD_END
#endif
