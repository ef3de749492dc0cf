/*
 * A net is a list of layers. Parameters, gradients and running statistics are three flat buffers,
 * so that a broadcast, a hash or an optimizer step is one pass.
 * SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_NET_H
#define IMAGE_NET_H

#include "dnnl.h"

#include <psgd/types.h>

#define NET_MAX_LAYERS 16
#define NET_MAX_TENSORS 16
#define NET_NAME_BYTES 32

/* One parameter tensor; its id is its index in the net. */
struct net_tensor {
	char name[NET_NAME_BYTES];
	uint32_t n_dims;
	int64_t dims[PSGD_MAX_DIMS];
	size_t offset; /* of its values in params and grads; a multiple of 16 */
	size_t count;
	int64_t fan_in;	 /* of a weight; 0: not one */
	float constant;	 /* the first value of one that is not a weight */
	unsigned bucket; /* gradients of a bucket are submitted together, in this order */
};

struct net_layer {
	const struct layer_kind *kind;
	struct nn_shape in, out; /* n is 0 */
	size_t first_tensor, n_tensors;
	size_t running; /* of a batch norm: offset of the running means; variances follow */
};

/* A layer for one batch size: its primitives, and where its input and output are. */
struct net_cell {
	int64_t batch;
	bool train;
	struct nn_op *forward, *back_data, *back_params;
	float *x, *y;
	float *mean, *variance; /* of a batch norm: of this batch */
};

/* The net for one batch size. */
struct net_plan {
	int64_t batch;
	bool train;
	float *memory;
	float *input;	   /* to be filled by the caller; batch x h x w x c */
	float *output;	   /* batch x classes */
	float *diff_start; /* where the gradient of the output goes */
	float *diff[2];
	struct net_cell cell[NET_MAX_LAYERS];
	struct net_plan *next;
};

struct net {
	struct nn *nn; /* borrowed; NULL: only shapes */
	struct nn_shape in;
	struct net_layer layer[NET_MAX_LAYERS];
	size_t n_layers;
	struct net_tensor tensor[NET_MAX_TENSORS];
	size_t n_tensors;
	unsigned n_buckets;
	float *params, *grads; /* n_params values each, padding is 0 */
	size_t n_params;
	float *running; /* n_running values */
	size_t n_running;
	struct net_plan *plans;
	struct image_error error; /* of the last failure */
};

/* Called in backward, when the gradients of a layer's tensors are there. A failure ends it. */
typedef psgd_status (*net_grads_fn)(void *user, const struct net_layer *layer);

/*
 * Building: net_begin, layers, net_end. After net_begin every failure leaves the net to net_free;
 * adding to a net that has failed does nothing, so that only net_end's status needs a look.
 */
void net_begin(struct net *net, struct nn *nn, const struct nn_shape *in);
void net_add_dense(struct net *net, const char *name, int64_t units);
void net_add_conv(struct net *net, const char *name, int64_t channels);
void net_add_norm(struct net *net, const char *name);
void net_add_relu(struct net *net);
void net_add_pool(struct net *net);
/* Allocates and initialises the parameters (He, uniform), unless there is no nn. */
psgd_status net_end(struct net *net, uint64_t seed);
void net_free(struct net *net);

/* The plan for a batch size, kept until net_free; NULL on failure. */
struct net_plan *net_prepare(struct net *net, int64_t batch, bool train);

/* running: statistics that a plan that does not train uses; NULL: the net's. */
psgd_status net_forward(struct net *net, struct net_plan *plan, float *running);

/* From plan->diff_start down. on_grads may be NULL. */
psgd_status net_backward(struct net *net, struct net_plan *plan, net_grads_fn on_grads, void *user);

#endif
