/* A group of matrices on both sides, in lockstep. SPDX-License-Identifier: MIT */
#ifndef CLI_SELFTEST_GROUP_H
#define CLI_SELFTEST_GROUP_H

#include "selftest.h"

/* A worker on a side: its compressor, its memory there, and the round that it is in. */
struct cli_member {
	struct psgd_compressor compressor;
	bool attached;
	float *gradients; /* of the device, as in the model */
	struct psgd_grad grads[CLI_SELFTEST_TENSORS];
	struct psgd_bucket bucket;
	struct psgd_round round;
	size_t message_bytes[PSGD_MAX_ROUNDS];
};

struct cli_group {
	struct cli_selftest *t;
	struct cli_model model;
	struct cli_member members[CLI_SIDES][CLI_SELFTEST_WORKERS];
	uint32_t ranks[CLI_SELFTEST_TENSORS]; /* in force, clamped */
	struct psgd_plan plan;
	float *host[CLI_SIDES]; /* room for the values of a worker, and for a message */
	float *absorbed;	/* g + e of a worker */
	float *sum;
	bool poisoned; /* a gradient of this step is not finite */
};

/* cli_claim_ok of a side. */
bool cli_group_ok(
	struct cli_group *g, enum cli_claim claim, psgd_status status, int side, const char *what);

/* ---- selftest_round.c ---- */

/* A step of all workers on both sides, with all that must hold in it. False: it does not. */
bool cli_group_step(struct cli_group *g, uint64_t step);
void cli_group_free_messages(struct cli_group *g, int side, struct cli_member *m);

#endif
