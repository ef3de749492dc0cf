#ifndef TEST_SHIM_H
#define TEST_SHIM_H

#include <check.h>
#include <cuda_runtime.h>

#include <initializer_list>
#include <vector>

#include "shim.h"

#define OK(call) ck_assert_int_eq((call), cudaSuccess)

/* Whether a process ends badly that does this. */
bool dies(void (*what)(void));

/* An array of the device's that is freed at the end. */
template <class T> struct Array {
	T *data = nullptr;
	size_t count;

	explicit Array(size_t n) : count(n)
	{
		OK(cudaMalloc(reinterpret_cast<void **>(&data), n * sizeof(T)));
	}
	explicit Array(const std::vector<T> &from) : Array(from.size())
	{
		OK(cudaMemcpyAsync(data, from.data(), count * sizeof(T), cudaMemcpyHostToDevice));
	}
	~Array()
	{
		cudaFree(data);
	}
	Array(const Array &) = delete;
	Array &operator=(const Array &) = delete;

	std::vector<T> get() const
	{
		std::vector<T> to(count);

		OK(cudaMemcpyAsync(to.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
		return to;
	}
};

void add_kernel_tests(Suite *suite);
void add_stream_tests(Suite *suite);
void add_memory_tests(Suite *suite);
void add_nccl_tests(Suite *suite);

#endif
