/* The CUDA engine: calls that fail, memory that ends, no device. */
#include "examples/image/cuda_open.h"
#include "examples/image/models.h"
#include "examples/image/optim.h"
#include "nets.h"
#include "pair.h"
#include "support/suite.h"

#include <shim.h>
#include <string.h>

/* As if the other worker had the same. */
static psgd_status give_back(void *user, float *values, size_t n)
{
	(void)user;
	for (size_t i = 0; i < n; i++)
		values[i] *= 2.0f;
	return PSGD_OK;
}

static uint64_t work_calls; /* up to the end of the work; what follows only frees */

static psgd_status train_once(struct net *net, bool sync)
{
	const struct psgd_config_training training = {.momentum = 0.9};
	struct net_plan *plan;
	float *momentum, *view;
	psgd_status status = net_end(net, 3);

	if (status)
		return status;
	if (sync)
		status = net_sync(net, give_back, NULL, 2);
	if (status)
		return status;
	plan = net_prepare(net, 2, true);
	if (!plan)
		return net->unprepared;
	pair_noise(plan->input, net_values(&net->in, 2), 1);
	momentum = nn_alloc(net->nn, net->n_params);
	if (!momentum)
		return image_fail(&net->error, PSGD_ERR_NOMEM, "out of memory");
	status = net_load(net, plan);
	if (!status)
		status = net_forward(net, plan, NULL);
	if (!status)
		status = net_output(net, plan);
	if (!status)
		pair_noise(plan->diff_start, 6, 2);
	if (!status)
		status = net_backward(net, plan, NULL, NULL);
	if (!status)
		status = optim_net(net, &training, 0.1, momentum);
	if (!status)
		status = nn_copy(net->nn, net->grads, net->params, net->n_params, &net->error);
	if (!status)
		status = nn_view(net->nn, net->grads, net->n_params, &view, &net->error);
	if (!status)
		status = nn_view_end(net->nn, view, net->grads, net->n_params, true, &net->error);
	work_calls = shim_calls();
	nn_free(net->nn, momentum);
	return status;
}

static psgd_status one_step(bool sync)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct net net = {0};
	struct nn *nn;
	psgd_status status;

	pair_error.text[0] = 0;
	status = cuda_open(0, "none", &nn, &pair_error);
	if (status)
		return status;
	net_begin(&net, nn, &in);
	net_builders[N_BUILDERS - 1](&net);
	status = train_once(&net, sync);
	if (status)
		pair_error = net.error;
	net_free(&net);
	nn_close(&nn);
	return status;
}

/* Every call in turn fails: a line that says so, and nothing is left behind. */
START_TEST(test_failures)
{
	uint64_t n, work, said = 0;

	shim_fail(0);
	ck_assert_int_eq(one_step(_i), PSGD_OK);
	n = shim_calls();
	work = work_calls;
	ck_assert_uint_gt(work, 100);
	for (uint64_t k = 1; k <= n; k++) {
		size_t before = shim_leaks();
		psgd_status status;

		shim_fail(k);
		status = one_step(_i);
		shim_fail(0);
		ck_assert_uint_eq(shim_leaks(), before);
		/* What ends things goes on whatever is said. */
		ck_assert_msg((status < PSGD_OK && pair_error.text[0]) || (!status && k > work),
			"call %llu of %llu: status %d, %s", (unsigned long long)k,
			(unsigned long long)work, status, pair_error.text);
		if (status &&
			(strstr(pair_error.text, "ALLOC") || strstr(pair_error.text, "memory")))
			ck_assert_int_eq(status, PSGD_ERR_NOMEM);
		ck_assert_ptr_null(strchr(pair_error.text, '\n'));
		said += strstr(pair_error.text, "refused by the emulation") != NULL;
	}
	/* What cuDNN says of a call is passed on: a convolution's, in eight passes. */
	ck_assert_uint_eq(said, 8);
	ck_assert_int_eq(one_step(_i), PSGD_OK);
}
END_TEST

START_TEST(test_no_device)
{
	struct nn *nn;

	shim_devices(_i ? 0 : -1);
	ck_assert_int_eq(cuda_open(0, "none", &nn, &pair_error), PSGD_ERR_DEVICE);
	ck_assert_ptr_null(nn);
	ck_assert_ptr_nonnull(strstr(pair_error.text, "CUDA"));
	shim_devices(1);
	ck_assert_int_eq(cuda_open(7, "none", &nn, &pair_error), PSGD_ERR_DEVICE);
}
END_TEST

START_TEST(test_memory)
{
	struct pair p;

	shim_memory_limit(6 << 20);
	ck_assert_int_eq(model_build(&p.cuda, pair_cuda,
				 &(struct psgd_config_model){.name = (char[]){"resnet8"},
					 .stem = (char[]){"auto"},
					 .num_classes = 10},
				 &(struct nn_shape){.c = 3, .h = 16, .w = 16}, 5, &pair_error),
		PSGD_OK);
	ck_assert_ptr_null(net_prepare(&p.cuda, 512, true));
	ck_assert_ptr_nonnull(strstr(p.cuda.error.text, "batch of 512 images"));
	/* There is room for a smaller one. */
	ck_assert_ptr_nonnull(net_prepare(&p.cuda, 2, true));
	net_free(&p.cuda);
	shim_memory_limit(0);
}
END_TEST

/* Without the module: why, in words. */
START_TEST(test_no_module)
{
	char *kept = strdup(getenv("PSGD_MODULE_PATH"));
	const struct image_cuda_module *module;

	ck_assert_int_eq(setenv("PSGD_MODULE_PATH", "/nowhere", 1), 0);
	ck_assert_int_eq(cuda_find(&module, &pair_error), PSGD_ERR_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(pair_error.text, "no cuDNN module: "));
	ck_assert_int_eq(setenv("PSGD_MODULE_PATH", kept, 1), 0);
	free(kept);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_cuda_failures");
	TCase *c = tcase_create("cuda_failures");

	tcase_set_timeout(c, 120);
	tcase_add_checked_fixture(c, pair_setup, pair_teardown);
	tcase_add_loop_test(c, test_failures, 0, 2);
	tcase_add_test(c, test_memory);
	tcase_add_loop_test(c, test_no_device, 0, 2);
	tcase_add_test(c, test_no_module);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
