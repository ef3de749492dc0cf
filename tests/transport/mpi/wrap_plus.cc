#include <psgd/mpi.h>

#include "transport/mpi/control.h"

psgd_status mpi_wrap_in_cpp(
	MPI_Comm comm, int64_t timeout_ns, char *error, size_t bytes, struct psgd_transport *out)
{
	struct psgd_mpi_options options = PSGD_INIT(psgd_mpi_options);

	options.timeout_ns = timeout_ns;
	options.error = error;
	options.error_bytes = bytes;
	return psgd_transport_mpi(comm, &options, out);
}
