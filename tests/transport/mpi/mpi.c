#include <mpi.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "transport/mpi/control.h"
#include "transport/workers.h"

#define TAKES_NS (120 * INT64_C(1000000000))

struct mpi_comm {
	const struct psgd_transport *transport; /* the one of this process */
	struct mpi_comm *of;			/* that this is a copy of, or NULL */
	struct mpi_comm *next;			/* of the copies that were made */
	atomic_int copies;			/* that were not freed */
	atomic_ullong tag;
};

static atomic_int level, calls, failing, inside;

static MPI_Comm new_comm(const struct psgd_transport *transport, MPI_Comm of)
{
	MPI_Comm comm = calloc(1, sizeof(*comm));

	REQUIRE(comm);
	comm->transport = transport;
	comm->of = of;
	return comm;
}

MPI_Comm mpi_world(const struct psgd_transport *transport)
{
	return new_comm(transport, NULL);
}

void mpi_world_free(MPI_Comm world)
{
	for (MPI_Comm comm = world, next; comm; comm = next) {
		next = comm->next;
		free(comm);
	}
}

int mpi_copies(MPI_Comm world)
{
	return world->copies;
}

void mpi_level(int provided)
{
	level = provided;
}

void mpi_fail(int nth)
{
	calls = 0;
	failing = nth;
}

int mpi_inside(void)
{
	return inside;
}

static int gate(void)
{
	return ++calls == failing ? MPI_ERR_OTHER : MPI_SUCCESS;
}

#define GATE()                                                                                     \
	do {                                                                                       \
		if (gate())                                                                        \
			return MPI_ERR_OTHER;                                                      \
	} while (0)

int MPI_Initialized(int *flag)
{
	GATE();
	*flag = level >= 0;
	return MPI_SUCCESS;
}

int MPI_Query_thread(int *provided)
{
	REQUIRE(level >= 0);
	GATE();
	*provided = level;
	return MPI_SUCCESS;
}

int MPI_Comm_dup(MPI_Comm comm, MPI_Comm *newcomm)
{
	GATE();
	*newcomm = new_comm(comm->transport, comm);
	(*newcomm)->next = comm->next;
	comm->next = *newcomm;
	comm->copies++;
	return MPI_SUCCESS;
}

int MPI_Comm_free(MPI_Comm *comm)
{
	(*comm)->of->copies--;
	*comm = MPI_COMM_NULL;
	return MPI_SUCCESS;
}

int MPI_Comm_set_errhandler(MPI_Comm comm, MPI_Errhandler errhandler)
{
	(void)comm;
	REQUIRE(errhandler == MPI_ERRORS_RETURN);
	GATE();
	return MPI_SUCCESS;
}

int MPI_Comm_rank(MPI_Comm comm, int *rank)
{
	GATE();
	*rank = (int)comm->transport->worker;
	return MPI_SUCCESS;
}

int MPI_Comm_size(MPI_Comm comm, int *size)
{
	GATE();
	*size = (int)comm->transport->n_workers;
	return MPI_SUCCESS;
}

int MPI_Error_string(int errorcode, char *string, int *resultlen)
{
	*resultlen = snprintf(string, MPI_MAX_ERROR_STRING, "MPI error %d", errorcode);
	return MPI_SUCCESS;
}

double MPI_Wtime(void)
{
	return (double)now_ns() / 1e9;
}

static int collect(MPI_Comm comm, enum psgd_collective_kind kind, void *data, int count,
	MPI_Datatype type, int root)
{
	static const uint32_t types[] = {
		[MPI_FLOAT] = PSGD_F32, [MPI_DOUBLE] = PSGD_F64, [MPI_BYTE] = PSGD_U8};
	const struct psgd_transport *t = comm->transport;
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	psgd_status status;
	void *request;

	GATE();
	c.kind = kind;
	c.dtype = types[type];
	c.count = count;
	c.data = data;
	c.root = (uint32_t)root;
	c.tag = comm->tag++;
	inside++;
	REQUIRE(t->ops->post(t->self, &c, &request) == PSGD_OK);
	do
		status = t->ops->test(t->self, request, TAKES_NS, NULL);
	while (status == PSGD_PENDING);
	inside--;
	return status ? MPI_ERR_OTHER : MPI_SUCCESS;
}

int MPI_Allreduce(const void *sendbuf, void *recvbuf, int count, MPI_Datatype datatype, MPI_Op op,
	MPI_Comm comm)
{
	REQUIRE(sendbuf == MPI_IN_PLACE && op == MPI_SUM && datatype != MPI_BYTE);
	return collect(comm, PSGD_ALLREDUCE_SUM, recvbuf, count, datatype, 0);
}

int MPI_Bcast(void *buffer, int count, MPI_Datatype datatype, int root, MPI_Comm comm)
{
	return collect(comm, PSGD_BROADCAST, buffer, count, datatype, root);
}

int MPI_Allgather(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
	int recvcount, MPI_Datatype recvtype, MPI_Comm comm)
{
	REQUIRE(sendbuf == MPI_IN_PLACE && !sendcount && sendtype == MPI_DATATYPE_NULL);
	return collect(comm, PSGD_ALLGATHER, recvbuf, recvcount, recvtype, 0);
}
