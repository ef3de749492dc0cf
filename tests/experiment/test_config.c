/* What a configuration file means: defaults, spellings, overrides, and writing it out again. */
#include <math.h>

#include "experiment/config_schema.h"
#include "experiment/config_support.h"
#include "support/locale.h"
#include "support/suite.h"

#define SAME_TEXT(a, b) ck_assert_str_eq(a, b)
#define SAME(a, b) ck_assert_uint_eq((uint64_t)(a), (uint64_t)(b))
#define EXACT(a, b) ck_assert_msg((a) == (b), #a " is %.17g", (double)(a))

START_TEST(default_top_and_training)
{
	struct psgd_config *c = load_text(SMALLEST, "seed=42");
	struct psgd_config *bare;

	SAME_TEXT(c->name, "t");
	ck_assert_ptr_null(c->save_dir);
	SAME_TEXT(c->results_csv, "accuracy_results.csv");
	ck_assert_ptr_null(c->benchmark_save_dir);
	SAME(c->threads, 1);
	SAME(c->model.num_classes, 10);
	ck_assert_ptr_null(c->dataset.root);
	ck_assert_str_eq(c->dataset.augment, "none");
	SAME(c->dataset.train_limit, 0);
	SAME(c->dataset.test_limit, 0);
	SAME(c->training.max_iterations, 0);
	EXACT(c->training.momentum, 0.9);
	EXACT(c->training.weight_decay, 1e-4);
	ck_assert(!c->training.nesterov);
	SAME_TEXT(c->training.scheduler, "none");
	SAME(c->training.step_size, 30);
	SAME(c->training.milestones_count, 2);
	SAME(c->training.milestones[0], 150);
	SAME(c->training.milestones[1], 250);
	EXACT(c->training.gamma, 0.1);
	SAME(c->training.T_max, 0);
	SAME(c->training.warmup_epochs, 0);
	EXACT(c->training.warmup_start_lr, 0);
	EXACT(c->training.warmup_min_factor, 1e-8);
	ck_assert(!c->model.pretrained);
	ck_assert_ptr_null(c->model.weights);
	ck_assert(c->model.sync_batchnorm);
	SAME(c->dataset.image_size, 224);
	SAME(c->dataset.loader_threads, 1);
	SAME(c->dataset.prefetch_batches, 4);
	ck_assert(!c->dataset.skip_bad);
	SAME(c->checkpoint.every_epochs, 1);
	SAME(c->checkpoint.every_iters, 0);
	SAME(c->checkpoint.keep, 2);
	bare = load_text("model: {name: cnn}\ndataset: {name: mnist, batch_size: 1}\n"
			 "training: {learning_rate: 1, max_iterations: 9}\n",
		NULL);
	SAME(bare->seed, 42);
	SAME(bare->training.epochs, 9);
	psgd_config_free(&bare);
	psgd_config_free(&c);
	ck_assert_ptr_null(c);
}
END_TEST

START_TEST(default_compression)
{
	struct psgd_config *c = load_text(SMALLEST, NULL);

	ck_assert(c->powerSGD.use_error_feedback);
	EXACT(c->powerSGD.min_compression_rate, 2);
	ck_assert(c->powerSGD.warm_start);
	EXACT(c->powerSGD.orthogonalization_epsilon, 1e-8);
	SAME(c->powerSGD.random_seed, 42);
	SAME(c->powerSGD.compression_stats_logging_frequency, 1000);
	ck_assert(!c->powerSGD.batch_tensors_with_same_shape);
	SAME(c->powerSGD.matrix_approximation_rank, 0);
	SAME(c->powerSGD.start_power_iterations, 100);
	ck_assert(c->compression.enable_powerSGD);
	SAME(c->compression.start_power_iterations, 100);
	SAME(c->compression.min_rank, 1);
	SAME(c->compression.max_rank, 8);
	SAME(c->compression.base_rank, 1);
	ck_assert(!c->compression.use_fixed_rank);
	SAME(c->compression.fixed_rank_value, 1);
	ck_assert(!c->compression.enable_stage_adjust);
	ck_assert(!c->compression.enable_adaptive_sync);
	ck_assert(!c->adaptive_training.enable);
	ck_assert_ptr_null(c->adaptive_training.stages);
	ck_assert(!c->compression.calibration.enable);
	SAME(c->compression.calibration.max_batches, 0);
	ck_assert_ptr_null(c->compression.calibration.save_dir);
	SAME_TEXT(c->compression.calibration.csv_name, "calibration_rank_stats.csv");
	SAME(c->compression.calibration.warmup_iters, 5);
	SAME(c->compression.calibration.measure_iters, 20);
	SAME(c->compression.calibration.force_start_iter, 0);
	ck_assert_ptr_null(c->compression.calibration.ranks);
	SAME(c->compression.calibration.ranks_count, 0);
	EXACT(c->compression.calibration.comm_ratio_threshold, 0.30);
	ck_assert(!c->compression.calibration.allow_rank_one);
	SAME(c->compression.rank_schedule.default_rank, 1);
	ck_assert_ptr_null(c->compression.rank_schedule.ranges);
	SAME(c->compression.rank_schedule.ranges_count, 0);
	psgd_config_free(&c);
}
END_TEST

START_TEST(default_control_and_network)
{
	struct psgd_config *c = load_text(SMALLEST, NULL);

	ck_assert(!c->accordion.enable);
	SAME_TEXT(c->accordion.rule, "epoch");
	EXACT(c->accordion.ema_beta, 0);
	EXACT(c->accordion.critical_factor, 0);
	EXACT(c->accordion.relaxed_factor, 0);
	SAME(c->accordion.update_interval, 0);
	SAME(c->accordion.force_max_epochs, 20);
	SAME(c->accordion.stride_epochs, 10);
	SAME(c->accordion.rank_cooldown_epochs, 10);
	SAME(c->accordion.lr_cooldown_epochs, 20);
	SAME(c->accordion.force_max_iters, 0);
	SAME(c->accordion.stride_iters, 0);
	SAME(c->accordion.rank_cooldown_iters, 0);
	SAME(c->accordion.lr_cooldown_iters, 0);
	EXACT(c->accordion.threshold, 0.5);
	ck_assert_ptr_null(c->rank_control.cap);
	ck_assert_ptr_null(c->rank_control.choice);
	ck_assert_ptr_null(c->rank_control.candidates);
	ck_assert(!c->rank_control.dense_candidate);
	EXACT(c->rank_control.max_exposed, 0);
	SAME(c->rank_control.dwell_iters, 50);
	ck_assert_ptr_null(c->rank_control.replay);
	ck_assert(!c->network_limits.enable);
	SAME_TEXT(c->network_limits.method, "auto");
	EXACT(c->network_limits.bandwidth_mbps, 0);
	EXACT(c->network_limits.egress_mbps, 0);
	EXACT(c->network_limits.ingress_mbps, 0);
	EXACT(c->network_limits.latency_ms, 0);
	EXACT(c->network_limits.jitter_ms, 0);
	SAME(c->network_limits.burst_bytes, 0);
	EXACT(c->network_limits.loss_pct, 0);
	SAME_TEXT(c->network_limits.interface, "auto");
	ck_assert_ptr_null(c->network_limits.target_ip);
	ck_assert(c->network_limits.auto_cleanup);
	ck_assert_ptr_null(c->network_limits.schedule);
	SAME_TEXT(c->communication.transport, "auto");
	SAME_TEXT(c->device, "auto");
	ck_assert(!c->allow_mixed);
	SAME_TEXT(c->training.tf32, "convolutions");
	ck_assert_ptr_null(c->communication.interface);
	EXACT(c->communication.timeout_s, 60);
	ck_assert(c->communication.overlap);
	SAME(c->communication.check_every, 0);
	ck_assert(c->communication.measure);
	SAME(c->lgreco.adjust_iters, 100);
	SAME(c->lgreco.sample_iters, 10);
	EXACT(c->lgreco.alpha, 1);
	EXACT(c->lgreco.low, 0.5);
	EXACT(c->lgreco.high, 2);
	SAME(c->entropy.window_iters, 1000);
	SAME(c->entropy.sample_every, 10);
	SAME(c->entropy.slew, 4);
	SAME(c->entropy.round_to, 2);
	psgd_config_free(&c);
}
END_TEST

START_TEST(data_sets)
{
	static const struct {
		const char *override, *name, *augment;
	} cases[] = {
		{"dataset.name=cifar", "cifar10", "crop_flip"},
		{"dataset.name=cifar10", "cifar10", "crop_flip"},
		{"dataset.name=cifar100", "cifar100", "crop_flip"},
		{"dataset.name=fashion-mnist", "fashion-mnist", "none"},
		{"dataset={name: cifar, augment: none, batch_size: 1}", "cifar10", "none"},
		{"dataset={name: mnist, augment: crop_flip, batch_size: 1}", "mnist", "crop_flip"},
		{"dataset={name: cifar100, augment: ~, batch_size: 1}", "cifar100", "crop_flip"},
		{"dataset={name: imagenet, root: x, batch_size: 1}", "imagenet",
			"resized_crop_flip"},
		{"dataset={name: imagenet, root: x, batch_size: 1, augment: none}", "imagenet",
			"none"},
	};

	write_text("t.yaml", SMALLEST);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct psgd_config *c = load_file("t.yaml", cases[i].override);

		SAME_TEXT(c->dataset.name, cases[i].name);
		SAME_TEXT(c->dataset.augment, cases[i].augment);
		psgd_config_free(&c);
	}
}
END_TEST

START_TEST(numbers)
{
	static const struct {
		const char *text;
		double value;
	} reals[] = {{"1e-8", 1e-8}, {"3", 3}, {".5", 0.5}, {"1.", 1}, {"2.5E+3", 2500},
		{"+0.25", 0.25}, {"0.1", 0.1}};
	char override[80];
	struct psgd_config *c;

	use_decimal_comma();
	write_text("t.yaml", SMALLEST);
	for (size_t i = 0; i < sizeof(reals) / sizeof(reals[0]); i++) {
		snprintf(override, sizeof(override), "training.learning_rate=%s", reals[i].text);
		c = load_file("t.yaml", override);
		EXACT(c->training.learning_rate, reals[i].value);
		psgd_config_free(&c);
	}
	c = load_file("t.yaml", "seed=18446744073709551615");
	SAME(c->seed, UINT64_MAX);
	psgd_config_free(&c);
	c = load_file("t.yaml", "training.epochs=4294967295");
	SAME(c->training.epochs, UINT32_MAX);
	psgd_config_free(&c);
	c = load_file("t.yaml", "seed=-0");
	SAME(c->seed, 0);
	psgd_config_free(&c);
}
END_TEST

START_TEST(booleans)
{
	static const char *const words[] = {
		"true", "yes", "on", "True", "YES", "false", "no", "off", "False", "OFF"};
	char override[80];

	write_text("t.yaml", SMALLEST);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		struct psgd_config *c;

		snprintf(override, sizeof(override), "communication.overlap=%s", words[i]);
		c = load_file("t.yaml", override);
		ck_assert_msg(c->communication.overlap == (i < 5), "%s", words[i]);
		psgd_config_free(&c);
	}
}
END_TEST

START_TEST(absent_texts)
{
	static const char *const nothing[] = {"", "~", "null", "NULL"};
	char override[80];
	struct psgd_config *c;

	write_text("t.yaml", SMALLEST "save_dir: x\nresults_csv: y\ncompression:\naccordion: ~\n");
	for (size_t i = 0; i < sizeof(nothing) / sizeof(nothing[0]); i++) {
		snprintf(override, sizeof(override), "save_dir=%s", nothing[i]);
		c = load_file("t.yaml", override);
		ck_assert_ptr_null(c->save_dir);
		psgd_config_free(&c);
	}
	c = load_file("t.yaml", "results_csv=");
	SAME_TEXT(c->results_csv, "accuracy_results.csv");
	SAME(c->compression.max_rank, 8);
	SAME(c->accordion.stride_epochs, 10);
	psgd_config_free(&c);
	c = load_file("t.yaml", "save_dir='null'");
	SAME_TEXT(c->save_dir, "null");
	psgd_config_free(&c);
	c = load_file("t.yaml", "save_dir=2024");
	SAME_TEXT(c->save_dir, "2024");
	psgd_config_free(&c);
}
END_TEST

START_TEST(lists)
{
	struct psgd_config *c = load_text(SMALLEST, "training.milestones=[]");

	ck_assert_ptr_null(c->training.milestones);
	SAME(c->training.milestones_count, 0);
	psgd_config_free(&c);
	c = load_file("t.yaml", "rank_control.candidates=[1, 3, 8]");
	SAME(c->rank_control.candidates_count, 3);
	SAME(c->rank_control.candidates[1], 3);
	psgd_config_free(&c);
	c = load_file("t.yaml", "rank_control.candidates=");
	ck_assert_ptr_null(c->rank_control.candidates);
	psgd_config_free(&c);
	c = load_file("t.yaml", "compression.rank_schedule.ranges=[{start_epoch: 5, end_epoch: 6, "
				"rank: dense}, {start_epoch: 0, end_epoch: 4, rank: 3}]");
	SAME(c->compression.rank_schedule.ranges_count, 2);
	SAME(c->compression.rank_schedule.ranges[0].rank, 0);
	SAME(c->compression.rank_schedule.ranges[0].start_epoch, 5);
	SAME(c->compression.rank_schedule.ranges[1].end_epoch, 4);
	SAME(c->compression.rank_schedule.ranges[1].rank, 3);
	psgd_config_free(&c);
}
END_TEST

START_TEST(aliases)
{
	struct psgd_config *c = load_text(
		SMALLEST "compression: {min_rank: &r 4, base_rank: *r, max_rank: *r}\n", NULL);

	SAME(c->compression.min_rank, 4);
	SAME(c->compression.base_rank, 4);
	SAME(c->compression.max_rank, 4);
	psgd_config_free(&c);
}
END_TEST

START_TEST(overrides_in_order)
{
	static const char *const list[] = {"training.epochs=3", "accordion.stride_iters=5",
		"training={learning_rate: 2, epochs: 4}", "training.momentum=0.5",
		"compression.calibration.ranks=[1, 2]", "training.epochs=6"};
	struct psgd_config *c;
	char error[300];

	write_text("t.yaml", SMALLEST);
	ck_assert_int_eq(psgd_config_load("t.yaml", list, sizeof(list) / sizeof(list[0]), &c, error,
				 sizeof(error)),
		PSGD_OK);
	SAME(c->training.epochs, 6);
	EXACT(c->training.learning_rate, 2);
	EXACT(c->training.momentum, 0.5);
	SAME(c->accordion.stride_iters, 5);
	SAME(c->compression.calibration.ranks_count, 2);
	SAME_TEXT(psgd_config_source(c), SMALLEST);
	psgd_config_free(&c);
	psgd_config_free(&c);
	psgd_config_free(NULL);
}
END_TEST

START_TEST(names)
{
	static const struct {
		const char *file, *name;
	} cases[] = {{"a.b.yaml", "a.b"}, {"x.yml", "x"}, {"plain", "plain"}, {".yaml", "run"},
		{"\xe5\xae\x9f.yaml", "\xe5\xae\x9f"}, {"\xff z.yaml", "_ z"}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct psgd_config *c;
		char *yaml;

		write_text(cases[i].file, SMALLEST);
		c = load_file(cases[i].file, NULL);
		unlink(cases[i].file);
		SAME_TEXT(c->name, cases[i].name);
		ck_assert_int_eq(psgd_config_yaml(c, &yaml), PSGD_OK);
		free(yaml);
		psgd_config_free(&c);
	}
}
END_TEST

static void round_trip(const char *override)
{
	struct psgd_config *first = load_file("t.yaml", override), *second;
	char *one, *two;

	ck_assert_int_eq(psgd_config_yaml(first, &one), PSGD_OK);
	write_text("again.yaml", one);
	second = load_file("again.yaml", NULL);
	ck_assert_int_eq(psgd_config_yaml(second, &two), PSGD_OK);
	ck_assert_str_eq(one, two);
	SAME_TEXT(first->name, second->name);
	EXACT(first->training.learning_rate, second->training.learning_rate);
	EXACT(first->powerSGD.orthogonalization_epsilon,
		second->powerSGD.orthogonalization_epsilon);
	SAME(first->seed, second->seed);
	SAME(first->training.milestones_count, second->training.milestones_count);
	SAME(first->compression.rank_schedule.ranges_count,
		second->compression.rank_schedule.ranges_count);
	SAME(first->rank_control.candidates_count, second->rank_control.candidates_count);
	ck_assert(!first->save_dir == !second->save_dir);
	if (first->save_dir)
		SAME_TEXT(first->save_dir, second->save_dir);
	free(two);
	free(one);
	psgd_config_free(&second);
	psgd_config_free(&first);
}

START_TEST(written_and_read)
{
	static const char *const overrides[] = {NULL, "training.learning_rate=0.30000000000000004",
		"powerSGD.orthogonalization_epsilon=2.2250738585072014e-308",
		"training.learning_rate=123456789012345678", "seed=18446744073709551615",
		"save_dir='null'", "save_dir='~'", "save_dir=\"a: b # c\\n\\t\\u00e9\"",
		"save_dir='1e3'", "save_dir='yes'", "save_dir='- x'", "save_dir='*a'",
		"save_dir=' x '", "name=\"'\\\"\"", "training.milestones=[]",
		"training.milestones=[7]", "rank_control.candidates=[2, 5, 9]",
		"rank_control={cap: live, dense_candidate: false}",
		"compression.rank_schedule.ranges=[{start_epoch: 0, end_epoch: 2, rank: dense}, "
		"{start_epoch: 3, end_epoch: 4, rank: 40}]",
		"network_limits={bandwidth_mbps: 1, egress_mbps: 0, ingress_mbps: 3}",
		"training={max_iterations: 4, learning_rate: 0.1}",
		"compression={use_fixed_rank: yes, fixed_rank_value: 6, min_rank: 2, max_rank: 7}",
		"powerSGD={matrix_approximation_rank: 5, start_power_iterations: 3}",
		"powerSGD.matrix_approximation_rank=~", "compression={base_rank: ~, max_rank: ~}",
		"adaptive_training.stages=[{start_epoch: 0, end_epoch: 1}, {start_epoch: 2, "
		"end_epoch: 3, base_matrix_rank: 3, learning_rate: 0.3, name: late}]",
		"adaptive_training.stages=[{start_epoch: 0, end_epoch: 1, learning_rate: ~}]",
		"network_limits={enable: yes, schedule: [{at_iteration: 3, egress_mbps: 4, "
		"ingress_mbps: 0}]}",
		"network_limits={enable: yes, method: tc+model, schedule: [{at_second: 0.5, "
		"egress_mbps: 4}, {at_second: 1e3, egress_mbps: 5}]}"};

	write_text("t.yaml", SMALLEST);
	for (size_t i = 0; i < sizeof(overrides) / sizeof(overrides[0]); i++)
		round_trip(overrides[i]);
}
END_TEST

static void has_key(const cyaml_schema_value_t *schema, const char *path)
{
	char child[200];

	if (schema->type == CYAML_MAPPING) {
		for (const cyaml_schema_field_t *f = schema->mapping.fields; f->key; f++) {
			snprintf(child, sizeof(child), "%s%s%s", path, *path ? "." : "", f->key);
			has_key(&f->value, child);
		}
		return;
	}
	ck_assert_msg(psgd__config_key(path) != NULL, "%s has no entry", path);
	if (schema->type == CYAML_SEQUENCE) {
		snprintf(child, sizeof(child), "%s[7]", path);
		has_key(schema->sequence.entry, child);
	}
}

START_TEST(tables_agree)
{
	has_key(&psgd__config_schema, "");
	ck_assert_ptr_null(psgd__config_key("training.milestones[7"));
	ck_assert_ptr_null(psgd__config_key("training.milestone"));
	ck_assert(!psgd__config_word("mlp, cnn", "ml"));
	ck_assert(!psgd__config_word("mlp, cnn", ""));
	ck_assert(psgd__config_word("mlp, cnn", "cnn"));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("config");
	TCase *t = tcase_create("meaning");

	tcase_add_checked_fixture(t, enter_folder, leave_folder);
	tcase_add_test(t, default_top_and_training);
	tcase_add_test(t, default_compression);
	tcase_add_test(t, default_control_and_network);
	tcase_add_test(t, data_sets);
	tcase_add_test(t, numbers);
	tcase_add_test(t, booleans);
	tcase_add_test(t, absent_texts);
	tcase_add_test(t, lists);
	tcase_add_test(t, aliases);
	tcase_add_test(t, overrides_in_order);
	tcase_add_test(t, names);
	tcase_add_test(t, written_and_read);
	tcase_add_test(t, tables_agree);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
