/* Nets: forward and gradients against float64, statistics, the order of gradients. */
#include "examples/image/layers.h"
#include "examples/image/rng.h"
#include "nets.h"
#include "reference.h"
#include "support/suite.h"

#include <math.h>
#include <string.h>

static struct nn *nn;
static struct image_error error;

static void open_nn(void)
{
	ck_assert_int_eq(nn_open(1, &nn, &error), PSGD_OK);
}

static void close_nn(void)
{
	nn_close(&nn);
}

static void noise(float *out, size_t n, uint64_t item)
{
	for (size_t i = 0; i < n; i++)
		out[i] = rng_symmetric(rng_key(7, RNG_SYNTHETIC, item), i);
}

static double *widen(const float *values, size_t n)
{
	double *out = malloc(n * sizeof(*out));

	for (size_t i = 0; i < n; i++)
		out[i] = values[i];
	return out;
}

#define BATCH 5

static struct net_plan *build_from(
	struct net *net, void (*add)(struct net *), const struct nn_shape *in)
{
	struct net_plan *plan;

	net_begin(net, nn, in);
	add(net);
	ck_assert_int_eq(net_end(net, 3), PSGD_OK);
	/* Constants would hide a wrong index. */
	for (size_t i = 0; i < net->n_tensors; i++) {
		struct net_tensor *tensor = &net->tensor[i];
		float *values = net->params + tensor->offset;

		if (tensor->init != NET_CONSTANT)
			continue;
		noise(values, tensor->count, i);
		for (size_t j = 0; j < tensor->count; j++)
			values[j] += tensor->scale;
	}
	plan = net_prepare(net, BATCH, true);
	ck_assert_ptr_nonnull(plan);
	noise(plan->input, net_values(in, BATCH), 100);
	return plan;
}

static struct net_plan *build(struct net *net, int which)
{
	return build_from(net, net_builders[which], &(struct nn_shape){.c = 2, .h = 5, .w = 6});
}

static size_t n_outputs(const struct net *net)
{
	return BATCH * (size_t)net->layer[net->n_layers - 1].out.c;
}

/* What the gradients are of: the output, weighted. */
static double objective(
	const struct net *net, const double *params, const float *images, const float *weights)
{
	double *out = reference_forward(net, params, images, BATCH, NULL), sum = 0.0;

	for (size_t i = 0; i < n_outputs(net); i++)
		sum += out[i] * weights[i];
	free(out);
	return sum;
}

START_TEST(test_forward)
{
	struct net net;
	struct net_plan *plan = build(&net, _i), *inference;
	double *params = widen(net.params, net.n_params), *expected;

	expected = reference_forward(&net, params, plan->input, BATCH, NULL);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	for (size_t i = 0; i < n_outputs(&net); i++)
		ck_assert_double_eq_tol(plan->output[i], expected[i], 2e-5);
	free(expected);
	/* And with the running statistics, which one step has moved from where they began. */
	inference = net_prepare(&net, BATCH, false);
	ck_assert_ptr_nonnull(inference);
	memcpy(inference->input, plan->input, net_values(&net.in, BATCH) * sizeof(float));
	expected = reference_forward(&net, params, plan->input, BATCH, net.running);
	ck_assert_int_eq(net_forward(&net, inference, NULL), PSGD_OK);
	for (size_t i = 0; i < n_outputs(&net); i++)
		ck_assert_double_eq_tol(inference->output[i], expected[i], 2e-5);
	free(expected);
	free(params);
	net_free(&net);
}
END_TEST

/* Central differences in float64 are exact to about 1e-9 here; f32 arithmetic is what remains. */
START_TEST(test_gradients)
{
	struct net net;
	struct net_plan *plan = build(&net, _i);
	double *params = widen(net.params, net.n_params);
	float *weights = malloc(n_outputs(&net) * sizeof(float));
	const double step = 1e-6;

	noise(weights, n_outputs(&net), 200);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	memcpy(plan->diff_start, weights, n_outputs(&net) * sizeof(float));
	ck_assert_int_eq(net_backward(&net, plan, NULL, NULL), PSGD_OK);
	for (size_t t = 0; t < net.n_tensors; t++) {
		const struct net_tensor *tensor = &net.tensor[t];
		double wrong = 0.0, size = 0.0;

		for (size_t i = tensor->offset; i < tensor->offset + tensor->count; i++) {
			double kept = params[i], slope;

			params[i] = kept + step;
			slope = objective(&net, params, plan->input, weights);
			params[i] = kept - step;
			slope -= objective(&net, params, plan->input, weights);
			params[i] = kept;
			slope /= 2.0 * step;
			wrong += pow(net.grads[i] - slope, 2);
			size += slope * slope;
		}
		ck_assert_msg(size > 0.0 && sqrt(wrong / size) < 5e-5,
			"net %d, %s: relative error %g of %g", _i, tensor->name, sqrt(wrong / size),
			sqrt(size));
	}
	free(weights);
	free(params);
	net_free(&net);
}
END_TEST

/*
 * Wide enough for the convolutions that training mostly consists of, too large for a difference
 * by each parameter: each tensor by its gradient's direction, along which the slope is its square.
 */
static void add_wide(struct net *net)
{
	size_t start;

	net_add_conv(net, "a", 32, 3, 1);
	net_add_norm(net, "b", true);
	start = net->top;
	net_add_conv(net, "c", 64, 3, 1);
	net_add_norm(net, "d", true);
	net_add_conv(net, "e", 32, 3, 1);
	net_add_join(net, start);
	net_add_dense(net, "f", 3);
}

static double along(const struct net *net, const double *params, const float *direction,
	double step, const float *images, const float *weights)
{
	double *moved = malloc(net->n_params * sizeof(*moved)), slope = 0.0;

	for (int sign = -1; sign <= 1; sign += 2) {
		for (size_t i = 0; i < net->n_params; i++)
			moved[i] = params[i] + sign * step * direction[i];
		slope += sign * objective(net, moved, images, weights) / (2.0 * step);
	}
	free(moved);
	return slope;
}

START_TEST(test_wide)
{
	struct net net;
	struct net_plan *plan =
		build_from(&net, add_wide, &(struct nn_shape){.c = 16, .h = 14, .w = 15});
	double *params = widen(net.params, net.n_params), *expected;
	float *weights = malloc(n_outputs(&net) * sizeof(float)), *direction;

	expected = reference_forward(&net, params, plan->input, BATCH, NULL);
	noise(weights, n_outputs(&net), 200);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	for (size_t i = 0; i < n_outputs(&net); i++)
		ck_assert_double_eq_tol(plan->output[i], expected[i], 1e-4);
	memcpy(plan->diff_start, weights, n_outputs(&net) * sizeof(float));
	ck_assert_int_eq(net_backward(&net, plan, NULL, NULL), PSGD_OK);
	direction = calloc(net.n_params, sizeof(float));
	for (size_t t = 0; t < net.n_tensors; t++) {
		size_t begin = net.tensor[t].offset, end = begin + net.tensor[t].count;
		double square = 0.0, slope;

		for (size_t i = begin; i < end; i++) {
			direction[i] = net.grads[i];
			square += (double)net.grads[i] * net.grads[i];
		}
		slope = along(&net, params, direction, 1e-7 / sqrt(square), plan->input, weights);
		ck_assert_msg(square > 0.0 && fabs(slope / square - 1.0) < 1e-4,
			"%s: slope %g along the gradient, not %g", net.tensor[t].name, slope,
			square);
		memset(direction + begin, 0, (end - begin) * sizeof(float));
	}
	free(direction);
	free(expected);
	free(weights);
	free(params);
	net_free(&net);
}
END_TEST

/* A layer's gradients are final when they are announced, and come from the top down. */
struct seen {
	struct net *net;
	float *grads;
	const struct net_layer *last;
	size_t calls;
};

static psgd_status see(void *user, const struct net_layer *layer)
{
	struct seen *seen = user;

	ck_assert(!seen->last || layer < seen->last);
	ck_assert_uint_gt(layer->n_tensors, 0);
	for (size_t i = 0; i < layer->n_tensors; i++) {
		const struct net_tensor *tensor = &seen->net->tensor[layer->first_tensor + i];

		memcpy(seen->grads + tensor->offset, seen->net->grads + tensor->offset,
			tensor->count * sizeof(float));
		memset(seen->net->grads + tensor->offset, 0, tensor->count * sizeof(float));
		seen->calls++;
	}
	seen->last = layer;
	return PSGD_OK;
}

START_TEST(test_order)
{
	struct net net;
	struct net_plan *plan = build(&net, _i);
	struct seen seen = {.net = &net};
	size_t bytes = net.n_params * sizeof(float);
	float *plain = malloc(bytes);

	seen.grads = calloc(net.n_params, sizeof(float));
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	noise(plan->diff_start, n_outputs(&net), 200);
	ck_assert_int_eq(net_backward(&net, plan, NULL, NULL), PSGD_OK);
	memcpy(plain, net.grads, bytes);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	noise(plan->diff_start, n_outputs(&net), 200);
	ck_assert_int_eq(net_backward(&net, plan, see, &seen), PSGD_OK);
	ck_assert_uint_eq(seen.calls, net.n_tensors);
	/* Whatever was announced was never written again, and was the gradient already. */
	for (size_t i = 0; i < net.n_params; i++)
		ck_assert(net.grads[i] == 0.0f);
	ck_assert_mem_eq(seen.grads, plain, bytes);
	free(seen.grads);
	free(plain);
	net_free(&net);
}
END_TEST

static psgd_status refuse(void *user, const struct net_layer *layer)
{
	(void)layer;
	++*(int *)user;
	return PSGD_ERR_PEER_LOST;
}

START_TEST(test_callback_failure)
{
	struct net net;
	struct net_plan *plan = build(&net, 5);
	int calls = 0;

	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	ck_assert_int_eq(net_backward(&net, plan, refuse, &calls), PSGD_ERR_PEER_LOST);
	ck_assert_int_eq(calls, 1);
	net_free(&net);
}
END_TEST

START_TEST(test_running_statistics)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	const size_t count = BATCH * 5 * 6;
	double mean[2] = {0, 0}, variance[2] = {1, 1};
	float given[4] = {0.25f, -0.5f, 0.75f, 2.0f};
	struct net net;
	struct net_plan *plan;
	double *params, *expected;

	net_begin(&net, nn, &in);
	net_add_norm(&net, "a", false);
	ck_assert_int_eq(net_end(&net, 0), PSGD_OK);
	ck_assert_uint_eq(net.n_running, 4);
	plan = net_prepare(&net, BATCH, true);
	for (uint64_t step = 0; step < 3; step++) {
		noise(plan->input, count * 2, step);
		for (size_t c = 0; c < 2; c++) {
			double m = 0.0, v = 0.0;

			for (size_t i = 0; i < count; i++)
				m += plan->input[2 * i + c] / (double)count;
			for (size_t i = 0; i < count; i++)
				v += pow(plan->input[2 * i + c] - m, 2) / (double)(count - 1);
			mean[c] = 0.9 * mean[c] + 0.1 * m;
			variance[c] = 0.9 * variance[c] + 0.1 * v;
		}
		ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	}
	for (size_t c = 0; c < 2; c++) {
		ck_assert_double_eq_tol(net.running[c], mean[c], 1e-6);
		ck_assert_double_eq_tol(net.running[2 + c], variance[c], 1e-6);
	}
	/* Inference takes the statistics that it is given, and changes none. */
	plan = net_prepare(&net, BATCH, false);
	noise(plan->input, count * 2, 9);
	params = widen(net.params, net.n_params);
	expected = reference_forward(&net, params, plan->input, BATCH, given);
	ck_assert_int_eq(net_forward(&net, plan, given), PSGD_OK);
	for (size_t i = 0; i < count * 2; i++)
		ck_assert_double_eq_tol(plan->output[i], expected[i], 1e-5);
	ck_assert_double_eq_tol(net.running[0], mean[0], 1e-6);
	ck_assert(given[0] == 0.25f && given[3] == 2.0f);
	free(expected);
	free(params);
	net_free(&net);
}
END_TEST

/* An inference pass over any batch equals one over its images alone. */
START_TEST(test_batch_sizes)
{
	struct net net;
	struct net_plan *plan = build(&net, N_BUILDERS - 1), *one;
	const size_t pixels = 2 * 5 * 6, classes = 3;

	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	plan = net_prepare(&net, BATCH, false);
	one = net_prepare(&net, 1, false);
	ck_assert_ptr_ne(plan, one);
	ck_assert_ptr_eq(plan, net_prepare(&net, BATCH, false));
	noise(plan->input, BATCH * pixels, 1);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	for (size_t n = 0; n < BATCH; n++) {
		memcpy(one->input, plan->input + n * pixels, pixels * sizeof(float));
		ck_assert_int_eq(net_forward(&net, one, NULL), PSGD_OK);
		for (size_t c = 0; c < classes; c++)
			ck_assert_float_eq_tol(
				one->output[c], plan->output[n * classes + c], 1e-5f);
	}
	net_free(&net);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_net");
	TCase *c = tcase_create("net");

	tcase_add_checked_fixture(c, open_nn, close_nn);
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_forward, 0, N_BUILDERS);
	tcase_add_loop_test(c, test_gradients, 0, N_BUILDERS);
	tcase_add_test(c, test_wide);
	tcase_add_loop_test(c, test_order, 0, N_BUILDERS);
	tcase_add_test(c, test_callback_failure);
	tcase_add_test(c, test_running_statistics);
	tcase_add_test(c, test_batch_sizes);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
