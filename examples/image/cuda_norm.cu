/* Kernels of batch norms. SPDX-License-Identifier: MIT */
#include "cuda_grid.h"

/* A thread adds up so many values in f32; all further sums are f64, in an order that is fixed. */
#define VALUES_OF_THREAD 64
#define VALUES_OF_BLOCK (CUDA_THREADS * VALUES_OF_THREAD)

/* Blocks that share a channel. */
static int parts_of(int n, int pixels)
{
	return (int)(((size_t)n * (size_t)pixels + VALUES_OF_BLOCK - 1) / VALUES_OF_BLOCK);
}

size_t cuda_norm_parts(int n, int c, int pixels)
{
	return 2 * (size_t)parts_of(n, pixels) * (size_t)c;
}

static __device__ __forceinline__ float base_of(const struct cuda_norm &norm, unsigned channel)
{
	return norm.mean ? norm.mean[channel] : norm.x[(size_t)channel * (size_t)norm.pixels];
}

/* The gradient of y before the relu, whose y is not kept but comes out as it was. */
static __device__ __forceinline__ float before_relu(
	const struct cuda_norm &norm, unsigned channel, float centred, float dy)
{
	if (!norm.relu)
		return dy;
	return centred * norm.scale[channel] + norm.shift[channel] > 0.0f ? dy : 0.0f;
}

/*
 * Block (part, channel): a sum of two quantities over a part of a channel. Threads' sums meet in
 * shared memory, first 32 at a time.
 */
template <bool PRODUCTS> static __global__ void sums_kernel(struct cuda_norm norm, unsigned parts)
{
	PSGD_DYN_SHARED(double, shared);
	unsigned part = blockIdx.x, channel = blockIdx.y, pixels = (unsigned)norm.pixels;
	unsigned count = (unsigned)norm.n * pixels, begin = part * VALUES_OF_BLOCK;
	unsigned end = min(begin + VALUES_OF_BLOCK, count);
	double *second = shared + CUDA_THREADS;
	float base = base_of(norm, channel), sum = 0.0f, product = 0.0f;

	for (unsigned i = begin + threadIdx.x; i < end; i += CUDA_THREADS) {
		size_t plane = (size_t)(i / pixels) * (size_t)norm.c + channel;
		size_t at = plane * pixels + i % pixels;
		float centred = norm.x[at] - base, value = centred;

		if (PRODUCTS)
			value = before_relu(norm, channel, centred, norm.dy[at]);
		sum += value;
		product += value * centred;
	}
	shared[threadIdx.x] = (double)sum;
	second[threadIdx.x] = (double)product;
	__syncthreads();
	if (threadIdx.x < 32)
		for (unsigned k = threadIdx.x + 32; k < CUDA_THREADS; k += 32) {
			shared[threadIdx.x] += shared[k];
			second[threadIdx.x] += second[k];
		}
	__syncthreads();
	if (threadIdx.x == 0) {
		for (unsigned k = 1; k < 32; k++) {
			shared[0] += shared[k];
			second[0] += second[k];
		}
		norm.parts[2 * (channel * parts + part)] = shared[0];
		norm.parts[2 * (channel * parts + part) + 1] = second[0];
	}
}

/* Of a channel; *product is of the products. */
static __device__ __forceinline__ double sum_parts(
	const struct cuda_norm &norm, unsigned channel, unsigned parts, double *product)
{
	double sum = 0.0;

	*product = 0.0;
	for (unsigned k = 0; k < parts; k++) {
		sum += norm.parts[2 * (channel * parts + k)];
		*product += norm.parts[2 * (channel * parts + k) + 1];
	}
	return sum;
}

static __global__ void collect_kernel(struct cuda_norm norm, unsigned parts, double *sums)
{
	for (size_t c = cuda_first(); c < (size_t)norm.c; c += cuda_stride())
		sums[c] = sum_parts(norm, (unsigned)c, parts, &sums[(size_t)norm.c + c]);
}

static __global__ void statistics_kernel(
	struct cuda_norm norm, unsigned parts, float *mean, float *variance)
{
	double count = (double)norm.n * (double)norm.pixels;

	for (size_t c = cuda_first(); c < (size_t)norm.c; c += cuda_stride()) {
		double square, shift = sum_parts(norm, (unsigned)c, parts, &square) / count;
		double v = square / count - shift * shift;

		mean[c] = (float)((double)base_of(norm, (unsigned)c) + shift);
		/* What is no number must stay so. */
		variance[c] = (float)(v < 0.0 ? 0.0 : v);
	}
}

static __global__ void scale_kernel(
	struct cuda_norm norm, const float *gamma, const float *variance, float *scale)
{
	for (size_t c = cuda_first(); c < (size_t)norm.c; c += cuda_stride())
		scale[c] = (float)((double)gamma[c] /
				   sqrt((double)variance[c] + (double)norm.epsilon));
}

static __global__ void slopes_kernel(struct cuda_norm norm, unsigned parts, const float *variance,
	float *d_gamma, float *d_beta, float *dy_mean, float *slope)
{
	double count = (double)norm.n * (double)norm.pixels;

	for (size_t c = cuda_first(); c < (size_t)norm.c; c += cuda_stride()) {
		double product, sum = sum_parts(norm, (unsigned)c, parts, &product);
		double square = (double)variance[c] + (double)norm.epsilon;

		d_gamma[c] = (float)(product / sqrt(square));
		d_beta[c] = (float)sum;
		dy_mean[c] = (float)(sum / count);
		slope[c] = (float)(product / count / square);
	}
}

template <int V> static __global__ void apply_kernel(struct cuda_norm norm)
{
	unsigned pixels = (unsigned)norm.pixels;
	size_t packs = (size_t)norm.n * (size_t)norm.c * pixels / V;

	for (size_t i = cuda_first(); i < packs; i += cuda_stride()) {
		unsigned channel = (unsigned)(i * V) / pixels % (unsigned)norm.c;
		float mean = norm.mean[channel], scale = norm.scale[channel];
		float shift = norm.shift[channel];
		cuda_pack<V> x = cuda_load<V>(norm.x + i * V);

		for (int k = 0; k < V; k++) {
			float y = (x.v[k] - mean) * scale + shift;

			/* A NaN stays one. */
			x.v[k] = norm.relu && y < 0.0f ? 0.0f : y;
		}
		cuda_store<V>(norm.out + i * V, x);
	}
}

template <int V> static __global__ void spread_kernel(struct cuda_norm norm)
{
	unsigned pixels = (unsigned)norm.pixels;
	size_t packs = (size_t)norm.n * (size_t)norm.c * pixels / V;

	for (size_t i = cuda_first(); i < packs; i += cuda_stride()) {
		unsigned channel = (unsigned)(i * V) / pixels % (unsigned)norm.c;
		float mean = norm.mean[channel], scale = norm.scale[channel];
		float dy_mean = norm.dy_mean[channel], slope = norm.slope[channel];
		cuda_pack<V> x = cuda_load<V>(norm.x + i * V), d = cuda_load<V>(norm.dy + i * V);

		for (int k = 0; k < V; k++) {
			float centred = x.v[k] - mean;
			float dy = before_relu(norm, channel, centred, d.v[k]);

			d.v[k] = scale * (dy - dy_mean - centred * slope);
		}
		cuda_store<V>(norm.out + i * V, d);
	}
}

static __global__ void track_kernel(float *running, const float *mean, const float *variance,
	unsigned c, float unbias, float momentum)
{
	for (size_t i = cuda_first(); i < c; i += cuda_stride()) {
		float *m = running + i, *v = m + c;

		/* A step whose gradients are left out leaves nothing here, either: x - x is 0 of
		 * what is finite. */
		if (mean[i] - mean[i] != 0.0f || variance[i] - variance[i] != 0.0f)
			continue;
		*m += momentum * (mean[i] - *m);
		*v += momentum * (variance[i] * unbias - *v);
	}
}

template <bool PRODUCTS>
static cudaError_t sums(const struct cuda_place *place, const struct cuda_norm &norm)
{
	int parts = parts_of(norm.n, norm.pixels);

	PSGD_LAUNCH((sums_kernel<PRODUCTS>), dim3((unsigned)parts, (unsigned)norm.c), CUDA_THREADS,
		2 * CUDA_THREADS * sizeof(double), place->stream, norm, (unsigned)parts);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_norm_moments(const struct cuda_place *place, struct cuda_norm norm)
{
	return sums<false>(place, norm);
}

extern "C" cudaError_t cuda_norm_products(const struct cuda_place *place, struct cuda_norm norm)
{
	return sums<true>(place, norm);
}

static size_t values_of(const struct cuda_norm &norm)
{
	return (size_t)norm.n * (size_t)norm.c * (size_t)norm.pixels;
}

extern "C" cudaError_t cuda_norm_apply(const struct cuda_place *place, struct cuda_norm norm)
{
	size_t n = values_of(norm);

	/* Pixels of one channel, four at a time. */
	if (norm.pixels % 4 == 0)
		PSGD_LAUNCH((apply_kernel<4>), cuda_grid(place, n / 4), CUDA_THREADS, 0,
			place->stream, norm);
	else
		PSGD_LAUNCH((apply_kernel<1>), cuda_grid(place, n), CUDA_THREADS, 0, place->stream,
			norm);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_norm_spread(const struct cuda_place *place, struct cuda_norm norm)
{
	size_t n = values_of(norm);

	if (norm.pixels % 4 == 0)
		PSGD_LAUNCH((spread_kernel<4>), cuda_grid(place, n / 4), CUDA_THREADS, 0,
			place->stream, norm);
	else
		PSGD_LAUNCH((spread_kernel<1>), cuda_grid(place, n), CUDA_THREADS, 0, place->stream,
			norm);
	return cudaGetLastError();
}

static unsigned parts_in(const struct cuda_norm &norm)
{
	return (unsigned)parts_of(norm.n, norm.pixels);
}

extern "C" cudaError_t cuda_norm_collect(
	const struct cuda_place *place, struct cuda_norm norm, double *sums)
{
	PSGD_LAUNCH(collect_kernel, cuda_grid(place, (size_t)norm.c), CUDA_THREADS, 0,
		place->stream, norm, parts_in(norm), sums);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_norm_statistics(
	const struct cuda_place *place, struct cuda_norm norm, float *mean, float *variance)
{
	PSGD_LAUNCH(statistics_kernel, cuda_grid(place, (size_t)norm.c), CUDA_THREADS, 0,
		place->stream, norm, parts_in(norm), mean, variance);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_norm_scale(const struct cuda_place *place, struct cuda_norm norm,
	const float *gamma, const float *variance, float *scale)
{
	PSGD_LAUNCH(scale_kernel, cuda_grid(place, (size_t)norm.c), CUDA_THREADS, 0, place->stream,
		norm, gamma, variance, scale);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_norm_slopes(const struct cuda_place *place, struct cuda_norm norm,
	const float *variance, float *d_gamma, float *d_beta, float *dy_mean, float *slope)
{
	PSGD_LAUNCH(slopes_kernel, cuda_grid(place, (size_t)norm.c), CUDA_THREADS, 0, place->stream,
		norm, parts_in(norm), variance, d_gamma, d_beta, dy_mean, slope);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_norm_track(const struct cuda_place *place, float *running,
	const float *mean, const float *variance, int c, float unbias, float momentum)
{
	PSGD_LAUNCH(track_kernel, cuda_grid(place, (size_t)c), CUDA_THREADS, 0, place->stream,
		running, mean, variance, (unsigned)c, unbias, momentum);
	return cudaGetLastError();
}
