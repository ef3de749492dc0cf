/* The run folder: records that survive a crash. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_RUN_H
#define PSGD_EXPERIMENT_RUN_H

#include <psgd/experiment/config.h>
#include <psgd/session.h>

PSGD_BEGIN

typedef struct psgd_run psgd_run;

struct psgd_run_options {
	size_t size;
	const char *dir; /* of worker 0; created. A folder with a finished run is refused */
	const struct psgd_config *config;
	const char *source;	    /* text of config.yaml; NULL: psgd_config_source(config) */
	const char *command_line;   /* for the manifest; NULL: none */
	const char *transport;	    /* name, for the manifest */
	uint32_t worker, n_workers; /* only worker 0 writes records; others keep progress only */
	uint32_t overwrite;	    /* 1: remove an earlier run's records first */
	int32_t progress_fd;	    /* JSON lines for the supervisor; 0 or less: none */
	char *error;
	size_t error_bytes;
	/* Goes on with the folder's run: rows from this iteration and epoch on are cut off. */
	uint64_t resume_iteration, resume_epoch;
	uint32_t resume; /* 1: so */
	uint32_t reserved;
	const struct psgd_cuda_device *cuda; /* worker 0's device, for the records; NULL: the CPU */
};

/* One optimizer step. Also the source of the live progress. */
struct psgd_iteration_row {
	size_t size;
	uint64_t epoch, iteration; /* iteration counts from 0 over the whole run */
	uint64_t iterations_in_epoch, total_iterations; /* planned */
	double loss, accuracy; /* of the local batch; accuracy in percent */
	double learning_rate;
	const struct psgd_report *report; /* decision.changed appends to events.jsonl */
	uint64_t gpu_memory_bytes;	  /* that the worker uses on its device; 0: none */
};

struct psgd_epoch_row {
	size_t size;
	uint64_t epoch, iteration;
	double epoch_loss;		       /* mean over the epoch and the workers */
	double accuracy;		       /* test accuracy in percent */
	double grad_norm_avg, grad_accum_norm; /* NaN: not measured, written as empty */
	uint64_t num_data_processed;	       /* over all workers, since the start */
};

/*
 * Creates the folder's layout: accuracy/, benchmark/benchmark_<time>/{csv,visualizations,configs},
 * config.yaml, resolved.yaml, manifest.json, status.json ("running"), events.jsonl. Elapsed time
 * counts from here. The manifest has the variables PSGD_* GLOO_* NCCL_* OMP_* of the environment,
 * no secrets. Errors, with text: STATE (a finished run, or one that still runs, is there), CONFIG,
 * IO, NOMEM.
 * On success *out is ended by psgd_run_close.
 */
PSGD_API psgd_status psgd_run_open(const struct psgd_run_options *options, psgd_run **out);

/*
 * "results/<date>/<name>" or save_dir; into the caller's buffer. INVALID: the buffer is too small.
 */
PSGD_API psgd_status psgd_run_dir(const struct psgd_config *config, char *out, size_t bytes);

/*
 * What a run folder holds: *state is "" (nothing), "running", "finished", "failed".
 * Errors: IO, INVALID (buffer).
 */
PSGD_API psgd_status psgd_run_state(const char *dir, char *state, size_t bytes);

/* Appends one row, flushed; status.json and the progress line at most 4 times a second. */
PSGD_API psgd_status psgd_run_iteration(psgd_run *run, const struct psgd_iteration_row *row);
PSGD_API psgd_status psgd_run_epoch(psgd_run *run, const struct psgd_epoch_row *row);

/*
 * compression.calibration's csv_name, whole; temporary name and rename, in its save_dir, which is
 * created, or in the run folder. One more use of a name replaces the file.
 */
PSGD_API psgd_status psgd_run_calibration(
	psgd_run *run, const struct psgd_calibration_row *rows, size_t n_rows, uint32_t chosen);

/* One line in events.jsonl: {"time": ..., "event": event, "iteration": ..., "text": text}. */
PSGD_API psgd_status psgd_run_event(
	psgd_run *run, const char *event, uint64_t iteration, const char *text);

/*
 * How the run ended: state "finished" or "failed", with a reason; writes status.json durably. What
 * is said first holds: a later call does nothing.
 */
PSGD_API psgd_status psgd_run_finish(psgd_run *run, const char *state, const char *reason);

/* Text of the last failure. */
PSGD_API void psgd_run_error(const psgd_run *run, char *text, size_t bytes);

PSGD_API void psgd_run_close(psgd_run **run); /* NULL is fine; status.json stays as it is */

PSGD_END
#endif
