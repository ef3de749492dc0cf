/* Tensors of several kinds, and gradients that only (seed, worker, step) decide. */
#ifndef TESTS_ENGINE_GRADS_H
#define TESTS_ENGINE_GRADS_H

#include <stdlib.h>

#include "support/random.h"
#include "support/team.h"

#define TENSORS 5
#define MS INT64_C(1000000)

extern const struct psgd_tensor grads_tensors[TENSORS];

struct grads {
	float *data[TENSORS];
};

struct team_options grads_team(const struct psgd_powersgd_options *powersgd);
void grads_init(struct grads *g);
void grads_fill(struct grads *g, uint64_t seed);
uint64_t grads_hash(const struct grads *g);
void grads_free(struct grads *g);

/* Submits tensors from .. to - 1 as one bucket. */
psgd_status grads_submit(struct member *me, const struct grads *g, int from, int to);

/* Three buckets and the end of the step. */
psgd_status grads_step(struct member *me, const struct grads *g, struct psgd_step_info *info,
	struct psgd_report *r);

#endif
