/* The engine of CUDA devices: memory, copies, loops. SPDX-License-Identifier: MIT */
#include "cuda_nn.h"

#include <nvtx3/nvToolsExt.h>
#include <stdlib.h>
#include <string.h>

#include "layers.h"

psgd_status cuda_check(cudaError_t result, const char *what, struct image_error *error)
{
	if (result == cudaSuccess)
		return PSGD_OK;
	/* Or the next launch would be taken for what failed. */
	(void)cudaGetLastError();
	return image_fail(error,
		result == cudaErrorMemoryAllocation ? PSGD_ERR_NOMEM : PSGD_ERR_DEVICE,
		"CUDA: %s: %s", what, cudaGetErrorString(result));
}

psgd_status cuda_check_blas(cublasStatus_t result, const char *what, struct image_error *error)
{
	if (result == CUBLAS_STATUS_SUCCESS)
		return PSGD_OK;
	return image_fail(error,
		result == CUBLAS_STATUS_ALLOC_FAILED ? PSGD_ERR_NOMEM : PSGD_ERR_DEVICE,
		"cuBLAS: %s: %s", what, cublasGetStatusString(result));
}

static bool is_out_of_memory(cudnnStatus_t result)
{
#if CUDNN_MAJOR > 8
	if (result == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)
		return true;
#endif
	return result == CUDNN_STATUS_ALLOC_FAILED;
}

/* What cuDNN has to say of this thread's last failure, in one line. */
static void find_reason(char *text, size_t bytes)
{
	text[0] = 0;
#if CUDNN_MAJOR > 8
	cudnnGetLastErrorString(text, bytes);
	text[bytes - 1] = 0;
	for (size_t i = strlen(text); i-- > 0;)
		if (text[i] == '\n')
			text[i] = text[i + 1] ? ' ' : 0;
#else
	(void)bytes;
#endif
}

psgd_status cuda_check_dnn(cudnnStatus_t result, const char *what, struct image_error *error)
{
	char reason[256];

	if (result == CUDNN_STATUS_SUCCESS)
		return PSGD_OK;
	find_reason(reason, sizeof(reason));
	return image_fail(error, is_out_of_memory(result) ? PSGD_ERR_NOMEM : PSGD_ERR_DEVICE,
		"cuDNN: %s: %s%s%s", what, cudnnGetErrorString(result), reason[0] ? ": " : "",
		reason);
}

/* Memory that is still in use must not be freed. */
static void release(struct cuda_nn *nn, void *memory)
{
	(void)cudaStreamSynchronize(nn->place.stream);
	(void)cudaFree(memory);
	(void)cudaGetLastError();
}

psgd_status cuda_reserve(struct cuda_nn *nn, size_t bytes, struct image_error *error)
{
	void *larger = NULL;
	psgd_status status = PSGD_OK, freed = PSGD_OK;

	if (bytes <= nn->scratch_bytes)
		return PSGD_OK;
	if (cudaMalloc(&larger, bytes) != cudaSuccess) {
		(void)cudaGetLastError();
		return image_fail(error, PSGD_ERR_NOMEM,
			"out of memory of the device: %zu bytes of scratch", bytes);
	}
	if (nn->scratch) {
		status = cuda_check(cudaStreamSynchronize(nn->place.stream), "scratch", error);
		freed = cuda_check(cudaFree(nn->scratch), "scratch", error);
	}
	nn->scratch = larger;
	nn->scratch_bytes = bytes;
	return status ? status : freed;
}

static float *device_alloc(struct nn *base, size_t n)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;
	void *memory = NULL;

	if (n > SIZE_MAX / sizeof(float) || cudaMalloc(&memory, n * sizeof(float)) != cudaSuccess) {
		(void)cudaGetLastError();
		return NULL;
	}
	if (cudaMemsetAsync(memory, 0, n * sizeof(float), nn->place.stream) != cudaSuccess) {
		release(nn, memory);
		return NULL;
	}
	return memory;
}

static void device_free(struct nn *base, float *values)
{
	release((struct cuda_nn *)base, values);
}

static float *host_alloc(struct nn *base, size_t n)
{
	void *memory = NULL;

	(void)base;
	if (n > SIZE_MAX / sizeof(float) ||
		cudaHostAlloc(&memory, n * sizeof(float), cudaHostAllocDefault) != cudaSuccess) {
		(void)cudaGetLastError();
		return NULL;
	}
	return memory;
}

static void host_free(struct nn *base, float *values)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;

	(void)cudaStreamSynchronize(nn->place.stream);
	(void)cudaFreeHost(values);
	(void)cudaGetLastError();
}

static psgd_status move(struct nn *base, float *to, const float *from, size_t n,
	enum cudaMemcpyKind kind, const char *what, struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;

	if (n == 0)
		return PSGD_OK;
	return cuda_check(
		cudaMemcpyAsync(to, from, n * sizeof(float), kind, nn->place.stream), what, error);
}

static psgd_status wait(struct nn *base, const char *what, struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;

	return cuda_check(cudaStreamSynchronize(nn->place.stream), what, error);
}

static psgd_status upload(
	struct nn *base, float *to, const float *host, size_t n, struct image_error *error)
{
	psgd_status status = move(base, to, host, n, cudaMemcpyHostToDevice, "upload", error);
	/* The host's memory may be in use even if the copy was refused. */
	psgd_status waited = wait(base, "upload", error);

	return status ? status : waited;
}

static psgd_status fetch(
	struct nn *base, float *host, const float *from, size_t n, struct image_error *error)
{
	return move(base, host, from, n, cudaMemcpyDeviceToHost, "download", error);
}

static psgd_status download(
	struct nn *base, float *host, const float *from, size_t n, struct image_error *error)
{
	psgd_status status = fetch(base, host, from, n, error);

	return status ? status : wait(base, "download", error);
}

static psgd_status send(
	struct nn *base, float *to, const float *host, size_t n, struct image_error *error)
{
	return move(base, to, host, n, cudaMemcpyHostToDevice, "upload", error);
}

static psgd_status copy(
	struct nn *base, float *to, const float *from, size_t n, struct image_error *error)
{
	return move(base, to, from, n, cudaMemcpyDeviceToDevice, "copy", error);
}

static void *stream(struct nn *base)
{
	return ((struct cuda_nn *)base)->place.stream;
}

static void range(struct nn *base, const char *name)
{
	(void)base;
	if (name)
		(void)nvtxRangePushA(name);
	else
		(void)nvtxRangePop();
}

static const struct cuda_place *place_of(const struct nn *base)
{
	return &((const struct cuda_nn *)base)->place;
}

static psgd_status relu(struct nn *base, float *y, const float *a, const float *b, size_t n,
	struct image_error *error)
{
	return cuda_check(cuda_relu(place_of(base), y, a, b, n), "relu", error);
}

static psgd_status relu_back(struct nn *base, float *dx, const float *a, const float *b,
	const float *y, size_t n, struct image_error *error)
{
	return cuda_check(cuda_relu_back(place_of(base), dx, a, b, y, n), "relu backward", error);
}

static psgd_status combine(struct nn *base, float *out, const float *a, const float *b, float scale,
	size_t n, struct image_error *error)
{
	return cuda_check(cuda_combine(place_of(base), out, a, b, scale, n), "sum", error);
}

static psgd_status sgd_step(struct nn *base, const struct nn_sgd *sgd, float *params,
	const float *grads, float *buffer, size_t n, struct image_error *error)
{
	struct cuda_sgd rule = {sgd->rate, sgd->momentum, sgd->decay, sgd->nesterov};

	return cuda_check(
		cuda_sgd_step(place_of(base), rule, params, grads, buffer, n), "SGD", error);
}

static psgd_status track(struct nn *base, float *running, const float *mean, const float *variance,
	size_t channels, float unbias, struct image_error *error)
{
	return cuda_check(cuda_norm_track(place_of(base), running, mean, variance, (int)channels,
				  unbias, NORM_MOMENTUM),
		"running statistics", error);
}

static const struct nn_device device = {.alloc = device_alloc,
	.free = device_free,
	.host_alloc = host_alloc,
	.host_free = host_free,
	.upload = upload,
	.download = download,
	.send = send,
	.fetch = fetch,
	.copy = copy,
	.stream = stream,
	.range = range,
	.feed_open = cuda_feed_open,
	.feed_close = cuda_feed_close,
	.feed_load = cuda_feed_load,
	.feed_take = cuda_feed_take,
	.feed_drop = cuda_feed_drop,
	.relu = relu,
	.relu_back = relu_back,
	.combine = combine,
	.sgd = sgd_step,
	.track = track,
	.norm_loop = cuda_norm_loop};

void cuda_close(struct nn *base)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;

	if (nn->place.stream)
		(void)cudaStreamSynchronize(nn->place.stream);
	if (nn->dnn)
		(void)cudnnDestroy(nn->dnn);
	if (nn->blas)
		(void)cublasDestroy(nn->blas);
	for (size_t i = 0; i < 2; i++) {
		if (nn->post[i].sent)
			(void)cudaEventDestroy(nn->post[i].sent);
		if (nn->post[i].host)
			(void)cudaFreeHost(nn->post[i].host);
	}
	if (nn->scratch)
		(void)cudaFree(nn->scratch);
	if (nn->uploads)
		(void)cudaStreamDestroy(nn->uploads);
	if (nn->place.stream)
		(void)cudaStreamDestroy(nn->place.stream);
	(void)cudaGetLastError();
	free(nn);
}

/* A device is full with so many blocks on each processor; more find no room. */
#define BLOCKS_OF_PROCESSOR 8

static psgd_status open_streams(struct cuda_nn *nn, unsigned ordinal, struct image_error *error)
{
	int processors = 0;
	psgd_status status = cuda_check(cudaSetDevice((int)ordinal), "device", error);

	if (!status)
		status = cuda_check(cudaDeviceGetAttribute(&processors,
					    cudaDevAttrMultiProcessorCount, (int)ordinal),
			"device", error);
	nn->place.blocks = (unsigned)processors * BLOCKS_OF_PROCESSOR;
	if (!status)
		status = cuda_check(
			cudaStreamCreateWithFlags(&nn->place.stream, cudaStreamNonBlocking),
			"stream", error);
	if (!status)
		status = cuda_check(cudaStreamCreateWithFlags(&nn->uploads, cudaStreamNonBlocking),
			"stream", error);
	for (size_t i = 0; !status && i < 2; i++)
		status = cuda_check(
			cudaEventCreateWithFlags(&nn->post[i].sent, cudaEventDisableTiming),
			"event", error);
	return status;
}

static psgd_status open_libraries(struct cuda_nn *nn, bool tf32, struct image_error *error)
{
	psgd_status status = cuda_check_blas(cublasCreate(&nn->blas), "handle", error);

	if (!status)
		status = cuda_check_blas(
			cublasSetStream(nn->blas, nn->place.stream), "stream", error);
	if (!status)
		status = cuda_check_blas(
			cublasSetMathMode(
				nn->blas, tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH),
			"precision", error);
	if (!status)
		status = cuda_check_dnn(cudnnCreate(&nn->dnn), "handle", error);
	if (!status)
		status = cuda_check_dnn(cudnnSetStream(nn->dnn, nn->place.stream), "stream", error);
	return status;
}

static psgd_status open_nn(
	const struct image_cuda_options *options, struct nn **out, struct image_error *error)
{
	struct cuda_nn *nn = calloc(1, sizeof(*nn));
	psgd_status status;

	*out = NULL;
	if (!nn)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	nn->base = (struct nn){&cuda_ops, &device};
	nn->tf32_convolutions = options->tf32_convolutions;
	status = open_streams(nn, options->ordinal, error);
	if (!status)
		status = open_libraries(nn, options->tf32_products, error);
	if (status)
		cuda_close(&nn->base);
	else
		*out = &nn->base;
	return status;
}

const struct image_cuda_module *IMAGE_CUDA_ENTRY(void);

__attribute__((visibility("default"))) const struct image_cuda_module *IMAGE_CUDA_ENTRY(void)
{
	static const struct image_cuda_module module = {open_nn};

	return &module;
}
