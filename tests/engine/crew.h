/*
 * Workers as threads that make everything themselves and do all that a trainer does. Nothing in
 * the threads asserts: what happened is told afterwards. Device memory comes from support/fault.h.
 */
#ifndef TESTS_ENGINE_CREW_H
#define TESTS_ENGINE_CREW_H

#include "grads.h"

struct crew_variant {
	const char *name;
	uint32_t n_workers, flags, rank, threads;
	bool powersgd, controlled, shaped;
	bool late; /* the controller wants own gradients from step 2 on */
};

struct crew;

struct crew_worker {
	struct crew *crew;
	struct psgd_transport local;
	uint32_t index;
	pthread_t thread;
	struct grads grads;
	pthread_mutex_t lock;
	psgd_session *open; /* while it may be aborted by others; guarded */
	/* What came of it. */
	psgd_status status;
	const char *where; /* the call that failed */
	char error[256];   /* the session's words then */
	uint64_t hash;	   /* of all gradients of all steps */
	bool again;	   /* a call failed for memory, and succeeded the second time */
	bool loose;	   /* a call did not keep its promise */
};

struct crew {
	const struct crew_variant *variant;
	/* Changes the options of a session before it is opened; NULL: does not. */
	void (*dress)(void *user, uint32_t worker, struct psgd_session_options *options);
	void *user;
	pthread_barrier_t barrier;
	struct crew_worker workers[TEAM_MAX];
};

/* Starts threads that wait, lets them go, and waits for their end. dress may be set in between. */
void crew_start(struct crew *crew, const struct crew_variant *variant);
void crew_go(struct crew *crew);
void crew_join(struct crew *crew);

/* Aborts a worker's session, if there is one now. From the thread that calls crew_join. */
void crew_abort(struct crew *crew, uint32_t worker);

#endif
