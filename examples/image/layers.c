/* The kinds of layers. SPDX-License-Identifier: MIT */
#include "layers.h"

#include <math.h>

#include "norm_sync.h"

static float *param(const struct net *net, const struct net_layer *layer, size_t i)
{
	return net->params + net->tensor[layer->first_tensor + i].offset;
}

static float *grad(const struct net *net, const struct net_layer *layer, size_t i)
{
	return net->grads + net->tensor[layer->first_tensor + i].offset;
}

static struct nn_shape batch_of(const struct nn_shape *shape, int64_t batch)
{
	struct nn_shape whole = *shape;

	whole.n = batch;
	return whole;
}

static enum nn_pass forward_pass(const struct net_cell *cell)
{
	return cell->train ? NN_TRAIN : NN_INFER;
}

/* The net's input needs no gradient. */
static bool wants_data(const struct net_layer *layer)
{
	return layer->from[0] != 0;
}

static psgd_status dense_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_shape in = batch_of(&layer->in, cell->batch);
	struct nn_shape out = batch_of(&layer->out, cell->batch);
	const struct nn_ops *ops = net->nn->ops;
	struct image_error *e = &net->error;
	psgd_status status;

	status = ops->inner(net->nn, forward_pass(cell), &in, &out, NULL, &cell->forward, e);
	if (!status && cell->train)
		status = ops->inner(
			net->nn, NN_BACK_PARAMS, &in, &out, cell->forward, &cell->back_params, e);
	if (!status && cell->train && wants_data(layer))
		status = ops->inner(
			net->nn, NN_BACK_DATA, &in, &out, cell->forward, &cell->back_data, e);
	return status;
}

static psgd_status conv_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_shape in = batch_of(&layer->in, cell->batch);
	struct nn_shape out = batch_of(&layer->out, cell->batch);
	const struct nn_window *window = &layer->window;
	const struct nn_ops *ops = net->nn->ops;
	struct image_error *e = &net->error;
	psgd_status status;

	status = ops->conv(net->nn, forward_pass(cell), &in, &out, window, NULL, &cell->forward, e);
	if (!status && cell->train)
		status = ops->conv(net->nn, NN_BACK_PARAMS, &in, &out, window, cell->forward,
			&cell->back_params, e);
	if (!status && cell->train && wants_data(layer))
		status = ops->conv(net->nn, NN_BACK_DATA, &in, &out, window, cell->forward,
			&cell->back_data, e);
	return status;
}

/* Then norm_sync.c does it. */
static bool norm_syncs(const struct net *net, const struct net_cell *cell)
{
	return cell->train && net->sync;
}

static psgd_status norm_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_shape in = batch_of(&layer->in, cell->batch);
	const struct nn_ops *ops = net->nn->ops;
	struct image_error *e = &net->error;
	psgd_status status;

	if (norm_syncs(net, cell))
		return PSGD_OK;
	status = ops->norm(net->nn, forward_pass(cell), &in, layer->relu, NORM_EPSILON, NULL,
		&cell->forward, e);
	if (!status && cell->train)
		status = ops->norm(net->nn, NN_BACK_DATA, &in, layer->relu, NORM_EPSILON,
			cell->forward, &cell->back_params, e);
	return status;
}

static psgd_status pool_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_shape in = batch_of(&layer->in, cell->batch);
	struct nn_shape out = batch_of(&layer->out, cell->batch);
	const struct nn_ops *ops = net->nn->ops;
	struct image_error *e = &net->error;
	psgd_status status;

	status = ops->pool(net->nn, forward_pass(cell), &in, &out, &layer->window, layer->average,
		NULL, &cell->forward, e);
	if (!status && cell->train && wants_data(layer))
		status = ops->pool(net->nn, NN_BACK_DATA, &in, &out, &layer->window, layer->average,
			cell->forward, &cell->back_data, e);
	return status;
}

/* Of a dense or convolutional layer; the second tensor, if there is one, is the bias. */
static psgd_status linear_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	struct nn_data data = {
		.at = {[NN_SRC] = cell->x[0],
			[NN_WEIGHTS] = param(net, layer, 0),
			[NN_BIAS] = layer->n_tensors > 1 ? param(net, layer, 1) : NULL,
			[NN_DST] = cell->y}};

	(void)running;
	return net->nn->ops->run(net->nn, cell->forward, &data, &net->error);
}

static psgd_status linear_back_params(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_data data = {
		.at = {[NN_SRC] = cell->x[0],
			[NN_DIFF_DST] = cell->dy,
			[NN_DIFF_WEIGHTS] = grad(net, layer, 0),
			[NN_DIFF_BIAS] = layer->n_tensors > 1 ? grad(net, layer, 1) : NULL}};

	return net->nn->ops->run(net->nn, cell->back_params, &data, &net->error);
}

static psgd_status linear_back_data(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_data data = {.at = {[NN_DIFF_DST] = cell->dy,
				       [NN_WEIGHTS] = param(net, layer, 0),
				       [NN_DIFF_SRC] = cell->dx}};

	return net->nn->ops->run(net->nn, cell->back_data, &data, &net->error);
}

float layer_unbias(const struct net_layer *layer, const struct net_cell *cell, unsigned n_workers)
{
	int64_t n = n_workers * cell->batch * layer->in.h * layer->in.w;

	return n > 1 ? (float)n / (float)(n - 1) : 1.0f;
}

void layer_track(const struct net_layer *layer, const struct net_cell *cell, unsigned n_workers,
	float *running)
{
	int64_t channels = layer->in.c;
	float *mean = running, *variance = mean + channels;
	float unbias = layer_unbias(layer, cell, n_workers);

	for (int64_t i = 0; i < channels; i++) {
		/* A step whose gradients are left out leaves nothing here, either. */
		if (!isfinite(cell->mean[i]) || !isfinite(cell->variance[i]))
			continue;
		mean[i] += NORM_MOMENTUM * (cell->mean[i] - mean[i]);
		variance[i] += NORM_MOMENTUM * (cell->variance[i] * unbias - variance[i]);
	}
}

static psgd_status norm_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	float *mean = running + layer->running;
	struct nn_data data = {
		.at = {[NN_SRC] = cell->x[0],
			[NN_DST] = cell->y,
			[NN_SCALE] = param(net, layer, 0),
			[NN_SHIFT] = param(net, layer, 1),
			[NN_MEAN] = cell->train ? cell->mean : mean,
			[NN_VARIANCE] = cell->train ? cell->variance : mean + layer->in.c}};
	psgd_status status;

	if (norm_syncs(net, cell))
		return norm_sync_forward(net, layer, cell, running);
	status = net->nn->ops->run(net->nn, cell->forward, &data, &net->error);
	if (status || !cell->train)
		return status;
	if (net->nn->device)
		return net->nn->device->track(net->nn, mean, cell->mean, cell->variance,
			(size_t)layer->in.c, layer_unbias(layer, cell, 1), &net->error);
	layer_track(layer, cell, 1, mean);
	return PSGD_OK;
}

static psgd_status norm_back_params(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_data data = {.at = {[NN_SRC] = cell->x[0],
				       [NN_MEAN] = cell->mean,
				       [NN_VARIANCE] = cell->variance,
				       [NN_SCALE] = param(net, layer, 0),
				       [NN_SHIFT] = param(net, layer, 1),
				       [NN_DIFF_DST] = cell->dy,
				       [NN_DIFF_SRC] = cell->dx,
				       [NN_DIFF_SCALE] = grad(net, layer, 0),
				       [NN_DIFF_SHIFT] = grad(net, layer, 1)}};

	if (norm_syncs(net, cell))
		return norm_sync_backward(net, layer, cell);
	return net->nn->ops->run(net->nn, cell->back_params, &data, &net->error);
}

static psgd_status pool_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	struct nn_data data = {.at = {[NN_SRC] = cell->x[0], [NN_DST] = cell->y}};

	(void)layer;
	(void)running;
	return net->nn->ops->run(net->nn, cell->forward, &data, &net->error);
}

static psgd_status pool_back_data(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_data data = {.at = {[NN_DIFF_DST] = cell->dy, [NN_DIFF_SRC] = cell->dx}};

	(void)layer;
	return net->nn->ops->run(net->nn, cell->back_data, &data, &net->error);
}

/*
 * Element by element, some at a time: results often take the place of an operand, which a
 * compiler that is to find the vectors itself has to fear. Every buffer is aligned and padded.
 */
typedef float lanes __attribute__((vector_size(16), may_alias));
typedef int32_t bits __attribute__((vector_size(16), may_alias));

#define LANES (sizeof(lanes) / sizeof(float))

/* a + b, or a alone when b is NULL. */
static inline lanes sum_at(const float *a, const float *b, size_t i)
{
	lanes sum = *(const lanes *)(a + i);

	if (b)
		sum += *(const lanes *)(b + i);
	return sum;
}

/* A NaN stays one: training that has diverged must show. */
static psgd_status relu_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	size_t n = net_values(&layer->out, cell->batch);
	const lanes zero = {0};

	(void)running;
	if (net->nn->device)
		return net->nn->device->relu(
			net->nn, cell->y, cell->x[0], cell->x[1], n, &net->error);
	for (size_t i = 0; i < n; i += LANES) {
		lanes sum = sum_at(cell->x[0], cell->x[1], i);

		*(bits *)(cell->y + i) = (bits)sum & ~(sum < zero);
	}
	return PSGD_OK;
}

/* Both inputs have the same gradient, and one buffer for it. */
static psgd_status relu_back_data(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	size_t n = net_values(&layer->out, cell->batch);
	const lanes zero = {0};

	if (net->nn->device)
		return net->nn->device->relu_back(
			net->nn, cell->dx, cell->part[0], cell->part[1], cell->y, n, &net->error);
	for (size_t i = 0; i < n; i += LANES) {
		lanes sum = sum_at(cell->part[0], cell->part[1], i);

		*(bits *)(cell->dx + i) = (bits)sum & (*(const lanes *)(cell->y + i) > zero);
	}
	return PSGD_OK;
}

psgd_status layer_combine(
	struct net *net, float *out, const float *a, const float *b, float scale, size_t n)
{
	if (net->nn->device)
		return net->nn->device->combine(net->nn, out, a, b, scale, n, &net->error);
	for (size_t i = 0; i < n; i += LANES)
		*(lanes *)(out + i) = sum_at(a, b, i) * scale;
	return PSGD_OK;
}

const struct layer_kind layer_dense = {.name = "dense",
	.keeps_x = true,
	.prepare = dense_prepare,
	.forward = linear_forward,
	.back_params = linear_back_params,
	.back_data = linear_back_data};

const struct layer_kind layer_conv = {.name = "conv",
	.keeps_x = true,
	.prepare = conv_prepare,
	.forward = linear_forward,
	.back_params = linear_back_params,
	.back_data = linear_back_data};

const struct layer_kind layer_norm = {.name = "norm",
	.statistics = true,
	.keeps_x = true,
	.prepare = norm_prepare,
	.forward = norm_forward,
	.back_params = norm_back_params};

const struct layer_kind layer_pool = {.name = "pool",
	.prepare = pool_prepare,
	.forward = pool_forward,
	.back_data = pool_back_data};

const struct layer_kind layer_relu = {.name = "relu",
	.keeps_y = true,
	.elementwise = true,
	.forward = relu_forward,
	.back_data = relu_back_data};
