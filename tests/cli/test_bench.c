/* psgd bench: shapes of models, and figures from invented times. */
#include <stdlib.h>

#include "cli/bench.h"
#include "support/suite.h"

static const struct {
	const char *name;
	int64_t n_parameters;
} models[] = {
	{"mlp", 1863690},
	{"resnet18", 11173962},
	{"resnet50", 25557032},
	{"vgg16", 138357544},
	{"gpt2", 124439808},
};

START_TEST(models_have_their_parameters)
{
	size_t n;
	struct psgd_tensor *tensors = cli_bench_shapes(models[_i].name, &n);
	int64_t sum = 0;

	ck_assert_ptr_nonnull(tensors);
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_eq(tensors[i].id, i);
		sum += psgd_tensor_count(&tensors[i]);
	}
	ck_assert_int_eq(sum, models[_i].n_parameters);
	free(tensors);
}
END_TEST

/* Every tensor once, from the last to the first, none over another. */
START_TEST(models_are_laid_out_backwards)
{
	struct cli_bench_model model;
	size_t end = 0, values = 0;

	ck_assert(cli_bench_model_open(models[_i].name, &model));
	for (size_t i = 0; i < model.n_tensors; i++) {
		ck_assert_uint_eq(model.tensors[i].id, model.n_tensors - 1 - i);
		ck_assert_uint_ge(model.at[i], end);
		ck_assert_uint_eq(model.at[i] % 16, 0);
		end = model.at[i] + (size_t)model.counts[i];
		values += (size_t)model.counts[i];
	}
	ck_assert_uint_le(end * sizeof(float), model.block_bytes);
	ck_assert_uint_eq(values, (size_t)models[_i].n_parameters);
	ck_assert_uint_eq(model.n_values, values);
	ck_assert_uint_eq(model.first[0], 0);
	for (size_t b = 0; b < model.n_buckets; b++)
		ck_assert_uint_lt(model.first[b], model.first[b + 1]);
	ck_assert_uint_eq(model.first[model.n_buckets], model.n_tensors);
	cli_bench_model_close(&model);
}
END_TEST

/* Rounds out of order, one of them disturbed. */
START_TEST(figures_of_five_rounds)
{
	struct cli_bench_times steps[] = {{{2000000, 1000000, 3000000}},
		{{1000000, 1000000, 2000000}}, {{70000000, 10000000, 10000000}},
		{{1000000, 2000000, 2000000}}, {{2000000, 2000000, 3000000}}};
	struct cli_bench_times floors[] = {{{1000000, 1000000, 1000000}},
		{{1000000, 500000, 500000}}, {{1000000, 1000000, 2000000}},
		{{1000000, 500000, 1000000}}, {{2000000, 1000000, 2000000}}};
	struct cli_bench_series series = {.rank = 2,
		.n = 5,
		.steps = steps,
		.floors = floors,
		.n_values = 100,
		.n_compressed = 75};
	struct cli_bench_figures f;

	series.report = PSGD_INIT(psgd_report);
	series.report.raw_bytes = 400;
	series.report.payload_bytes = 50;
	series.memory = PSGD_INIT(psgd_memory);
	series.memory.state_bytes = 340;
	series.memory.message_bytes = 60;
	ck_assert(cli_bench_figures(&series, &f));
	/* ratios 2, 2, 22.5, 2, 1.4 */
	ck_assert_double_eq(f.phases[CLI_BENCH_PROJECT], 2);
	ck_assert_double_eq(f.phases[CLI_BENCH_BACK_PROJECT], 2);
	ck_assert_double_eq(f.phases[CLI_BENCH_RECONSTRUCT], 3);
	ck_assert_double_eq(f.total_ms, 7);
	ck_assert_double_eq(f.floor_phases[CLI_BENCH_PROJECT], 1);
	ck_assert_double_eq(f.floor_phases[CLI_BENCH_BACK_PROJECT], 1);
	ck_assert_double_eq(f.floor_phases[CLI_BENCH_RECONSTRUCT], 1);
	ck_assert_double_eq(f.floor_ms, 3);
	ck_assert_double_eq_tol(f.over_floor, 7 / 3.0, 1e-12);
	ck_assert_double_eq(f.low, 2);
	ck_assert_double_eq(f.high, 2);
	ck_assert_double_eq_tol(f.floor_gb_per_s, (75 * 28 + 25 * 16) / 3e6, 1e-12);
	ck_assert_double_eq(f.ratio, 8);
	ck_assert_double_eq(f.memory_over_gradients, 1);
	ck_assert_uint_eq(f.payload_bytes, 50);
}
END_TEST

/* Of an even number the mean of the two in the middle. */
START_TEST(figures_of_two_rounds)
{
	struct cli_bench_times steps[] = {{{8, 0, 0}}, {{1, 2, 3}}};
	struct cli_bench_times floors[] = {{{1, 1, 2}}, {{2, 0, 0}}};
	struct cli_bench_series series = {.rank = 1,
		.n = 2,
		.steps = steps,
		.floors = floors,
		.n_values = 1,
		.n_compressed = 1};
	struct cli_bench_figures f;

	series.report.raw_bytes = 4;
	series.report.payload_bytes = 4;
	ck_assert(cli_bench_figures(&series, &f));
	ck_assert_double_eq_tol(f.total_ms, 7e-6, 1e-15);
	ck_assert_double_eq_tol(f.floor_ms, 3e-6, 1e-15);
	ck_assert_double_eq(f.low, 2);
	ck_assert_double_eq(f.high, 3);
}
END_TEST

/* Four blocks pass for each rank of a round: 4 caches of 100 are more than 25 of 4 * 4. */
START_TEST(memory_takes_turns)
{
	struct cli_bench_rotation r = {.cache_bytes = 100};

	ck_assert(cli_bench_rotate(&r, 4, 6, 1000));
	ck_assert_uint_eq(r.n_floors, 26);
	ck_assert_uint_eq(r.n_copies, 5);
	ck_assert_uint_eq(r.bytes, (26 + 5 * 6) * 2 * 4);
	ck_assert(!r.capped);
	/* a block that is larger than the cache */
	ck_assert(cli_bench_rotate(&r, 500, 2, 3000));
	ck_assert_uint_eq(r.n_floors, 1);
	ck_assert_uint_eq(r.n_copies, 1);
	ck_assert(!r.capped);
}
END_TEST

START_TEST(memory_that_does_not_suffice)
{
	struct cli_bench_rotation r = {.cache_bytes = 100};

	ck_assert(cli_bench_rotate(&r, 4, 6, 300));
	ck_assert(r.capped);
	ck_assert_uint_le(r.bytes, 300);
	ck_assert_uint_ge(r.n_floors, 1);
	ck_assert_uint_ge(r.n_copies, 1);
	ck_assert(!cli_bench_rotate(&r, 4, 6, 55));
	ck_assert_uint_eq(r.bytes, 7 * 2 * 4);
	ck_assert(cli_bench_rotate(&r, 4, 6, 56));
}
END_TEST

/* The cache and the memory of the machine that runs this. */
START_TEST(what_the_machine_has)
{
	ck_assert_uint_ge(cli_bench_cache_bytes(), 1 << 12);
	ck_assert_uint_ge(cli_bench_available_bytes(), 1 << 20);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("bench");
	TCase *c = tcase_create("bench");

	tcase_add_loop_test(c, models_have_their_parameters, 0, CLI_COUNT(models));
	tcase_add_loop_test(c, models_are_laid_out_backwards, 0, CLI_COUNT(models));
	tcase_add_test(c, figures_of_five_rounds);
	tcase_add_test(c, figures_of_two_rounds);
	tcase_add_test(c, memory_takes_turns);
	tcase_add_test(c, memory_that_does_not_suffice);
	tcase_add_test(c, what_the_machine_has);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
