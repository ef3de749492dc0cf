/* What one rank sends, holds and takes. SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "plan.h"

/* Messages lie on lines of the cache. */
#define ALIGNMENT ((uint64_t)64)

struct sums {
	uint64_t raw, payload, messages;
	uint64_t error, q;
	uint32_t compressed;
	double wire_ns;
};

static psgd_status add_bucket(
	const struct psgd_plan *plan, const struct psgd_cost_link *link, struct sums *sums)
{
	sums->raw += plan->raw_bytes;
	sums->compressed += plan->n_compressed;
	for (uint32_t r = 0; r < plan->n_rounds; r++) {
		uint64_t bytes = psgd_payload_bytes(&plan->round[r]);
		double ns;
		psgd_status status = psgd_cost_round(link, &plan->round[r], &ns);

		if (status != PSGD_OK)
			return status;
		sums->payload += bytes;
		sums->messages += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
		sums->wire_ns += ns;
	}
	return PSGD_OK;
}

/* A matrix that is compressed when it travels alone has an error memory and a Q. */
static psgd_status add_state(const struct psgd_compressor *compressor,
	const struct cli_model *model, uint32_t rank, struct sums *sums)
{
	for (size_t i = 0; i < model->n_tensors; i++) {
		struct psgd_grad grad = {.id = model->tensors[i].id};
		struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
		struct psgd_plan plan = PSGD_INIT(psgd_plan);
		psgd_status status;

		bucket.grads = &grad;
		bucket.n_grads = 1;
		status = compressor->ops->plan_at(compressor->self, &bucket, rank, &plan);
		if (status != PSGD_OK)
			return status;
		if (!plan.n_compressed)
			continue;
		sums->error += plan.raw_bytes;
		sums->q += psgd_payload_bytes(&plan.round[1]);
	}
	return PSGD_OK;
}

/*
 * Backward takes two thirds of the compute time, and a bucket the part of it that its gradients
 * are of all gradients. What encoding and decoding take is not known here.
 */
static void set_ready(const struct psgd_plan *plans, size_t n, const struct cli_plan_link *link,
	uint64_t raw, struct psgd_cost_bucket *out)
{
	double done = 0;

	for (size_t i = 0; i < n; i++) {
		double share;

		done += (double)plans[i].raw_bytes;
		share = link->overlap ? (1 + 2 * done / (double)raw) / 3 : 1;
		out[i] = (struct psgd_cost_bucket){
			.plan = &plans[i],
			.ready_ns = (int64_t)(share * (double)link->compute_ns),
		};
	}
}

static psgd_status predict(const struct psgd_plan *plans, size_t n,
	const struct cli_plan_link *link, uint64_t raw, json_t *row)
{
	struct psgd_cost_bucket *buckets = calloc(n, sizeof(*buckets));
	struct psgd_cost cost = PSGD_INIT(psgd_cost);
	psgd_status status;

	if (!buckets)
		return PSGD_ERR_NOMEM;
	set_ready(plans, n, link, raw, buckets);
	status = psgd_cost_predict(buckets, n, link->compute_ns, &link->cost, &cost);
	free(buckets);
	if (status != PSGD_OK)
		return status;
	json_object_set_new(row, "step_ms", json_real((double)cost.step_ns / 1e6));
	json_object_set_new(row, "exposed_ms", json_real((double)cost.exposed_ns / 1e6));
	json_object_set_new(
		row, "exposed_share", json_real((double)cost.exposed_ns / (double)cost.step_ns));
	return PSGD_OK;
}

static void put(json_t *row, const char *key, uint64_t value)
{
	json_object_set_new(row, key, json_integer((json_int_t)value));
}

psgd_status cli_plan_rank(const struct psgd_compressor *compressor, const struct cli_model *model,
	uint32_t rank, const struct cli_plan_link *link, json_t *row)
{
	struct psgd_plan *plans = calloc(model->n_buckets, sizeof(*plans));
	psgd_status status = plans ? PSGD_OK : PSGD_ERR_NOMEM;
	struct sums sums = {0};

	for (size_t b = 0; b < model->n_buckets && status == PSGD_OK; b++) {
		plans[b] = PSGD_INIT(psgd_plan);
		status = compressor->ops->plan_at(
			compressor->self, &model->buckets[b], rank, &plans[b]);
		if (status == PSGD_OK)
			status = add_bucket(&plans[b], &link->cost, &sums);
	}
	if (status == PSGD_OK)
		status = add_state(compressor, model, rank, &sums);
	if (status == PSGD_OK && link->limited && link->compute_ns)
		status = predict(plans, model->n_buckets, link, sums.raw, row);
	free(plans);
	put(row, "rank", rank);
	put(row, "compressed_matrices", sums.compressed);
	put(row, "payload_bytes", sums.payload);
	json_object_set_new(row, "ratio",
		json_real((double)sums.raw / (double)(sums.payload ? sums.payload : 1)));
	json_object_set_new(row, "wire_ms", json_real(sums.wire_ns / 1e6));
	put(row, "error_bytes", sums.error);
	put(row, "q_bytes", sums.q);
	put(row, "message_bytes", sums.messages);
	return status;
}
