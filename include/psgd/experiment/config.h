/* Experiment configuration: YAML in, checked structs out. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_CONFIG_H
#define PSGD_EXPERIMENT_CONFIG_H

#include <psgd/controller.h>

PSGD_BEGIN

/*
 * Keys keep the spelling of the YAML file. Strings are never NULL unless it is said; lists are
 * NULL when empty. configs/README.md explains every key. Read-only for the user of the library.
 */
struct psgd_config_model {
	char *name; /* mlp, cnn, resnet8, resnet20, resnet18, resnet34, resnet50 */
	char *stem; /* of a ResNet: auto, cifar, imagenet */
	unsigned num_classes;
};

struct psgd_config_dataset {
	char *name;	     /* fashion-mnist, mnist, idx, cifar10, cifar100, synthetic */
	char *root;	     /* folder of its files; NULL: the data set's usual place */
	char *augment;	     /* none, crop_flip: what training does to its images */
	unsigned batch_size; /* per worker */
	unsigned train_limit, test_limit; /* use only the first so many samples; 0: all */
};

struct psgd_config_training {
	unsigned epochs;
	unsigned max_iterations; /* stop after so many optimizer steps; 0: by epochs */
	double learning_rate;
	double momentum;
	double weight_decay;
	bool nesterov;
	char *scheduler;      /* none, step, multistep, cosine */
	unsigned step_size;   /* epochs */
	unsigned *milestones; /* epochs */
	unsigned milestones_count;
	double gamma;
	unsigned T_max; /* epochs; 0: epochs */
	unsigned warmup_epochs;
	double warmup_start_lr;
};

struct psgd_config_powersgd {
	bool use_error_feedback;
	double min_compression_rate;
	bool warm_start;
	double orthogonalization_epsilon;
	uint64_t random_seed;
};

struct psgd_config_calibration {
	bool enable;
	unsigned warmup_iters, measure_iters;
	unsigned force_start_iter;
	unsigned *ranks; /* candidates; NULL: rank_control.candidates */
	unsigned ranks_count;
	double comm_ratio_threshold;
	bool allow_rank_one;
};

struct psgd_config_range {
	unsigned start_epoch, end_epoch; /* inclusive */
	unsigned rank;			 /* 0: dense */
};

struct psgd_config_schedule {
	unsigned default_rank;
	struct psgd_config_range *ranges;
	unsigned ranges_count;
};

struct psgd_config_compression {
	bool enable_powerSGD; /* false: dense */
	unsigned start_power_iterations;
	unsigned min_rank, max_rank, base_rank;
	bool use_fixed_rank;
	unsigned fixed_rank_value;
	struct psgd_config_calibration calibration;
	struct psgd_config_schedule rank_schedule;
};

struct psgd_config_accordion {
	bool enable;
	unsigned force_max_epochs, stride_epochs, rank_cooldown_epochs, lr_cooldown_epochs;
	/* The same in optimizer steps; used, all four, when stride_iters is above 0. */
	unsigned force_max_iters, stride_iters, rank_cooldown_iters, lr_cooldown_iters;
	double threshold;
};

struct psgd_config_rank_control {
	char *cap;    /* none, calibration, live; NULL: from the seed's keys */
	char *choice; /* max, fixed, schedule, epochnorm, replay; NULL: from the seed's keys */
	unsigned *candidates; /* NULL: 1, 2, 4 .. max_rank */
	unsigned candidates_count;
	bool dense_candidate; /* dense is the largest candidate; true when cap is live */
	double max_exposed;   /* 0: comm_ratio_threshold */
	unsigned dwell_iters;
	char *replay; /* events.jsonl of an earlier run; NULL unless choice is replay */
};

struct psgd_config_network {
	bool enable;
	char *method;					  /* auto, model */
	double bandwidth_mbps, egress_mbps, ingress_mbps; /* 10^6 bit/s; 0: no limit */
	double latency_ms, jitter_ms;			  /* one way, per node */
	unsigned burst_bytes;				  /* 0: 3028 */
};

struct psgd_config_communication {
	char *transport; /* gloo */
	char *interface; /* NULL: by the master's address */
	double timeout_s;
	bool overlap;
	unsigned check_every; /* steps between comparisons of parameters; 0: only at the end */
};

struct psgd_config {
	char *name;	/* of the run; default: the file's name without .yaml */
	char *save_dir; /* run folder; NULL: results/<date>/<name> */
	char *results_csv;
	char *benchmark_save_dir; /* NULL: <save_dir>/benchmark */
	uint64_t seed;
	unsigned threads; /* compute threads of a worker */
	struct psgd_config_model model;
	struct psgd_config_dataset dataset;
	struct psgd_config_training training;
	struct psgd_config_powersgd powerSGD;
	struct psgd_config_compression compression;
	struct psgd_config_accordion accordion;
	struct psgd_config_rank_control rank_control;
	struct psgd_config_network network_limits;
	struct psgd_config_communication communication;
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

PSGD_API void psgd_config_free(struct psgd_config **config); /* NULL is fine */

/*
 * The library objects that the configuration describes. compressor and controller are the
 * caller's; link is filled when *limited is true. A replay reads its events file here.
 * Errors: CONFIG, IO (with error text), NOMEM; nothing is left to destroy then.
 */
PSGD_API psgd_status psgd_config_compressor(
	const struct psgd_config *config, struct psgd_compressor *out);
PSGD_API psgd_status psgd_config_controller(const struct psgd_config *config,
	struct psgd_controller *out, char *error, size_t error_bytes);
PSGD_API psgd_status psgd_config_link(
	const struct psgd_config *config, struct psgd_link *out, bool *limited);

PSGD_END
#endif
