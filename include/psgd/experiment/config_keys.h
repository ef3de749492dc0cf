/* The keys of a configuration, as structs. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_CONFIG_KEYS_H
#define PSGD_EXPERIMENT_CONFIG_KEYS_H

#include <psgd/types.h>

PSGD_BEGIN

/* Strings are never NULL unless it is said; lists are NULL when empty. See config.h. */
struct psgd_config_model {
	char *name; /* mlp, cnn, resnet8, resnet20, resnet18, 34, 50, 101, 152 */
	char *stem; /* of a ResNet: auto, cifar, imagenet */
	unsigned num_classes;
	bool pretrained;
	char *weights; /* safetensors file of the first parameters; NULL unless pretrained */
	bool sync_batchnorm;
};

struct psgd_config_dataset {
	char *name;	     /* fashion-mnist, mnist, idx, cifar10, cifar100, imagenet, synthetic */
	char *root;	     /* folder of its files; NULL: the data set's usual place */
	char *augment;	     /* none, crop_flip, resized_crop_flip: of training images */
	unsigned batch_size; /* per worker */
	unsigned train_limit, test_limit; /* use only the first so many samples; 0: all */
	unsigned image_size;		  /* of imagenet: pixels a side, as the net sees it */
	unsigned loader_threads;	  /* of imagenet: they decode ahead of training */
	unsigned prefetch_batches;	  /* of imagenet: at most so many wait decoded */
	bool skip_bad;			  /* of imagenet: leave out images that cannot be decoded */
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
	double warmup_start_lr, warmup_min_factor;
	char *tf32; /* on CUDA, what may be computed in TF32: none, convolutions, all */
};

struct psgd_config_powersgd {
	bool use_error_feedback;
	double min_compression_rate;
	bool warm_start;
	double orthogonalization_epsilon;
	uint64_t random_seed;
	unsigned compression_stats_logging_frequency; /* steps; 0: never */
	bool batch_tensors_with_same_shape;
	unsigned matrix_approximation_rank; /* 0: not given; default of base_rank */
	unsigned start_power_iterations;    /* default of compression.start_power_iterations */
};

struct psgd_config_calibration {
	bool enable;
	unsigned warmup_iters, measure_iters;
	unsigned force_start_iter;
	unsigned *ranks; /* candidates; NULL: rank_control.candidates */
	unsigned ranks_count;
	unsigned max_batches; /* of one candidate, warm-up included; 0: as many as the two say */
	double comm_ratio_threshold;
	bool allow_rank_one;
	bool use_fixed_rank_after_calibration; /* the choice is what the cap allows */
	char *save_dir;			       /* of csv_name; NULL: the run folder */
	char *csv_name;
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
	bool enable_stage_adjust;  /* base_matrix_rank of the stages acts */
	bool enable_adaptive_sync; /* base_sync_frequency of the stages acts */
	struct psgd_config_calibration calibration;
	struct psgd_config_schedule rank_schedule;
};

struct psgd_config_stage {
	char *name;
	unsigned start_epoch, end_epoch; /* inclusive */
	unsigned base_matrix_rank;	 /* 0: not given */
	unsigned base_sync_frequency;	 /* batches whose gradients make one step */
	double learning_rate;		 /* 0: as training says */
};

struct psgd_config_adaptive {
	bool enable;
	struct psgd_config_stage *stages;
	unsigned stages_count;
};

struct psgd_config_accordion {
	bool enable;
	char *rule; /* epoch, ema */
	/* Of ema, the last in steps; 0 where not given and ema is not chosen. */
	double ema_beta, critical_factor, relaxed_factor;
	unsigned update_interval;
	unsigned force_max_epochs, stride_epochs, rank_cooldown_epochs, lr_cooldown_epochs;
	/* The same in optimizer steps; used, all four, when stride_iters is above 0. */
	unsigned force_max_iters, stride_iters, rank_cooldown_iters, lr_cooldown_iters;
	double threshold;
};

struct psgd_config_lgreco {
	unsigned adjust_iters, sample_iters; /* steps between decisions; summed before each */
	double alpha;			     /* of the error that base_rank would leave */
	double low, high;		     /* candidates are from low to high times base_rank */
};

struct psgd_config_entropy {
	unsigned window_iters, sample_every; /* steps */
	unsigned slew, round_to;	     /* most that a rank moves; it is a multiple of it */
};

struct psgd_config_rank_control {
	char *cap;	      /* none, calibration, live; NULL: from the seed's keys */
	char *choice;	      /* max, fixed ... (configs/README.md); NULL: from the seed's keys */
	unsigned *candidates; /* NULL: min_rank, doubled up to max_rank */
	unsigned candidates_count;
	bool dense_candidate; /* dense is the largest candidate; true when there is a cap */
	double max_exposed;   /* 0: comm_ratio_threshold */
	unsigned dwell_iters;
	char *replay; /* events.jsonl of an earlier run; NULL unless choice is replay */
};

struct psgd_config_link_change {
	unsigned at_iteration; /* 0: by at_second, which is of the run's first iteration on */
	double at_second;      /* 0: by at_iteration */
	double egress_mbps, ingress_mbps, latency_ms;
};

struct psgd_config_network {
	bool enable;
	char *method;	 /* auto, tc, model, tc+model */
	char *interface; /* auto, or the one of the gradients, which tc limits */
	double bandwidth_mbps, egress_mbps, ingress_mbps; /* 10^6 bit/s; 0: no limit */
	double latency_ms, jitter_ms;			  /* one way, per node */
	double loss_pct;				  /* of the frames */
	unsigned burst_bytes;				  /* 0: 3028 */
	char *target_ip;				  /* NULL: limits hold for all peers */
	bool auto_cleanup;
	struct psgd_config_link_change *schedule;
	unsigned schedule_count;
};

struct psgd_config_communication {
	char *transport; /* auto, gloo, nccl */
	char *interface; /* NULL: by the master's address */
	double timeout_s;
	bool overlap;
	unsigned check_every; /* steps between comparisons of parameters; 0: only at the end */
	bool measure;	      /* latency and bandwidth before training */
};

struct psgd_config_checkpoint {
	unsigned every_epochs, every_iters; /* 0: never by this */
	unsigned keep;			    /* the last so many */
};

PSGD_END
#endif
