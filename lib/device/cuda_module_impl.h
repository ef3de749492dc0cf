/*
 * Between the files of the module psgd-cuda.so. Calls come from several threads, each of which has
 * a current device of its own: it is set where it differs, and put back.
 */
#ifndef PSGD_DEVICE_CUDA_MODULE_IMPL_H
#define PSGD_DEVICE_CUDA_MODULE_IMPL_H

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <pthread.h>

#include "device/cuda_module.h"

#define PSGD__CUDA_SLOTS 64
#define PSGD__CUDA_TEXT_BYTES 256

/* Lists on their way to the device: written on the host, copied to the same places there. */
struct psgd__cuda_slot {
	char *host, *device;
	size_t bytes;
	cudaEvent_t event; /* behind what used it last */
};

struct psgd__cuda {
	struct psgd__cuda_setup setup;
	char variant[16];
	/* Held while a call of the table of kernels puts its work into the stream. */
	pthread_mutex_t lock;
	struct psgd__cuda_slot slots[PSGD__CUDA_SLOTS];
	size_t n_slots, next;
	/* Partial sums: of one call at a time, in whatever stream; `work_event` is behind it. */
	char *work;
	size_t work_bytes;
	cudaEvent_t work_event;
	cublasHandle_t blas; /* NULL: not needed so far */
	/* The driver's, for the calling thread; NULL: not found. */
	int (*get_context)(void **context);
	int (*set_context)(void *context);
	pthread_mutex_t text_lock;
	char text[PSGD__CUDA_TEXT_BYTES]; /* of the last failure */
};

/* Says what went wrong, and gives its status. cudaSuccess: OK. `what`: "cudaMalloc". */
psgd_status psgd__cuda_status(struct psgd__cuda *d, cudaError_t error, const char *what);
void psgd__cuda_say(struct psgd__cuda *d, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Finds get_context and set_context. */
void psgd__cuda_find_contexts(struct psgd__cuda *d);
/* Makes the device current; *before: which one was, for `leave`. */
psgd_status psgd__cuda_enter(struct psgd__cuda *d, int *before);
void psgd__cuda_leave(struct psgd__cuda *d, int before);

/* Memory of the device, which is current. Freeing does not wait for what uses it. */
psgd_status psgd__cuda_alloc(struct psgd__cuda *d, size_t bytes, void **out);
void psgd__cuda_free(struct psgd__cuda *d, void *memory, size_t bytes);

/* One call of the table of kernels. */
struct psgd__cuda_call {
	struct psgd__cuda *d;
	cudaStream_t stream;
	struct psgd__cuda_slot *slot; /* NULL: none is needed */
	size_t used;
	int before;
	bool works; /* with d->work */
};

/*
 * Takes the lock, makes the device current, opens a range `name` for a profiler, and has a slot of
 * `count` times `each` bytes and some more; 0: none. When it succeeds, `end` must follow.
 */
psgd_status psgd__cuda_begin(struct psgd__cuda_call *call, struct psgd__cuda *d, psgd_stream stream,
	const char *name, size_t count, size_t each);
/* Gives the status, or that of what failed here. */
psgd_status psgd__cuda_end(struct psgd__cuda_call *call, psgd_status status);

/* Room in the slot, zeroed. The sum of what is put is at most what `begin` was told. */
void *psgd__cuda_put(struct psgd__cuda_call *call, size_t bytes);
/* Where on the device that is which was put. */
void *psgd__cuda_place(const struct psgd__cuda_call *call, const void *put);
/* All that was put, in the stream's order. */
psgd_status psgd__cuda_send(struct psgd__cuda_call *call);
/* Back from the device to where it was put; waits for it. */
psgd_status psgd__cuda_fetch(struct psgd__cuda_call *call, void *put, size_t bytes);
/* Memory of the device for the kernels of this call. */
psgd_status psgd__cuda_work(struct psgd__cuda_call *call, size_t bytes, float **out);
/* Ends slots, working memory and cuBLAS. The device is current, and idle as to this device. */
void psgd__cuda_release(struct psgd__cuda *d);

/* g += e; p = g q, or with `back` q = g^T p. */
psgd_status psgd__cuda_projections(
	struct psgd__cuda_call *call, const struct psgd__matrix *list, size_t count, bool back);

/* The table's calls of a round. */
psgd_status psgd__cuda_round_start(void *self, const struct psgd__start *list, size_t count,
	uint64_t seed, float eps, psgd_stream stream);
psgd_status psgd__cuda_round_absorb_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
psgd_status psgd__cuda_round_orthonormalize(
	void *self, const struct psgd__panel *list, size_t count, float eps, psgd_stream stream);
psgd_status psgd__cuda_round_back_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
psgd_status psgd__cuda_round_reconstruct(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
psgd_status psgd__cuda_round_finish(void *self, const struct psgd__finish *f, psgd_stream stream);

/* Bytes of the slot that a list takes for each item. */
#define PSGD__CUDA_EACH(type) (sizeof(type) + sizeof(uint32_t))

extern const struct psgd_device_ops psgd__cuda_ops;
extern const struct psgd_kernels psgd__cuda_kernels;

psgd_status psgd__cuda_upload(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream);
psgd_status psgd__cuda_download(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream);

#endif
