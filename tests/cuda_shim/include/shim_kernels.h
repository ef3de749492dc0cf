/*
 * What kernels are written in, and how they are launched. Part of cuda_runtime.h, C++ only.
 *
 * All kernels run in one thread, in which the threads of a block are fibers that change only at
 * barriers and exchanges. So __shared__ is static, and a pointer says whose turn it is.
 */
#ifndef CUDA_SHIM_KERNELS_H
#define CUDA_SHIM_KERNELS_H

#include <math.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

#define PSGD_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
	shim_launch_kernel(#kernel, kernel, grid, block, shared_bytes, stream, ##__VA_ARGS__)
#define PSGD_DYN_SHARED(type, name) type *name = static_cast<type *>(shim_dynamic_shared())

extern "C" {
extern const uint3 *shim_thread; /* the one whose turn it is */
extern uint3 shim_block;
extern dim3 shim_block_dim, shim_grid_dim;
void *shim_dynamic_shared(void);
void shim_sync_block(int place);
void shim_sync_warp(unsigned mask);
/* The value that lane `from` of the warp gives; a lane that gives none is seen as NaN. */
uint64_t shim_exchange(unsigned mask, uint64_t value, unsigned from);
/* Bits of the lanes of mask that say yes. */
unsigned shim_vote(unsigned mask, int yes);
unsigned shim_lane(void);
}

/* Says what is wrong by cudaGetLastError, as a launch does. */
void shim_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared,
	cudaStream_t stream, std::function<void()> body);

/* A pointer that a kernel gets leads to memory that it can use, or nowhere. */
void shim_check_argument(const char *name, const void *pointer);

template <class T> void shim_check_if_pointer(const char *name, const T &argument)
{
	if constexpr (std::is_pointer<T>::value)
		shim_check_argument(name, argument);
	else
		(void)name, (void)argument;
}

#define threadIdx (*shim_thread)
#define blockIdx shim_block
#define blockDim shim_block_dim
#define gridDim shim_grid_dim
static const int warpSize = 32;

template <class... P, class... A>
void shim_launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
	size_t shared, cudaStream_t stream, A &&...args)
{
	/* Copied now, as a launch does. */
	std::tuple<typename std::decay<P>::type...> bound(std::forward<A>(args)...);

	std::apply(
		[name](const auto &...each) { (shim_check_if_pointer(name, each), ...); }, bound);

	shim_launch(name, reinterpret_cast<const void *>(kernel), grid, block, shared, stream,
		[kernel, bound] { std::apply(kernel, bound); });
}

template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), enum cudaFuncAttribute attr, int value)
{
	return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attr, value);
}

/* All threads of a block come to the same one. */
#define __syncthreads() shim_sync_block(__LINE__)

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
	shim_sync_warp(mask);
}

template <class T> T shim_shuffle(unsigned mask, T value, unsigned from)
{
	static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle takes at most eight bytes");
	uint64_t bits = 0;

	memcpy(&bits, &value, sizeof(value));
	bits = shim_exchange(mask, bits, from);
	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* A lane reads within its group of `width`; from beyond it, its own value. */
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = warpSize)
{
	unsigned group = shim_lane() & ~(unsigned)(width - 1);

	return shim_shuffle(mask, value, group | ((unsigned)from & (unsigned)(width - 1)));
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize)
{
	unsigned lane = shim_lane(), from = lane ^ (unsigned)bits;
	unsigned end = (lane & ~(unsigned)(width - 1)) + (unsigned)width;

	return shim_shuffle(mask, value, from < end ? from : lane);
}

template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize)
{
	unsigned lane = shim_lane(), from = lane + delta;
	unsigned end = (lane & ~(unsigned)(width - 1)) + (unsigned)width;

	return shim_shuffle(mask, value, from < end ? from : lane);
}

template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize)
{
	unsigned lane = shim_lane(), group = lane & ~(unsigned)(width - 1);

	return shim_shuffle(mask, value, lane - group >= delta ? lane - delta : lane);
}

static inline int __any_sync(unsigned mask, int yes)
{
	return shim_vote(mask, yes) != 0;
}

static inline unsigned __ballot_sync(unsigned mask, int yes)
{
	return shim_vote(mask, yes);
}

/* Kernels have no order by atomics, so a sanitizer must see none. */
template <class T> T atomicAdd(T *to, T value)
{
	static_assert(std::is_integral<T>::value, "sums of floats in any order are not wanted");
	return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

template <class T> T atomicOr(T *to, T value)
{
	return __atomic_fetch_or(to, value, __ATOMIC_RELAXED);
}

template <class T> T atomicExch(T *to, T value)
{
	return __atomic_exchange_n(to, value, __ATOMIC_RELAXED);
}

template <class T> T atomicMax(T *to, T value)
{
	T old = __atomic_load_n(to, __ATOMIC_RELAXED);

	static_assert(std::is_integral<T>::value, "integers only");
	while (old < value && !__atomic_compare_exchange_n(
				      to, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
	}
	return old;
}

template <class T> T __ldg(const T *from)
{
	return *from;
}

#define SHIM_ROUNDED(name, type, op)                                                               \
	static inline type name(type a, type b)                                                    \
	{                                                                                          \
		return a op b;                                                                     \
	}
SHIM_ROUNDED(__fadd_rn, float, +)
SHIM_ROUNDED(__fsub_rn, float, -)
SHIM_ROUNDED(__fmul_rn, float, *)
SHIM_ROUNDED(__fdiv_rn, float, /)
SHIM_ROUNDED(__dadd_rn, double, +)
SHIM_ROUNDED(__dsub_rn, double, -)
SHIM_ROUNDED(__dmul_rn, double, *)
SHIM_ROUNDED(__ddiv_rn, double, /)
#undef SHIM_ROUNDED

static inline float __fsqrt_rn(float a)
{
	return sqrtf(a);
}

static inline double __dsqrt_rn(double a)
{
	return sqrt(a);
}

static inline float __fmaf_rn(float a, float b, float c)
{
	return fmaf(a, b, c);
}

#define SHIM_BITS(name, to, from)                                                                  \
	static inline to name(from value)                                                          \
	{                                                                                          \
		to bits;                                                                           \
		memcpy(&bits, &value, sizeof(bits));                                               \
		return bits;                                                                       \
	}
SHIM_BITS(__float_as_uint, unsigned int, float)
SHIM_BITS(__float_as_int, int, float)
SHIM_BITS(__uint_as_float, float, unsigned int)
SHIM_BITS(__int_as_float, float, int)
#undef SHIM_BITS

static inline int __popc(unsigned value)
{
	return __builtin_popcount(value);
}

static inline int __ffs(int value)
{
	return __builtin_ffs(value);
}

template <class T> T min(T a, T b)
{
	return b < a ? b : a;
}

template <class T> T max(T a, T b)
{
	return a < b ? b : a;
}

#endif
