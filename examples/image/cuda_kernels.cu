/* Kernels of the trainer's CUDA engine: all but those of norms. SPDX-License-Identifier: MIT */
#include "cuda_grid.h"

#define V 4

/* a + b, or a alone. */
static __device__ __forceinline__ cuda_pack<V> sum_at(const float *a, const float *b, size_t i)
{
	cuda_pack<V> sum = cuda_load<V>(a + i);

	if (b) {
		cuda_pack<V> other = cuda_load<V>(b + i);

		for (int k = 0; k < V; k++)
			sum.v[k] += other.v[k];
	}
	return sum;
}

static __global__ void relu_kernel(float *y, const float *a, const float *b, size_t packs)
{
	for (size_t i = cuda_first(); i < packs; i += cuda_stride()) {
		cuda_pack<V> sum = sum_at(a, b, i * V);

		for (int k = 0; k < V; k++)
			sum.v[k] = sum.v[k] < 0.0f ? 0.0f : sum.v[k];
		cuda_store<V>(y + i * V, sum);
	}
}

static __global__ void relu_back_kernel(
	float *dx, const float *a, const float *b, const float *y, size_t packs)
{
	for (size_t i = cuda_first(); i < packs; i += cuda_stride()) {
		cuda_pack<V> sum = sum_at(a, b, i * V), result = cuda_load<V>(y + i * V);

		for (int k = 0; k < V; k++)
			sum.v[k] = result.v[k] > 0.0f ? sum.v[k] : 0.0f;
		cuda_store<V>(dx + i * V, sum);
	}
}

static __global__ void combine_kernel(
	float *out, const float *a, const float *b, float scale, size_t packs)
{
	for (size_t i = cuda_first(); i < packs; i += cuda_stride()) {
		cuda_pack<V> sum = sum_at(a, b, i * V);

		for (int k = 0; k < V; k++)
			sum.v[k] *= scale;
		cuda_store<V>(out + i * V, sum);
	}
}

static __global__ void sgd_kernel(
	struct cuda_sgd sgd, float *params, const float *grads, float *buffer, size_t packs)
{
	for (size_t i = cuda_first(); i < packs; i += cuda_stride()) {
		cuda_pack<V> p = cuda_load<V>(params + i * V), g = cuda_load<V>(grads + i * V);
		cuda_pack<V> b = cuda_load<V>(buffer + i * V);

		for (int k = 0; k < V; k++) {
			float decayed = g.v[k] + sgd.decay * p.v[k];

			b.v[k] = sgd.momentum * b.v[k] + decayed;
			p.v[k] -= sgd.rate *
				  (sgd.nesterov ? decayed + sgd.momentum * b.v[k] : b.v[k]);
		}
		cuda_store<V>(buffer + i * V, b);
		cuda_store<V>(params + i * V, p);
	}
}

/* In the order of what is written. */
static __global__ void to_planes_kernel(
	float *to, const float *from, unsigned n, unsigned c, unsigned pixels)
{
	for (size_t i = cuda_first(); i < (size_t)n * c * pixels; i += cuda_stride()) {
		unsigned plane = (unsigned)i / pixels, pixel = (unsigned)i % pixels;

		to[i] = from[((size_t)(plane / c) * pixels + pixel) * c + plane % c];
	}
}

static __global__ void from_planes_kernel(
	float *to, const float *from, unsigned n, unsigned c, unsigned pixels)
{
	for (size_t i = cuda_first(); i < (size_t)n * c * pixels; i += cuda_stride()) {
		unsigned place = (unsigned)i / c, channel = (unsigned)i % c;

		to[i] = from[((size_t)(place / pixels) * c + channel) * pixels + place % pixels];
	}
}

static __global__ void fill_rows_kernel(
	float *to, const float *values, unsigned rows, unsigned columns)
{
	for (size_t i = cuda_first(); i < (size_t)rows * columns; i += cuda_stride())
		to[i] = values[(unsigned)i % columns];
}

static __global__ void sum_rows_kernel(float *sums, const float *from, int rows, int columns)
{
	for (size_t i = cuda_first(); i < (size_t)columns; i += cuda_stride()) {
		double sum = 0.0;

		for (int row = 0; row < rows; row++)
			sum += (double)from[(size_t)row * (size_t)columns + i];
		sums[i] = (float)sum;
	}
}

/* The part of a window that is in the image, along one side. */
static __device__ __forceinline__ void window_of(
	int at, int length, int stride, int padding, int side, int *begin, int *end)
{
	*begin = at * stride - padding;
	*end = min(*begin + length, side);
	*begin = max(*begin, 0);
}

static __global__ void pool_kernel(struct cuda_pool p, float *y, int *best, const float *x)
{
	unsigned each = (unsigned)(p.out_h * p.out_w);

	for (size_t i = cuda_first(); i < (size_t)p.planes * each; i += cuda_stride()) {
		const float *plane = x + (size_t)((unsigned)i / each) * (size_t)(p.h * p.w);
		int pixel = (int)((unsigned)i % each), row, rows, column, columns, found;
		float largest, sum = 0.0f;

		window_of(pixel / p.out_w, p.height, p.stride, p.padding, p.h, &row, &rows);
		window_of(pixel % p.out_w, p.width, p.stride, p.padding, p.w, &column, &columns);
		found = row * p.w + column;
		largest = plane[found];
		for (int r = row; r < rows; r++)
			for (int c = column; c < columns; c++) {
				float value = plane[r * p.w + c];

				sum += value;
				/* What is no number shows. */
				if (value > largest || value != value) {
					largest = value;
					found = r * p.w + c;
				}
			}
		if (p.average) {
			y[i] = sum / (float)((rows - row) * (columns - column));
		} else {
			y[i] = largest;
			if (best)
				best[i] = found;
		}
	}
}

/* The windows that a pixel is in, along one side. */
static __device__ __forceinline__ void windows_with(
	int at, int length, int stride, int padding, int count, int *begin, int *end)
{
	int first = at + padding - length + 1;

	*begin = first > 0 ? (first + stride - 1) / stride : 0;
	*end = min((at + padding) / stride + 1, count);
}

static __global__ void pool_back_kernel(
	struct cuda_pool p, float *dx, const int *best, const float *dy)
{
	unsigned each = (unsigned)(p.h * p.w);

	for (size_t i = cuda_first(); i < (size_t)p.planes * each; i += cuda_stride()) {
		size_t plane = (size_t)((unsigned)i / each) * (size_t)(p.out_h * p.out_w);
		int pixel = (int)((unsigned)i % each), row, rows, column, columns;
		float sum = 0.0f;

		windows_with(pixel / p.w, p.height, p.stride, p.padding, p.out_h, &row, &rows);
		windows_with(pixel % p.w, p.width, p.stride, p.padding, p.out_w, &column, &columns);
		for (int r = row; r < rows; r++)
			for (int c = column; c < columns; c++) {
				size_t at = plane + (size_t)(r * p.out_w + c);
				int top, bottom, left, right;

				if (!p.average) {
					sum += best[at] == pixel ? dy[at] : 0.0f;
					continue;
				}
				window_of(r, p.height, p.stride, p.padding, p.h, &top, &bottom);
				window_of(c, p.width, p.stride, p.padding, p.w, &left, &right);
				sum += dy[at] / (float)((bottom - top) * (right - left));
			}
		dx[i] = sum;
	}
}

static size_t packs_of(size_t n)
{
	return (n + V - 1) / V;
}

extern "C" cudaError_t cuda_relu(
	const struct cuda_place *place, float *y, const float *a, const float *b, size_t n)
{
	PSGD_LAUNCH(relu_kernel, cuda_grid(place, packs_of(n)), CUDA_THREADS, 0, place->stream, y,
		a, b, packs_of(n));
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_relu_back(const struct cuda_place *place, float *dx, const float *a,
	const float *b, const float *y, size_t n)
{
	PSGD_LAUNCH(relu_back_kernel, cuda_grid(place, packs_of(n)), CUDA_THREADS, 0, place->stream,
		dx, a, b, y, packs_of(n));
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_combine(const struct cuda_place *place, float *out, const float *a,
	const float *b, float scale, size_t n)
{
	PSGD_LAUNCH(combine_kernel, cuda_grid(place, packs_of(n)), CUDA_THREADS, 0, place->stream,
		out, a, b, scale, packs_of(n));
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_sgd_step(const struct cuda_place *place, struct cuda_sgd sgd,
	float *params, const float *grads, float *buffer, size_t n)
{
	PSGD_LAUNCH(sgd_kernel, cuda_grid(place, packs_of(n)), CUDA_THREADS, 0, place->stream, sgd,
		params, grads, buffer, packs_of(n));
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_to_planes(
	const struct cuda_place *place, float *to, const float *from, int n, int c, int pixels)
{
	size_t values = (size_t)n * (size_t)c * (size_t)pixels;

	PSGD_LAUNCH(to_planes_kernel, cuda_grid(place, values), CUDA_THREADS, 0, place->stream, to,
		from, (unsigned)n, (unsigned)c, (unsigned)pixels);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_from_planes(
	const struct cuda_place *place, float *to, const float *from, int n, int c, int pixels)
{
	size_t values = (size_t)n * (size_t)c * (size_t)pixels;

	PSGD_LAUNCH(from_planes_kernel, cuda_grid(place, values), CUDA_THREADS, 0, place->stream,
		to, from, (unsigned)n, (unsigned)c, (unsigned)pixels);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_fill_rows(
	const struct cuda_place *place, float *to, const float *values, int rows, int columns)
{
	PSGD_LAUNCH(fill_rows_kernel, cuda_grid(place, (size_t)rows * (size_t)columns),
		CUDA_THREADS, 0, place->stream, to, values, (unsigned)rows, (unsigned)columns);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_sum_rows(
	const struct cuda_place *place, float *sums, const float *from, int rows, int columns)
{
	PSGD_LAUNCH(sum_rows_kernel, cuda_grid(place, (size_t)columns), CUDA_THREADS, 0,
		place->stream, sums, from, rows, columns);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_pool_forward(
	const struct cuda_place *place, struct cuda_pool pool, float *y, int *best, const float *x)
{
	size_t values = (size_t)pool.planes * (size_t)(pool.out_h * pool.out_w);

	PSGD_LAUNCH(pool_kernel, cuda_grid(place, values), CUDA_THREADS, 0, place->stream, pool, y,
		best, x);
	return cudaGetLastError();
}

extern "C" cudaError_t cuda_pool_back(const struct cuda_place *place, struct cuda_pool pool,
	float *dx, const int *best, const float *dy)
{
	size_t values = (size_t)pool.planes * (size_t)(pool.h * pool.w);

	PSGD_LAUNCH(pool_back_kernel, cuda_grid(place, values), CUDA_THREADS, 0, place->stream,
		pool, dx, best, dy);
	return cudaGetLastError();
}
