/* What a model would send at each rank, and how long that takes. SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <psgd/psgd.h>

#include "cli.h"

#define MAX_RANKS 64

/* The trainer's answer in the form of the library. */
struct model {
	struct psgd_tensor *tensors;
	size_t n_tensors;
	struct psgd_bucket *buckets;
	struct psgd_grad *grads; /* of all buckets */
	size_t n_buckets;
	int64_t parameters;
	size_t n_matrices;
};

/* ---- asking ---- */

static bool start_trainer(const char *trainer, char *config_path, int out_fd, pid_t *pid)
{
	char found[PATH_MAX], script[PATH_MAX];
	char *shell_argv[] = {"sh", "-c", script, "sh", "--tensors", config_path, NULL};
	char *argv[] = {found, "--tensors", config_path, NULL};
	posix_spawn_file_actions_t actions;
	bool ok;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
	if (trainer) {
		snprintf(script, sizeof(script), "exec %s \"$@\"", trainer);
		ok = posix_spawn(pid, "/bin/sh", &actions, NULL, shell_argv, environ) == 0;
	} else {
		ok = cli_find_trainer(found, sizeof(found)) &&
		     posix_spawn(pid, found, &actions, NULL, argv, environ) == 0;
	}
	posix_spawn_file_actions_destroy(&actions);
	return ok;
}

/* The JSON that the trainer prints; NULL: error says why, and *code is the exit code. */
static json_t *ask(const struct psgd_config *config, const char *trainer, int *code, char *error,
	size_t error_bytes)
{
	char path[64];
	int config_fd = cli_config_file(config, path, sizeof(path)), out[2], status = 0;
	json_error_t where;
	json_t *answer = NULL;
	pid_t pid;

	*code = CLI_ENVIRONMENT;
	snprintf(error, error_bytes, "cannot pass the configuration to the trainer");
	if (config_fd < 0)
		return NULL;
	if (pipe2(out, O_CLOEXEC) < 0) {
		close(config_fd);
		return NULL;
	}
	if (!start_trainer(trainer, path, out[1], &pid)) {
		snprintf(error, error_bytes, "no trainer to ask for tensors");
		*code = trainer ? CLI_ENVIRONMENT : CLI_OK;
		pid = 0;
	}
	close(out[1]);
	if (pid > 0) {
		answer = json_loadfd(out[0], 0, &where);
		close(out[0]);
		out[0] = -1;
		waitpid(pid, &status, 0);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
			json_decref(answer);
			answer = NULL;
			*code = WIFEXITED(status) && WEXITSTATUS(status) == CLI_USAGE ? CLI_USAGE
										      : CLI_FAILED;
			snprintf(error, error_bytes, "the trainer refuses this configuration");
		} else if (!answer) {
			snprintf(error, error_bytes, "the trainer's list of tensors: %s",
				where.text);
		}
	}
	if (out[0] >= 0)
		close(out[0]);
	close(config_fd);
	return answer;
}

/* ---- reading the answer ---- */

static bool read_tensor(const json_t *item, struct psgd_tensor *out)
{
	const json_t *id = json_object_get(item, "id"), *dims = json_object_get(item, "dims");
	const json_t *dim;
	size_t i;

	out->dtype = PSGD_F32;
	out->name = json_string_value(json_object_get(item, "name"));
	if (!json_is_integer(id) || json_integer_value(id) < 0 ||
		json_integer_value(id) > UINT32_MAX || !json_is_array(dims) ||
		json_array_size(dims) > PSGD_MAX_DIMS)
		return false;
	out->id = (uint32_t)json_integer_value(id);
	out->n_dims = (uint32_t)json_array_size(dims);
	json_array_foreach(dims, i, dim) out->dims[i] = json_integer_value(dim);
	return psgd_tensor_count(out) > 0;
}

static bool read_tensors(const json_t *list, struct model *model)
{
	const json_t *item;
	size_t i;

	model->n_tensors = json_array_size(list);
	model->tensors = calloc(model->n_tensors + 1, sizeof(*model->tensors));
	if (!model->tensors || model->n_tensors == 0)
		return false;
	json_array_foreach(list, i, item)
	{
		if (!read_tensor(item, &model->tensors[i]) ||
			__builtin_add_overflow(model->parameters,
				psgd_tensor_count(&model->tensors[i]), &model->parameters))
			return false;
		model->n_matrices += model->tensors[i].n_dims >= 2;
	}
	return true;
}

static bool read_buckets(const json_t *list, struct model *model)
{
	size_t b, g, total = 0, used = 0;
	const json_t *bucket, *id;

	json_array_foreach(list, b, bucket) total += json_array_size(bucket);
	model->n_buckets = json_array_size(list);
	model->buckets = calloc(model->n_buckets + 1, sizeof(*model->buckets));
	model->grads = calloc(total + 1, sizeof(*model->grads));
	if (!model->buckets || !model->grads || total == 0)
		return false;
	json_array_foreach(list, b, bucket)
	{
		struct psgd_bucket *out = &model->buckets[b];

		*out = PSGD_INIT(psgd_bucket);
		out->grads = model->grads + used;
		out->n_grads = json_array_size(bucket);
		if (out->n_grads == 0)
			return false;
		json_array_foreach(bucket, g, id)
		{
			json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;

			if (value < 0 || value > UINT32_MAX)
				return false;
			model->grads[used++].id = (uint32_t)value;
		}
	}
	return true;
}

static void model_free(struct model *model)
{
	free(model->tensors);
	free(model->buckets);
	free(model->grads);
}

/* ---- planning ---- */

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
	size_t n = 0;

	if (!c->enable_powerSGD)
		return 0;
	for (unsigned i = 0; i < config->rank_control.candidates_count; i++)
		add_rank(ranks, &n, config->rank_control.candidates[i]);
	for (unsigned i = 0; i < c->calibration.ranks_count; i++)
		add_rank(ranks, &n, c->calibration.ranks[i]);
	for (unsigned i = 0; i < c->rank_schedule.ranges_count; i++)
		add_rank(ranks, &n, c->rank_schedule.ranges[i].rank);
	if (c->use_fixed_rank)
		add_rank(ranks, &n, c->fixed_rank_value);
	if (n <= 1) {
		for (uint32_t rank = 1; rank <= c->max_rank && rank <= UINT32_MAX / 2; rank *= 2)
			add_rank(ranks, &n, rank);
	}
	return n;
}

static psgd_status plan_rank(const struct psgd_compressor *compressor, const struct model *model,
	uint32_t rank, const struct psgd_cost_link *link, json_t *out)
{
	uint64_t bytes = 0, raw = 0;
	uint32_t compressed = 0;
	double wire_ns = 0;

	for (size_t b = 0; b < model->n_buckets; b++) {
		struct psgd_plan plan = PSGD_INIT(psgd_plan);
		psgd_status status =
			compressor->ops->plan_at(compressor->self, &model->buckets[b], rank, &plan);

		if (status != PSGD_OK)
			return status;
		raw += plan.raw_bytes;
		compressed += plan.n_compressed;
		for (uint32_t r = 0; r < plan.n_rounds; r++) {
			double ns;

			status = psgd_cost_round(link, &plan.round[r], &ns);
			if (status != PSGD_OK)
				return status;
			bytes += psgd_payload_bytes(&plan.round[r]);
			wire_ns += ns;
		}
	}
	json_object_set_new(out, "rank", json_integer(rank));
	json_object_set_new(out, "compressed_matrices", json_integer(compressed));
	json_object_set_new(out, "payload_bytes", json_integer((json_int_t)bytes));
	json_object_set_new(out, "ratio", json_real((double)raw / (double)(bytes ? bytes : 1)));
	json_object_set_new(out, "wire_ms", json_real(wire_ns / 1e6));
	return PSGD_OK;
}

static psgd_status plan_all(const struct psgd_config *config, const struct model *model,
	const struct psgd_device *device, uint32_t n_workers, json_t *out)
{
	struct psgd_powersgd_options options = PSGD_INIT(psgd_powersgd_options);
	struct psgd_cost_link cost = PSGD_INIT(psgd_cost_link);
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct psgd_scope scope = PSGD_INIT(psgd_scope);
	struct psgd_compressor compressor = {0};
	uint32_t ranks[MAX_RANKS + 1] = {0};
	size_t n_ranks = ranks_of(config, ranks);
	bool limited = false;
	psgd_status status = psgd_config_link(config, &link, &limited);

	cost.n_workers = n_workers;
	if (status == PSGD_OK && limited)
		status = psgd_cost_link_of(&link, n_workers, &cost);
	if (status != PSGD_OK)
		return status;
	options.min_ratio = config->powerSGD.min_compression_rate;
	status = psgd_compressor_powersgd(&options, &compressor);
	if (status != PSGD_OK)
		return status;
	scope.tensors = model->tensors;
	scope.n_tensors = model->n_tensors;
	scope.device = device;
	scope.n_workers = n_workers;
	status = compressor.ops->attach(compressor.self, &scope);
	for (size_t i = 0; i <= n_ranks && status == PSGD_OK; i++) {
		json_t *row = json_object();

		status = plan_rank(&compressor, model, ranks[i], &cost, row);
		json_array_append_new(out, row);
	}
	compressor.ops->detach(compressor.self);
	psgd_compressor_destroy(&compressor);
	return status;
}

static json_t *describe(const struct psgd_config *config, const struct model *model,
	uint32_t n_workers, char *error, size_t error_bytes)
{
	struct psgd_device device = {0};
	json_t *plan = json_object(), *rows = json_array();
	psgd_status status = psgd_device_cpu(NULL, &device);

	json_object_set_new(plan, "parameters", json_integer(model->parameters));
	json_object_set_new(plan, "tensors", json_integer((json_int_t)model->n_tensors));
	json_object_set_new(plan, "matrices", json_integer((json_int_t)model->n_matrices));
	json_object_set_new(plan, "buckets", json_integer((json_int_t)model->n_buckets));
	json_object_set_new(plan, "workers", json_integer(n_workers));
	json_object_set_new(plan, "link_limited", json_boolean(config->network_limits.enable));
	json_object_set_new(plan, "ranks", rows);
	if (status == PSGD_OK)
		status = plan_all(config, model, &device, n_workers, rows);
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
	json_t *answer = ask(config, options->trainer, code, error, error_bytes), *plan = NULL;
	struct model model = {0};

	if (!answer)
		return NULL;
	*code = CLI_FAILED;
	if (!read_tensors(json_object_get(answer, "tensors"), &model) ||
		!read_buckets(json_object_get(answer, "buckets"), &model))
		snprintf(error, error_bytes, "the trainer's list of tensors is malformed");
	else
		plan = describe(config, &model, options->n_workers, error, error_bytes);
	model_free(&model);
	json_decref(answer);
	return plan;
}
