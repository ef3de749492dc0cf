/* The same few lines of a trainer, compiled as C11 and as C++17 against psgd/nccl.h alone. */
#ifndef TESTS_TRANSPORT_NCCL_PLAIN_H
#define TESTS_TRANSPORT_NCCL_PLAIN_H

#include <psgd/nccl.h>

PSGD_BEGIN

/* flags: enum psgd_nccl_flags. error: of 256 bytes. */
typedef psgd_status (*nccl_wrap)(ncclComm_t comm, uint32_t flags, int64_t timeout_ns, bool *gone,
	char *error, struct psgd_transport *out);

psgd_status wrap_in_c(ncclComm_t comm, uint32_t flags, int64_t timeout_ns, bool *gone, char *error,
	struct psgd_transport *out);
psgd_status wrap_in_cpp(ncclComm_t comm, uint32_t flags, int64_t timeout_ns, bool *gone,
	char *error, struct psgd_transport *out);

PSGD_END
#endif
