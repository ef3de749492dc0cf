/* Operations of the CUDA engine: inner products and pools. SPDX-License-Identifier: MIT */
#include "cuda_nn.h"

#include <limits.h>
#include <stdlib.h>

bool cuda_fits(const struct nn_shape *s)
{
	int64_t left = INT_MAX / 2;
	const int64_t sides[] = {s->n, s->c, s->h, s->w};

	for (size_t i = 0; i < 4; i++) {
		if (sides[i] < 1 || sides[i] > left)
			return false;
		left /= sides[i];
	}
	return true;
}

psgd_status cuda_op_new(size_t bytes, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, struct cuda_op **out, struct image_error *error)
{
	struct cuda_op *op;

	*out = NULL;
	if (!cuda_fits(in) || !cuda_fits(result))
		return image_fail(error, PSGD_ERR_UNSUPPORTED,
			"a layer has more than %d values, which is too many for this device; try a "
			"smaller dataset.batch_size",
			INT_MAX / 2);
	op = calloc(1, bytes);
	if (!op)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	op->base.ops = &cuda_ops;
	op->pass = pass;
	op->in = *in;
	op->result = *result;
	*out = op;
	return PSGD_OK;
}

static void op_free(struct nn_op *base)
{
	struct cuda_op *op = (struct cuda_op *)base;

	if (op->finish)
		op->finish(op);
	free(op);
}

static psgd_status run(
	struct nn *nn, struct nn_op *base, const struct nn_data *data, struct image_error *error)
{
	struct cuda_op *op = (struct cuda_op *)base;

	return op->run((struct cuda_nn *)nn, op, data, error);
}

/* Inner products: by cuBLAS, to which a row-major matrix is a column-major one, transposed. */

static int pixels_of(const struct nn_shape *s)
{
	return (int)(s->h * s->w);
}

/* Weights count an image as h x w x c, so that planes have to be turned round. */
static bool turns(const struct nn_shape *in)
{
	return in->c > 1 && in->h * in->w > 1;
}

static size_t input_bytes(const struct nn_shape *in)
{
	return (size_t)(in->n * in->c * in->h * in->w) * sizeof(float);
}

/* The input as rows; *rows is in the scratch memory if they are not there already. */
static psgd_status input_rows(struct cuda_nn *nn, const struct nn_shape *in, const float *src,
	const float **rows, struct image_error *error)
{
	*rows = src;
	if (!turns(in))
		return PSGD_OK;
	*rows = nn->scratch;
	return cuda_check(cuda_from_planes(&nn->place, nn->scratch, src, (int)in->n, (int)in->c,
				  pixels_of(in)),
		"inner product", error);
}

static psgd_status multiply(struct cuda_nn *nn, cublasOperation_t a_as, cublasOperation_t b_as,
	int m, int n, int k, const float *a, int lda, const float *b, int ldb, float beta, float *c,
	struct image_error *error)
{
	const float one = 1.0f;

	return cuda_check_blas(
		cublasSgemm(nn->blas, a_as, b_as, m, n, k, &one, a, lda, b, ldb, &beta, c, m),
		"matrix product", error);
}

static psgd_status inner_forward(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	int n = (int)op->in.n, k = (int)op->in.c * pixels_of(&op->in), m = (int)op->result.c;
	const float *rows;
	psgd_status status = input_rows(nn, &op->in, data->at[NN_SRC], &rows, error);

	if (!status)
		status = cuda_check(
			cuda_fill_rows(&nn->place, data->at[NN_DST], data->at[NN_BIAS], n, m),
			"bias", error);
	return status ? status
		      : multiply(nn, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, data->at[NN_WEIGHTS], k,
				rows, k, 1.0f, data->at[NN_DST], error);
}

static psgd_status inner_back_params(struct cuda_nn *nn, struct cuda_op *op,
	const struct nn_data *data, struct image_error *error)
{
	int n = (int)op->in.n, k = (int)op->in.c * pixels_of(&op->in), m = (int)op->result.c;
	const float *rows, *dy = data->at[NN_DIFF_DST];
	psgd_status status = input_rows(nn, &op->in, data->at[NN_SRC], &rows, error);

	if (!status)
		status = multiply(nn, CUBLAS_OP_N, CUBLAS_OP_T, k, m, n, rows, k, dy, m, 0.0f,
			data->at[NN_DIFF_WEIGHTS], error);
	return status ? status
		      : cuda_check(cuda_sum_rows(&nn->place, data->at[NN_DIFF_BIAS], dy, n, m),
				"bias", error);
}

static psgd_status inner_back_data(struct cuda_nn *nn, struct cuda_op *op,
	const struct nn_data *data, struct image_error *error)
{
	int n = (int)op->in.n, k = (int)op->in.c * pixels_of(&op->in), m = (int)op->result.c;
	float *rows = turns(&op->in) ? nn->scratch : data->at[NN_DIFF_SRC];
	psgd_status status = multiply(nn, CUBLAS_OP_N, CUBLAS_OP_N, k, n, m, data->at[NN_WEIGHTS],
		k, data->at[NN_DIFF_DST], m, 0.0f, rows, error);

	if (status || !turns(&op->in))
		return status;
	return cuda_check(cuda_to_planes(&nn->place, data->at[NN_DIFF_SRC], rows, n, (int)op->in.c,
				  pixels_of(&op->in)),
		"inner product", error);
}

static psgd_status inner(struct nn *base, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_op *forward, struct nn_op **out,
	struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;
	struct cuda_op *op;
	psgd_status status = cuda_op_new(sizeof(*op), pass, in, result, &op, error);

	(void)forward;
	*out = NULL;
	if (!status && turns(in))
		status = cuda_reserve(nn, input_bytes(in), error);
	if (status) {
		free(op);
		return status;
	}
	op->run = pass == NN_BACK_DATA	   ? inner_back_data
		  : pass == NN_BACK_PARAMS ? inner_back_params
					   : inner_forward;
	*out = &op->base;
	return PSGD_OK;
}

/* Pools. */

struct pool_op {
	struct cuda_op op;
	struct cuda_pool pool;
	struct nn *nn;
	int *best; /* of a forward pass in training, for backward */
	const struct pool_op *forward;
};

static psgd_status pool_forward(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	const struct pool_op *pool = (const struct pool_op *)op;

	return cuda_check(cuda_pool_forward(&nn->place, pool->pool, data->at[NN_DST], pool->best,
				  data->at[NN_SRC]),
		"pool", error);
}

static psgd_status pool_back(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	const struct pool_op *pool = (const struct pool_op *)op;

	return cuda_check(cuda_pool_back(&nn->place, pool->pool, data->at[NN_DIFF_SRC],
				  pool->forward->best, data->at[NN_DIFF_DST]),
		"pool backward", error);
}

static void pool_finish(struct cuda_op *op)
{
	struct pool_op *pool = (struct pool_op *)op;

	if (pool->best)
		pool->nn->device->free(pool->nn, (float *)pool->best);
}

static psgd_status pool(struct nn *base, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_window *window, bool average,
	const struct nn_op *forward, struct nn_op **out, struct image_error *error)
{
	struct pool_op *op;
	struct cuda_op *made;
	psgd_status status = cuda_op_new(sizeof(*op), pass, in, result, &made, error);

	*out = NULL;
	if (status)
		return status;
	op = (struct pool_op *)made;
	op->nn = base;
	op->forward = (const struct pool_op *)forward;
	op->pool = (struct cuda_pool){(int)(in->n * in->c), (int)in->h, (int)in->w, (int)result->h,
		(int)result->w, (int)window->height, (int)window->width, (int)window->stride,
		(int)window->padding, average};
	op->op.run = pass == NN_BACK_DATA ? pool_back : pool_forward;
	op->op.finish = pool_finish;
	if (pass == NN_TRAIN && !average) {
		op->best = (int *)base->device->alloc(
			base, (size_t)(result->n * result->c * result->h * result->w));
		if (!op->best) {
			free(op);
			return image_fail(
				error, PSGD_ERR_NOMEM, "out of memory of the device for a pool");
		}
	}
	*out = &op->op.base;
	return PSGD_OK;
}

const struct nn_ops cuda_ops = {
	"cuDNN", cuda_close, inner, cuda_conv, cuda_norm_op, pool, run, op_free};
