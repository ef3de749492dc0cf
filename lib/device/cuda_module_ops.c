/* A CUDA device's memory, streams and events. */
#include <stdarg.h>
#include <stdio.h>

#include "base/base.h"
#include "device/cuda_module_impl.h"

#define NS_PER_MS 1e6

void psgd__cuda_say(struct psgd__cuda *d, const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&d->text_lock);
	va_start(args, format);
	vsnprintf(d->text, sizeof(d->text), format, args);
	va_end(args);
	pthread_mutex_unlock(&d->text_lock);
}

psgd_status psgd__cuda_status(struct psgd__cuda *d, cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		return PSGD_OK;
	/* Else a later call would take this error for its own. */
	cudaGetLastError();
	psgd__cuda_say(d, "%s: %s", what, cudaGetErrorString(error));
	return error == cudaErrorMemoryAllocation ? PSGD_ERR_NOMEM : PSGD_ERR_DEVICE;
}

static psgd_status no_memory(struct psgd__cuda *d, size_t bytes)
{
	size_t free_bytes = 0, total = 0;

	if (cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) {
		psgd__cuda_say(d, "out of device memory: %zu bytes wanted, %zu free of %zu", bytes,
			free_bytes, total);
	} else {
		cudaGetLastError();
		psgd__cuda_say(d, "out of device memory: %zu bytes wanted", bytes);
	}
	return PSGD_ERR_NOMEM;
}

psgd_status psgd__cuda_alloc(struct psgd__cuda *d, size_t bytes, void **out)
{
	cudaError_t error;

	*out = NULL;
	bytes = bytes ? bytes : 1;
	if (d->setup.alloc) {
		*out = d->setup.alloc(d->setup.alloc_user, bytes);
		return *out ? PSGD_OK : no_memory(d, bytes);
	}
	error = cudaMalloc(out, bytes);
	if (error != cudaSuccess)
		*out = NULL;
	if (error == cudaErrorMemoryAllocation) {
		cudaGetLastError();
		return no_memory(d, bytes);
	}
	return psgd__cuda_status(d, error, "cudaMalloc");
}

void psgd__cuda_free(struct psgd__cuda *d, void *memory, size_t bytes)
{
	if (!memory)
		return;
	if (d->setup.free)
		d->setup.free(d->setup.alloc_user, memory, bytes ? bytes : 1);
	else if (cudaFree(memory) != cudaSuccess)
		cudaGetLastError();
}

/* Ends a call of one function of CUDA's. */
static psgd_status done(struct psgd__cuda *d, int before, cudaError_t error, const char *what)
{
	psgd_status status = psgd__cuda_status(d, error, what);

	psgd__cuda_leave(d, before);
	return status;
}

static psgd_status cuda_alloc(void *self, size_t bytes, void **out)
{
	psgd_status status;
	int before;

	*out = NULL;
	PSGD__TRY(psgd__cuda_enter(self, &before));
	status = psgd__cuda_alloc(self, bytes, out);
	psgd__cuda_leave(self, before);
	return status;
}

/*
 * What frees goes on where the device cannot be made current: CUDA knows whose everything is, and
 * would only take memory for a device that this thread has not used.
 */
static int enter_to_free(struct psgd__cuda *d)
{
	int before;

	return psgd__cuda_enter(d, &before) < 0 ? (int)d->setup.ordinal : before;
}

static void cuda_free(void *self, void *memory, size_t bytes)
{
	int before;

	if (!memory)
		return;
	before = enter_to_free(self);
	psgd__cuda_free(self, memory, bytes);
	psgd__cuda_leave(self, before);
}

static psgd_status copy(struct psgd__cuda *d, void *dst, const void *src, size_t bytes,
	enum cudaMemcpyKind kind, psgd_stream stream)
{
	int before;

	if (!bytes)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_enter(d, &before));
	return done(d, before, cudaMemcpyAsync(dst, src, bytes, kind, stream), "cudaMemcpyAsync");
}

static psgd_status cuda_copy(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	return copy(self, dst, src, bytes, cudaMemcpyDeviceToDevice, stream);
}

static psgd_status cuda_zero(void *self, void *dst, size_t bytes, psgd_stream stream)
{
	int before;

	if (!bytes)
		return PSGD_OK;
	PSGD__TRY(psgd__cuda_enter(self, &before));
	return done(self, before, cudaMemsetAsync(dst, 0, bytes, stream), "cudaMemsetAsync");
}

static const char *cuda_variant(void *self)
{
	return ((struct psgd__cuda *)self)->variant;
}

/* Of the highest priority: what runs there is short, and the network waits for it, while what is on
 * the device beside it is long. */
static psgd_status cuda_stream_create(void *self, psgd_stream *out)
{
	int before, lowest, highest;
	cudaStream_t stream = NULL;
	cudaError_t error;

	*out = NULL;
	PSGD__TRY(psgd__cuda_enter(self, &before));
	error = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
	if (error == cudaSuccess)
		error = cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest);
	PSGD__TRY(done(self, before, error, "cudaStreamCreate"));
	*out = stream;
	return PSGD_OK;
}

static void cuda_stream_destroy(void *self, psgd_stream stream)
{
	int before;

	if (!stream)
		return;
	before = enter_to_free(self);
	(void)done(self, before, cudaStreamDestroy(stream), "cudaStreamDestroy");
}

static psgd_status cuda_stream_finish(void *self, psgd_stream stream)
{
	int before;

	PSGD__TRY(psgd__cuda_enter(self, &before));
	return done(self, before, cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

static psgd_status cuda_stream_wait(void *self, psgd_stream stream, psgd_event event)
{
	int before;

	PSGD__TRY(psgd__cuda_enter(self, &before));
	return done(self, before, cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
}

static psgd_status cuda_stream_call(
	void *self, psgd_stream stream, void (*fn)(void *user), void *user)
{
	int before;

	PSGD__TRY(psgd__cuda_enter(self, &before));
	return done(self, before, cudaLaunchHostFunc(stream, fn, user), "cudaLaunchHostFunc");
}

static psgd_status cuda_event_create(void *self, psgd_event *out)
{
	cudaEvent_t event = NULL;
	psgd_status status;
	int before;

	*out = NULL;
	PSGD__TRY(psgd__cuda_enter(self, &before));
	status = done(self, before, cudaEventCreateWithFlags(&event, cudaEventDefault),
		"cudaEventCreate");
	*out = status < 0 ? NULL : event;
	return status;
}

static void cuda_event_destroy(void *self, psgd_event event)
{
	int before;

	if (!event)
		return;
	before = enter_to_free(self);
	(void)done(self, before, cudaEventDestroy(event), "cudaEventDestroy");
}

static psgd_status cuda_event_record(void *self, psgd_event event, psgd_stream stream)
{
	int before;

	PSGD__TRY(psgd__cuda_enter(self, &before));
	return done(self, before, cudaEventRecord(event, stream), "cudaEventRecord");
}

static psgd_status cuda_event_test(void *self, psgd_event event)
{
	cudaError_t error;
	int before;

	PSGD__TRY(psgd__cuda_enter(self, &before));
	error = cudaEventQuery(event);
	if (error == cudaErrorNotReady) {
		cudaGetLastError();
		psgd__cuda_leave(self, before);
		return PSGD_PENDING;
	}
	return done(self, before, error, "cudaEventQuery");
}

static psgd_status cuda_event_elapsed(void *self, psgd_event from, psgd_event to, int64_t *ns)
{
	psgd_status status;
	float ms = 0.0f;
	int before;

	PSGD__TRY(psgd__cuda_enter(self, &before));
	status = done(self, before, cudaEventElapsedTime(&ms, from, to), "cudaEventElapsedTime");
	if (status >= 0)
		*ns = (int64_t)((double)ms * NS_PER_MS);
	return status;
}

/* From or to memory that CUDA does not know: it has a copy of its own, or is done, when it returns.
 */
static psgd_status copy_and_wait(struct psgd__cuda *d, void *dst, const void *src, size_t bytes,
	enum cudaMemcpyKind kind, psgd_stream stream)
{
	PSGD__TRY(copy(d, dst, src, bytes, kind, stream));
	return bytes ? cuda_stream_finish(d, stream) : PSGD_OK;
}

psgd_status psgd__cuda_upload(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	return copy_and_wait(self, dst, src, bytes, cudaMemcpyHostToDevice, stream);
}

psgd_status psgd__cuda_download(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	return copy_and_wait(self, dst, src, bytes, cudaMemcpyDeviceToHost, stream);
}

static psgd_status cuda_memory(void *self, uint64_t *free_bytes, uint64_t *total_bytes)
{
	size_t free_now = 0, total = 0;
	psgd_status status;
	int before;

	PSGD__TRY(psgd__cuda_enter(self, &before));
	status = done(self, before, cudaMemGetInfo(&free_now, &total), "cudaMemGetInfo");
	if (status >= 0) {
		*free_bytes = free_now;
		*total_bytes = total;
	}
	return status;
}

static void cuda_error(void *self, char *text, size_t bytes)
{
	struct psgd__cuda *d = self;

	if (!text || !bytes)
		return;
	pthread_mutex_lock(&d->text_lock);
	snprintf(text, bytes, "%s", d->text);
	pthread_mutex_unlock(&d->text_lock);
}

static void cuda_destroy(void *self)
{
	struct psgd__cuda *d = self;
	const int before = enter_to_free(d);

	psgd__cuda_release(d);
	psgd__cuda_leave(d, before);
	pthread_mutex_destroy(&d->text_lock);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

const struct psgd_device_ops psgd__cuda_ops = {
	.size = sizeof(psgd__cuda_ops),
	.name = "cuda",
	.alloc = cuda_alloc,
	.free = cuda_free,
	.copy = cuda_copy,
	.zero = cuda_zero,
	.kernels = &psgd__cuda_kernels,
	.destroy = cuda_destroy,
	.variant = cuda_variant,
	.stream_create = cuda_stream_create,
	.stream_destroy = cuda_stream_destroy,
	.stream_finish = cuda_stream_finish,
	.stream_wait = cuda_stream_wait,
	.stream_call = cuda_stream_call,
	.event_create = cuda_event_create,
	.event_destroy = cuda_event_destroy,
	.event_record = cuda_event_record,
	.event_test = cuda_event_test,
	.event_elapsed = cuda_event_elapsed,
	.upload = psgd__cuda_upload,
	.download = psgd__cuda_download,
	.memory = cuda_memory,
	.error = cuda_error,
};
