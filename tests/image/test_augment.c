/* Crop and mirror: the law of a single image, how the draws spread, and who gets which. */
#include "examples/image/augment.h"
#include "examples/image/data.h"
#include "examples/image/sampler.h"
#include "support/suite.h"

#include <math.h>
#include <string.h>

#define PAD AUGMENT_PADDING
#define SHIFTS (2 * PAD + 1)
#define MAX_SIDE 40
#define MAX_VALUES ((size_t)MAX_SIDE * MAX_SIDE * 3)

static const struct image_shape shapes[] = {
	{32, 32, 3}, {28, 28, 1}, {4, 6, 1}, {3, 5, 3}, {1, 1, 3}, {7, 4, 3}};

/* Two samples of pixels that hardly repeat. */
struct sample {
	struct data data;
	uint8_t pixels[2 * MAX_VALUES], labels[2];
};

static void sample_fill(struct sample *s, const struct image_shape *shape)
{
	s->data = (struct data){.shape = *shape,
		.train = {s->pixels, s->labels, 2},
		.scale = {0.5f, 0.25f, 2.0f},
		.shift = {-1.0f, 3.0f, -7.0f}};
	for (size_t i = 0; i < 2 * MAX_VALUES; i++)
		s->pixels[i] = (uint8_t)(1 + i * i * 31 % 251);
	s->labels[0] = 3;
	s->labels[1] = 9;
}

/* By the definition: the padded image is made, cut, mirrored, normalised. */
static void expected_image(
	const struct sample *s, size_t index, int rows, int cols, bool mirror, float *out)
{
	static uint8_t padded[MAX_SIDE + 2 * PAD][MAX_SIDE + 2 * PAD][3];
	const struct image_shape *shape = &s->data.shape;
	const uint8_t *from = s->pixels + index * image_values(shape);

	memset(padded, 0, sizeof(padded));
	for (size_t r = 0; r < shape->rows; r++)
		for (size_t x = 0; x < shape->cols; x++)
			memcpy(padded[r + PAD][x + PAD],
				from + (r * shape->cols + x) * shape->channels, shape->channels);
	for (size_t r = 0; r < shape->rows; r++)
		for (size_t x = 0; x < shape->cols; x++) {
			size_t cut = mirror ? shape->cols - 1 - x : x;
			const uint8_t *pixel =
				padded[r + (size_t)(rows + PAD)][cut + (size_t)(cols + PAD)];

			for (size_t c = 0; c < shape->channels; c++)
				*out++ = (float)pixel[c] * s->data.scale[c] + s->data.shift[c];
		}
}

START_TEST(test_law)
{
	static float expected[MAX_VALUES], got[2 * MAX_VALUES];
	static struct sample s;
	size_t values = image_values(&shapes[_i]);
	uint16_t labels[2];

	sample_fill(&s, &shapes[_i]);
	for (int rows = -PAD; rows <= PAD; rows++)
		for (int cols = -PAD; cols <= PAD; cols++)
			for (int mirror = 0; mirror < 2; mirror++) {
				const struct augment changes[2] = {{0}, {rows, cols, mirror == 1}};
				const uint32_t picked[2] = {0, 1};

				data_gather(
					&s.data, &s.data.train, picked, changes, 2, got, labels);
				expected_image(&s, 0, 0, 0, false, expected);
				ck_assert_mem_eq(got, expected, values * sizeof(float));
				expected_image(&s, 1, rows, cols, mirror == 1, expected);
				ck_assert_msg(
					memcmp(got + values, expected, values * sizeof(float)) == 0,
					"rows %d cols %d mirror %d", rows, cols, mirror);
				ck_assert(labels[0] == 3 && labels[1] == 9);
			}
}
END_TEST

START_TEST(test_without)
{
	static float plain[MAX_VALUES], expected[MAX_VALUES];
	static struct sample s;
	uint16_t label;

	sample_fill(&s, &shapes[_i]);
	data_gather(&s.data, &s.data.train, &(uint32_t){1}, NULL, 1, plain, &label);
	expected_image(&s, 1, 0, 0, false, expected);
	ck_assert_mem_eq(plain, expected, image_values(&shapes[_i]) * sizeof(float));
}
END_TEST

/*
 * All 9 x 9 x 2 outcomes alike: chi square of 161 degrees of freedom has mean 161 and deviation
 * 18, so 270 is six deviations away. Neighbours in position or epoch must not go together either.
 */
START_TEST(test_uniform)
{
	const unsigned per_cell = 400;
	const size_t n_cells = SHIFTS * SHIFTS * 2;
	size_t n = per_cell * n_cells, seen[SHIFTS * SHIFTS * 2] = {0};
	uint64_t key = augment_key(42, 3);
	double chi = 0.0, together[3] = {0};
	struct augment before = {0};

	for (size_t i = 0; i < n; i++) {
		struct augment a = augment_draw(key, i);

		ck_assert(a.rows >= -PAD && a.rows <= PAD && a.cols >= -PAD && a.cols <= PAD);
		seen[((a.rows + PAD) * SHIFTS + a.cols + PAD) * 2 + a.mirror]++;
		together[0] += a.rows * before.rows;
		together[1] += a.cols * before.rows;
		together[2] += a.cols * augment_draw(augment_key(42, 4), i).cols;
		before = a;
	}
	for (size_t i = 0; i < n_cells; i++)
		chi += pow((double)seen[i] - per_cell, 2) / per_cell;
	ck_assert_msg(chi < 270.0, "chi square is %.0f", chi);
	/* The variance of a shift is 20 / 3. */
	for (size_t i = 0; i < 3; i++)
		ck_assert_double_lt(
			fabs(together[i]) / ((double)n * 20.0 / 3.0), 6.0 / sqrt((double)n));
}
END_TEST

#define SAMPLES 240
#define GLOBAL_BATCH 24

/* What is done to each sample in each step of an epoch; packed into a word. */
static void changes_of(uint32_t n_workers, uint32_t out[SAMPLES / GLOBAL_BATCH][SAMPLES])
{
	size_t batch = GLOBAL_BATCH / n_workers;
	uint64_t key = augment_key(5, 2);
	uint32_t indices[GLOBAL_BATCH];
	struct image_error error;

	memset(out, 0, sizeof(uint32_t) * SAMPLES * (SAMPLES / GLOBAL_BATCH));
	/* From the last worker and the last step: order must not matter. */
	for (uint32_t w = n_workers; w-- > 0;) {
		struct sampler s;

		ck_assert_int_eq(
			sampler_init(&s, SAMPLES, batch, w, n_workers, 5, &error), PSGD_OK);
		sampler_start(&s, 2);
		for (size_t step = s.iterations; step-- > 0;) {
			sampler_batch(&s, step, indices);
			for (size_t i = batch; i-- > 0;) {
				struct augment a = augment_draw(key, sampler_position(&s, step, i));

				ck_assert_uint_eq(out[step][indices[i]], 0);
				out[step][indices[i]] =
					1 +
					(uint32_t)(((a.rows + PAD) * SHIFTS + a.cols + PAD) * 2 +
						   a.mirror);
			}
		}
		sampler_finish(&s);
	}
}

START_TEST(test_any_number_of_workers)
{
	static uint32_t one[SAMPLES / GLOBAL_BATCH][SAMPLES], more[SAMPLES / GLOBAL_BATCH][SAMPLES];
	size_t distinct = 0;

	changes_of(1, one);
	for (uint32_t n_workers = 2; n_workers <= 4; n_workers++) {
		changes_of(n_workers, more);
		ck_assert_mem_eq(one, more, sizeof(one));
	}
	for (size_t i = 1; i < SAMPLES; i++)
		distinct += one[0][i] != one[0][i - 1];
	ck_assert_uint_gt(distinct, GLOBAL_BATCH / 2);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_augment");
	TCase *c = tcase_create("augment");
	int n_shapes = (int)(sizeof(shapes) / sizeof(shapes[0]));

	tcase_add_loop_test(c, test_law, 0, n_shapes);
	tcase_add_loop_test(c, test_without, 0, n_shapes);
	tcase_add_test(c, test_uniform);
	tcase_add_test(c, test_any_number_of_workers);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
