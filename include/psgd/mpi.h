/*
 * A transport over a trainer's MPI communicator. Header-only: compile it with the MPI that the
 * trainer uses (mpicc), and link libpsgd. C11 and C++17. SPDX-License-Identifier: MIT
 */
#ifndef PSGD_MPI_H
#define PSGD_MPI_H

#include <psgd/mpi_calls.h>

PSGD_BEGIN

struct psgd_mpi_options {
	size_t size;
	int64_t timeout_ns; /* deadline of every collective; 0: 60 s */
	char *error;	    /* the caller's buffer for the reason of a failure, or NULL */
	size_t error_bytes;
};

/* A communicator of the transport's own, like the trainer's. Collective. */
static inline psgd_status psgd_mpi_copy(MPI_Comm comm, struct psgd_mpi *m, char *reason)
{
	int there = 0, level = 0;
	psgd_status status;

	reason[0] = '\0';
	if (MPI_Initialized(&there) != MPI_SUCCESS || !there ||
		MPI_Query_thread(&level) != MPI_SUCCESS || level < MPI_THREAD_MULTIPLE) {
		strncat(reason, "MPI_Init_thread must have given MPI_THREAD_MULTIPLE",
			PSGD_STREAMED_REASON - 1);
		return PSGD_ERR_UNSUPPORTED;
	}
	if (comm == MPI_COMM_NULL)
		return PSGD_ERR_INVALID;
	status = psgd_mpi_result(MPI_Comm_dup(comm, &m->comm), reason);
	if (status != PSGD_OK)
		return status;
	status = psgd_mpi_result(MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN), reason);
	if (status == PSGD_OK)
		status = psgd_mpi_result(MPI_Comm_rank(m->comm, &m->worker), reason);
	if (status == PSGD_OK)
		status = psgd_mpi_result(MPI_Comm_size(m->comm, &m->n_workers), reason);
	if (status != PSGD_OK)
		(void)MPI_Comm_free(&m->comm);
	return status;
}

/*
 * Collectives by MPI, of a communicator of the transport's own, which is made here: all its
 * processes call this together. A thread of the transport calls MPI while the trainer does, so that
 * MPI_THREAD_MULTIPLE is needed. Data are the host's memory; sums are the same bits everywhere if
 * MPI_Allreduce's are, as the standard advises. What is not through by its deadline fails here, 5 s
 * later, and MPI is left with it: end by MPI_Abort then. Destroy before MPI_Finalize.
 * options: NULL or zeros for the defaults. On success *out is the caller's; on failure it is
 * zeroed. Errors: INVALID, UNSUPPORTED (threads), NOMEM, TRANSPORT. Any thread.
 */
static inline psgd_status psgd_transport_mpi(
	MPI_Comm comm, const struct psgd_mpi_options *options, struct psgd_transport *out)
{
	struct psgd_mpi_options o = {0, 0, NULL, 0};
	char reason[PSGD_STREAMED_REASON] = "";
	struct psgd_mpi *m = (struct psgd_mpi *)calloc(1, sizeof(*m));
	psgd_status status = PSGD_ERR_NOMEM;

	memset(out, 0, sizeof(*out));
	if (options)
		o = *options;
	if (m)
		status = psgd_mpi_copy(comm, m, reason);
	if (status == PSGD_OK) {
		status = psgd_transport_streamed(psgd_mpi_ops(), m, (uint32_t)m->worker,
			(uint32_t)m->n_workers, o.timeout_ns, out);
		if (status != PSGD_OK)
			(void)MPI_Comm_free(&m->comm);
	}
	if (status != PSGD_OK)
		free(m);
	if (o.error_bytes)
		o.error[0] = '\0';
	if (o.error_bytes && status != PSGD_OK)
		strncat(o.error, reason[0] ? reason : psgd_status_text(status), o.error_bytes - 1);
	return status;
}

PSGD_END
#endif
