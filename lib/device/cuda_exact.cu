/*
 * What is a matter of order: sums over virtual lanes, and all that is made of them. The same bits
 * as cpu_plain.c. Compiled with -fmad=false: multiply and add are rounded one after the other.
 *
 * One block works on a matrix. The order of the additions leaves a chain as long as a column
 * divided by the lanes; what else there is to do goes on beside it.
 */
#include "device/cuda_draw.h"
#include "device/cuda_vector.h"

#define LANES 16   /* PSGD__LANES of base/kernels.h */
#define TOGETHER 4 /* columns of a basis that are removed from a column together */
#define DEAD_COLUMN 0.25
#define ADDERS (TOGETHER * LANES) /* threads that add; the others make products */
#define MAKERS (THREADS - ADDERS)
#define BUFFER_BYTES (2 * TOGETHER * (4096 + LANES * sizeof(double)))

/* Shared memory of a block. */
struct space {
	union {
		float floats[BUFFER_BYTES / sizeof(float)];
		double doubles[BUFFER_BYTES / sizeof(double)];
	} buffer;
	float sums[TOGETHER];
	double energies[TOGETHER];
};

/*
 * SUMS sums over i < count of the values that make(i, v) puts into v. Lane l adds values l, l +
 * LANES, ... in order, then halves of the lanes are added until one is left. Two warps add while
 * the others make the next piece. All threads take part and find the sums in `out`, which is shared
 * memory as buffer is; both may be used again at once.
 */
template <typename T, int SUMS, typename Make>
__device__ __forceinline__ void lane_sums(T *buffer, int64_t count, Make make, T *out)
{
	const int PIECE = 4096 / sizeof(T);
	const int STRIDE = PIECE + LANES; /* two sums of a warp are not in the same banks */
	const int which = (int)threadIdx.x / LANES, lane = (int)threadIdx.x % LANES;
	int turn = 0;
	T sum = 0;

	for (int64_t at = 0; at < count + PIECE; at += PIECE) {
		T *const made = buffer + turn * SUMS * STRIDE;
		const T *const ready = buffer + (1 - turn) * SUMS * STRIDE;

		if (threadIdx.x >= ADDERS) {
			const int n = (int)min((int64_t)PIECE, count - at);

			for (int i = (int)threadIdx.x - ADDERS; i < n; i += MAKERS) {
				T v[SUMS];

				make(at + i, v);
				PSGD_UNROLL
				for (int s = 0; s < SUMS; s++)
					made[s * STRIDE + i] = v[s];
			}
		} else if (at && which < SUMS) {
			const int n = (int)min((int64_t)PIECE, count - (at - PIECE));

			PSGD_UNROLL_BY_8
			for (int i = lane; i < n; i += LANES)
				sum = sum + ready[which * STRIDE + i];
		}
		__syncthreads();
		turn = 1 - turn;
	}
	if (threadIdx.x < ADDERS) {
		PSGD_UNROLL
		for (int width = LANES / 2; width; width /= 2)
			sum = sum + __shfl_xor_sync(ALL_LANES, sum, width);
		if (which < SUMS && !lane)
			out[which] = sum;
	}
	__syncthreads();
}

/* Up to TOGETHER columns of a basis, and what of them is to be taken out of a column. */
struct parts {
	const float *basis;
	float s[TOGETHER];
	int n;
};

/* A value of a column, and back with it, less its parts; they are taken away one by one. */
static __device__ __forceinline__ float without(
	float *col, int64_t i, int64_t rows, const struct parts &parts)
{
	float x = col[i];

	if (!parts.n)
		return x;
	PSGD_UNROLL
	for (int b = 0; b < TOGETHER; b++) {
		if (b < parts.n)
			x = x - parts.s[b] * parts.basis[b * rows + i];
	}
	col[i] = x;
	return x;
}

/*
 * Takes the parts out of a column and finds its parts along the next n columns of the basis, in one
 * pass over it.
 */
static __device__ __forceinline__ void next_parts(struct space *space, float *col, int64_t rows,
	const float *basis, int n, struct parts &parts)
{
	lane_sums<float, TOGETHER>(
		space->buffer.floats, rows,
		[=](int64_t i, float *v) {
			const float x = without(col, i, rows, parts);

			PSGD_UNROLL
			for (int b = 0; b < TOGETHER; b++)
				v[b] = b < n ? basis[b * rows + i] * x : 0.0f;
		},
		space->sums);
	parts.basis = basis;
	parts.n = n;
	PSGD_UNROLL
	for (int b = 0; b < TOGETHER; b++)
		parts.s[b] = space->sums[b];
}

/* As psgd__inverse_norm of cpu_plain.c. */
static __device__ __forceinline__ float inverse_norm(float squares, float eps)
{
	const float inverse = __fdiv_rn(1.0f, __fadd_rn(__fsqrt_rn(squares), eps));

	return (__float_as_uint(inverse) & 0x7f800000u) == 0x7f800000u ? 0.0f : inverse;
}

static __device__ __forceinline__ void orthonormalize_column(
	struct space *space, float *data, int64_t rows, uint32_t c, float eps)
{
	float *col = data + c * rows, inverse;
	struct parts parts = {};

	for (int pass = 0; pass < 2; pass++) {
		for (uint32_t b = 0; b < c; b += TOGETHER)
			next_parts(space, col, rows, data + b * rows,
				(int)min(c - b, (uint32_t)TOGETHER), parts);
	}
	lane_sums<float, 1>(
		space->buffer.floats, rows,
		[=](int64_t i, float *v) {
			const float x = without(col, i, rows, parts);

			v[0] = x * x;
		},
		space->sums);
	inverse = inverse_norm(space->sums[0], eps);
	for (int64_t i = threadIdx.x; i < rows; i += THREADS)
		col[i] = col[i] * inverse;
	/* The next column reads this one. */
	__syncthreads();
}

static __device__ void orthonormalize_panel(
	struct space *space, float *data, int64_t rows, uint32_t cols, float eps)
{
	for (uint32_t c = 0; c < cols; c++)
		orthonormalize_column(space, data, rows, c, eps);
}

static __device__ void draw_column(
	const struct psgd__cuda_start &x, uint32_t c, uint32_t draw, uint64_t seed)
{
	for (int64_t i = threadIdx.x; i < x.m; i += THREADS)
		x.q[c * x.m + i] = drawn(seed, (uint32_t)i, c, x.tensor, draw);
}

/* Draws the columns that carry nothing; true if there were any. Alike for all threads. */
static __device__ bool redraw_columns(
	struct space *space, const struct psgd__cuda_start &x, uint64_t seed)
{
	bool any = false;

	for (uint32_t c = 0; c < x.r; c += TOGETHER) {
		lane_sums<double, TOGETHER>(
			space->buffer.doubles, x.m,
			[=](int64_t i, double *v) {
				PSGD_UNROLL
				for (uint32_t b = 0; b < TOGETHER; b++) {
					const double y =
						c + b < x.r ? (double)x.q[(c + b) * x.m + i] : 0.0;

					v[b] = y * y;
				}
			},
			space->energies);
		for (uint32_t b = 0; b < TOGETHER && c + b < x.r; b++) {
			if (space->energies[b] >= DEAD_COLUMN)
				continue;
			draw_column(x, c + b, x.redraw, seed);
			any = true;
		}
	}
	return any;
}

static __global__ void __launch_bounds__(THREADS)
	start_panels(const struct psgd__cuda_start *list, uint64_t seed, float eps)
{
	PSGD_DYN_SHARED(struct space, space);
	const struct psgd__cuda_start x = list[blockIdx.x];

	for (uint32_t c = 0; c < x.r && !x.from; c++)
		draw_column(x, c, x.draw, seed);
	for (int64_t i = threadIdx.x; i < x.m * x.r && x.from; i += THREADS)
		x.q[i] = x.from[i];
	/* What follows goes over the columns with other threads for the same values. */
	__syncthreads();
	orthonormalize_panel(space, x.q, x.m, x.r, eps);
	if (!redraw_columns(space, x, seed))
		return;
	__syncthreads();
	orthonormalize_panel(space, x.q, x.m, x.r, 0.0f);
}

static __global__ void __launch_bounds__(THREADS)
	orthonormalize(const struct psgd__cuda_panel *list, float eps)
{
	PSGD_DYN_SHARED(struct space, space);
	const struct psgd__cuda_panel x = list[blockIdx.x];

	orthonormalize_panel(space, x.data, x.rows, x.cols, eps);
}

static __global__ void __launch_bounds__(THREADS)
	sum_squares(const struct psgd__cuda_span *list, double *out)
{
	PSGD_DYN_SHARED(struct space, space);
	const struct psgd__cuda_span x = list[blockIdx.x];

	lane_sums<double, 1>(
		space->buffer.doubles, x.count,
		[=](int64_t i, double *v) { v[0] = (double)x.data[i] * (double)x.data[i]; },
		space->energies);
	if (!threadIdx.x)
		out[blockIdx.x] = space->energies[0];
}

extern "C" cudaError_t psgd__cuda_start(const struct psgd__cuda_start *list, uint32_t count,
	uint64_t seed, float eps, cudaStream_t stream)
{
	PSGD_LAUNCH(start_panels, count, THREADS, sizeof(struct space), stream, list, seed, eps);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_orthonormalize(
	const struct psgd__cuda_panel *list, uint32_t count, float eps, cudaStream_t stream)
{
	PSGD_LAUNCH(orthonormalize, count, THREADS, sizeof(struct space), stream, list, eps);
	return cudaGetLastError();
}

extern "C" cudaError_t psgd__cuda_sum_squares(
	const struct psgd__cuda_span *list, uint32_t count, double *out, cudaStream_t stream)
{
	PSGD_LAUNCH(sum_squares, count, THREADS, sizeof(struct space), stream, list, out);
	return cudaGetLastError();
}
