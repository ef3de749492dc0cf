/* Devices: where gradients live and kernels run. SPDX-License-Identifier: MIT */
#ifndef PSGD_DEVICE_H
#define PSGD_DEVICE_H

#include <psgd/types.h>

PSGD_BEGIN

struct psgd_kernels; /* private: kernels are the library's own */

typedef void *psgd_event; /* a place in a stream of an asynchronous device */

/*
 * Operations of a device. Entries may be called from the session's progress thread and from the
 * thread that drives the session, at the same time.
 */
struct psgd_device_ops {
	size_t size;
	const char *name;
	/* At least `bytes` bytes, aligned to 64, content undefined. NOMEM: *out is NULL. */
	psgd_status (*alloc)(void *self, size_t bytes, void **out);
	void (*free)(void *self, void *memory, size_t bytes); /* memory may be NULL */
	/* In the order of `stream`; both sides are memory of this device. */
	psgd_status (*copy)(
		void *self, void *dst, const void *src, size_t bytes, psgd_stream stream);
	psgd_status (*zero)(void *self, void *dst, size_t bytes, psgd_stream stream);
	const struct psgd_kernels *kernels;
	void (*destroy)(void *self);
	/* Which kernels it runs: "avx512"; lasts as long as the device. NULL: it does not say. */
	const char *(*variant)(void *self);
	/*
	 * An asynchronous device has all that follow. What takes a stream is done in the stream's
	 * order then, and the call may return before; `alloc` and `free` have no order. On other
	 * devices they are NULL: streams are NULL, memory is the host's, every call has finished
	 * when it returns.
	 */
	psgd_status (*stream_create)(void *self, psgd_stream *out);
	void (*stream_destroy)(void *self, psgd_stream stream); /* NULL is fine */
	/* Waits until all that is in the stream is done. Not for use within a step. */
	psgd_status (*stream_finish)(void *self, psgd_stream stream);
	/* What comes into the stream from now on runs after what `event` was recorded behind. */
	psgd_status (*stream_wait)(void *self, psgd_stream stream, psgd_event event);
	/* Calls fn(user) from a thread of the driver's when the stream gets there; if the device
	 * fails, perhaps never. fn must not call the device. */
	psgd_status (*stream_call)(
		void *self, psgd_stream stream, void (*fn)(void *user), void *user);
	psgd_status (*event_create)(void *self, psgd_event *out);
	void (*event_destroy)(void *self, psgd_event event); /* NULL, or one not reached, is fine */
	psgd_status (*event_record)(void *self, psgd_event event, psgd_stream stream);
	/* OK: what it was recorded behind is done, or it was never recorded. PENDING. Or DEVICE. */
	psgd_status (*event_test)(void *self, psgd_event event);
	/* The time between two events that are done. */
	psgd_status (*event_elapsed)(void *self, psgd_event from, psgd_event to, int64_t *ns);
	/* From the host's memory and to it, in the stream's order; returns when it is done. */
	psgd_status (*upload)(
		void *self, void *dst, const void *src, size_t bytes, psgd_stream stream);
	psgd_status (*download)(
		void *self, void *dst, const void *src, size_t bytes, psgd_stream stream);
	/* Of the device's memory, whoever uses it. */
	psgd_status (*memory)(void *self, uint64_t *free_bytes, uint64_t *total_bytes);
	/* Copies the reason of the last failure, "" if there was none. Any thread. */
	void (*error)(void *self, char *text, size_t bytes);
};

struct psgd_device {
	const struct psgd_device_ops *ops;
	void *self;
};

/* Instruction sets that kernels are written for, beside plain C. */
enum psgd_cpu_feature {
	PSGD_CPU_AVX2 = 1 << 0,	  /* with FMA */
	PSGD_CPU_AVX512 = 1 << 1, /* F, BW, DQ, VL */
	PSGD_CPU_FEATURES = (1 << 2) - 1
};

struct psgd_device_cpu_options {
	size_t size;
	/*
	 * The caller's allocator; NULL: the C library's. Must return memory aligned to 64 bytes;
	 * free gets the size that alloc was asked for.
	 */
	void *(*alloc)(void *user, size_t bytes);
	void (*free)(void *user, void *memory, size_t bytes);
	void *alloc_user;
	uint32_t threads; /* that share the work of a call, the caller's included; 0: 1 */
	uint32_t without; /* mask of psgd_cpu_feature: not to be used, though the CPU has it */
};

/*
 * The CPU. All calls finish before they return; streams are NULL. The best kernels that the CPU
 * can run are chosen here. Neither their choice nor the number of threads changes a bit of what
 * workers compute alike; threads change no bit at all.
 * options: NULL or zeros for the defaults; alloc and free are given both or not at all.
 * On success *out is the caller's, ended by psgd_device_destroy; on failure it is zeroed.
 * Errors: INVALID, NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_device_cpu(
	const struct psgd_device_cpu_options *options, struct psgd_device *out);

/*
 * The mask that leaves the kernels of that name: "auto" (the best, mask 0), "plain", "avx2",
 * "avx512". Errors: INVALID (no such name), UNSUPPORTED (not on this CPU). Any thread.
 */
PSGD_API psgd_status psgd_device_cpu_without(const char *name, uint32_t *without);

struct psgd_device_cuda_options {
	size_t size;
	/* The caller's allocator of device memory, as above; NULL: CUDA's. Aligned to 256. */
	void *(*alloc)(void *user, size_t bytes);
	void (*free)(void *user, void *memory, size_t bytes);
	void *alloc_user;
	const char *module_dir; /* where psgd-cuda.so is; NULL: beside the library */
	char *error;		/* the caller's buffer for the reason of a failure, or NULL */
	size_t error_bytes;
	uint32_t ordinal; /* of the device, as CUDA counts them */
	uint32_t reserved;
};

/*
 * A CUDA device (module psgd-cuda.so). Streams are CUDA's, NULL the default one; memory is the
 * device's. What workers compute alike has the same bits as on a CPU.
 * On success *out is the caller's; on failure zeroed, with the reason in options->error.
 * Errors: UNSUPPORTED (no module, driver or device), INVALID (no such ordinal), NOMEM, DEVICE. Any
 * thread.
 */
PSGD_API psgd_status psgd_device_cuda(
	const struct psgd_device_cuda_options *options, struct psgd_device *out);

struct psgd_cuda_device {
	size_t size;
	uint64_t memory_bytes;
	uint32_t major, minor;	  /* compute capability */
	uint32_t driver, runtime; /* as CUDA counts: 13000 is 13.0 */
	char name[128];
	char bus[32]; /* where it is in its host: domain, bus, device */
	uint32_t ordinal;
	uint32_t reserved;
};

/*
 * What CUDA device `ordinal` is. *count: how many there are, also when it fails with INVALID.
 * module_dir, error as in the options. Errors: UNSUPPORTED, INVALID (no such ordinal). Any thread.
 */
PSGD_API psgd_status psgd_cuda_info(uint32_t ordinal, const char *module_dir,
	struct psgd_cuda_device *out, uint32_t *count, char *error, size_t error_bytes);

/* One matrix of a measurement: g and e are row-major, n by m, memory of the device. */
struct psgd_floor_matrix {
	float *g, *e;
	int64_t n, m;
};

#define PSGD_FLOOR_PASSES 3

/*
 * What no compression on this device can be faster than: the three passes of a PowerSGD step at
 * r = 0, by the kernels of the device itself. g += e; g is read; e = g and g = 0: 28 bytes a value.
 * Adds the time of each pass over all matrices to ns[0 .. 2]. For benchmarks.
 * Errors: INVALID, NOMEM, UNSUPPORTED (a device without kernels). Any thread.
 */
PSGD_API psgd_status psgd_device_floor(const struct psgd_device *device,
	const struct psgd_floor_matrix *list, size_t count, int64_t ns[PSGD_FLOOR_PASSES]);

/* Ends a device after all sessions on it are closed, and zeroes it. NULL and zeros are fine. */
PSGD_API void psgd_device_destroy(struct psgd_device *device);

PSGD_END
#endif
