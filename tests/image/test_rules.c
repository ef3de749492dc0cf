/* Optimizer, loss, sampler: rules that can be written down as numbers. */
#include "examples/image/loss.h"
#include "examples/image/optim.h"
#include "examples/image/rng.h"
#include "examples/image/sampler.h"
#include "support/suite.h"

#include <math.h>
#include <string.h>

/* p = 1, gradient 0.5 twice, worked out by hand from PyTorch's rule for SGD. */
struct sgd_vector {
	double momentum, decay;
	bool nesterov;
	double after[2];
};

static const struct sgd_vector sgd_vectors[] = {
	{0.0, 0.0, false, {0.95, 0.90}},
	{0.0, 0.1, false, {0.94, 0.8806}},
	{0.9, 0.0, false, {0.95, 0.855}},
	{0.9, 0.1, false, {0.94, 0.8266}},
	{0.9, 0.0, true, {0.905, 0.7695}},
	{0.9, 0.1, true, {0.886, 0.725566}},
};

START_TEST(test_sgd)
{
	const struct sgd_vector *v = &sgd_vectors[_i];
	struct psgd_config_training training = {
		.momentum = v->momentum, .weight_decay = v->decay, .nesterov = v->nesterov};
	float params[19], grads[19], buffer[19] = {0};

	for (int i = 0; i < 19; i++) {
		params[i] = 1.0f;
		grads[i] = 0.5f;
	}
	for (int step = 0; step < 2; step++) {
		optim_step(&training, 0.1, params, grads, buffer, 18);
		for (int i = 0; i < 18; i++)
			ck_assert_double_eq_tol(params[i], v->after[step], 2e-7);
	}
	ck_assert(params[18] == 1.0f && buffer[18] == 0.0f && grads[0] == 0.5f);
}
END_TEST

START_TEST(test_loss_values)
{
	/* Row 0: all alike, loss log 3. Row 1: sure and right. Row 2: sure and wrong. */
	float scores[9] = {5, 5, 5, 0, 1000, 0, -1000, 0, 1}, diff[9];
	const uint16_t labels[3] = {0, 1, 0};
	struct loss loss = {0};
	double e = exp(1.0);

	loss_add(&loss, scores, labels, 3, 3, diff);
	ck_assert_double_eq_tol(loss.sum, log(3.0) + 0.0 + (1000.0 + log(1.0 + e)), 1e-4);
	ck_assert_uint_eq(loss.samples, 3);
	ck_assert_uint_eq(loss.correct, 2);
	ck_assert_float_eq_tol(diff[0], -2.0f / 9.0f, 1e-7f);
	ck_assert_float_eq_tol(diff[1], 1.0f / 9.0f, 1e-7f);
	ck_assert_float_eq_tol(diff[4], 0.0f, 1e-7f);
	ck_assert_float_eq_tol(diff[6], -1.0f / 3.0f, 1e-7f);
	ck_assert_float_eq_tol(diff[8], (float)(e / (1.0 + e)) / 3.0f, 1e-7f);
	loss_add(&loss, scores, labels, 1, 3, NULL);
	ck_assert_uint_eq(loss.samples, 4);
}
END_TEST

/* The gradient is that of the mean loss, also when it replaces the scores. */
START_TEST(test_loss_gradient)
{
	enum { N = 4, CLASSES = 7 };
	float scores[N * CLASSES], diff[N * CLASSES];
	uint16_t labels[N] = {6, 0, 3, 3};
	const float step = 0x1p-10f;

	for (size_t i = 0; i < N * CLASSES; i++)
		scores[i] = rng_symmetric(1, i);
	loss_add(&(struct loss){0}, scores, labels, N, CLASSES, diff);
	for (size_t i = 0; i < N * CLASSES; i++) {
		struct loss up = {0}, down = {0};
		float kept = scores[i];

		scores[i] = kept + step;
		loss_add(&up, scores, labels, N, CLASSES, NULL);
		scores[i] = kept - step;
		loss_add(&down, scores, labels, N, CLASSES, NULL);
		scores[i] = kept;
		ck_assert_double_eq_tol(diff[i], (up.sum - down.sum) / (2.0 * step) / N, 1e-6);
	}
	loss_add(&(struct loss){0}, scores, labels, N, CLASSES, scores);
	ck_assert_mem_eq(scores, diff, sizeof(diff));
}
END_TEST

START_TEST(test_loss_nan)
{
	float scores[3] = {NAN, 0, 0}, diff[3];
	const uint16_t label = 1;
	struct loss loss = {0};

	loss_add(&loss, scores, &label, 1, 3, diff);
	ck_assert(isnan(loss.sum) && isnan(diff[1]));
}
END_TEST

enum { SAMPLES = 1003 };

/* How often each sample occurs in an epoch of all workers; returns the iterations. */
static size_t count_epoch(
	uint32_t n_workers, size_t batch, uint64_t seed, uint64_t epoch, unsigned char *seen)
{
	struct image_error error;
	size_t iterations = 0;

	memset(seen, 0, SAMPLES);
	for (uint32_t w = 0; w < n_workers; w++) {
		struct sampler sampler;
		uint32_t indices[SAMPLES];

		ck_assert_int_eq(sampler_init(&sampler, SAMPLES, batch, w, n_workers, seed, &error),
			PSGD_OK);
		sampler_start(&sampler, epoch);
		for (size_t i = 0; i < sampler.iterations; i++) {
			sampler_batch(&sampler, i, indices);
			for (size_t j = 0; j < batch; j++) {
				ck_assert_uint_lt(indices[j], SAMPLES);
				seen[indices[j]]++;
			}
		}
		iterations = sampler.iterations;
		sampler_finish(&sampler);
	}
	return iterations;
}

START_TEST(test_sampler_partition)
{
	uint32_t n_workers = (uint32_t)_i;
	unsigned char seen[SAMPLES];

	for (size_t batch = 1; batch <= SAMPLES / n_workers; batch = batch * 3 + 1) {
		size_t iterations = count_epoch(n_workers, batch, 5, 2, seen), used = 0;

		ck_assert_uint_eq(iterations, SAMPLES / n_workers / batch);
		for (size_t i = 0; i < SAMPLES; i++) {
			ck_assert_uint_le(seen[i], 1);
			used += seen[i];
		}
		ck_assert_uint_eq(used, iterations * batch * n_workers);
	}
}
END_TEST

/* One worker with a batch of 12 takes, step by step, what three take with 4. */
START_TEST(test_sampler_union)
{
	struct image_error error;
	struct sampler one, part[3];

	ck_assert_int_eq(sampler_init(&one, SAMPLES, 12, 0, 1, 9, &error), PSGD_OK);
	sampler_start(&one, 4);
	for (uint32_t w = 0; w < 3; w++) {
		ck_assert_int_eq(sampler_init(&part[w], SAMPLES, 4, w, 3, 9, &error), PSGD_OK);
		sampler_start(&part[w], 4);
		ck_assert_uint_eq(part[w].iterations, one.iterations);
	}
	for (size_t i = 0; i < one.iterations; i++) {
		uint32_t all[12], own[4];
		unsigned char in[SAMPLES] = {0};

		sampler_batch(&one, i, all);
		for (size_t j = 0; j < 12; j++)
			in[all[j]] = 1;
		for (uint32_t w = 0; w < 3; w++) {
			sampler_batch(&part[w], i, own);
			for (size_t j = 0; j < 4; j++) {
				ck_assert_uint_eq(in[own[j]], 1);
				in[own[j]] = 0;
			}
		}
	}
	for (uint32_t w = 0; w < 3; w++)
		sampler_finish(&part[w]);
	sampler_finish(&one);
}
END_TEST

static uint32_t first_of(uint64_t seed, uint64_t epoch, uint32_t *indices)
{
	struct image_error error;
	struct sampler sampler;

	ck_assert_int_eq(sampler_init(&sampler, SAMPLES, 64, 0, 1, seed, &error), PSGD_OK);
	sampler_start(&sampler, epoch);
	sampler_batch(&sampler, 0, indices);
	sampler_finish(&sampler);
	return indices[0];
}

START_TEST(test_sampler_seeds)
{
	uint32_t a[64], b[64];

	(void)first_of(1, 0, a);
	(void)first_of(1, 0, b);
	ck_assert_mem_eq(a, b, sizeof(a));
	(void)first_of(1, 1, b);
	ck_assert_mem_ne(a, b, sizeof(a));
	(void)first_of(2, 0, b);
	ck_assert_mem_ne(a, b, sizeof(a));
}
END_TEST

START_TEST(test_sampler_too_few)
{
	struct image_error error;
	struct sampler sampler;

	ck_assert_int_eq(sampler_init(&sampler, 100, 51, 0, 2, 1, &error), PSGD_ERR_CONFIG);
	ck_assert_str_eq(error.text,
		"dataset.batch_size 51 is more than the 50 samples that each of 2 workers has "
		"(100 training samples)");
	sampler_finish(&sampler);
	ck_assert_int_eq(sampler_init(&sampler, 100, 50, 1, 2, 1, &error), PSGD_OK);
	ck_assert_uint_eq(sampler.iterations, 1);
	sampler_finish(&sampler);
}
END_TEST

/* Every value of a small range occurs as often as it should, within six deviations. */
START_TEST(test_rng_uniform)
{
	enum { BOUND = 10, DRAWS = 100000 };
	unsigned counts[BOUND] = {0};
	uint64_t key = rng_key(42, RNG_SHUFFLE, 0);
	double mean = DRAWS / (double)BOUND;

	for (uint64_t i = 0; i < DRAWS; i++)
		counts[rng_below(key, i, BOUND)]++;
	for (int i = 0; i < BOUND; i++)
		ck_assert_double_le(fabs(counts[i] - mean), 6.0 * sqrt(mean));
	for (uint64_t i = 0; i < DRAWS; i++) {
		float value = rng_symmetric(key, i);

		ck_assert(value >= -1.0f && value < 1.0f);
	}
	ck_assert_uint_ne(rng_key(1, RNG_SHUFFLE, 0), rng_key(1, RNG_PARAMETERS, 0));
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static Suite *suite(void)
{
	Suite *s = suite_create("image_rules");
	TCase *c = tcase_create("rules");

	tcase_add_loop_test(c, test_sgd, 0, COUNT(sgd_vectors));
	tcase_add_test(c, test_loss_values);
	tcase_add_test(c, test_loss_gradient);
	tcase_add_test(c, test_loss_nan);
	tcase_add_loop_test(c, test_sampler_partition, 1, 6);
	tcase_add_test(c, test_sampler_union);
	tcase_add_test(c, test_sampler_seeds);
	tcase_add_test(c, test_sampler_too_few);
	tcase_add_test(c, test_rng_uniform);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
