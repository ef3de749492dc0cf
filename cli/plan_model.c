/* Asking a trainer for its model. SPDX-License-Identifier: MIT */
#include "plan.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

static bool read_tensors(const json_t *list, struct cli_model *model)
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

static bool read_buckets(const json_t *list, struct cli_model *model)
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

bool cli_model_ask(const struct psgd_config *config, const char *trainer, struct cli_model *out,
	int *code, char *error, size_t error_bytes)
{
	const json_t *sync;

	*out = (struct cli_model){.answer = ask(config, trainer, code, error, error_bytes)};
	if (!out->answer)
		return false;
	*code = CLI_FAILED;
	sync = json_object_get(out->answer, "sync_values");
	out->sync_values = json_integer_value(sync);
	if (read_tensors(json_object_get(out->answer, "tensors"), out) &&
		read_buckets(json_object_get(out->answer, "buckets"), out) &&
		(!sync || json_is_integer(sync)) && out->sync_values >= 0 &&
		out->sync_values < INT32_MAX)
		return true;
	snprintf(error, error_bytes, "the trainer's list of tensors is malformed");
	return false;
}

void cli_model_free(struct cli_model *model)
{
	free(model->tensors);
	free(model->buckets);
	free(model->grads);
	json_decref(model->answer);
}
