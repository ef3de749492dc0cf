/* Convolutions of the CUDA engine. SPDX-License-Identifier: MIT */
#include "cuda_nn.h"

#include <stdlib.h>

struct conv_op {
	struct cuda_op op;
	cudnnTensorDescriptor_t x, y; /* or their gradients */
	cudnnFilterDescriptor_t weights;
	cudnnConvolutionDescriptor_t window;
	int algorithm; /* of the pass */
	size_t scratch_bytes;
};

/* What cuDNN says of an algorithm of a pass. */
struct proposal {
	int algorithm;
	bool usable;
	cudnnMathType_t math; /* what it is meant to run with */
};

#define MOST_ALGORITHMS 10
/* More is not worth what an algorithm gains by it. */
#define MOST_SCRATCH ((size_t)1 << 30)

/* Version 9 has a number for each reason, in thousands of a kind. */
#define CUDNN_UNSUPPORTED(result)                                                                  \
	((result) == CUDNN_STATUS_NOT_SUPPORTED ||                                                 \
		(CUDNN_MAJOR > 8 && (int)(result) / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000))

static void finish(struct cuda_op *op)
{
	struct conv_op *conv = (struct conv_op *)op;

	if (conv->window)
		(void)cudnnDestroyConvolutionDescriptor(conv->window);
	if (conv->weights)
		(void)cudnnDestroyFilterDescriptor(conv->weights);
	if (conv->y)
		(void)cudnnDestroyTensorDescriptor(conv->y);
	if (conv->x)
		(void)cudnnDestroyTensorDescriptor(conv->x);
}

static psgd_status describe_tensor(
	cudnnTensorDescriptor_t *out, const struct nn_shape *s, struct image_error *error)
{
	psgd_status status = cuda_check_dnn(cudnnCreateTensorDescriptor(out), "tensor", error);

	if (status)
		return status;
	return cuda_check_dnn(cudnnSetTensor4dDescriptor(*out, CUDNN_TENSOR_NCHW, CUDNN_DATA_FLOAT,
				      (int)s->n, (int)s->c, (int)s->h, (int)s->w),
		"tensor", error);
}

static psgd_status describe_window(
	struct conv_op *conv, const struct nn_window *window, bool tf32, struct image_error *error)
{
	int padding = (int)window->padding, stride = (int)window->stride;
	psgd_status status = cuda_check_dnn(
		cudnnCreateConvolutionDescriptor(&conv->window), "convolution", error);

	if (!status)
		status = cuda_check_dnn(
			cudnnSetConvolution2dDescriptor(conv->window, padding, padding, stride,
				stride, 1, 1, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
			"convolution", error);
	/* By default cuDNN rounds to TF32 where the device can; FMA is f32 throughout. */
	if (!status)
		status = cuda_check_dnn(cudnnSetConvolutionMathType(conv->window,
						tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH),
			"convolution", error);
	return status;
}

static psgd_status describe(struct cuda_nn *nn, struct conv_op *conv,
	const struct nn_window *window, struct image_error *error)
{
	const struct nn_shape *in = &conv->op.in, *result = &conv->op.result;
	psgd_status status = describe_tensor(&conv->x, in, error);

	if (!status)
		status = describe_tensor(&conv->y, result, error);
	if (!status)
		status = cuda_check_dnn(
			cudnnCreateFilterDescriptor(&conv->weights), "weights", error);
	if (!status)
		status = cuda_check_dnn(cudnnSetFilter4dDescriptor(conv->weights, CUDNN_DATA_FLOAT,
						CUDNN_TENSOR_NCHW, (int)result->c, (int)in->c,
						(int)window->height, (int)window->width),
			"weights", error);
	return status ? status : describe_window(conv, window, nn->tf32_convolutions, error);
}

/* One that gives the same bits every time: a run can be repeated. */
#define PROPOSAL(found)                                                                            \
	((struct proposal){(int)(found).algo,                                                      \
		(found).status == CUDNN_STATUS_SUCCESS &&                                          \
			(found).determinism == CUDNN_DETERMINISTIC,                                \
		(found).mathType})

static cudnnStatus_t propose_forward(
	struct cuda_nn *nn, const struct conv_op *conv, struct proposal *out, int *n)
{
	cudnnConvolutionFwdAlgoPerf_t found[MOST_ALGORITHMS];
	cudnnStatus_t result = cudnnGetConvolutionForwardAlgorithm_v7(
		nn->dnn, conv->x, conv->weights, conv->window, conv->y, MOST_ALGORITHMS, n, found);

	for (int i = 0; result == CUDNN_STATUS_SUCCESS && i < *n; i++)
		out[i] = PROPOSAL(found[i]);
	return result;
}

static cudnnStatus_t propose_data(
	struct cuda_nn *nn, const struct conv_op *conv, struct proposal *out, int *n)
{
	cudnnConvolutionBwdDataAlgoPerf_t found[MOST_ALGORITHMS];
	cudnnStatus_t result = cudnnGetConvolutionBackwardDataAlgorithm_v7(
		nn->dnn, conv->weights, conv->y, conv->window, conv->x, MOST_ALGORITHMS, n, found);

	for (int i = 0; result == CUDNN_STATUS_SUCCESS && i < *n; i++)
		out[i] = PROPOSAL(found[i]);
	return result;
}

static cudnnStatus_t propose_params(
	struct cuda_nn *nn, const struct conv_op *conv, struct proposal *out, int *n)
{
	cudnnConvolutionBwdFilterAlgoPerf_t found[MOST_ALGORITHMS];
	cudnnStatus_t result = cudnnGetConvolutionBackwardFilterAlgorithm_v7(
		nn->dnn, conv->x, conv->y, conv->window, conv->weights, MOST_ALGORITHMS, n, found);

	for (int i = 0; result == CUDNN_STATUS_SUCCESS && i < *n; i++)
		out[i] = PROPOSAL(found[i]);
	return result;
}

/* Of the algorithm, with the window's precision; a proposal may count that of another. */
static cudnnStatus_t scratch_of(struct cuda_nn *nn, const struct conv_op *conv, size_t *bytes)
{
	if (conv->op.pass == NN_BACK_DATA)
		return cudnnGetConvolutionBackwardDataWorkspaceSize(nn->dnn, conv->weights, conv->y,
			conv->window, conv->x, (cudnnConvolutionBwdDataAlgo_t)conv->algorithm,
			bytes);
	if (conv->op.pass == NN_BACK_PARAMS)
		return cudnnGetConvolutionBackwardFilterWorkspaceSize(nn->dnn, conv->x, conv->y,
			conv->window, conv->weights,
			(cudnnConvolutionBwdFilterAlgo_t)conv->algorithm, bytes);
	return cudnnGetConvolutionForwardWorkspaceSize(nn->dnn, conv->x, conv->weights,
		conv->window, conv->y, (cudnnConvolutionFwdAlgo_t)conv->algorithm, bytes);
}

/* Whether the pass will run by the proposal. One that rounds to TF32 need not where it must not. */
static psgd_status try_out(struct cuda_nn *nn, struct conv_op *conv, const struct proposal *by,
	bool *good, struct image_error *error)
{
	cudnnMathType_t math = nn->tf32_convolutions ? by->math : CUDNN_FMA_MATH;
	cudnnStatus_t result;
	psgd_status status =
		cuda_check_dnn(cudnnSetConvolutionMathType(conv->window, math), "precision", error);

	*good = false;
	if (status)
		return status;
	conv->algorithm = by->algorithm;
	result = scratch_of(nn, conv, &conv->scratch_bytes);
	if (CUDNN_UNSUPPORTED(result))
		return PSGD_OK;
	*good = conv->scratch_bytes <= MOST_SCRATCH;
	return cuda_check_dnn(result, "scratch of a convolution", error);
}

/* The first proposal that will do: they come quickest first. */
static psgd_status choose(struct cuda_nn *nn, struct conv_op *conv, struct image_error *error)
{
	struct proposal all[MOST_ALGORITHMS];
	enum nn_pass pass = conv->op.pass;
	bool good = false;
	int n = 0;
	psgd_status status =
		cuda_check_dnn(pass == NN_BACK_DATA	? propose_data(nn, conv, all, &n)
			       : pass == NN_BACK_PARAMS ? propose_params(nn, conv, all, &n)
							: propose_forward(nn, conv, all, &n),
			"choice of an algorithm", error);

	for (int i = 0; !status && !good && i < n; i++)
		if (all[i].usable)
			status = try_out(nn, conv, &all[i], &good, error);
	if (!status && !good)
		return image_fail(error, PSGD_ERR_UNSUPPORTED,
			"cuDNN has no deterministic algorithm for a convolution in %zu bytes",
			MOST_SCRATCH);
	return status;
}

static const float one = 1.0f, zero = 0.0f;

static psgd_status run_forward(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	const struct conv_op *conv = (const struct conv_op *)op;

	return cuda_check_dnn(cudnnConvolutionForward(nn->dnn, &one, conv->x, data->at[NN_SRC],
				      conv->weights, data->at[NN_WEIGHTS], conv->window,
				      (cudnnConvolutionFwdAlgo_t)conv->algorithm, nn->scratch,
				      conv->scratch_bytes, &zero, conv->y, data->at[NN_DST]),
		"convolution", error);
}

static psgd_status run_data(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	const struct conv_op *conv = (const struct conv_op *)op;

	return cuda_check_dnn(
		cudnnConvolutionBackwardData(nn->dnn, &one, conv->weights, data->at[NN_WEIGHTS],
			conv->y, data->at[NN_DIFF_DST], conv->window,
			(cudnnConvolutionBwdDataAlgo_t)conv->algorithm, nn->scratch,
			conv->scratch_bytes, &zero, conv->x, data->at[NN_DIFF_SRC]),
		"convolution backward", error);
}

static psgd_status run_params(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	const struct conv_op *conv = (const struct conv_op *)op;

	return cuda_check_dnn(
		cudnnConvolutionBackwardFilter(nn->dnn, &one, conv->x, data->at[NN_SRC], conv->y,
			data->at[NN_DIFF_DST], conv->window,
			(cudnnConvolutionBwdFilterAlgo_t)conv->algorithm, nn->scratch,
			conv->scratch_bytes, &zero, conv->weights, data->at[NN_DIFF_WEIGHTS]),
		"convolution backward", error);
}

psgd_status cuda_conv(struct nn *base, enum nn_pass pass, const struct nn_shape *in,
	const struct nn_shape *result, const struct nn_window *window, const struct nn_op *forward,
	struct nn_op **out, struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;
	struct conv_op *conv;
	struct cuda_op *op;
	psgd_status status = cuda_op_new(sizeof(*conv), pass, in, result, &op, error);

	(void)forward;
	*out = NULL;
	if (status)
		return status;
	conv = (struct conv_op *)op;
	op->finish = finish;
	status = describe(nn, conv, window, error);
	if (!status)
		status = choose(nn, conv, error);
	if (!status)
		status = cuda_reserve(nn, conv->scratch_bytes, error);
	if (status) {
		finish(op);
		free(op);
		return status;
	}
	op->run = pass == NN_BACK_DATA	   ? run_data
		  : pass == NN_BACK_PARAMS ? run_params
					   : run_forward;
	*out = &op->base;
	return PSGD_OK;
}
