/*
 * The NCCL of the CUDA that runs on a CPU: workers are processes or threads on one host, connected
 * by sockets without names in the file system. What a test asks of it, beside shim.h. Settings
 * hold until they are set anew.
 */
#ifndef CUDA_SHIM_NCCL_CONTROL_H
#define CUDA_SHIM_NCCL_CONTROL_H

#ifdef __cplusplus
extern "C" {
#endif

/* What never ends: a communicator that comes to be, the first collective's way to the stream, a
 * collective on the stream, a finalize; an abort, until the setting is taken back. */
enum shim_nccl_stalls {
	SHIM_NCCL_INIT = 1 << 0,
	SHIM_NCCL_CONNECT = 1 << 1,
	SHIM_NCCL_COLLECTIVE = 1 << 2,
	SHIM_NCCL_FINALIZE = 1 << 3,
	SHIM_NCCL_ABORT = 1 << 4
};

/* A sum of the above. */
void shim_nccl_stall(unsigned int stalls);

/* What ncclGetVersion says to this thread; 0: NCCL_VERSION_CODE. */
void shim_nccl_version(int version);

#ifdef __cplusplus
}
#endif

#endif
