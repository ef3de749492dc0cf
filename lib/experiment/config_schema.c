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
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t dataset_fields[] = {
	TEXT(struct psgd_config_dataset, name),
	TEXT(struct psgd_config_dataset, root),
	TEXT(struct psgd_config_dataset, augment),
	UINT(struct psgd_config_dataset, batch_size),
	UINT(struct psgd_config_dataset, train_limit),
	UINT(struct psgd_config_dataset, test_limit),
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
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t powersgd_fields[] = {
	BOOL(struct psgd_config_powersgd, use_error_feedback),
	REAL(struct psgd_config_powersgd, min_compression_rate),
	BOOL(struct psgd_config_powersgd, warm_start),
	REAL(struct psgd_config_powersgd, orthogonalization_epsilon),
	UINT(struct psgd_config_powersgd, random_seed),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t calibration_fields[] = {
	BOOL(struct psgd_config_calibration, enable),
	UINT(struct psgd_config_calibration, warmup_iters),
	UINT(struct psgd_config_calibration, measure_iters),
	UINT(struct psgd_config_calibration, force_start_iter),
	LIST(struct psgd_config_calibration, ranks, number_entry),
	REAL(struct psgd_config_calibration, comm_ratio_threshold),
	BOOL(struct psgd_config_calibration, allow_rank_one),
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
	PART(struct psgd_config_compression, calibration, calibration_fields),
	PART(struct psgd_config_compression, rank_schedule, schedule_fields),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t accordion_fields[] = {
	BOOL(struct psgd_config_accordion, enable),
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

static const cyaml_schema_field_t network_fields[] = {
	BOOL(struct psgd_config_network, enable),
	TEXT(struct psgd_config_network, method),
	REAL(struct psgd_config_network, bandwidth_mbps),
	REAL(struct psgd_config_network, egress_mbps),
	REAL(struct psgd_config_network, ingress_mbps),
	REAL(struct psgd_config_network, latency_ms),
	REAL(struct psgd_config_network, jitter_ms),
	UINT(struct psgd_config_network, burst_bytes),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t communication_fields[] = {
	TEXT(struct psgd_config_communication, transport),
	TEXT(struct psgd_config_communication, interface),
	REAL(struct psgd_config_communication, timeout_s),
	BOOL(struct psgd_config_communication, overlap),
	UINT(struct psgd_config_communication, check_every),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t config_fields[] = {
	TEXT(struct psgd_config, name),
	TEXT(struct psgd_config, save_dir),
	TEXT(struct psgd_config, results_csv),
	TEXT(struct psgd_config, benchmark_save_dir),
	UINT(struct psgd_config, seed),
	UINT(struct psgd_config, threads),
	PART(struct psgd_config, model, model_fields),
	PART(struct psgd_config, dataset, dataset_fields),
	PART(struct psgd_config, training, training_fields),
	PART(struct psgd_config, powerSGD, powersgd_fields),
	PART(struct psgd_config, compression, compression_fields),
	PART(struct psgd_config, accordion, accordion_fields),
	PART(struct psgd_config, rank_control, rank_control_fields),
	PART(struct psgd_config, network_limits, network_fields),
	PART(struct psgd_config, communication, communication_fields),
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

/* clang-format off */
static const struct psgd__key keys[] = {
	{"name", NULL, 0, 0, FILENAME, NULL},
	{"save_dir", NULL, 0, 0, 0, NULL},
	{"results_csv", "accuracy_results.csv", 0, 0, FILENAME, NULL},
	{"benchmark_save_dir", NULL, 0, 0, 0, NULL},
	{"seed", "42", 0, 0, 0, NULL},
	{"threads", "1", 1, 1024, 0, NULL},

	{"model.name", NULL, 0, 0, REQUIRED,
		"mlp, cnn, resnet8, resnet20, resnet18, resnet34, resnet50"},
	{"model.stem", "auto", 0, 0, 0, "auto, cifar, imagenet"},
	{"model.num_classes", "10", 1, 1e6, 0, NULL},

	{"dataset.name", NULL, 0, 0, REQUIRED,
		"fashion-mnist, mnist, idx, cifar10, cifar, cifar100, synthetic"},
	{"dataset.root", NULL, 0, 0, 0, NULL},
	{"dataset.augment", NULL, 0, 0, 0, "none, crop_flip"},
	{"dataset.batch_size", NULL, 1, 0, REQUIRED, NULL},
	{"dataset.train_limit", "0", 0, 0, 0, NULL},
	{"dataset.test_limit", "0", 0, 0, 0, NULL},

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

	{"powerSGD.use_error_feedback", "true", 0, 0, 0, NULL},
	{"powerSGD.min_compression_rate", "2", 1, 0, 0, NULL},
	{"powerSGD.warm_start", "true", 0, 0, 0, NULL},
	{"powerSGD.orthogonalization_epsilon", "1e-8", 0, 0, 0, NULL},
	{"powerSGD.random_seed", "42", 1, 0, 0, NULL},

	{"compression.enable_powerSGD", "true", 0, 0, 0, NULL},
	{"compression.start_power_iterations", "100", 0, 0, 0, NULL},
	{"compression.min_rank", "1", 1, MOST_RANK, RANK, NULL},
	{"compression.max_rank", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.base_rank", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.use_fixed_rank", "false", 0, 0, 0, NULL},
	{"compression.fixed_rank_value", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.calibration.enable", "false", 0, 0, 0, NULL},
	{"compression.calibration.warmup_iters", "5", 1, 0, 0, NULL},
	{"compression.calibration.measure_iters", "20", 1, 0, 0, NULL},
	{"compression.calibration.force_start_iter", "0", 0, 0, 0, NULL},
	{"compression.calibration.ranks", NULL, 0, 0, 0, NULL},
	{"compression.calibration.ranks[]", NULL, 1, MOST_RANK, RANK, NULL},
	{"compression.calibration.comm_ratio_threshold", "0.30", 0, 1, ABOVE, NULL},
	{"compression.calibration.allow_rank_one", "false", 0, 0, 0, NULL},
	{"compression.rank_schedule.default_rank", "1", 1, MOST_RANK, RANK, NULL},
	{"compression.rank_schedule.ranges", NULL, 0, 0, 0, NULL},
	{"compression.rank_schedule.ranges[].start_epoch", NULL, 0, 0, REQUIRED, NULL},
	{"compression.rank_schedule.ranges[].end_epoch", NULL, 0, 0, REQUIRED, NULL},
	{"compression.rank_schedule.ranges[].rank", NULL, 1, MOST_RANK, REQUIRED | DENSE, NULL},

	{"accordion.enable", "false", 0, 0, 0, NULL},
	{"accordion.force_max_epochs", "20", 0, 0, 0, NULL},
	{"accordion.stride_epochs", "10", 1, 0, 0, NULL},
	{"accordion.rank_cooldown_epochs", "10", 0, 0, 0, NULL},
	{"accordion.lr_cooldown_epochs", "20", 0, 0, 0, NULL},
	{"accordion.force_max_iters", "0", 0, 0, 0, NULL},
	{"accordion.stride_iters", "0", 0, 0, 0, NULL},
	{"accordion.rank_cooldown_iters", "0", 0, 0, 0, NULL},
	{"accordion.lr_cooldown_iters", "0", 0, 0, 0, NULL},
	{"accordion.threshold", "0.5", 0, 0, ABOVE, NULL},

	{"rank_control.cap", NULL, 0, 0, 0, "none, calibration, live"},
	{"rank_control.choice", NULL, 0, 0, 0, "max, fixed, schedule, epochnorm, replay"},
	{"rank_control.candidates", NULL, 0, 0, 0, NULL},
	{"rank_control.candidates[]", NULL, 1, MOST_RANK, RANK, NULL},
	{"rank_control.dense_candidate", NULL, 0, 0, 0, NULL},
	{"rank_control.max_exposed", "0", 0, 1, 0, NULL},
	{"rank_control.dwell_iters", "50", 1, 0, 0, NULL},
	{"rank_control.replay", NULL, 0, 0, 0, NULL},

	{"network_limits.enable", "false", 0, 0, 0, NULL},
	{"network_limits.method", "auto", 0, 0, 0, "auto, model"},
	{"network_limits.bandwidth_mbps", "0", 0, MOST_MBPS, 0, NULL},
	{"network_limits.egress_mbps", NULL, 0, MOST_MBPS, 0, NULL},
	{"network_limits.ingress_mbps", NULL, 0, MOST_MBPS, 0, NULL},
	{"network_limits.latency_ms", "0", 0, MOST_MS, 0, NULL},
	{"network_limits.jitter_ms", "0", 0, MOST_MS, 0, NULL},
	{"network_limits.burst_bytes", "0", 0, 0, 0, NULL},

	{"communication.transport", "gloo", 0, 0, 0, "gloo"},
	{"communication.interface", NULL, 0, 0, 0, NULL},
	{"communication.timeout_s", "60", 0, 1e6, ABOVE, NULL},
	{"communication.overlap", "true", 0, 0, 0, NULL},
	{"communication.check_every", "0", 0, 0, 0, NULL},
};
/* clang-format on */

static const char *const unsupported[] = {
	"model.pretrained",
	"training.warmup_min_factor",
	"powerSGD.compression_stats_logging_frequency",
	"powerSGD.batch_tensors_with_same_shape",
	"powerSGD.matrix_approximation_rank",
	"powerSGD.start_power_iterations",
	"accordion.rule",
	"accordion.ema_beta",
	"accordion.critical_factor",
	"accordion.relaxed_factor",
	"accordion.update_interval",
	"compression.enable_stage_adjust",
	"compression.enable_adaptive_sync",
	"compression.calibration.max_batches",
	"compression.calibration.use_fixed_rank_after_calibration",
	"compression.calibration.save_dir",
	"compression.calibration.csv_name",
	"adaptive_training",
	"network_limits.interface",
	"network_limits.loss_pct",
	"network_limits.target_ip",
	"network_limits.auto_cleanup",
};

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

bool psgd__config_unsupported(const char *path)
{
	for (size_t i = 0; i < sizeof(unsupported) / sizeof(unsupported[0]); i++)
		if (strcmp(unsupported[i], path) == 0)
			return true;
	return false;
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
