/* From layers whose gradients are there to buckets that are submitted. SPDX-License-Identifier: MIT
 */
#include "buckets.h"

#include <stdlib.h>
#include <string.h>

void buckets_tensors(const struct net *net, struct psgd_tensor *out)
{
	for (size_t i = 0; i < net->n_tensors; i++) {
		const struct net_tensor *tensor = &net->tensor[i];

		out[i] = (struct psgd_tensor){.id = (uint32_t)i,
			.dtype = PSGD_F32,
			.n_dims = tensor->n_dims,
			.name = tensor->name};
		memcpy(out[i].dims, tensor->dims, sizeof(out[i].dims));
	}
}

psgd_status buckets_init(struct buckets *buckets, const struct net *net, psgd_session *session)
{
	size_t used = 0;

	*buckets = (struct buckets){.net = net, .session = session};
	if (net->nn->device)
		buckets->stream = net->nn->device->stream(net->nn);
	buckets->grad = calloc(net->n_tensors, sizeof(*buckets->grad));
	buckets->bucket = calloc(net->n_buckets, sizeof(*buckets->bucket));
	buckets->missing = calloc(net->n_buckets, sizeof(*buckets->missing));
	if (!buckets->grad || !buckets->bucket || !buckets->missing)
		return PSGD_ERR_NOMEM;
	for (unsigned b = 0; b < net->n_buckets; b++) {
		struct psgd_bucket *bucket = &buckets->bucket[b];

		*bucket = PSGD_INIT(psgd_bucket);
		bucket->grads = &buckets->grad[used];
		for (size_t i = 0; i < net->n_tensors; i++) {
			if (net->tensor[i].bucket != b)
				continue;
			buckets->grad[used++] =
				(struct psgd_grad){(uint32_t)i, net->grads + net->tensor[i].offset};
			bucket->n_grads++;
		}
	}
	return PSGD_OK;
}

void buckets_finish(struct buckets *buckets)
{
	free(buckets->grad);
	free(buckets->bucket);
	free(buckets->missing);
}

void buckets_begin(struct buckets *buckets)
{
	for (unsigned b = 0; b < buckets->net->n_buckets; b++)
		buckets->missing[b] = buckets->bucket[b].n_grads;
	buckets->next = 0;
}

psgd_status buckets_on_grads(void *user, const struct net_layer *layer)
{
	struct buckets *buckets = user;
	const struct net *net = buckets->net;

	for (size_t i = 0; i < layer->n_tensors; i++)
		buckets->missing[net->tensor[layer->first_tensor + i].bucket]--;
	while (buckets->next < net->n_buckets && buckets->missing[buckets->next] == 0) {
		psgd_ticket ticket;
		psgd_status status = psgd_session_submit(buckets->session,
			&buckets->bucket[buckets->next], buckets->stream, &ticket);

		if (status)
			return status;
		buckets->next++;
	}
	return PSGD_OK;
}
