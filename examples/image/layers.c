/* The kinds of layers. SPDX-License-Identifier: MIT */
#include "layers.h"

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
	return (struct nn_shape){batch, shape->c, shape->h, shape->w};
}

static int64_t values(const struct nn_shape *shape)
{
	return shape->c * shape->h * shape->w;
}

static enum nn_pass forward_pass(const struct net_cell *cell)
{
	return cell->train ? NN_TRAIN : NN_INFER;
}

/* The first layer's input needs no gradient. */
static bool wants_data(const struct net *net, const struct net_layer *layer)
{
	return layer != net->layer;
}

static psgd_status dense_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	int64_t n = cell->batch, in = values(&layer->in), units = layer->out.c;
	struct image_error *e = &net->error;
	psgd_status status;

	status = nn_inner(net->nn, forward_pass(cell), n, in, units, NULL, &cell->forward, e);
	if (!status && cell->train)
		status = nn_inner(net->nn, NN_BACK_PARAMS, n, in, units, cell->forward,
			&cell->back_params, e);
	if (!status && cell->train && wants_data(net, layer))
		status = nn_inner(
			net->nn, NN_BACK_DATA, n, in, units, cell->forward, &cell->back_data, e);
	return status;
}

static psgd_status conv_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_shape in = batch_of(&layer->in, cell->batch);
	int64_t channels = layer->out.c;
	struct image_error *e = &net->error;
	psgd_status status;

	status = nn_conv(net->nn, forward_pass(cell), &in, channels, NULL, &cell->forward, e);
	if (!status && cell->train)
		status = nn_conv(net->nn, NN_BACK_PARAMS, &in, channels, cell->forward,
			&cell->back_params, e);
	if (!status && cell->train && wants_data(net, layer))
		status = nn_conv(
			net->nn, NN_BACK_DATA, &in, channels, cell->forward, &cell->back_data, e);
	return status;
}

static psgd_status norm_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_shape in = batch_of(&layer->in, cell->batch);
	struct image_error *e = &net->error;
	psgd_status status;

	status = nn_norm(net->nn, forward_pass(cell), &in, NORM_EPSILON, NULL, &cell->forward, e);
	if (!status && cell->train)
		status = nn_norm(net->nn, NN_BACK_DATA, &in, NORM_EPSILON, cell->forward,
			&cell->back_params, e);
	return status;
}

static psgd_status pool_prepare(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct nn_shape in = batch_of(&layer->in, cell->batch);
	struct image_error *e = &net->error;
	psgd_status status;

	status = nn_pool(net->nn, forward_pass(cell), &in, NULL, &cell->forward, e);
	if (!status && cell->train && wants_data(net, layer))
		status = nn_pool(net->nn, NN_BACK_DATA, &in, cell->forward, &cell->back_data, e);
	return status;
}

/* Of a dense or convolutional layer; the second tensor, if there is one, is the bias. */
static psgd_status linear_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	struct nn_data data = {
		.at = {[NN_SRC] = cell->x,
			[NN_WEIGHTS] = param(net, layer, 0),
			[NN_BIAS] = layer->n_tensors > 1 ? param(net, layer, 1) : NULL,
			[NN_DST] = cell->y}};

	(void)running;
	return nn_run(net->nn, cell->forward, &data, &net->error);
}

static psgd_status linear_back_params(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *dy, float *dx)
{
	struct nn_data data = {
		.at = {[NN_SRC] = cell->x,
			[NN_DIFF_DST] = dy,
			[NN_DIFF_WEIGHTS] = grad(net, layer, 0),
			[NN_DIFF_BIAS] = layer->n_tensors > 1 ? grad(net, layer, 1) : NULL}};

	(void)dx;
	return nn_run(net->nn, cell->back_params, &data, &net->error);
}

static psgd_status linear_back_data(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *dy, float *dx)
{
	struct nn_data data = {.at = {[NN_DIFF_DST] = dy,
				       [NN_WEIGHTS] = param(net, layer, 0),
				       [NN_DIFF_SRC] = dx}};

	return nn_run(net->nn, cell->back_data, &data, &net->error);
}

/* Running variance is unbiased, as in PyTorch; the batch's own is not. */
static void norm_track(const struct net_layer *layer, const struct net_cell *cell, float *running)
{
	int64_t channels = layer->in.c, n = cell->batch * layer->in.h * layer->in.w;
	float *mean = running + layer->running, *variance = mean + channels;
	float unbias = n > 1 ? (float)n / (float)(n - 1) : 1.0f;

	for (int64_t i = 0; i < channels; i++) {
		mean[i] += NORM_MOMENTUM * (cell->mean[i] - mean[i]);
		variance[i] += NORM_MOMENTUM * (cell->variance[i] * unbias - variance[i]);
	}
}

static psgd_status norm_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	float *mean = running + layer->running;
	struct nn_data data = {
		.at = {[NN_SRC] = cell->x,
			[NN_DST] = cell->y,
			[NN_SCALE] = param(net, layer, 0),
			[NN_SHIFT] = param(net, layer, 1),
			[NN_MEAN] = cell->train ? cell->mean : mean,
			[NN_VARIANCE] = cell->train ? cell->variance : mean + layer->in.c}};
	psgd_status status = nn_run(net->nn, cell->forward, &data, &net->error);

	if (!status && cell->train)
		norm_track(layer, cell, running);
	return status;
}

static psgd_status norm_back_params(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *dy, float *dx)
{
	struct nn_data data = {.at = {[NN_SRC] = cell->x,
				       [NN_MEAN] = cell->mean,
				       [NN_VARIANCE] = cell->variance,
				       [NN_SCALE] = param(net, layer, 0),
				       [NN_SHIFT] = param(net, layer, 1),
				       [NN_DIFF_DST] = dy,
				       [NN_DIFF_SRC] = dx,
				       [NN_DIFF_SCALE] = grad(net, layer, 0),
				       [NN_DIFF_SHIFT] = grad(net, layer, 1)}};

	return nn_run(net->nn, cell->back_params, &data, &net->error);
}

static psgd_status pool_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	struct nn_data data = {.at = {[NN_SRC] = cell->x, [NN_DST] = cell->y}};

	(void)layer;
	(void)running;
	return nn_run(net->nn, cell->forward, &data, &net->error);
}

static psgd_status pool_back_data(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *dy, float *dx)
{
	struct nn_data data = {.at = {[NN_DIFF_DST] = dy, [NN_DIFF_SRC] = dx}};

	(void)layer;
	return nn_run(net->nn, cell->back_data, &data, &net->error);
}

static psgd_status relu_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	int64_t n = cell->batch * values(&layer->in);
	float *y = cell->y;

	(void)net;
	(void)running;
	/* A NaN stays one: training that has diverged must show. */
	for (int64_t i = 0; i < n; i++)
		y[i] = y[i] < 0.0f ? 0.0f : y[i];
	return PSGD_OK;
}

static psgd_status relu_back_data(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *dy, float *dx)
{
	const float *y = cell->y;
	int64_t n = cell->batch * values(&layer->in);

	(void)net;
	(void)dy;
	for (int64_t i = 0; i < n; i++)
		dx[i] = y[i] > 0.0f ? dx[i] : 0.0f;
	return PSGD_OK;
}

const struct layer_kind layer_dense = {.prepare = dense_prepare,
	.forward = linear_forward,
	.back_params = linear_back_params,
	.back_data = linear_back_data};

const struct layer_kind layer_conv = {.prepare = conv_prepare,
	.forward = linear_forward,
	.back_params = linear_back_params,
	.back_data = linear_back_data};

const struct layer_kind layer_norm = {.statistics = true,
	.prepare = norm_prepare,
	.forward = norm_forward,
	.back_params = norm_back_params};

const struct layer_kind layer_pool = {
	.prepare = pool_prepare, .forward = pool_forward, .back_data = pool_back_data};

const struct layer_kind layer_relu = {
	.in_place = true, .forward = relu_forward, .back_data = relu_back_data};
