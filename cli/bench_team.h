/* Threads that work together, and fail together. SPDX-License-Identifier: MIT */
#ifndef CLI_BENCH_TEAM_H
#define CLI_BENCH_TEAM_H

#include <pthread.h>

#include <psgd/transport.h>

#define CLI_TEAM_ERROR_BYTES 256
#define CLI_TEAM_BLOB_BYTES 16384

struct cli_team {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	uint32_t n, arrived;
	uint64_t meetings;
	char *blobs; /* what the members gather, a block each */
	psgd_status status;
	char error[CLI_TEAM_ERROR_BYTES];
};

/* Runs work(0 .. n-1) in a thread each, and waits for all: OK, or the first failure. */
psgd_status cli_team_run(
	struct cli_team *team, uint32_t n, void (*work)(uint32_t member, void *user), void *user);

/* Waits until all are here; the team's failure as soon as there is one. */
psgd_status cli_team_meet(struct cli_team *team);

/* The first failure is the team's; error may be "". */
void cli_team_fail(struct cli_team *team, psgd_status status, const char *error);

struct cli_team_member {
	struct cli_team *team;
	uint32_t number;
};

/* A byte all-gather between the members. `member` must live as long as it. */
struct psgd_oob cli_team_oob(struct cli_team_member *member);

#endif
