/*
 * The CUDA that runs on a CPU in tests: what a test asks of it. Kernels run as fibers of one
 * background thread, streams are queues. Each setting is also an environment variable, for
 * processes.
 *
 * A missing wait shows itself so: device memory holds NaN until it is written, host code that reads
 * it dies, and with lazy streams nothing has run that nobody waited for.
 */
#ifndef CUDA_SHIM_H
#define CUDA_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How the threads of a block, and the blocks of a kernel, take turns. */
enum shim_order {
	SHIM_FORWARD,
	SHIM_REVERSE,
	SHIM_RANDOM,
};

/* What was asked for (not what has run) since the last shim_reset. */
enum shim_counter {
	SHIM_KERNELS,
	SHIM_COPIES,
	SHIM_FILLS,	 /* cudaMemsetAsync */
	SHIM_CALLS_BACK, /* cudaLaunchHostFunc */
	SHIM_SYNCS,	 /* the host waited: a synchronize, a copy that blocks, what frees */
	SHIM_ALLOCATIONS,
	SHIM_BLAS,
	SHIM_COLLECTIVES,
	SHIM_DNN,
	SHIM_TF32, /* calls of the two libraries that may round to TF32 */
	SHIM_COUNTERS,
};

/*
 * Waits for all work; settings are those of the environment again, counters zero. What was not
 * freed still counts as a leak.
 */
void shim_reset(void);

/*
 * CUDA_SHIM_DEVICES, 1 by default; 0: no device (error 100), -1: no driver (error 35). The first
 * one is the host's of the number that CUDA_VISIBLE_DEVICES begins with.
 */
void shim_devices(int n);

/* CUDA_SHIM_ORDER: forward (default), reverse, random or random:SEED. */
void shim_order(enum shim_order order, uint64_t seed);

/*
 * CUDA_SHIM_LAZY=1: a stream runs only when something waits for it or asks it, and no further than
 * that needs. Host functions and collectives come in the end even so, after some milliseconds.
 */
void shim_lazy(bool lazy);

/*
 * CUDA_SHIM_FAIL: the nth call from now on (1: the next) fails, of all that can fail; 0: none. A
 * question whether something is done counts only when it is. What frees, frees nevertheless.
 */
void shim_fail(uint64_t nth);

/*
 * CUDA_SHIM_LOSE: the device is lost at the nth call from now on, as by a fault in a kernel: this
 * and all later calls fail, and nothing runs any more, host functions neither. 0: never. Which
 * device is current can be asked and set; what frees, frees nevertheless.
 */
void shim_lose(uint64_t nth);

/* Calls that can fail, since the last shim_reset, shim_fail or shim_lose. */
uint64_t shim_calls(void);

uint64_t shim_count(enum shim_counter counter);

/* Memory, streams, events and handles of libraries that exist. */
size_t shim_leaks(void);

/*
 * A bit for each device on which there is a context: a thread has set it, or has made something
 * there. None after shim_reset, though threads keep those that they have.
 */
unsigned shim_contexts(void);

/* CUDA_SHIM_MEMORY: bytes of memory of each device; 0: 4 GiB. */
void shim_memory_limit(size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
