/* A net: its tensors, its plans, forward and backward. SPDX-License-Identifier: MIT */
#include "net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layers.h"
#include "rng.h"

#define ALIGN_VALUES 16 /* 64 bytes */

static size_t aligned(size_t count)
{
	return (count + ALIGN_VALUES - 1) / ALIGN_VALUES * ALIGN_VALUES;
}

/* Zeroed; shapes are bounded by what net_begin and the layers accept, so that nothing overflows. */
static float *values_alloc(size_t count)
{
	size_t bytes = aligned(count ? count : 1) * sizeof(float);
	float *values = aligned_alloc(64, bytes);

	if (values)
		memset(values, 0, bytes);
	return values;
}

void net_begin(struct net *net, struct nn *nn, const struct nn_shape *in)
{
	*net = (struct net){.nn = nn, .in = *in};
	if (in->c < 1 || in->h < 1 || in->w < 1 || in->c > 4096 || in->h > 4096 || in->w > 4096)
		(void)image_fail(&net->error, PSGD_ERR_CONFIG, "image size out of range");
}

static struct net_layer *layer_add(struct net *net, const struct layer_kind *kind)
{
	struct net_layer *layer = &net->layer[net->n_layers];

	if (net->error.text[0])
		return NULL;
	if (net->n_layers == NET_MAX_LAYERS) {
		(void)image_fail(&net->error, PSGD_ERR_CONFIG, "too many layers");
		return NULL;
	}
	net->n_layers++;
	layer->kind = kind;
	layer->in = net->n_layers > 1 ? layer[-1].out : net->in;
	layer->out = layer->in;
	layer->first_tensor = net->n_tensors;
	return layer;
}

static struct net_tensor *tensor_add(struct net *net, struct net_layer *layer, const char *name,
	const char *part, uint32_t n_dims, const int64_t *dims)
{
	struct net_tensor *tensor = &net->tensor[net->n_tensors];

	if (net->n_tensors == NET_MAX_TENSORS) {
		(void)image_fail(&net->error, PSGD_ERR_CONFIG, "too many tensors");
		return &net->tensor[0];
	}
	net->n_tensors++;
	layer->n_tensors++;
	(void)snprintf(tensor->name, sizeof(tensor->name), "%s.%s", name, part);
	tensor->n_dims = n_dims;
	tensor->count = 1;
	for (uint32_t i = 0; i < n_dims; i++) {
		tensor->dims[i] = dims[i];
		tensor->count *= (size_t)dims[i];
	}
	tensor->offset = net->n_params;
	net->n_params += aligned(tensor->count);
	return tensor;
}

void net_add_dense(struct net *net, const char *name, int64_t units)
{
	struct net_layer *layer = layer_add(net, &layer_dense);
	int64_t in;

	if (!layer)
		return;
	in = layer->in.c * layer->in.h * layer->in.w;
	layer->out = (struct nn_shape){0, units, 1, 1};
	tensor_add(net, layer, name, "weight", 2, (const int64_t[]){units, in})->fan_in = in;
	tensor_add(net, layer, name, "bias", 1, &units);
}

void net_add_conv(struct net *net, const char *name, int64_t channels)
{
	struct net_layer *layer = layer_add(net, &layer_conv);
	struct net_tensor *weight;

	if (!layer)
		return;
	layer->out.c = channels;
	weight = tensor_add(
		net, layer, name, "weight", 4, (const int64_t[]){channels, layer->in.c, 3, 3});
	weight->fan_in = layer->in.c * 9;
}

void net_add_norm(struct net *net, const char *name)
{
	struct net_layer *layer = layer_add(net, &layer_norm);

	if (!layer)
		return;
	tensor_add(net, layer, name, "weight", 1, &layer->in.c)->constant = 1.0f;
	tensor_add(net, layer, name, "bias", 1, &layer->in.c);
	layer->running = net->n_running;
	net->n_running += 2 * (size_t)layer->in.c;
}

void net_add_relu(struct net *net)
{
	(void)layer_add(net, &layer_relu);
}

void net_add_pool(struct net *net)
{
	struct net_layer *layer = layer_add(net, &layer_pool);

	if (!layer)
		return;
	layer->out.h = layer->in.h / 2;
	layer->out.w = layer->in.w / 2;
	if (layer->out.h < 1 || layer->out.w < 1)
		(void)image_fail(&net->error, PSGD_ERR_CONFIG, "images are too small to pool");
}

/* He's variance 2 / fan_in, by a uniform distribution: exact arithmetic but for the bound. */
static void tensor_init(const struct net_tensor *tensor, float *out, uint64_t key)
{
	float bound;

	if (tensor->fan_in == 0) {
		for (size_t i = 0; i < tensor->count; i++)
			out[i] = tensor->constant;
		return;
	}
	bound = sqrtf(6.0f / (float)tensor->fan_in);
	for (size_t i = 0; i < tensor->count; i++)
		out[i] = bound * rng_symmetric(key, i);
}

psgd_status net_end(struct net *net, uint64_t seed)
{
	/* What can be wrong here are sizes that come from a configuration or a file. */
	if (net->error.text[0])
		return PSGD_ERR_CONFIG;
	if (!net->nn)
		return PSGD_OK;
	net->params = values_alloc(net->n_params);
	net->grads = values_alloc(net->n_params);
	net->running = values_alloc(net->n_running);
	if (!net->params || !net->grads || !net->running)
		return image_fail(&net->error, PSGD_ERR_NOMEM, "out of memory");
	for (size_t i = 0; i < net->n_tensors; i++)
		tensor_init(&net->tensor[i], net->params + net->tensor[i].offset,
			rng_key(seed, RNG_PARAMETERS, i));
	for (size_t i = 0; i < net->n_layers; i++) {
		const struct net_layer *layer = &net->layer[i];

		for (int64_t c = 0; layer->kind->statistics && c < layer->in.c; c++)
			net->running[layer->running + (size_t)(layer->in.c + c)] = 1.0f;
	}
	return PSGD_OK;
}

static void plan_free(struct net_plan *plan)
{
	for (size_t i = 0; i < NET_MAX_LAYERS; i++) {
		nn_op_free(plan->cell[i].back_data);
		nn_op_free(plan->cell[i].back_params);
		nn_op_free(plan->cell[i].forward);
	}
	free(plan->memory);
	free(plan);
}

void net_free(struct net *net)
{
	while (net->plans) {
		struct net_plan *next = net->plans->next;

		plan_free(net->plans);
		net->plans = next;
	}
	free(net->params);
	free(net->grads);
	free(net->running);
	*net = (struct net){0};
}

static size_t batch_values(const struct nn_shape *shape, int64_t batch)
{
	return aligned((size_t)(batch * shape->c * shape->h * shape->w));
}

/*
 * Two walks over the same carving: with memory NULL it only counts. Two buffers for gradients of
 * activations are enough, since a layer needs its own dy and dx only.
 */
static size_t plan_carve(const struct net *net, struct net_plan *plan, float *memory)
{
	size_t used = batch_values(&net->in, plan->batch), largest = used;

	plan->input = memory;
	plan->output = memory;
	for (size_t i = 0; i < net->n_layers; i++) {
		const struct net_layer *layer = &net->layer[i];
		struct net_cell *cell = &plan->cell[i];
		size_t out = batch_values(&layer->out, plan->batch);

		cell->x = plan->output;
		cell->y = cell->x;
		if (!layer->kind->in_place) {
			cell->y = memory ? memory + used : NULL;
			used += out;
		}
		plan->output = cell->y;
		if (layer->kind->statistics) {
			cell->mean = memory ? memory + used : NULL;
			used += aligned((size_t)layer->in.c);
			cell->variance = memory ? memory + used : NULL;
			used += aligned((size_t)layer->in.c);
		}
		largest = out > largest ? out : largest;
	}
	for (size_t i = 0; plan->train && i < 2; i++) {
		plan->diff[i] = memory ? memory + used : NULL;
		used += largest;
	}
	plan->diff_start = plan->diff[0];
	return used;
}

struct net_plan *net_prepare(struct net *net, int64_t batch, bool train)
{
	struct net_plan *plan;
	psgd_status status = PSGD_OK;

	for (plan = net->plans; plan; plan = plan->next)
		if (plan->batch == batch && plan->train == train)
			return plan;
	plan = calloc(1, sizeof(*plan));
	if (!plan)
		goto nomem;
	plan->batch = batch;
	plan->train = train;
	plan->memory = values_alloc(plan_carve(net, plan, NULL));
	if (!plan->memory)
		goto nomem;
	(void)plan_carve(net, plan, plan->memory);
	for (size_t i = 0; !status && i < net->n_layers; i++) {
		const struct net_layer *layer = &net->layer[i];

		plan->cell[i].batch = batch;
		plan->cell[i].train = train;
		if (layer->kind->prepare)
			status = layer->kind->prepare(net, layer, &plan->cell[i]);
	}
	if (status) {
		plan_free(plan);
		return NULL;
	}
	plan->next = net->plans;
	net->plans = plan;
	return plan;
nomem:
	(void)image_fail(&net->error, PSGD_ERR_NOMEM, "out of memory for a batch of %lld images",
		(long long)batch);
	free(plan);
	return NULL;
}

psgd_status net_forward(struct net *net, struct net_plan *plan, float *running)
{
	psgd_status status = PSGD_OK;

	for (size_t i = 0; !status && i < net->n_layers; i++)
		status = net->layer[i].kind->forward(
			net, &net->layer[i], &plan->cell[i], running ? running : net->running);
	return status;
}

psgd_status net_backward(struct net *net, struct net_plan *plan, net_grads_fn on_grads, void *user)
{
	float *dy = plan->diff[0], *other = plan->diff[1];
	psgd_status status = PSGD_OK;

	for (size_t i = net->n_layers; !status && i-- > 0;) {
		const struct net_layer *layer = &net->layer[i];
		struct net_cell *cell = &plan->cell[i];
		float *dx = layer->kind->in_place ? dy : other;

		if (layer->kind->back_params)
			status = layer->kind->back_params(net, layer, cell, dy, dx);
		if (!status && layer->n_tensors > 0 && on_grads)
			status = on_grads(user, layer);
		if (!status && i > 0 && layer->kind->back_data)
			status = layer->kind->back_data(net, layer, cell, dy, dx);
		if (dx != dy) {
			other = dy;
			dy = dx;
		}
	}
	return status;
}
