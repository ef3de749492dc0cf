/* What cuDNN's convolutions compute, on memory that is accessible. */
#ifndef CUDA_SHIM_CUDNN_CONV_H
#define CUDA_SHIM_CUDNN_CONV_H

#include <cudnn.h>

/* Zeros: not set. */
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

/* A convolution of x to y; of one image, `rows` are its windows' values, `columns` their places. */
struct conv_shape {
	cudnnTensorStruct x, y;
	cudnnFilterStruct w;
	cudnnConvolutionStruct conv;
	size_t rows, columns;

	bool good() const
	{
		return x.n > 0 && y.n > 0 && w.k > 0 && conv.stride_h > 0 && x.n == y.n &&
		       x.c == w.c && y.c == w.k &&
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
	size_t windows() const
	{
		return rows * columns * sizeof(float);
	}

	/* What is rounded takes more room. */
	size_t workspace() const
	{
		return conv.math == CUDNN_FMA_MATH ? windows() : 2 * windows();
	}
};

/* rows: room for windows() bytes. */
typedef void (*conv_pass)(
	const conv_shape &s, const float *a, const float *b, float *out, float *rows);

void conv_forward(const conv_shape &s, const float *x, const float *w, float *y, float *rows);
void conv_backward_data(
	const conv_shape &s, const float *w, const float *dy, float *dx, float *rows);
void conv_backward_filter(
	const conv_shape &s, const float *x, const float *dy, float *dw, float *rows);

#endif
