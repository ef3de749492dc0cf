/*
 * The part of MPI that psgd/mpi.h uses, for tests: processes are threads, which a local transport
 * brings together. Names are MPI's.
 */
#ifndef TESTS_TRANSPORT_MPI_H
#define TESTS_TRANSPORT_MPI_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mpi_comm *MPI_Comm;
typedef int MPI_Datatype, MPI_Op, MPI_Errhandler;

#define MPI_SUCCESS 0
#define MPI_ERR_OTHER 15
#define MPI_COMM_NULL ((MPI_Comm)0)
#define MPI_IN_PLACE ((void *)-1)
#define MPI_MAX_ERROR_STRING 256
#define MPI_ERRORS_RETURN 1
#define MPI_SUM 1

enum { MPI_THREAD_SINGLE, MPI_THREAD_FUNNELED, MPI_THREAD_SERIALIZED, MPI_THREAD_MULTIPLE };
enum { MPI_DATATYPE_NULL, MPI_FLOAT, MPI_DOUBLE, MPI_BYTE };

int MPI_Initialized(int *flag);
int MPI_Query_thread(int *provided);
int MPI_Comm_dup(MPI_Comm comm, MPI_Comm *newcomm);
int MPI_Comm_free(MPI_Comm *comm);
int MPI_Comm_set_errhandler(MPI_Comm comm, MPI_Errhandler errhandler);
int MPI_Comm_rank(MPI_Comm comm, int *rank);
int MPI_Comm_size(MPI_Comm comm, int *size);
int MPI_Error_string(int errorcode, char *string, int *resultlen);
double MPI_Wtime(void);
int MPI_Allreduce(const void *sendbuf, void *recvbuf, int count, MPI_Datatype datatype, MPI_Op op,
	MPI_Comm comm);
int MPI_Bcast(void *buffer, int count, MPI_Datatype datatype, int root, MPI_Comm comm);
int MPI_Allgather(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
	int recvcount, MPI_Datatype recvtype, MPI_Comm comm);

#ifdef __cplusplus
}
#endif
#endif
