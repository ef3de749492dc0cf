/* Learning rates and the batches of a step, by epoch. */
#include "examples/image/schedule.h"
#include "support/suite.h"

#include <math.h>

static unsigned two_five[] = {2, 5}, example_milestones[] = {150, 250};

struct rate_vector {
	struct psgd_config_training training;
	double rates[8];
};

/* clang-format off */
static const struct rate_vector rate_vectors[] = {
	{{.scheduler = "none", .gamma = 0.1}, {0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2}},
	{{.scheduler = "none", .warmup_epochs = 4, .warmup_start_lr = 0.1,
		.warmup_min_factor = 1e-8},
		{0.1, 0.125, 0.15, 0.175, 0.2, 0.2, 0.2, 0.2}},
	{{.scheduler = "none", .warmup_epochs = 4, .warmup_min_factor = 0.25},
		{0.05, 0.0875, 0.125, 0.1625, 0.2, 0.2, 0.2, 0.2}},
	{{.scheduler = "none", .warmup_epochs = 4, .warmup_start_lr = 0.1,
		.warmup_min_factor = 0.25},
		{0.1, 0.125, 0.15, 0.175, 0.2, 0.2, 0.2, 0.2}},
	{{.scheduler = "step", .step_size = 3, .gamma = 0.1},
		{0.2, 0.2, 0.2, 0.02, 0.02, 0.02, 0.002, 0.002}},
	{{.scheduler = "step", .step_size = 3, .gamma = 0.1, .warmup_epochs = 2,
		.warmup_min_factor = 1e-8},
		{2e-9, 0.100000001, 0.2, 0.2, 0.2, 0.02, 0.02, 0.02}},
	{{.scheduler = "multistep", .milestones = two_five, .milestones_count = 2, .gamma = 0.5},
		{0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05}},
	{{.scheduler = "multistep", .milestones = two_five, .milestones_count = 2, .gamma = 0.5,
		.warmup_epochs = 1, .warmup_start_lr = 0.05},
		{0.05, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05}},
	{{.scheduler = "cosine", .epochs = 99, .T_max = 4},
		{0.2, 0.17071067811865476, 0.1, 0.029289321881345254, 0.0,
		 0.029289321881345254, 0.1, 0.17071067811865476}},
	{{.scheduler = "cosine", .epochs = 8},
		{0.2, 0.1923879532511287, 0.17071067811865476, 0.1382683432365090, 0.1,
		 0.0617316567634910, 0.029289321881345254, 0.0076120467488713}},
	{{.scheduler = "cosine", .epochs = 8, .T_max = 4, .warmup_epochs = 2,
		.warmup_start_lr = 0.04},
		{0.04, 0.12, 0.2, 0.17071067811865476, 0.1, 0.029289321881345254, 0.0,
		 0.029289321881345254}},
};
/* clang-format on */

START_TEST(test_rates)
{
	struct psgd_config config = {.training = rate_vectors[_i].training};

	config.training.learning_rate = 0.2;
	for (unsigned epoch = 0; epoch < 8; epoch++)
		ck_assert_double_eq_tol(schedule_learning_rate(&config, epoch),
			rate_vectors[_i].rates[epoch], 1e-15);
}
END_TEST

/* The seed's example: drops come the warm-up's 5 epochs later than the milestones say. */
START_TEST(test_rates_of_example)
{
	const struct psgd_config config = {.training = {.scheduler = (char[]){"multistep"},
						   .milestones = example_milestones,
						   .milestones_count = 2,
						   .gamma = 0.1,
						   .learning_rate = 0.2,
						   .warmup_epochs = 5,
						   .warmup_start_lr = 0.1,
						   .warmup_min_factor = 1e-8}};
	static const struct {
		unsigned epoch;
		double rate;
	} wanted[] = {{0, 0.1}, {1, 0.12}, {4, 0.18}, {5, 0.2}, {149, 0.2}, {154, 0.2}, {155, 0.02},
		{254, 0.02}, {255, 0.002}, {299, 0.002}};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		ck_assert_double_eq_tol(
			schedule_learning_rate(&config, wanted[i].epoch), wanted[i].rate, 1e-15);
}
END_TEST

static char by_step[] = "step";
static struct psgd_config_stage stages[] = {
	{.start_epoch = 1, .end_epoch = 2, .base_sync_frequency = 4, .learning_rate = 0.5},
	{.start_epoch = 4, .end_epoch = 4, .base_sync_frequency = 3},
};

static struct psgd_config staged(bool enable, bool sync)
{
	return (struct psgd_config){.training = {.scheduler = by_step,
					    .step_size = 4,
					    .gamma = 0.5,
					    .learning_rate = 0.2,
					    .epochs = 6},
		.adaptive_training = {.enable = enable, .stages = stages, .stages_count = 2},
		.compression = {.enable_adaptive_sync = sync}};
}

/* First and last epoch of a stage are in it; one without a rate leaves the scheduler's. */
START_TEST(test_stages_rate)
{
	static const double rates[2][6] = {
		{0.2, 0.2, 0.2, 0.2, 0.1, 0.1}, {0.2, 0.5, 0.5, 0.2, 0.1, 0.1}};

	for (int enable = 0; enable < 2; enable++) {
		struct psgd_config config = staged(enable, false);

		for (unsigned epoch = 0; epoch < 6; epoch++)
			ck_assert_double_eq_tol(schedule_learning_rate(&config, epoch),
				rates[enable][epoch], 1e-15);
	}
}
END_TEST

START_TEST(test_stages_batches)
{
	static const unsigned each[6] = {1, 4, 4, 1, 3, 1};
	/* Of 10 batches; the last step of an epoch may have fewer. */
	static const unsigned steps[6] = {10, 3, 3, 10, 4, 10};

	for (int on = 0; on < 4; on++) {
		struct psgd_config config = staged(on & 1, on & 2);

		for (unsigned epoch = 0; epoch < 6; epoch++) {
			ck_assert_uint_eq(
				schedule_batches(&config, epoch), on == 3 ? each[epoch] : 1);
			ck_assert_uint_eq(
				schedule_steps(&config, epoch, 10), on == 3 ? steps[epoch] : 10);
		}
		ck_assert_uint_eq(schedule_most_batches(&config), on == 3 ? 4 : 1);
		ck_assert_uint_eq(schedule_total_steps(&config, 10), on == 3 ? 40 : 60);
		config.training.max_iterations = 27;
		ck_assert_uint_eq(schedule_total_steps(&config, 10), 27);
		config.training.max_iterations = 100;
		ck_assert_uint_eq(schedule_total_steps(&config, 10), on == 3 ? 40 : 60);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_schedule");
	TCase *c = tcase_create("schedule");

	tcase_add_loop_test(
		c, test_rates, 0, (int)(sizeof(rate_vectors) / sizeof(rate_vectors[0])));
	tcase_add_test(c, test_rates_of_example);
	tcase_add_test(c, test_stages_rate);
	tcase_add_test(c, test_stages_batches);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
