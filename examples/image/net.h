/*
 * A net is a list of layers, each of which takes one or two earlier values. Parameters, gradients
 * and running statistics are three flat buffers, so that a broadcast, a hash or an optimizer step
 * is one pass.
 * SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_NET_H
#define IMAGE_NET_H

#include "nn.h"

#include <psgd/types.h>

#define NET_NAME_BYTES 48

/* The first values of a tensor. */
enum net_init {
	NET_CONSTANT, /* scale */
	NET_UNIFORM,  /* in [-scale, scale) */
	NET_NORMAL    /* mean 0, deviation scale */
};

/* One parameter tensor; its id is its index in the net. */
struct net_tensor {
	char name[NET_NAME_BYTES];
	uint32_t n_dims;
	int64_t dims[PSGD_MAX_DIMS];
	size_t offset; /* of its values in params and grads; a multiple of 16 */
	size_t count;
	enum net_init init;
	float scale;
	unsigned bucket; /* gradients of a bucket are submitted together, in this order */
};

#define NET_MAX_INPUTS 2

/* Value 0 is the net's input, value i + 1 the result of layer i. */
struct net_layer {
	const struct layer_kind *kind;
	struct nn_shape in, out; /* n is 0 */
	size_t from[NET_MAX_INPUTS];
	size_t n_from;
	struct nn_window window; /* of a convolution or a pool */
	bool average;		 /* of a pool: not the maximum */
	bool relu;		 /* of a norm: followed by one */
	size_t first_tensor, n_tensors;
	size_t running; /* of a norm: offset of the running means; variances follow */
	size_t block;	/* of a norm: offset of its tensors among those of all norms */
};

/* A layer for one batch size: its primitives, and where its values are. */
struct net_cell {
	int64_t batch;
	bool train;
	struct nn_op *forward, *back_data, *back_params;
	float *x[NET_MAX_INPUTS], *y;
	float *mean, *variance; /* of a norm: of this batch; if it syncs, the host's */
	float *part[2];		/* of y's gradient, one from each layer that takes y; or NULL */
	float *dy;		/* their sum */
	float *dx;		/* NULL: not wanted */
};

/*
 * The net for one batch size. All its values share one block of memory. What the caller fills and
 * reads is the host's; on an engine with memory of its own it is elsewhere than what the net has.
 */
struct net_plan {
	int64_t batch;
	bool train;
	struct nn *nn;
	float *memory;
	size_t n_values;   /* of memory */
	float *input;	   /* to be filled by the caller; batch x h x w x c */
	float *output;	   /* batch x classes */
	float *diff_start; /* where the gradient of the output goes, after the forward pass */
	float *first, *last, *diff; /* the same three, of the engine */
	float *statistics;	    /* of norms that sync, where the arena is not the host's */
	struct nn_feed *feed;	    /* NULL: input is first */
	unsigned n_loaded;	    /* batches that no forward pass has taken */
	size_t n_cells;
	struct net_cell *cell; /* one of each layer */
	struct net_plan *next;
};

/* Adds up values over the workers, the same bits on all: psgd_session_sync. */
typedef psgd_status (*net_sync_fn)(void *user, float *values, size_t n);

/* By channel, of the norm at work; see norm_sync.c. */
struct norm_scratch {
	double *sum, *product;
	float *mean, *scale, *shift, *dy_mean, *slope;
	float *values; /* two of each channel */
	/* Copies for the host, of an engine with memory of its own: the tensors of all norms, their
	 * gradients, the running statistics. */
	float *params, *grads, *running;
	norm_rows_fn rows;
};

struct net {
	struct nn *nn; /* borrowed; NULL: only shapes */
	struct nn_shape in;
	struct net_layer *layer;
	size_t n_layers, room_layers;
	struct net_tensor *tensor;
	size_t n_tensors, room_tensors;
	size_t top; /* the value that the next layer takes */
	unsigned n_buckets;
	float *params, *grads; /* n_params values each, padding is 0 */
	size_t n_params;
	float *running; /* n_running values */
	size_t n_running;
	size_t n_blocks;  /* values of the norms' tensors */
	net_sync_fn sync; /* NULL: a norm's statistics are of the own batch */
	void *sync_user;
	unsigned n_workers; /* of sync */
	struct norm_scratch norm;
	struct net_plan *plans;
	psgd_status status;	  /* of building: the first failure */
	psgd_status unprepared;	  /* of the last net_prepare that returned NULL */
	struct image_error error; /* of the last failure */
};

/* Called in backward, when the gradients of a layer's tensors are there. A failure ends it. */
typedef psgd_status (*net_grads_fn)(void *user, const struct net_layer *layer);

/*
 * Building: net_begin, layers, net_end. After net_begin every failure leaves the net to net_free;
 * adding to a net that has failed does nothing, so that only net_end's status needs a look. A
 * layer takes the value net->top, its result becomes net->top; to branch, set net->top to an
 * earlier value. Every value but the last is taken once or twice.
 */
void net_begin(struct net *net, struct nn *nn, const struct nn_shape *in);
void net_add_dense(struct net *net, const char *name, int64_t units);
/* kernel x kernel, padded by kernel / 2; no bias. */
void net_add_conv(
	struct net *net, const char *name, int64_t channels, int64_t kernel, int64_t stride);
void net_add_norm(struct net *net, const char *name, bool relu);
void net_add_relu(struct net *net);
/* relu(top + other). The two have one shape. */
void net_add_join(struct net *net, size_t other);
/* Maximum. Without padding, rows and columns that fill no window are left out. */
void net_add_pool(struct net *net, int64_t kernel, int64_t stride, int64_t padding);
/* Average over each channel. */
void net_add_average(struct net *net);
/* How the last layer's tensors begin, if not as He et al. (uniform, variance 2 / fan-in). */
void net_init_last(struct net *net, enum net_init init, float scale);
/* Allocates and initialises the parameters, unless there is no nn. Errors: CONFIG, NOMEM. */
psgd_status net_end(struct net *net, uint64_t seed);
void net_free(struct net *net);

/*
 * From now on norms are trained over the batches of n_workers workers, which are of one size and
 * add up by `sync`. Before net_prepare; a net without norms stays as it is. Errors: NOMEM.
 */
psgd_status net_sync(struct net *net, net_sync_fn sync, void *user, unsigned n_workers);
/* Values that a step of one batch gives to `sync`, forward and backward; whatever net->sync is. */
size_t net_sync_values(const struct net *net);

/* The plan for a batch size, kept until net_free; NULL on failure: net->unprepared says which. */
struct net_plan *net_prepare(struct net *net, int64_t batch, bool train);
void net_plan_free(struct net_plan *plan); /* net_free does it */

/*
 * What plan->input has is on its way from now on, for the forward pass after those that are under
 * way, and plan->input is the place of the next batch: one batch ahead of a forward pass. Only on
 * an engine with memory of its own; others have their batch in the net's memory.
 */
psgd_status net_load(struct net *net, struct net_plan *plan);
void net_unload(struct net *net, struct net_plan *plan); /* batches that were not taken */

/* running: statistics that a plan that does not train uses; NULL: the net's. Takes what has been
 * loaded, or else loads plan->input. */
psgd_status net_forward(struct net *net, struct net_plan *plan, float *running);

/* Waits until plan->output has the result of the last forward pass. */
psgd_status net_output(struct net *net, struct net_plan *plan);

/*
 * From plan->diff_start down, once after each forward pass: gradients take the place of values
 * that are no longer wanted. on_grads may be NULL.
 */
psgd_status net_backward(struct net *net, struct net_plan *plan, net_grads_fn on_grads, void *user);

/* Values of an activation. */
size_t net_values(const struct nn_shape *shape, int64_t batch);

/* `count` zeroed values, 64-byte aligned and padded to a multiple of 64 bytes; NULL: no memory. */
float *net_alloc(size_t count);
size_t net_padded(size_t count);

#endif
