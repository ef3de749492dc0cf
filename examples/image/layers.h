/* The kinds of layers. SPDX-License-Identifier: MIT */
#ifndef IMAGE_LAYERS_H
#define IMAGE_LAYERS_H

#include "net.h"

#define NORM_EPSILON 1e-5f
#define NORM_MOMENTUM 0.1f /* of the running statistics, the weight of the new */

struct layer_kind {
	bool in_place;	 /* y is x, dx is dy */
	bool statistics; /* has mean and variance */
	/* Creates the cell's primitives. NULL: it has none. */
	psgd_status (*prepare)(
		struct net *net, const struct net_layer *layer, struct net_cell *cell);
	psgd_status (*forward)(struct net *net, const struct net_layer *layer,
		struct net_cell *cell, float *running);
	/* Gradients of the parameters. Also fills dx when there is no back_data. NULL: none. */
	psgd_status (*back_params)(struct net *net, const struct net_layer *layer,
		struct net_cell *cell, float *dy, float *dx);
	psgd_status (*back_data)(struct net *net, const struct net_layer *layer,
		struct net_cell *cell, float *dy, float *dx);
};

extern const struct layer_kind layer_dense, layer_conv, layer_norm, layer_relu, layer_pool;

#endif
