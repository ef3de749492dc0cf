/* Several batches' gradients as one: those of the batch that they make together. */
#include "examples/image/accumulate.h"
#include "examples/image/loss.h"
#include "examples/image/rng.h"
#include "support/suite.h"

#include <math.h>
#include <string.h>

#define PART 6 /* images of a batch */
#define PIXELS ((size_t)(2 * 5 * 6))
#define CLASSES 3

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

static void build(struct net *net)
{
	net_begin(net, nn, &(struct nn_shape){.c = 2, .h = 5, .w = 6});
	net_add_conv(net, "a", 16, 3, 1);
	net_add_relu(net);
	net_add_dense(net, "b", 9);
	net_add_relu(net);
	net_add_dense(net, "c", CLASSES);
	ck_assert_int_eq(net_end(net, 3), PSGD_OK);
}

struct seen {
	size_t calls;
	const struct net_layer *last;
};

static psgd_status see(void *user, const struct net_layer *layer)
{
	struct seen *seen = user;

	ck_assert(!seen->last || layer < seen->last);
	seen->last = layer;
	seen->calls += layer->n_tensors;
	return PSGD_OK;
}

/* Images `first` and on. */
static void batch(struct net *net, size_t first, int64_t n, net_grads_fn on_grads, void *user)
{
	struct net_plan *plan = net_prepare(net, n, true);
	uint16_t labels[4 * PART];
	struct loss loss = {0};

	ck_assert_ptr_nonnull(plan);
	for (size_t i = 0; i < (size_t)n; i++)
		labels[i] = (uint16_t)((first + i) % CLASSES);
	for (size_t i = 0; i < (size_t)n * PIXELS; i++)
		plan->input[i] = rng_symmetric(rng_key(7, RNG_SYNTHETIC, 1), first * PIXELS + i);
	ck_assert_int_eq(net_forward(net, plan, NULL), PSGD_OK);
	loss_add(&loss, plan->output, labels, (size_t)n, CLASSES, plan->diff_start);
	ck_assert_int_eq(net_backward(net, plan, on_grads, user), PSGD_OK);
}

START_TEST(test_mean)
{
	size_t k = (size_t)_i, bytes;
	struct seen seen;
	struct accumulate accumulate;
	struct net net;
	float *whole;

	build(&net);
	bytes = net.n_params * sizeof(float);
	whole = malloc(bytes);
	batch(&net, 0, (int64_t)k * PART, NULL, NULL);
	memcpy(whole, net.grads, bytes);
	ck_assert_int_eq(accumulate_init(&accumulate, &net, k, see, &seen), PSGD_OK);
	/* The second step finds nothing of the first. */
	for (int step = 0; step < 2; step++) {
		double wrong = 0.0, size = 0.0;

		seen = (struct seen){0};
		accumulate_begin(&accumulate, k);
		for (size_t i = 0; i < k; i++) {
			ck_assert_uint_eq(seen.calls, 0);
			batch(&net, i * PART, PART, accumulate_on_grads, &accumulate);
		}
		ck_assert_uint_eq(seen.calls, net.n_tensors);
		for (size_t i = 0; i < net.n_params; i++) {
			wrong += pow((double)net.grads[i] - whole[i], 2);
			size += pow(whole[i], 2);
		}
		ck_assert_msg(size > 0.0 && sqrt(wrong / size) < 1e-6, "%zu batches: %g", k,
			sqrt(wrong / size));
	}
	accumulate_finish(&accumulate);
	free(whole);
	net_free(&net);
}
END_TEST

/* Steps of one batch need no memory, and leave the gradients alone. */
START_TEST(test_single)
{
	struct accumulate accumulate;
	struct seen seen = {0};
	struct net net;
	size_t bytes;
	float *alone;

	build(&net);
	bytes = net.n_params * sizeof(float);
	alone = malloc(bytes);
	batch(&net, 0, PART, NULL, NULL);
	memcpy(alone, net.grads, bytes);
	ck_assert_int_eq(accumulate_init(&accumulate, &net, 1, see, &seen), PSGD_OK);
	ck_assert_ptr_null(accumulate.sum);
	accumulate_begin(&accumulate, 1);
	batch(&net, 0, PART, accumulate_on_grads, &accumulate);
	ck_assert_mem_eq(net.grads, alone, bytes);
	ck_assert_uint_eq(seen.calls, net.n_tensors);
	accumulate_finish(&accumulate);
	free(alone);
	net_free(&net);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_accumulate");
	TCase *c = tcase_create("accumulate");

	tcase_add_checked_fixture(c, open_nn, close_nn);
	tcase_add_loop_test(c, test_mean, 2, 5);
	tcase_add_test(c, test_single);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
