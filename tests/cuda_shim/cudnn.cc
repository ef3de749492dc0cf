/*
 * cuDNN's convolutions for a CPU, by matrix products of one image at a time. Stricter than the
 * original: f32 in NCHW only, no alpha and beta but 1 and 0, an algorithm only with its own
 * workspace.
 */
#include <cudnn.h>

#include <string.h>

#include <vector>

#include "shim_impl.h"

struct cudnnContext {
	cudaStream_t stream;
};

struct cudnnTensorStruct {
	int n, c, h, w;
};

struct cudnnFilterStruct {
	int k, c, h, w;
};

struct cudnnConvolutionStruct {
	int padding_h, padding_w, stride_h, stride_w;
	cudnnMathType_t math;
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
	case CUDNN_STATUS_INTERNAL_ERROR:
		return "CUDNN_STATUS_INTERNAL_ERROR";
	case CUDNN_STATUS_ALLOC_FAILED:
		return "CUDNN_STATUS_ALLOC_FAILED";
	case CUDNN_STATUS_EXECUTION_FAILED:
		return "CUDNN_STATUS_EXECUTION_FAILED";
	}
	return "CUDNN_UNKNOWN_STATUS";
}

template <class T> static cudnnStatus_t create(T **out)
{
	*out = nullptr;
	if (shim_fails())
		return CUDNN_STATUS_ALLOC_FAILED;
	*out = new T();
	shim_own(1);
	return CUDNN_STATUS_SUCCESS;
}

/* What destroys does so even when it is made to fail. */
template <class T> static cudnnStatus_t destroy(T *what)
{
	bool fails = shim_fails();

	if (!what)
		return CUDNN_STATUS_BAD_PARAM;
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
	handle->stream = streamId;
	return CUDNN_STATUS_SUCCESS;
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
	if (format != CUDNN_TENSOR_NCHW || dataType != CUDNN_DATA_FLOAT)
		return CUDNN_STATUS_NOT_SUPPORTED;
	if (n < 1 || c < 1 || h < 1 || w < 1)
		return CUDNN_STATUS_BAD_PARAM;
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
	if (format != CUDNN_TENSOR_NCHW || dataType != CUDNN_DATA_FLOAT)
		return CUDNN_STATUS_NOT_SUPPORTED;
	if (k < 1 || c < 1 || h < 1 || w < 1)
		return CUDNN_STATUS_BAD_PARAM;
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
	convDesc->math = mathType;
	return CUDNN_STATUS_SUCCESS;
}

extern "C" cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t convDesc,
	int pad_h, int pad_w, int u, int v, int dilation_h, int dilation_w,
	cudnnConvolutionMode_t mode, cudnnDataType_t computeType)
{
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (dilation_h != 1 || dilation_w != 1 || mode != CUDNN_CROSS_CORRELATION ||
		computeType != CUDNN_DATA_FLOAT)
		return CUDNN_STATUS_NOT_SUPPORTED;
	if (pad_h < 0 || pad_w < 0 || u < 1 || v < 1)
		return CUDNN_STATUS_BAD_PARAM;
	convDesc->padding_h = pad_h;
	convDesc->padding_w = pad_w;
	convDesc->stride_h = u;
	convDesc->stride_w = v;
	return CUDNN_STATUS_SUCCESS;
}

namespace
{
/* A convolution of x to y; of one image, `rows` are its windows' values, `columns` their places. */
struct shape {
	cudnnTensorStruct x, y;
	cudnnFilterStruct w;
	cudnnConvolutionStruct conv;
	size_t rows, columns;

	bool good() const
	{
		return x.n == y.n && x.c == w.c && y.c == w.k &&
		       y.h == (x.h + 2 * conv.padding_h - w.h) / conv.stride_h + 1 &&
		       y.w == (x.w + 2 * conv.padding_w - w.w) / conv.stride_w + 1;
	}

	size_t image() const
	{
		return (size_t)x.c * (size_t)x.h * (size_t)x.w;
	}

	size_t result() const
	{
		return (size_t)y.c * columns;
	}

	size_t weights() const
	{
		return (size_t)w.k * rows;
	}

	/* One image's windows. */
	size_t workspace() const
	{
		return rows * columns * sizeof(float);
	}
};

shape shape_of(cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w,
	cudnnConvolutionDescriptor_t conv, cudnnTensorDescriptor_t y)
{
	return {*x, *y, *w, *conv, (size_t)w->c * (size_t)w->h * (size_t)w->w,
		(size_t)y->h * (size_t)y->w};
}

/* Calls each(row, place, pixel) for all that lies in the image; pixel: of the image. */
template <class F> void windows(const shape &s, F each)
{
	size_t row = 0;

	for (int c = 0; c < s.w.c; c++)
		for (int a = 0; a < s.w.h; a++)
			for (int b = 0; b < s.w.w; b++, row++)
				for (int i = 0; i < s.y.h; i++) {
					int h = i * s.conv.stride_h - s.conv.padding_h + a;
					size_t place = (size_t)i * (size_t)s.y.w;

					if (h < 0 || h >= s.x.h)
						continue;
					for (int j = 0; j < s.y.w; j++) {
						int w = j * s.conv.stride_w - s.conv.padding_w + b;

						if (w >= 0 && w < s.x.w)
							each(row, place + (size_t)j,
								(size_t)((c * s.x.h + h) * s.x.w +
									 w));
					}
				}
}

void gather(const shape &s, const float *image, float *rows)
{
	memset(rows, 0, s.workspace());
	windows(s, [&](size_t row, size_t place, size_t pixel) {
		rows[row * s.columns + place] = image[pixel];
	});
}

void scatter(const shape &s, const float *rows, float *image)
{
	memset(image, 0, s.image() * sizeof(float));
	windows(s, [&](size_t row, size_t place, size_t pixel) {
		image[pixel] += rows[row * s.columns + place];
	});
}

/* c (m x n) = a (m x k) b (k x n); a's values are `row` and `column` apart. */
void multiply(float *c, const float *a, size_t row, size_t column, const float *b, size_t m,
	size_t k, size_t n)
{
	memset(c, 0, m * n * sizeof(float));
	for (size_t i = 0; i < m; i++) {
		float *__restrict out = c + i * n;
		size_t l = 0;

		for (; l + 4 <= k; l += 4) {
			const float *from = a + i * row + l * column;
			const float *__restrict b0 = b + l * n, *__restrict b1 = b0 + n;
			const float *__restrict b2 = b1 + n, *__restrict b3 = b2 + n;
			float a0 = from[0], a1 = from[column], a2 = from[2 * column];
			float a3 = from[3 * column];

			for (size_t j = 0; j < n; j++)
				out[j] += (a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
		}
		for (; l < k; l++) {
			const float *__restrict b0 = b + l * n;
			float a0 = a[i * row + l * column];

			for (size_t j = 0; j < n; j++)
				out[j] += a0 * b0[j];
		}
	}
}

typedef float lanes __attribute__((vector_size(32), aligned(4)));

double dot(const float *a, const float *b, size_t n)
{
	lanes sum = {};
	double all = 0.0;
	size_t i = 0;

	for (; i + 8 <= n; i += 8)
		sum += *reinterpret_cast<const lanes *>(a + i) *
		       *reinterpret_cast<const lanes *>(b + i);
	for (size_t k = 0; k < 8; k++)
		all += (double)sum[k];
	for (; i < n; i++)
		all += (double)a[i] * (double)b[i];
	return all;
}

void forward(const shape &s, const float *x, const float *w, float *y, float *rows)
{
	for (int i = 0; i < s.x.n; i++) {
		gather(s, x + (size_t)i * s.image(), rows);
		multiply(y + (size_t)i * s.result(), w, s.rows, 1, rows, (size_t)s.y.c, s.rows,
			s.columns);
	}
}

void backward_data(const shape &s, const float *w, const float *dy, float *dx, float *rows)
{
	for (int i = 0; i < s.x.n; i++) {
		multiply(rows, w, 1, s.rows, dy + (size_t)i * s.result(), s.rows, (size_t)s.y.c,
			s.columns);
		scatter(s, rows, dx + (size_t)i * s.image());
	}
}

void backward_filter(const shape &s, const float *x, const float *dy, float *dw, float *rows)
{
	std::vector<double> sums(s.weights());

	for (int i = 0; i < s.x.n; i++) {
		const float *gradient = dy + (size_t)i * s.result();

		gather(s, x + (size_t)i * s.image(), rows);
		for (size_t k = 0; k < (size_t)s.w.k; k++)
			for (size_t r = 0; r < s.rows; r++)
				sums[k * s.rows + r] += dot(
					gradient + k * s.columns, rows + r * s.columns, s.columns);
	}
	for (size_t i = 0; i < sums.size(); i++)
		dw[i] = (float)sums[i];
}

typedef void (*pass)(const shape &s, const float *a, const float *b, float *out, float *rows);

/* sizes: of the two operands and the result, in values. */
cudnnStatus_t run(cudnnHandle_t handle, const shape &s, pass pass, const void *alpha,
	const void *beta, const void *a, size_t a_values, const void *b, size_t b_values, void *out,
	size_t out_values, void *workspace, size_t bytes, bool good)
{
	if (shim_fails())
		return CUDNN_STATUS_EXECUTION_FAILED;
	if (!s.good() || !good || bytes < s.workspace() || *(const float *)alpha != 1.0f ||
		*(const float *)beta != 0.0f)
		return CUDNN_STATUS_BAD_PARAM;
	shim_tally(SHIM_DNN);
	shim_tally(SHIM_TF32, s.conv.math != CUDNN_FMA_MATH);
	if (!shim_enqueue(handle->stream, [=] {
		    shim_need_device(a, a_values * sizeof(float), "operand of cuDNN");
		    shim_need_device(b, b_values * sizeof(float), "operand of cuDNN");
		    shim_need_device(out, out_values * sizeof(float), "result of cuDNN");
		    shim_need_device(workspace, bytes, "workspace of cuDNN");
		    pass(s, (const float *)a, (const float *)b, (float *)out, (float *)workspace);
	    }))
		return CUDNN_STATUS_BAD_PARAM;
	return CUDNN_STATUS_SUCCESS;
}

/*
 * What a choice has to look at: the quickest takes too much memory, the next is not deterministic,
 * the next does not do it, and then comes the one.
 */
template <class P, class A>
cudnnStatus_t choose(const shape &s, int wanted, int *found, P *out, A good, A other)
{
	const P all[] = {
		{other, CUDNN_STATUS_SUCCESS, 1.0f, (size_t)1 << 40, CUDNN_DETERMINISTIC,
			s.conv.math, {}},
		{other, CUDNN_STATUS_SUCCESS, 2.0f, 0, CUDNN_NON_DETERMINISTIC, s.conv.math, {}},
		{other, CUDNN_STATUS_NOT_SUPPORTED, -1.0f, 0, CUDNN_DETERMINISTIC, s.conv.math, {}},
		{good, CUDNN_STATUS_SUCCESS, 3.0f, s.workspace(), CUDNN_DETERMINISTIC, s.conv.math,
			{}},
	};

	*found = 0;
	if (shim_fails())
		return CUDNN_STATUS_INTERNAL_ERROR;
	if (!s.good())
		return CUDNN_STATUS_BAD_PARAM;
	for (; *found < wanted && *found < 4; ++*found)
		out[*found] = all[*found];
	return CUDNN_STATUS_SUCCESS;
}

/* The algorithms that choose() recommends. */
const cudnnConvolutionFwdAlgo_t by_gemm = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
const cudnnConvolutionBwdDataAlgo_t data_by_gemm = CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
const cudnnConvolutionBwdFilterAlgo_t filter_by_gemm = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
} /* namespace */

extern "C" cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t handle,
	const cudnnTensorDescriptor_t srcDesc, const cudnnFilterDescriptor_t filterDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnTensorDescriptor_t destDesc,
	const int requestedAlgoCount, int *returnedAlgoCount,
	cudnnConvolutionFwdAlgoPerf_t *perfResults)
{
	(void)handle;
	return choose(shape_of(srcDesc, filterDesc, convDesc, destDesc), requestedAlgoCount,
		returnedAlgoCount, perfResults, by_gemm, CUDNN_CONVOLUTION_FWD_ALGO_GEMM);
}

extern "C" cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t handle,
	const cudnnFilterDescriptor_t filterDesc, const cudnnTensorDescriptor_t diffDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnTensorDescriptor_t gradDesc,
	const int requestedAlgoCount, int *returnedAlgoCount,
	cudnnConvolutionBwdDataAlgoPerf_t *perfResults)
{
	(void)handle;
	return choose(shape_of(gradDesc, filterDesc, convDesc, diffDesc), requestedAlgoCount,
		returnedAlgoCount, perfResults, data_by_gemm, CUDNN_CONVOLUTION_BWD_DATA_ALGO_0);
}

extern "C" cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t handle,
	const cudnnTensorDescriptor_t srcDesc, const cudnnTensorDescriptor_t diffDesc,
	const cudnnConvolutionDescriptor_t convDesc, const cudnnFilterDescriptor_t gradDesc,
	const int requestedAlgoCount, int *returnedAlgoCount,
	cudnnConvolutionBwdFilterAlgoPerf_t *perfResults)
{
	(void)handle;
	return choose(shape_of(srcDesc, gradDesc, convDesc, diffDesc), requestedAlgoCount,
		returnedAlgoCount, perfResults, filter_by_gemm,
		CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0);
}

extern "C" cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void *alpha,
	const cudnnTensorDescriptor_t xDesc, const void *x, const cudnnFilterDescriptor_t wDesc,
	const void *w, const cudnnConvolutionDescriptor_t convDesc, cudnnConvolutionFwdAlgo_t algo,
	void *workSpace, size_t workSpaceSizeInBytes, const void *beta,
	const cudnnTensorDescriptor_t yDesc, void *y)
{
	shape s = shape_of(xDesc, wDesc, convDesc, yDesc);
	size_t n = (size_t)s.x.n;

	return run(handle, s, forward, alpha, beta, x, n * s.image(), w, s.weights(), y,
		n * s.result(), workSpace, workSpaceSizeInBytes, algo == by_gemm);
}

extern "C" cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void *alpha,
	const cudnnFilterDescriptor_t wDesc, const void *w, const cudnnTensorDescriptor_t dyDesc,
	const void *dy, const cudnnConvolutionDescriptor_t convDesc,
	cudnnConvolutionBwdDataAlgo_t algo, void *workSpace, size_t workSpaceSizeInBytes,
	const void *beta, const cudnnTensorDescriptor_t dxDesc, void *dx)
{
	shape s = shape_of(dxDesc, wDesc, convDesc, dyDesc);
	size_t n = (size_t)s.x.n;

	return run(handle, s, backward_data, alpha, beta, w, s.weights(), dy, n * s.result(), dx,
		n * s.image(), workSpace, workSpaceSizeInBytes, algo == data_by_gemm);
}

extern "C" cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void *alpha,
	const cudnnTensorDescriptor_t xDesc, const void *x, const cudnnTensorDescriptor_t dyDesc,
	const void *dy, const cudnnConvolutionDescriptor_t convDesc,
	cudnnConvolutionBwdFilterAlgo_t algo, void *workSpace, size_t workSpaceSizeInBytes,
	const void *beta, const cudnnFilterDescriptor_t dwDesc, void *dw)
{
	shape s = shape_of(xDesc, dwDesc, convDesc, dyDesc);
	size_t n = (size_t)s.x.n;

	return run(handle, s, backward_filter, alpha, beta, x, n * s.image(), dy, n * s.result(),
		dw, s.weights(), workSpace, workSpaceSizeInBytes, algo == filter_by_gemm);
}
