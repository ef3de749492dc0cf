/* Compressors: how a bucket of gradients becomes messages. SPDX-License-Identifier: MIT */
#ifndef PSGD_COMPRESSOR_H
#define PSGD_COMPRESSOR_H

#include <psgd/device.h>
#include <psgd/state.h>
#include <psgd/transport.h>

PSGD_BEGIN

#define PSGD_MAX_ROUNDS 4

/*
 * One round of a bucket: a collective on its message.
 * PSGD_ALLREDUCE_SUM: `count` values of F32 or F64; the message is their sum afterwards.
 * PSGD_ALLGATHER: n_workers blocks of `count` values of any dtype; run fills this worker's block,
 * and has all of them afterwards. For what cannot be summed: signs, indices, quantized values.
 */
struct psgd_payload {
	uint32_t kind;	/* enum psgd_collective_kind; 0: PSGD_ALLREDUCE_SUM */
	uint32_t dtype; /* enum psgd_dtype; 0: PSGD_F32 */
	int64_t count;
};

/*
 * Bytes that a worker puts into a round: count values, which in an all-gather are one block.
 * 0: NULL, a negative count, an unknown dtype, or more than 64 bits hold. Any thread.
 */
PSGD_API uint64_t psgd_payload_bytes(const struct psgd_payload *payload);

/* What a bucket will send. A function of shapes, ranks and step: equal on all workers. */
struct psgd_plan {
	size_t size;
	uint64_t raw_bytes;    /* of the gradients */
	uint32_t n_rounds;     /* 1 .. PSGD_MAX_ROUNDS, each of at least one value */
	uint32_t n_compressed; /* tensors sent in compressed form */
	struct psgd_payload round[PSGD_MAX_ROUNDS];
};

/* What a compressor works on; borrowed until detach. */
struct psgd_scope {
	size_t size;
	const struct psgd_tensor *tensors; /* in the order of the session */
	size_t n_tensors;
	const struct psgd_device *device;
	uint32_t worker;
	uint32_t n_workers;
	/* In whose order state is changed outside of `run`; the one of all rounds. NULL on the CPU.
	 */
	psgd_stream stream;
};

/* One call of `run`. index i < n_rounds fills message[i]; index n_rounds finishes the bucket. */
struct psgd_round {
	size_t size;
	uint64_t step; /* as in plan; bit 63 is set in a trial */
	const struct psgd_bucket *bucket;
	/*
	 * Memory of the device for every round of the plan, aligned to 64 bytes, undefined at
	 * first, kept from the first call to the last. An all-reduce has `count` values; an
	 * all-gather has n_workers blocks of them, and worker w's begins at value w * count.
	 * When index >= 1, message[index - 1] holds the result of its collective.
	 */
	void *message[PSGD_MAX_ROUNDS];
	psgd_stream stream;
	uint32_t index;
	/*
	 * Out, of the last call: 1 if the messages were not finite. An asynchronous device writes
	 * it in the order of the stream; the round lasts until then.
	 */
	uint32_t nonfinite;
};

/*
 * A compressor. All entries are called by one thread at a time. State is keyed by tensor, never by
 * bucket, and changes only in the last `run` of a bucket, and `settle`, which follows it: a bucket
 * that is abandoned before leaves it as it was. So does a bucket whose messages are not finite: its
 * gradients are NaN then (by the dense compressor: the mean as it is). One session at a time:
 * attach gives STATE else.
 */
struct psgd_compressor_ops {
	size_t size;
	const char *name;
	psgd_status (*attach)(void *self, const struct psgd_scope *scope); /* by session_open */
	void (*detach)(void *self);					   /* by session_close */
	psgd_status (*plan)(
		void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out);
	/* As plan, with rank r for every tensor (0: dense) and no start phase. NULL: no rank. */
	psgd_status (*plan_at)(
		void *self, const struct psgd_bucket *bucket, uint32_t rank, struct psgd_plan *out);
	psgd_status (*run)(void *self, struct psgd_round *round);
	/*
	 * Ranks from the next step on, in the order of the session's tensors; 0: dense. On failure
	 * nothing has changed. NULL: the compressor has no rank.
	 */
	psgd_status (*set_ranks)(void *self, const uint32_t *ranks);
	uint32_t (*rank)(void *self, size_t tensor); /* in force, clamped; 0: dense. NULL: 0 */
	uint64_t (*state_bytes)(void *self);	     /* device memory held. NULL: 0 */
	void (*destroy)(void *self);
	/*
	 * All that later steps depend on, of this worker, between two steps. load: into a
	 * compressor that is attached to the same tensors; on failure nothing has changed. NULL: no
	 * state.
	 */
	psgd_status (*save)(void *self, const struct psgd_state_writer *writer);
	psgd_status (*load)(void *self, const struct psgd_state_reader *reader);
	/*
	 * After the last run, when the device is through with it: round->nonfinite is known. What
	 * the host keeps about the state changes here. NULL: nothing does.
	 */
	void (*settle)(void *self, const struct psgd_round *round);
};

struct psgd_compressor {
	const struct psgd_compressor_ops *ops;
	void *self;
};

struct psgd_powersgd_options {
	size_t size;
	uint64_t seed;	     /* of Q; 0: 42 */
	uint64_t start_step; /* steps before this one are dense */
	double min_ratio; /* compress if (n + m) * r * min_ratio < n * m; 0: 2; else at least 1 */
	double eps;	  /* added to column norms when orthonormalizing; at least 0 */
	uint32_t rank;	/* of every tensor at first; 0: 1, at most 1024. See set_ranks for dense */
	uint32_t flags; /* enum psgd_powersgd_flags */
};

enum psgd_powersgd_flags {
	PSGD_POWERSGD_NO_ERROR_FEEDBACK = 1 << 0,
	PSGD_POWERSGD_NO_WARM_START = 1 << 1 /* a new seeded Q in every step */
};

/*
 * Uncompressed: the mean of each gradient, one message a bucket.
 * On success *out is the caller's; on failure zeroed. Errors: NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_compressor_dense(struct psgd_compressor *out);

/*
 * PowerSGD with error feedback and warm start (Vogels, Karimireddy, Jaggi, NeurIPS 2019): one step
 * of power iteration per optimizer step. Tensors that fail min_ratio travel dense in the message
 * of P; a rank above 1024 or what a shape can have is taken for that. Device memory: one value per
 * gradient value (the error), plus (n + m) * r per matrix. On success *out is the caller's; on
 * failure zeroed. Errors: INVALID, NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_compressor_powersgd(
	const struct psgd_powersgd_options *options, struct psgd_compressor *out);

/* Ends a compressor after its session is closed, and zeroes it. NULL and zeros are fine. */
PSGD_API void psgd_compressor_destroy(struct psgd_compressor *compressor);

PSGD_END
#endif
