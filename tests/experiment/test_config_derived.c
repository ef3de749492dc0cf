/* Values that follow from other keys, and what is said of keys that do nothing. */
#include "experiment/config_support.h"
#include "support/suite.h"

#define SAME(a, b) ck_assert_uint_eq((uint64_t)(a), (uint64_t)(b))
#define EXACT(a, b) ck_assert_msg((a) == (b), #a " is %.17g", (double)(a))

START_TEST(default_depends)
{
	struct psgd_config *c = load_text(SMALLEST, "compression={min_rank: 3}");

	SAME(c->compression.base_rank, 3);
	SAME(c->compression.fixed_rank_value, 3);
	SAME(c->compression.rank_schedule.default_rank, 3);
	SAME(c->compression.max_rank, 8);
	psgd_config_free(&c);
	c = load_file("t.yaml", "compression={base_rank: 12}");
	SAME(c->compression.max_rank, 12);
	SAME(c->compression.fixed_rank_value, 12);
	psgd_config_free(&c);
	c = load_file(
		"t.yaml", "powerSGD={matrix_approximation_rank: 9, start_power_iterations: 6}");
	SAME(c->compression.base_rank, 9);
	SAME(c->compression.max_rank, 9);
	SAME(c->compression.start_power_iterations, 6);
	psgd_config_free(&c);
	c = load_file("t.yaml", "compression.fixed_rank_value=20");
	SAME(c->compression.max_rank, 20);
	SAME(c->compression.base_rank, 1);
	psgd_config_free(&c);
	c = load_file("t.yaml", "rank_control={candidates: [1, 16], cap: live}");
	SAME(c->compression.max_rank, 16);
	ck_assert(c->rank_control.dense_candidate);
	psgd_config_free(&c);
	c = load_file("t.yaml", "rank_control={dense_candidate: no, cap: live}");
	ck_assert(!c->rank_control.dense_candidate);
	psgd_config_free(&c);
	for (int i = 0; i < 3; i++) {
		static const char *const rules[] = {"accordion={enable: true, rule: ema}",
			"rank_control.choice=ema",
			"accordion={enable: true, rule: ema, ema_beta: 0.5}"};

		c = load_file("t.yaml", rules[i]);
		EXACT(c->accordion.ema_beta, i < 2 ? 0.9 : 0.5);
		EXACT(c->accordion.critical_factor, 1.2);
		EXACT(c->accordion.relaxed_factor, 0.95);
		SAME(c->accordion.update_interval, 100);
		psgd_config_free(&c);
	}
	c = load_file("t.yaml", "network_limits={bandwidth_mbps: 100}");
	EXACT(c->network_limits.egress_mbps, 100);
	EXACT(c->network_limits.ingress_mbps, 100);
	psgd_config_free(&c);
	c = load_file("t.yaml", "network_limits={bandwidth_mbps: 100, ingress_mbps: 0}");
	EXACT(c->network_limits.egress_mbps, 100);
	EXACT(c->network_limits.ingress_mbps, 0);
	psgd_config_free(&c);
}
END_TEST

/* The rank that calibration found stays unless the file says how else it is chosen. */
START_TEST(after_calibration)
{
	static const struct {
		const char *override;
		bool fixed, dense;
	} cases[] = {
		{NULL, true, false},
		{"compression.calibration.enable=true", true, true},
		{"compression={calibration: {enable: true, use_fixed_rank_after_calibration: no}}",
			false, true},
		{"compression={calibration: {enable: true}, use_fixed_rank: true}", false, true},
		{"accordion.enable=true", false, false},
		{"rank_control.choice=max", false, false},
		{"rank_control={cap: calibration, dense_candidate: no}", true, false},
		{"compression.rank_schedule.ranges=[{start_epoch: 0, end_epoch: 1, rank: 2}]",
			false, false},
		{"rank_control={choice: replay, replay: x}", false, false},
	};

	write_text("t.yaml", SMALLEST);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct psgd_config *c = load_file("t.yaml", cases[i].override);

		ck_assert_msg(c->compression.calibration.use_fixed_rank_after_calibration ==
				      cases[i].fixed,
			"%s", cases[i].override);
		ck_assert_msg(
			c->rank_control.dense_candidate == cases[i].dense, "%s", cases[i].override);
		psgd_config_free(&c);
	}
}
END_TEST

#define INACTIVE_EMA(key) "accordion." key ": inactive, it acts with accordion.rule: ema\n"
#define STAGES                                                                                     \
	"stages: [{start_epoch: 0, end_epoch: 1, base_matrix_rank: 2, base_sync_frequency: 3}]"

#define RANGES "ranges: [{start_epoch: 1, end_epoch: 1, rank: 2}]"

/* What only CUDA devices have. */
START_TEST(notices_of_the_cpu)
{
	struct psgd_config *c =
		load_text(SMALLEST "device: cpu\nallow_mixed: true\n", "training.tf32=all");

	ck_assert_str_eq(psgd_config_notices(c), "allow_mixed: inactive, device is cpu\n"
						 "training.tf32: inactive, device is cpu\n");
	psgd_config_free(&c);
}
END_TEST

/* Read again, a configuration that was written out says the same. */
START_TEST(notices)
{
	static const struct {
		const char *override, *text;
	} cases[] = {
		{NULL, ""},
		{"accordion={enable: yes, rule: ema, ema_beta: 0.9}", ""},
		{"accordion={ema_beta: 0.9, critical_factor: 1.2, relaxed_factor: 0.95, "
		 "update_interval: 100}",
			INACTIVE_EMA("ema_beta") INACTIVE_EMA("critical_factor")
				INACTIVE_EMA("relaxed_factor") INACTIVE_EMA("update_interval")},
		{"powerSGD.batch_tensors_with_same_shape=true",
			"powerSGD.batch_tensors_with_same_shape: nothing to change, the matrices "
			"of a bucket are always computed together\n"},
		{"powerSGD.matrix_approximation_rank=3", ""},
		{"training.warmup_epochs=3", "training.warmup_epochs: training ends in the "
					     "warm-up, after 2 of its 3 epochs\n"},
		{"training.warmup_epochs=2", ""},
		{"device=cpu", ""},
		{"allow_mixed=true", ""},
		{"network_limits={enable: yes, loss_pct: 1}", ""},
		{"network_limits={enable: yes, schedule: [{at_second: 2, egress_mbps: 1}]}", ""},
		{"network_limits={enable: yes, bandwidth_mbps: 0}",
			"network_limits.enable: nothing is limited, egress_mbps, ingress_mbps, "
			"latency_ms and loss_pct are 0\n"},
		{"accordion={rule: ema, ema_beta: 0.9}",
			"accordion.ema_beta: inactive, accordion.enable is false\n"},
		{"compression={use_fixed_rank: yes, calibration: {enable: yes, "
		 "use_fixed_rank_after_calibration: yes}}",
			"compression.calibration.use_fixed_rank_after_calibration: inactive, "
			"compression.use_fixed_rank is true\n"},
		{"compression={enable_powerSGD: no, calibration: {enable: yes}, "
		 "rank_schedule: {" RANGES "}}",
			"compression.calibration.enable: inactive, compression.enable_powerSGD is "
			"false\n"
			"compression.rank_schedule.ranges: inactive, "
			"compression.enable_powerSGD is false\n"},
		/* ranks that do nothing are not held against the others */
		{"compression={min_rank: 2, max_rank: 4, fixed_rank_value: 5, "
		 "rank_schedule: {default_rank: 1}}",
			""},
		{"adaptive_training={" STAGES "}",
			"adaptive_training.stages: inactive, adaptive_training.enable is false\n"},
		{"adaptive_training={enable: true, " STAGES "}",
			"adaptive_training.stages[].base_matrix_rank: inactive, "
			"compression.enable_stage_adjust is false\n"
			"adaptive_training.stages[].base_sync_frequency: inactive, "
			"compression.enable_adaptive_sync is false\n"},
		{"compression={enable_stage_adjust: yes, enable_adaptive_sync: yes}",
			"compression.enable_stage_adjust: inactive, adaptive_training.enable is "
			"false\n"
			"compression.enable_adaptive_sync: inactive, adaptive_training.enable is "
			"false\n"},
	};
	struct psgd_config *c;

	write_text("t.yaml", SMALLEST);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *yaml;

		c = load_file("t.yaml", cases[i].override);
		ck_assert_str_eq(psgd_config_notices(c), cases[i].text);
		ck_assert_int_eq(psgd_config_yaml(c, &yaml), PSGD_OK);
		psgd_config_free(&c);
		write_text("again.yaml", yaml);
		free(yaml);
		c = load_file("again.yaml", NULL);
		ck_assert_str_eq(psgd_config_notices(c), cases[i].text);
		psgd_config_free(&c);
	}
	write_text("t.yaml", SMALLEST "compression: {base_rank: 2}\n");
	c = load_file("t.yaml", "powerSGD.matrix_approximation_rank=3");
	ck_assert_str_eq(psgd_config_notices(c),
		"powerSGD.matrix_approximation_rank: inactive, compression.base_rank is given\n");
	psgd_config_free(&c);
	write_text("t.yaml", SMALLEST "accordion: {enable: true}\n");
	c = load_file("t.yaml",
		"compression.calibration={enable: yes, use_fixed_rank_after_calibration: yes}");
	ck_assert_str_eq(psgd_config_notices(c),
		"accordion.enable: inactive, use_fixed_rank_after_calibration keeps the rank\n");
	psgd_config_free(&c);
	write_text("t.yaml", SMALLEST "compression: {calibration: {enable: yes}, "
				      "rank_schedule: {" RANGES "}}\n"
				      "accordion: {rule: ema, ema_beta: 0.5}\n");
	c = load_file("t.yaml", "rank_control={cap: live, choice: entropy}");
	ck_assert_str_eq(psgd_config_notices(c),
		"accordion.ema_beta: inactive, rank_control.choice is entropy\n"
		"compression.rank_schedule.ranges: inactive, rank_control.choice is entropy\n"
		"compression.calibration.enable: inactive, rank_control.cap is live\n");
	psgd_config_free(&c);
	write_text("t.yaml", SMALLEST "accordion: {enable: true}\n");
	c = load_file("t.yaml", "rank_control.choice=lgreco");
	ck_assert_str_eq(psgd_config_notices(c),
		"accordion.enable: inactive, rank_control.choice is lgreco\n");
	psgd_config_free(&c);
	c = load_file("t.yaml", "rank_control.choice=accordion");
	ck_assert_str_eq(psgd_config_notices(c), "");
	psgd_config_free(&c);
	write_text("t.yaml", SMALLEST "compression: {calibration: {enable: yes}}\n");
	c = load_file("t.yaml", "rank_control={choice: replay, replay: e}");
	ck_assert_str_eq(psgd_config_notices(c),
		"compression.calibration.enable: inactive, a replay does not calibrate\n");
	psgd_config_free(&c);
	ck_assert_str_eq(psgd_config_notices(NULL), "");
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("config derived");
	TCase *t = tcase_create("derived");

	tcase_add_checked_fixture(t, enter_folder, leave_folder);
	tcase_add_test(t, default_depends);
	tcase_add_test(t, after_calibration);
	tcase_add_test(t, notices);
	tcase_add_test(t, notices_of_the_cpu);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
