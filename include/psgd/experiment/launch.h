/* Who this process is: flags and launcher environments. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_LAUNCH_H
#define PSGD_EXPERIMENT_LAUNCH_H

#include <psgd/device.h>

PSGD_BEGIN

struct psgd_launch {
	size_t size;
	uint32_t worker, n_workers;
	uint32_t local_rank, local_size;
	uint16_t master_port;
	char master_addr[256];
	char source[64]; /* "flags", "PSGD_*", "torchrun", "Open MPI", "Hydra", "Slurm", "default"
			  */
};

/* Identity as given by flags; -1 or NULL: not given. */
struct psgd_launch_flags {
	size_t size;
	int64_t rank, world_size, local_rank, local_size;
	int64_t master_port;
	const char *master_addr;
};

/*
 * Identity from flags, then PSGD_*, torchrun's, Open MPI's, Hydra's, Slurm's variables, else one
 * process. Half a set, a number out of range, or two sets that disagree: CONFIG, and error names
 * the flags or variables. Default address 127.0.0.1, port 29500. flags may be NULL. Reads the
 * environment; call before threads start.
 */
PSGD_API psgd_status psgd_launch_resolve(const struct psgd_launch_flags *flags,
	struct psgd_launch *out, char *error, size_t error_bytes);

/*
 * Whether this worker could compute on a CUDA device as far as machine and library go: the one
 * whose ordinal is the local rank, where every worker of the node has its own, and with NCCL if
 * there are other workers. Where CUDA_VISIBLE_DEVICES shows this process fewer devices than the
 * node has workers they are taken to be this worker's own, and it is the first: whether others see
 * the same ones is for the workers to compare, by bus. *out: what the device is; runtime is 0 where
 * there is not even the module. error: the reason of a failure. module_dir as in
 * psgd_device_cuda_options. Errors: UNSUPPORTED (no device for this worker), INVALID, and those of
 * psgd_cuda_info. Any thread.
 */
PSGD_API psgd_status psgd_launch_cuda(const struct psgd_launch *launch, const char *module_dir,
	struct psgd_cuda_device *out, char *error, size_t error_bytes);

PSGD_END
#endif
