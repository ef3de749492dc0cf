/* Runs one function as every worker of a transport: threads, or processes over loopback. */
#ifndef TESTS_TRANSPORT_WORKERS_H
#define TESTS_TRANSPORT_WORKERS_H

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include <psgd/transport.h>

/* Those before GLOO are threads of one process. */
enum kind { LOCAL, SHAPED, GLOO, SHAPED_GLOO, NCCL, SHAPED_NCCL };

/* The kinds that a program runs: one that is built for NCCL leaves the others to its twin. */
#ifdef NCCL_MODULE_DIR
#define FIRST_KIND NCCL
#define N_KINDS 2
#elif defined(GLOO_MODULE_DIR)
#define FIRST_KIND LOCAL
#define N_KINDS 4
#else
#define FIRST_KIND LOCAL
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

/* The constructor of the kind that is for processes, if the build has one. */
psgd_status open_transport(const struct psgd_oob *oob, int64_t timeout_ns, char *reason,
	size_t bytes, struct psgd_transport *out);

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
