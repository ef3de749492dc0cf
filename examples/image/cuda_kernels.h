/*
 * Kernels of the trainer's CUDA engine. Each function launches one and says what cudaGetLastError
 * says. Activations are NCHW, of fewer than 2^31 values; memory is the device's, aligned to 16
 * bytes and padded to a multiple of them.
 * SPDX-License-Identifier: MIT
 */
#ifndef IMAGE_CUDA_KERNELS_H
#define IMAGE_CUDA_KERNELS_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where a kernel runs. blocks: of a grid, at most; enough to fill the device. */
struct cuda_place {
	cudaStream_t stream;
	unsigned blocks;
};

/* See nn_device. */
cudaError_t cuda_relu(
	const struct cuda_place *place, float *y, const float *a, const float *b, size_t n);
cudaError_t cuda_relu_back(const struct cuda_place *place, float *dx, const float *a,
	const float *b, const float *y, size_t n);
cudaError_t cuda_combine(const struct cuda_place *place, float *out, const float *a, const float *b,
	float scale, size_t n);

struct cuda_sgd {
	float rate, momentum, decay;
	bool nesterov;
};
cudaError_t cuda_sgd_step(const struct cuda_place *place, struct cuda_sgd sgd, float *params,
	const float *grads, float *buffer, size_t n);

/* n images of c channels and `pixels` pixels: from NHWC to NCHW, or back. */
cudaError_t cuda_to_planes(
	const struct cuda_place *place, float *to, const float *from, int n, int c, int pixels);
cudaError_t cuda_from_planes(
	const struct cuda_place *place, float *to, const float *from, int n, int c, int pixels);

/* Every row becomes `values`; and the sums of the columns. */
cudaError_t cuda_fill_rows(
	const struct cuda_place *place, float *to, const float *values, int rows, int columns);
cudaError_t cuda_sum_rows(
	const struct cuda_place *place, float *sums, const float *from, int rows, int columns);

/* A pool of planes of h x w to planes of out_h x out_w. */
struct cuda_pool {
	int planes, h, w, out_h, out_w;
	int height, width, stride, padding; /* of the window */
	bool average;
};
/* best: of a maximum, the place of each in its plane: the first one, when several are as large;
 * NULL: not wanted. */
cudaError_t cuda_pool_forward(
	const struct cuda_place *place, struct cuda_pool pool, float *y, int *best, const float *x);
cudaError_t cuda_pool_back(const struct cuda_place *place, struct cuda_pool pool, float *dx,
	const int *best, const float *dy);

/* A norm over n images of c channels and `pixels` pixels; vectors are by channel. */
struct cuda_norm {
	int n, c, pixels;
	bool relu;
	float epsilon;
	const float *x, *dy;
	float *out;
	const float *mean, *scale, *shift; /* y = (x - mean) * scale + shift, then the relu */
	const float *dy_mean, *slope;	   /* dx = scale * (dy - dy_mean - (x - mean) * slope) */
	double *parts;			   /* cuda_norm_parts of them */
};
/* Doubles that sums of this norm take on the way. */
size_t cuda_norm_parts(int n, int c, int pixels);
/* Parts of the sums of x - mean and its square, or of dy and dy * (x - mean). mean NULL: the
 * first pixel of each channel in its place. */
cudaError_t cuda_norm_moments(const struct cuda_place *place, struct cuda_norm norm);
cudaError_t cuda_norm_products(const struct cuda_place *place, struct cuda_norm norm);
/* out = y, or dx. */
cudaError_t cuda_norm_apply(const struct cuda_place *place, struct cuda_norm norm);
cudaError_t cuda_norm_spread(const struct cuda_place *place, struct cuda_norm norm);
/* From parts: the two sums of all channels, one after the other. */
cudaError_t cuda_norm_collect(const struct cuda_place *place, struct cuda_norm norm, double *sums);
/* From parts of moments with mean NULL: the batch's mean and variance. */
cudaError_t cuda_norm_statistics(
	const struct cuda_place *place, struct cuda_norm norm, float *mean, float *variance);
/* gamma / sqrt(variance + epsilon). */
cudaError_t cuda_norm_scale(const struct cuda_place *place, struct cuda_norm norm,
	const float *gamma, const float *variance, float *scale);
/* From parts of products: the gradients of gamma and beta, and what dx takes. */
cudaError_t cuda_norm_slopes(const struct cuda_place *place, struct cuda_norm norm,
	const float *variance, float *d_gamma, float *d_beta, float *dy_mean, float *slope);
cudaError_t cuda_norm_track(const struct cuda_place *place, float *running, const float *mean,
	const float *variance, int c, float unbias, float momentum);

#ifdef __cplusplus
}
#endif

#endif
