/*
 * What the configuration asks of libpsgd. The library's constructors are replaced by ones that
 * keep what they were given, so that the mapping is seen, not its effect.
 */
#include "experiment/config_support.h"
#include "support/suite.h"

static struct {
	bool dense;
	struct psgd_powersgd_options powersgd;
	struct psgd_rank_control_options control;
	uint32_t candidates[64];
	struct psgd_schedule_range ranges[8];
	struct psgd_replay_entry replay[8];
	uint32_t replay_ranks[24];
	struct psgd_epochnorm_options epochnorm;
	struct psgd_ema_options ema;
	struct psgd_accordion_options accordion;
	struct psgd_lgreco_options lgreco;
	struct psgd_entropy_options entropy;
	struct psgd_live_options live;
	struct psgd_calibration_options calibration;
	psgd_status answer;
} asked;

psgd_status psgd_compressor_dense(struct psgd_compressor *out)
{
	asked.dense = true;
	*out = (struct psgd_compressor){0};
	return PSGD_OK;
}

psgd_status psgd_compressor_powersgd(
	const struct psgd_powersgd_options *options, struct psgd_compressor *out)
{
	ck_assert_uint_eq(options->size, sizeof(*options));
	asked.dense = false;
	asked.powersgd = *options;
	*out = (struct psgd_compressor){0};
	return PSGD_OK;
}

psgd_status psgd_controller_rank_control(const struct psgd_rank_control_options *options,
	char *error, size_t error_bytes, struct psgd_controller *out)
{
	ck_assert_uint_eq(options->size, sizeof(*options));
	ck_assert_uint_le(options->n_candidates, 64);
	ck_assert_uint_le(options->n_ranges, 8);
	ck_assert_uint_le(options->n_replay, 8);
	asked.control = *options;
	for (size_t i = 0; i < options->n_candidates; i++)
		asked.candidates[i] = options->candidates[i];
	for (size_t i = 0; i < options->n_ranges; i++)
		asked.ranges[i] = options->ranges[i];
	for (size_t i = 0; i < options->n_replay; i++)
		asked.replay[i] = options->replay[i];
	ck_assert_uint_le(options->n_replay * options->n_replay_tensors, 24);
	for (size_t i = 0; i < options->n_replay * options->n_replay_tensors; i++)
		asked.replay_ranks[i] = options->replay_ranks[i];
	asked.epochnorm = *options->epochnorm;
	asked.ema = *options->ema;
	asked.accordion = *options->accordion;
	asked.lgreco = *options->lgreco;
	asked.entropy = *options->entropy;
	asked.live = *options->live;
	asked.calibration = *options->calibration;
	if (asked.answer < 0)
		snprintf(error, error_bytes, "refused");
	*out = (struct psgd_controller){.self = asked.answer < 0 ? NULL : &asked};
	return asked.answer;
}

static void compressor(const char *override)
{
	struct psgd_config *config = load_file("t.yaml", override);
	struct psgd_compressor out;

	ck_assert_int_eq(psgd_config_compressor(config, &out), PSGD_OK);
	psgd_config_free(&config);
}

static void controller(const char *override)
{
	struct psgd_config *config = load_file("t.yaml", override);
	struct psgd_controller out;
	char error[200];
	psgd_status status = psgd_config_controller(config, &out, error, sizeof(error));

	ck_assert_msg(status == PSGD_OK, "%d: %s", status, error);
	ck_assert_ptr_eq(out.self, &asked);
	psgd_config_free(&config);
}

static void same_candidates(const uint32_t *expected, size_t n)
{
	ck_assert_uint_eq(asked.control.n_candidates, n);
	for (size_t i = 0; i < n; i++)
		ck_assert_uint_eq(asked.candidates[i], expected[i]);
}

#define CANDIDATES(...)                                                                            \
	same_candidates((const uint32_t[]){__VA_ARGS__},                                           \
		sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

START_TEST(compressors)
{
	write_text("t.yaml", SMALLEST);
	compressor("compression.enable_powerSGD=false");
	ck_assert(asked.dense);
	compressor(NULL);
	ck_assert(!asked.dense);
	ck_assert_uint_eq(asked.powersgd.seed, 42);
	ck_assert_uint_eq(asked.powersgd.start_step, 100);
	ck_assert(asked.powersgd.min_ratio == 2 && asked.powersgd.eps == 1e-8);
	ck_assert_uint_eq(asked.powersgd.rank, 1);
	ck_assert_uint_eq(asked.powersgd.flags, 0);
	compressor("powerSGD={use_error_feedback: no, warm_start: no, random_seed: 5, "
		   "min_compression_rate: 3, orthogonalization_epsilon: 0}");
	ck_assert_uint_eq(asked.powersgd.flags,
		PSGD_POWERSGD_NO_ERROR_FEEDBACK | PSGD_POWERSGD_NO_WARM_START);
	ck_assert_uint_eq(asked.powersgd.seed, 5);
	ck_assert(asked.powersgd.min_ratio == 3 && asked.powersgd.eps == 0);
	compressor("compression={base_rank: 4, fixed_rank_value: 6, start_power_iterations: 9}");
	ck_assert_uint_eq(asked.powersgd.rank, 4);
	ck_assert_uint_eq(asked.powersgd.start_step, 9);
	compressor("compression={base_rank: 4, fixed_rank_value: 6, use_fixed_rank: true}");
	ck_assert_uint_eq(asked.powersgd.rank, 6);
}
END_TEST

START_TEST(no_controller_when_dense)
{
	struct psgd_config *config = load_text(SMALLEST, "compression.enable_powerSGD=false");
	struct psgd_controller out = {.self = &asked};
	char error[20] = "x";

	ck_assert_int_eq(psgd_config_controller(config, &out, error, sizeof(error)), PSGD_OK);
	ck_assert(!out.ops && !out.self);
	ck_assert_str_eq(error, "");
	psgd_config_free(&config);
}
END_TEST

START_TEST(choices)
{
	static const struct {
		const char *override;
		enum psgd_cap_kind cap;
		enum psgd_choice_kind choice;
		uint32_t fixed;
	} cases[] = {
		{NULL, PSGD_CAP_NONE, PSGD_CHOICE_FIXED, 1},
		{"compression={base_rank: 3, fixed_rank_value: 5}", PSGD_CAP_NONE,
			PSGD_CHOICE_FIXED, 3},
		{"compression={base_rank: 3, fixed_rank_value: 5, use_fixed_rank: on}",
			PSGD_CAP_NONE, PSGD_CHOICE_FIXED, 5},
		{"accordion.enable=true", PSGD_CAP_NONE, PSGD_CHOICE_EPOCHNORM, 1},
		{"accordion={enable: true, rule: ema}", PSGD_CAP_NONE, PSGD_CHOICE_EMA, 1},
		{"rank_control.choice=ema", PSGD_CAP_NONE, PSGD_CHOICE_EMA, 1},
		{"rank_control.choice=accordion", PSGD_CAP_NONE, PSGD_CHOICE_ACCORDION, 1},
		{"rank_control.choice=lgreco", PSGD_CAP_NONE, PSGD_CHOICE_LGRECO, 1},
		{"rank_control.choice=entropy", PSGD_CAP_NONE, PSGD_CHOICE_ENTROPY, 1},
		{"compression.calibration.enable=true", PSGD_CAP_CALIBRATION, PSGD_CHOICE_MAX, 1},
		{"compression={base_rank: 3, calibration: {enable: true, "
		 "use_fixed_rank_after_calibration: false}}",
			PSGD_CAP_CALIBRATION, PSGD_CHOICE_FIXED, 3},
		{"adaptive_training={enable: yes, stages: [{start_epoch: 0, end_epoch: 1, "
		 "base_matrix_rank: 2}]}",
			PSGD_CAP_NONE, PSGD_CHOICE_FIXED, 1},
		{"compression={calibration: {enable: true}, use_fixed_rank: true}",
			PSGD_CAP_CALIBRATION, PSGD_CHOICE_FIXED, 1},
		{"compression.rank_schedule.ranges=[{start_epoch: 0, end_epoch: 1, rank: 2}]",
			PSGD_CAP_NONE, PSGD_CHOICE_SCHEDULE, 1},
		{"rank_control.cap=live", PSGD_CAP_LIVE, PSGD_CHOICE_MAX, 1},
		{"rank_control.cap=none", PSGD_CAP_NONE, PSGD_CHOICE_FIXED, 1},
		{"rank_control={cap: calibration, choice: epochnorm}", PSGD_CAP_CALIBRATION,
			PSGD_CHOICE_EPOCHNORM, 1},
		{"rank_control={cap: live, choice: fixed}", PSGD_CAP_LIVE, PSGD_CHOICE_FIXED, 1},
		{"rank_control.choice=schedule", PSGD_CAP_NONE, PSGD_CHOICE_SCHEDULE, 1},
		{"rank_control.choice=max", PSGD_CAP_NONE, PSGD_CHOICE_MAX, 1},
	};

	write_text("t.yaml", SMALLEST);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		controller(cases[i].override);
		ck_assert_uint_eq(asked.control.cap, cases[i].cap);
		ck_assert_uint_eq(asked.control.choice, cases[i].choice);
		ck_assert_uint_eq(asked.control.fixed_rank, cases[i].fixed);
	}
}
END_TEST

START_TEST(explicit_words_win)
{
	write_text("t.yaml", SMALLEST "accordion: {enable: true}\n"
				      "compression: {calibration: {enable: true}}\n");
	controller(NULL);
	ck_assert_uint_eq(asked.control.cap, PSGD_CAP_CALIBRATION);
	ck_assert_uint_eq(asked.control.choice, PSGD_CHOICE_EPOCHNORM);
	controller("compression={calibration: {enable: true, "
		   "use_fixed_rank_after_calibration: true}}");
	ck_assert_uint_eq(asked.control.choice, PSGD_CHOICE_MAX);
	controller("rank_control={cap: none, choice: max}");
	ck_assert_uint_eq(asked.control.cap, PSGD_CAP_NONE);
	ck_assert_uint_eq(asked.control.choice, PSGD_CHOICE_MAX);
}
END_TEST

START_TEST(candidates)
{
	write_text("t.yaml", SMALLEST);
	controller(NULL);
	CANDIDATES(1, 2, 4, 8);
	ck_assert_uint_eq(asked.control.min_rank, 1);
	ck_assert_uint_eq(asked.control.max_rank, 8);
	controller("compression={min_rank: 3, max_rank: 10}");
	CANDIDATES(3, 6, 10);
	controller("rank_control.cap=live");
	CANDIDATES(1, 2, 4, 8, PSGD_RANK_DENSE);
	ck_assert_uint_eq(asked.control.max_rank, PSGD_RANK_DENSE);
	controller("rank_control={cap: live, candidates: [2, 5], dense_candidate: false}");
	CANDIDATES(2, 5);
	ck_assert_uint_eq(asked.control.max_rank, 8);
	controller("compression={calibration: {ranks: [1, 3], enable: true}}");
	CANDIDATES(1, 3, PSGD_RANK_DENSE);
	controller("compression={calibration: {ranks: [1, 3]}}");
	CANDIDATES(1, 2, 4, 8);
	controller("compression={min_rank: 65535}");
	CANDIDATES(65535);
}
END_TEST

START_TEST(windows)
{
	write_text("t.yaml", SMALLEST);
	controller("accordion={enable: true, lr_cooldown_epochs: 0, threshold: 0.25}");
	ck_assert(!asked.epochnorm.in_steps);
	ck_assert_uint_eq(asked.epochnorm.force_max, 20);
	ck_assert_uint_eq(asked.epochnorm.stride, 10);
	ck_assert_uint_eq(asked.epochnorm.rank_cooldown, 10);
	ck_assert_uint_eq(asked.epochnorm.lr_cooldown, 0);
	ck_assert(asked.epochnorm.no_lr_cooldown && !asked.epochnorm.no_rank_cooldown);
	ck_assert(!asked.epochnorm.no_force_max);
	ck_assert(asked.epochnorm.threshold == 0.25);
	controller("accordion={enable: true, stride_iters: 7, rank_cooldown_iters: 3}");
	ck_assert(asked.epochnorm.in_steps);
	ck_assert_uint_eq(asked.epochnorm.force_max, 0);
	ck_assert_uint_eq(asked.epochnorm.stride, 7);
	ck_assert_uint_eq(asked.epochnorm.rank_cooldown, 3);
	ck_assert_uint_eq(asked.epochnorm.lr_cooldown, 0);
	ck_assert(asked.epochnorm.no_force_max && asked.epochnorm.no_lr_cooldown);
	ck_assert(!asked.epochnorm.no_rank_cooldown);
}
END_TEST

START_TEST(rules)
{
	write_text("t.yaml", SMALLEST "compression: {min_rank: 2}\n");
	controller("accordion={enable: true, rule: ema}");
	ck_assert(asked.ema.beta == 0.9 && asked.ema.critical == 1.2 && asked.ema.relaxed == 0.95);
	ck_assert_uint_eq(asked.ema.interval_steps, 100);
	ck_assert_uint_eq(asked.ema.base_rank, 0);
	controller("accordion={enable: true, rule: ema, ema_beta: 0.5, critical_factor: 2, "
		   "relaxed_factor: 1.5, update_interval: 7}");
	ck_assert(asked.ema.beta == 0.5 && asked.ema.critical == 2 && asked.ema.relaxed == 1.5);
	ck_assert_uint_eq(asked.ema.interval_steps, 7);
	controller("compression.base_rank=6");
	ck_assert_uint_eq(asked.ema.base_rank, 6);
	ck_assert_uint_eq(asked.lgreco.base_rank, 6);
	controller("rank_control={choice: ema, candidates: [2, 4]}");
	ck_assert_uint_eq(asked.ema.base_rank, 0);
	controller("accordion={threshold: 0.25, stride_epochs: 4}");
	ck_assert(asked.accordion.threshold == 0.25 && !asked.accordion.in_steps);
	ck_assert_uint_eq(asked.accordion.stride, 4);
	ck_assert_uint_eq(asked.accordion.no_lr_drop, 0);
	controller("accordion={stride_iters: 9}");
	ck_assert(asked.accordion.in_steps && asked.accordion.no_lr_drop);
	ck_assert_uint_eq(asked.accordion.stride, 9);
	controller("lgreco={adjust_iters: 40, sample_iters: 4, alpha: 1.5, low: 0.25, high: 3}");
	ck_assert_uint_eq(asked.lgreco.adjust_steps, 40);
	ck_assert_uint_eq(asked.lgreco.sample_steps, 4);
	ck_assert(asked.lgreco.alpha == 1.5 && asked.lgreco.low == 0.25 && asked.lgreco.high == 3);
	controller("entropy={window_iters: 30, sample_every: 3, slew: 6, round_to: 5}");
	ck_assert_uint_eq(asked.entropy.window_steps, 30);
	ck_assert_uint_eq(asked.entropy.sample_every, 3);
	ck_assert_uint_eq(asked.entropy.slew, 6);
	ck_assert_uint_eq(asked.entropy.round_to, 5);
}
END_TEST

START_TEST(caps)
{
	write_text("t.yaml", SMALLEST);
	controller("rank_control={cap: live, dwell_iters: 12}");
	ck_assert(asked.live.max_exposed == 0.30 && asked.calibration.max_exposed == 0.30);
	ck_assert_uint_eq(asked.live.dwell_steps, 12);
	controller("rank_control={cap: live, max_exposed: 0.15}");
	ck_assert(asked.live.max_exposed == 0.15 && asked.calibration.max_exposed == 0.15);
	controller("compression={calibration: {enable: true, comm_ratio_threshold: 0.5, "
		   "warmup_iters: 3, measure_iters: 4, allow_rank_one: true}}");
	ck_assert(asked.live.max_exposed == 0.5 && asked.calibration.max_exposed == 0.5);
	ck_assert_uint_eq(asked.calibration.start_step, 0);
	ck_assert_uint_eq(asked.calibration.allow_rank_one, 1);
	controller("compression={start_power_iterations: 5, calibration: {force_start_iter: 9}}");
	ck_assert_uint_eq(asked.calibration.start_step, 9);
	ck_assert_uint_eq(asked.calibration.allow_rank_one, 0);
}
END_TEST

START_TEST(schedules)
{
	write_text("t.yaml", SMALLEST);
	controller("compression.rank_schedule={default_rank: 2, ranges: "
		   "[{start_epoch: 4, end_epoch: 5, rank: 3}, "
		   "{start_epoch: 0, end_epoch: 3, rank: 16}]}");
	ck_assert_uint_eq(asked.control.default_rank, 2);
	ck_assert_uint_eq(asked.control.n_ranges, 2);
	ck_assert_uint_eq(asked.ranges[0].start_epoch, 4);
	ck_assert_uint_eq(asked.ranges[0].end_epoch, 5);
	ck_assert_uint_eq(asked.ranges[0].rank, 3);
	ck_assert_uint_eq(asked.ranges[1].rank, 16);
	ck_assert_uint_eq(asked.control.max_rank, 16);
	controller("compression.rank_schedule={ranges: "
		   "[{start_epoch: 4, end_epoch: 5, rank: dense}]}");
	ck_assert_uint_eq(asked.ranges[0].rank, 0);
	ck_assert_uint_eq(asked.control.max_rank, PSGD_RANK_DENSE);
}
END_TEST

/* A stage without a rank, and an epoch without a stage, are at base_rank. */
START_TEST(stages)
{
	write_text("t.yaml", SMALLEST "compression: {base_rank: 3, enable_stage_adjust: true}\n");
	controller("adaptive_training={enable: true, stages: ["
		   "{start_epoch: 0, end_epoch: 3, base_matrix_rank: 9}, "
		   "{start_epoch: 4, end_epoch: 5}, "
		   "{start_epoch: 6, end_epoch: 8, base_matrix_rank: 2}]}");
	ck_assert_uint_eq(asked.control.choice, PSGD_CHOICE_SCHEDULE);
	ck_assert_uint_eq(asked.control.default_rank, 3);
	ck_assert_uint_eq(asked.control.max_rank, 9);
	ck_assert_uint_eq(asked.control.n_ranges, 2);
	ck_assert_uint_eq(asked.ranges[0].end_epoch, 3);
	ck_assert_uint_eq(asked.ranges[0].rank, 9);
	ck_assert_uint_eq(asked.ranges[1].start_epoch, 6);
	ck_assert_uint_eq(asked.ranges[1].end_epoch, 8);
	ck_assert_uint_eq(asked.ranges[1].rank, 2);
	controller("adaptive_training={enable: false, stages: ["
		   "{start_epoch: 0, end_epoch: 3, base_matrix_rank: 9}]}");
	ck_assert_uint_eq(asked.control.choice, PSGD_CHOICE_FIXED);
}
END_TEST

#define REPLAY "rank_control={choice: replay, replay: events.jsonl}"

START_TEST(replays)
{
	write_text("t.yaml", SMALLEST "compression: {min_rank: 2, calibration: {enable: true}}\n");
	write_text("events.jsonl",
		"{\"time\": 1.5, \"event\": \"start\", \"seed\": 42}\n"
		"{\"event\": \"rank\", \"step\": 0, \"rank\": 4, \"regime\": \"force_max\"}\n"
		"{\"event\": \"rank\", \"step\": 30, \"rank\": 1, \"previous\": 4}\n"
		"{\"event\": \"rank\", \"step\": 40, \"rank\": 0}\n"
		"{\"event\": \"rank\", \"step\": 41, \"rank\": 16}\n"
		"{\"event\": \"rank\", \"step\": 42, \"rank\": \"dense\"}\n"
		"{\"event\": \"finish\", \"state\": \"finished\"}");
	controller(REPLAY);
	ck_assert_uint_eq(asked.control.choice, PSGD_CHOICE_REPLAY);
	ck_assert_uint_eq(asked.control.cap, PSGD_CAP_NONE);
	ck_assert_uint_eq(asked.control.n_replay, 5);
	ck_assert_uint_eq(asked.replay[0].step, 0);
	ck_assert_uint_eq(asked.replay[0].rank, 4);
	ck_assert_uint_eq(asked.replay[1].step, 30);
	ck_assert_uint_eq(asked.replay[1].rank, 1);
	ck_assert_uint_eq(asked.replay[2].rank, 0);
	ck_assert_uint_eq(asked.replay[3].rank, 16);
	ck_assert_uint_eq(asked.replay[4].rank, 0);
	ck_assert_uint_eq(asked.control.min_rank, 1);
	ck_assert_uint_eq(asked.control.max_rank, PSGD_RANK_DENSE);
}
END_TEST

/* A run that went on did some steps again; ranks of layers stay with theirs. */
START_TEST(replays_of_layers)
{
	static const uint32_t expected[] = {4, 4, 4, 0, 2, 8, 1, 1, 1, 0, 8, 2};

	write_text("t.yaml", SMALLEST);
	write_text("events.jsonl",
		"{\"event\": \"rank\", \"step\": 0, \"rank\": 4}\n"
		"{\"event\": \"rank\", \"step\": 10, \"rank\": 8, \"ranks\": [0, 2, 8]}\n"
		"{\"event\": \"rank\", \"step\": 20, \"rank\": 2}\n"
		"{\"event\": \"rank\", \"step\": 30, \"rank\": 16, \"ranks\": [0, 16, 8]}\n"
		"{\"event\": \"resume\", \"iteration\": 20}\n"
		"{\"event\": \"rank\", \"step\": 21, \"rank\": 1}\n"
		"{\"event\": \"rank\", \"step\": 25, \"rank\": 8, \"ranks\": [0, 8, 2]}\n");
	controller(REPLAY);
	ck_assert_uint_eq(asked.control.n_replay, 4);
	ck_assert_uint_eq(asked.control.n_replay_tensors, 3);
	ck_assert_uint_eq(asked.replay[2].step, 21);
	ck_assert_uint_eq(asked.replay[3].step, 25);
	ck_assert_int_eq(memcmp(asked.replay_ranks, expected, sizeof(expected)), 0);
}
END_TEST

START_TEST(bad_replays)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{"", "events.jsonl: holds no rank event to replay"},
		{"{\"event\": \"start\"}\n", "events.jsonl: holds no rank event to replay"},
		{"{\"event\": \"start\"}\n{\"event\": \"ra",
			"events.jsonl:2: not valid JSON: premature end of input near '\"ra'"},
		{"[1]\n", "events.jsonl:1: expected an object with \"event\""},
		{"{\"event\": 3}\n", "events.jsonl:1: expected an object with \"event\""},
		{"{\"event\": \"rank\", \"rank\": 3}\n",
			"events.jsonl:1: a rank event needs \"step\", a whole number"},
		{"{\"event\": \"rank\", \"step\": -1, \"rank\": 3}\n",
			"events.jsonl:1: a rank event needs \"step\", a whole number"},
		{"{\"event\": \"rank\", \"step\": 1, \"rank\": -3}\n",
			"events.jsonl:1: a rank event needs \"rank\", a whole number or "
			"\"dense\""},
		{"{\"event\": \"rank\", \"step\": 1, \"rank\": 4294967295}\n",
			"events.jsonl:1: a rank event needs \"rank\", a whole number or "
			"\"dense\""},
		{"{\"event\": \"rank\", \"step\": 5, \"rank\": 1}\n"
		 "{\"event\": \"rank\", \"step\": 5, \"rank\": 2}\n",
			"events.jsonl:2: the steps of rank events must increase"},
		{"{\"event\": \"rank\", \"step\": 0, \"rank\": 1, \"ranks\": [1, -1]}\n",
			"events.jsonl:1: \"ranks\" holds what is no rank"},
		{"{\"event\": \"rank\", \"step\": 0, \"rank\": 1, \"ranks\": 1}\n",
			"events.jsonl:1: \"ranks\" is not a list of one rank for each tensor"},
		{"{\"event\": \"rank\", \"step\": 0, \"rank\": 1, \"ranks\": [1]}\n"
		 "{\"event\": \"rank\", \"step\": 1, \"rank\": 1, \"ranks\": [1, 2]}\n",
			"events.jsonl:2: \"ranks\" is not a list of one rank for each tensor"},
		{"{\"event\": \"resume\"}\n",
			"events.jsonl:1: a resume event needs \"iteration\", a whole number"},
	};
	struct psgd_config *config = load_text(SMALLEST, REPLAY);
	struct psgd_controller out = {.self = &asked};
	char error[300];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_text("events.jsonl", cases[i].text);
		ck_assert_int_eq(psgd_config_controller(config, &out, error, sizeof(error)),
			PSGD_ERR_CONFIG);
		ck_assert_str_eq(error, cases[i].message);
		ck_assert(!out.ops && !out.self);
	}
	unlink("events.jsonl");
	ck_assert_int_eq(psgd_config_controller(config, &out, error, sizeof(error)), PSGD_ERR_IO);
	ck_assert_str_eq(error, "events.jsonl: cannot read: No such file or directory");
	ck_assert_int_eq(psgd_config_controller(config, &out, NULL, 0), PSGD_ERR_IO);
	psgd_config_free(&config);
}
END_TEST

START_TEST(library_refuses)
{
	struct psgd_config *config = load_text(SMALLEST, NULL);
	struct psgd_controller out;
	char error[100];

	asked.answer = PSGD_ERR_INVALID;
	ck_assert_int_eq(
		psgd_config_controller(config, &out, error, sizeof(error)), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error, "refused");
	psgd_config_free(&config);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("config map");
	TCase *t = tcase_create("mapping");

	tcase_add_checked_fixture(t, enter_folder, leave_folder);
	tcase_add_test(t, compressors);
	tcase_add_test(t, no_controller_when_dense);
	tcase_add_test(t, choices);
	tcase_add_test(t, explicit_words_win);
	tcase_add_test(t, candidates);
	tcase_add_test(t, windows);
	tcase_add_test(t, rules);
	tcase_add_test(t, caps);
	tcase_add_test(t, schedules);
	tcase_add_test(t, stages);
	tcase_add_test(t, replays);
	tcase_add_test(t, replays_of_layers);
	tcase_add_test(t, bad_replays);
	tcase_add_test(t, library_refuses);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
