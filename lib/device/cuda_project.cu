/*
 * The passes before an all-reduce: P = g Q while g += e, and Q = g^T P. g is read once for up to
 * PSGD__CUDA_MOST_COLS columns. Sums of one tile are complete in a block; where a matrix has
 * several tiles along the sum, they go to memory and a second launch adds them in the order of the
 * tiles. So results depend on shapes alone, though they are not the CPU's bits.
 *
 * COLS is a power of two that is at least every r: columns beyond a matrix's own are zeros, which
 * costs arithmetic that a pass over memory has to spare.
 */
#include "device/cuda_vector.h"

/* Rows of g that a warp takes at a time: with COLS, as many sums as there are registers for. */
template <int COLS> struct shape {
	static const int ROWS = COLS <= 8 ? 4 : 2;
};

/*
 * Exchanges half of the values that are left with the lane beyond `bit`; the upper lane keeps the
 * upper half. HALF 0: one is left, and both lanes get its sum.
 */
template <int HALF, int N> __device__ __forceinline__ int exchange_half(float (&v)[N], int bit)
{
	const bool upper = lane_id() & bit;

	if (!HALF)
		v[0] += __shfl_xor_sync(ALL_LANES, v[0], bit);
	PSGD_UNROLL
	for (int k = 0; k < HALF; k++) {
		const float mine = upper ? v[k + HALF] : v[k];
		const float other = upper ? v[k] : v[k + HALF];

		v[k] = mine + __shfl_xor_sync(ALL_LANES, other, bit);
	}
	return upper ? HALF : 0;
}

/*
 * Sums of each of N values over the lanes, N a power of two from 16 on. Afterwards a lane has v[0]
 * and what follows, N / 32 of them, the sums of the values from the returned index on.
 */
template <int N> __device__ __forceinline__ int warp_sums(float (&v)[N])
{
	int index = exchange_half<N / 2>(v, 16);

	index += exchange_half<N / 4>(v, 8);
	index += exchange_half<N / 8>(v, 4);
	index += exchange_half<N / 16>(v, 2);
	return index + exchange_half<N / 32>(v, 1);
}

/* Strips of a few rows of g (+ e) into registers; the sum goes back to g. */
template <int ROWS, bool VECTORS>
__device__ __forceinline__ void absorb_rows(float (&v)[ROWS][QUAD],
	const struct psgd__cuda_matrix &x, int64_t at, int rows, int64_t stride, int64_t left)
{
	PSGD_UNROLL
	for (int a = 0; a < ROWS; a++) {
		load<VECTORS>(v[a], x.g + at + a * stride, a < rows ? left : 0);
		PSGD_TOUCH(matrices, present<VECTORS>(a < rows ? left : 0) * sizeof(float));
	}
	if (x.e) {
		float u[ROWS][QUAD];

		PSGD_UNROLL
		for (int a = 0; a < ROWS; a++)
			load<VECTORS>(u[a], x.e + at + a * stride, a < rows ? left : 0);
		PSGD_UNROLL
		for (int a = 0; a < ROWS; a++) {
			PSGD_UNROLL
			for (int k = 0; k < QUAD; k++)
				v[a][k] = v[a][k] + u[a][k];
			store<VECTORS>(x.g + at + a * stride, v[a], a < rows ? left : 0);
			PSGD_TOUCH(matrices,
				present<VECTORS>(a < rows ? left : 0) * 2 * sizeof(float));
		}
	}
}

/* Of a matrix that is not projected: g += e; p = g if there is a p. */
template <bool VECTORS>
__device__ __forceinline__ void absorb_flat(const struct psgd__cuda_matrix &x, uint32_t tile)
{
	const int STRIPS = 4; /* in flight */
	const int64_t from = (int64_t)tile * PSGD__CUDA_FLAT + warp_id() * STRIPS * STRIP;
	const int64_t count = x.n * x.m;

	for (int64_t at = from; at < min(count, ((int64_t)tile + 1) * PSGD__CUDA_FLAT);
		at += WARPS * STRIPS * STRIP) {
		float v[STRIPS][QUAD];

		/* Strips as rows, of which the last may be short. */
		PSGD_UNROLL
		for (int a = 0; a < STRIPS; a++)
			load<VECTORS>(v[a], x.g + at + a * STRIP, count - at - a * STRIP);
		if (x.e) {
			float u[STRIPS][QUAD];

			PSGD_UNROLL
			for (int a = 0; a < STRIPS; a++)
				load<VECTORS>(u[a], x.e + at + a * STRIP, count - at - a * STRIP);
			PSGD_UNROLL
			for (int a = 0; a < STRIPS; a++) {
				PSGD_UNROLL
				for (int k = 0; k < QUAD; k++)
					v[a][k] = v[a][k] + u[a][k];
				store<VECTORS>(x.g + at + a * STRIP, v[a], count - at - a * STRIP);
			}
		}
		if (!x.p)
			continue;
		PSGD_UNROLL
		for (int a = 0; a < STRIPS; a++)
			store<VECTORS>(x.p + at + a * STRIP, v[a], count - at - a * STRIP);
	}
}

/* A few rows of a tile against the piece of q; one warp. */
template <int COLS, bool VECTORS>
__device__ __forceinline__ void project_rows(const struct psgd__cuda_matrix &x, const float *piece,
	int64_t i, int rows, int64_t j, int64_t width, float *to)
{
	const int ROWS = shape<COLS>::ROWS;
	/* Of fewer sums than lanes, two lanes have each. */
	const bool twin = ROWS * COLS < WARP && lane_id() % 2;
	float sum[ROWS * COLS] = {};
	int index;

	for (int64_t at = 0; at < width; at += STRIP) {
		float v[ROWS][QUAD];

		absorb_rows<ROWS, VECTORS>(v, x, i * x.m + j + at, rows, x.m, width - at);
		PSGD_UNROLL
		for (int c = 0; c < COLS; c++) {
			float w[QUAD];

			load<VECTORS>(w, piece + c * PSGD__CUDA_PROJECT_COLS + at, STRIP);
			PSGD_UNROLL
			for (int a = 0; a < ROWS; a++) {
				PSGD_UNROLL
				for (int k = 0; k < QUAD; k++)
					sum[a * COLS + c] += v[a][k] * w[k];
			}
		}
	}
	index = warp_sums(sum);
	PSGD_UNROLL
	for (int k = 0; k < (ROWS * COLS + WARP - 1) / WARP; k++) {
		const int a = (index + k) / COLS, c = (index + k) % COLS;

		if (a < rows && c < (int)x.r && !twin) {
			to[c * x.n + i + a] = sum[k];
			PSGD_TOUCH(sums, sizeof(float));
		}
	}
}

template <int COLS, bool VECTORS>
__device__ __forceinline__ void project_tile(
	const struct psgd__cuda_matrix &x, const float *piece, int64_t from, int64_t j, float *to)
{
	const int ROWS = shape<COLS>::ROWS;
	const int64_t end = min(x.n, from + x.rows);

	for (int64_t i = from + warp_id() * ROWS; i < end; i += WARPS * ROWS)
		project_rows<COLS, VECTORS>(x, piece, i, (int)min((int64_t)ROWS, end - i), j,
			min((int64_t)PSGD__CUDA_PROJECT_COLS, x.m - j), to);
}

/* Two blocks to a multiprocessor, so that one loads while the other sums. */
template <int COLS>
__global__ void __launch_bounds__(THREADS, 2)
	project(const struct psgd__cuda_matrix *list, struct psgd__cuda_cut cut)
{
	PSGD_DYN_SHARED(float, piece);
	uint32_t tile;
	const struct psgd__cuda_matrix x = list[find_item(cut, &tile)];
	int64_t i, j;
	float *to;

	if (!x.rows) {
		if (x.vectors)
			absorb_flat<true>(x, tile);
		else
			absorb_flat<false>(x, tile);
		return;
	}
	i = (int64_t)(tile / x.across) * x.rows;
	j = (int64_t)(tile % x.across) * PSGD__CUDA_PROJECT_COLS;
	to = x.sums + (tile % x.across) * x.n * x.r;
	stage<PSGD__CUDA_PROJECT_COLS>(piece, x.q, x.m, j, x.r, COLS, 1.0f);
	__syncthreads();
	if (x.vectors)
		project_tile<COLS, true>(x, piece, i, j, to);
	else
		project_tile<COLS, false>(x, piece, i, j, to);
}

/* Values of p that a warp multiplies: its eight rows of a column. */
#define BACK_PER_WARP (PSGD__CUDA_BACK_ROWS / WARPS)
#define BACK_TURN 8 /* columns whose sums warps exchange at a time */

/* A strip of g^T p over the rows of a tile, each warp its share of them. */
template <int COLS, bool VECTORS>
__device__ __forceinline__ void back_sums(float (&sum)[COLS][QUAD],
	const struct psgd__cuda_matrix &x, float *piece, int64_t from, int64_t j)
{
	const int64_t end = min(x.n, from + x.rows);

	for (int64_t at = from; at < end; at += PSGD__CUDA_BACK_ROWS) {
		const int64_t i = at + warp_id() * BACK_PER_WARP;
		float v[BACK_PER_WARP][QUAD];

		/* Loads are under way while p is brought. */
		PSGD_UNROLL
		for (int a = 0; a < BACK_PER_WARP; a++) {
			load<VECTORS>(v[a], x.g + (i + a) * x.m + j, i + a < end ? x.m - j : 0);
			PSGD_TOUCH(matrices,
				present<VECTORS>(i + a < end ? x.m - j : 0) * sizeof(float));
		}
		if (at > from)
			__syncthreads();
		stage<PSGD__CUDA_BACK_ROWS>(piece, x.p, x.n, at, x.r, COLS, 1.0f);
		__syncthreads();
		PSGD_UNROLL
		for (int c = 0; c < COLS; c++) {
			const float *p =
				piece + c * PSGD__CUDA_BACK_ROWS + warp_id() * BACK_PER_WARP;

			PSGD_UNROLL
			for (int a = 0; a < BACK_PER_WARP; a++) {
				PSGD_UNROLL
				for (int k = 0; k < QUAD; k++)
					sum[c][k] += v[a][k] * p[a];
			}
		}
	}
}

/* Adds up what the warps have, in their order, some columns at a time. */
template <int COLS, bool VECTORS>
__device__ __forceinline__ void back_gather(const float (&sum)[COLS][QUAD],
	const struct psgd__cuda_matrix &x, float *board, int64_t j, float *to)
{
	const int TURN = COLS < BACK_TURN ? COLS : BACK_TURN;

	PSGD_UNROLL
	for (int c = 0; c < COLS; c += TURN) {
		if (c)
			__syncthreads();
		PSGD_UNROLL
		for (int k = 0; k < TURN; k++)
			store<VECTORS>(board + (warp_id() * TURN + k) * STRIP, sum[c + k], STRIP);
		__syncthreads();
		for (int s = (int)threadIdx.x; s < TURN * STRIP; s += THREADS) {
			const int col = c + s / STRIP;
			const int64_t row = j + s % STRIP;
			float all = board[s];

			PSGD_UNROLL
			for (int w = 1; w < WARPS; w++)
				all += board[w * TURN * STRIP + s];
			if (col < (int)x.r && row < x.m) {
				to[col * x.m + row] = all;
				PSGD_TOUCH(sums, sizeof(float));
			}
		}
	}
}

template <int COLS, bool VECTORS>
__device__ __forceinline__ void back_tile(
	const struct psgd__cuda_matrix &x, float *piece, int64_t i, int64_t j, float *to)
{
	float sum[COLS][QUAD] = {};

	back_sums<COLS, VECTORS>(sum, x, piece, i, j);
	back_gather<COLS, VECTORS>(sum, x, piece + COLS * PSGD__CUDA_BACK_ROWS, j, to);
}

template <int COLS>
__global__ void __launch_bounds__(THREADS)
	back_project(const struct psgd__cuda_matrix *list, struct psgd__cuda_cut cut)
{
	PSGD_DYN_SHARED(float, piece);
	uint32_t tile;
	const struct psgd__cuda_matrix x = list[find_item(cut, &tile)];
	const int64_t i = (int64_t)(tile / x.across) * x.rows;
	const int64_t j = (int64_t)(tile % x.across) * STRIP;
	float *to = x.sums + (tile / x.across) * x.m * x.r;

	if (x.vectors)
		back_tile<COLS, true>(x, piece, i, j, to);
	else
		back_tile<COLS, false>(x, piece, i, j, to);
}

/* Each warp adds every eighth term of the same values, then the first adds what they have. */
static __global__ void __launch_bounds__(THREADS)
	add_sums(const struct psgd__cuda_sum *list, struct psgd__cuda_cut cut)
{
	PSGD_DYN_SHARED(float, board);
	uint32_t tile;
	const struct psgd__cuda_sum x = list[find_item(cut, &tile)];
	const int64_t at = (int64_t)tile * PSGD__CUDA_SUM_VALUES + lane_id();
	float sum = 0.0f;

	if (at < x.count) {
		PSGD_UNROLL_BY_8
		for (uint32_t k = (uint32_t)warp_id(); k < x.terms; k += WARPS) {
			sum += x.from[k * x.count + at];
			PSGD_TOUCH(sums, sizeof(float));
		}
	}
	board[threadIdx.x] = sum;
	__syncthreads();
	if (warp_id() || at >= x.count)
		return;
	PSGD_UNROLL
	for (int w = 1; w < WARPS; w++)
		sum += board[w * WARP + lane_id()];
	x.to[at] = sum;
	PSGD_TOUCH(factors, sizeof(float));
}

template <int COLS>
static cudaError_t launch_project(
	const struct psgd__cuda_matrix *list, const struct psgd__cuda_cut *cut, cudaStream_t stream)
{
	const size_t shared = COLS * PSGD__CUDA_PROJECT_COLS * sizeof(float);

	PSGD_LAUNCH((project<COLS>), cut->tiles, THREADS, shared, stream, list, *cut);
	return cudaGetLastError();
}

template <int COLS>
static cudaError_t launch_back(
	const struct psgd__cuda_matrix *list, const struct psgd__cuda_cut *cut, cudaStream_t stream)
{
	const int turn = COLS < BACK_TURN ? COLS : BACK_TURN;
	const size_t shared = (COLS * PSGD__CUDA_BACK_ROWS + WARPS * turn * STRIP) * sizeof(float);

	PSGD_LAUNCH((back_project<COLS>), cut->tiles, THREADS, shared, stream, list, *cut);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_project(const struct psgd__cuda_matrix *list,
	const struct psgd__cuda_cut *cut, uint32_t cols, cudaStream_t stream)
{
	if (cols <= 4)
		return launch_project<4>(list, cut, stream);
	if (cols <= 8)
		return launch_project<8>(list, cut, stream);
	if (cols <= 16)
		return launch_project<16>(list, cut, stream);
	return launch_project<PSGD__CUDA_MOST_COLS>(list, cut, stream);
}

extern "C" cudaError_t psgd__cuda_back_project(const struct psgd__cuda_matrix *list,
	const struct psgd__cuda_cut *cut, uint32_t cols, cudaStream_t stream)
{
	if (cols <= 4)
		return launch_back<4>(list, cut, stream);
	if (cols <= 8)
		return launch_back<8>(list, cut, stream);
	if (cols <= 16)
		return launch_back<16>(list, cut, stream);
	return launch_back<PSGD__CUDA_MOST_COLS>(list, cut, stream);
}

extern "C" cudaError_t psgd__cuda_sum(
	const struct psgd__cuda_sum *list, const struct psgd__cuda_cut *cut, cudaStream_t stream)
{
	PSGD_LAUNCH(add_sums, cut->tiles, THREADS, THREADS * sizeof(float), stream, list, *cut);
	return cudaGetLastError();
}
