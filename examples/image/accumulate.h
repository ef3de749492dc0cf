/* Gradients of several batches as one. SPDX-License-Identifier: MIT */
#ifndef IMAGE_ACCUMULATE_H
#define IMAGE_ACCUMULATE_H

#include "net.h"

struct accumulate {
	struct net *net;
	float *sum;	   /* of the batches before the last, laid out as net->grads */
	size_t n_batches;  /* of the step */
	size_t n_finished; /* of them, so many are in the sum */
	net_grads_fn on_grads;
	void *user;
};

/*
 * on_grads, with user, is told of the means, layer by layer, while the step's last batch goes
 * backward. most: batches of a step, at most. Ended by accumulate_finish, also on failure.
 * Errors: NOMEM.
 */
psgd_status accumulate_init(struct accumulate *accumulate, struct net *net, size_t most,
	net_grads_fn on_grads, void *user);
void accumulate_finish(struct accumulate *accumulate); /* of zeros is fine */

/* Before a step of n_batches, each of which goes backward once. */
void accumulate_begin(struct accumulate *accumulate, size_t n_batches);

/*
 * A net_grads_fn; user: struct accumulate. Of the last batch net->grads becomes the mean. With one
 * batch it is as if on_grads had been called.
 */
psgd_status accumulate_on_grads(void *user, const struct net_layer *layer);

#endif
