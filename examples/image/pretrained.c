/* First parameters from a file. SPDX-License-Identifier: MIT */
#include "pretrained.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <psgd/experiment/checkpoint.h>

#include "layers.h"

struct source {
	psgd_safetensors *file;
	const char *path;
	struct image_error *error;
};

static void shape_text(char *out, size_t bytes, uint32_t n_dims, const int64_t *dims)
{
	size_t n = 0;

	(void)snprintf(out, bytes, "a scalar");
	for (uint32_t i = 0; i < n_dims && n < bytes; i++)
		n += (size_t)snprintf(out + n, bytes - n, "%s%" PRId64, i ? " x " : "", dims[i]);
}

static psgd_status check_shape(const struct source *source, const struct psgd_safetensor *found,
	uint32_t n_dims, const int64_t *dims)
{
	char has[96], wants[96];

	if (found->n_dims == n_dims && memcmp(found->dims, dims, n_dims * sizeof(*dims)) == 0)
		return PSGD_OK;
	shape_text(has, sizeof(has), found->n_dims, found->dims);
	shape_text(wants, sizeof(wants), n_dims, dims);
	return image_fail(source->error, PSGD_ERR_CONFIG, "%s: %s is %s, but the model's is %s%s",
		source->path, found->name, has, wants,
		strncmp(found->name, "fc.", 3) == 0 ? "; see model.num_classes" : "");
}

/* least: of a value. */
static psgd_status check_values(
	const struct source *source, const char *name, const float *values, size_t n, float least)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(values[i]) || values[i] < least)
			return image_fail(source->error, PSGD_ERR_CONFIG,
				"%s: value %zu of %s is %g", source->path, i, name,
				(double)values[i]);
	return PSGD_OK;
}

static psgd_status take(struct source *source, const char *name, uint32_t n_dims,
	const int64_t *dims, float *out, float least)
{
	struct psgd_safetensor found = PSGD_INIT(psgd_safetensor);
	size_t n = 1;
	psgd_status status;

	for (uint32_t i = 0; i < n_dims; i++)
		n *= (size_t)dims[i];
	if (psgd_safetensors_find(source->file, name, &found))
		return image_fail(source->error, PSGD_ERR_CONFIG,
			"%s: has no %s, which the model needs", source->path, name);
	status = check_shape(source, &found, n_dims, dims);
	if (status)
		return status;
	status = psgd_safetensors_read_floats(source->file, name, out, n);
	if (status == PSGD_ERR_UNSUPPORTED)
		return image_fail(source->error, PSGD_ERR_CONFIG,
			"%s: %s is of type %s, expected F32, F16, BF16 or F64", source->path, name,
			found.dtype);
	if (status)
		return image_fail(source->error, status, "%s: cannot read %s: %s", source->path,
			name, psgd_status_text(status));
	return check_values(source, name, out, n, least);
}

/* The statistics of a norm, whose weight's name they share. */
static psgd_status take_running(
	struct source *source, const struct net *net, const struct net_layer *layer, float *running)
{
	static const char *const parts[] = {"running_mean", "running_var"};
	const char *weight = net->tensor[layer->first_tensor].name;
	int stem = (int)(strlen(weight) - strlen("weight"));
	psgd_status status = PSGD_OK;

	for (size_t i = 0; !status && i < 2; i++) {
		float *out = running + layer->running + i * (size_t)layer->in.c;
		char name[NET_NAME_BYTES + 16];

		(void)snprintf(name, sizeof(name), "%.*s%s", stem, weight, parts[i]);
		status = take(source, name, 1, &layer->in.c, out, i ? 0.0f : -INFINITY);
	}
	return status;
}

static bool is_count(const char *name)
{
	static const char end[] = ".num_batches_tracked";
	size_t n = strlen(name);

	return n >= sizeof(end) - 1 && strcmp(name + n - (sizeof(end) - 1), end) == 0;
}

static bool is_of_net(const struct net *net, const char *name)
{
	const char *end = strrchr(name, '.');
	size_t stem = end ? (size_t)(end - name) : 0;

	for (size_t i = 0; i < net->n_tensors; i++)
		if (strcmp(net->tensor[i].name, name) == 0)
			return true;
	if (!end || (strcmp(end, ".running_mean") != 0 && strcmp(end, ".running_var") != 0))
		return false;
	for (size_t i = 0; i < net->n_layers; i++) {
		const char *weight = net->tensor[net->layer[i].first_tensor].name;

		if (net->layer[i].kind->statistics && strncmp(weight, name, stem + 1) == 0 &&
			strcmp(weight + stem, ".weight") == 0)
			return true;
	}
	return false;
}

/* A deeper net's file has all of a shallower one's tensors: nothing may be left over. */
static psgd_status check_rest(const struct source *source, const struct net *net)
{
	size_t n = psgd_safetensors_count(source->file);

	for (size_t i = 0; i < n; i++) {
		struct psgd_safetensor found = PSGD_INIT(psgd_safetensor);

		if (psgd_safetensors_get(source->file, i, &found) == PSGD_OK &&
			!is_count(found.name) && !is_of_net(net, found.name))
			return image_fail(source->error, PSGD_ERR_CONFIG,
				"%s: has %s, which the model has not", source->path, found.name);
	}
	return PSGD_OK;
}

/* params, running: the net's, for the host. */
static psgd_status take_all(
	struct source *source, const struct net *net, float *params, float *running)
{
	psgd_status status = PSGD_OK;

	for (size_t i = 0; !status && i < net->n_tensors; i++) {
		const struct net_tensor *tensor = &net->tensor[i];

		status = take(source, tensor->name, tensor->n_dims, tensor->dims,
			params + tensor->offset, -INFINITY);
	}
	for (size_t i = 0; !status && i < net->n_layers; i++)
		if (net->layer[i].kind->statistics)
			status = take_running(source, net, &net->layer[i], running);
	return status ? status : check_rest(source, net);
}

psgd_status pretrained_load(struct net *net, const char *path, struct image_error *error)
{
	struct source source = {.path = path, .error = error};
	float *params = NULL, *running = NULL;
	psgd_status ended[2], status = psgd_safetensors_open(
				      path, &source.file, error->text, sizeof(error->text));

	if (status)
		return status;
	status = nn_view(net->nn, net->params, net->n_params, &params, error);
	if (!status)
		status = nn_view(net->nn, net->running, net->n_running, &running, error);
	if (!status)
		status = take_all(&source, net, params, running);
	psgd_safetensors_close(&source.file);
	ended[0] = nn_view_end(net->nn, params, net->params, net->n_params, !status, error);
	ended[1] = nn_view_end(net->nn, running, net->running, net->n_running, !status, error);
	return status ? status : ended[0] ? ended[0] : ended[1];
}
