/*
 * What every transport does alike: check a collective, keep requests in the order of posting,
 * wait for one, tell its owner.
 */
#ifndef PSGD_TRANSPORT_REQUEST_H
#define PSGD_TRANSPORT_REQUEST_H

#include <pthread.h>

#include "base/base.h"

#include <psgd/transport.h>

#define PSGD__REASON_BYTES 512

/* First member of a transport's own request, which is one block of memory. */
struct psgd__request {
	struct psgd__request *prev, *next;
	struct psgd_collective collective; /* the caller's, checked and copied */
	struct psgd_transfer transfer;
	psgd_status status; /* PENDING until decided */
	bool claimed;	    /* a thread works on it without the lock: only that one may decide it */
	bool done;	    /* decided, and test may report it */
};

/* Requests in the order of posting, until test has reported them. */
struct psgd__requests {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct psgd__request *first, *last;
	uint32_t delivering; /* calls of notify that have not returned */
};

psgd_status psgd__requests_init(struct psgd__requests *q);
/* Frees what is left. No other thread may use q any more. */
void psgd__requests_destroy(struct psgd__requests *q);

/* With the lock held. */
void psgd__requests_add(struct psgd__requests *q, struct psgd__request *r);
void psgd__requests_free(struct psgd__requests *q, struct psgd__request *r);
void psgd__requests_fail(struct psgd__requests *q, psgd_status status);
void psgd__requests_wait_delivered(struct psgd__requests *q);

/* Without the lock: makes decided requests done, and calls notify of each once. */
void psgd__requests_deliver(struct psgd__requests *q);

/* What psgd_transport_ops.test says. */
psgd_status psgd__requests_test(struct psgd__requests *q, struct psgd__request *r,
	int64_t timeout_ns, struct psgd_transfer *out);

/*
 * A new request of `bytes` bytes for a checked copy of the collective. Posted now. streams: its
 * data may be a device's, in the order of a stream.
 */
psgd_status psgd__request_new(const struct psgd_collective *collective, uint32_t n_workers,
	bool streams, size_t bytes, struct psgd__request **out);

/* "worker 0: all-reduce of 3 f32 (12 bytes), tag 7" */
void psgd__request_describe(
	const struct psgd__request *r, uint32_t worker, char *text, size_t bytes);

/* What a worker sends for it when rings and trees of n workers are used. */
uint64_t psgd__request_sent_bytes(const struct psgd__request *r, uint32_t worker, uint32_t n);

/* A condition variable on CLOCK_MONOTONIC. */
psgd_status psgd__cond_init(pthread_cond_t *cond);
/* Until a signal or the deadline; INT64_MAX: no deadline. */
void psgd__cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns);
int64_t psgd__after_ns(int64_t timeout_ns); /* now + timeout, saturated */

/* A thread that takes no signals, so that they go to the program's own threads. */
psgd_status psgd__thread_start(pthread_t *thread, void *(*run)(void *), void *arg);

#endif
