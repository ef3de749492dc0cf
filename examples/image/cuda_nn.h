/* The engine of CUDA devices, among its own files. SPDX-License-Identifier: MIT */
#ifndef IMAGE_CUDA_NN_H
#define IMAGE_CUDA_NN_H

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cudnn.h>

#include "cuda_kernels.h"
#include "cuda_module.h"

struct cuda_nn {
	struct nn base;
	struct cuda_place place;
	cudaStream_t uploads; /* of batches, beside the work */
	cublasHandle_t blas;
	cudnnHandle_t dnn;
	bool tf32_convolutions;
	/* One operation at a time uses it. */
	void *scratch;
	size_t scratch_bytes;
	/* Memory of the host for the vectors and sums of norms that sync, on their way: two places,
	 * which loops take in turn, and when the vectors have gone. */
	struct cuda_post {
		void *host;
		size_t bytes;
		cudaEvent_t sent;
	} post[2];
	unsigned n_posts; /* so far */
};

psgd_status cuda_check(cudaError_t result, const char *what, struct image_error *error);
psgd_status cuda_check_blas(cublasStatus_t result, const char *what, struct image_error *error);
psgd_status cuda_check_dnn(cudnnStatus_t result, const char *what, struct image_error *error);

/* Scratch memory for all that was created up to now. Errors: NOMEM, DEVICE. */
psgd_status cuda_reserve(struct cuda_nn *nn, size_t bytes, struct image_error *error);

void cuda_close(struct nn *nn);

/* Operations (cuda_ops.c, cuda_conv.c, cuda_norm_ops.c). */
extern const struct nn_ops cuda_ops;
psgd_status cuda_conv(struct nn *nn, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_window *window, const struct nn_op *forward,
	struct nn_op **out, struct image_error *error);

psgd_status cuda_norm_op(struct nn *nn, enum nn_pass pass, const struct nn_shape *in, bool relu,
	float epsilon, const struct nn_op *forward, struct nn_op **out, struct image_error *error);

/* What every operation begins with. */
struct cuda_op {
	struct nn_op base;
	enum nn_pass pass;
	struct nn_shape in, result;
	psgd_status (*run)(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
		struct image_error *error);
	void (*finish)(struct cuda_op *op); /* what it has besides; NULL: nothing */
};

/* Kernels count with 32 bits. */
bool cuda_fits(const struct nn_shape *shape);

/* bytes: of the operation's own struct. Shapes are looked at. Errors: NOMEM, UNSUPPORTED. */
psgd_status cuda_op_new(size_t bytes, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, struct cuda_op **out, struct image_error *error);

/* Loops of norms that sync, see nn_device. */
psgd_status cuda_norm_loop(struct nn *nn, enum norm_loop loop, const struct nn_shape *shape,
	const struct norm_rows *all, struct image_error *error);

/* Batches on their way (cuda_feed.c), see nn_device. */
psgd_status cuda_feed_open(struct nn *nn, const struct nn_shape *shape, struct nn_feed **out,
	float **host, struct image_error *error);
void cuda_feed_close(struct nn *nn, struct nn_feed *feed);
psgd_status cuda_feed_load(
	struct nn *nn, struct nn_feed *feed, float **host, struct image_error *error);
psgd_status cuda_feed_take(
	struct nn *nn, struct nn_feed *feed, float *to, struct image_error *error);
void cuda_feed_drop(struct nn *nn, struct nn_feed *feed);

#endif
