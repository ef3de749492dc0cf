/* Devices: where gradients live and kernels run. SPDX-License-Identifier: MIT */
#ifndef PSGD_DEVICE_H
#define PSGD_DEVICE_H

#include <psgd/types.h>

PSGD_BEGIN

struct psgd_kernels; /* private: kernels are the library's own */

/*
 * Operations of a device. Entries may be called from the session's progress thread and from the
 * thread that opens and closes the session.
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
	/* Which kernels it runs, for reports: "avx512"; static. NULL: it does not say. */
	const char *(*variant)(void *self);
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
	/* The caller's allocator; NULL: the C library's. Must return memory aligned to 64 bytes. */
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
