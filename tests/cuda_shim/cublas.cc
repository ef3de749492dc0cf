/* cuBLAS by plain loops. */
#include <cublas_v2.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "shim_impl.h"

struct cublasContext {
	int device = 0;
	cudaStream_t stream = nullptr;
	cublasPointerMode_t mode = CUBLAS_POINTER_MODE_HOST;
	cublasMath_t math = CUBLAS_DEFAULT_MATH;
};

namespace
{

/* Floats are added up over so many products before they go into a double. */
constexpr int kBlock = 64;

struct Handles {
	std::mutex mutex;
	std::set<cublasHandle_t> living;
};

Handles &handles()
{
	static Handles *h = new Handles();

	return *h;
}

cublasStatus_t enter(cublasHandle_t handle)
{
	Handles &h = handles();
	std::lock_guard<std::mutex> lock(h.mutex);

	if (shim_fails())
		return CUBLAS_STATUS_EXECUTION_FAILED;
	return h.living.count(handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

/* A handle is for the device that was current when it was made. */
cublasStatus_t put(cublasHandle_t handle, std::function<void()> work)
{
	if (handle->device != shim_device())
		return CUBLAS_STATUS_EXECUTION_FAILED;
	shim_tally(SHIM_BLAS);
	shim_tally(SHIM_TF32, handle->math == CUBLAS_TF32_TENSOR_OP_MATH);
	return shim_enqueue(handle->stream, std::move(work)) ? CUBLAS_STATUS_SUCCESS
							     : CUBLAS_STATUS_EXECUTION_FAILED;
}

/* A factor: the host's is read now, the device's when the work runs. */
std::function<float()> factor(cublasHandle_t handle, const float *from)
{
	if (handle->mode == CUBLAS_POINTER_MODE_HOST) {
		float value = *from;

		return [value] { return value; };
	}
	return [from] {
		shim_need_device(from, sizeof(*from), "cuBLAS: a factor");
		return *from;
	};
}

void need_matrix(const float *from, int rows, int cols, int stride)
{
	if (rows > 0 && cols > 0)
		shim_need_device(from,
			(static_cast<size_t>(cols - 1) * static_cast<size_t>(stride) +
				static_cast<size_t>(rows)) *
				sizeof(*from),
			"cuBLAS: a matrix");
}

void need_vector(const float *from, int n, int step)
{
	shim_need_device(from,
		(static_cast<size_t>(n - 1) * static_cast<size_t>(std::abs(step)) + 1) *
			sizeof(*from),
		"cuBLAS: a vector");
}

/* Column-major copy without gaps, transposed if asked for. */
std::vector<float> packed(const float *from, int stride, bool transposed, int rows, int cols)
{
	std::vector<float> to(static_cast<size_t>(rows) * static_cast<size_t>(cols));

	for (int j = 0; j < cols; j++)
		for (int i = 0; i < rows; i++)
			to[static_cast<size_t>(j) * rows + i] =
				transposed ? from[static_cast<size_t>(i) * stride + j]
					   : from[static_cast<size_t>(j) * stride + i];
	return to;
}

} // namespace

void shim_sgemm(bool a_transposed, bool b_transposed, int m, int n, int k, float alpha,
	const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
	if (m <= 0 || n <= 0)
		return;
	auto left = packed(a, lda, a_transposed, m, k), right = packed(b, ldb, b_transposed, k, n);
	std::vector<float> part(static_cast<size_t>(m));
	std::vector<double> sum(static_cast<size_t>(m));

	for (int j = 0; j < n; j++) {
		std::fill(sum.begin(), sum.end(), 0);
		for (int begin = 0; begin < k; begin += kBlock) {
			std::fill(part.begin(), part.end(), 0.0f);
			for (int l = begin; l < std::min(k, begin + kBlock); l++) {
				const float *from = &left[static_cast<size_t>(l) * m];
				float *to = part.data();
				float by = right[static_cast<size_t>(j) * k + l];

				for (int i = 0; i < m; i++)
					to[i] += from[i] * by;
			}
			for (int i = 0; i < m; i++)
				sum[i] += part[i];
		}
		for (int i = 0; i < m; i++) {
			float *to = &c[static_cast<size_t>(j) * ldc + i];
			double old = beta == 0 ? 0 : static_cast<double>(beta) * *to;

			*to = static_cast<float>(alpha * sum[i] + old);
		}
	}
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
	if (shim_no_device())
		return CUBLAS_STATUS_NOT_INITIALIZED;
	if (shim_fails())
		return CUBLAS_STATUS_ALLOC_FAILED;
	Handles &h = handles();
	std::lock_guard<std::mutex> lock(h.mutex);

	*handle = new cublasContext();
	(*handle)->device = shim_device();
	h.living.insert(*handle);
	shim_own(1);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
	cublasStatus_t status = enter(handle);
	Handles &h = handles();
	std::lock_guard<std::mutex> lock(h.mutex);

	if (!h.living.erase(handle))
		return CUBLAS_STATUS_NOT_INITIALIZED;
	delete handle;
	shim_own(-1);
	return status;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t streamId)
{
	if (cublasStatus_t status = enter(handle))
		return status;
	handle->stream = streamId;
	return CUBLAS_STATUS_SUCCESS;
}

/* There is one kind of arithmetic here. */
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
	if (cublasStatus_t status = enter(handle))
		return status;
	handle->math = mode;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode)
{
	if (cublasStatus_t status = enter(handle))
		return status;
	handle->mode = mode;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transa,
	cublasOperation_t transb, int m, int n, int k, const float *alpha, const float *A, int lda,
	const float *B, int ldb, const float *beta, float *C, int ldc)
{
	return cublasSgemmStridedBatched(
		handle, transa, transb, m, n, k, alpha, A, lda, 0, B, ldb, 0, beta, C, ldc, 0, 1);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transa,
	cublasOperation_t transb, int m, int n, int k, const float *alpha, const float *A, int lda,
	long long int strideA, const float *B, int ldb, long long int strideB, const float *beta,
	float *C, int ldc, long long int strideC, int batchCount)
{
	bool ta = transa != CUBLAS_OP_N, tb = transb != CUBLAS_OP_N;

	if (cublasStatus_t status = enter(handle))
		return status;
	if (m < 0 || n < 0 || k < 0 || batchCount < 0 || !alpha || !beta ||
		lda < std::max(1, ta ? k : m) || ldb < std::max(1, tb ? n : k) ||
		ldc < std::max(1, m))
		return CUBLAS_STATUS_INVALID_VALUE;
	auto by = factor(handle, alpha), keep = factor(handle, beta);

	return put(handle, [=] {
		for (int i = 0; i < batchCount; i++) {
			const float *a = A + i * strideA, *b = B + i * strideB;
			float *c = C + i * strideC;

			need_matrix(a, ta ? k : m, ta ? m : k, lda);
			need_matrix(b, tb ? n : k, tb ? k : n, ldb);
			need_matrix(c, m, n, ldc);
			shim_sgemm(ta, tb, m, n, k, by(), a, lda, b, ldb, keep(), c, ldc);
		}
	});
}

cublasStatus_t cublasSaxpy_v2(cublasHandle_t handle, int n, const float *alpha, const float *x,
	int incx, float *y, int incy)
{
	if (cublasStatus_t status = enter(handle))
		return status;
	if (!alpha || incx < 0 || incy < 0)
		return CUBLAS_STATUS_INVALID_VALUE;
	auto by = factor(handle, alpha);

	return put(handle, [=] {
		if (n <= 0)
			return;
		need_vector(x, n, incx);
		need_vector(y, n, incy);
		for (ptrdiff_t i = 0; i < n; i++)
			y[i * incy] += by() * x[i * incx];
	});
}

cublasStatus_t cublasSscal_v2(cublasHandle_t handle, int n, const float *alpha, float *x, int incx)
{
	if (cublasStatus_t status = enter(handle))
		return status;
	if (!alpha || incx < 0)
		return CUBLAS_STATUS_INVALID_VALUE;
	auto by = factor(handle, alpha);

	return put(handle, [=] {
		if (n <= 0)
			return;
		need_vector(x, n, incx);
		for (ptrdiff_t i = 0; i < n; i++)
			x[i * incx] *= by();
	});
}

const char *cublasGetStatusString(cublasStatus_t status)
{
	switch (status) {
	case CUBLAS_STATUS_SUCCESS:
		return "success";
	case CUBLAS_STATUS_NOT_INITIALIZED:
		return "the library was not initialized";
	case CUBLAS_STATUS_ALLOC_FAILED:
		return "the resource allocation failed";
	case CUBLAS_STATUS_INVALID_VALUE:
		return "an unsupported value or parameter was passed to the function";
	case CUBLAS_STATUS_EXECUTION_FAILED:
		return "the function failed to launch on the GPU";
	default:
		return "the request is not supported";
	}
}
