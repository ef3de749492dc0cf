/* What every call of the table of kernels needs: a slot for its lists, memory for partial sums. */
#include <nvtx3/nvToolsExt.h>
#include <string.h>

#include "base/base.h"
#include "device/cuda_module_impl.h"

#define ALIGN 16
#define SLACK 256 /* for what is beside a list, and its alignment */
#define LEAST_BYTES 16384

static void empty_slot(struct psgd__cuda *d, struct psgd__cuda_slot *slot)
{
	if (slot->host)
		cudaFreeHost(slot->host);
	psgd__cuda_free(d, slot->device, slot->bytes);
	slot->host = slot->device = NULL;
	slot->bytes = 0;
}

/* The slot is idle. It grows by doubling, so that before long no step allocates any more. */
static psgd_status make_room(struct psgd__cuda *d, struct psgd__cuda_slot *slot, size_t bytes)
{
	size_t whole = LEAST_BYTES;
	psgd_status status;
	void *memory;
	cudaError_t error;

	if (!slot->event)
		PSGD__TRY(psgd__cuda_status(d,
			cudaEventCreateWithFlags(&slot->event, cudaEventDisableTiming),
			"cudaEventCreate"));
	if (slot->bytes >= bytes)
		return PSGD_OK;
	while (whole < bytes)
		whole *= 2;
	empty_slot(d, slot);
	error = cudaHostAlloc(&memory, whole, cudaHostAllocDefault);
	if (error == cudaErrorMemoryAllocation) {
		cudaGetLastError();
		psgd__cuda_say(d, "out of pinned memory: %zu bytes wanted", whole);
		return PSGD_ERR_NOMEM;
	}
	PSGD__TRY(psgd__cuda_status(d, error, "cudaHostAlloc"));
	slot->host = memory;
	status = psgd__cuda_alloc(d, whole, &memory);
	if (status < 0) {
		empty_slot(d, slot);
		return status;
	}
	slot->device = memory;
	slot->bytes = whole;
	return PSGD_OK;
}

/*
 * The slot that was used longest ago, if the device is through with it, else a new one. So the host
 * waits here only when very much is in flight.
 */
static psgd_status take_slot(struct psgd__cuda *d, size_t bytes, struct psgd__cuda_slot **out)
{
	struct psgd__cuda_slot *slot = &d->slots[d->next];

	if (!d->n_slots) {
		d->n_slots = 1;
	} else if (slot->event) {
		cudaError_t error = cudaEventQuery(slot->event);

		if (error == cudaErrorNotReady) {
			cudaGetLastError();
			if (d->n_slots < PSGD__CUDA_SLOTS) {
				slot = &d->slots[d->n_slots++];
				error = cudaSuccess;
			} else {
				error = cudaEventSynchronize(slot->event);
			}
		}
		PSGD__TRY(psgd__cuda_status(d, error, "cudaEventQuery"));
	}
	PSGD__TRY(make_room(d, slot, bytes));
	d->next = ((size_t)(slot - d->slots) + 1) % d->n_slots;
	*out = slot;
	return PSGD_OK;
}

psgd_status psgd__cuda_begin(struct psgd__cuda_call *call, struct psgd__cuda *d, psgd_stream stream,
	const char *name, size_t count, size_t each)
{
	psgd_status status;

	*call = (struct psgd__cuda_call){.d = d, .stream = stream};
	if (count > INT32_MAX) {
		psgd__cuda_say(d, "a list of %zu items", count);
		return PSGD_ERR_INVALID;
	}
	PSGD__TRY(psgd__cuda_enter(d, &call->before));
	pthread_mutex_lock(&d->lock);
	nvtxRangePushA(name);
	if (!each)
		return PSGD_OK;
	status = take_slot(d, count * each + SLACK, &call->slot);
	return status < 0 ? psgd__cuda_end(call, status) : PSGD_OK;
}

/* The slot may be in use by now, whatever has failed since. */
static psgd_status mark_behind(struct psgd__cuda_call *call, cudaEvent_t event)
{
	psgd_status status =
		psgd__cuda_status(call->d, cudaEventRecord(event, call->stream), "cudaEventRecord");

	if (status < 0)
		cudaStreamSynchronize(call->stream);
	return status;
}

psgd_status psgd__cuda_end(struct psgd__cuda_call *call, psgd_status status)
{
	struct psgd__cuda *d = call->d;
	psgd_status marked;

	if (call->works) {
		marked = mark_behind(call, d->work_event);
		status = status < 0 ? status : marked;
	}
	if (call->slot) {
		marked = mark_behind(call, call->slot->event);
		status = status < 0 ? status : marked;
	}
	nvtxRangePop();
	pthread_mutex_unlock(&d->lock);
	psgd__cuda_leave(d, call->before);
	return status;
}

void *psgd__cuda_put(struct psgd__cuda_call *call, size_t bytes)
{
	void *place = call->slot->host + call->used;

	call->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
	return memset(place, 0, bytes);
}

void *psgd__cuda_place(const struct psgd__cuda_call *call, const void *put)
{
	return call->slot->device + ((const char *)put - call->slot->host);
}

psgd_status psgd__cuda_send(struct psgd__cuda_call *call)
{
	return psgd__cuda_status(call->d,
		cudaMemcpyAsync(call->slot->device, call->slot->host, call->used,
			cudaMemcpyHostToDevice, call->stream),
		"cudaMemcpyAsync");
}

psgd_status psgd__cuda_fetch(struct psgd__cuda_call *call, void *put, size_t bytes)
{
	PSGD__TRY(psgd__cuda_status(call->d,
		cudaMemcpyAsync(put, psgd__cuda_place(call, put), bytes, cudaMemcpyDeviceToHost,
			call->stream),
		"cudaMemcpyAsync"));
	return psgd__cuda_status(
		call->d, cudaStreamSynchronize(call->stream), "cudaStreamSynchronize");
}

psgd_status psgd__cuda_work(struct psgd__cuda_call *call, size_t bytes, float **out)
{
	struct psgd__cuda *d = call->d;
	void *memory = NULL;

	if (!d->work_event)
		PSGD__TRY(psgd__cuda_status(d,
			cudaEventCreateWithFlags(&d->work_event, cudaEventDisableTiming),
			"cudaEventCreate"));
	if (bytes > d->work_bytes) {
		if (d->work)
			PSGD__TRY(psgd__cuda_status(
				d, cudaEventSynchronize(d->work_event), "cudaEventSynchronize"));
		psgd__cuda_free(d, d->work, d->work_bytes);
		d->work = NULL;
		d->work_bytes = 0;
		PSGD__TRY(psgd__cuda_alloc(d, bytes, &memory));
		d->work = memory;
		d->work_bytes = bytes;
	}
	/* Another stream may still be using it. */
	PSGD__TRY(psgd__cuda_status(
		d, cudaStreamWaitEvent(call->stream, d->work_event, 0), "cudaStreamWaitEvent"));
	call->works = true;
	*out = (float *)(void *)d->work;
	return PSGD_OK;
}

void psgd__cuda_release(struct psgd__cuda *d)
{
	for (size_t i = 0; i < d->n_slots; i++) {
		struct psgd__cuda_slot *slot = &d->slots[i];

		if (slot->event) {
			cudaEventSynchronize(slot->event);
			cudaEventDestroy(slot->event);
		}
		empty_slot(d, slot);
	}
	/* What works with partial sums has a slot as well, whose event is behind them. */
	if (d->work_event)
		cudaEventDestroy(d->work_event);
	psgd__cuda_free(d, d->work, d->work_bytes);
	if (d->blas)
		cublasDestroy(d->blas);
}
