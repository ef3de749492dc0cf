/* Kernels: barriers, exchanges, orders, launches. */
#include <cublas_v2.h>
#include <curand_philox4x32_x.h>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "test_shim.h"

extern "C" {
#include "base/philox.h"
}

static const enum shim_order orders[] = {SHIM_FORWARD, SHIM_REVERSE, SHIM_RANDOM};

/* Turns each block's part of an array around, by shared memory. */
template <bool WITH_BARRIER> static __global__ void turn_around(float *data)
{
	PSGD_DYN_SHARED(float, kept);
	unsigned i = threadIdx.x, n = blockDim.x;
	float *mine = data + blockIdx.x * n;

	kept[i] = mine[i];
	if (WITH_BARRIER)
		__syncthreads();
	mine[i] = kept[n - 1 - i];
}

static std::vector<float> turned_around(bool with_barrier)
{
	std::vector<float> values(3 * 100);

	std::iota(values.begin(), values.end(), 0.0f);
	Array<float> data(values);

	if (with_barrier)
		PSGD_LAUNCH(turn_around<true>, 3, 100, 100 * sizeof(float), nullptr, data.data);
	else
		PSGD_LAUNCH(turn_around<false>, 3, 100, 100 * sizeof(float), nullptr, data.data);
	OK(cudaGetLastError());
	return data.get();
}

START_TEST(barrier)
{
	shim_order(orders[_i], 7);
	/*
	 * That a barrier is missing shows in every order: shared memory is NaN before it is
	 * written, and the thread sanitizer, where there is one, ends the process.
	 */
	ck_assert(dies([] { _exit(turned_around(false) != turned_around(true)); }));
	std::vector<float> with = turned_around(true);

	for (unsigned i = 0; i < with.size(); i++)
		ck_assert_float_eq(with[i], (float)(i / 100 * 100 + 99 - i % 100));
}
END_TEST

/* Several barriers, and some threads that end before them. */
static __global__ void sum_up(const int *from, int *to, unsigned n)
{
	__shared__ int kept[256];
	unsigned i = threadIdx.x;

	if (i >= n)
		return;
	kept[i] = from[i];
	__syncthreads();
	for (unsigned step = 1; step < n; step *= 2) {
		int other = i >= step ? kept[i - step] : 0;

		__syncthreads();
		kept[i] += other;
		__syncthreads();
	}
	to[i] = kept[i];
}

START_TEST(early_ends)
{
	std::vector<int> values(200, 1), sums(200);

	shim_order(orders[_i], 3);
	Array<int> from(values), to(200);

	PSGD_LAUNCH(sum_up, 1, 256, 0, nullptr, from.data, to.data, 200u);
	std::iota(sums.begin(), sums.end(), 1);
	ck_assert(to.get() == sums);
}
END_TEST

static __global__ void part_ways()
{
	if (threadIdx.x < 16)
		__syncwarp();
	else
		__syncthreads();
}

static __global__ void two_calls()
{
	if (threadIdx.x == 0)
		__syncwarp();
	else
		__any_sync(0xffffffffu, 1);
}

static __global__ void two_barriers()
{
	if (threadIdx.x < 16)
		__syncthreads();
	else
		__syncthreads();
}

static __global__ void read_quad(const float *from, float4 *to)
{
	to[threadIdx.x] = *reinterpret_cast<const float4 *>(from + 4 * threadIdx.x);
}

/* What a device would not do, or not do right. */
START_TEST(bad_pointers)
{
	ck_assert(dies([] {
		float values[4] = {};

		PSGD_LAUNCH(turn_around<true>, 1, 4, 16, nullptr, values);
	}));
#ifdef __x86_64__ /* others read what is not aligned */
	ck_assert(dies([] {
		Array<float> from(12), to(8);

		PSGD_LAUNCH(read_quad, 1, 2, 0, nullptr, from.data + 2,
			reinterpret_cast<float4 *>(to.data));
		cudaStreamSynchronize(nullptr);
		_exit(0);
	}));
#endif
}
END_TEST

START_TEST(divergence)
{
	ck_assert(dies([] {
		PSGD_LAUNCH(two_barriers, 1, 32, 0, nullptr);
		cudaStreamSynchronize(nullptr);
	}));
	ck_assert(dies([] {
		PSGD_LAUNCH(part_ways, 1, 32, 0, nullptr);
		cudaStreamSynchronize(nullptr);
	}));
	ck_assert(dies([] {
		PSGD_LAUNCH(two_calls, 1, 32, 0, nullptr);
		cudaStreamSynchronize(nullptr);
	}));
	ck_assert(!dies([] {
		PSGD_LAUNCH(turn_around<true>, 0, 0, 0, nullptr, nullptr);
		cudaStreamSynchronize(nullptr);
	}));
}
END_TEST

struct Exchanged {
	double sum;
	float down, up, from_five, of_quarter;
	unsigned ballot, low_ballot;
	int any, none;
};

static __global__ void exchange(struct Exchanged *out)
{
	unsigned i = threadIdx.x;
	struct Exchanged mine = {};
	double sum = i;

	for (int bit = 16; bit; bit /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, bit);
	mine.sum = sum;
	mine.down = __shfl_down_sync(0xffffffffu, (float)i, 3);
	mine.up = __shfl_up_sync(0xffffffffu, (float)i, 3);
	mine.from_five = __shfl_sync(0xffffffffu, (float)i, 5);
	mine.of_quarter = __shfl_sync(0xffffffffu, (float)i, 2, 8);
	mine.ballot = __ballot_sync(0xffffffffu, i % 3 == 0);
	/* A part of the warp by itself. */
	if (i % 32 < 8)
		mine.low_ballot = __ballot_sync(0xffu, i & 1);
	__syncwarp();
	mine.any = __any_sync(0xffffffffu, i == 7);
	mine.none = __any_sync(0xffffffffu, i > 1000);
	out[i] = mine;
}

START_TEST(exchanges)
{
	shim_order(orders[_i], 11);
	Array<struct Exchanged> out(64);

	PSGD_LAUNCH(exchange, 1, 64, 0, nullptr, out.data);
	OK(cudaGetLastError());
	auto got = out.get();

	for (unsigned i = 0; i < 64; i++) {
		unsigned lane = i % 32, first = i - lane, ballot = 0;

		for (unsigned j = 0; j < 32; j++)
			ballot |= ((first + j) % 3 == 0) << j;
		ck_assert_double_eq(got[i].sum, first * 32 + 31 * 16);
		ck_assert_float_eq(got[i].down, (float)(lane + 3 < 32 ? i + 3 : i));
		ck_assert_float_eq(got[i].up, (float)(lane >= 3 ? i - 3 : i));
		ck_assert_float_eq(got[i].from_five, (float)(first + 5));
		ck_assert_float_eq(got[i].of_quarter, (float)(i / 8 * 8 + 2));
		ck_assert_uint_eq(got[i].ballot, ballot);
		ck_assert_uint_eq(got[i].low_ballot, lane < 8 ? 0xaa : 0);
		ck_assert_int_eq(got[i].any, first == 0);
		ck_assert_int_eq(got[i].none, 0);
	}
}
END_TEST

static __global__ void half_warp(unsigned *out)
{
	out[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
}

/* Lanes that do not exist count as ended. */
START_TEST(short_warp)
{
	Array<unsigned> out(48);

	PSGD_LAUNCH(half_warp, 1, 48, 0, nullptr, out.data);
	auto got = out.get();

	ck_assert_uint_eq(got[0], 0xffffffffu);
	ck_assert_uint_eq(got[47], 0xffffu);
}
END_TEST

/* When a thread came, by number within the grid. */
static __global__ void draw_ticket(unsigned *next, unsigned *tickets)
{
	unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
	unsigned size = blockDim.x * blockDim.y * blockDim.z;
	unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);

	tickets[block * size + thread] = atomicAdd(next, 1u);
}

static std::vector<unsigned> tickets(enum shim_order order, uint64_t seed)
{
	Array<unsigned> next(std::vector<unsigned>{0}), out(24 * 24);

	shim_order(order, seed);
	PSGD_LAUNCH(draw_ticket, dim3(2, 3, 4), dim3(4, 3, 2), 0, nullptr, next.data, out.data);
	OK(cudaGetLastError());
	return out.get();
}

START_TEST(order)
{
	std::vector<unsigned> forward = tickets(SHIM_FORWARD, 1), all(24 * 24);
	std::vector<unsigned> reverse = tickets(SHIM_REVERSE, 1);
	std::vector<unsigned> random = tickets(SHIM_RANDOM, 1), other = tickets(SHIM_RANDOM, 2);

	std::iota(all.begin(), all.end(), 0u);
	ck_assert(forward == all);
	std::reverse(reverse.begin(), reverse.end());
	ck_assert(reverse == all);
	ck_assert(random != all && other != random);
	std::sort(random.begin(), random.end());
	ck_assert(random == all);
}
END_TEST

START_TEST(launches)
{
	Array<float> data(2048);

	PSGD_LAUNCH(turn_around<true>, 1, 1025, 0, nullptr, data.data);
	ck_assert_int_eq(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
	ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
	OK(cudaGetLastError());
	PSGD_LAUNCH(turn_around<true>, 1, 1024, 60000, nullptr, data.data);
	ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidValue);
	OK(cudaFuncSetAttribute(
		turn_around<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
	PSGD_LAUNCH(turn_around<true>, 1, 1024, 60000, nullptr, data.data);
	OK(cudaGetLastError());
	OK(cudaStreamSynchronize(nullptr));
	ck_assert_uint_eq(shim_count(SHIM_KERNELS), 3);
}
END_TEST

static __global__ void philox(uint4 counter, uint2 key, uint4 *out)
{
	*out = curand_Philox4x32_10(counter, key);
}

/* The vectors of Random123, and the library's own generator. */
START_TEST(random_words)
{
	static const uint32_t cases[][10] = {
		{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
		{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
			0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
			0x94fdcceb, 0x5001e420, 0x24126ea1},
	};

	for (const auto &c : cases) {
		Array<uint4> out(1);
		uint32_t own[4];

		PSGD_LAUNCH(philox, 1, 1, 0, nullptr, make_uint4(c[0], c[1], c[2], c[3]),
			make_uint2(c[4], c[5]), out.data);
		auto got = out.get()[0];

		psgd__philox((uint64_t)c[5] << 32 | c[4], c, own);
		ck_assert(got.x == c[6] && got.y == c[7] && got.z == c[8] && got.w == c[9]);
		ck_assert(std::equal(own, own + 4, c + 6));
	}
}
END_TEST

static float value(size_t i)
{
	return (float)(int)(i * 7919 % 201 - 100) / 64;
}

static void check_sgemm(bool ta, bool tb, float beta)
{
	int m = 37, n = 19, k = 300, lda = (ta ? k : m) + 3, ldb = (tb ? n : k) + 2, ldc = m + 1;
	std::vector<float> a((size_t)lda * 400), b((size_t)ldb * 400), c((size_t)ldc * n * 2);
	cublasHandle_t handle;
	float alpha = 0.5f;

	for (size_t i = 0; i < a.size(); i++)
		a[i] = value(i);
	for (size_t i = 0; i < b.size(); i++)
		b[i] = value(i + 11);
	for (size_t i = 0; i < c.size(); i++)
		c[i] = beta == 0 ? NAN : value(i + 5);
	Array<float> da(a), db(b), dc(c);

	OK(cublasCreate(&handle));
	OK(cublasSgemmStridedBatched(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N,
		tb ? CUBLAS_OP_T : CUBLAS_OP_N, m, n, k, &alpha, da.data, lda, 5, db.data, ldb, 0,
		&beta, dc.data, ldc, (long long)ldc * n, 2));
	auto got = dc.get();

	for (int batch = 0; batch < 2; batch++)
		for (int at = 0; at < m * n; at++) {
			int i = at % m, j = at / m, to = batch * ldc * n + j * ldc + i;
			double sum = 0;

			for (int l = 0; l < k; l++)
				sum += (double)a[5 * batch + (ta ? i * lda + l : l * lda + i)] *
				       b[tb ? l * ldb + j : j * ldb + l];
			sum = alpha * sum + (beta == 0 ? 0 : (double)beta * c[to]);
			ck_assert_double_eq_tol(got[to], sum, 1e-5 * (1 + std::fabs(sum)));
		}
	OK(cublasDestroy(handle));
}

START_TEST(blas)
{
	cublasHandle_t handle;
	float by = 2;

	for (int i = 0; i < 8; i++)
		check_sgemm(i & 1, i & 2, i & 4 ? 1.5f : 0);
	Array<float> x(std::vector<float>{1, 2, 3, 4}), y(std::vector<float>{10, 20, 30, 40});
	Array<float> factor(std::vector<float>{0.5f});

	OK(cublasCreate(&handle));
	OK(cublasSaxpy(handle, 4, &by, x.data, 1, y.data, 1));
	OK(cublasSetPointerMode(handle, CUBLAS_POINTER_MODE_DEVICE));
	OK(cublasSscal(handle, 2, factor.data, y.data, 2));
	ck_assert(y.get() == (std::vector<float>{6, 24, 18, 48}));
	ck_assert_int_eq(
		cublasSaxpy(handle, 4, nullptr, x.data, 1, y.data, 1), CUBLAS_STATUS_INVALID_VALUE);
	OK(cublasDestroy(handle));
	ck_assert_int_eq(cublasSscal(handle, 1, &by, y.data, 1), CUBLAS_STATUS_NOT_INITIALIZED);
	ck_assert_uint_eq(shim_count(SHIM_BLAS), 10);
	/* A handle is for the device that was current when it was made. */
	shim_devices(2);
	OK(cublasCreate(&handle));
	OK(cudaSetDevice(1));
	ck_assert_int_eq(cublasSscal(handle, 1, &by, y.data, 1), CUBLAS_STATUS_EXECUTION_FAILED);
	OK(cublasDestroy(handle));
	OK(cudaSetDevice(0));
}
END_TEST

void add_kernel_tests(Suite *suite)
{
	TCase *tc = tcase_create("kernels");

	tcase_set_timeout(tc, 0);
	tcase_add_loop_test(tc, barrier, 0, 3);
	tcase_add_loop_test(tc, early_ends, 0, 3);
	tcase_add_test(tc, divergence);
	tcase_add_test(tc, bad_pointers);
	tcase_add_loop_test(tc, exchanges, 0, 3);
	tcase_add_test(tc, short_warp);
	tcase_add_test(tc, order);
	tcase_add_test(tc, launches);
	tcase_add_test(tc, random_words);
	tcase_add_test(tc, blas);
	suite_add_tcase(suite, tc);
}
