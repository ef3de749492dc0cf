/*
 * The compute primitives of the trainer. dnnl.c is the only file that knows oneDNN: another
 * version of it, or another library, is another version of that file.
 *
 * All data are f32. Weights are row-major: out x in of an inner product, where an input that is an
 * image counts as h x w x c, and out x in x h x w of a convolution. Activations that are `plain`
 * are NHWC; all others lie as this processor likes them, which their shape alone decides. A
 * gradient lies as what it is the gradient of.
 * SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_DNNL_H
#define IMAGE_DNNL_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nn;    /* engine and stream */
struct nn_op; /* one primitive for one set of shapes; run as often as wanted */

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

/* threads: of every primitive. On success *out is ended by nn_close. */
psgd_status nn_open(unsigned threads, struct nn **out, struct image_error *error);
void nn_close(struct nn **nn);

/* Channels that lie side by side in activations of this shape, image after image, block after
 * block, pixel after pixel; s->c: they are plain. */
int64_t nn_block(const struct nn *nn, const struct nn_shape *shape);

/*
 * Creation of operations. `forward` is the NN_TRAIN operation that a backward one belongs to and
 * must outlive it; NULL for forward passes. On success *out is ended by nn_op_free.
 */
psgd_status nn_inner(struct nn *nn, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_op *forward, struct nn_op **out,
	struct image_error *error);
/* No bias. */
psgd_status nn_conv(struct nn *nn, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_window *window, const struct nn_op *forward,
	struct nn_op **out, struct image_error *error);
/* relu: of the result, in the same pass. The result is plain if `in` is. */
psgd_status nn_norm(struct nn *nn, enum nn_pass pass, const struct nn_shape *in, bool relu,
	float epsilon, const struct nn_op *forward, struct nn_op **out, struct image_error *error);
/* Maximum or average, without the padding; plain if `in` is. */
psgd_status nn_pool(struct nn *nn, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_window *window, bool average,
	const struct nn_op *forward, struct nn_op **out, struct image_error *error);
psgd_status nn_run(
	struct nn *nn, struct nn_op *op, const struct nn_data *data, struct image_error *error);

void nn_op_free(struct nn_op *op); /* NULL is fine */

#endif
