/* Experiment configuration: YAML in, checked structs out. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_CONFIG_H
#define PSGD_EXPERIMENT_CONFIG_H

#include <psgd/experiment/config_keys.h>
#include <psgd/rank_control.h>

PSGD_BEGIN

/*
 * Keys keep the spelling of the YAML file. Strings are never NULL unless it is said; lists are
 * NULL when empty. configs/README.md explains every key. Read-only for the user of the library.
 */
struct psgd_config {
	char *name;	/* of the run; default: the file's name without .yaml */
	char *save_dir; /* run folder; NULL: results/<date>/<name> */
	char *results_csv;
	char *benchmark_save_dir; /* NULL: <save_dir>/benchmark */
	uint64_t seed;
	unsigned threads; /* compute threads of a worker */
	char *device;	  /* auto, cpu, cuda */
	bool allow_mixed; /* workers with different devices may train together */
	struct psgd_config_model model;
	struct psgd_config_dataset dataset;
	struct psgd_config_training training;
	struct psgd_config_powersgd powerSGD;
	struct psgd_config_compression compression;
	struct psgd_config_adaptive adaptive_training;
	struct psgd_config_accordion accordion;
	struct psgd_config_lgreco lgreco;
	struct psgd_config_entropy entropy;
	struct psgd_config_rank_control rank_control;
	struct psgd_config_network network_limits;
	struct psgd_config_communication communication;
	struct psgd_config_checkpoint checkpoint;
};

/*
 * Loads a YAML file and applies overrides ("training.epochs=3"; the value is YAML), which go
 * through the same checks. On failure *error holds one line with file, line and column, or the
 * override, and what was expected; *out is NULL. On success *out is ended by psgd_config_free.
 * Errors: IO (cannot read), CONFIG, NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_config_load(const char *path, const char *const *overrides,
	size_t n_overrides, struct psgd_config **out, char *error, size_t error_bytes);

/* The whole configuration as YAML, every key, loadable again. *out is freed by free(). */
PSGD_API psgd_status psgd_config_yaml(const struct psgd_config *config, char **out);

/* The text of the file as it was given; lives as long as the configuration. */
PSGD_API const char *psgd_config_source(const struct psgd_config *config);

/*
 * Keys that the file has and that do nothing beside its other keys: "key: why", a line each; empty
 * when there is none. Lives as long as the configuration.
 */
PSGD_API const char *psgd_config_notices(const struct psgd_config *config);

/* How the rank is chosen, in one line of words. Errors: INVALID, NOMEM. */
PSGD_API psgd_status psgd_config_summary(const struct psgd_config *config, char *out, size_t bytes);

PSGD_API void psgd_config_free(struct psgd_config **config); /* NULL is fine */

/*
 * The library objects that the configuration describes. compressor and controller are the
 * caller's. A replay reads its events file here.
 * Errors: CONFIG, IO (with error text), NOMEM; nothing is left to destroy then.
 */
PSGD_API psgd_status psgd_config_compressor(
	const struct psgd_config *config, struct psgd_compressor *out);
PSGD_API psgd_status psgd_config_controller(const struct psgd_config *config,
	struct psgd_controller *out, char *error, size_t error_bytes);

/*
 * The link that network_limits describes, as it is when training begins, and who makes it, by
 * network_limits.method: psgd_config_link is the part of the process (with model and auto all of
 * it, with tc+model delay, jitter and losses, with tc nothing), psgd_config_kernel_link that of the
 * kernel, for psgd_tc_apply (with tc all, with tc+model the rates). *out is filled when *limited is
 * true.
 *
 * The kernel's link can change but not grow new parts. So a direction that any entry of the
 * schedule limits has a rate from the start, of 10^12 bit/s where there is no limit yet, and if an
 * entry has a delay there is one of 1 ns.
 *
 * Pure; any thread. Errors: INVALID.
 */
PSGD_API psgd_status psgd_config_limits(
	const struct psgd_config *config, struct psgd_link *out, bool *limited);
PSGD_API psgd_status psgd_config_link(
	const struct psgd_config *config, struct psgd_link *out, bool *limited);
PSGD_API psgd_status psgd_config_kernel_link(
	const struct psgd_config *config, struct psgd_link *out, bool *limited);

PSGD_END
#endif
