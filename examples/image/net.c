/* A net: its layers and tensors. SPDX-License-Identifier: MIT */
#include "net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layers.h"
#include "rng.h"

#define ALIGN_VALUES 16 /* 64 bytes */
#define MAX_SIDE 4096	/* of an image, and of its channels: products fit 64 bits with room */

size_t net_padded(size_t count)
{
	return (count + ALIGN_VALUES - 1) / ALIGN_VALUES * ALIGN_VALUES;
}

float *net_alloc(size_t count)
{
	size_t bytes = net_padded(count ? count : 1) * sizeof(float);
	float *values = aligned_alloc(64, bytes);

	if (values)
		memset(values, 0, bytes);
	return values;
}

size_t net_values(const struct nn_shape *shape, int64_t batch)
{
	return (size_t)(batch * shape->c * shape->h * shape->w);
}

static void fail(struct net *net, psgd_status status, const char *text)
{
	if (!net->status)
		net->status = image_fail(&net->error, status, "%s", text);
}

void net_begin(struct net *net, struct nn *nn, const struct nn_shape *in)
{
	*net = (struct net){.nn = nn, .in = *in};
	net->in.plain = true;
	if (in->c < 1 || in->h < 1 || in->w < 1 || in->c > MAX_SIDE || in->h > MAX_SIDE ||
		in->w > MAX_SIDE)
		fail(net, PSGD_ERR_CONFIG, "image size out of range");
}

/* Room for one more entry; NULL: no memory, and the list is as it was. */
static void *grow(void *list, size_t n, size_t *room, size_t entry_bytes)
{
	size_t wanted = *room ? 2 * *room : 16;
	void *larger;

	if (n < *room)
		return list;
	larger = realloc(list, wanted * entry_bytes);
	if (larger)
		*room = wanted;
	return larger;
}

static struct net_layer *layer_add(struct net *net, const struct layer_kind *kind)
{
	struct net_layer *layer;

	if (net->status)
		return NULL;
	layer = grow(net->layer, net->n_layers, &net->room_layers, sizeof(*layer));
	if (!layer) {
		fail(net, PSGD_ERR_NOMEM, "out of memory");
		return NULL;
	}
	net->layer = layer;
	layer += net->n_layers;
	*layer = (struct net_layer){.kind = kind, .from = {net->top}, .n_from = 1};
	layer->in = net->top ? net->layer[net->top - 1].out : net->in;
	layer->out = layer->in;
	layer->first_tensor = net->n_tensors;
	net->top = ++net->n_layers;
	return layer;
}

static void tensor_add(struct net *net, struct net_layer *layer, const char *name, const char *part,
	uint32_t n_dims, const int64_t *dims)
{
	struct net_tensor *tensor;

	tensor = grow(net->tensor, net->n_tensors, &net->room_tensors, sizeof(*tensor));
	if (!tensor) {
		fail(net, PSGD_ERR_NOMEM, "out of memory");
		return;
	}
	net->tensor = tensor;
	tensor += net->n_tensors++;
	layer->n_tensors++;
	*tensor = (struct net_tensor){.n_dims = n_dims, .offset = net->n_params, .count = 1};
	(void)snprintf(tensor->name, sizeof(tensor->name), "%s.%s", name, part);
	for (uint32_t i = 0; i < n_dims; i++) {
		tensor->dims[i] = dims[i];
		tensor->count *= (size_t)dims[i];
	}
	net->n_params += net_padded(tensor->count);
}

static void init_last_tensor(struct net *net, enum net_init init, float scale)
{
	if (net->status)
		return;
	net->tensor[net->n_tensors - 1].init = init;
	net->tensor[net->n_tensors - 1].scale = scale;
}

/* He's variance 2 / fan_in, by a uniform distribution: exact arithmetic but for the bound. */
static void init_last_weight(struct net *net, int64_t fan_in)
{
	init_last_tensor(net, NET_UNIFORM, sqrtf(6.0f / (float)fan_in));
}

void net_init_last(struct net *net, enum net_init init, float scale)
{
	const struct net_layer *layer;

	if (net->status)
		return;
	layer = &net->layer[net->n_layers - 1];
	for (size_t i = 0; i < layer->n_tensors; i++) {
		net->tensor[layer->first_tensor + i].init = init;
		net->tensor[layer->first_tensor + i].scale = scale;
	}
}

void net_add_dense(struct net *net, const char *name, int64_t units)
{
	struct net_layer *layer = layer_add(net, &layer_dense);
	int64_t in;

	if (!layer)
		return;
	in = layer->in.c * layer->in.h * layer->in.w;
	layer->out = (struct nn_shape){0, units, 1, 1, false};
	tensor_add(net, layer, name, "weight", 2, (const int64_t[]){units, in});
	init_last_weight(net, in);
	tensor_add(net, layer, name, "bias", 1, &units);
}

/* The shape that a window leaves of layer->in. */
static void slide(struct net *net, struct net_layer *layer)
{
	const struct nn_window *window = &layer->window;
	int64_t rows = layer->in.h + 2 * window->padding - window->height;
	int64_t columns = layer->in.w + 2 * window->padding - window->width;

	if (rows < 0 || columns < 0) {
		fail(net, PSGD_ERR_CONFIG, "images are too small to pool");
		return;
	}
	layer->out.h = rows / window->stride + 1;
	layer->out.w = columns / window->stride + 1;
}

void net_add_conv(
	struct net *net, const char *name, int64_t channels, int64_t kernel, int64_t stride)
{
	struct net_layer *layer = layer_add(net, &layer_conv);
	int64_t dims[4] = {channels, 0, kernel, kernel};

	if (!layer)
		return;
	dims[1] = layer->in.c;
	layer->window = (struct nn_window){kernel, kernel, stride, kernel / 2};
	slide(net, layer);
	layer->out.c = channels;
	layer->out.plain = false;
	tensor_add(net, layer, name, "weight", 4, dims);
	init_last_weight(net, layer->in.c * kernel * kernel);
}

void net_add_norm(struct net *net, const char *name, bool relu)
{
	struct net_layer *layer = layer_add(net, &layer_norm);

	if (!layer)
		return;
	layer->relu = relu;
	tensor_add(net, layer, name, "weight", 1, &layer->in.c);
	init_last_tensor(net, NET_CONSTANT, 1.0f);
	tensor_add(net, layer, name, "bias", 1, &layer->in.c);
	layer->running = net->n_running;
	net->n_running += 2 * (size_t)layer->in.c;
	layer->block = net->n_blocks;
	net->n_blocks += 2 * net_padded((size_t)layer->in.c);
}

void net_add_relu(struct net *net)
{
	(void)layer_add(net, &layer_relu);
}

void net_add_join(struct net *net, size_t other)
{
	struct net_layer *layer = layer_add(net, &layer_relu);
	const struct nn_shape *second;

	if (!layer)
		return;
	layer->from[layer->n_from++] = other;
	second = other ? &net->layer[other - 1].out : &net->in;
	if (second->c != layer->in.c || second->h != layer->in.h || second->w != layer->in.w ||
		second->plain != layer->in.plain)
		fail(net, PSGD_ERR_INVALID, "joined branches differ in shape");
}

void net_add_pool(struct net *net, int64_t kernel, int64_t stride, int64_t padding)
{
	struct net_layer *layer = layer_add(net, &layer_pool);

	if (!layer)
		return;
	layer->window = (struct nn_window){kernel, kernel, stride, padding};
	slide(net, layer);
}

void net_add_average(struct net *net)
{
	struct net_layer *layer = layer_add(net, &layer_pool);

	if (!layer)
		return;
	layer->average = true;
	layer->window = (struct nn_window){layer->in.h, layer->in.w, 1, 0};
	slide(net, layer);
}

static void tensor_init(const struct net_tensor *tensor, float *out, uint64_t key)
{
	for (size_t i = 0; i < tensor->count; i++) {
		if (tensor->init == NET_CONSTANT)
			out[i] = tensor->scale;
		else if (tensor->init == NET_UNIFORM)
			out[i] = tensor->scale * rng_symmetric(key, i);
		else
			out[i] = tensor->scale * rng_normal(key, i);
	}
}

/* Backward adds two gradients of a value at most; one that nobody takes has none. */
static void check_uses(struct net *net)
{
	size_t *uses;

	if (net->status)
		return;
	uses = calloc(net->n_layers + 1, sizeof(*uses));
	if (!uses) {
		fail(net, PSGD_ERR_NOMEM, "out of memory");
		return;
	}
	for (size_t i = 0; i < net->n_layers; i++)
		for (size_t k = 0; k < net->layer[i].n_from; k++)
			uses[net->layer[i].from[k]]++;
	for (size_t i = 0; i < net->n_layers; i++)
		if (uses[i] < 1 || uses[i] > 2)
			fail(net, PSGD_ERR_INVALID, "a value is not taken once or twice");
	free(uses);
}

static psgd_status view_both_end(struct net *net, float *params, float *running, psgd_status status)
{
	bool good = !status;
	psgd_status ended[2] = {
		nn_view_end(net->nn, params, net->params, net->n_params, good, &net->error),
		nn_view_end(net->nn, running, net->running, net->n_running, good, &net->error)};

	return status ? status : ended[0] ? ended[0] : ended[1];
}

static psgd_status init_values(struct net *net, uint64_t seed)
{
	float *params = NULL, *running = NULL;
	psgd_status status = nn_view(net->nn, net->params, net->n_params, &params, &net->error);

	if (!status)
		status = nn_view(net->nn, net->running, net->n_running, &running, &net->error);
	for (size_t i = 0; !status && i < net->n_tensors; i++)
		tensor_init(&net->tensor[i], params + net->tensor[i].offset,
			rng_key(seed, RNG_PARAMETERS, i));
	for (size_t i = 0; !status && i < net->n_layers; i++) {
		const struct net_layer *layer = &net->layer[i];

		for (int64_t c = 0; layer->kind->statistics && c < layer->in.c; c++)
			running[layer->running + (size_t)(layer->in.c + c)] = 1.0f;
	}
	return view_both_end(net, params, running, status);
}

psgd_status net_end(struct net *net, uint64_t seed)
{
	check_uses(net);
	if (net->status || !net->nn)
		return net->status;
	net->params = nn_alloc(net->nn, net->n_params);
	net->grads = nn_alloc(net->nn, net->n_params);
	net->running = nn_alloc(net->nn, net->n_running);
	if (!net->params || !net->grads || !net->running)
		return image_fail(&net->error, PSGD_ERR_NOMEM,
			"out of memory for %zu parameters and their gradients", net->n_params);
	return init_values(net, seed);
}

size_t net_sync_values(const struct net *net)
{
	/* A sum and a sum of products of each channel, forward and backward. */
	return 2 * net->n_running;
}

static psgd_status sync_copies(struct net *net)
{
	struct norm_scratch *norm = &net->norm;

	if (!net->nn->device)
		return PSGD_OK;
	norm->params = nn_host_alloc(net->nn, net->n_blocks);
	norm->grads = nn_host_alloc(net->nn, net->n_blocks);
	norm->running = nn_host_alloc(net->nn, net->n_running);
	if (!norm->params || !norm->grads || !norm->running)
		return PSGD_ERR_NOMEM;
	memset(norm->grads, 0, net->n_blocks * sizeof(float));
	return PSGD_OK;
}

psgd_status net_sync(struct net *net, net_sync_fn sync, void *user, unsigned n_workers)
{
	struct norm_scratch *norm = &net->norm;
	size_t most = 0, room;

	for (size_t i = 0; i < net->n_layers; i++)
		if (net->layer[i].kind->statistics && (size_t)net->layer[i].in.c > most)
			most = (size_t)net->layer[i].in.c;
	if (most == 0)
		return PSGD_OK;
	/* Channels are taken some at a time. */
	room = net_padded(most) + NORM_TILE;
	norm->mean = net_alloc(7 * room);
	norm->sum = calloc(2 * room, sizeof(double));
	if (!norm->mean || !norm->sum || sync_copies(net))
		return image_fail(&net->error, PSGD_ERR_NOMEM, "out of memory");
	norm->product = norm->sum + room;
	norm->scale = norm->mean + room;
	norm->shift = norm->scale + room;
	norm->dy_mean = norm->shift + room;
	norm->slope = norm->dy_mean + room;
	norm->values = norm->slope + room;
	for (unsigned isa = 0; norm_rows_of(isa); isa++)
		norm->rows = norm_rows_of(isa);
	net->sync = sync;
	net->sync_user = user;
	net->n_workers = n_workers;
	return PSGD_OK;
}

void net_free(struct net *net)
{
	while (net->plans) {
		struct net_plan *next = net->plans->next;

		net_plan_free(net->plans);
		net->plans = next;
	}
	free(net->layer);
	free(net->tensor);
	if (net->nn) {
		nn_free(net->nn, net->params);
		nn_free(net->nn, net->grads);
		nn_free(net->nn, net->running);
		nn_host_free(net->nn, net->norm.params);
		nn_host_free(net->nn, net->norm.grads);
		nn_host_free(net->nn, net->norm.running);
	}
	free(net->norm.mean);
	free(net->norm.sum);
	*net = (struct net){0};
}
