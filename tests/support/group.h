/*
 * N workers in one thread: sessions without transports, whose collectives are run here, in
 * worker order. What a trainer with collectives of its own does, and the shortest way to test laws.
 */
#ifndef TESTS_GROUP_H
#define TESTS_GROUP_H

#include <psgd/psgd.h>

#define GROUP_MAX 5

struct group {
	uint32_t n_workers;
	struct psgd_compressor compressor[GROUP_MAX];
	psgd_session *session[GROUP_MAX];
	uint64_t bytes; /* of all collectives so far, one worker's */
	int n_collectives;
};

/* make: creates worker w's compressor. options: the rest, or NULL. */
void group_open(struct group *g, uint32_t n_workers, const struct psgd_tensor *tensors, size_t n,
	psgd_status (*make)(void *user, struct psgd_compressor *out), void *user,
	const struct psgd_session_options *options);

/* Runs buckets[w][b] on every worker w, all of them in flight together, and ends the step. */
psgd_status group_step(struct group *g, struct psgd_bucket *const *buckets, size_t n_buckets,
	const struct psgd_step_info *info, struct psgd_report *report);

void group_close(struct group *g);

#endif
