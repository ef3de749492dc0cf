/* Memory, failures on demand, and machines without CUDA. */
#include <cublas_v2.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "test_shim.h"

static __global__ void write_at(float *data, ptrdiff_t at)
{
	data[at] = 1;
}

static void *device_memory(size_t bytes)
{
	void *memory = nullptr;

	cudaMalloc(&memory, bytes);
	return memory;
}

START_TEST(poison)
{
	Array<float> data(5);

	for (float value : data.get())
		ck_assert(std::isnan(value));
	OK(cudaMemsetAsync(data.data, 0, 4 * sizeof(float)));
	std::vector<float> got = data.get();

	ck_assert(got[3] == 0 && std::isnan(got[4]));
}
END_TEST

START_TEST(bounds)
{
	Array<float> data(5);
	float plain[8];

	ck_assert_int_eq(cudaMemcpyAsync(data.data + 2, plain, 16, cudaMemcpyHostToDevice),
		cudaErrorInvalidValue);
	ck_assert_int_eq(cudaMemsetAsync(data.data, 0, 24), cudaErrorInvalidValue);
	ck_assert_int_eq(cudaMemsetAsync(plain, 0, 4), cudaErrorInvalidValue);
	ck_assert_int_eq(cudaMemcpyAsync(data.data, plain, 16, cudaMemcpyDeviceToHost),
		cudaErrorInvalidMemcpyDirection);
	ck_assert_int_eq(cudaFree(data.data + 1), cudaErrorInvalidValue);
	ck_assert_int_eq(cudaFreeHost(data.data), cudaErrorInvalidValue);
}
END_TEST

START_TEST(host_access)
{
	ck_assert(dies([] {
		auto *data = static_cast<volatile float *>(device_memory(4));

		_Exit(std::isnan(data[0]) ? 0 : 1);
	}));
	ck_assert(dies([] {
		*static_cast<volatile float *>(device_memory(4)) = 1;
		_Exit(0);
	}));
}
END_TEST

static void write_outside(ptrdiff_t at)
{
	auto *data = static_cast<float *>(device_memory(5 * sizeof(float)));

	PSGD_LAUNCH(write_at, 1, 1, 0, nullptr, data, at);
	cudaStreamSynchronize(nullptr);
	cudaFree(data);
	_Exit(0);
}

START_TEST(overruns)
{
	ck_assert(!dies([] { write_outside(4); }));
	ck_assert(dies([] { write_outside(5); })); /* noticed when it is freed */
	ck_assert(dies([] { write_outside(-1); }));
	ck_assert(dies([] { write_outside(1 << 10); })); /* at once */
}
END_TEST

START_TEST(use_after_free)
{
	ck_assert(dies([] {
		auto *data = static_cast<float *>(device_memory(4));

		shim_lazy(true);
		PSGD_LAUNCH(write_at, 1, 1, 0, nullptr, data, 0);
		cudaFree(data);
		cudaStreamSynchronize(nullptr);
		_Exit(0);
	}));
	ck_assert(dies([] {
		auto *data = static_cast<float *>(device_memory(4));
		float to;

		shim_lazy(true);
		cudaMemsetAsync(data, 0, 4);
		cudaFree(data);
		cudaMemcpyAsync(&to, &to, 4, cudaMemcpyDefault);
		_Exit(0);
	}));
}
END_TEST

START_TEST(limit)
{
	void *first, *second;
	size_t free, total;

	shim_memory_limit(1000);
	OK(cudaMalloc(&first, 600));
	OK(cudaMemGetInfo(&free, &total));
	ck_assert(free == 400 && total == 1000);
	ck_assert_int_eq(cudaMalloc(&second, 401), cudaErrorMemoryAllocation);
	ck_assert_ptr_null(second);
	ck_assert_int_eq(cudaMalloc(&second, SIZE_MAX), cudaErrorMemoryAllocation);
	OK(cudaMalloc(&second, 400));
	OK(cudaFree(first));
	OK(cudaFree(second));
	OK(cudaFree(nullptr));
	OK(cudaMalloc(&first, 0));
	ck_assert_ptr_null(first);
}
END_TEST

START_TEST(attributes)
{
	struct cudaPointerAttributes a;
	int plain;
	void *pinned;
	Array<float> data(3);

	OK(cudaHostAlloc(&pinned, 10, cudaHostAllocDefault));
	OK(cudaPointerGetAttributes(&a, &plain));
	ck_assert_int_eq(a.type, cudaMemoryTypeUnregistered);
	OK(cudaPointerGetAttributes(&a, static_cast<char *>(pinned) + 9));
	ck_assert_int_eq(a.type, cudaMemoryTypeHost);
	OK(cudaPointerGetAttributes(&a, data.data + 2));
	ck_assert(a.type == cudaMemoryTypeDevice && a.device == 0 && !a.hostPointer);
	OK(cudaFreeHost(pinned));
}
END_TEST

START_TEST(leaks)
{
	void *memory[2];
	cudaStream_t stream;
	cudaEvent_t event;
	cublasHandle_t handle;

	ck_assert_uint_eq(shim_leaks(), 0);
	OK(cudaMalloc(&memory[0], 8));
	OK(cudaHostAlloc(&memory[1], 8, cudaHostAllocDefault));
	OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	OK(cudaEventCreateWithFlags(&event, cudaEventDefault));
	OK(cublasCreate(&handle));
	ck_assert_uint_eq(shim_leaks(), 5);
	OK(cublasDestroy(handle));
	OK(cudaEventDestroy(event));
	OK(cudaStreamDestroy(stream));
	OK(cudaFree(memory[0]));
	ck_assert_uint_eq(shim_leaks(), 1);
	shim_reset();
	ck_assert_uint_eq(shim_leaks(), 1);
	/* Made to fail, it frees all the same. */
	shim_fail(1);
	ck_assert_int_eq(cudaFreeHost(memory[1]), cudaErrorUnknown);
	ck_assert_uint_eq(shim_leaks(), 0);
}
END_TEST

/* Eight calls that can fail; returns how many did. */
static int do_all(void)
{
	void *memory = nullptr;
	cudaStream_t stream = nullptr;
	float value = 1;
	int failed = 0;

	failed += cudaMalloc(&memory, 4) != cudaSuccess;
	failed += cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess;
	if (!failed) {
		cudaGetLastError();
		PSGD_LAUNCH(write_at, 1, 1, 0, stream, static_cast<float *>(memory), 0);
		failed += cudaGetLastError() != cudaSuccess;
		failed += cudaMemsetAsync(memory, 0, 4, stream) != cudaSuccess;
		failed += cudaMemcpyAsync(&value, memory, 4, cudaMemcpyDefault, stream) !=
			  cudaSuccess;
		failed += cudaStreamSynchronize(stream) != cudaSuccess;
	}
	if (stream)
		failed += cudaStreamDestroy(stream) != cudaSuccess;
	failed += cudaFree(memory) != cudaSuccess;
	return failed;
}

START_TEST(each_failure)
{
	shim_fail(0);
	ck_assert_int_eq(do_all(), 0);
	ck_assert_uint_eq(shim_calls(), 8);
	for (uint64_t nth = 1; nth <= 9; nth++) {
		shim_fail(nth);
		ck_assert_int_eq(do_all(), nth <= 8);
		ck_assert_uint_eq(shim_leaks(), 0);
	}
}
END_TEST

START_TEST(no_device)
{
	bool driver = _i;
	cudaError_t expected = driver ? cudaErrorNoDevice : cudaErrorInsufficientDriver;
	int count = 77, version;
	void *memory;
	cublasHandle_t handle;

	shim_devices(driver ? 0 : -1);
	ck_assert_int_eq(cudaGetDeviceCount(&count), expected);
	ck_assert_int_eq(count, 77);
	ck_assert_int_eq(cudaGetLastError(), expected);
	ck_assert_int_eq(cudaMalloc(&memory, 4), expected);
	ck_assert_int_eq(cudaSetDevice(0), expected);
	ck_assert_int_eq(cudaStreamSynchronize(nullptr), expected);
	PSGD_LAUNCH(write_at, 1, 1, 0, nullptr, nullptr, 0);
	ck_assert_int_eq(cudaGetLastError(), expected);
	ck_assert_int_eq(cublasCreate(&handle), CUBLAS_STATUS_NOT_INITIALIZED);
	OK(cudaDriverGetVersion(&version));
	ck_assert_int_eq(version, driver ? CUDART_VERSION : 0);
	OK(cudaRuntimeGetVersion(&version));
	ck_assert_int_eq(version, CUDART_VERSION);
	ck_assert_str_eq(cudaGetErrorName(expected),
		driver ? "cudaErrorNoDevice" : "cudaErrorInsufficientDriver");
	ck_assert_int_ne((int)strlen(cudaGetErrorString(expected)), 0);
}
END_TEST

START_TEST(environment)
{
	int count, value;
	struct cudaDeviceProp prop;
	char bus[16];

	setenv("CUDA_SHIM_DEVICES", "3", 1);
	setenv("CUDA_SHIM_MEMORY", "4096", 1);
	setenv("CUDA_SHIM_FAIL", "4", 1);
	shim_reset();
	OK(cudaGetDeviceCount(&count));
	ck_assert_int_eq(count, 3);
	OK(cudaGetDeviceProperties(&prop, 2));
	ck_assert_uint_eq(prop.totalGlobalMem, 4096);
	OK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 2));
	ck_assert_int_eq(value, prop.multiProcessorCount);
	ck_assert_int_eq(cudaDeviceGetPCIBusId(bus, 16, 2), cudaErrorUnknown);
	OK(cudaDeviceGetPCIBusId(bus, 16, 2));
	ck_assert_str_eq(bus, "0000:03:00.0");
}
END_TEST

/* A device has a context when a thread sets it, or makes something there; not when one asks. */
START_TEST(contexts)
{
	enum cudaDriverEntryPointQueryResult found;
	int (*set_context)(void *) = nullptr;
	int current = -1;
	void *memory;

	shim_devices(3);
	OK(cudaGetDevice(&current));
	ck_assert_uint_eq(shim_contexts(), 0);
	OK(cudaSetDevice(2));
	ck_assert_uint_eq(shim_contexts(), 1u << 2);
	OK(cudaGetDriverEntryPointByVersion("cuCtxSetCurrent",
		reinterpret_cast<void **>(&set_context), 4000, cudaEnableDefault, &found));
	ck_assert_int_eq(found, cudaDriverEntryPointSuccess);
	ck_assert_int_eq(set_context(nullptr), 0);
	OK(cudaGetDevice(&current));
	ck_assert_int_eq(current, 0);
	ck_assert_uint_eq(shim_contexts(), 1u << 2);
	OK(cudaMalloc(&memory, 4));
	ck_assert_uint_eq(shim_contexts(), 1u << 2 | 1u << 0);
	OK(cudaFree(memory));
	OK(cudaGetDriverEntryPointByVersion("cuNothing", &memory, 4000, cudaEnableDefault, &found));
	ck_assert_int_eq(found, cudaDriverEntryPointSymbolNotFound);
}
END_TEST

void add_memory_tests(Suite *suite)
{
	TCase *tc = tcase_create("memory");

	tcase_set_timeout(tc, 0);
	tcase_add_test(tc, poison);
	tcase_add_test(tc, bounds);
	tcase_add_test(tc, host_access);
	tcase_add_test(tc, overruns);
	tcase_add_test(tc, use_after_free);
	tcase_add_test(tc, limit);
	tcase_add_test(tc, attributes);
	tcase_add_test(tc, leaks);
	tcase_add_test(tc, each_failure);
	tcase_add_loop_test(tc, no_device, 0, 2);
	tcase_add_test(tc, environment);
	tcase_add_test(tc, contexts);
	suite_add_tcase(suite, tc);
}
