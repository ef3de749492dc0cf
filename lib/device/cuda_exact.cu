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
/* Values that a thread asks the memory for before it needs the first: there is one block to hide
 * how long that takes. */
#define FLOATS 6
#define DOUBLES 3
#define MOVED 8
#define BUFFER_BYTES (2 * TOGETHER * (FLOATS * MAKERS * sizeof(float) + LANES * sizeof(double)))

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
 * SUMS sums over i < count of the values that make(i, v) puts into v: v[k] are those of value i +
 * k * MAKERS, where that is less than count. Lane l adds values l, l + LANES, ... in order, then
 * halves of the lanes are added until one is left. Two warps add while the others make the next
 * piece. All threads take part and find the sums in `out`, which is shared memory as buffer is;
 * both may be used again at once.
 */
template <typename T, int SUMS, int BATCH, typename Make>
__device__ __forceinline__ void lane_sums(T *buffer, int64_t count, Make make, T *out)
{
	const int PIECE = BATCH * MAKERS;
	const int STRIDE = PIECE + LANES; /* two sums of a warp are not in the same banks */
	const int which = (int)threadIdx.x / LANES, lane = (int)threadIdx.x % LANES;
	int turn = 0;
	T sum = 0;

	for (int64_t at = 0; at < count + PIECE; at += PIECE) {
		T *const made = buffer + turn * SUMS * STRIDE;
		const T *const ready = buffer + (1 - turn) * SUMS * STRIDE;

		if (threadIdx.x >= ADDERS) {
			const int n = (int)min((int64_t)PIECE, count - at);
			const int i = (int)threadIdx.x - ADDERS;

			if (i < n) {
				T v[BATCH][SUMS];

				make(at + i, v);
				PSGD_UNROLL
				for (int k = 0; k < BATCH; k++) {
					PSGD_UNROLL
					for (int s = 0; s < SUMS && i + k * MAKERS < n; s++)
						made[s * STRIDE + i + k * MAKERS] = v[k][s];
				}
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

/* A thread's values from i on, of those below `end`; zeros take the place of the others. */
template <int BATCH>
__device__ __forceinline__ void take(float (&v)[BATCH], const float *from, int64_t i, int64_t end)
{
	PSGD_UNROLL
	for (int k = 0; k < BATCH; k++)
		v[k] = i + k * MAKERS < end ? from[i + k * MAKERS] : 0.0f;
}

/* to = factor * from; all threads, which need not see it at once. */
static __device__ __forceinline__ void pour(
	float *to, const float *from, int64_t count, float factor)
{
	for (int64_t i = threadIdx.x; i < count; i += MOVED * THREADS) {
		float v[MOVED];

		PSGD_UNROLL
		for (int k = 0; k < MOVED; k++)
			v[k] = i + k * THREADS < count ? from[i + k * THREADS] : 0.0f;
		PSGD_UNROLL
		for (int k = 0; k < MOVED; k++) {
			if (i + k * THREADS < count)
				to[i + k * THREADS] = v[k] * factor;
		}
	}
}

/* Up to TOGETHER columns of a basis, and what of them is to be taken out of a column. */
struct parts {
	const float *basis;
	float s[TOGETHER];
	int n;
};

/* Values x of a column, less its parts, which are taken away one by one, and back with them. */
static __device__ __forceinline__ void without(
	float (&x)[FLOATS], float *col, int64_t i, int64_t rows, const struct parts &parts)
{
	float part[TOGETHER][FLOATS];

	if (!parts.n)
		return;
	PSGD_UNROLL
	for (int b = 0; b < TOGETHER; b++)
		take(part[b], parts.basis + b * rows, i, b < parts.n ? rows : 0);
	PSGD_UNROLL
	for (int k = 0; k < FLOATS; k++) {
		PSGD_UNROLL
		for (int b = 0; b < TOGETHER; b++) {
			if (b < parts.n)
				x[k] = x[k] - parts.s[b] * part[b][k];
		}
		if (i + k * MAKERS < rows)
			col[i + k * MAKERS] = x[k];
	}
}

/*
 * Takes the parts out of a column and finds its parts along the next n columns of the basis, in one
 * pass over it.
 */
static __device__ __forceinline__ void next_parts(struct space *space, float *col, int64_t rows,
	const float *basis, int n, struct parts &parts)
{
	lane_sums<float, TOGETHER, FLOATS>(
		space->buffer.floats, rows,
		[=](int64_t i, float(&v)[FLOATS][TOGETHER]) {
			float x[FLOATS], along[TOGETHER][FLOATS];

			/* All that is read comes before what is written. */
			take(x, col, i, rows);
			PSGD_UNROLL
			for (int b = 0; b < TOGETHER; b++)
				take(along[b], basis + b * rows, i, b < n ? rows : 0);
			without(x, col, i, rows, parts);
			PSGD_UNROLL
			for (int k = 0; k < FLOATS; k++) {
				PSGD_UNROLL
				for (int b = 0; b < TOGETHER; b++)
					v[k][b] = b < n ? along[b][k] * x[k] : 0.0f;
			}
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
	lane_sums<float, 1, FLOATS>(
		space->buffer.floats, rows,
		[=](int64_t i, float(&v)[FLOATS][1]) {
			float x[FLOATS];

			take(x, col, i, rows);
			without(x, col, i, rows, parts);
			PSGD_UNROLL
			for (int k = 0; k < FLOATS; k++)
				v[k][0] = x[k] * x[k];
		},
		space->sums);
	inverse = inverse_norm(space->sums[0], eps);
	pour(col, col, rows, inverse);
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
		lane_sums<double, TOGETHER, DOUBLES>(
			space->buffer.doubles, x.m,
			[=](int64_t i, double(&v)[DOUBLES][TOGETHER]) {
				PSGD_UNROLL
				for (uint32_t b = 0; b < TOGETHER; b++) {
					float y[DOUBLES];

					take(y, x.q + (c + b) * x.m, i, c + b < x.r ? x.m : 0);
					PSGD_UNROLL
					for (int k = 0; k < DOUBLES; k++)
						v[k][b] = (double)y[k] * (double)y[k];
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
	if (x.from)
		pour(x.q, x.from, x.m * x.r, 1.0f);
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

/* Shared memory of a block that adds one sum: so little that many find room. */
struct squares_space {
	double buffer[2 * (DOUBLES * MAKERS + LANES)];
	double sum;
};

static __global__ void __launch_bounds__(THREADS)
	sum_squares(const struct psgd__cuda_span *list, struct psgd__cuda_cut cut, double *out)
{
	PSGD_DYN_SHARED(struct squares_space, space);
	uint32_t tile;
	const struct psgd__cuda_span x = list[find_item(cut, &tile)];
	const int64_t from = (int64_t)tile * PSGD__CUDA_FLAT;
	const int64_t count = min((int64_t)PSGD__CUDA_FLAT, x.count - from);
	const float *const data = x.data + from;

	lane_sums<double, 1, DOUBLES>(
		space->buffer, count,
		[=](int64_t i, double(&v)[DOUBLES][1]) {
			float y[DOUBLES];

			take(y, data, i, count);
			PSGD_UNROLL
			for (int k = 0; k < DOUBLES; k++)
				v[k][0] = (double)y[k] * (double)y[k];
		},
		&space->sum);
	if (!threadIdx.x)
		out[blockIdx.x] = space->sum;
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

extern "C" cudaError_t psgd__cuda_sum_squares(const struct psgd__cuda_span *list,
	const struct psgd__cuda_cut *cut, double *out, cudaStream_t stream)
{
	PSGD_LAUNCH(sum_squares, cut->tiles, THREADS, sizeof(struct squares_space), stream, list,
		*cut, out);
	return cudaGetLastError();
}
