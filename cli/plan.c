/* What a model would send at each rank, and how long that takes. SPDX-License-Identifier: MIT */
#include "plan.h"

#include <stdio.h>
#include <string.h>

#define MAX_RANKS 64

static void add_rank(uint32_t *ranks, size_t *n, uint32_t rank)
{
	size_t at = 0;

	while (at < *n && ranks[at] < rank)
		at++;
	if (*n == MAX_RANKS || rank == 0 || (at < *n && ranks[at] == rank))
		return;
	memmove(ranks + at + 1, ranks + at, (*n - at) * sizeof(*ranks));
	ranks[at] = rank;
	(*n)++;
}

/* The ranks that a run with this configuration may use, in order; dense comes apart. */
static size_t ranks_of(const struct psgd_config *config, uint32_t ranks[MAX_RANKS])
{
	const struct psgd_config_compression *c = &config->compression;
	const char *choice = config->rank_control.choice;
	size_t n = 0, listed;

	if (!c->enable_powerSGD)
		return 0;
	for (unsigned i = 0; i < config->rank_control.candidates_count; i++)
		add_rank(ranks, &n, config->rank_control.candidates[i]);
	for (unsigned i = 0; i < c->calibration.ranks_count; i++)
		add_rank(ranks, &n, c->calibration.ranks[i]);
	for (unsigned i = 0; i < config->adaptive_training.stages_count; i++)
		add_rank(ranks, &n, config->adaptive_training.stages[i].base_matrix_rank);
	for (unsigned i = 0; i < c->rank_schedule.ranges_count; i++)
		add_rank(ranks, &n, c->rank_schedule.ranges[i].rank);
	listed = n;
	if (c->rank_schedule.ranges_count)
		add_rank(ranks, &n, c->rank_schedule.default_rank);
	/* else base_rank is at the start, and what some choices count from */
	if (c->use_fixed_rank || (choice && strcmp(choice, "fixed") == 0))
		add_rank(ranks, &n, c->fixed_rank_value);
	else
		add_rank(ranks, &n, c->base_rank);
	if (listed <= 1) {
		for (uint32_t rank = 1; rank <= c->max_rank && rank <= UINT32_MAX / 2; rank *= 2)
			add_rank(ranks, &n, rank);
	}
	return n;
}

static psgd_status plan_all(const struct psgd_config *config, const struct cli_model *model,
	const struct psgd_device *device, const struct cli_plan_link *link, json_t *out)
{
	struct psgd_powersgd_options options = PSGD_INIT(psgd_powersgd_options);
	struct psgd_scope scope = PSGD_INIT(psgd_scope);
	struct psgd_compressor compressor = {0};
	uint32_t ranks[MAX_RANKS + 1] = {0};
	size_t n_ranks = ranks_of(config, ranks);
	psgd_status status;

	options.min_ratio = config->powerSGD.min_compression_rate;
	status = psgd_compressor_powersgd(&options, &compressor);
	if (status != PSGD_OK)
		return status;
	scope.tensors = model->tensors;
	scope.n_tensors = model->n_tensors;
	scope.device = device;
	scope.n_workers = link->cost.n_workers;
	status = compressor.ops->attach(compressor.self, &scope);
	for (size_t i = 0; i <= n_ranks && status == PSGD_OK; i++) {
		json_t *row = json_object();

		status = cli_plan_rank(&compressor, model, ranks[i], link, row);
		if (status == PSGD_OK && !config->powerSGD.use_error_feedback)
			json_object_set_new(row, "error_bytes", json_integer(0));
		if (status == PSGD_OK && !config->powerSGD.warm_start)
			json_object_set_new(row, "q_bytes", json_integer(0));
		json_array_append_new(out, row);
	}
	compressor.ops->detach(compressor.self);
	psgd_compressor_destroy(&compressor);
	return status;
}

static psgd_status link_of(const struct psgd_config *config, const struct cli_plan_options *options,
	struct cli_plan_link *out)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	psgd_status status = psgd_config_limits(config, &link, &out->limited);

	out->cost = PSGD_INIT(psgd_cost_link);
	out->cost.n_workers = options->n_workers;
	out->overlap = config->communication.overlap;
	out->compute_ns = (int64_t)(options->compute_ms * 1e6);
	if (status == PSGD_OK && out->limited)
		status = psgd_cost_link_of(&link, options->n_workers, &out->cost);
	return status;
}

/* The configuration's, and those of the trainer, if it has any. */
static json_t *notices(const struct psgd_config *config, const json_t *answer)
{
	json_t *list = json_array(), *line;
	size_t i;

	for (const char *at = psgd_config_notices(config); *at;) {
		size_t n = strcspn(at, "\n");

		json_array_append_new(list, json_stringn(at, n));
		at += n + (at[n] != '\0');
	}
	json_array_foreach(json_object_get(answer, "notices"), i, line)
	{
		if (json_is_string(line))
			json_array_append(list, line);
	}
	return list;
}

/* The most batches whose gradients make one step; SyncBatchNorm sums in each. */
static unsigned most_batches(const struct psgd_config *config)
{
	const struct psgd_config_adaptive *a = &config->adaptive_training;
	unsigned most = 1;

	if (!a->enable || !config->compression.enable_adaptive_sync)
		return 1;
	for (unsigned i = 0; i < a->stages_count; i++) {
		if (a->stages[i].base_sync_frequency > most)
			most = a->stages[i].base_sync_frequency;
	}
	return most;
}

static json_t *describe(const struct psgd_config *config, const struct cli_model *model,
	const struct cli_plan_options *options, char *error, size_t error_bytes)
{
	const struct psgd_config_compression *c = &config->compression;
	unsigned dense_steps = c->enable_powerSGD ? c->start_power_iterations : 0;
	struct psgd_device device = {0};
	struct cli_plan_link link = {0};
	json_t *plan = json_object(), *rows = json_array();
	char control[512] = "";
	psgd_status status = psgd_device_cpu(NULL, &device);

	if (status == PSGD_OK)
		status = link_of(config, options, &link);
	if (status == PSGD_OK)
		status = psgd_config_summary(config, control, sizeof(control));
	json_object_set_new(plan, "parameters", json_integer(model->parameters));
	json_object_set_new(plan, "tensors", json_integer((json_int_t)model->n_tensors));
	json_object_set_new(plan, "matrices", json_integer((json_int_t)model->n_matrices));
	json_object_set_new(plan, "buckets", json_integer((json_int_t)model->n_buckets));
	json_object_set_new(plan, "workers", json_integer(options->n_workers));
	json_object_set_new(plan, "link_limited", json_boolean(link.limited));
	json_object_set_new(plan, "compute_ms",
		options->compute_ms > 0 ? json_real(options->compute_ms) : json_null());
	json_object_set_new(plan, "dense_steps", json_integer(dense_steps));
	json_object_set_new(plan, "sync_bytes",
		json_integer(model->sync_values * (json_int_t)sizeof(float) *
			     (json_int_t)most_batches(config)));
	json_object_set_new(plan, "rank_control", json_string(control));
	json_object_set_new(plan, "notices", notices(config, model->answer));
	json_object_set_new(plan, "ranks", rows);
	if (status == PSGD_OK)
		status = plan_all(config, model, &device, &link, rows);
	psgd_device_destroy(&device);
	if (status == PSGD_OK)
		return plan;
	snprintf(error, error_bytes, "planning: %s", psgd_status_text(status));
	json_decref(plan);
	return NULL;
}

json_t *cli_plan(const struct psgd_config *config, const struct cli_plan_options *options,
	int *code, char *error, size_t error_bytes)
{
	struct cli_model model;
	json_t *plan = NULL;

	if (cli_model_ask(config, options->trainer, &model, code, error, error_bytes))
		plan = describe(config, &model, options, error, error_bytes);
	cli_model_free(&model);
	return plan;
}
