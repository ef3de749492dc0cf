/*
 * The engine behind psgd_session and psgd_exchange: a queue of exchanges that hand out collectives
 * in one fixed order. Nothing here does I/O; session.c drives it with a transport and a thread.
 *
 * Threads: `lock` guards what is marked so. Everything else belongs to the thread that advances
 * exchanges: the progress thread, or the caller of psgd_exchange_next.
 */
#ifndef PSGD_ENGINE_CORE_H
#define PSGD_ENGINE_CORE_H

#include <pthread.h>

#include <psgd/exchange.h>
#include <psgd/session.h>

#include "base/base.h"
#include "base/index.h"
#include "base/kernels.h"
#include "base/state.h"

/* Steps of a trial as compressors see them: no start phase reaches so far. */
#define PSGD__TRIAL_STEP (UINT64_C(1) << 63)
/* One that is told, the one before, and one that is being made: what a report tells stays. */
#define PSGD__DECISIONS 3
#define PSGD__REGIME_BYTES 64 /* of the text of a decision that was loaded */

enum psgd__kind { PSGD__BUCKET = 1, PSGD__CONTROL, PSGD__BROADCAST, PSGD__SUM, PSGD__SYNC };

enum psgd__busy { PSGD__ENCODING = 0, PSGD__DECODING, PSGD__ON_WIRE, PSGD__N_BUSY };

struct psgd__interval {
	int64_t start_ns, end_ns;
	enum psgd__busy what;
};

/* Everything observed in one step. */
struct psgd__record {
	struct psgd__interval *intervals;
	size_t n_intervals, intervals_capacity;
	struct psgd__interval *waits; /* of the driver thread; `what` is not used */
	size_t n_waits, waits_capacity;
	struct psgd__interval *syncs; /* the driver thread in psgd_session_sync */
	size_t n_syncs, syncs_capacity;
	/* From the submit of a bucket to when an asynchronous device had its gradients. */
	struct psgd__interval *producing;
	size_t n_producing, producing_capacity;
	struct psgd_message_time *messages; /* of buckets, ns of this worker */
	size_t n_messages, messages_capacity;
	struct psgd_bucket_time *buckets; /* of this worker */
	size_t n_buckets, buckets_capacity;
	int64_t start_ns;
	uint64_t raw_bytes, payload_bytes, control_bytes, sent_bytes, sync_bytes;
	double sum_squares;
	uint32_t rank_min, rank_max, n_nonfinite;
	bool in_grad_sum, in_local_sum; /* something of the step is in the sum */
	/* What the buckets were, for questions of the controller: ids one after the other. */
	uint32_t *ids;
	size_t n_ids, ids_capacity;
	struct psgd__range {
		size_t from, count;
	} * bucket_ids; /* into ids */
	size_t bucket_ids_capacity;
};

/* The end of a step as the control exchange needs it. */
struct psgd__control {
	uint32_t needs;
	uint32_t observed; /* what was observed of this worker's own gradients; worker 0 */
	bool first, check_hash;
	uint64_t step; /* that ended */
	struct psgd_step_info info;
	struct psgd__record record;
	struct psgd_report report; /* times of this worker */
	double *vector;		   /* one block per worker */
	size_t block;		   /* doubles in it */
	unsigned char *ranks;	   /* the broadcast message */
	size_t ranks_bytes;
	struct psgd_decision decision; /* worker 0's */
};

struct psgd_exchange {
	struct psgd_exchange *next; /* in the order of messages; guarded by lock in a session */
	psgd_session *session;
	enum psgd__kind kind;
	int stage;
	bool owned;	/* a caller holds it: psgd_exchange_end frees it */
	bool all_sent;	/* every collective was handed out: the next exchange's turn */
	bool in_flight; /* the last collective handed out is not back yet */
	bool done;	/* guarded by lock in a session */
	psgd_ticket ticket;
	/* Of a bucket: what all workers must agree on. It is in every tag. Others: kind and step,
	 * or the number of values of a sync.
	 */
	uint64_t signature;
	struct psgd_exchange *carrier;	   /* whose caller runs the collective; see stepper.c */
	struct psgd_collective collective; /* the last one handed out */
	bool is_control;		   /* it counts as control bytes */

	/* PSGD__BUCKET */
	struct psgd_bucket bucket;
	struct psgd_grad *grads;
	struct psgd__span *spans;     /* of the gradients, when their norm is wanted */
	struct psgd__addend *addends; /* and when their sum is */
	struct psgd_plan plan;
	struct psgd_round round;
	void *memory; /* of all messages */
	double *agreement;
	size_t number; /* of the bucket in its step */
	int64_t ready_ns, encode_ns, decode_ns;
	/* Its work on an asynchronous device; see device.c. */
	struct {
		psgd_event ready;
		psgd_event marks[2 * (PSGD_MAX_ROUNDS + 1)];
		uint32_t n_marks;
		bool watched;	 /* the progress thread will be called when `ready` is reached */
		bool through;	 /* all of it is in the stream */
		int64_t done_ns; /* when the stream was through with it; guarded */
	} flow;

	/* PSGD__CONTROL */
	struct psgd__control control;

	/* PSGD__BROADCAST, PSGD__SUM, PSGD__SYNC */
	void *data;
	int64_t count;
	uint32_t root;

	/* The driver's */
	void *request;
	int64_t posted_ns;
};

struct psgd__block {
	void *memory;
	size_t bytes;
	uint64_t step; /* that used it last */
	bool used;
};

struct psgd_session {
	struct psgd_session_options options;
	struct psgd_device device, own_device;
	struct psgd_compressor compressor, own_compressor;
	/* Whole tables: what the caller's short ones lack is NULL here. */
	struct psgd_device_ops device_ops;
	struct psgd_compressor_ops compressor_ops;
	struct psgd_controller_ops controller_ops;
	struct psgd_transport_ops transport_ops;
	struct psgd_controller controller;
	struct psgd_transport transport; /* ops NULL: exchanges */
	uint32_t worker, n_workers;
	struct psgd_tensor *tensors;
	int64_t *counts;
	uint64_t *shapes; /* hash of the dimensions of each tensor */
	size_t n_tensors;
	struct psgd__index index;
	/* An asynchronous device's; see device.c. */
	bool asynchronous, has_streams;
	psgd_stream stream; /* of all work; NULL on other devices */
	psgd_stream gate;   /* calls when gradients are ready */
	psgd_event *events; /* that nothing uses; guarded, as are their numbers */
	size_t n_events, events_capacity, events_made;
	uint64_t *submitted_in; /* step + 1 in which a tensor was submitted last; driver thread */

	pthread_mutex_t lock;
	pthread_cond_t wake; /* for the progress thread */
	pthread_cond_t done; /* for callers that wait */
	pthread_t thread;
	bool has_thread, locks_ready, attached;
	bool stop, woken, aborted;  /* guarded */
	size_t owed;		    /* calls of notify that are still to come; guarded */
	psgd_status status;	    /* first failure, sticky; guarded */
	char error[512];	    /* guarded */
	struct psgd_exchange *head; /* queue; guarded */
	struct psgd_exchange *held; /* waiting for finish_step, without overlap; driver thread */
	psgd_ticket last_ticket;    /* driver thread */
	struct psgd__record record; /* of the step that runs; guarded */
	uint32_t *ranks;	    /* in force; guarded */
	bool decided;		    /* guarded, as decision */
	struct psgd_decision decision;
	uint32_t decided_rank;
	uint32_t *decision_ranks[PSGD__DECISIONS]; /* of the last decisions */
	int decision_turn;			   /* the oldest of them; guarded */
	char regime[PSGD__REGIME_BYTES];	   /* of a decision that was loaded */
	bool said_clamped;			   /* the log knows of a rank above a matrix */
	struct {
		bool on;
		struct psgd__kept kept; /* the compressor's state */
		uint32_t *ranks;	/* in force before */
		uint64_t step;
		uint64_t control_bytes, sent_bytes, sync_bytes; /* of the step to come */
	} trial; /* driver thread; read by the other while buckets are open */

	uint64_t step;		      /* driver thread */
	size_t step_buckets;	      /* submitted in it; driver thread */
	int64_t moved_ns;	      /* when a message came through last; progress thread */
	int64_t wire_end_ns;	      /* of the last message that came through; guarded */
	_Atomic size_t open_controls; /* not done yet: ranks of later buckets are unknown */
	uint64_t *seen;		      /* signatures that all workers have agreed on */
	size_t n_seen, seen_capacity;
	struct psgd__block *blocks;
	size_t n_blocks, blocks_capacity;
	uint64_t next_tag;
	bool sum_gradients;
	float *grad_sum;     /* all tensors one after the other */
	size_t *grad_sum_at; /* offset of each tensor */
	size_t grad_sum_values;
	uint64_t grad_sum_steps; /* driver thread, and control; so the next */
	uint64_t local_sum_steps;
	/* Of this worker's own gradients, on worker 0; each once it is asked for. */
	uint32_t observed; /* what of the step that runs: LOCAL_SUM, ENTROPY */
	float *local_sum;
	double *local_norms;
	float *samples; /* every sample_stride-th value; the host's memory */
	size_t n_samples, sample_stride;
	uint64_t samples_step; /* step + 1 that they are of */
};

/* First failure wins; text is formatted. Returns the session's status. Takes the lock. */
psgd_status psgd__session_fail(psgd_session *s, psgd_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same, in the device's own words when the failure is of the device, or of memory. */
psgd_status psgd__session_fail_as(psgd_session *s, psgd_status status);

/* The sticky status. Takes the lock. */
psgd_status psgd__session_status(psgd_session *s);

/* core.c */
psgd_status psgd__exchange_new(psgd_session *s, enum psgd__kind kind, struct psgd_exchange **out);
psgd_status psgd__bucket_new(psgd_session *s, const struct psgd_bucket *bucket, psgd_stream ready,
	struct psgd_exchange **out);
void psgd__exchange_free(struct psgd_exchange *x);
void psgd__queue_push(psgd_session *s, struct psgd_exchange *x);   /* takes the lock */
void psgd__queue_remove(psgd_session *s, struct psgd_exchange *x); /* takes the lock */
psgd_status psgd__message_memory(psgd_session *s, size_t bytes, void **out);
void psgd__message_release(psgd_session *s, void *memory);
void psgd__message_trim(psgd_session *s); /* gives back what the step that ends did not use */

/* setup.c */
psgd_status psgd__session_setup(const struct psgd_tensor *tensors, size_t n_tensors,
	const struct psgd_session_options *options, psgd_session **out);
void psgd__session_teardown(psgd_session *s);

/*
 * exchange.c: advances as far as possible. *worked: something was computed. When it hands out a
 * collective, in_flight is set; the driver clears it when the collective is done.
 */
psgd_status psgd__exchange_advance(struct psgd_exchange *x, bool *worked);

/* Hands out x->collective, when it is x's turn. */
psgd_status psgd__hand_out(struct psgd_exchange *x, uint32_t kind, uint32_t dtype, void *data,
	int64_t count, bool last);
psgd_status psgd__finish_exchange(struct psgd_exchange *x);

/* Writes out what zeros in a compressor's plan mean. INVALID: *bad is a round that cannot be. */
psgd_status psgd__plan_complete(struct psgd_plan *plan, uint32_t *bad);

/* device.c: UNSUPPORTED: a table that is neither of an asynchronous device nor of another. */
psgd_status psgd__device_check(psgd_session *s);
psgd_status psgd__device_open(psgd_session *s);
/* Waits until nothing of the session's is on its way on the device. */
void psgd__device_quiet(psgd_session *s);
void psgd__device_close(psgd_session *s);
/* What a failed status means, in the device's words if it has any. */
void psgd__device_words(psgd_session *s, psgd_status status, char *text, size_t bytes);
/* A failure that leaves the session as it was: keeps the device's words, returns status. */
psgd_status psgd__device_refuse(psgd_session *s, psgd_status status);
psgd_status psgd__device_accept(struct psgd_exchange *x, psgd_stream ready); /* driver thread */
psgd_status psgd__device_join(struct psgd_exchange *x);			     /* PENDING: not yet */
psgd_status psgd__device_mark(struct psgd_exchange *x);	   /* before and after a run */
psgd_status psgd__device_through(struct psgd_exchange *x); /* after the last one */
psgd_status psgd__device_done(struct psgd_exchange *x);	   /* PENDING: not yet */
void psgd__device_release(struct psgd_exchange *x);

/* agree.c: memory for an agreement on x->signature, if there was none before; its two halves. */
psgd_status psgd__agree_prepare(struct psgd_exchange *x);
psgd_status psgd__agree_send(struct psgd_exchange *x);
psgd_status psgd__agree_check(struct psgd_exchange *x);
/* Between two steps: when there are many, all are forgotten and agreed on anew. */
void psgd__agree_forget(psgd_session *s);

/* Names the workers whose block differs from worker 0's, "worker 1, worker 3"; false: none. */
bool psgd__differing(const double *blocks, size_t block, size_t compared, uint32_t n_workers,
	char *text, size_t bytes);

/* session.c: waits until the ticket (0: everything, or all but controls) has left the queue. */
psgd_status psgd__wait_for(psgd_session *s, psgd_ticket ticket, bool controls, int64_t timeout_ns);

/* control.c */
psgd_status psgd__control_new(psgd_session *s, const struct psgd_step_info *info,
	const struct psgd_report *report, struct psgd__record *record, bool first,
	struct psgd_exchange **out);
psgd_status psgd__control_advance(struct psgd_exchange *x);
void psgd__control_free(struct psgd__control *control);

/* Ranks from now on, and what they are by the compressor; set: with a word on those clamped. */
psgd_status psgd__ranks_put(psgd_session *s, const uint32_t *ranks);
psgd_status psgd__ranks_set(psgd_session *s, const uint32_t *ranks);

/* Gives a decision the ranks in force, in memory of the oldest decision. Lock held. */
void psgd__decision_ranks(psgd_session *s, struct psgd_decision *decision);

/* observe.c */
psgd_status psgd__observe_setup(psgd_session *s);
void psgd__observe_teardown(psgd_session *s);
uint64_t psgd__observe_bytes(const psgd_session *s);
/* Memory of the device, at zero in the order of the session's stream. On failure: none. */
psgd_status psgd__observe_zeros(psgd_session *s, size_t values, float **out);
/* What the controller wants of own gradients in that step, with memory for it; between steps. */
psgd_status psgd__observe_prepare(psgd_session *s, uint64_t step, uint32_t *needs);
psgd_status psgd__observe_own(struct psgd_exchange *x); /* before run(0) */
double psgd__observe_entropy(const psgd_session *s, uint64_t step);
psgd_status psgd__observe_norms(psgd_session *s);
psgd_status psgd__observe_errors(void *control, size_t i, uint32_t n, double *out);
psgd_status psgd__grad_sum_norm(psgd_session *s, double *out); /* NaN: there is no sum */
psgd_status psgd__grad_sum_reset(psgd_session *s);
psgd_status psgd__local_sum_reset(psgd_session *s);

/* state.c: nothing is on its way, but a first decision that an exchange has not carried yet. */
psgd_status psgd__settle(psgd_session *s);

/* trial.c */
void psgd__trial_free(psgd_session *s);

/* stats.c */
void psgd__record_free(struct psgd__record *record);
psgd_status psgd__record_interval(
	psgd_session *s, enum psgd__busy what, int64_t start_ns, int64_t end_ns);
/* A failure is the session's. */
psgd_status psgd__record_wait(psgd_session *s, int64_t start_ns, int64_t end_ns);
/* Merges the intervals: they are what the progress thread did and the wire carried, then. */
void psgd__record_merge(struct psgd__record *record);
/* Of the syncs until then: how long they waited behind buckets. The intervals are merged. */
int64_t psgd__record_behind(const struct psgd__record *record, int64_t until_ns);
psgd_status psgd__record_sync(psgd_session *s, int64_t start_ns, int64_t end_ns);
psgd_status psgd__record_bucket(struct psgd_exchange *x);
/* When the device had the gradients, if that was after they were submitted. */
psgd_status psgd__record_ready(struct psgd_exchange *x, int64_t ready_ns);
/* Busy times of a device as one stream has them, and when it was at the trainer's own work. */
void psgd__record_straighten(struct psgd__record *record);
psgd_status psgd__record_transfer(struct psgd_exchange *x, const struct psgd_transfer *transfer);
/* Times and bytes of a step that ends at end_ns; takes nothing from the record. */
void psgd__record_report(
	const struct psgd__record *record, int64_t end_ns, struct psgd_report *out);

/* The caller's words about the step that ends, whole; INVALID or UNSUPPORTED: nothing has changed.
 */
psgd_status psgd__step_info(const struct psgd_step_info *info, const struct psgd_report *report,
	struct psgd_step_info *out);

/*
 * The end of a step, shared by both drivers: report, the next step, and its control, which is NULL
 * if there is none and on failure.
 */
psgd_status psgd__step_end(psgd_session *s, const struct psgd_step_info *info, int64_t end_ns,
	struct psgd_report *report, struct psgd_exchange **control);

#endif
