/* Runs one function as every worker of a transport: threads, or processes over loopback. */
#ifndef TESTS_TRANSPORT_WORKERS_H
#define TESTS_TRANSPORT_WORKERS_H

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include <psgd/transport.h>

enum kind { LOCAL, SHAPED, GLOO, SHAPED_GLOO };

/* The kinds that this build has; those before GLOO are threads of one process. */
#ifdef GLOO_MODULE_DIR
#define N_KINDS 4
#else
#define N_KINDS 2
#endif

#define MAX_WORKERS 5

/* Memory that all workers see, also when they are processes. */
struct board {
	atomic_uint arrived;
	atomic_ullong words[MAX_WORKERS];
};

struct worker {
	struct psgd_transport transport;
	struct psgd_shaper *shaper; /* of the shaped kinds */
	enum kind kind;
	struct board *board;
	void *arg;
};

struct cluster {
	enum kind kind;
	uint32_t n;
	int64_t timeout_ns;    /* 0: 60 s */
	struct psgd_link link; /* of the shaped kinds */
	void (*run)(struct worker *w);
	void *arg;
	int killed; /* this worker is expected to end by SIGKILL; -1: none */
};

/* Fails the test when a worker fails. The transports are ended afterwards. */
void run_workers(const struct cluster *cluster);

/* Waits until all workers have come here `round` times. */
void meet(struct worker *w, unsigned int round);

/* All bytes that TCP has sent over this process's connections. */
uint64_t socket_bytes(void);

int64_t now_ns(void);
void sleep_ms(int64_t ms);

/* In a worker, where Check's assertions do not reach. */
#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			_exit(99);                                                                 \
		}                                                                                  \
	} while (0)

#endif
