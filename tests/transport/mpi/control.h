/* What a test does to the MPI of this folder. */
#ifndef TESTS_TRANSPORT_MPI_CONTROL_H
#define TESTS_TRANSPORT_MPI_CONTROL_H

#include <mpi.h>
#include <psgd/transport.h>

PSGD_BEGIN

/* MPI_COMM_WORLD of one process, whose collectives go by the transport, which is borrowed. */
MPI_Comm mpi_world(const struct psgd_transport *transport);
void mpi_world_free(MPI_Comm world);
int mpi_copies(MPI_Comm world); /* that were not freed */

void mpi_level(int provided); /* of threads; below 0: MPI is not initialized */
void mpi_fail(int nth);	      /* that call from now on fails, in any process; 0: none */
int mpi_inside(void);	      /* threads that are in a collective */

/* The transport under test, by a file in C and one in C++. */
typedef psgd_status (*mpi_wrap)(
	MPI_Comm comm, int64_t timeout_ns, char *error, size_t bytes, struct psgd_transport *out);

psgd_status mpi_wrap_in_c(
	MPI_Comm comm, int64_t timeout_ns, char *error, size_t bytes, struct psgd_transport *out);
psgd_status mpi_wrap_in_cpp(
	MPI_Comm comm, int64_t timeout_ns, char *error, size_t bytes, struct psgd_transport *out);

PSGD_END
#endif
