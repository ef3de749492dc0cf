#include "experiment/config_schema.h"

#include <string.h>

/* Every field is optional for libcyaml: the strict pass fills in defaults before it. */
/* clang-format off */
#define UINT(type, member) CYAML_FIELD_UINT(#member, CYAML_FLAG_OPTIONAL, type, member)
#define REAL(type, member) CYAML_FIELD_FLOAT(#member, CYAML_FLAG_OPTIONAL, type, member)
#define BOOL(type, member) CYAML_FIELD_BOOL(#member, CYAML_FLAG_OPTIONAL, type, member)
#define TEXT(type, member) \
	CYAML_FIELD_STRING_PTR(#member, CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER, type, member, 0, \
		CYAML_UNLIMITED)
#define LIST(type, member, entry) \
	CYAML_FIELD_SEQUENCE(#member, CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER, type, member, \
		&(entry), 0, CYAML_UNLIMITED)
#define PART(type, member, fields) \
	CYAML_FIELD_MAPPING(#member, CYAML_FLAG_OPTIONAL, type, member, fields)
/* clang-format on */

static const cyaml_schema_value_t number_entry = {
	CYAML_VALUE_UINT(CYAML_FLAG_DEFAULT, unsigned),
};

static const cyaml_schema_field_t model_fields[] = {
	TEXT(struct psgd_config_model, name),
	TEXT(struct psgd_config_model, stem),
	UINT(struct psgd_config_model, num_classes),
	BOOL(struct psgd_config_model, pretrained),
	TEXT(struct psgd_config_model, weights),
	BOOL(struct psgd_config_model, sync_batchnorm),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t dataset_fields[] = {
	TEXT(struct psgd_config_dataset, name),
	TEXT(struct psgd_config_dataset, root),
	TEXT(struct psgd_config_dataset, augment),
	UINT(struct psgd_config_dataset, batch_size),
	UINT(struct psgd_config_dataset, train_limit),
	UINT(struct psgd_config_dataset, test_limit),
	UINT(struct psgd_config_dataset, image_size),
	UINT(struct psgd_config_dataset, loader_threads),
	UINT(struct psgd_config_dataset, prefetch_batches),
	BOOL(struct psgd_config_dataset, skip_bad),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t training_fields[] = {
	UINT(struct psgd_config_training, epochs),
	UINT(struct psgd_config_training, max_iterations),
	REAL(struct psgd_config_training, learning_rate),
	REAL(struct psgd_config_training, momentum),
	REAL(struct psgd_config_training, weight_decay),
	BOOL(struct psgd_config_training, nesterov),
	TEXT(struct psgd_config_training, scheduler),
	UINT(struct psgd_config_training, step_size),
	LIST(struct psgd_config_training, milestones, number_entry),
	REAL(struct psgd_config_training, gamma),
	UINT(struct psgd_config_training, T_max),
	UINT(struct psgd_config_training, warmup_epochs),
	REAL(struct psgd_config_training, warmup_start_lr),
	REAL(struct psgd_config_training, warmup_min_factor),
	TEXT(struct psgd_config_training, tf32),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t powersgd_fields[] = {
	BOOL(struct psgd_config_powersgd, use_error_feedback),
	REAL(struct psgd_config_powersgd, min_compression_rate),
	BOOL(struct psgd_config_powersgd, warm_start),
	REAL(struct psgd_config_powersgd, orthogonalization_epsilon),
	UINT(struct psgd_config_powersgd, random_seed),
	UINT(struct psgd_config_powersgd, compression_stats_logging_frequency),
	BOOL(struct psgd_config_powersgd, batch_tensors_with_same_shape),
	UINT(struct psgd_config_powersgd, matrix_approximation_rank),
	UINT(struct psgd_config_powersgd, start_power_iterations),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t calibration_fields[] = {
	BOOL(struct psgd_config_calibration, enable),
	UINT(struct psgd_config_calibration, warmup_iters),
	UINT(struct psgd_config_calibration, measure_iters),
	UINT(struct psgd_config_calibration, force_start_iter),
	LIST(struct psgd_config_calibration, ranks, number_entry),
	UINT(struct psgd_config_calibration, max_batches),
	REAL(struct psgd_config_calibration, comm_ratio_threshold),
	BOOL(struct psgd_config_calibration, allow_rank_one),
	BOOL(struct psgd_config_calibration, use_fixed_rank_after_calibration),
	TEXT(struct psgd_config_calibration, save_dir),
	TEXT(struct psgd_config_calibration, csv_name),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t range_fields[] = {
	UINT(struct psgd_config_range, start_epoch),
	UINT(struct psgd_config_range, end_epoch),
	UINT(struct psgd_config_range, rank),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t range_entry = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct psgd_config_range, range_fields),
};

static const cyaml_schema_field_t schedule_fields[] = {
	UINT(struct psgd_config_schedule, default_rank),
	LIST(struct psgd_config_schedule, ranges, range_entry),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t compression_fields[] = {
	BOOL(struct psgd_config_compression, enable_powerSGD),
	UINT(struct psgd_config_compression, start_power_iterations),
	UINT(struct psgd_config_compression, min_rank),
	UINT(struct psgd_config_compression, max_rank),
	UINT(struct psgd_config_compression, base_rank),
	BOOL(struct psgd_config_compression, use_fixed_rank),
	UINT(struct psgd_config_compression, fixed_rank_value),
	BOOL(struct psgd_config_compression, enable_stage_adjust),
	BOOL(struct psgd_config_compression, enable_adaptive_sync),
	PART(struct psgd_config_compression, calibration, calibration_fields),
	PART(struct psgd_config_compression, rank_schedule, schedule_fields),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t stage_fields[] = {
	TEXT(struct psgd_config_stage, name),
	UINT(struct psgd_config_stage, start_epoch),
	UINT(struct psgd_config_stage, end_epoch),
	UINT(struct psgd_config_stage, base_matrix_rank),
	UINT(struct psgd_config_stage, base_sync_frequency),
	REAL(struct psgd_config_stage, learning_rate),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t stage_entry = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct psgd_config_stage, stage_fields),
};

static const cyaml_schema_field_t adaptive_fields[] = {
	BOOL(struct psgd_config_adaptive, enable),
	LIST(struct psgd_config_adaptive, stages, stage_entry),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t accordion_fields[] = {
	BOOL(struct psgd_config_accordion, enable),
	TEXT(struct psgd_config_accordion, rule),
	REAL(struct psgd_config_accordion, ema_beta),
	REAL(struct psgd_config_accordion, critical_factor),
	REAL(struct psgd_config_accordion, relaxed_factor),
	UINT(struct psgd_config_accordion, update_interval),
	UINT(struct psgd_config_accordion, force_max_epochs),
	UINT(struct psgd_config_accordion, stride_epochs),
	UINT(struct psgd_config_accordion, rank_cooldown_epochs),
	UINT(struct psgd_config_accordion, lr_cooldown_epochs),
	UINT(struct psgd_config_accordion, force_max_iters),
	UINT(struct psgd_config_accordion, stride_iters),
	UINT(struct psgd_config_accordion, rank_cooldown_iters),
	UINT(struct psgd_config_accordion, lr_cooldown_iters),
	REAL(struct psgd_config_accordion, threshold),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t lgreco_fields[] = {
	UINT(struct psgd_config_lgreco, adjust_iters),
	UINT(struct psgd_config_lgreco, sample_iters),
	REAL(struct psgd_config_lgreco, alpha),
	REAL(struct psgd_config_lgreco, low),
	REAL(struct psgd_config_lgreco, high),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t entropy_fields[] = {
	UINT(struct psgd_config_entropy, window_iters),
	UINT(struct psgd_config_entropy, sample_every),
	UINT(struct psgd_config_entropy, slew),
	UINT(struct psgd_config_entropy, round_to),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t rank_control_fields[] = {
	TEXT(struct psgd_config_rank_control, cap),
	TEXT(struct psgd_config_rank_control, choice),
	LIST(struct psgd_config_rank_control, candidates, number_entry),
	BOOL(struct psgd_config_rank_control, dense_candidate),
	REAL(struct psgd_config_rank_control, max_exposed),
	UINT(struct psgd_config_rank_control, dwell_iters),
	TEXT(struct psgd_config_rank_control, replay),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t change_fields[] = {
	UINT(struct psgd_config_link_change, at_iteration),
	REAL(struct psgd_config_link_change, at_second),
	REAL(struct psgd_config_link_change, egress_mbps),
	REAL(struct psgd_config_link_change, ingress_mbps),
	REAL(struct psgd_config_link_change, latency_ms),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t change_entry = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct psgd_config_link_change, change_fields),
};

static const cyaml_schema_field_t network_fields[] = {
	BOOL(struct psgd_config_network, enable),
	TEXT(struct psgd_config_network, method),
	TEXT(struct psgd_config_network, interface),
	REAL(struct psgd_config_network, bandwidth_mbps),
	REAL(struct psgd_config_network, egress_mbps),
	REAL(struct psgd_config_network, ingress_mbps),
	REAL(struct psgd_config_network, latency_ms),
	REAL(struct psgd_config_network, jitter_ms),
	REAL(struct psgd_config_network, loss_pct),
	UINT(struct psgd_config_network, burst_bytes),
	TEXT(struct psgd_config_network, target_ip),
	BOOL(struct psgd_config_network, auto_cleanup),
	LIST(struct psgd_config_network, schedule, change_entry),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t communication_fields[] = {
	TEXT(struct psgd_config_communication, transport),
	TEXT(struct psgd_config_communication, interface),
	REAL(struct psgd_config_communication, timeout_s),
	BOOL(struct psgd_config_communication, overlap),
	UINT(struct psgd_config_communication, check_every),
	BOOL(struct psgd_config_communication, measure),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t checkpoint_fields[] = {
	UINT(struct psgd_config_checkpoint, every_epochs),
	UINT(struct psgd_config_checkpoint, every_iters),
	UINT(struct psgd_config_checkpoint, keep),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t config_fields[] = {
	TEXT(struct psgd_config, name),
	TEXT(struct psgd_config, save_dir),
	TEXT(struct psgd_config, results_csv),
	TEXT(struct psgd_config, benchmark_save_dir),
	UINT(struct psgd_config, seed),
	UINT(struct psgd_config, threads),
	TEXT(struct psgd_config, device),
	BOOL(struct psgd_config, allow_mixed),
	PART(struct psgd_config, model, model_fields),
	PART(struct psgd_config, dataset, dataset_fields),
	PART(struct psgd_config, training, training_fields),
	PART(struct psgd_config, powerSGD, powersgd_fields),
	PART(struct psgd_config, compression, compression_fields),
	PART(struct psgd_config, adaptive_training, adaptive_fields),
	PART(struct psgd_config, accordion, accordion_fields),
	PART(struct psgd_config, lgreco, lgreco_fields),
	PART(struct psgd_config, entropy, entropy_fields),
	PART(struct psgd_config, rank_control, rank_control_fields),
	PART(struct psgd_config, network_limits, network_fields),
	PART(struct psgd_config, communication, communication_fields),
	PART(struct psgd_config, checkpoint, checkpoint_fields),
	CYAML_FIELD_END,
};

const cyaml_schema_value_t psgd__config_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct psgd__config_box, config_fields),
};

#define REQUIRED PSGD__KEY_REQUIRED
#define ABOVE PSGD__KEY_ABOVE
#define BELOW PSGD__KEY_BELOW
#define RANK PSGD__KEY_RANK
#define DENSE PSGD__KEY_DENSE
#define FILENAME PSGD__KEY_FILENAME

/*
 * Upper limits keep later arithmetic (nanoseconds, bits per second, steps) far from overflow.
 * A preset that depends on other keys is not here: psgd__config_derive sets it.
 */
#define MOST_RANK 65535
#define MOST_MBPS 1e9
#define MOST_MS 1e6
#define MOST_S 1e9

/* clang-format off */
static const struct psgd__key keys[] = {
	{"name", NULL, 0, 0, FILENAME, NULL},
	{"save_dir", NULL, 0, 0, 0, NULL},
	{"results_csv", "accuracy_results.csv", 0, 0, FILENAME, NULL},
	{"benchmark_save_dir", NULL, 0, 0, 0, NULL},
	{"seed", "42", 0, 0, 0, NULL},
	{"threads", "1", 1, 1024, 0, NULL},
	{"device", "auto", 0, 0, 0, "auto, cpu, cuda"},
	{"allow_mixed", "false", 0, 0, 0, NULL},

	{"model.name", NULL, 0, 0, REQUIRED,
		"mlp, cnn, resnet8, resnet20, resnet18, resnet34, resnet50, resnet101, resnet152"},
	{"model.stem", "auto", 0, 0, 0, "auto, cifar, imagenet"},
	{"model.num_classes", "10", 2, 1e6, 0, NULL},
	{"model.pretrained", "false", 0, 0, 0, NULL},
	{"model.weights", NULL, 0, 0, 0, NULL},
	{"model.sync_batchnorm", "true", 0, 0, 0, NULL},

	{"dataset.name", NULL, 0, 0, REQUIRED,
		"fashion-mnist, mnist, idx, cifar10, cifar, cifar100, imagenet, synthetic"},
	{"dataset.root", NULL, 0, 0, 0, NULL},
	{"dataset.augment", NULL, 0, 0, 0, "none, crop_flip, resized_crop_flip"},
	{"dataset.batch_size", NULL, 1, 0, REQUIRED, NULL},
	{"dataset.train_limit", "0", 0, 0, 0, NULL},
	{"dataset.test_limit", "0", 0, 0, 0, NULL},
	{"dataset.image_size", "224", 8, 4096, 0, NULL},
	{"dataset.loader_threads", "1", 1, 256, 0, NULL},
	{"dataset.prefetch_batches", "4", 1, 1024, 0, NULL},
	{"dataset.skip_bad", "false", 0, 0, 0, NULL},

	{"training.epochs", NULL, 1, 0, 0, NULL},
	{"training.max_iterations", "0", 0, 0, 0, NULL},
	{"training.learning_rate", NULL, 0, 0, REQUIRED | ABOVE, NULL},
	{"training.momentum", "0.9", 0, 1, BELOW, NULL},
	{"training.weight_decay", "1e-4", 0, 0, 0, NULL},
	{"training.nesterov", "false", 0, 0, 0, NULL},
	{"training.scheduler", "none", 0, 0, 0, "none, step, multistep, cosine"},
	{"training.step_size", "30", 1, 0, 0, NULL},
	{"training.milestones", "[150, 250]", 0, 0, 0, NULL},
	{"training.milestones[]", NULL, 1, 0, 0, NULL},
	{"training.gamma", "0.1", 0, 0, ABOVE, NULL},
	{"training.T_max", "0", 0, 0, 0, NULL},
	{"training.warmup_epochs", "0", 0, 0, 0, NULL},
	{"training.warmup_start_lr", "0", 0, 0, 0, NULL},
	{"training.warmup_min_factor", "1e-8", 0, 1, ABOVE, NULL},
	{"training.tf32", "convolutions", 0, 0, 0, "none, convolutions, all"},

	{"powerSGD.use_error_feedback", "true", 0, 0, 0, NULL},
	{"powerSGD.min_compression_rate", "2", 1, 0, 0, NULL},
	{"powerSGD.warm_start", "true", 0, 0, 0, NULL},
	{"powerSGD.orthogonalization_epsilon", "1e-8", 0, 0, 0, NULL},
	{"powerSGD.random_seed", "42", 1, 0, 0, NULL},
	{"powerSGD.compression_stats_logging_frequency", "1000", 0, 0, 0, NULL},
	{"powerSGD.batch_tensors_with_same_shape", "false", 0, 0, 0, NULL},
	{"powerSGD.matrix_approximation_rank", NULL, 1, MOST_RANK, RANK, NULL},
	{"powerSGD.start_power_iterations", "100", 0, 0, 0, NULL},

	{"compression.enable_powerSGD", "true", 0, 0, 0, NULL},
	{"compression.start_power_iterations", NULL, 0, 0, 0, NULL},
	{"compression.min_rank", "1", 1, MOST_RANK, RANK, NULL},
	{"compression.max_rank", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.base_rank", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.use_fixed_rank", "false", 0, 0, 0, NULL},
	{"compression.fixed_rank_value", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.enable_stage_adjust", "false", 0, 0, 0, NULL},
	{"compression.enable_adaptive_sync", "false", 0, 0, 0, NULL},
	{"compression.calibration.enable", "false", 0, 0, 0, NULL},
	{"compression.calibration.warmup_iters", "5", 1, 0, 0, NULL},
	{"compression.calibration.measure_iters", "20", 1, 0, 0, NULL},
	{"compression.calibration.force_start_iter", "0", 0, 0, 0, NULL},
	{"compression.calibration.ranks", NULL, 0, 0, 0, NULL},
	{"compression.calibration.ranks[]", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.calibration.comm_ratio_threshold", "0.30", 0, 1, ABOVE, NULL},
	{"compression.calibration.allow_rank_one", "false", 0, 0, 0, NULL},
	{"compression.calibration.max_batches", "0", 0, 0, 0, NULL},
	{"compression.calibration.use_fixed_rank_after_calibration", NULL, 0, 0, 0, NULL},
	{"compression.calibration.save_dir", NULL, 0, 0, 0, NULL},
	{"compression.calibration.csv_name", "calibration_rank_stats.csv", 0, 0, FILENAME, NULL},
	{"compression.rank_schedule.default_rank", "1", 1, MOST_RANK, RANK, NULL},
	{"compression.rank_schedule.ranges", NULL, 0, 0, 0, NULL},
	{"compression.rank_schedule.ranges[].start_epoch", NULL, 0, 0, REQUIRED, NULL},
	{"compression.rank_schedule.ranges[].end_epoch", NULL, 0, 0, REQUIRED, NULL},
	{"compression.rank_schedule.ranges[].rank", NULL, 1, MOST_RANK, REQUIRED | DENSE, NULL},

	{"adaptive_training.enable", "false", 0, 0, 0, NULL},
	{"adaptive_training.stages", NULL, 0, 0, 0, NULL},
	{"adaptive_training.stages[].name", NULL, 0, 0, 0, NULL},
	{"adaptive_training.stages[].start_epoch", NULL, 0, 0, REQUIRED, NULL},
	{"adaptive_training.stages[].end_epoch", NULL, 0, 0, REQUIRED, NULL},
	{"adaptive_training.stages[].base_matrix_rank", NULL, 1, MOST_RANK, RANK, NULL},
	{"adaptive_training.stages[].base_sync_frequency", "1", 1, 65535, 0, NULL},
	{"adaptive_training.stages[].learning_rate", NULL, 0, 0, ABOVE, NULL},

	{"accordion.enable", "false", 0, 0, 0, NULL},
	{"accordion.rule", "epoch", 0, 0, 0, "epoch, ema"},
	{"accordion.ema_beta", NULL, 0, 1, ABOVE | BELOW, NULL},
	{"accordion.critical_factor", NULL, 0, 0, ABOVE, NULL},
	{"accordion.relaxed_factor", NULL, 0, 0, ABOVE, NULL},
	{"accordion.update_interval", NULL, 1, 0, 0, NULL},
	{"accordion.force_max_epochs", "20", 0, 0, 0, NULL},
	{"accordion.stride_epochs", "10", 1, 0, 0, NULL},
	{"accordion.rank_cooldown_epochs", "10", 0, 0, 0, NULL},
	{"accordion.lr_cooldown_epochs", "20", 0, 0, 0, NULL},
	{"accordion.force_max_iters", "0", 0, 0, 0, NULL},
	{"accordion.stride_iters", "0", 0, 0, 0, NULL},
	{"accordion.rank_cooldown_iters", "0", 0, 0, 0, NULL},
	{"accordion.lr_cooldown_iters", "0", 0, 0, 0, NULL},
	{"accordion.threshold", "0.5", 0, 0, ABOVE, NULL},

	{"lgreco.adjust_iters", "100", 1, 0, 0, NULL},
	{"lgreco.sample_iters", "10", 1, 0, 0, NULL},
	{"lgreco.alpha", "1", 0, 0, ABOVE, NULL},
	{"lgreco.low", "0.5", 0, 1, ABOVE, NULL},
	{"lgreco.high", "2", 1, 0, 0, NULL},

	{"entropy.window_iters", "1000", 1, 0, 0, NULL},
	{"entropy.sample_every", "10", 1, 0, 0, NULL},
	{"entropy.slew", "4", 1, MOST_RANK, 0, NULL},
	{"entropy.round_to", "2", 1, MOST_RANK, 0, NULL},

	{"rank_control.cap", NULL, 0, 0, 0, "none, calibration, live"},
	{"rank_control.choice", NULL, 0, 0, 0,
		"max, fixed, schedule, epochnorm, ema, accordion, lgreco, entropy, replay"},
	{"rank_control.candidates", NULL, 0, 0, 0, NULL},
	{"rank_control.candidates[]", NULL, 1, MOST_RANK, RANK, NULL},
	{"rank_control.dense_candidate", NULL, 0, 0, 0, NULL},
	{"rank_control.max_exposed", "0", 0, 1, 0, NULL},
	{"rank_control.dwell_iters", "50", 1, 0, 0, NULL},
	{"rank_control.replay", NULL, 0, 0, 0, NULL},

	{"network_limits.enable", "false", 0, 0, 0, NULL},
	{"network_limits.method", "auto", 0, 0, 0, "auto, tc, model, tc+model"},
	{"network_limits.bandwidth_mbps", "0", 0, MOST_MBPS, 0, NULL},
	{"network_limits.egress_mbps", NULL, 0, MOST_MBPS, 0, NULL},
	{"network_limits.ingress_mbps", NULL, 0, MOST_MBPS, 0, NULL},
	{"network_limits.latency_ms", "0", 0, MOST_MS, 0, NULL},
	{"network_limits.jitter_ms", "0", 0, MOST_MS, 0, NULL},
	{"network_limits.loss_pct", "0", 0, 100, BELOW, NULL},
	{"network_limits.burst_bytes", "0", 0, 0, 0, NULL},
	{"network_limits.interface", "auto", 0, 0, 0, NULL},
	{"network_limits.target_ip", NULL, 0, 0, 0, NULL},
	{"network_limits.auto_cleanup", "true", 0, 0, 0, NULL},
	{"network_limits.schedule", NULL, 0, 0, 0, NULL},
	{"network_limits.schedule[].at_iteration", NULL, 1, 0, 0, NULL},
	{"network_limits.schedule[].at_second", NULL, 0, MOST_S, ABOVE, NULL},
	{"network_limits.schedule[].egress_mbps", NULL, 0, MOST_MBPS, REQUIRED, NULL},
	{"network_limits.schedule[].ingress_mbps", NULL, 0, MOST_MBPS, 0, NULL},
	{"network_limits.schedule[].latency_ms", NULL, 0, MOST_MS, 0, NULL},

	{"communication.transport", "auto", 0, 0, 0, "auto, gloo, nccl"},
	{"communication.interface", NULL, 0, 0, 0, NULL},
	{"communication.timeout_s", "60", 0, 1e6, ABOVE, NULL},
	{"communication.overlap", "true", 0, 0, 0, NULL},
	{"communication.check_every", "0", 0, 0, 0, NULL},
	{"communication.measure", "true", 0, 0, 0, NULL},

	{"checkpoint.every_epochs", "1", 0, 0, 0, NULL},
	{"checkpoint.every_iters", "0", 0, 0, 0, NULL},
	{"checkpoint.keep", "2", 1, 1000, 0, NULL},
};
/* clang-format on */

/* "a[7].b" is the same key as "a[].b". */
static bool same_path(const char *pattern, const char *path)
{
	while (*pattern && *pattern == *path) {
		if (*pattern == '[')
			path += strspn(path + 1, "0123456789");
		pattern++;
		path++;
	}
	return *pattern == *path;
}

const struct psgd__key *psgd__config_key(const char *path)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (same_path(keys[i].path, path))
			return &keys[i];
	return NULL;
}

bool psgd__config_outside(const struct psgd__key *key, double value)
{
	if (value < key->min || (value <= key->min && key->flags & PSGD__KEY_ABOVE))
		return true;
	if (!(key->max > 0))
		return false;
	return value > key->max || (value >= key->max && key->flags & PSGD__KEY_BELOW);
}

bool psgd__config_word(const char *words, const char *word)
{
	size_t n = strlen(word);

	if (strpbrk(word, ", "))
		return false;
	for (const char *at = words; at; at = strchr(at, ' ')) {
		at += strspn(at, " ");
		if (strncmp(at, word, n) == 0 && (at[n] == ',' || at[n] == '\0'))
			return true;
	}
	return false;
}
