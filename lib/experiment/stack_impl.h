/* The stack, room-private. */
#ifndef PSGD_EXPERIMENT_STACK_IMPL_H
#define PSGD_EXPERIMENT_STACK_IMPL_H

#include <limits.h>

#include <psgd/experiment/stack.h>

#include "base/base.h"
#include "experiment/link_check.h"

#define PSGD__REPORT_BYTES 4096
#define PSGD__WHY_BYTES 512

/* The environment. Text that is not set, or empty, is NULL; it is valid while the stack opens. */
struct psgd__stack_settings {
	const char *config, *source, *command_line, *run_dir, *token_file, *module_dir, *cpu;
	const char *resume;    /* NULL: begin anew */
	double rdzv_timeout_s; /* 0: the default */
	int32_t progress_fd;   /* -1: none */
	bool overwrite;
};

/* Where the run goes on from, and what tells its checkpoints from those of other runs. */
struct psgd__stack_resume {
	bool resumes, done;
	uint64_t wanted; /* iteration that PSGD_RESUME names; UINT64_MAX: the newest */
	uint64_t iteration, epoch;
	uint64_t run;
};

struct psgd_stack {
	struct psgd__stack_settings settings;
	psgd_log_fn log;
	void *log_user;
	enum psgd_log_level log_level;
	struct psgd_config *config;
	struct psgd_launch launch;
	psgd_rendezvous *rendezvous;
	psgd_status (*probe)(void *user, uint32_t ordinal, char *reason, size_t bytes);
	void *probe_user;
	uint32_t cpu_without;	      /* of the CPU's instruction sets */
	bool on_cuda;		      /* else on the CPU; before the workers agree: could be */
	struct psgd_cuda_device cuda; /* runtime 0: there is no module */
	char why_not_cuda[PSGD__WHY_BYTES]; /* "": nobody has looked */
	struct psgd_device device;
	struct psgd_compressor compressor;
	struct psgd_controller controller;
	struct psgd_transport network, shaped; /* shaped goes through network */
	struct psgd_shaper shaper;
	unsigned link_change; /* of network_limits.schedule that is in force, from 1; 0: none yet */
	bool kernel;	      /* limits network_limits.interface, which has a name then */
	char *module_dir;     /* only with kernel; NULL: beside the library */
	uint64_t left_before; /* bytes by the interface before the network was measured */
	psgd_run *run;
	char run_dir[PATH_MAX]; /* on this node */
	struct psgd__stack_resume resume;
	psgd_session *session;
	char text[PSGD__REPORT_BYTES];
};

/* Writes the text of a failure and returns its status. */
psgd_status psgd__stack_fail(struct psgd_stack *stack, psgd_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* A call that filled stack->text, or has nothing to say but its status. */
psgd_status psgd__stack_failed(struct psgd_stack *stack, psgd_status status);
/* A call of the rendezvous that failed: its text. */
psgd_status psgd__stack_rendezvous_failed(struct psgd_stack *stack, psgd_status status);
/* A line for the user's log. */
void psgd__stack_tell(struct psgd_stack *stack, enum psgd_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int64_t psgd__stack_timeout_ns(const struct psgd_stack *stack);
const struct psgd_transport *psgd__stack_transport(const struct psgd_stack *stack);

/* All of psgd_stack_open, in its order; what is there when it fails is for psgd_stack_close. */
psgd_status psgd__stack_open_all(struct psgd_stack *stack);

/* What this worker could compute on. UNSUPPORTED: not on what the configuration says. */
psgd_status psgd__stack_find_device(struct psgd_stack *stack);
/* Opens what all workers can; says so. On all workers. */
psgd_status psgd__stack_open_device(struct psgd_stack *stack);

/* The link model, if there is something for the process to limit. */
psgd_status psgd__stack_open_link(struct psgd_stack *stack);
/* The change of the schedule that is in force, counted from 1; 0: none yet. */
unsigned psgd__link_change_at(
	const struct psgd_config_network *net, uint64_t iteration, int64_t training_ns);
/* Measures the network, in step with the other workers, for the records and the live cap. */
psgd_status psgd__stack_measure(struct psgd_stack *stack);

/* The interface, if there is something for the kernel to limit. */
psgd_status psgd__stack_open_kernel(struct psgd_stack *stack);
/* The limits after so many changes; by one worker of the node. */
psgd_status psgd__stack_change_kernel(struct psgd_stack *stack, unsigned change);
/* Before and after measuring: what has left by the interface. IO: nothing limits it. */
psgd_status psgd__stack_watch_kernel(struct psgd_stack *stack);
psgd_status psgd__stack_check_kernel(struct psgd_stack *stack, const struct psgd_measured *found,
	struct psgd__link_check *check);

/* What the link is at first, for the records. */
void psgd__stack_tell_link(struct psgd_stack *stack);

/*
 * Compares two configurations as psgd_config_yaml writes them, key by key. *table, freed by
 * free(), has a line for each key that differs: "key: worker 0 has A, worker N has B"; "" if none
 * does. Keys that name places on a node, or that only worker 0 uses, are not compared.
 * Errors: CONFIG (no YAML), NOMEM.
 */
psgd_status psgd__compare_yaml(
	const char *first, const char *own, uint32_t own_worker, char **table);

/*
 * The same for a run and a checkpoint, or a finished run, of an earlier configuration: what may
 * change when a run goes on is not compared. "key: it has A, this run has B".
 */
psgd_status psgd__compare_resumed(const char *before, const char *now, char **table);
psgd_status psgd__compare_finished(const char *before, const char *now, char **table);

/* A whole file as text, freed by free(); NULL when path is NULL or cannot be read. */
char *psgd__read_text(const char *path);

/* Every worker learns how each fared, so that all go on or all end with the same status. */
psgd_status psgd__stack_agree(struct psgd_stack *stack, psgd_status own);

/* Worker 0's bytes to all workers, of the same number everywhere. */
psgd_status psgd__stack_share(struct psgd_stack *stack, void *data, size_t bytes);

/* Fills stack->resume by what PSGD_RESUME says and the workers hold. On all workers. */
psgd_status psgd__stack_find_checkpoint(struct psgd_stack *stack);
/* Removes this worker's checkpoints that are not of the run that begins. */
void psgd__stack_drop_checkpoints(struct psgd_stack *stack);

#endif
