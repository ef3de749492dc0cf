/* The cuDNN that runs on a CPU: what the real one refuses is refused. */
#include "support/suite.h"

#include <cudnn.h>
#include <shim.h>

#include <stdint.h>

/* A convolution of 3 x 3, padded, of one image of 2 x 4 x 4, and its memory. */
static cudnnHandle_t handle;
static cudnnTensorDescriptor_t x, y;
static cudnnFilterDescriptor_t w;
static cudnnConvolutionDescriptor_t window;
static char *memory;
static size_t scratch;

#define PART 4096
#define HOW CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM

static const float one = 1.0f, zero = 0.0f, half = 0.5f;

static void setup(void)
{
	void *device;

	ck_assert_int_eq(cudaMalloc(&device, 4 * PART), cudaSuccess);
	memory = device;
	ck_assert_int_eq(cudnnCreate(&handle), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnCreateTensorDescriptor(&x), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnCreateTensorDescriptor(&y), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnCreateFilterDescriptor(&w), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnCreateConvolutionDescriptor(&window), CUDNN_STATUS_SUCCESS);
}

static void set_all(void)
{
	const cudnnTensorFormat_t nchw = CUDNN_TENSOR_NCHW;

	ck_assert_int_eq(cudnnSetTensor4dDescriptor(x, nchw, CUDNN_DATA_FLOAT, 1, 2, 4, 4),
		CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnSetTensor4dDescriptor(y, nchw, CUDNN_DATA_FLOAT, 1, 3, 4, 4),
		CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnSetFilter4dDescriptor(w, CUDNN_DATA_FLOAT, nchw, 3, 2, 3, 3),
		CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnSetConvolution2dDescriptor(window, 1, 1, 1, 1, 1, 1,
				 CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
		CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(
		cudnnGetConvolutionForwardWorkspaceSize(handle, x, w, window, y, HOW, &scratch),
		CUDNN_STATUS_SUCCESS);
	ck_assert_uint_le(scratch, PART);
}

/* Where things are in the memory; NOWHERE: NULL. */
#define NOWHERE SIZE_MAX

static void *at(size_t place)
{
	return place == NOWHERE ? NULL : memory + place;
}

static cudnnStatus_t run(size_t x_at, size_t w_at, size_t y_at, size_t workspace, size_t bytes)
{
	return cudnnConvolutionForward(handle, &one, x, at(x_at), w, at(w_at), window, HOW,
		at(workspace), bytes, &zero, y, at(y_at));
}

static void teardown(void)
{
	ck_assert_int_eq(cudaMemsetAsync(memory, 0, 4 * PART, NULL), cudaSuccess);
	ck_assert_int_eq(run(0, PART, 2 * PART, 3 * PART, scratch), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaSuccess);
	ck_assert_int_eq(cudnnDestroyConvolutionDescriptor(window), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnDestroyFilterDescriptor(w), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnDestroyTensorDescriptor(y), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnDestroyTensorDescriptor(x), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnDestroy(handle), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudaFree(memory), cudaSuccess);
	ck_assert_uint_eq(shim_leaks(), 0);
}

/* Each is one thing away from what teardown shows to be right. */
START_TEST(test_memory)
{
	const size_t workspace = 3 * PART;

	set_all();
	ck_assert_int_eq(run(0, PART, 2 * PART, workspace, scratch - 1), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(0, PART, 2 * PART, NOWHERE, scratch), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(0, PART, 2 * PART, workspace + 4, scratch), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(4, PART, 2 * PART, workspace, scratch), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(0, PART + 8, 2 * PART, workspace, scratch), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(0, PART, 2 * PART + 4, workspace, scratch), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(0, PART, 16, workspace, scratch), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(0, PART, 2 * PART, PART, scratch), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(run(NOWHERE, PART, 2 * PART, workspace, scratch), CUDNN_STATUS_BAD_PARAM);
}
END_TEST

START_TEST(test_call)
{
	char *workspace = memory + 3 * PART;

	set_all();
	ck_assert_int_eq(cudnnConvolutionForward(handle, &half, x, memory, w, memory + PART, window,
				 HOW, workspace, scratch, &zero, y, memory + 2 * PART),
		CUDNN_STATUS_NOT_SUPPORTED);
	ck_assert_int_eq(cudnnConvolutionForward(handle, NULL, x, memory, w, memory + PART, window,
				 HOW, workspace, scratch, &zero, y, memory + 2 * PART),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(cudnnConvolutionForward(NULL, &one, x, memory, w, memory + PART, window,
				 HOW, workspace, scratch, &zero, y, memory + 2 * PART),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(cudnnConvolutionForward(handle, &one, x, memory, w, memory + PART, window,
				 CUDNN_CONVOLUTION_FWD_ALGO_GEMM, workspace, scratch, &zero, y,
				 memory + 2 * PART),
		CUDNN_STATUS_NOT_SUPPORTED);
	/* Of another shape than it comes out. */
	ck_assert_int_eq(cudnnConvolutionForward(handle, &one, x, memory, w, memory + PART, window,
				 HOW, workspace, scratch, &zero, x, memory + 2 * PART),
		CUDNN_STATUS_BAD_PARAM);
}
END_TEST

START_TEST(test_descriptors)
{
	const cudnnTensorFormat_t nchw = CUDNN_TENSOR_NCHW;
	cudnnTensorDescriptor_t gone;
	size_t bytes;

	/* Not set. */
	ck_assert_int_eq(
		cudnnGetConvolutionForwardWorkspaceSize(handle, x, w, window, y, HOW, &bytes),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(cudnnSetTensor4dDescriptor(x, nchw, CUDNN_DATA_FLOAT, 1, 0, 4, 4),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(
		cudnnSetTensor4dDescriptor(x, nchw, CUDNN_DATA_FLOAT, 1 << 10, 1 << 10, 1 << 10, 2),
		CUDNN_STATUS_NOT_SUPPORTED);
	ck_assert_int_eq(cudnnSetFilter4dDescriptor(w, CUDNN_DATA_FLOAT, nchw, 3, 2, 0, 3),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(cudnnSetConvolution2dDescriptor(window, -1, 1, 1, 1, 1, 1,
				 CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(cudnnSetConvolution2dDescriptor(window, 1, 1, 0, 1, 1, 1,
				 CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(
		cudnnSetConvolutionMathType(window, (cudnnMathType_t)7), CUDNN_STATUS_BAD_PARAM);
	/* Not there any more. */
	ck_assert_int_eq(cudnnCreateTensorDescriptor(&gone), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnDestroyTensorDescriptor(gone), CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(cudnnDestroyTensorDescriptor(gone), CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(cudnnSetTensor4dDescriptor(gone, nchw, CUDNN_DATA_FLOAT, 1, 2, 4, 4),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(cudnnDestroy(NULL), CUDNN_STATUS_BAD_PARAM);
	set_all();
}
END_TEST

START_TEST(test_proposals)
{
	cudnnConvolutionFwdAlgoPerf_t found[8];
	int n;

	set_all();
	ck_assert_int_eq(
		cudnnGetConvolutionForwardAlgorithm_v7(handle, x, w, window, y, 0, &n, found),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(
		cudnnGetConvolutionForwardAlgorithm_v7(handle, x, w, window, y, 8, &n, NULL),
		CUDNN_STATUS_BAD_PARAM);
	ck_assert_int_eq(
		cudnnGetConvolutionForwardAlgorithm_v7(handle, x, w, window, y, 2, &n, found),
		CUDNN_STATUS_SUCCESS);
	ck_assert_int_eq(n, 2);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_cuda_rules");
	TCase *c = tcase_create("cuda_rules");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, test_memory);
	tcase_add_test(c, test_call);
	tcase_add_test(c, test_descriptors);
	tcase_add_test(c, test_proposals);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
