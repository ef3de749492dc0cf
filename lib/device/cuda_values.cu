/*
 * What is done value by value: the last pass of a round, and the small kernels. The same bits as
 * cpu_plain.c and cpu_simple.c. Compiled with -fmad=false: multiply and add are rounded one after
 * the other.
 */
#include "device/cuda_draw.h"
#include "device/cuda_vector.h"

#define FINISH_PER_WARP (PSGD__CUDA_FINISH_ROWS / WARPS)
#define GATHER_VALUES 1024 /* of a block */

static __device__ __forceinline__ float not_a_number()
{
	return __uint_as_float(0x7fc00000u);
}

/* Pieces of up to this many columns of p and q are in shared memory at a time. */
#define PIECE_COLS PSGD__CUDA_MOST_COLS

/* p q^T of a tile, each warp its rows; columns in their order. q is scaled on its way, and kept. */
template <bool VECTORS>
__device__ __forceinline__ void multiply(float (&sum)[FINISH_PER_WARP][QUAD],
	const struct psgd__cuda_matrix &x, float *p, float *q, float mean, int64_t i, int64_t j)
{
	for (uint32_t c = 0; c < x.r; c += PIECE_COLS) {
		const uint32_t cols = min(x.r - c, (uint32_t)PIECE_COLS);

		if (c)
			__syncthreads();
		stage<PSGD__CUDA_FINISH_ROWS>(p, x.p + c * x.n, x.n, i, cols, cols, 1.0f);
		stage<STRIP>(q, x.q + c * x.m, x.m, j, cols, cols, mean);
		__syncthreads();
		for (uint32_t k = 0; k < cols; k++) {
			const float *v =
				p + k * PSGD__CUDA_FINISH_ROWS + warp_id() * FINISH_PER_WARP;
			float w[QUAD];

			load<VECTORS>(w, q + k * STRIP, STRIP);
			PSGD_UNROLL
			for (int a = 0; a < FINISH_PER_WARP; a++) {
				PSGD_UNROLL
				for (int l = 0; l < QUAD; l++)
					sum[a][l] = sum[a][l] + v[a] * w[l];
			}
		}
		/* The tiles of the first rows have all of q between them. */
		if (!x.keep || i)
			continue;
		for (uint32_t k = (uint32_t)warp_id(); k < cols; k += WARPS) {
			float w[QUAD];

			load<false>(w, q + k * STRIP, STRIP);
			store<false>(x.keep + (c + k) * x.m + j, w, x.m - j);
		}
	}
}

/* g := p q^T, e := what g loses by it. */
template <bool VECTORS>
__device__ __forceinline__ void finish_tile(const struct psgd__cuda_matrix &x, float *p, float *q,
	float mean, bool bad, int64_t from, int64_t j)
{
	const int64_t i = from + warp_id() * FINISH_PER_WARP;
	float sum[FINISH_PER_WARP][QUAD] = {}, v[FINISH_PER_WARP][QUAD];

	/* Loads are under way while p and q are brought. */
	PSGD_UNROLL
	for (int a = 0; a < FINISH_PER_WARP; a++) {
		const int64_t left = x.e && !bad && i + a < x.n ? x.m - j : 0;

		load<VECTORS>(v[a], x.g + (i + a) * x.m + j, left);
		PSGD_TOUCH(matrices, present<VECTORS>(left) * sizeof(float));
	}
	if (!bad)
		multiply<VECTORS>(sum, x, p, q, mean, from, j);
	PSGD_UNROLL
	for (int a = 0; a < FINISH_PER_WARP; a++) {
		const int64_t left = i + a < x.n ? x.m - j : 0;

		PSGD_UNROLL
		for (int k = 0; k < QUAD; k++) {
			v[a][k] = v[a][k] - sum[a][k];
			sum[a][k] = bad ? not_a_number() : sum[a][k];
		}
		if (x.e && !bad)
			store<VECTORS>(x.e + (i + a) * x.m + j, v[a], left);
		store<VECTORS>(x.g + (i + a) * x.m + j, sum[a], left);
		PSGD_TOUCH(
			matrices, present<VECTORS>(left) * (x.e && !bad ? 2 : 1) * sizeof(float));
	}
}

/*
 * A matrix that was not compressed. With a message: g := its mean, and nothing is left behind;
 * without one, the product of no columns: all is left behind.
 */
template <bool VECTORS>
__device__ __forceinline__ void finish_flat(
	const struct psgd__cuda_matrix &x, float mean, bool bad, uint32_t tile)
{
	const int STRIPS = 4; /* in flight */
	const int64_t count = x.n * x.m;
	const int64_t end = min(count, ((int64_t)tile + 1) * PSGD__CUDA_FLAT);
	const float *from = x.p ? x.p : x.g;
	const bool read = !bad && (x.p || x.e);

	for (int64_t at = (int64_t)tile * PSGD__CUDA_FLAT + warp_id() * STRIPS * STRIP; at < end;
		at += WARPS * STRIPS * STRIP) {
		float v[STRIPS][QUAD], rest[STRIPS][QUAD];

		PSGD_UNROLL
		for (int a = 0; a < STRIPS; a++)
			load<VECTORS>(
				v[a], from + at + a * STRIP, read ? count - at - a * STRIP : 0);
		PSGD_UNROLL
		for (int a = 0; a < STRIPS; a++) {
			const int64_t left = count - at - a * STRIP;

			PSGD_UNROLL
			for (int k = 0; k < QUAD; k++) {
				rest[a][k] = x.p ? 0.0f : v[a][k];
				v[a][k] = bad ? not_a_number() : x.p ? mean * v[a][k] : 0.0f;
			}
			if (x.e && !bad)
				store<VECTORS>(x.e + at + a * STRIP, rest[a], left);
			store<VECTORS>(x.g + at + a * STRIP, v[a], left);
		}
	}
}

static __global__ void __launch_bounds__(THREADS) finish(const struct psgd__cuda_matrix *list,
	struct psgd__cuda_cut cut, float mean, const uint32_t *flag)
{
	PSGD_DYN_SHARED(float, piece);
	uint32_t tile;
	const struct psgd__cuda_matrix x = list[find_item(cut, &tile)];
	const bool bad = flag && *flag;
	int64_t i, j;
	float *q = piece + PIECE_COLS * PSGD__CUDA_FINISH_ROWS;

	if (!x.rows) {
		if (x.vectors)
			finish_flat<true>(x, mean, bad, tile);
		else
			finish_flat<false>(x, mean, bad, tile);
		return;
	}
	i = (int64_t)(tile / x.across) * x.rows;
	j = (int64_t)(tile % x.across) * STRIP;
	if (x.vectors)
		finish_tile<true>(x, piece, q, mean, bad, i, j);
	else
		finish_tile<false>(x, piece, q, mean, bad, i, j);
}

/* An exponent of all ones is infinity or NaN. */
template <bool VECTORS>
__device__ __forceinline__ bool tile_has_bad(const struct psgd__cuda_span &x, uint32_t tile)
{
	const int64_t end = min(x.count, ((int64_t)tile + 1) * PSGD__CUDA_FLAT);
	uint32_t carry = 0;

	PSGD_UNROLL_BY_8
	for (int64_t at = (int64_t)tile * PSGD__CUDA_FLAT + warp_id() * STRIP; at < end;
		at += WARPS * STRIP) {
		float v[QUAD];

		load<VECTORS>(v, x.data + at, x.count - at);
		PSGD_UNROLL
		for (int k = 0; k < QUAD; k++)
			carry |= (__float_as_uint(v[k]) & 0x7f800000u) + 0x00800000u;
	}
	return carry >> 31;
}

static __global__ void __launch_bounds__(THREADS)
	find_bad(const struct psgd__cuda_span *list, struct psgd__cuda_cut cut, uint32_t *flag)
{
	uint32_t tile;
	const struct psgd__cuda_span x = list[find_item(cut, &tile)];
	const bool vectors = (uintptr_t)x.data % sizeof(float4) == 0;
	const bool bad = vectors ? tile_has_bad<true>(x, tile) : tile_has_bad<false>(x, tile);

	if (__any_sync(ALL_LANES, bad) && !lane_id())
		atomicOr(flag, 1u);
}

template <bool VECTORS>
__device__ __forceinline__ void axpby_values(
	int64_t count, float a, const float *x, float b, float *y)
{
	const int64_t step = (int64_t)gridDim.x * WARPS * STRIP;

	for (int64_t at = ((int64_t)blockIdx.x * WARPS + warp_id()) * STRIP; at < count;
		at += step) {
		float v[QUAD], u[QUAD] = {};

		load<VECTORS>(v, x + at, count - at);
		if (b != 0.0f)
			load<VECTORS>(u, y + at, count - at);
		PSGD_UNROLL
		for (int k = 0; k < QUAD; k++)
			v[k] = b != 0.0f ? a * v[k] + b * u[k] : a * v[k];
		store<VECTORS>(y + at, v, count - at);
	}
}

static __global__ void __launch_bounds__(THREADS)
	axpby(int64_t count, float a, const float *x, float b, float *y, uint32_t vectors)
{
	if (vectors)
		axpby_values<true>(count, a, x, b, y);
	else
		axpby_values<false>(count, a, x, b, y);
}

template <bool VECTORS>
__device__ __forceinline__ void add_values(const struct psgd__cuda_addend &x, uint32_t tile)
{
	const int STRIPS = 4; /* in flight */
	const int64_t end = min(x.count, ((int64_t)tile + 1) * PSGD__CUDA_FLAT);

	for (int64_t at = (int64_t)tile * PSGD__CUDA_FLAT + warp_id() * STRIPS * STRIP; at < end;
		at += WARPS * STRIPS * STRIP) {
		float v[STRIPS][QUAD], u[STRIPS][QUAD];

		PSGD_UNROLL
		for (int a = 0; a < STRIPS; a++) {
			load<VECTORS>(v[a], x.from + at + a * STRIP, x.count - at - a * STRIP);
			load<VECTORS>(u[a], x.to + at + a * STRIP, x.count - at - a * STRIP);
		}
		PSGD_UNROLL
		for (int a = 0; a < STRIPS; a++) {
			PSGD_UNROLL
			for (int k = 0; k < QUAD; k++)
				v[a][k] = v[a][k] + u[a][k];
			store<VECTORS>(x.to + at + a * STRIP, v[a], x.count - at - a * STRIP);
		}
	}
}

static __global__ void __launch_bounds__(THREADS)
	accumulate(const struct psgd__cuda_addend *list, struct psgd__cuda_cut cut)
{
	uint32_t tile;
	const struct psgd__cuda_addend x = list[find_item(cut, &tile)];

	if (x.vectors)
		add_values<true>(x, tile);
	else
		add_values<false>(x, tile);
}

static __global__ void __launch_bounds__(THREADS)
	fill(const struct psgd__cuda_fill *list, struct psgd__cuda_cut cut, uint64_t seed)
{
	uint32_t tile;
	const struct psgd__cuda_fill x = list[find_item(cut, &tile)];
	const int64_t end = min(x.rows * x.cols, ((int64_t)tile + 1) * PSGD__CUDA_FLAT);

	for (int64_t at = (int64_t)tile * PSGD__CUDA_FLAT + threadIdx.x; at < end; at += THREADS)
		x.data[at] = drawn(seed, (uint32_t)(at % x.rows),
			x.first_col + (uint32_t)(at / x.rows), x.tensor, x.draw);
}

static __global__ void __launch_bounds__(THREADS)
	gather(const float *from, int64_t stride, int64_t count, float *to)
{
	const int64_t end = min(count, ((int64_t)blockIdx.x + 1) * GATHER_VALUES);

	for (int64_t i = (int64_t)blockIdx.x * GATHER_VALUES + threadIdx.x; i < end; i += THREADS)
		to[i] = from[i * stride];
}

extern "C" cudaError_t psgd__cuda_finish(const struct psgd__cuda_matrix *list,
	const struct psgd__cuda_cut *cut, float mean, const uint32_t *bad, cudaStream_t stream)
{
	const size_t shared = PIECE_COLS * (PSGD__CUDA_FINISH_ROWS + STRIP) * sizeof(float);

	PSGD_LAUNCH(finish, cut->tiles, THREADS, shared, stream, list, *cut, mean, bad);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_finite(const struct psgd__cuda_span *list,
	const struct psgd__cuda_cut *cut, uint32_t *bad, cudaStream_t stream)
{
	PSGD_LAUNCH(find_bad, cut->tiles, THREADS, 0, stream, list, *cut, bad);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_axpby(int64_t count, float a, const float *x, float b, float *y,
	uint32_t vectors, cudaStream_t stream)
{
	const int64_t blocks = (count + PSGD__CUDA_FLAT - 1) / PSGD__CUDA_FLAT;
	const unsigned int grid = (unsigned int)(blocks < INT32_MAX ? blocks : INT32_MAX);

	PSGD_LAUNCH(axpby, grid, THREADS, 0, stream, count, a, x, b, y, vectors);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_accumulate(
	const struct psgd__cuda_addend *list, const struct psgd__cuda_cut *cut, cudaStream_t stream)
{
	PSGD_LAUNCH(accumulate, cut->tiles, THREADS, 0, stream, list, *cut);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_fill(const struct psgd__cuda_fill *list,
	const struct psgd__cuda_cut *cut, uint64_t seed, cudaStream_t stream)
{
	PSGD_LAUNCH(fill, cut->tiles, THREADS, 0, stream, list, *cut, seed);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_gather(
	const float *from, int64_t stride, int64_t count, float *to, cudaStream_t stream)
{
	const int64_t blocks = (count + GATHER_VALUES - 1) / GATHER_VALUES;

	PSGD_LAUNCH(gather, (unsigned int)blocks, THREADS, 0, stream, from, stride, count, to);
	return cudaGetLastError();
}
