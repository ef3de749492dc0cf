/* All library objects of one worker, from a configuration. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_STACK_H
#define PSGD_EXPERIMENT_STACK_H

#include <psgd/experiment/config.h>
#include <psgd/experiment/rendezvous.h>
#include <psgd/experiment/run.h>
#include <psgd/session.h>

PSGD_BEGIN

typedef struct psgd_stack psgd_stack;

struct psgd_stack_options {
	size_t size;
	psgd_log_fn log;
	void *log_user;
	enum psgd_log_level log_level;
	uint32_t reserved;
	char *error;
	size_t error_bytes;
	/*
	 * Whether the trainer can compute on that CUDA device: OK, or UNSUPPORTED and the reason.
	 * Asked at most once, in psgd_stack_open, where configuration, machine and library allow
	 * it. NULL: it computes on the CPU only.
	 */
	psgd_status (*cuda)(void *user, uint32_t ordinal, char *reason, size_t bytes);
	void *cuda_user;
};

/*
 * What a trainer started by `psgd run` calls first: reads the environment (PSGD_CONFIG,
 * PSGD_CONFIG_SOURCE: the user's file, kept as config.yaml, PSGD_COMMAND_LINE, PSGD_RUN_DIR,
 * PSGD_TOKEN_FILE, PSGD_MODULE_PATH, PSGD_CPU: the kernels that may run, see device.h,
 * PSGD_RDZV_TIMEOUT in seconds, PSGD_PROGRESS_FD, PSGD_OVERWRITE, PSGD_RESUME: "auto", or a run
 * folder or a checkpoint, see checkpoint.h, and the identity of launch.h),
 * loads the configuration, meets the other workers, compares configurations with worker 0's
 * (MISMATCH: error is a table of the keys that differ), opens the transport, shaped if the
 * configuration says so, and the run folder, and measures the network. Gradients live on CUDA
 * devices and go by NCCL, or in the host's memory and go by Gloo: as `device` says, with auto on
 * CUDA if all workers can; the log says what became of it (MISMATCH: workers that differ, without
 * allow_mixed). With network_limits.method
 * tc or tc+model, limits that `psgd run` has set, it looks whether they act: if less leaves by the
 * interface than was sent, or the rate is off by more than 10 %, all workers fail (IO: the error
 * says what is likely). On success *out is ended by psgd_stack_close. One thread.
 */
PSGD_API psgd_status psgd_stack_open(const struct psgd_stack_options *options, psgd_stack **out);

/* Then the session over the trainer's tensors; it belongs to the stack. */
PSGD_API psgd_status psgd_stack_session(
	psgd_stack *stack, const struct psgd_tensor *tensors, size_t n_tensors, psgd_session **out);

/*
 * Before each optimizer step, on every worker with the same number, counted from 0 over the whole
 * run and on after a resume: the limited network becomes what network_limits.schedule says for
 * this step, or for the seconds since the first call (on after a resume, too), and worker 0 records
 * a change. Limits of the kernel are changed by local worker 0 of each node. Between two steps of
 * the session; its thread. Errors: INVALID, NOMEM, IO (the record; the kernel), UNSUPPORTED.
 */
PSGD_API psgd_status psgd_stack_begin_step(psgd_stack *stack, uint64_t iteration);

/* The parts; they live as long as the stack. */
PSGD_API const struct psgd_config *psgd_stack_config(const psgd_stack *stack);
PSGD_API const struct psgd_launch *psgd_stack_launch(const psgd_stack *stack);
PSGD_API psgd_run *psgd_stack_run(psgd_stack *stack);
PSGD_API const struct psgd_controller *psgd_stack_controller(const psgd_stack *stack);

/* Where gradients live. One that has stream_create is a CUDA device. */
PSGD_API const struct psgd_device *psgd_stack_device(const psgd_stack *stack);
/* What that CUDA device is; NULL: it is the CPU. ordinal may be NULL. Lives as long as the stack.
 */
PSGD_API const struct psgd_cuda_device *psgd_stack_cuda(const psgd_stack *stack, uint32_t *ordinal);

/*
 * 0: no failure. 2: CONFIG INVALID STATE MISMATCH. 3: PEER_LOST. 4: TIMEOUT. 5: UNSUPPORTED AUTH
 * IO DEVICE (a port in use, no module). 1: all others. psgd_stack_open says CONFIG for a
 * configuration, or a recorded run that it names, that cannot be read.
 */
PSGD_API int psgd_exit_code(psgd_status status);

/* Text of the last failure of any part. */
PSGD_API void psgd_stack_error(psgd_stack *stack, char *text, size_t bytes);

/*
 * Ends everything in the right order and sets *stack to NULL. status: how training ended;
 * written to the run folder with the reason (NULL: the last error). NULL *stack is fine.
 */
PSGD_API void psgd_stack_close(psgd_stack **stack, psgd_status status, const char *reason);

PSGD_END
#endif
