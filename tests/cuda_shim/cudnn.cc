/*
 * cuDNN's convolutions for a CPU, by matrix products of one image at a time. Stricter than the
 * original: f32 in NCHW only, no alpha and beta but 1 and 0, memory aligned to 16 bytes, an
 * algorithm only with its own workspace, and nothing that does not exist or has not been set.
 */
#include <cudnn.h>

#include <stdio.h>

#include <mutex>
#include <set>

#include "cudnn_conv.h"
#include "shim_impl.h"

struct cudnnContext {
	cudaStream_t stream;
};

extern "C" const char *cudnnGetErrorString(cudnnStatus_t status)
{
	switch (status) {
	case CUDNN_STATUS_SUCCESS:
		return "CUDNN_STATUS_SUCCESS";
	case CUDNN_STATUS_NOT_INITIALIZED:
		return "CUDNN_STATUS_NOT_INITIALIZED";
	case CUDNN_STATUS_BAD_PARAM:
		return "CUDNN_STATUS_BAD_PARAM";
	case CUDNN_STATUS_NOT_SUPPORTED:
		return "CUDNN_STATUS_NOT_SUPPORTED";
	case CUDNN_STATUS_NOT_SUPPORTED_SHAPE:
		return "CUDNN_STATUS_NOT_SUPPORTED_SHAPE";
	case CUDNN_STATUS_INTERNAL_ERROR:
		return "CUDNN_STATUS_INTERNAL_ERROR";
	case CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED:
		return "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED";
	case CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED:
		return "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED";
	case CUDNN_STATUS_EXECUTION_FAILED:
		return "CUDNN_STATUS_EXECUTION_FAILED";
	}
	return "CUDNN_UNKNOWN_STATUS";
}

/* Of this thread's last call that failed; lines end as they do in the original. */
static thread_local char last_error[96];

static cudnnStatus_t refuse(cudnnStatus_t status)
{
	(void)snprintf(
		last_error, sizeof(last_error), "refused by the emulation\n%d\n", (int)status);
	return status;
}

extern "C" void cudnnGetLastErrorString(char *message, size_t max_size)
{
	(void)snprintf(message, max_size, "%s", last_error);
	last_error[0] = 0;
}

/* Handles and descriptors that exist. */
static std::mutex living_mutex;
static std::set<const void *> living;

static bool lives(const void *what)
{
	std::lock_guard<std::mutex> lock(living_mutex);

	return living.count(what) != 0;
}

template <class T> static cudnnStatus_t create(T **out)
{
	if (!out)
		return CUDNN_STATUS_BAD_PARAM;
	*out = nullptr;
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
	*out = new T();
	shim_own(1);

	std::lock_guard<std::mutex> lock(living_mutex);

	living.insert(*out);
	return CUDNN_STATUS_SUCCESS;
}

/* What destroys does so even when it is made to fail. */
template <class T> static cudnnStatus_t destroy(T *what)
{
	bool fails = shim_fails();

	{
		std::lock_guard<std::mutex> lock(living_mutex);

		if (!living.erase(what))
			return CUDNN_STATUS_BAD_PARAM;
	}
	delete what;
	shim_own(-1);
	return fails ? CUDNN_STATUS_INTERNAL_ERROR : CUDNN_STATUS_SUCCESS;
}

extern "C" cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
	if (shim_no_device() != cudaSuccess)
		return CUDNN_STATUS_NOT_INITIALIZED;
	return create(handle);
}

extern "C" cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
	return destroy(handle);
}

extern "C" cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t streamId)
{
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!lives(handle))
		return CUDNN_STATUS_BAD_PARAM;
	handle->stream = streamId;
	return CUDNN_STATUS_SUCCESS;
}

/* As many values as 31 bits count. */
static bool fits(cudnnTensorStruct t)
{
	double values = (double)t.n * (double)t.c * (double)t.h * (double)t.w;

	return values <= 2147483647.0;
}

extern "C" cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *tensorDesc)
{
	return create(tensorDesc);
}

extern "C" cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensorDesc)
{
	return destroy(tensorDesc);
}

extern "C" cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t tensorDesc,
	cudnnTensorFormat_t format, cudnnDataType_t dataType, int n, int c, int h, int w)
{
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!lives(tensorDesc) || n < 1 || c < 1 || h < 1 || w < 1)
		return CUDNN_STATUS_BAD_PARAM;
	if (format != CUDNN_TENSOR_NCHW || dataType != CUDNN_DATA_FLOAT || !fits({n, c, h, w}))
		return CUDNN_STATUS_NOT_SUPPORTED;
	*tensorDesc = {n, c, h, w};
	return CUDNN_STATUS_SUCCESS;
}

extern "C" cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *filterDesc)
{
	return create(filterDesc);
}

extern "C" cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filterDesc)
{
	return destroy(filterDesc);
}

extern "C" cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t filterDesc,
	cudnnDataType_t dataType, cudnnTensorFormat_t format, int k, int c, int h, int w)
{
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!lives(filterDesc) || k < 1 || c < 1 || h < 1 || w < 1)
		return CUDNN_STATUS_BAD_PARAM;
	if (format != CUDNN_TENSOR_NCHW || dataType != CUDNN_DATA_FLOAT || !fits({k, c, h, w}))
		return CUDNN_STATUS_NOT_SUPPORTED;
	*filterDesc = {k, c, h, w};
	return CUDNN_STATUS_SUCCESS;
}

extern "C" cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *convDesc)
{
	return create(convDesc);
}

extern "C" cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t convDesc)
{
	return destroy(convDesc);
}

extern "C" cudnnStatus_t cudnnSetConvolutionMathType(
	cudnnConvolutionDescriptor_t convDesc, cudnnMathType_t mathType)
{
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!lives(convDesc) || mathType < CUDNN_DEFAULT_MATH || mathType > CUDNN_FMA_MATH)
		return CUDNN_STATUS_BAD_PARAM;
	convDesc->math = mathType;
	return CUDNN_STATUS_SUCCESS;
}

extern "C" cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t convDesc,
	int pad_h, int pad_w, int u, int v, int dilation_h, int dilation_w,
	cudnnConvolutionMode_t mode, cudnnDataType_t computeType)
{
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!lives(convDesc) || pad_h < 0 || pad_w < 0 || u < 1 || v < 1 || dilation_h < 1 ||
		dilation_w < 1)
		return CUDNN_STATUS_BAD_PARAM;
	if (dilation_h != 1 || dilation_w != 1 || mode != CUDNN_CROSS_CORRELATION ||
		computeType != CUDNN_DATA_FLOAT)
		return CUDNN_STATUS_NOT_SUPPORTED;
	convDesc->padding_h = pad_h;
	convDesc->padding_w = pad_w;
	convDesc->stride_h = u;
	convDesc->stride_w = v;
	return CUDNN_STATUS_SUCCESS;
}

namespace
{
/* Not good when one of them is not there or has not been set. */
conv_shape conv_shape_of(cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
	cudnnConvolutionDescriptor_t conv, cudnnTensorDescriptor_t y)
{
	if (!lives(x) || !lives(w) || !lives(conv) || !lives(y))
		return {};
	return {*x, *y, *w, *conv, (size_t)w->c * (size_t)w->h * (size_t)w->w,
		(size_t)y->h * (size_t)y->w};
}

/* Memory of a call. */
struct span {
	const void *begin;
	size_t bytes;

	bool good() const
	{
		return begin && (uintptr_t)begin % 16 == 0;
	}

	bool meets(const span &other) const
	{
		return (uintptr_t)begin < (uintptr_t)other.begin + other.bytes &&
		       (uintptr_t)other.begin < (uintptr_t)begin + bytes;
	}
};

/* The result and the workspace lie nowhere else. */
bool good_memory(const span &a, const span &b, const span &out, const span &workspace)
{
	return a.good() && b.good() && out.good() && workspace.good() && !out.meets(a) &&
	       !out.meets(b) && !out.meets(workspace) && !workspace.meets(a) && !workspace.meets(b);
}

/* Values are counted in f32. */
cudnnStatus_t run(cudnnHandle_t handle, const conv_shape &s, conv_pass pass, const void *alpha,
	const void *beta, const void *a_begin, size_t a_values, const void *b_begin,
	size_t b_values, void *out_begin, size_t out_values, void *workspace_begin, size_t bytes,
	bool supported)
{
	span a = {a_begin, a_values * sizeof(float)}, b = {b_begin, b_values * sizeof(float)};
	span out = {out_begin, out_values * sizeof(float)}, workspace = {workspace_begin, bytes};

	if (shim_fails())
		return refuse(CUDNN_STATUS_EXECUTION_FAILED);
	if (!lives(handle) || !s.good() || !alpha || !beta || bytes < s.workspace() ||
		!good_memory(a, b, out, workspace))
		return refuse(CUDNN_STATUS_BAD_PARAM);
	if (!supported || *(const float *)alpha != 1.0f || *(const float *)beta != 0.0f)
		return refuse(CUDNN_STATUS_NOT_SUPPORTED);
	shim_tally(SHIM_DNN);
	shim_tally(SHIM_TF32, s.conv.math != CUDNN_FMA_MATH);
	if (!shim_enqueue(handle->stream, [=] {
		    shim_need_device(a.begin, a.bytes, "operand of cuDNN");
		    shim_need_device(b.begin, b.bytes, "operand of cuDNN");
		    shim_need_device(out.begin, out.bytes, "result of cuDNN");
		    shim_need_device(workspace.begin, bytes, "workspace of cuDNN");
		    pass(s, (const float *)a.begin, (const float *)b.begin, (float *)out_begin,
			    (float *)workspace_begin);
	    }))
		return refuse(CUDNN_STATUS_BAD_PARAM);
	return CUDNN_STATUS_SUCCESS;
}

/* Of a pass. Only the good one runs. */
template <class A> struct algorithms {
	A good, loose, large, missing;
};

const algorithms<cudnnConvolutionFwdAlgo_t> to_forward = {
	CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
	CUDNN_CONVOLUTION_FWD_ALGO_FFT, CUDNN_CONVOLUTION_FWD_ALGO_GEMM};
const algorithms<cudnnConvolutionBwdDataAlgo_t> to_data = {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
	CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT,
	CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING};
const algorithms<cudnnConvolutionBwdFilterAlgo_t> to_filter = {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
	CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT,
	CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING};

/*
 * What a choice has to look at: the quickest is not deterministic, the next does not do it, the
 * next takes too much memory, the next is not there after all, and then comes the one. It is
 * proposed with rounded operands, whatever was asked for, and with less memory than that takes.
 */
template <class P, class A>
cudnnStatus_t choose(cudnnHandle_t handle, const conv_shape &s, int wanted, int *found, P *out,
	const algorithms<A> &how)
{
	const cudnnMathType_t math = s.conv.math;
	const P all[] = {
		{how.loose, CUDNN_STATUS_SUCCESS, 1.0f, 0, CUDNN_NON_DETERMINISTIC, math, {}},
		{how.missing, CUDNN_STATUS_NOT_SUPPORTED, -1.0f, 0, CUDNN_DETERMINISTIC, math, {}},
		{how.large, CUDNN_STATUS_SUCCESS, 2.0f, 0, CUDNN_DETERMINISTIC, math, {}},
		{how.missing, CUDNN_STATUS_SUCCESS, 3.0f, 0, CUDNN_DETERMINISTIC, math, {}},
		{how.good, CUDNN_STATUS_SUCCESS, 4.0f, s.windows(), CUDNN_DETERMINISTIC,
			CUDNN_TENSOR_OP_MATH, {}},
	};

	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!lives(handle) || !s.good() || wanted < 1 || !found || !out)
		return refuse(CUDNN_STATUS_BAD_PARAM);
	for (*found = 0; *found < wanted && *found < 5; ++*found)
		out[*found] = all[*found];
	return CUDNN_STATUS_SUCCESS;
}

template <class A>
cudnnStatus_t workspace_of(cudnnHandle_t handle, const conv_shape &s, A algorithm,
	const algorithms<A> &how, size_t *bytes)
{
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!lives(handle) || !s.good() || !bytes)
		return refuse(CUDNN_STATUS_BAD_PARAM);
	if (algorithm == how.missing)
		return CUDNN_STATUS_NOT_SUPPORTED_SHAPE;
	*bytes = algorithm == how.large ? (size_t)1 << 40 : s.workspace();
	return CUDNN_STATUS_SUCCESS;
}
} /* namespace */

extern "C" cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t handle,
	const cudnnTensorDescriptor_t srcDesc, const cudnnFilterDescriptor_t filterDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnTensorDescriptor_t destDesc,
	const int requestedAlgoCount, int *returnedAlgoCount,
	cudnnConvolutionFwdAlgoPerf_t *perfResults)
{
	return choose(handle, conv_shape_of(srcDesc, filterDesc, convDesc, destDesc),
		requestedAlgoCount, returnedAlgoCount, perfResults, to_forward);
}

extern "C" cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t handle,
	const cudnnFilterDescriptor_t filterDesc, const cudnnTensorDescriptor_t diffDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnTensorDescriptor_t gradDesc,
	const int requestedAlgoCount, int *returnedAlgoCount,
	cudnnConvolutionBwdDataAlgoPerf_t *perfResults)
{
	return choose(handle, conv_shape_of(gradDesc, filterDesc, convDesc, diffDesc),
		requestedAlgoCount, returnedAlgoCount, perfResults, to_data);
}

extern "C" cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t handle,
	const cudnnTensorDescriptor_t srcDesc, const cudnnTensorDescriptor_t diffDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnFilterDescriptor_t gradDesc,
	const int requestedAlgoCount, int *returnedAlgoCount,
	cudnnConvolutionBwdFilterAlgoPerf_t *perfResults)
{
	return choose(handle, conv_shape_of(srcDesc, gradDesc, convDesc, diffDesc),
		requestedAlgoCount, returnedAlgoCount, perfResults, to_filter);
}

extern "C" cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t handle,
	const cudnnTensorDescriptor_t xDesc, const cudnnFilterDescriptor_t wDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnTensorDescriptor_t yDesc,
	cudnnConvolutionFwdAlgo_t algo, size_t *sizeInBytes)
{
	return workspace_of(handle, conv_shape_of(xDesc, wDesc, convDesc, yDesc), algo, to_forward,
		sizeInBytes);
}

extern "C" cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t handle,
	const cudnnFilterDescriptor_t wDesc, const cudnnTensorDescriptor_t dyDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnTensorDescriptor_t dxDesc,
	cudnnConvolutionBwdDataAlgo_t algo, size_t *sizeInBytes)
{
	return workspace_of(
		handle, conv_shape_of(dxDesc, wDesc, convDesc, dyDesc), algo, to_data, sizeInBytes);
}

extern "C" cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t handle,
	const cudnnTensorDescriptor_t xDesc, const cudnnTensorDescriptor_t dyDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnFilterDescriptor_t gradDesc,
	cudnnConvolutionBwdFilterAlgo_t algo, size_t *sizeInBytes)
{
	return workspace_of(handle, conv_shape_of(xDesc, gradDesc, convDesc, dyDesc), algo,
		to_filter, sizeInBytes);
}

extern "C" cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void *alpha,
	const cudnnTensorDescriptor_t xDesc, const void *x, const cudnnFilterDescriptor_t wDesc,
	const void *w, const cudnnConvolutionDescriptor_t convDesc, cudnnConvolutionFwdAlgo_t algo,
	void *workSpace, size_t workSpaceSizeInBytes, const void *beta,
	const cudnnTensorDescriptor_t yDesc, void *y)
{
	conv_shape s = conv_shape_of(xDesc, wDesc, convDesc, yDesc);
	size_t n = (size_t)s.x.n;

	return run(handle, s, conv_forward, alpha, beta, x, n * s.image(), w, s.weights(), y,
		n * s.result(), workSpace, workSpaceSizeInBytes, algo == to_forward.good);
}

extern "C" cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void *alpha,
	const cudnnFilterDescriptor_t wDesc, const void *w, const cudnnTensorDescriptor_t dyDesc,
	const void *dy, const cudnnConvolutionDescriptor_t convDesc,
	cudnnConvolutionBwdDataAlgo_t algo, void *workSpace, size_t workSpaceSizeInBytes,
	const void *beta, const cudnnTensorDescriptor_t dxDesc, void *dx)
{
	conv_shape s = conv_shape_of(dxDesc, wDesc, convDesc, dyDesc);
	size_t n = (size_t)s.x.n;

	return run(handle, s, conv_backward_data, alpha, beta, w, s.weights(), dy, n * s.result(),
		dx, n * s.image(), workSpace, workSpaceSizeInBytes, algo == to_data.good);
}

extern "C" cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void *alpha,
	const cudnnTensorDescriptor_t xDesc, const void *x, const cudnnTensorDescriptor_t dyDesc,
	const void *dy, const cudnnConvolutionDescriptor_t convDesc,
	cudnnConvolutionBwdFilterAlgo_t algo, void *workSpace, size_t workSpaceSizeInBytes,
	const void *beta, const cudnnFilterDescriptor_t dwDesc, void *dw)
{
	conv_shape s = conv_shape_of(xDesc, dwDesc, convDesc, dyDesc);
	size_t n = (size_t)s.x.n;

	return run(handle, s, conv_backward_filter, alpha, beta, x, n * s.image(), dy,
		n * s.result(), dw, s.weights(), workSpace, workSpaceSizeInBytes,
		algo == to_filter.good);
}
