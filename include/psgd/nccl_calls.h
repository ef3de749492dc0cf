/*
 * The inside of psgd/nccl.h: collectives by NCCL as psgd/streamed.h wants them. Include that one.
 * SPDX-License-Identifier: MIT
 */
#ifndef PSGD_NCCL_CALLS_H
#define PSGD_NCCL_CALLS_H

#include <nccl.h>
#include <psgd/streamed.h>
#include <stdlib.h>
#include <string.h>

PSGD_BEGIN

/* What one collective at a time needs. */
struct psgd_nccl_place {
	struct psgd_nccl_place *next;
	cudaEvent_t ready, start, end;
	void *pinned, *staged; /* for data of the host: memory of the host and of the device */
	bool issued;	       /* given to NCCL, which may not have put it on the stream yet */
};

struct psgd_nccl {
	ncclComm_t comm; /* NULL: none yet */
	cudaStream_t stream;
	struct psgd_nccl_place *places;
	bool *gone;
	int device;
	uint32_t worker, n_workers, flags;
	bool aborted, finalized; /* of the thread that aborts and closes */
};

static inline void psgd_nccl_say(char *to, const char *what, const char *words)
{
	const char *const parts[] = {what, ": ", words ? words : ""};

	to[0] = '\0';
	for (size_t i = 0; i < 3; i++)
		strncat(to, parts[i], PSGD_STREAMED_REASON - 1 - strlen(to));
}

static inline psgd_status psgd_nccl_cuda(cudaError_t error, const char *call, char *reason)
{
	if (error == cudaSuccess)
		return PSGD_OK;
	(void)cudaGetLastError(); /* told here, it shall not be found by others */
	psgd_nccl_say(reason, call, cudaGetErrorString(error));
	return error == cudaErrorMemoryAllocation ? PSGD_ERR_NOMEM : PSGD_ERR_DEVICE;
}

#define PSGD_NCCL_TRY(call)                                                                        \
	do {                                                                                       \
		const psgd_status status_ = psgd_nccl_cuda(call, #call, reason);                   \
		if (status_ != PSGD_OK)                                                            \
			return status_;                                                            \
	} while (0)

/*
 * PENDING while NCCL is at it. A peer that is gone shows as a remote or as an internal error. The
 * last error's words are NCCL's, not one communicator's, which may be gone by now.
 */
static inline psgd_status psgd_nccl_result(ncclResult_t result, char *reason)
{
	if (result == ncclSuccess || result == ncclInProgress)
		return result == ncclSuccess ? PSGD_OK : PSGD_PENDING;
	psgd_nccl_say(reason, ncclGetErrorString(result), ncclGetLastError(NULL));
	if (result == ncclRemoteError || result == ncclInternalError)
		return PSGD_ERR_PEER_LOST;
	return result == ncclUnhandledCudaError ? PSGD_ERR_DEVICE : PSGD_ERR_TRANSPORT;
}

static inline psgd_status psgd_nccl_state(ncclComm_t comm, char *reason)
{
	ncclResult_t state = ncclSuccess, result = ncclCommGetAsyncError(comm, &state);

	return psgd_nccl_result(result == ncclSuccess ? state : result, reason);
}

static inline psgd_status psgd_nccl_is_host(void *self, const void *data, bool *host, char *reason)
{
	struct cudaPointerAttributes a;

	PSGD_NCCL_TRY(cudaSetDevice(((struct psgd_nccl *)self)->device));
	PSGD_NCCL_TRY(cudaPointerGetAttributes(&a, data));
	*host = a.type == cudaMemoryTypeHost || a.type == cudaMemoryTypeUnregistered;
	return PSGD_OK;
}

static inline psgd_status psgd_nccl_place_create(
	void *self, size_t bytes, void **place, void **host, char *reason)
{
	struct psgd_nccl *n = (struct psgd_nccl *)self;
	struct psgd_nccl_place *p = (struct psgd_nccl_place *)calloc(1, sizeof(*p));

	if (!p)
		return PSGD_ERR_NOMEM;
	p->next = n->places; /* at once, so that close finds whatever there is of it */
	n->places = p;
	PSGD_NCCL_TRY(cudaSetDevice(n->device));
	PSGD_NCCL_TRY(cudaEventCreateWithFlags(&p->ready, cudaEventDisableTiming));
	PSGD_NCCL_TRY(cudaEventCreateWithFlags(&p->start, cudaEventDefault));
	PSGD_NCCL_TRY(cudaEventCreateWithFlags(&p->end, cudaEventDefault));
	if (bytes) {
		PSGD_NCCL_TRY(cudaHostAlloc(&p->pinned, bytes, cudaHostAllocDefault));
		PSGD_NCCL_TRY(cudaMalloc(&p->staged, bytes));
	}
	*place = p;
	*host = p->pinned;
	return PSGD_OK;
}

static inline psgd_status psgd_nccl_mark(void *self, void *place, psgd_stream stream, char *reason)
{
	(void)self;
	PSGD_NCCL_TRY(
		cudaEventRecord(((struct psgd_nccl_place *)place)->ready, (cudaStream_t)stream));
	return PSGD_OK;
}

static inline psgd_status psgd_nccl_issue(
	struct psgd_nccl *n, const struct psgd_streamed_job *job, char *reason)
{
	const struct psgd_collective *c = job->collective;
	struct psgd_nccl_place *p = (struct psgd_nccl_place *)job->place;
	const ncclDataType_t type = c->dtype == PSGD_F32   ? ncclFloat32
				    : c->dtype == PSGD_F64 ? ncclFloat64
							   : ncclUint8;
	char *data = (char *)(job->host ? p->staged : c->data);
	char *block = data + job->bytes / n->n_workers * n->worker; /* of an all-gather */
	const size_t count = (size_t)c->count;

	PSGD_NCCL_TRY(cudaStreamWaitEvent(n->stream, p->ready, 0));
	PSGD_NCCL_TRY(cudaEventRecord(p->start, n->stream));
	if (job->host)
		PSGD_NCCL_TRY(cudaMemcpyAsync(
			data, job->host, job->bytes, cudaMemcpyHostToDevice, n->stream));
	return psgd_nccl_result(
		c->kind == PSGD_ALLREDUCE_SUM
			? ncclAllReduce(data, data, count, type, ncclSum, n->comm, n->stream)
		: c->kind == PSGD_BROADCAST
			? ncclBroadcast(data, data, count, type, (int)c->root, n->comm, n->stream)
			: ncclAllGather(block, data, count, type, n->comm, n->stream),
		reason);
}

static inline psgd_status psgd_nccl_start(
	void *self, const struct psgd_streamed_job *job, char *reason)
{
	struct psgd_nccl *n = (struct psgd_nccl *)self;
	struct psgd_nccl_place *p = (struct psgd_nccl_place *)job->place;
	psgd_status status = psgd_nccl_state(n->comm, reason);

	PSGD_NCCL_TRY(cudaSetDevice(n->device));
	if (status == PSGD_OK && !p->issued) {
		p->issued = true;
		status = psgd_nccl_issue(n, job, reason);
	}
	if (status != PSGD_OK)
		return status;
	p->issued = false;
	if (job->host)
		PSGD_NCCL_TRY(cudaMemcpyAsync(
			job->host, p->staged, job->bytes, cudaMemcpyDeviceToHost, n->stream));
	PSGD_NCCL_TRY(cudaEventRecord(p->end, n->stream));
	PSGD_NCCL_TRY(cudaLaunchHostFunc(n->stream, job->done, job->user));
	return PSGD_OK;
}

static inline psgd_status psgd_nccl_test(
	void *self, const struct psgd_streamed_job *job, int64_t *wire_ns, char *reason)
{
	struct psgd_nccl_place *p = (struct psgd_nccl_place *)job->place;
	const cudaError_t through = cudaEventQuery(p->end);
	psgd_status status;
	float ms = 0;

	if (through == cudaErrorNotReady) {
		(void)cudaGetLastError();
		status = psgd_nccl_state(((struct psgd_nccl *)self)->comm, reason);
		return status < 0 ? status : PSGD_PENDING;
	}
	PSGD_NCCL_TRY(through);
	PSGD_NCCL_TRY(cudaEventElapsedTime(&ms, p->start, p->end));
	*wire_ns = (int64_t)((double)ms * 1e6);
	return PSGD_OK;
}

PSGD_END
#endif
