/* Threads that work together, and fail together. SPDX-License-Identifier: MIT */
#include "bench_team.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct thread {
	pthread_t id;
	uint32_t member;
	void (*work)(uint32_t member, void *user);
	void *user;
};

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	t->work(t->member, t->user);
	return NULL;
}

void cli_team_fail(struct cli_team *team, psgd_status status, const char *error)
{
	pthread_mutex_lock(&team->lock);
	if (team->status == PSGD_OK) {
		team->status = status;
		snprintf(team->error, sizeof(team->error), "%s", error);
	}
	pthread_cond_broadcast(&team->wake);
	pthread_mutex_unlock(&team->lock);
}

psgd_status cli_team_meet(struct cli_team *team)
{
	psgd_status status;
	uint64_t meeting;

	pthread_mutex_lock(&team->lock);
	meeting = team->meetings;
	if (++team->arrived == team->n) {
		team->arrived = 0;
		team->meetings++;
		pthread_cond_broadcast(&team->wake);
	}
	while (team->meetings == meeting && team->status == PSGD_OK)
		pthread_cond_wait(&team->wake, &team->lock);
	status = team->status;
	pthread_mutex_unlock(&team->lock);
	return status;
}

static psgd_status gather(void *self, const void *send, void *recv, size_t bytes)
{
	const struct cli_team_member *member = self;
	struct cli_team *team = member->team;
	psgd_status status;

	if (bytes > CLI_TEAM_BLOB_BYTES)
		return PSGD_ERR_INVALID;
	if (!bytes)
		return cli_team_meet(team);
	memcpy(team->blobs + (size_t)member->number * CLI_TEAM_BLOB_BYTES, send, bytes);
	status = cli_team_meet(team);
	for (uint32_t k = 0; k < team->n && status == PSGD_OK; k++)
		memcpy((char *)recv + k * bytes, team->blobs + (size_t)k * CLI_TEAM_BLOB_BYTES,
			bytes);
	/* Nobody writes the next before all have read this one. */
	return status == PSGD_OK ? cli_team_meet(team) : status;
}

struct psgd_oob cli_team_oob(struct cli_team_member *member)
{
	return (struct psgd_oob){gather, member, member->number, member->team->n};
}

psgd_status cli_team_run(
	struct cli_team *team, uint32_t n, void (*work)(uint32_t member, void *user), void *user)
{
	struct thread *threads = calloc(n, sizeof(*threads));
	uint32_t started = 0;

	*team = (struct cli_team){.n = n, .status = PSGD_OK};
	pthread_mutex_init(&team->lock, NULL);
	pthread_cond_init(&team->wake, NULL);
	team->blobs = calloc(n, CLI_TEAM_BLOB_BYTES);
	if (!threads || !team->blobs)
		team->status = PSGD_ERR_NOMEM;
	while (started < n && threads && team->blobs) {
		struct thread *t = &threads[started];

		*t = (struct thread){.member = started, .work = work, .user = user};
		if (pthread_create(&t->id, NULL, thread_main, t)) {
			cli_team_fail(team, PSGD_ERR_NOMEM, "cannot start a thread");
			break;
		}
		started++;
	}
	while (started > 0)
		pthread_join(threads[--started].id, NULL);
	free(threads);
	free(team->blobs);
	pthread_cond_destroy(&team->wake);
	pthread_mutex_destroy(&team->lock);
	return team->status;
}
