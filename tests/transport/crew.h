/* NCCL's workers as threads of one process, each with a device of its own. */
#ifndef TESTS_TRANSPORT_CREW_H
#define TESTS_TRANSPORT_CREW_H

#include <pthread.h>

#include "transport/workers.h"

#define MS INT64_C(1000000)

struct crew;

struct member {
	struct crew *crew;
	uint32_t worker;
	psgd_status status; /* of the constructor */
	char reason[512];
	struct psgd_transport transport;
	psgd_status result; /* for `run` to fill */
	pthread_t id;
};

struct crew {
	uint32_t n;
	int64_t timeout_ns;		/* 0: 20 s */
	uint32_t ordinals[MAX_WORKERS]; /* plus the worker's own number */
	void (*before)(struct member *m);
	/* With the transport, which is destroyed afterwards. NULL: it is only made. */
	void (*run)(struct member *m);
	struct member members[MAX_WORKERS];
	pthread_barrier_t barrier;
	char blocks[MAX_WORKERS][2048];
};

/* Returns when all have ended. */
void run_crew(struct crew *crew);

/* By the transport's deadline, and until it lets go, whatever happens. */
psgd_status collect(struct psgd_transport *t, const struct psgd_collective *c);

/* The sum of `count` f32: every worker has worker + 1. By memory of the host, or of the device. */
psgd_status sum_host(struct psgd_transport *t, int64_t count);
psgd_status sum_device(struct psgd_transport *t, uint32_t ordinal, int64_t count);

/* Waits for threads that were left behind. */
void require_no_leaks(void);

#endif
