/* Gradients of several batches as one. SPDX-License-Identifier: MIT */
#include "accumulate.h"

#include "layers.h"

psgd_status accumulate_init(struct accumulate *accumulate, struct net *net, size_t most,
	net_grads_fn on_grads, void *user)
{
	*accumulate = (struct accumulate){.net = net, .on_grads = on_grads, .user = user};
	if (most < 2)
		return PSGD_OK;
	accumulate->sum = nn_alloc(net->nn, net->n_params);
	return accumulate->sum ? PSGD_OK : PSGD_ERR_NOMEM;
}

void accumulate_finish(struct accumulate *accumulate)
{
	if (accumulate->sum)
		nn_free(accumulate->net->nn, accumulate->sum);
	accumulate->sum = NULL;
}

void accumulate_begin(struct accumulate *accumulate, size_t n_batches)
{
	accumulate->n_batches = n_batches;
	accumulate->n_finished = 0;
}

/* Into the sum, in which there is nothing before the first batch; of the last, the mean. */
static psgd_status add(struct accumulate *a, const struct net_tensor *tensor)
{
	float *sum = a->sum + tensor->offset, *grads = a->net->grads + tensor->offset;
	float share = 1.0f / (float)a->n_batches;

	if (a->n_finished + 1 == a->n_batches)
		return layer_combine(a->net, grads, sum, grads, share, tensor->count);
	if (a->n_finished == 0)
		return layer_combine(a->net, sum, grads, NULL, 1.0f, tensor->count);
	return layer_combine(a->net, sum, sum, grads, 1.0f, tensor->count);
}

psgd_status accumulate_on_grads(void *user, const struct net_layer *layer)
{
	struct accumulate *a = user;
	bool last = a->n_finished + 1 == a->n_batches;
	psgd_status status = PSGD_OK;

	for (size_t i = 0; !status && i < layer->n_tensors && a->n_batches > 1; i++)
		status = add(a, &a->net->tensor[layer->first_tensor + i]);
	if (status)
		return status;
	/* The first layer with tensors is the last to come. */
	if (layer->first_tensor == 0)
		a->n_finished++;
	return last ? a->on_grads(a->user, layer) : PSGD_OK;
}
