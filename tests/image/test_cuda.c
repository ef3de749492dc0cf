/* The CUDA engine: layer by layer what this processor computes. */
#include "examples/image/accumulate.h"
#include "examples/image/loss.h"
#include "examples/image/optim.h"
#include "nets.h"
#include "pair.h"
#include "support/suite.h"

#include <math.h>
#include <shim.h>
#include <stdio.h>
#include <string.h>

/* Thread orders, eager and lazy streams. */
#define N_MANNERS 6

static void set_manner(int i)
{
	shim_order((enum shim_order)(i % 3), 11);
	shim_lazy(i >= 3);
}

/* Twice, so that nothing of the first pass is in the second. */
START_TEST(test_layers)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct pair p;
	char text[32];

	set_manner(_i / N_BUILDERS);
	(void)snprintf(text, sizeof(text), "net %d", _i % N_BUILDERS);
	pair_open(&p, net_builders[_i % N_BUILDERS], &in, BATCH);
	for (uint64_t step = 0; step < 2; step++) {
		pair_input(&p, 100 + step);
		pair_forward(&p, NULL, NULL);
		pair_check_outputs(&p, text);
		pair_backward(&p, 200 + step);
		pair_check_grads(&p, text);
	}
	/* Inference, by what training has left. */
	pair_prepare(&p, 3, false);
	pair_input(&p, 300);
	pair_forward(&p, NULL, NULL);
	pair_check_outputs(&p, "inference");
	pair_close(&p);
}
END_TEST

static const char *const models[] = {"resnet8", "cnn", "mlp"};

/* A few steps with the optimizer: errors would add up. */
START_TEST(test_training)
{
	const struct psgd_config_training training = {
		.momentum = 0.9, .weight_decay = 1e-3, .nesterov = _i % 2 == 0};
	struct pair p;
	float *momentum, *on_cuda, *params;
	char name[16];

	(void)snprintf(name, sizeof(name), "%s", models[_i / 2]);
	shim_lazy(_i % 2);
	pair_model(&p, name, 8);
	momentum = calloc(p.cpu.n_params, sizeof(float));
	on_cuda = nn_alloc(pair_cuda, p.cuda.n_params);
	for (uint64_t step = 0; step < 4; step++) {
		struct loss losses[2] = {{0}};
		const uint16_t labels[8] = {0, 1, 2, 3, 4, 5, 6, 7};

		pair_input(&p, 400 + step);
		pair_forward(&p, NULL, NULL);
		ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
		loss_add(&losses[0], p.on_cpu->output, labels, 8, 10, p.on_cpu->diff_start);
		loss_add(&losses[1], p.on_cuda->output, labels, 8, 10, p.on_cuda->diff_start);
		ck_assert_double_eq_tol(losses[1].sum, losses[0].sum, 1e-4 * losses[0].sum);
		ck_assert_int_eq(net_backward(&p.cpu, p.on_cpu, NULL, NULL), PSGD_OK);
		ck_assert_int_eq(net_backward(&p.cuda, p.on_cuda, NULL, NULL), PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cpu, &training, 0.02, momentum), PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cuda, &training, 0.02, on_cuda), PSGD_OK);
	}
	params = pair_values(pair_cuda, p.cuda.params, p.cuda.n_params);
	pair_check_close(params, p.cpu.params, p.cpu.n_params, TOLERANCE, "parameters");
	free(params);
	params = pair_values(pair_cuda, on_cuda, p.cuda.n_params);
	pair_check_close(params, momentum, p.cpu.n_params, 1e-3, "momentum");
	free(params);
	free(momentum);
	nn_free(pair_cuda, on_cuda);
	pair_close(&p);
}
END_TEST

/* The optimizer alone: its rule is separately rounded on the one, perhaps fused on the other. */
START_TEST(test_optimizer)
{
	const struct psgd_config_training training = {
		.momentum = 0.9, .weight_decay = 0.1, .nesterov = _i};
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	float *momentum, *on_cuda, *params;
	struct pair p;

	pair_open(&p, net_builders[N_BUILDERS - 1], &in, BATCH);
	momentum = calloc(p.cpu.n_params, sizeof(float));
	on_cuda = nn_alloc(pair_cuda, p.cuda.n_params);
	for (uint64_t step = 0; step < 5; step++) {
		pair_noise(p.cpu.grads, p.cpu.n_params, 500 + step);
		ck_assert_int_eq(nn_upload(pair_cuda, p.cuda.grads, p.cpu.grads, p.cpu.n_params,
					 &pair_error),
			PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cpu, &training, 0.1, momentum), PSGD_OK);
		ck_assert_int_eq(optim_net(&p.cuda, &training, 0.1, on_cuda), PSGD_OK);
	}
	params = pair_values(pair_cuda, p.cuda.params, p.cuda.n_params);
	pair_check_close(params, p.cpu.params, p.cpu.n_params, 1e-6, "parameters");
	free(params);
	free(momentum);
	nn_free(pair_cuda, on_cuda);
	pair_close(&p);
}
END_TEST

static psgd_status ignore(void *user, const struct net_layer *layer)
{
	(void)user;
	(void)layer;
	return PSGD_OK;
}

START_TEST(test_accumulate)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct accumulate sums[2];
	struct pair p;

	pair_open(&p, net_builders[3], &in, BATCH);
	ck_assert_int_eq(accumulate_init(&sums[0], &p.cpu, 3, ignore, NULL), PSGD_OK);
	ck_assert_int_eq(accumulate_init(&sums[1], &p.cuda, 3, ignore, NULL), PSGD_OK);
	accumulate_begin(&sums[0], 3);
	accumulate_begin(&sums[1], 3);
	for (uint64_t i = 0; i < 3; i++) {
		pair_input(&p, 600 + i);
		pair_forward(&p, NULL, NULL);
		pair_noise(p.on_cpu->diff_start, pair_outputs(&p), 700 + i);
		ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
		pair_noise(p.on_cuda->diff_start, pair_outputs(&p), 700 + i);
		ck_assert_int_eq(
			net_backward(&p.cpu, p.on_cpu, accumulate_on_grads, &sums[0]), PSGD_OK);
		ck_assert_int_eq(
			net_backward(&p.cuda, p.on_cuda, accumulate_on_grads, &sums[1]), PSGD_OK);
	}
	pair_check_grads(&p, "three batches");
	accumulate_finish(&sums[0]);
	accumulate_finish(&sums[1]);
	pair_close(&p);
}
END_TEST

/* A batch that is not finite leaves the running statistics alone, as it does on the CPU. */
START_TEST(test_nonfinite_statistics)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct pair p;
	float *before, *after;

	pair_open(&p, net_builders[4], &in, BATCH);
	pair_input(&p, 1);
	before = pair_values(pair_cuda, p.cuda.running, p.cuda.n_running);
	p.on_cuda->input[3] = _i ? INFINITY : NAN;
	p.on_cpu->input[3] = p.on_cuda->input[3];
	pair_forward(&p, NULL, NULL);
	ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
	ck_assert(isnan(p.on_cuda->output[0]));
	after = pair_values(pair_cuda, p.cuda.running, p.cuda.n_running);
	/* Channel 1 is spoilt, in the first norm and in all that follow. */
	ck_assert(after[1] == before[1] && after[3] == before[3]);
	ck_assert(after[0] != before[0]);
	for (size_t i = 4; i < p.cuda.n_running; i++)
		ck_assert(after[i] == before[i]);
	free(before);
	free(after);
	pair_close(&p);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_cuda");
	TCase *c = tcase_create("cuda");

	tcase_set_timeout(c, 120);
	tcase_add_checked_fixture(c, pair_setup, pair_teardown);
	tcase_add_loop_test(c, test_layers, 0, N_BUILDERS * N_MANNERS);
	tcase_add_loop_test(c, test_training, 0, 6);
	tcase_add_loop_test(c, test_optimizer, 0, 2);
	tcase_add_test(c, test_accumulate);
	tcase_add_loop_test(c, test_nonfinite_statistics, 0, 2);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return pair_has_device() ? run_suite(suite()) : EXIT_SUCCESS;
}
