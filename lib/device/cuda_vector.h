/* What kernels share: finding the tile of a block, four values to a lane, pieces of panels. */
#ifndef PSGD_DEVICE_CUDA_VECTOR_H
#define PSGD_DEVICE_CUDA_VECTOR_H

#include "device/cuda_items.h"
#include "device/cuda_launch.h"

#define QUAD 4
#define STRIP PSGD__CUDA_STRIP
#define THREADS PSGD__CUDA_THREADS
#define WARPS PSGD__CUDA_WARPS
#define WARP 32
#define ALL_LANES 0xffffffffu

/* A test counts here what kernels touch: of g and e, of p and q, of partial sums. */
#ifndef PSGD_TOUCH
#define PSGD_TOUCH(what, bytes) ((void)0)
#endif

static __device__ __forceinline__ int lane_id()
{
	return (int)(threadIdx.x % WARP);
}

static __device__ __forceinline__ int warp_id()
{
	return (int)(threadIdx.x / WARP);
}

/* The item that this block works on, and which of its tiles: the last that begins here or before.
 */
static __device__ __forceinline__ uint32_t find_item(struct psgd__cuda_cut cut, uint32_t *tile)
{
	uint32_t low = 0, high = cut.count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (cut.first[middle] <= blockIdx.x)
			low = middle;
		else
			high = middle;
	}
	*tile = blockIdx.x - cut.first[low];
	return low;
}

/*
 * A warp takes a row a strip at a time, four values to a lane: side by side where addresses allow
 * it, so that one load takes them all, else a warp's width apart. Both ways a warp's loads are
 * whole lines.
 */
template <bool VECTORS> __device__ __forceinline__ int place(int lane, int k)
{
	return VECTORS ? lane * QUAD + k : lane + k * WARP;
}

/* `left` values are there; zeros take the place of the others. */
template <bool VECTORS>
__device__ __forceinline__ void load(float (&v)[QUAD], const float *from, int64_t left)
{
	const int lane = lane_id();

	if (VECTORS && lane * QUAD + QUAD <= left) {
		const float4 x = *reinterpret_cast<const float4 *>(from + lane * QUAD);

		v[0] = x.x;
		v[1] = x.y;
		v[2] = x.z;
		v[3] = x.w;
		return;
	}
	PSGD_UNROLL
	for (int k = 0; k < QUAD; k++)
		v[k] = place<VECTORS>(lane, k) < left ? from[place<VECTORS>(lane, k)] : 0.0f;
}

template <bool VECTORS>
__device__ __forceinline__ void store(float *to, const float (&v)[QUAD], int64_t left)
{
	const int lane = lane_id();

	if (VECTORS && lane * QUAD + QUAD <= left) {
		*reinterpret_cast<float4 *>(to + lane * QUAD) = make_float4(v[0], v[1], v[2], v[3]);
		return;
	}
	PSGD_UNROLL
	for (int k = 0; k < QUAD; k++) {
		if (place<VECTORS>(lane, k) < left)
			to[place<VECTORS>(lane, k)] = v[k];
	}
}

/* How many of the lane's four values of a strip are there: what load and store touch. */
template <bool VECTORS> __device__ __forceinline__ int present(int64_t left)
{
	int count = 0;

	for (int k = 0; k < QUAD; k++)
		count += place<VECTORS>(lane_id(), k) < left;
	return count;
}

/*
 * A piece of a panel into shared memory, as it is stored: WIDTH values from `from` on of each of
 * `cols` columns, times scale; zeros where there are none, and in columns from `cols` up to most-1.
 */
template <int WIDTH>
__device__ __forceinline__ void stage(float *piece, const float *panel, int64_t rows, int64_t from,
	uint32_t cols, uint32_t most, float scale)
{
	for (uint32_t x = threadIdx.x; x < most * WIDTH; x += THREADS) {
		const uint32_t c = x / WIDTH, i = x % WIDTH;
		const bool there = c < cols && from + i < rows;

		piece[x] = there ? scale * panel[c * rows + from + i] : 0.0f;
		PSGD_TOUCH(factors, there ? sizeof(float) : 0);
	}
}

#endif
