/* A net at work: batches on their way, forward, backward. SPDX-License-Identifier: MIT */
#include "net.h"

#include "layers.h"
#include "norm_sync.h"

static size_t n_outputs(const struct net *net, const struct net_plan *plan)
{
	return net_values(
		net->n_layers ? &net->layer[net->n_layers - 1].out : &net->in, plan->batch);
}

psgd_status net_load(struct net *net, struct net_plan *plan)
{
	psgd_status status;

	if (!plan->feed)
		return PSGD_OK;
	nn_range(net->nn, "load");
	status = net->nn->device->feed_load(net->nn, plan->feed, &plan->input, &net->error);
	nn_range_end(net->nn);
	if (!status)
		plan->n_loaded++;
	return status;
}

void net_unload(struct net *net, struct net_plan *plan)
{
	if (plan->feed)
		net->nn->device->feed_drop(net->nn, plan->feed);
	plan->n_loaded = 0;
}

static psgd_status take_input(struct net *net, struct net_plan *plan)
{
	psgd_status status = PSGD_OK;

	if (!plan->feed)
		return PSGD_OK;
	if (plan->n_loaded == 0)
		status = net_load(net, plan);
	if (!status)
		status = net->nn->device->feed_take(net->nn, plan->feed, plan->first, &net->error);
	if (!status)
		plan->n_loaded--;
	return status;
}

psgd_status net_output(struct net *net, struct net_plan *plan)
{
	psgd_status status;

	if (!net->nn->device)
		return PSGD_OK;
	nn_range(net->nn, "scores");
	status = net->nn->device->download(
		net->nn, plan->output, plan->last, n_outputs(net, plan), &net->error);
	nn_range_end(net->nn);
	return status;
}

static psgd_status forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running)
{
	psgd_status status;

	nn_range(net->nn, layer->kind->name);
	status = layer->kind->forward(net, layer, cell, running);
	nn_range_end(net->nn);
	return status;
}

psgd_status net_forward(struct net *net, struct net_plan *plan, float *running)
{
	psgd_status status;

	if (!running)
		running = net->running;
	nn_range(net->nn, "forward");
	status = take_input(net, plan);
	if (!status && plan->train && net->sync)
		status = norm_sync_begin(net, running);
	for (size_t i = 0; !status && i < net->n_layers; i++)
		status = forward(net, &net->layer[i], &plan->cell[i], running);
	nn_range_end(net->nn);
	return status;
}

static psgd_status backward_params(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	bool two = cell->part[1] && !layer->kind->elementwise;
	psgd_status status = PSGD_OK;

	if (!two && !layer->kind->back_params)
		return PSGD_OK;
	nn_range(net->nn, layer->kind->name);
	if (two)
		status = layer_combine(net, cell->dy, cell->part[0], cell->part[1], 1.0f,
			net_values(&layer->out, cell->batch));
	if (!status && layer->kind->back_params)
		status = layer->kind->back_params(net, layer, cell);
	nn_range_end(net->nn);
	return status;
}

static psgd_status backward_data(
	struct net *net, const struct net_layer *layer, struct net_cell *cell)
{
	psgd_status status;

	if (!cell->dx || !layer->kind->back_data)
		return PSGD_OK;
	nn_range(net->nn, layer->kind->name);
	status = layer->kind->back_data(net, layer, cell);
	nn_range_end(net->nn);
	return status;
}

static psgd_status send_diff(struct net *net, struct net_plan *plan)
{
	if (!net->nn->device)
		return PSGD_OK;
	return net->nn->device->send(
		net->nn, plan->diff, plan->diff_start, n_outputs(net, plan), &net->error);
}

psgd_status net_backward(struct net *net, struct net_plan *plan, net_grads_fn on_grads, void *user)
{
	psgd_status status;

	nn_range(net->nn, "backward");
	status = send_diff(net, plan);
	for (size_t i = net->n_layers; !status && i-- > 0;) {
		const struct net_layer *layer = &net->layer[i];
		struct net_cell *cell = &plan->cell[i];

		status = backward_params(net, layer, cell);
		if (!status && layer->n_tensors > 0 && on_grads)
			status = on_grads(user, layer);
		if (!status)
			status = backward_data(net, layer, cell);
	}
	nn_range_end(net->nn);
	return status;
}
