/* Checkpoints: arrays in safetensors files. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_CHECKPOINT_H
#define PSGD_EXPERIMENT_CHECKPOINT_H

#include <psgd/experiment/stack.h>
#include <psgd/state.h>

PSGD_BEGIN

/* --- safetensors files --- */

typedef struct psgd_safetensors psgd_safetensors; /* a file that is read */

/* An array of a file. Text lives as long as the file is open. */
struct psgd_safetensor {
	size_t size;
	const char *name;
	const char *dtype; /* as in the file: "F32", "BF16", "I64" ... */
	uint32_t n_dims, reserved;
	int64_t dims[PSGD_MAX_DIMS]; /* may be 0 */
	uint64_t bytes;
};

/*
 * Opens a safetensors file and checks its whole header: names, types, shapes, and that the arrays
 * fill the file without gap or overlap. Nothing in it is trusted. On success *out is ended by
 * psgd_safetensors_close. Errors, with text that begins with the path: IO (cannot read), CONFIG (no
 * such file format, or damaged), NOMEM. Any thread; one at a time uses a file.
 */
PSGD_API psgd_status psgd_safetensors_open(
	const char *path, psgd_safetensors **out, char *error, size_t error_bytes);
/* NULL is fine. */
PSGD_API void psgd_safetensors_close(psgd_safetensors **file);

/* How many arrays; 0 for NULL. */
PSGD_API size_t psgd_safetensors_count(const psgd_safetensors *file);

/* Array `index` in the order of the data, or of a name. INVALID: there is none. */
PSGD_API psgd_status psgd_safetensors_get(
	const psgd_safetensors *file, size_t index, struct psgd_safetensor *out);
PSGD_API psgd_status psgd_safetensors_find(
	const psgd_safetensors *file, const char *name, struct psgd_safetensor *out);

/* A value of __metadata__; NULL: none. Lives as long as the file is open. */
PSGD_API const char *psgd_safetensors_metadata(const psgd_safetensors *file, const char *key);

/*
 * Copies an array: `bytes` as they are in the file, or `count` values of F64, F32, F16 or BF16 as
 * floats. Errors: INVALID (no such name), MISMATCH (it has another size), UNSUPPORTED (not floating
 * point), IO.
 */
PSGD_API psgd_status psgd_safetensors_read(
	const psgd_safetensors *file, const char *name, void *to, size_t bytes);
PSGD_API psgd_status psgd_safetensors_read_floats(
	const psgd_safetensors *file, const char *name, float *to, size_t count);

/*
 * The file as the state of an object: the arrays whose names begin with `prefix`, named without
 * it. Borrows both. Arrays of types that psgd_dtype lacks are MISMATCH.
 */
struct psgd_safetensors_view {
	const psgd_safetensors *file;
	const char *prefix; /* "": all */
};
PSGD_API struct psgd_state_reader psgd_safetensors_reader(struct psgd_safetensors_view *view);

typedef struct psgd_safetensors_writer psgd_safetensors_writer; /* a file to be written */

/* Arrays are kept in memory until psgd_safetensors_write. NULL: out of memory. */
PSGD_API psgd_safetensors_writer *psgd_safetensors_writer_new(void);
/* NULL is fine. */
PSGD_API void psgd_safetensors_writer_free(psgd_safetensors_writer **writer);

/*
 * Adds a copy of an array; `name` must be new. prefix: before array->name. Errors: INVALID (type,
 * shape, name), NOMEM.
 */
PSGD_API psgd_status psgd_safetensors_add(psgd_safetensors_writer *writer, const char *prefix,
	const struct psgd_state_array *array, const void *data);
/* Text for __metadata__; a later value of a key replaces the earlier. Errors: INVALID, NOMEM. */
PSGD_API psgd_status psgd_safetensors_note(
	psgd_safetensors_writer *writer, const char *key, const char *value);

/*
 * Writes the file beside `path` under a temporary name, forces it to the disk and renames it.
 * Values are aligned to their size. Errors, with text: IO, NOMEM.
 */
PSGD_API psgd_status psgd_safetensors_write(
	const psgd_safetensors_writer *writer, const char *path, char *error, size_t error_bytes);

/*
 * --- checkpoints of a run ---
 *
 * <run folder>/ckpt/iter_<iteration>/worker<w>.safetensors holds all that worker w needs to go on
 * to the bit, and worker<w>.json, which is written last, its size and SHA-256: what has none, or
 * another, is not used. Every worker writes its own on its own node; no shared disk is needed.
 */

struct psgd_checkpoint_position {
	size_t size;
	uint64_t iteration; /* steps that are done; also the number of the next */
	uint64_t epoch;	    /* of the next step */
};

/* The trainer's part: puts or reads its own arrays. A failure ends the call that called it. */
typedef psgd_status (*psgd_checkpoint_save_fn)(void *user, const struct psgd_state_writer *writer);
typedef psgd_status (*psgd_checkpoint_load_fn)(void *user, const struct psgd_state_reader *reader);

/*
 * Writes a checkpoint: the trainer's arrays, the session's and the run folder's state. Between two
 * steps, on all workers at the same position. When it returns all have theirs on the disk, and
 * all but the last checkpoint.keep are removed. Errors, alike on all workers: IO, NOMEM, those of
 * `save`, of psgd_session_save and of the rendezvous.
 */
PSGD_API psgd_status psgd_stack_save(psgd_stack *stack,
	const struct psgd_checkpoint_position *position, psgd_checkpoint_save_fn save, void *user);

/* Whether the run goes on from a checkpoint (PSGD_RESUME), and from where. */
PSGD_API bool psgd_stack_resumes(
	const psgd_stack *stack, struct psgd_checkpoint_position *position);

/*
 * Reads that checkpoint, once, after psgd_stack_session and before the first step, on all workers.
 * Errors, alike on all workers: STATE (nothing to resume, no session), CONFIG (the arrays are not
 * what the trainer or the session expects), those of `load`.
 */
PSGD_API psgd_status psgd_stack_load(psgd_stack *stack, psgd_checkpoint_load_fn load, void *user);

/*
 * Compares a hash over the workers: what has been loaded is to be alike before training goes on,
 * and a checkpoint cannot tell that it was changed, or is of another moment. Not through the
 * session, so that nothing of it is in the bytes of a step. `what`, in the plural, begins the text.
 * Between two steps; blocks. Errors, alike on all workers: INVALID, MISMATCH (psgd_stack_error
 * names the workers that differ from worker 0, one a line), those of the rendezvous.
 */
PSGD_API psgd_status psgd_stack_compare(psgd_stack *stack, const char *what, uint64_t hash);

/* True: PSGD_RESUME names a run that has finished. There is no psgd_stack_run, nothing to do. */
PSGD_API bool psgd_stack_done(const psgd_stack *stack);

/*
 * Splits what --resume names: a run folder, its ckpt, or a checkpoint in it. *iteration is
 * UINT64_MAX unless it is the last. Errors: INVALID (run_dir is too small).
 */
PSGD_API psgd_status psgd_checkpoint_path(
	const char *path, char *run_dir, size_t bytes, uint64_t *iteration);

/*
 * The newest complete checkpoint of a worker in a run folder, read to its end. Errors, with text:
 * INVALID (none), IO, NOMEM.
 */
PSGD_API psgd_status psgd_checkpoint_newest(const char *run_dir, uint32_t worker,
	struct psgd_checkpoint_position *out, char *error, size_t error_bytes);

PSGD_END
#endif
