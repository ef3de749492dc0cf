/*
 * Between the library and psgd-nccl.so. The module imports nothing from the library; it stays in
 * memory once it is open, since CUDA's libraries do not bear to leave. Whatever fails says why in
 * reason, of PSGD_STREAMED_REASON bytes.
 */
#ifndef PSGD_TRANSPORT_NCCL_MODULE_H
#define PSGD_TRANSPORT_NCCL_MODULE_H

#include <psgd/streamed.h>

/* The one exported function; the number changes with the structs here and in psgd/streamed.h. */
#define PSGD__NCCL_ENTRY psgd_nccl_module_1
#define PSGD__NCCL_ENTRY_NAME "psgd_nccl_module_1"

#define PSGD__NCCL_BUS_BYTES 32

/* Made by one worker, for all; opaque. */
struct psgd__nccl_id {
	char bytes[128];
};

struct psgd__nccl_module {
	size_t size;
	/* Collectives by what `open` makes, once `connect` has begun. */
	const struct psgd_streamed_ops *ops;
	/* As NCCL counts: 22809. Touches no device. */
	psgd_status (*version)(uint32_t *version, char *reason);
	/* The address of a device on the bus of its host. UNSUPPORTED: no device at all. */
	psgd_status (*look)(uint32_t ordinal, char bus[PSGD__NCCL_BUS_BYTES], char *reason);
	psgd_status (*make_id)(struct psgd__nccl_id *id, char *reason);
	psgd_status (*open)(
		uint32_t ordinal, uint32_t worker, uint32_t n_workers, void **self, char *reason);
	/* Begins to bring the workers together, and returns at once; `start` waits for it. */
	psgd_status (*connect)(void *self, const struct psgd__nccl_id *id, char *reason);
};

typedef const struct psgd__nccl_module *(*psgd__nccl_entry)(void);

#endif
