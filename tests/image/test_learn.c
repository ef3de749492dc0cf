/* The parts together: a single worker learns, and twice the same. */
#include "examples/image/data.h"
#include "examples/image/loss.h"
#include "examples/image/models.h"
#include "examples/image/optim.h"
#include "examples/image/sampler.h"
#include "support/suite.h"

#include <string.h>

#define BATCH 100
#define CLASSES 10

struct learner {
	struct nn *nn;
	struct net net;
	struct net_plan *plan;
	struct data data;
	struct sampler sampler;
	float *momentum;
	uint32_t indices[BATCH];
	uint16_t labels[BATCH];
};

static struct image_error error;

static void learner_open(struct learner *l, char *name, uint64_t seed)
{
	const struct psgd_config_model model = {
		.name = name, .stem = (char[]){"auto"}, .num_classes = CLASSES};
	struct psgd_config_dataset config = {.name = (char[]){"synthetic"}};
	struct nn_shape in = {.c = 1, .h = 28, .w = 28};

	ck_assert_int_eq(data_load(&config, CLASSES, seed, &l->data, &error), PSGD_OK);
	ck_assert_int_eq(nn_open(1, &l->nn, &error), PSGD_OK);
	ck_assert_int_eq(model_build(&l->net, l->nn, &model, &in, seed, &error), PSGD_OK);
	ck_assert_int_eq(
		sampler_init(&l->sampler, l->data.train.count, BATCH, 0, 1, seed, &error), PSGD_OK);
	l->plan = net_prepare(&l->net, BATCH, true);
	ck_assert_ptr_nonnull(l->plan);
	l->momentum = calloc(l->net.n_params, sizeof(float));
	sampler_start(&l->sampler, 0);
}

static void learner_close(struct learner *l)
{
	free(l->momentum);
	sampler_finish(&l->sampler);
	net_free(&l->net);
	nn_close(&l->nn);
	data_free(&l->data);
}

static double learn(struct learner *l, size_t i)
{
	const struct psgd_config_training training = {.momentum = 0.9, .weight_decay = 1e-4};
	struct loss loss = {0};

	sampler_batch(&l->sampler, i % l->sampler.iterations, l->indices);
	data_gather(&l->data, &l->data.train, l->indices, NULL, BATCH, l->plan->input, l->labels);
	ck_assert_int_eq(net_forward(&l->net, l->plan, NULL), PSGD_OK);
	loss_add(&loss, l->plan->output, l->labels, BATCH, CLASSES, l->plan->diff_start);
	ck_assert_int_eq(net_backward(&l->net, l->plan, NULL, NULL), PSGD_OK);
	optim_step(&training, 0.03, l->net.params, l->net.grads, l->momentum, l->net.n_params);
	return loss.sum / BATCH;
}

static double test_accuracy(struct learner *l)
{
	struct net_plan *plan = net_prepare(&l->net, BATCH, false);
	struct loss loss = {0};

	for (uint32_t begin = 0; begin < l->data.test.count; begin += BATCH) {
		for (uint32_t i = 0; i < BATCH; i++)
			l->indices[i] = begin + i;
		data_gather(
			&l->data, &l->data.test, l->indices, NULL, BATCH, plan->input, l->labels);
		ck_assert_int_eq(net_forward(&l->net, plan, NULL), PSGD_OK);
		loss_add(&loss, plan->output, l->labels, BATCH, CLASSES, NULL);
	}
	return 100.0 * (double)loss.correct / (double)loss.samples;
}

static char *const models[] = {"mlp", "cnn"};

START_TEST(test_learns)
{
	struct learner l;
	double accuracy;

	learner_open(&l, models[_i], 11);
	accuracy = test_accuracy(&l);
	ck_assert_msg(accuracy < 30.0, "%.1f %% before training", accuracy);
	for (size_t i = 0; i < l.sampler.iterations; i++)
		(void)learn(&l, i);
	accuracy = test_accuracy(&l);
	ck_assert_msg(accuracy > 90.0, "%s: %.1f %% after one epoch", models[_i], accuracy);
	learner_close(&l);
}
END_TEST

START_TEST(test_repeats)
{
	double losses[2][5];

	for (int run = 0; run < 2; run++) {
		struct learner l;

		learner_open(&l, models[_i], 5);
		for (size_t i = 0; i < 5; i++)
			losses[run][i] = learn(&l, i);
		learner_close(&l);
	}
	ck_assert_mem_eq(losses[0], losses[1], sizeof(losses[0]));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_learn");
	TCase *c = tcase_create("learn");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_learns, 0, 2);
	tcase_add_loop_test(c, test_repeats, 0, 2);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
