/*
 * A transport over a trainer's own NCCL communicator. Header-only: compile it with the CUDA and
 * NCCL that the trainer uses, and link those and libpsgd. C11 and C++17.
 * SPDX-License-Identifier: MIT
 */
#ifndef PSGD_NCCL_H
#define PSGD_NCCL_H

#include <psgd/nccl_calls.h>

PSGD_BEGIN

enum psgd_nccl_flags {
	PSGD_NCCL_OWN = 1 << 0 /* the transport ends the communicator */
};

struct psgd_nccl_comm_options {
	size_t size;
	int64_t timeout_ns; /* deadline of every collective; 0: 60 s */
	/*
	 * Of a communicator that is not its own, or NULL: set to true when the transport had to
	 * abort it, so that it must not be used or destroyed. To be read after the transport's end.
	 */
	bool *gone;
	char *error; /* the caller's buffer for the reason of a failure, or NULL */
	size_t error_bytes;
	uint32_t flags; /* enum psgd_nccl_flags */
	uint32_t reserved;
};

static inline void psgd_nccl_abort(void *self)
{
	struct psgd_nccl *n = (struct psgd_nccl *)self;

	n->aborted = true;
	if (n->gone)
		*n->gone = true;
	(void)cudaSetDevice(n->device);
	if (n->comm)
		(void)ncclCommAbort(n->comm);
}

/* Nothing is on the stream any more, or NCCL was told to take it off. */
static inline void psgd_nccl_free(struct psgd_nccl *n)
{
	struct psgd_nccl_place *p;

	(void)cudaStreamSynchronize(n->stream);
	while ((p = n->places)) {
		n->places = p->next;
		if (p->ready)
			(void)cudaEventDestroy(p->ready);
		if (p->start)
			(void)cudaEventDestroy(p->start);
		if (p->end)
			(void)cudaEventDestroy(p->end);
		(void)cudaFreeHost(p->pinned);
		(void)cudaFree(p->staged);
		free(p);
	}
	(void)cudaStreamDestroy(n->stream);
	(void)cudaGetLastError();
	free(n);
}

static inline psgd_status psgd_nccl_close(void *self)
{
	struct psgd_nccl *n = (struct psgd_nccl *)self;
	char reason[PSGD_STREAMED_REASON];
	psgd_status status = PSGD_OK;

	(void)cudaSetDevice(n->device);
	if (n->comm && !n->aborted && (n->flags & PSGD_NCCL_OWN)) {
		if (!n->finalized)
			status = psgd_nccl_result(ncclCommFinalize(n->comm), reason);
		n->finalized = true;
		if (status >= 0)
			status = psgd_nccl_state(n->comm, reason);
		if (status == PSGD_PENDING)
			return status;
		(void)(status == PSGD_OK ? ncclCommDestroy(n->comm) : ncclCommAbort(n->comm));
	}
	psgd_nccl_free(n);
	return PSGD_OK;
}

static inline const struct psgd_streamed_ops *psgd_nccl_ops(void)
{
	static const struct psgd_streamed_ops ops = {sizeof(struct psgd_streamed_ops), "nccl",
		psgd_nccl_is_host, psgd_nccl_place_create, psgd_nccl_mark, psgd_nccl_start,
		psgd_nccl_test, psgd_nccl_abort, psgd_nccl_close};

	return &ops;
}

/* With a stream, without a communicator. */
static inline psgd_status psgd_nccl_open(
	int device, uint32_t worker, uint32_t n_workers, struct psgd_nccl **out, char *reason)
{
	struct psgd_nccl *n = (struct psgd_nccl *)calloc(1, sizeof(*n));
	int lowest = 0, highest = 0;
	psgd_status status;

	*out = NULL;
	if (!n)
		return PSGD_ERR_NOMEM;
	n->device = device;
	n->worker = worker;
	n->n_workers = n_workers;
	status = psgd_nccl_cuda(cudaSetDevice(device), "cudaSetDevice", reason);
	/* The network is not to wait until what a trainer runs leaves room on the device. */
	if (status == PSGD_OK)
		status = psgd_nccl_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest),
			"cudaDeviceGetStreamPriorityRange", reason);
	if (status == PSGD_OK)
		status = psgd_nccl_cuda(
			cudaStreamCreateWithPriority(&n->stream, cudaStreamNonBlocking, highest),
			"cudaStreamCreateWithPriority", reason);
	if (status == PSGD_OK)
		*out = n;
	else
		free(n);
	return status;
}

/*
 * Collectives by a communicator that is ready, blocking or not, on a stream of the transport's own.
 * Nobody else may use it until the transport is destroyed. Data are memory of the communicator's
 * device, or of the host. Posting makes that device the calling thread's current one.
 * options: NULL or zeros for the defaults. On success *out is the caller's; on failure it is
 * zeroed, and the communicator is the caller's as before.
 * Errors: INVALID, NOMEM, DEVICE, TRANSPORT. Any thread.
 */
static inline psgd_status psgd_transport_nccl_comm(
	ncclComm_t comm, const struct psgd_nccl_comm_options *options, struct psgd_transport *out)
{
	struct psgd_nccl_comm_options o = {0, 0, NULL, NULL, 0, 0, 0};
	char reason[PSGD_STREAMED_REASON] = "";
	int worker = 0, n_workers = 0, device = 0;
	struct psgd_nccl *n = NULL;
	psgd_status status;

	memset(out, 0, sizeof(*out));
	if (options)
		o = *options;
	status = !comm || o.flags & ~(uint32_t)PSGD_NCCL_OWN || o.reserved ? PSGD_ERR_INVALID
									   : PSGD_OK;
	if (status == PSGD_OK)
		status = psgd_nccl_result(ncclCommUserRank(comm, &worker), reason);
	if (status == PSGD_OK)
		status = psgd_nccl_result(ncclCommCount(comm, &n_workers), reason);
	if (status == PSGD_OK)
		status = psgd_nccl_result(ncclCommCuDevice(comm, &device), reason);
	if (status == PSGD_OK)
		status = psgd_nccl_open(device, (uint32_t)worker, (uint32_t)n_workers, &n, reason);
	if (status == PSGD_OK) {
		n->comm = comm;
		n->flags = o.flags;
		n->gone = o.flags & PSGD_NCCL_OWN ? NULL : o.gone;
		status = psgd_transport_streamed(
			psgd_nccl_ops(), n, n->worker, n->n_workers, o.timeout_ns, out);
		if (status != PSGD_OK)
			psgd_nccl_free(n);
	}
	if (o.error_bytes)
		o.error[0] = '\0';
	if (o.error_bytes && status != PSGD_OK)
		strncat(o.error, reason[0] ? reason : psgd_status_text(status), o.error_bytes - 1);
	return status == PSGD_PENDING ? PSGD_ERR_TRANSPORT : status;
}

PSGD_END
#endif
