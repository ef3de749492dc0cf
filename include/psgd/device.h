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
};

struct psgd_device {
	const struct psgd_device_ops *ops;
	void *self;
};

struct psgd_device_cpu_options {
	size_t size;
	/* The caller's allocator; NULL: the C library's. Must return memory aligned to 64 bytes. */
	void *(*alloc)(void *user, size_t bytes);
	void (*free)(void *user, void *memory, size_t bytes);
	void *alloc_user;
};

/*
 * The CPU. All calls finish before they return; streams are NULL.
 * options: NULL or zeros for the defaults; alloc and free are given both or not at all.
 * On success *out is the caller's, ended by psgd_device_destroy; on failure it is zeroed.
 * Errors: INVALID, NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_device_cpu(
	const struct psgd_device_cpu_options *options, struct psgd_device *out);

/* Ends a device after all sessions on it are closed, and zeroes it. NULL and zeros are fine. */
PSGD_API void psgd_device_destroy(struct psgd_device *device);

PSGD_END
#endif
