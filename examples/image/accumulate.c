/* Gradients of several batches as one. SPDX-License-Identifier: MIT */
#include "accumulate.h"

#include <stdlib.h>

psgd_status accumulate_init(struct accumulate *accumulate, const struct net *net, size_t most,
	net_grads_fn on_grads, void *user)
{
	*accumulate = (struct accumulate){.net = net, .on_grads = on_grads, .user = user};
	if (most < 2)
		return PSGD_OK;
	accumulate->sum = net_alloc(net->n_params);
	return accumulate->sum ? PSGD_OK : PSGD_ERR_NOMEM;
}

void accumulate_finish(struct accumulate *accumulate)
{
	free(accumulate->sum);
	accumulate->sum = NULL;
}

void accumulate_begin(struct accumulate *accumulate, size_t n_batches)
{
	accumulate->n_batches = n_batches;
	accumulate->n_finished = 0;
}

/* first: nothing is in the sum yet. */
static void add(float *restrict sum, const float *restrict grads, size_t n, bool first)
{
	for (size_t i = 0; i < n; i++)
		sum[i] = first ? grads[i] : sum[i] + grads[i];
}

static void mean(float *restrict grads, const float *restrict sum, size_t n, float share)
{
	for (size_t i = 0; i < n; i++)
		grads[i] = (sum[i] + grads[i]) * share;
}

psgd_status accumulate_on_grads(void *user, const struct net_layer *layer)
{
	struct accumulate *a = user;
	bool last = a->n_finished + 1 == a->n_batches;
	float share = 1.0f / (float)a->n_batches;

	for (size_t i = 0; i < layer->n_tensors && a->n_batches > 1; i++) {
		const struct net_tensor *tensor = &a->net->tensor[layer->first_tensor + i];
		float *grads = a->net->grads + tensor->offset;

		if (last)
			mean(grads, a->sum + tensor->offset, tensor->count, share);
		else
			add(a->sum + tensor->offset, grads, tensor->count, a->n_finished == 0);
	}
	/* The first layer with tensors is the last to come. */
	if (layer->first_tensor == 0)
		a->n_finished++;
	return last ? a->on_grads(a->user, layer) : PSGD_OK;
}
