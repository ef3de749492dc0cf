/*
 * The inside of psgd/mpi.h: collectives by MPI as psgd/streamed.h wants them. Include that one.
 * SPDX-License-Identifier: MIT
 */
#ifndef PSGD_MPI_CALLS_H
#define PSGD_MPI_CALLS_H

#include <mpi.h>
#include <psgd/streamed.h>
#include <stdlib.h>
#include <string.h>

PSGD_BEGIN

/* Of one collective at a time; the message lies behind it. */
struct psgd_mpi_place {
	struct psgd_mpi_place *next;
	int64_t wire_ns;
};

struct psgd_mpi {
	MPI_Comm comm;
	struct psgd_mpi_place *places;
	int worker, n_workers;
	bool aborted; /* of the thread that aborts and closes */
};

/* Values that go at once: counts are ints in MPI, and longer messages go in parts. */
#define PSGD_MPI_MOST (INT64_C(1) << 20)

static inline psgd_status psgd_mpi_result(int result, char *reason)
{
	char words[MPI_MAX_ERROR_STRING + 1] = "";
	int n = 0;

	if (result == MPI_SUCCESS)
		return PSGD_OK;
	reason[0] = '\0';
	if (MPI_Error_string(result, words, &n) == MPI_SUCCESS)
		strncat(reason, words, PSGD_STREAMED_REASON - 1);
	return PSGD_ERR_TRANSPORT;
}

/*
 * All memory is the host's. It is copied, so that a call that MPI does not return from keeps
 * nothing of the trainer's.
 */
static inline psgd_status psgd_mpi_is_host(void *self, const void *data, bool *host, char *reason)
{
	(void)self, (void)data, (void)reason;
	*host = true;
	return PSGD_OK;
}

static inline psgd_status psgd_mpi_place_create(
	void *self, size_t bytes, void **place, void **host, char *reason)
{
	struct psgd_mpi *m = (struct psgd_mpi *)self;
	struct psgd_mpi_place *p = NULL;

	(void)reason;
	if (bytes <= SIZE_MAX - sizeof(*p))
		p = (struct psgd_mpi_place *)malloc(sizeof(*p) + bytes);
	if (!p)
		return PSGD_ERR_NOMEM;
	p->next = m->places;
	p->wire_ns = 0;
	m->places = p;
	*place = p;
	*host = p + 1;
	return PSGD_OK;
}

static inline psgd_status psgd_mpi_mark(void *self, void *place, psgd_stream stream, char *reason)
{
	(void)self, (void)place;
	if (!stream)
		return PSGD_OK;
	reason[0] = '\0';
	strncat(reason, "memory of a device does not go by MPI", PSGD_STREAMED_REASON - 1);
	return PSGD_ERR_UNSUPPORTED;
}

/* One part of a sum, or of a broadcast. */
static inline int psgd_mpi_part(const struct psgd_mpi *m, const struct psgd_collective *c,
	char *data, int count, MPI_Datatype type, int root)
{
	return c->kind == PSGD_ALLREDUCE_SUM
		       ? MPI_Allreduce(MPI_IN_PLACE, data, count, type, MPI_SUM, m->comm)
		       : MPI_Bcast(data, count, type, root, m->comm);
}

static inline int psgd_mpi_parts(const struct psgd_mpi *m, const struct psgd_collective *c,
	char *data, MPI_Datatype type, int root)
{
	const size_t each = psgd_dtype_bytes(c->dtype);
	int result = MPI_SUCCESS;

	for (int64_t at = 0; at < c->count && result == MPI_SUCCESS; at += PSGD_MPI_MOST) {
		const int64_t left = c->count - at;

		result = psgd_mpi_part(m, c, data + (size_t)at * each,
			(int)(left < PSGD_MPI_MOST ? left : PSGD_MPI_MOST), type, root);
	}
	return result;
}

/* Blocks that do not go at once are broadcast, one after the other. */
static inline int psgd_mpi_gather(const struct psgd_mpi *m, const struct psgd_collective *c,
	char *data, MPI_Datatype type, size_t block)
{
	int result = MPI_SUCCESS;

	if (c->count <= PSGD_MPI_MOST)
		return MPI_Allgather(
			MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, (int)c->count, type, m->comm);
	for (int w = 0; w < m->n_workers && result == MPI_SUCCESS; w++)
		result = psgd_mpi_parts(m, c, data + (size_t)w * block, type, w);
	return result;
}

/* Blocks until the collective is through: deadlines are kept by another thread. */
static inline psgd_status psgd_mpi_start(
	void *self, const struct psgd_streamed_job *job, char *reason)
{
	const struct psgd_mpi *m = (const struct psgd_mpi *)self;
	const struct psgd_collective *c = job->collective;
	const MPI_Datatype type = c->dtype == PSGD_F32	 ? MPI_FLOAT
				  : c->dtype == PSGD_F64 ? MPI_DOUBLE
							 : MPI_BYTE;
	const double start = MPI_Wtime();
	psgd_status status;
	int result;

	if (c->kind == PSGD_ALLGATHER)
		result = psgd_mpi_gather(
			m, c, (char *)job->host, type, job->bytes / (size_t)m->n_workers);
	else
		result = psgd_mpi_parts(m, c, (char *)job->host, type, (int)c->root);
	status = psgd_mpi_result(result, reason);
	if (status != PSGD_OK)
		return status;
	((struct psgd_mpi_place *)job->place)->wire_ns = (int64_t)((MPI_Wtime() - start) * 1e9);
	job->done(job->user);
	return PSGD_OK;
}

static inline psgd_status psgd_mpi_test(
	void *self, const struct psgd_streamed_job *job, int64_t *wire_ns, char *reason)
{
	(void)self, (void)reason;
	*wire_ns = ((struct psgd_mpi_place *)job->place)->wire_ns;
	return PSGD_OK;
}

/* Nothing of MPI's ends a collective: the others find out by their deadlines. */
static inline void psgd_mpi_abort(void *self)
{
	((struct psgd_mpi *)self)->aborted = true;
}

static inline psgd_status psgd_mpi_close(void *self)
{
	struct psgd_mpi *m = (struct psgd_mpi *)self;
	struct psgd_mpi_place *p;

	/* All have to be there for it, and after an abort they may not be. */
	if (!m->aborted)
		(void)MPI_Comm_free(&m->comm);
	while ((p = m->places)) {
		m->places = p->next;
		free(p);
	}
	free(m);
	return PSGD_OK;
}

static inline const struct psgd_streamed_ops *psgd_mpi_ops(void)
{
	static const struct psgd_streamed_ops ops = {sizeof(struct psgd_streamed_ops), "mpi",
		psgd_mpi_is_host, psgd_mpi_place_create, psgd_mpi_mark, psgd_mpi_start,
		psgd_mpi_test, psgd_mpi_abort, psgd_mpi_close};

	return &ops;
}

PSGD_END
#endif
