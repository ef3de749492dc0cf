/* The inside of psgd_transport_streamed, which two files share. */
#ifndef PSGD_TRANSPORT_STREAMED_IMPL_H
#define PSGD_TRANSPORT_STREAMED_IMPL_H

#include <psgd/streamed.h>

#include "transport/request.h"

/* How long the library may take to let go of requests, once something has failed. */
#define LET_GO_NS (5 * INT64_C(1000000000))

/* A place of the library's, with the collective that is in it. */
struct slot {
	struct slot *next; /* of all */
	struct slot *next_free;
	struct streamed *owner;
	struct psgd_streamed_job job;
	struct psgd_collective collective; /* the request may be gone before the library lets go */
	void *host;			   /* memory of the host, host_bytes of it, or NULL */
	size_t host_bytes;
	int64_t end_ns; /* when the stream was through; 0: it is not */
};

struct streamed_request {
	struct psgd__request base;
	struct slot *slot;
	bool started;
};

struct streamed {
	struct psgd__requests requests; /* its lock guards all that follows */
	pthread_cond_t work;		/* for the driver */
	pthread_cond_t state;		/* for the others: failed, stop, a thread has left ... */
	pthread_t driver, guard, ender;
	struct psgd_transport_ops table; /* with the library's name */
	const struct psgd_streamed_ops *ops;
	void *self;
	uint32_t worker, n_workers;
	int64_t timeout_ns;
	struct slot *slots, *free_slots;
	int64_t turn_ns;	   /* since when the first pending request is the first */
	int64_t through_ns;	   /* end of the latest collective */
	int64_t retry_ns, poll_ns; /* of the driver: when to call start, test again */
	bool woken;		   /* `done` was called */
	bool stop;
	bool driver_left, guard_left, ender_left, aborted;
	bool orphan;	    /* destroyed with threads inside the library: the last one frees */
	psgd_status failed; /* OK until something fails */
	int64_t let_go_ns;  /* then: how long the library may take to let go of requests */
	char reason[PSGD__REASON_BYTES];
};

/* The threads; arg is the struct. Each says so when it leaves. */
void *psgd__streamed_driver(void *arg);
void *psgd__streamed_guard(void *arg);
void *psgd__streamed_ender(void *arg);

/* With the lock held: the first failure is the one that counts. */
void psgd__streamed_fail(struct streamed *s, psgd_status status, const char *reason);
bool psgd__streamed_all_left(const struct streamed *s);
/* The request that is to end next, or NULL. */
struct streamed_request *psgd__streamed_next(const struct streamed *s);

void psgd__streamed_slot_done(void *user);    /* user: the slot */
void psgd__streamed_free(struct streamed *s); /* after all threads have left */

#endif
