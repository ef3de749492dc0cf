/* A worker's checkpoint files, room-private. */
#ifndef PSGD_EXPERIMENT_CHECKPOINT_IMPL_H
#define PSGD_EXPERIMENT_CHECKPOINT_IMPL_H

#include <psgd/experiment/checkpoint.h>

#include "base/base.h"

#define PSGD__CHECKPOINTS_MAX 32 /* of which a worker tells the others, the newest */
#define PSGD__NO_ITERATION UINT64_MAX

/* What a checkpoint says about itself. */
struct psgd__checkpoint {
	uint64_t iteration, epoch;
	uint64_t run; /* a random number of the run that wrote it */
	uint32_t worker, n_workers;
};

/* Says in words what was left out. */
struct psgd__checkpoint_say {
	void (*say)(void *user, const char *text);
	void *user;
};

/*
 * A worker's complete and undamaged checkpoints, newest first; *n is at most
 * PSGD__CHECKPOINTS_MAX. Only that of iteration `wanted`, unless it is PSGD__NO_ITERATION. The
 * files are read to their ends.
 */
psgd_status psgd__checkpoint_list(const char *run_dir, uint32_t worker, uint64_t wanted,
	const struct psgd__checkpoint_say *say, struct psgd__checkpoint *list, size_t *n);

/* The iterations of all checkpoint folders, complete or not, newest first; freed by free(). */
psgd_status psgd__checkpoint_folders(const char *run_dir, uint64_t **out, size_t *n);

/* Opens one that was listed. Errors, with text, as psgd_safetensors_open. */
psgd_status psgd__checkpoint_open(const char *run_dir, uint32_t worker, uint64_t iteration,
	psgd_safetensors **out, char *error, size_t error_bytes);
/* The configuration, as psgd_config_yaml wrote it; "" if it says none. */
const char *psgd__checkpoint_config(const psgd_safetensors *file);

/*
 * Completes the arrays in `writer` by what the checkpoint says about itself and writes both files,
 * durably. Errors, with text: IO, NOMEM.
 */
psgd_status psgd__checkpoint_write(const char *run_dir, const struct psgd__checkpoint *checkpoint,
	const char *config, psgd_safetensors_writer *writer, char *error, size_t error_bytes);

/*
 * Removes a worker's checkpoints but the last `keep` of those up to `newest`: also half-written
 * ones, and those beyond `newest`. What cannot be removed stays.
 */
void psgd__checkpoint_prune(const char *run_dir, uint32_t worker, uint64_t newest, size_t keep);

#endif
