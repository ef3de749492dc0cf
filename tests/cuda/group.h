/* Random groups of matrices on two devices: for tests of the CUDA device. */
#ifndef TESTS_CUDA_GROUP_H
#define TESTS_CUDA_GROUP_H

#include "cuda/cuda.h"

#define MOST_MATRICES 200

struct group {
	size_t count;
	struct psgd__matrix cpu[MOST_MATRICES], cuda[MOST_MATRICES];
	struct twin g[MOST_MATRICES], e[MOST_MATRICES], p[MOST_MATRICES], q[MOST_MATRICES],
		keep[MOST_MATRICES];
};

struct sizes {
	uint32_t count;
	uint32_t most_n, most_m, most_r;
};

/* Sizes up to the given ones, the first with all columns; a matrix in four is not aligned, one in
 * four has no e. */
struct group *group_new(struct devices *d, const struct sizes *sizes, struct rng *rng);
void group_send(struct devices *d, const struct group *group);
/* g, e, p, q and keep, bit for bit; q: also q. */
void group_equal(struct devices *d, const struct group *group, bool q);
void group_free(struct devices *d, struct group *group);

#endif
