/* Batch norm over the batches of all workers. SPDX-License-Identifier: MIT */
#ifndef IMAGE_NORM_SYNC_H
#define IMAGE_NORM_SYNC_H

#include "net.h"

/*
 * Before a training pass forward: an engine's parameters and running statistics of norms for the
 * host, at once, so that no layer has to wait for its own. Those of the host are there.
 */
psgd_status norm_sync_begin(struct net *net, const float *running);

/*
 * In place of a norm's training passes when the net has a sync. Forward adds up two values a
 * channel over the workers, and again in the rare step in which they cancel too much; backward
 * two. Gradients of the parameters are those of the own batch, as all layers' are.
 */
psgd_status norm_sync_forward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell, float *running);
psgd_status norm_sync_backward(
	struct net *net, const struct net_layer *layer, struct net_cell *cell);

#endif
