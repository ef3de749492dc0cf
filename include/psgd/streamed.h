/* Transports of collectives that run on a device's stream. SPDX-License-Identifier: MIT */
#ifndef PSGD_STREAMED_H
#define PSGD_STREAMED_H

#include <psgd/transport.h>

PSGD_BEGIN

#define PSGD_STREAMED_REASON 512

/* One collective, as a library of them gets it. */
struct psgd_streamed_job {
	size_t size;
	void *place;  /* of job_create */
	size_t bytes; /* of all the data */
	/* Data of the host, in the place's memory; NULL: data are the device's. */
	void *host;
	const struct psgd_collective *collective;
	/* To be called behind the collective, from any thread. */
	void (*done)(void *user);
	void *user;
};

/*
 * A library whose collectives are put on a stream and run there: psgd/nccl.h fills this for NCCL.
 * Order, deadlines, notices and whatever else the contract of a transport asks for is the business
 * of psgd_transport_streamed. Data of the host are taken when posted. Who posts calls is_host,
 * place_create and mark; one thread of the transport calls start and test, another one abort and
 * close. What fails says why in reason, of PSGD_STREAMED_REASON bytes.
 */
struct psgd_streamed_ops {
	size_t size;
	const char *name; /* of the transport */
	/* Whether data is memory of the host. */
	psgd_status (*is_host)(void *self, const void *data, bool *host, char *reason);
	/*
	 * What one collective at a time needs, for use again and again until close frees it; with
	 * memory of the host, bytes > 0, where data of the host are to be.
	 */
	psgd_status (*place_create)(
		void *self, size_t bytes, void **place, void **host, char *reason);
	/* Remembers the point in the stream where the data is ready. */
	psgd_status (*mark)(void *self, void *place, psgd_stream stream, char *reason);
	/*
	 * Puts the collective on the library's stream, behind the mark, and `done` behind it.
	 * PENDING: not all of it is there yet, call again before another one is started.
	 */
	psgd_status (*start)(void *self, const struct psgd_streamed_job *job, char *reason);
	/*
	 * PENDING; or OK: the result is in place for any stream, *wire_ns is how long the stream
	 * was at it.
	 */
	psgd_status (*test)(
		void *self, const struct psgd_streamed_job *job, int64_t *wire_ns, char *reason);
	/* Ends what is on the stream, once; here and, if it can, there. May block; may be called
	 * while the other thread is in a call that does. */
	void (*abort)(void *self);
	/* The last call: frees all. PENDING: waits for peers; call again, perhaps after abort. May
	 * block. No `done` is called once it has returned OK. */
	psgd_status (*close)(void *self);
};

/*
 * A transport of such a library. timeout_ns: deadline of each collective, once those before it are
 * through; 0: 60 s. A library that does not return from a call cannot keep a request: 5 s after
 * the deadline, or abort, it ends with its error all the same. psgd_transport_destroy waits as
 * long, then leaves the library's memory and threads behind; the error text says so before.
 * ops must outlive *out. On success self is ended by ops->close; on failure it is still the
 * caller's, and *out is zeroed. Errors: INVALID, NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_transport_streamed(const struct psgd_streamed_ops *ops, void *self,
	uint32_t worker, uint32_t n_workers, int64_t timeout_ns, struct psgd_transport *out);

PSGD_END
#endif
