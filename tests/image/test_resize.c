/* Resizing against the definition in double precision, in one step over both directions. */
#include "examples/image/resize.h"
#include "support/suite.h"

#include <math.h>
#include <string.h>

#define MOST 200

static uint8_t pixels[MOST * MOST * 3], got[MOST * MOST * 3], other[MOST * MOST * 3];

static void fill(size_t cols, size_t rows)
{
	for (size_t i = 0; i < cols * rows * 3; i++)
		pixels[i] = (uint8_t)((i * i * 31 + i / 7) % 256);
}

/* The triangle's weight of pixel k for a place, which reaches `reach` pixels. */
static double weight(double k, double place, double reach)
{
	double distance = fabs(k + 0.5 - place) / reach;

	return distance < 1.0 ? 1.0 - distance : 0.0;
}

static double expected(const struct picture *picture, const struct crop *part,
	const struct crop *within, size_t size, size_t x, size_t y, size_t c)
{
	double across = part->cols / (double)size, down = part->rows / (double)size;
	double px = part->left + ((double)x + 0.5) * across;
	double py = part->top + ((double)y + 0.5) * down, sum = 0.0, total = 0.0;

	for (size_t r = 0; r < picture->rows; r++)
		for (size_t k = 0; k < picture->cols; k++) {
			bool taken = (double)k + 1 > within->left && (double)r + 1 > within->top &&
				     (double)k < within->left + within->cols &&
				     (double)r < within->top + within->rows;
			double w = taken ? weight((double)k, px, fmax(across, 1.0)) *
						   weight((double)r, py, fmax(down, 1.0))
					 : 0.0;

			total += w;
			sum += w * picture->pixels[(r * picture->cols + k) * 3 + c];
		}
	return sum / total;
}

static const struct {
	size_t cols, rows, size;
	struct crop part;
	bool whole; /* what lies around the part counts */
} cases[] = {
	{30, 20, 8, {0, 0, 30, 20, false}, false},
	{30, 20, 8, {3, 2, 21, 15, false}, false},
	{30, 20, 8, {3, 2, 21, 15, true}, false},
	{30, 20, 8, {3, 2, 21, 15, false}, true},
	{30, 20, 24, {5, 7, 12, 9, true}, false},
	{5, 7, 16, {0, 0, 5, 7, false}, false},
	{1, 1, 8, {0, 0, 1, 1, true}, false},
	{1, 40, 8, {0, 3, 1, 1, false}, true},
	{40, 33, 9, {4.25, 3.5, 20.125, 18.375, false}, false},
	{40, 33, 9, {4.25, 3.5, 20.125, 18.375, true}, true},
	{40, 33, 17, {30.5, 25.25, 9.5, 7.75, false}, false},
};

/* Within a rounding to a byte; sums in single precision may fall on the other side of a half. */
START_TEST(test_oracle)
{
	const struct crop *part = &cases[_i].part;
	struct picture picture = {pixels, cases[_i].cols, cases[_i].rows};
	struct crop within = cases[_i].whole ? (struct crop){0, 0, (double)picture.cols,
						       (double)picture.rows, false}
					     : *part;
	size_t size = cases[_i].size;
	struct resizer resizer = {0};

	fill(picture.cols, picture.rows);
	ck_assert_int_eq(resize(&resizer, &picture, part, &within, size, got), PSGD_OK);
	for (size_t y = 0; y < size; y++)
		for (size_t x = 0; x < size; x++)
			for (size_t c = 0; c < 3; c++) {
				size_t to = part->mirror ? size - 1 - x : x;
				double want = expected(&picture, part, &within, size, x, y, c);

				ck_assert_double_le(
					fabs(got[(y * size + to) * 3 + c] - want), 0.5001);
			}
	resizer_finish(&resizer);
}
END_TEST

/* At its own size an image is what it was, to the bit; of one colour it stays of that. */
START_TEST(test_exact)
{
	struct picture picture = {pixels, 50, 50};
	struct crop whole = {0, 0, 50, 50, false};
	struct resizer resizer = {0};

	fill(50, 50);
	ck_assert_int_eq(resize(&resizer, &picture, &whole, &whole, 50, got), PSGD_OK);
	ck_assert_mem_eq(got, pixels, 50 * 50 * 3);
	resizer_finish(&resizer);
	for (int shade = 0; shade < 256; shade += 51) {
		struct crop part = {3.5, 1, 31.25, 47, false};

		memset(pixels, shade, 50 * 50 * 3);
		ck_assert_int_eq(resize(&resizer, &picture, &part, &part, 33, got), PSGD_OK);
		for (size_t i = 0; i < 33 * 33 * 3; i++)
			ck_assert_int_eq(got[i], shade);
	}
	resizer_finish(&resizer);
}
END_TEST

/* Memory that is left from other pictures makes no difference. */
START_TEST(test_reused)
{
	struct resizer used = {0};

	for (size_t i = 0; i < 40; i++) {
		struct picture picture = {pixels, 20 + i * 37 % 150, 20 + i * 53 % 170};
		struct crop part = {(double)(i % 5), (double)(i % 3), 15, 14, i % 2 == 0};
		struct resizer fresh = {0};

		fill(picture.cols, picture.rows);
		if (i % 4 == 0)
			part = (struct crop){
				0, 0, (double)picture.cols, (double)picture.rows, false};
		ck_assert_int_eq(resize(&used, &picture, &part, &part, 21, got), PSGD_OK);
		ck_assert_int_eq(resize(&fresh, &picture, &part, &part, 21, other), PSGD_OK);
		ck_assert_mem_eq(got, other, 21 * 21 * 3);
		resizer_finish(&fresh);
	}
	resizer_finish(&used);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_resize");
	TCase *c = tcase_create("resize");

	tcase_add_loop_test(c, test_oracle, 0, (int)(sizeof(cases) / sizeof(cases[0])));
	tcase_add_test(c, test_exact);
	tcase_add_test(c, test_reused);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
