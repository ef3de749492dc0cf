/* The CUDA engine: what is under way at the same time, and what its libraries are asked for. */
#include "examples/image/cuda_open.h"
#include "examples/image/layers.h"
#include "examples/image/optim.h"
#include "nets.h"
#include "pair.h"
#include "support/suite.h"

#include <shim.h>
#include <stdio.h>
#include <string.h>

/*
 * While a batch is computed the next is on its way: the same result as one after the other. One
 * that nobody wants any more is dropped.
 */
START_TEST(test_ahead)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	size_t n = net_values(&in, BATCH);
	struct pair p;

	shim_lazy(_i);
	pair_open(&p, net_builders[N_BUILDERS - 1], &in, BATCH);
	pair_noise(p.on_cuda->input, n, 0);
	ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
	for (uint64_t i = 0; i < 5; i++) {
		pair_noise(p.on_cpu->input, n, i);
		pair_forward(&p, NULL, NULL);
		if (i == 2) { /* the wrong one */
			pair_noise(p.on_cuda->input, n, 1000);
			ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
			net_unload(&p.cuda, p.on_cuda);
		}
		pair_noise(p.on_cuda->input, n, i + 1);
		ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
		memset(p.on_cuda->input, 0xff, n * sizeof(float));
		pair_check_outputs(&p, "ahead");
		pair_backward(&p, i);
		pair_check_grads(&p, "ahead");
	}
	pair_close(&p);
}
END_TEST

static void load(struct pair *p, uint64_t item)
{
	pair_noise(p->on_cuda->input, net_values(&p->cuda.in, BATCH), item);
	ck_assert_msg(net_load(&p->cuda, p->on_cuda) == PSGD_OK, "%s", p->cuda.error.text);
}

/* A batch that follows does not take the place of one that has not been read yet. */
START_TEST(test_in_a_row)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct pair p;

	shim_lazy(true);
	pair_open(&p, net_builders[N_BUILDERS - 1], &in, BATCH);
	for (uint64_t i = 0; i < 2; i++) {
		load(&p, i);
		pair_noise(p.on_cpu->input, net_values(&in, BATCH), i);
		pair_forward(&p, NULL, NULL);
	}
	load(&p, 2);
	load(&p, 3);
	pair_check_outputs(&p, "second pass");
	/* Of both passes. */
	pair_check_grads(&p, "none yet");
	ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_ERR_STATE);
	pair_close(&p);
}
END_TEST

/* Between a step's forward and its optimizer the host waits once: for the scores. */
START_TEST(test_no_waits)
{
	const struct psgd_config_training training = {.momentum = 0.9};
	float *momentum;
	struct pair p;
	uint64_t waits;

	pair_model(&p, (char[]){"resnet8"}, 4);
	momentum = nn_alloc(pair_cuda, p.cuda.n_params);
	pair_input(&p, 1);
	waits = shim_count(SHIM_SYNCS);
	ck_assert_int_eq(net_load(&p.cuda, p.on_cuda), PSGD_OK);
	waits = shim_count(SHIM_SYNCS);
	ck_assert_int_eq(net_forward(&p.cuda, p.on_cuda, NULL), PSGD_OK);
	ck_assert_uint_eq(shim_count(SHIM_SYNCS), waits);
	ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
	waits = shim_count(SHIM_SYNCS);
	ck_assert_int_eq(net_backward(&p.cuda, p.on_cuda, NULL, NULL), PSGD_OK);
	ck_assert_int_eq(optim_net(&p.cuda, &training, 0.1, momentum), PSGD_OK);
	ck_assert_uint_eq(shim_count(SHIM_SYNCS), waits);
	nn_free(pair_cuda, momentum);
	pair_close(&p);
}
END_TEST

/* Memory that queued work uses is kept until it has run: of a plan that ends, of one that grows. */
START_TEST(test_unfinished)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct pair p;

	shim_lazy(true);
	/* One whose dense layer turns a whole batch round in the scratch memory. */
	pair_open(&p, net_builders[2], &in, BATCH);
	load(&p, 0);
	load(&p, 1);
	pair_input(&p, 1);
	pair_forward(&p, NULL, NULL);
	if (_i > 0) {
		/* The scratch memory gets larger. */
		ck_assert_ptr_nonnull(net_prepare(&p.cuda, 40 * BATCH, true));
		ck_assert_int_eq(net_output(&p.cuda, p.on_cuda), PSGD_OK);
	}
	pair_close(&p);
}
END_TEST

/* Loops of a norm that syncs, one after the other: each has its own vectors. */
START_TEST(test_loops)
{
	enum { N = 2 * 3 * 4, LOOPS = 5 };
	const struct nn_shape shape = {.n = 2, .c = 3, .h = 2, .w = 2};
	float vectors[3] = {1.0f, 2.0f, 3.0f}, zeros[3] = {0}, x[N], got[N];
	float *on_cuda = nn_alloc(pair_cuda, N), *out[LOOPS];

	shim_lazy(true);
	pair_noise(x, N, 1);
	ck_assert_int_eq(nn_upload(pair_cuda, on_cuda, x, N, &pair_error), PSGD_OK);
	for (int k = 0; k < LOOPS; k++) {
		struct norm_rows all = {.x = on_cuda,
			.mean = zeros,
			.scale = vectors,
			.shift = zeros,
			.dy_mean = zeros,
			.slope = zeros};

		out[k] = all.out = nn_alloc(pair_cuda, N);
		ck_assert_int_eq(pair_cuda->device->norm_loop(
					 pair_cuda, NORM_APPLY, &shape, &all, &pair_error),
			PSGD_OK);
		for (size_t c = 0; c < 3; c++)
			vectors[c] += 1.0f;
	}
	for (int k = 0; k < LOOPS; k++) {
		ck_assert_int_eq(nn_download(pair_cuda, got, out[k], N, &pair_error), PSGD_OK);
		for (size_t i = 0; i < N; i++) {
			float scale = (float)(i / 4 % 3 + 1 + (size_t)k);

			ck_assert_float_eq(got[i], x[i] * scale);
		}
		nn_free(pair_cuda, out[k]);
	}
	nn_free(pair_cuda, on_cuda);
}
END_TEST

static psgd_status alone(void *user, float *values, size_t n)
{
	(void)user;
	(void)values;
	(void)n;
	return PSGD_OK;
}

/*
 * A step waits for the loaded batch, the parameters and statistics of all norms, and the scores; a
 * norm for its sums, forward and backward, and for its vectors of the last but one loop.
 */
START_TEST(test_sync_waits)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	uint64_t waits, norms = 0;
	struct net_plan *plan;
	struct net net;

	net_begin(&net, pair_cuda, &in);
	net_builders[N_BUILDERS - 1](&net);
	ck_assert_int_eq(net_end(&net, 3), PSGD_OK);
	ck_assert_int_eq(net_sync(&net, alone, NULL, 1), PSGD_OK);
	plan = net_prepare(&net, BATCH, true);
	for (size_t i = 0; i < net.n_layers; i++)
		norms += net.layer[i].kind->statistics;
	ck_assert_uint_gt(norms, 2);
	pair_noise(plan->input, net_values(&in, BATCH), 1);
	waits = shim_count(SHIM_SYNCS);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	ck_assert_int_eq(net_output(&net, plan), PSGD_OK);
	pair_noise(plan->diff_start, 3 * BATCH, 2);
	ck_assert_int_eq(net_backward(&net, plan, NULL, NULL), PSGD_OK);
	waits = shim_count(SHIM_SYNCS) - waits;
	ck_assert_uint_eq(waits, 3 + norms * (2 + 4));
	net_free(&net);
}
END_TEST

/* Ranges for a profiler, one inside another: "forward(conv()norm())" and so on. */
static char ranges[512];
static const struct nn_device *unnoted;

static void note_range(struct nn *nn, const char *name)
{
	size_t length = strlen(ranges);

	unnoted->range(nn, name);
	(void)snprintf(ranges + length, sizeof(ranges) - length, "%s%s", name ? name : "",
		name ? "(" : ")");
}

START_TEST(test_ranges)
{
	const struct psgd_config_training training = {.momentum = 0.9};
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct nn_device noted;
	float *momentum;
	struct pair p;

	unnoted = pair_cuda->device;
	noted = *unnoted;
	noted.range = note_range;
	pair_open(&p, net_builders[N_BUILDERS - 1], &in, BATCH);
	momentum = nn_alloc(pair_cuda, p.cuda.n_params);
	pair_cuda->device = &noted;
	pair_input(&p, 1);
	pair_forward(&p, NULL, NULL);
	pair_check_outputs(&p, "noted");
	pair_backward(&p, 2);
	ck_assert_int_eq(optim_net(&p.cuda, &training, 0.1, momentum), PSGD_OK);
	pair_cuda->device = unnoted;
	ck_assert_str_eq(ranges,
		"forward(load()conv()norm()pool()conv()norm()conv()norm()relu()pool()dense())"
		"scores()"
		"backward(dense()dense()pool()relu()norm()conv()conv()norm()conv()conv()pool()"
		"pool()norm()conv())"
		"optimizer()");
	nn_free(pair_cuda, momentum);
	pair_close(&p);
}
END_TEST

/* Where f32 may be rounded to TF32: nowhere, in convolutions, in matrix products too. */
START_TEST(test_precision)
{
	static const char *const names[] = {"none", "convolutions", "all"};
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct image_error error = {""};
	struct net_plan *plan;
	struct net net;
	struct nn *nn;
	uint64_t rounded, convolutions, products;

	ck_assert_msg(cuda_open(0, names[_i], &nn, &error) == PSGD_OK, "%s", error.text);
	net_begin(&net, nn, &in);
	net_builders[N_BUILDERS - 1](&net);
	ck_assert_int_eq(net_end(&net, 3), PSGD_OK);
	plan = net_prepare(&net, BATCH, true);
	pair_noise(plan->input, net_values(&in, BATCH), 1);
	rounded = shim_count(SHIM_TF32);
	convolutions = shim_count(SHIM_DNN);
	products = shim_count(SHIM_BLAS);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	ck_assert_int_eq(net_output(&net, plan), PSGD_OK);
	pair_noise(plan->diff_start, 3 * BATCH, 2);
	ck_assert_int_eq(net_backward(&net, plan, NULL, NULL), PSGD_OK);
	rounded = shim_count(SHIM_TF32) - rounded;
	convolutions = shim_count(SHIM_DNN) - convolutions;
	products = shim_count(SHIM_BLAS) - products;
	/* Three convolutions, one of them of the input; one dense layer. */
	ck_assert_uint_eq(convolutions, 8);
	ck_assert_uint_eq(products, 3);
	ck_assert_uint_eq(rounded, (_i > 0 ? convolutions : 0) + (_i > 1 ? products : 0));
	net_free(&net);
	nn_close(&nn);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_cuda_streams");
	TCase *c = tcase_create("cuda_streams");

	tcase_set_timeout(c, 120);
	tcase_add_checked_fixture(c, pair_setup, pair_teardown);
	tcase_add_loop_test(c, test_ahead, 0, 2);
	tcase_add_test(c, test_in_a_row);
	tcase_add_loop_test(c, test_unfinished, 0, 2);
	tcase_add_test(c, test_loops);
	tcase_add_test(c, test_no_waits);
	tcase_add_test(c, test_sync_waits);
	tcase_add_test(c, test_ranges);
	tcase_add_loop_test(c, test_precision, 0, 3);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
