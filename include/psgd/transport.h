/* Transports: collectives between workers. SPDX-License-Identifier: MIT */
#ifndef PSGD_TRANSPORT_H
#define PSGD_TRANSPORT_H

#include <psgd/shaper.h>
#include <psgd/types.h>

PSGD_BEGIN

enum psgd_collective_kind {
	PSGD_ALLREDUCE_SUM = 1, /* F32, F64 */
	PSGD_BROADCAST = 2,	/* any dtype, from `root` */
	/*
	 * Any dtype. data is n_workers blocks of `count` values, in the order of the workers. Each
	 * worker fills its own block before, and has all of them after; what the other blocks held
	 * does not matter.
	 */
	PSGD_ALLGATHER = 3
};

/* One collective, in place: every worker posts it with the same kind, dtype, count, root, tag. */
struct psgd_collective {
	size_t size;
	uint32_t kind;	/* enum psgd_collective_kind */
	uint32_t dtype; /* enum psgd_dtype */
	int64_t count;	/* values, at least 1; of an all-gather: in one worker's block */
	void *data;	/* borrowed until the request is done */
	uint64_t tag;	/* what the message is and its place in the order; equal on all workers */
	psgd_stream stream; /* data is ready in this order; NULL on the CPU */
	/*
	 * When not NULL: called exactly once for a request that was posted, from any thread, when
	 * `test` has something to say; perhaps before post returns, perhaps after test has ended
	 * the request.
	 */
	void (*notify)(void *user);
	void *notify_user;
	uint32_t root;	   /* of a broadcast */
	uint32_t reserved; /* 0 */
};

/* What a finished collective cost, as the transport saw it. Times by CLOCK_MONOTONIC. */
struct psgd_transfer {
	size_t size;
	int64_t post_ns;  /* handed to the transport */
	int64_t start_ns; /* on the wire: all workers have posted, earlier messages are through */
	int64_t end_ns;	  /* result in place */
	uint64_t payload_bytes; /* count * bytes of the dtype: of an all-gather, one block */
	uint64_t sent_bytes;	/* what this worker sent for it by the transport's algorithm */
};

/*
 * The contract of a transport:
 * - collectives run in the order of posting, which is the same on every worker;
 * - an all-reduce leaves the same bits on every worker, in an order of summation of its own;
 * - post returns at once; a failed post started nothing;
 * - every request ends: with OK, or with an error within the transport's deadline;
 * - after an error every later request fails too, at once.
 * post and test are called by one thread, abort and error by any.
 */
struct psgd_transport_ops {
	size_t size;
	const char *name;
	psgd_status (*post)(void *self, const struct psgd_collective *collective, void **request);
	/*
	 * Waits up to timeout_ns (0: does not wait). PENDING: call again. Anything else frees the
	 * request; OK fills *out, which may be NULL.
	 */
	psgd_status (*test)(
		void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out);
	/* All pending and later requests fail soon with TRANSPORT or PEER_LOST, here and there. */
	void (*abort)(void *self);
	/* Copies the reason of the last failure, which names the peer if known; "" if none. */
	void (*error)(void *self, char *text, size_t bytes);
	/* No request may be pending, except after abort. */
	void (*destroy)(void *self);
};

struct psgd_transport {
	const struct psgd_transport_ops *ops;
	void *self;
	uint32_t worker;    /* 0 .. n_workers-1 */
	uint32_t n_workers; /* at least 1 */
};

/*
 * A byte all-gather outside the data path, for bootstrapping: recv gets n_workers blocks of
 * `bytes` bytes in worker order. Blocking, with a deadline of its own. One thread.
 */
struct psgd_oob {
	psgd_status (*allgather)(void *self, const void *send, void *recv, size_t bytes);
	void *self;
	uint32_t worker;
	uint32_t n_workers;
};

struct psgd_gloo_options {
	size_t size;
	const struct psgd_oob *oob; /* borrowed until the constructor returns */
	const char *address; /* own address to bind, numeric or a host name; NULL: loopback */
	const char
		*interface_name; /* takes the place of address when not NULL, for example "eth0" */
	int64_t timeout_ns;	 /* deadline of every operation; 0: 60 s */
	const char *module_dir;	 /* where psgd-gloo.so is; NULL: beside the library */
	char *error;		 /* the caller's buffer for the reason of a failure, or NULL */
	size_t error_bytes;
};

/*
 * Endpoints out[0 .. n_workers-1] for workers that are threads of one process. Sums in worker
 * order; sent_bytes is what rings and trees over a network would have sent. timeout_ns: deadline
 * of every operation, 0: 60 s.
 * The caller ends each by psgd_transport_destroy, in any order. Errors: INVALID, NOMEM.
 */
PSGD_API psgd_status psgd_transport_local(
	uint32_t n_workers, int64_t timeout_ns, struct psgd_transport *out);

/*
 * TCP between processes by Gloo (module psgd-gloo.so): ring all-reduce and all-gather, tree
 * broadcast. All workers call it together. On success *out is the caller's; on failure it is
 * zeroed. Errors: UNSUPPORTED (no module: the reason is in options->error), INVALID, NOMEM,
 * TRANSPORT, PEER_LOST, TIMEOUT, IO (no such interface).
 */
PSGD_API psgd_status psgd_transport_gloo(
	const struct psgd_gloo_options *options, struct psgd_transport *out);

/*
 * Decorator: collectives go through `inner` and complete when they would have on the link that
 * `shaper` describes. inner and shaper are borrowed and must outlive *out. The same link on every
 * worker, also while it changes (psgd_shaper_set_link). A message is charged from the moment all
 * workers have posted it, as the ring all-reduce (2(n-1) steps of bytes/n, a delay each), the ring
 * all-gather (n-1 steps of one block, a delay each) or the tree broadcast (ceil(log2 n) steps).
 * Errors: INVALID, NOMEM, UNSUPPORTED (a shaper without `admit`).
 */
PSGD_API psgd_status psgd_transport_shaped(const struct psgd_transport *inner,
	const struct psgd_shaper *shaper, struct psgd_transport *out);

/*
 * The same where `inner` is a slow network already: the time of the shaper's link comes on top of
 * that of each collective, and the next one waits for it. A worker that comes late is in the times,
 * as in those of `inner`.
 */
PSGD_API psgd_status psgd_transport_delayed(const struct psgd_transport *inner,
	const struct psgd_shaper *shaper, struct psgd_transport *out);

struct psgd_nccl_options {
	size_t size;
	const struct psgd_oob *oob; /* borrowed until the constructor returns */
	int64_t timeout_ns;	/* deadline of every operation, the constructor's too; 0: 60 s */
	const char *module_dir; /* where psgd-nccl.so is; NULL: beside the library */
	char *error;		/* the caller's buffer for the reason of a failure, or NULL */
	size_t error_bytes;
	uint32_t ordinal; /* of this worker's CUDA device; no two workers may share one */
	uint32_t reserved;
};

/*
 * NCCL between the CUDA devices of processes (module psgd-nccl.so), on a stream of its own. Data
 * are memory of the device, or of the host: these are taken when posted, and go by way of a buffer.
 * NCCL's environment variables act. All workers call it together; posting makes the device the
 * thread's current one. On success *out is the caller's; on failure it is zeroed. Errors:
 * UNSUPPORTED (no module or device, two workers on one device), INVALID (no such ordinal ...),
 * MISMATCH (NCCL of another version), NOMEM, DEVICE, TRANSPORT, PEER_LOST, TIMEOUT.
 */
PSGD_API psgd_status psgd_transport_nccl(
	const struct psgd_nccl_options *options, struct psgd_transport *out);

/*
 * Which NCCL there is: *version as NCCL counts, 22809 is 2.28.9. Touches no device; module_dir as
 * in the options. Errors: INVALID, UNSUPPORTED (no module: the reason is in error). Any thread.
 */
PSGD_API psgd_status psgd_nccl_info(
	const char *module_dir, uint32_t *version, char *error, size_t error_bytes);

/* Ends a transport and zeroes it. NULL and zeros are fine. */
PSGD_API void psgd_transport_destroy(struct psgd_transport *transport);

PSGD_END
#endif
