/*
 * Between the library and psgd-gloo.so, in C, so that the module may be built by another compiler.
 * The module imports nothing from the library: all it needs is passed in, and texts go to buffers
 * of the caller. No C++ exception comes out of it.
 */
#ifndef PSGD_TRANSPORT_MODULE_H
#define PSGD_TRANSPORT_MODULE_H

#include <psgd/transport.h>

/* The one exported function; the number changes with the structs here, and with what `run` can. */
#define PSGD__GLOO_ENTRY psgd_gloo_module_2
#define PSGD__GLOO_ENTRY_NAME "psgd_gloo_module_2"

/* Where one worker listens for one other; opaque, as long as Gloo's longest address. */
#define PSGD__GLOO_ADDRESS_BYTES 192

struct psgd__gloo_address {
	uint32_t length;
	char bytes[PSGD__GLOO_ADDRESS_BYTES];
};

struct psgd__gloo_setup {
	size_t size;
	uint32_t worker;
	uint32_t n_workers;
	const char *address;	    /* numeric or a name; NULL: loopback */
	const char *interface_name; /* takes the place of address when not NULL */
	int64_t timeout_ns;
};

struct psgd__gloo_module {
	size_t size;
	/* Begins to listen; mine[w] is where worker w shall connect. */
	psgd_status (*open)(const struct psgd__gloo_setup *setup, void **self,
		struct psgd__gloo_address *mine, char *reason, size_t bytes);
	/* theirs[w] is where worker w listens for this one. Blocks, within the timeout. */
	psgd_status (*connect)(
		void *self, const struct psgd__gloo_address *theirs, char *reason, size_t bytes);
	/* As in struct psgd__queue_jobs. */
	psgd_status (*run)(void *self, const struct psgd_collective *collective,
		uint64_t *sent_bytes, char *reason, size_t bytes);
	void (*interrupt)(void *self);
	void (*close)(void *self);
};

typedef const struct psgd__gloo_module *(*psgd__gloo_entry)(void);

#endif
