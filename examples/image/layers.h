/* The kinds of layers. SPDX-License-Identifier: MIT */
#ifndef IMAGE_LAYERS_H
#define IMAGE_LAYERS_H

#include "net.h"

#define NORM_EPSILON 1e-5f
#define NORM_MOMENTUM 0.1f /* of the running statistics, the weight of the new */

struct layer_kind {
	const char *name;
	bool statistics; /* has mean and variance */
	bool keeps_x;	 /* backward reads x; its y is not needed */
	bool keeps_y;	 /* the other way round */
	/* y may be x[0]; dx may be a part of dy, which backward sums itself. */
	bool elementwise;
	/* Creates the cell's primitives; cell->dx is not known yet. NULL: it has none. */
	psgd_status (*prepare)(
		struct net *net, const struct net_layer *layer, struct net_cell *cell);
	psgd_status (*forward)(struct net *net, const struct net_layer *layer,
		struct net_cell *cell, float *running);
	/* Gradients of the parameters. Also fills dx when there is no back_data. NULL: none. */
	psgd_status (*back_params)(
		struct net *net, const struct net_layer *layer, struct net_cell *cell);
	psgd_status (*back_data)(
		struct net *net, const struct net_layer *layer, struct net_cell *cell);
};

/* layer_relu adds first, when it has two inputs. */
extern const struct layer_kind layer_dense, layer_conv, layer_norm, layer_relu, layer_pool;

/* Moves a layer's running statistics, of the host, towards cell's, which are of the batches of
 * n_workers workers. */
void layer_track(const struct net_layer *layer, const struct net_cell *cell, unsigned n_workers,
	float *running);

/* A running variance is unbiased, as in PyTorch; the batch's own is not. */
float layer_unbias(const struct net_layer *layer, const struct net_cell *cell, unsigned n_workers);

/* out = (a + b) * scale; b may be NULL, out one of them. All are padded as net_padded says. */
psgd_status layer_combine(
	struct net *net, float *out, const float *a, const float *b, float scale, size_t n);

#endif
