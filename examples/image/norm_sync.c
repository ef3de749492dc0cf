/* Batch norm over the batches of all workers. SPDX-License-Identifier: MIT */
#include "norm_sync.h"

#include <math.h>
#include <string.h>

#include "layers.h"

static struct norm_strips strips_of(
	const struct net *net, const struct net_layer *layer, const struct net_cell *cell)
{
	const struct nn_shape *s = &layer->in;
	size_t c = (size_t)s->c, block = (size_t)nn_block(net->nn, s), pixels;

	pixels = (size_t)(s->h * s->w);
	if (block < c || (block == c && c <= NORM_TILE))
		return (struct norm_strips){(size_t)cell->batch, c / block, pixels, block, block, c,
			c * pixels, block * pixels};
	return (struct norm_strips){1, (c + NORM_TILE - 1) / NORM_TILE,
		(size_t)cell->batch * pixels, c, NORM_TILE, c, 0, NORM_TILE};
}

static struct norm_rows rows_of(const struct norm_scratch *scratch, const struct net_layer *layer,
	const struct net_cell *cell)
{
	return (struct norm_rows){.x = cell->x[0],
		.mean = scratch->mean,
		.scale = scratch->scale,
		.shift = scratch->shift,
		.dy_mean = scratch->dy_mean,
		.slope = scratch->slope,
		.relu = layer->relu,
		.sum = scratch->sum,
		.product = scratch->product};
}

/*
 * Means over all workers of the two sums, of which each worker has `count` summands, into
 * scratch->values: those of the sum, then those of the product.
 */
static psgd_status sum_up(struct net *net, size_t channels, size_t count)
{
	struct norm_scratch *scratch = &net->norm;
	psgd_status status;

	for (size_t c = 0; c < channels; c++) {
		scratch->values[c] = (float)(scratch->sum[c] / (double)count);
		scratch->values[channels + c] = (float)(scratch->product[c] / (double)count);
	}
	status = net->sync(net->sync_user, scratch->values, 2 * channels);
	for (size_t c = 0; c < 2 * channels; c++)
		scratch->values[c] /= (float)net->n_workers;
	return status;
}

static void clear_sums(struct norm_scratch *scratch, size_t channels)
{
	memset(scratch->sum, 0, (channels + NORM_TILE) * sizeof(double));
	memset(scratch->product, 0, (channels + NORM_TILE) * sizeof(double));
}

/* One of the loops over the layer's activations. */
static psgd_status run_loop(struct net *net, const struct net_layer *layer,
	const struct net_cell *cell, enum norm_loop loop, const struct norm_rows *all)
{
	struct nn_shape shape = layer->in;
	struct norm_strips strips;

	shape.n = cell->batch;
	if (net->nn->device)
		return net->nn->device->norm_loop(net->nn, loop, &shape, all, &net->error);
	strips = strips_of(net, layer, cell);
	net->norm.rows(loop, &strips, all);
	return PSGD_OK;
}

psgd_status norm_sync_begin(struct net *net, const float *running)
{
	const struct nn_device *device = net->nn->device;
	psgd_status status = PSGD_OK;

	if (!device)
		return PSGD_OK;
	for (size_t i = 0; !status && i < net->n_layers; i++) {
		const struct net_layer *layer = &net->layer[i];

		if (layer->kind->statistics)
			status = device->fetch(net->nn, net->norm.params + layer->block,
				net->params + net->tensor[layer->first_tensor].offset,
				2 * net_padded((size_t)layer->in.c), &net->error);
	}
	return status ? status
		      : device->download(
				net->nn, net->norm.running, running, net->n_running, &net->error);
}

/* A mean so many deviations from where moments were taken costs their f32 sums digits. */
#define FAR 8.0

/*
 * Mean and variance of all workers' batches, by the moments about scratch->mean. *far: they should
 * be taken about the mean that has been found. The same on all workers, to the bit.
 */
static psgd_status moments(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, bool *far)
{
	struct norm_scratch *scratch = &net->norm;
	size_t channels = (size_t)layer->in.c;
	struct norm_rows all = rows_of(scratch, layer, cell);
	psgd_status status;

	*far = false;
	clear_sums(scratch, channels);
	status = run_loop(net, layer, cell, NORM_MOMENTS, &all);
	if (!status)
		status = sum_up(net, channels, (size_t)(cell->batch * layer->in.h * layer->in.w));
	for (size_t c = 0; !status && c < channels; c++) {
		double shift = scratch->values[c];
		double variance = scratch->values[channels + c] - shift * shift;

		*far = *far || shift * shift > FAR * FAR * (fmax(variance, 0) + NORM_EPSILON);
		cell->mean[c] = (float)(scratch->mean[c] + shift);
		cell->variance[c] = (float)fmax(variance, 0);
		/* What is no number must stay so. */
		if (isnan(variance))
			cell->variance[c] = NAN;
	}
	return status;
}

/* scale and shift of y = (x - mean) * scale + shift. */
static void coefficients(
	struct net *net, const struct net_layer *layer, const struct net_cell *cell)
{
	struct norm_scratch *scratch = &net->norm;
	const struct net_tensor *tensor = &net->tensor[layer->first_tensor];
	const float *gamma =
		net->nn->device ? scratch->params + layer->block : net->params + tensor[0].offset;
	const float *beta = gamma + (tensor[1].offset - tensor[0].offset);

	for (int64_t c = 0; c < layer->in.c; c++) {
		scratch->mean[c] = cell->mean[c];
		scratch->scale[c] =
			(float)(gamma[c] / sqrt((double)cell->variance[c] + (double)NORM_EPSILON));
		scratch->shift[c] = beta[c];
	}
}

static psgd_status track(struct net *net, const struct net_layer *layer, struct net_cell *cell,
	float *held, float *running)
{
	layer_track(layer, cell, net->n_workers, held);
	if (!net->nn->device)
		return PSGD_OK;
	return net->nn->device->send(
		net->nn, running + layer->running, held, 2 * (size_t)layer->in.c, &net->error);
}

psgd_status norm_sync_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	struct norm_scratch *scratch = &net->norm;
	struct norm_rows all = rows_of(scratch, layer, cell);
	size_t channels = (size_t)layer->in.c;
	float *held = (net->nn->device ? scratch->running : running) + layer->running;
	bool far = false;
	psgd_status status;

	/* About the running means, which all workers have alike; one bad batch may have spoilt
	 * them. */
	for (size_t c = 0; c < channels; c++)
		scratch->mean[c] = isfinite(held[c]) ? held[c] : 0.0f;
	status = moments(net, layer, cell, &far);
	if (!status && far) {
		memcpy(scratch->mean, cell->mean, channels * sizeof(float));
		status = moments(net, layer, cell, &far);
	}
	if (status)
		return status;
	coefficients(net, layer, cell);
	all.out = cell->y;
	status = run_loop(net, layer, cell, NORM_APPLY, &all);
	return status ? status : track(net, layer, cell, held, running);
}

/* The gradients of the norm's two tensors, from the sums over the own batch. */
static psgd_status write_grads(
	struct net *net, const struct net_layer *layer, const struct net_cell *cell)
{
	const struct net_tensor *tensor = &net->tensor[layer->first_tensor];
	const struct norm_scratch *scratch = &net->norm;
	float *grads = net->grads + tensor[0].offset;
	size_t behind = tensor[1].offset - tensor[0].offset, channels = (size_t)layer->in.c;
	float *out = net->nn->device ? scratch->grads + layer->block : grads;

	for (size_t c = 0; c < channels; c++) {
		double variance = (double)cell->variance[c] + (double)NORM_EPSILON;

		out[c] = (float)(scratch->product[c] / sqrt(variance));
		out[behind + c] = (float)scratch->sum[c];
	}
	if (!net->nn->device)
		return PSGD_OK;
	return net->nn->device->send(net->nn, grads, out, behind + channels, &net->error);
}

psgd_status norm_sync_backward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	struct norm_scratch *scratch = &net->norm;
	struct norm_rows all = rows_of(scratch, layer, cell);
	size_t channels = (size_t)layer->in.c;
	psgd_status status;

	coefficients(net, layer, cell);
	clear_sums(scratch, channels);
	all.dy = cell->dy;
	status = run_loop(net, layer, cell, NORM_PRODUCTS, &all);
	if (!status)
		status = write_grads(net, layer, cell);
	if (!status)
		status = sum_up(net, channels, (size_t)(cell->batch * layer->in.h * layer->in.w));
	if (status)
		return status;
	for (size_t c = 0; c < channels; c++) {
		scratch->dy_mean[c] = scratch->values[c];
		scratch->slope[c] =
			scratch->values[channels + c] / (cell->variance[c] + NORM_EPSILON);
	}
	all.out = cell->dx;
	return run_loop(net, layer, cell, NORM_SPREAD, &all);
}
