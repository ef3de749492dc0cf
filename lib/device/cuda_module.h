/*
 * Between the library and psgd-cuda.so. The module imports nothing from the library: what it needs
 * is passed in. It stays in memory once it is open, since CUDA's libraries do not bear to leave.
 */
#ifndef PSGD_DEVICE_CUDA_MODULE_H
#define PSGD_DEVICE_CUDA_MODULE_H

#include "base/kernels.h"

/* The one exported function; the number changes with the structs here and in base/kernels.h. */
#define PSGD__CUDA_ENTRY psgd_cuda_module_1
#define PSGD__CUDA_ENTRY_NAME "psgd_cuda_module_1"

struct psgd__cuda_setup {
	size_t size;
	/* As in psgd_device_cuda_options; NULL: the runtime's. */
	void *(*alloc)(void *user, size_t bytes);
	void (*free)(void *user, void *memory, size_t bytes);
	void *alloc_user;
	/* The CPU's `leading`, whose self is not used: for panels that were copied to the host. */
	psgd_status (*leading)(void *self, const struct psgd__panel *from, uint32_t keep, float *to,
		psgd_stream stream);
	uint32_t ordinal;
	uint32_t reserved;
};

struct psgd__cuda_module {
	size_t size;
	/* See psgd_cuda_info. */
	psgd_status (*info)(uint32_t ordinal, struct psgd_cuda_device *out, uint32_t *count,
		char *reason, size_t bytes);
	/* *out is ended by its own destroy. */
	psgd_status (*open)(const struct psgd__cuda_setup *setup, struct psgd_device *out,
		char *reason, size_t bytes);
};

typedef const struct psgd__cuda_module *(*psgd__cuda_entry)(void);

#endif
