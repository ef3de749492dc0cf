/* Plans: where values lie, how much memory that takes, nets that are refused. */
#include "examples/image/arena.h"
#include "examples/image/models.h"
#include "examples/image/rng.h"
#include "support/suite.h"

#include <stdio.h>
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

static bool meet(const struct arena_buffer *a, const struct arena_buffer *b)
{
	return a->first <= b->last && b->first <= a->last;
}

/* What lives in a step never overlaps, and the whole is close to the fullest step. */
START_TEST(test_arena_law)
{
	enum { N = 60, STEPS = 40 };
	struct arena_buffer buffers[N] = {0};
	uint64_t key = rng_key((uint64_t)_i, RNG_SYNTHETIC, 0);
	size_t total, sum = 0, fullest = 0;

	for (uint64_t i = 0; i < N; i++) {
		buffers[i].values = 16 * (1 + rng_below(key, 3 * i, 1 + 500 / (i + 1)));
		buffers[i].first = rng_below(key, 3 * i + 1, STEPS);
		buffers[i].last = buffers[i].first + rng_below(key, 3 * i + 2, 8);
		sum += buffers[i].values;
	}
	total = arena_place(buffers, N);
	for (size_t i = 0; i < N; i++) {
		ck_assert_uint_eq(buffers[i].offset % 16, 0);
		ck_assert_uint_le(buffers[i].offset + buffers[i].values, total);
		for (size_t j = 0; j < i; j++)
			ck_assert(!meet(&buffers[i], &buffers[j]) ||
				  buffers[i].offset + buffers[i].values <= buffers[j].offset ||
				  buffers[j].offset + buffers[j].values <= buffers[i].offset);
	}
	for (size_t step = 0; step < STEPS + 8; step++) {
		size_t live = 0;

		for (size_t i = 0; i < N; i++)
			if (buffers[i].first <= step && step <= buffers[i].last)
				live += buffers[i].values;
		fullest = live > fullest ? live : fullest;
	}
	ck_assert_uint_ge(total, fullest);
	ck_assert_uint_le(total, fullest + fullest / 2);
	ck_assert_uint_lt(total, sum);
}
END_TEST

START_TEST(test_arena_edges)
{
	/* Gaps are used: the third fits where the second is no longer. */
	struct arena_buffer buffers[] = {
		{.values = 64, .first = 0, .last = 9},
		{.values = 32, .first = 0, .last = 3},
		{.values = 16, .first = 4, .last = 9},
		{.values = 16, .first = 3, .last = 3},
	};

	ck_assert_uint_eq(arena_place(NULL, 0), 0);
	ck_assert_uint_eq(arena_place(buffers, 4), 64 + 32 + 16);
	ck_assert_uint_eq(buffers[0].offset, 0);
	ck_assert_uint_eq(buffers[1].offset, 64);
	ck_assert_uint_eq(buffers[2].offset, 64);
	ck_assert_uint_eq(buffers[3].offset, 96);
}
END_TEST

static void build_resnet18(struct net *net)
{
	const struct psgd_config_model model = {
		.name = (char[]){"resnet18"}, .stem = (char[]){"auto"}, .num_classes = 10};
	const struct nn_shape in = {.c = 3, .h = 32, .w = 32};

	ck_assert_int_eq(model_build(net, nn, &model, &in, 1, &error), PSGD_OK);
}

/* In units of the first convolution's result, which is the largest value. */
static double memory_of(const struct net_plan *plan)
{
	return (double)plan->n_values / (double)(plan->batch * 64 * 32 * 32);
}

/*
 * Training keeps two values of each of 20 convolutions: 5 of full size, 5 of each half, 1/4 and
 * 1/8. What is left is a projection's, the input, gradients while they are wanted. Inference
 * needs a block's input, what it computes from and what it computes.
 */
START_TEST(test_memory)
{
	struct net net;
	struct net_plan *plan;

	build_resnet18(&net);
	plan = net_prepare(&net, 4, true);
	ck_assert_ptr_nonnull(plan);
	ck_assert_double_le(memory_of(plan), 2.0 * 5.0 * 1.875 + 0.5);
	plan = net_prepare(&net, 4, false);
	ck_assert_ptr_nonnull(plan);
	ck_assert_double_le(memory_of(plan), 3.1);
	net_free(&net);
}
END_TEST

/* A pass leaves its input, and nothing of an earlier pass in its result. */
START_TEST(test_passes_repeat)
{
	struct net net;
	struct net_plan *plan;
	float first[20], second[20];

	build_resnet18(&net);
	plan = net_prepare(&net, 2, false);
	ck_assert_ptr_nonnull(plan);
	for (size_t i = 0; i < (size_t)2 * 3 * 32 * 32; i++)
		plan->input[i] = rng_symmetric(rng_key(1, RNG_SYNTHETIC, 2), i);
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	memcpy(first, plan->output, sizeof(first));
	ck_assert_int_eq(net_forward(&net, plan, NULL), PSGD_OK);
	memcpy(second, plan->output, sizeof(second));
	ck_assert_mem_eq(first, second, sizeof(first));
	net_free(&net);
}
END_TEST

START_TEST(test_absurd_batches)
{
	static const int64_t batches[] = {0, -1, INT64_MAX, (int64_t)1 << 40};
	struct net net;

	build_resnet18(&net);
	for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++) {
		char text[80];

		(void)snprintf(text, sizeof(text), "out of memory for a batch of %lld images",
			(long long)batches[i]);
		ck_assert_ptr_null(net_prepare(&net, batches[i], true));
		ck_assert_str_eq(net.error.text, text);
	}
	ck_assert_ptr_nonnull(net_prepare(&net, 1, true));
	net_free(&net);
}
END_TEST

static void unused_value(struct net *net)
{
	net_add_conv(net, "a", 16, 3, 1);
	net->top = 0;
	net_add_dense(net, "b", 3);
}

static void value_for_three(struct net *net)
{
	size_t start;

	net_add_norm(net, "a", false);
	start = net->top;
	net_add_norm(net, "b", false);
	net_add_join(net, start);
	net_add_join(net, start);
	net_add_dense(net, "c", 3);
}

static void unlike_branches(struct net *net)
{
	net_add_conv(net, "a", 16, 3, 2);
	net_add_join(net, 0);
}

static const struct {
	void (*add)(struct net *net);
	const char *text;
} wrong_nets[] = {
	{unused_value, "a value is not taken once or twice"},
	{value_for_three, "a value is not taken once or twice"},
	{unlike_branches, "joined branches differ in shape"},
};

START_TEST(test_wrong_nets)
{
	const struct nn_shape in = {.c = 2, .h = 5, .w = 6};
	struct net net;

	net_begin(&net, nn, &in);
	wrong_nets[_i].add(&net);
	ck_assert_int_eq(net_end(&net, 1), PSGD_ERR_INVALID);
	ck_assert_str_eq(net.error.text, wrong_nets[_i].text);
	net_free(&net);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_prepare");
	TCase *c = tcase_create("prepare");

	tcase_add_checked_fixture(c, open_nn, close_nn);
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_arena_law, 0, 8);
	tcase_add_test(c, test_arena_edges);
	tcase_add_test(c, test_memory);
	tcase_add_test(c, test_passes_repeat);
	tcase_add_test(c, test_absurd_batches);
	tcase_add_loop_test(c, test_wrong_nets, 0, 3);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
