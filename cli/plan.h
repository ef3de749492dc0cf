/* What the files behind psgd validate's plan share. SPDX-License-Identifier: MIT */
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include <psgd/psgd.h>

#include "cli.h"

/* The trainer's answer in the form of the library. */
struct cli_model {
	struct psgd_tensor *tensors;
	json_t *answer; /* owns the names */
	size_t n_tensors;
	struct psgd_bucket *buckets;
	struct psgd_grad *grads; /* of all buckets */
	size_t n_buckets;
	int64_t parameters;
	size_t n_matrices;
	int64_t sync_values; /* floats summed in the middle of a step: SyncBatchNorm */
};

struct cli_plan_link {
	struct psgd_cost_link cost;
	bool limited;	    /* false: the link is not known, and neither are times */
	bool overlap;	    /* false: no bucket leaves before the last is ready */
	int64_t compute_ns; /* 0: not known */
};

/* ---- plan_model.c ---- */

/*
 * The model of a configuration, from its trainer. On failure false, error says why, and *code is
 * the exit code; CLI_OK there means that there is no trainer to ask. Ended by cli_model_free in
 * any case.
 */
bool cli_model_ask(const struct psgd_config *config, const char *trainer, struct cli_model *out,
	int *code, char *error, size_t error_bytes);
void cli_model_free(struct cli_model *model);

/* ---- plan_rank.c ---- */

/* One rank's row: bytes, memory, times. The compressor is attached to the model's tensors. */
psgd_status cli_plan_rank(const struct psgd_compressor *compressor, const struct cli_model *model,
	uint32_t rank, const struct cli_plan_link *link, json_t *row);

#endif
