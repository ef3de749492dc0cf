/*
 * The compute primitives of the trainer, and the engines that have them: this processor by oneDNN
 * (dnnl.c is the only file that knows it), a CUDA device by a module (cuda_open.h).
 *
 * All data are f32. Weights are row-major: out x in of an inner product, where an input that is an
 * image counts as h x w x c, and out x in x h x w of a convolution. On this processor activations
 * that are `plain` are NHWC; all others lie as the engine likes them, which their shape alone
 * decides. A gradient lies as what it is the gradient of.
 * SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_NN_H
#define IMAGE_NN_H

#include "error.h"
#include "norm_rows.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nn_ops;
struct nn_device;

/* An engine; its own struct begins with this one. */
struct nn {
	const struct nn_ops *ops;
	/* NULL: memory is the host's, and what is called has been done when the call returns. */
	const struct nn_device *device;
};

/* One primitive for one set of shapes; run as often as wanted. Begins the engine's own struct. */
struct nn_op {
	const struct nn_ops *ops;
};

enum nn_pass {
	NN_TRAIN,     /* forward, keeps what backward needs */
	NN_INFER,     /* forward only; batch norm uses the statistics it is given */
	NN_BACK_DATA, /* gradient of the input; of a batch norm, of its parameters too */
	NN_BACK_PARAMS
};

enum nn_slot {
	NN_SRC,
	NN_DST,
	NN_DIFF_SRC,
	NN_DIFF_DST,
	NN_WEIGHTS,
	NN_DIFF_WEIGHTS,
	NN_BIAS,
	NN_DIFF_BIAS,
	NN_SCALE, /* this and the rest: of a batch norm */
	NN_DIFF_SCALE,
	NN_SHIFT,
	NN_DIFF_SHIFT,
	NN_MEAN,
	NN_VARIANCE, /* biased */
	NN_SLOTS
};

/* Pointers by slot; those that an operation does not use may be NULL. */
struct nn_data {
	float *at[NN_SLOTS];
};

struct nn_shape {
	int64_t n, c, h, w;
	bool plain;
};

/* Of a convolution or a pool; padding on all four sides. */
struct nn_window {
	int64_t height, width;
	int64_t stride, padding;
};

/*
 * Creation of operations. `forward` is the NN_TRAIN operation that a backward one belongs to and
 * must outlive it; NULL for forward passes. On success *out is ended by nn_op_free.
 */
struct nn_ops {
	const char *name;
	void (*close)(struct nn *nn);
	psgd_status (*inner)(struct nn *nn, enum nn_pass pass, const struct nn_shape *in,
		const struct nn_shape *result, const struct nn_op *forward, struct nn_op **out,
		struct image_error *error);
	/* No bias. */
	psgd_status (*conv)(struct nn *nn, enum nn_pass pass, const struct nn_shape *in,
		const struct nn_shape *result, const struct nn_window *window,
		const struct nn_op *forward, struct nn_op **out, struct image_error *error);
	/* relu: of the result, in the same pass. The result is plain if `in` is. */
	psgd_status (*norm)(struct nn *nn, enum nn_pass pass, const struct nn_shape *in, bool relu,
		float epsilon, const struct nn_op *forward, struct nn_op **out,
		struct image_error *error);
	/* Maximum or average, without the padding; plain if `in` is. */
	psgd_status (*pool)(struct nn *nn, enum nn_pass pass, const struct nn_shape *in,
		const struct nn_shape *result, const struct nn_window *window, bool average,
		const struct nn_op *forward, struct nn_op **out, struct image_error *error);
	psgd_status (*run)(struct nn *nn, struct nn_op *op, const struct nn_data *data,
		struct image_error *error);
	void (*op_free)(struct nn_op *op);
};

/* One step of SGD, see optim.h. */
struct nn_sgd {
	float rate, momentum, decay;
	bool nesterov;
};

struct nn_feed; /* batches of one size on their way to the device */

/*
 * What an engine with memory of its own has besides. Pointers are to that memory unless they are
 * said to be the host's. Work is done in the order of the calls, which return before it is done,
 * but for those that are said to wait.
 */
struct nn_device {
	float *(*alloc)(struct nn *nn, size_t n); /* zeros; NULL: no memory */
	void (*free)(struct nn *nn, float *values);
	float *(*host_alloc)(struct nn *nn, size_t n); /* of the host, for `send` and `fetch` */
	void (*host_free)(struct nn *nn, float *values);
	/* These two wait. */
	psgd_status (*upload)(
		struct nn *nn, float *to, const float *host, size_t n, struct image_error *error);
	psgd_status (*download)(
		struct nn *nn, float *host, const float *from, size_t n, struct image_error *error);
	/* host: from host_alloc, and not to be changed, or read, before a later call has waited. */
	psgd_status (*send)(
		struct nn *nn, float *to, const float *host, size_t n, struct image_error *error);
	psgd_status (*fetch)(
		struct nn *nn, float *host, const float *from, size_t n, struct image_error *error);
	psgd_status (*copy)(
		struct nn *nn, float *to, const float *from, size_t n, struct image_error *error);
	void *(*stream)(struct nn *nn);			/* that the work is in: a psgd_stream */
	void (*range)(struct nn *nn, const char *name); /* see nn_range; NULL: the last one ends */

	/*
	 * Two batches of `shape`, NHWC, are under way at most. load: sends the one in *host off,
	 * and finds the place of the next, which may have to wait. take: brings the one that has
	 * been loaded first to the activations `to`. drop: those that were not taken.
	 */
	psgd_status (*feed_open)(struct nn *nn, const struct nn_shape *shape, struct nn_feed **out,
		float **host, struct image_error *error);
	void (*feed_close)(struct nn *nn, struct nn_feed *feed); /* NULL is fine */
	psgd_status (*feed_load)(
		struct nn *nn, struct nn_feed *feed, float **host, struct image_error *error);
	psgd_status (*feed_take)(
		struct nn *nn, struct nn_feed *feed, float *to, struct image_error *error);
	void (*feed_drop)(struct nn *nn, struct nn_feed *feed);

	/* y = relu(a + b), where a NaN stays one; b may be NULL, y one of them. */
	psgd_status (*relu)(struct nn *nn, float *y, const float *a, const float *b, size_t n,
		struct image_error *error);
	/* dx = a + b where y is above 0, else 0. */
	psgd_status (*relu_back)(struct nn *nn, float *dx, const float *a, const float *b,
		const float *y, size_t n, struct image_error *error);
	/* out = (a + b) * scale; b may be NULL, out one of them. */
	psgd_status (*combine)(struct nn *nn, float *out, const float *a, const float *b,
		float scale, size_t n, struct image_error *error);
	psgd_status (*sgd)(struct nn *nn, const struct nn_sgd *sgd, float *params,
		const float *grads, float *buffer, size_t n, struct image_error *error);
	/* As layer_track: running has the means of all channels, then the variances. */
	psgd_status (*track)(struct nn *nn, float *running, const float *mean,
		const float *variance, size_t channels, float unbias, struct image_error *error);
	/* A loop of norm_rows.h over whole activations: x, dy and out are the device's, vectors and
	 * sums the host's. Waits for sums. */
	psgd_status (*norm_loop)(struct nn *nn, enum norm_loop loop, const struct nn_shape *shape,
		const struct norm_rows *all, struct image_error *error);
};

/* This processor. threads: of every primitive. On success *out is ended by nn_close. */
psgd_status nn_open(unsigned threads, struct nn **out, struct image_error *error);
void nn_close(struct nn **nn);

/* Of this processor: channels that lie side by side in activations of this shape, image after
 * image, block after block, pixel after pixel; s->c: they are plain. */
int64_t nn_block(const struct nn *nn, const struct nn_shape *shape);

void nn_op_free(struct nn_op *op); /* NULL is fine */

/* Memory of an engine: `n` zeroed values, and more up to a multiple of 64 bytes. NULL: none left.
 */
float *nn_alloc(struct nn *nn, size_t n);
void nn_free(struct nn *nn, float *values); /* NULL is fine */
/* Of the host, which the engine reaches best. */
float *nn_host_alloc(struct nn *nn, size_t n);
void nn_host_free(struct nn *nn, float *values);

/* For a profiler of the device: what is called from now on is in a range of this name, until
 * nn_range_end. Ranges nest. Nothing on this processor. */
void nn_range(struct nn *nn, const char *name);
void nn_range_end(struct nn *nn);

psgd_status nn_upload(
	struct nn *nn, float *to, const float *host, size_t n, struct image_error *error);
psgd_status nn_download(
	struct nn *nn, float *host, const float *from, size_t n, struct image_error *error);
psgd_status nn_copy(
	struct nn *nn, float *to, const float *from, size_t n, struct image_error *error);

/*
 * The engine's values for the host to read: themselves, or a copy. On success *out is ended by
 * nn_view_end, on failure NULL. Errors: NOMEM, DEVICE.
 */
psgd_status nn_view(struct nn *nn, float *values, size_t n, float **out, struct image_error *error);
/* changed: what is there now becomes the values. view may be NULL. */
psgd_status nn_view_end(struct nn *nn, float *view, float *values, size_t n, bool changed,
	struct image_error *error);

#endif
