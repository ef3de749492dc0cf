/* N workers as threads over psgd_transport_local, each with its own session. */
#ifndef TESTS_TEAM_H
#define TESTS_TEAM_H

#include <pthread.h>

#include <psgd/psgd.h>

#define TEAM_MAX 4

struct team;

struct member {
	struct team *team;
	uint32_t worker;
	psgd_session *session;
	psgd_status status; /* what `work` returned */
	char error[512];    /* the session's text then */
	struct psgd_transport local, shaped;
	struct psgd_shaper shaper;
	struct psgd_device device;
	struct psgd_compressor compressor;
	struct psgd_controller controller;
	pthread_t thread;
};

struct team {
	uint32_t n_workers;
	struct member members[TEAM_MAX];
	psgd_status (*work)(struct member *me, void *user);
	void *user;
	pthread_barrier_t barrier;
};

struct team_options {
	const struct psgd_tensor *tensors;
	size_t n_tensors;
	const struct psgd_powersgd_options *powersgd;	 /* NULL: dense */
	const struct psgd_link *link;			 /* NULL: not shaped */
	const struct psgd_rank_control_options *control; /* NULL: none */
	const struct psgd_session_options *session;	 /* flags and numbers; NULL: defaults */
	/* Kernels of each worker, see psgd_device_cpu_without; NULL: the default device. */
	const uint32_t *without;
	int64_t transport_timeout_ns;
};

/* Runs `work` on every worker and closes everything. Statuses and texts stay in team->members. */
void team_run(struct team *team, uint32_t n_workers, const struct team_options *options,
	psgd_status (*work)(struct member *me, void *user), void *user);

/* Waits until all workers are here. */
void team_meet(struct member *me);

void sleep_ns(int64_t ns);
int64_t now_ns(void);

#endif
