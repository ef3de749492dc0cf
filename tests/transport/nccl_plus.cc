#include <psgd/nccl.h>

#include "nccl_plain.h"

psgd_status wrap_in_cpp(ncclComm_t comm, uint32_t flags, int64_t timeout_ns, bool *gone,
	char *error, struct psgd_transport *out)
{
	struct psgd_nccl_comm_options options = PSGD_INIT(psgd_nccl_comm_options);

	options.timeout_ns = timeout_ns;
	options.flags = flags;
	options.gone = gone;
	options.error = error;
	options.error_bytes = 256;
	return psgd_transport_nccl_comm(comm, &options, out);
}
