/* Which part of a photograph is taken: bounds, shapes, how they spread, the middle. */
#include "examples/image/crop.h"
#include "support/suite.h"

#include <math.h>

static const struct {
	size_t cols, rows;
} sizes[] = {{500, 375}, {375, 500}, {224, 224}, {4000, 3000}, {64, 400}, {1, 1}, {1, 1000},
	{999, 2}, {3, 2}};

static bool equal(const struct crop *a, const struct crop *b)
{
	return a->left == b->left && a->top == b->top && a->cols == b->cols && a->rows == b->rows &&
	       a->mirror == b->mirror;
}

START_TEST(test_inside)
{
	double cols = (double)sizes[_i].cols, rows = (double)sizes[_i].rows;

	for (uint64_t i = 0; i < 20000; i++) {
		struct crop c = crop_draw(crop_key(1, i % 7), i, sizes[_i].cols, sizes[_i].rows);

		ck_assert(c.cols >= 1 && c.rows >= 1 && c.left >= 0 && c.top >= 0);
		ck_assert(c.left + c.cols <= cols && c.top + c.rows <= rows);
		ck_assert(c.left == floor(c.left) && c.cols == floor(c.cols) &&
			  c.top == floor(c.top) && c.rows == floor(c.rows));
	}
}
END_TEST

/*
 * In a square most tries fit: an area of a is drawn uniformly, and refused only where its longer
 * side, up to sqrt(a * 4 / 3), does not fit. The mean of the accepted, by an integral over both
 * draws, of which the second has a uniform logarithm.
 */
static double mean_area(double ratio_of_image)
{
	double sum = 0.0, count = 0.0;

	for (int i = 0; i < 1000; i++)
		for (int k = 0; k < 1000; k++) {
			double area = 0.08 + 0.92 * (i + 0.5) / 1000;
			double ratio = exp(log(0.75) + 2 * log(4.0 / 3.0) * (k + 0.5) / 1000);
			double cols = sqrt(area * ratio / ratio_of_image);
			double rows = sqrt(area / ratio * ratio_of_image);

			if (cols > 1 || rows > 1)
				continue;
			sum += area;
			count++;
		}
	return sum / count;
}

START_TEST(test_spread)
{
	static const struct {
		size_t cols, rows;
	} images[] = {{1000, 1000}, {1000, 750}, {600, 1000}};
	double cols = (double)images[_i].cols, rows = (double)images[_i].rows;
	const size_t n = 40000;
	double area = 0, ratio = 0, left = 0, top = 0, mirrored = 0, least = 1, most = 0;

	for (size_t i = 0; i < n; i++) {
		struct crop c = crop_draw(crop_key(5, 2), i, images[_i].cols, images[_i].rows);
		double part = c.cols * c.rows / (cols * rows);

		ck_assert(c.cols / c.rows > 0.74 && c.cols / c.rows < 1.35);
		area += part;
		least = fmin(least, part);
		most = fmax(most, part);
		ratio += log(c.cols / c.rows);
		if (c.cols < cols)
			left += c.left / (cols - c.cols);
		else
			left += 0.5;
		if (c.rows < rows)
			top += c.top / (rows - c.rows);
		else
			top += 0.5;
		mirrored += c.mirror;
	}
	ck_assert_double_eq_tol(area / (double)n, mean_area(cols / rows), 0.006);
	ck_assert(least > 0.078 && least < 0.085 && most > 0.75);
	if (cols == rows)
		ck_assert_double_eq_tol(ratio / (double)n, 0.0, 0.005);
	ck_assert_double_eq_tol(left / (double)n, 0.5, 0.01);
	ck_assert_double_eq_tol(top / (double)n, 0.5, 0.01);
	ck_assert_double_eq_tol(mirrored / (double)n, 0.5, 0.015);
}
END_TEST

/* Shapes in which hardly a try fits: the largest part in the middle. */
START_TEST(test_fall_back)
{
	struct crop c = crop_draw(crop_key(1, 1), 0, 10000, 30);

	ck_assert(c.cols == 40 && c.rows == 30 && c.left == 4980 && c.top == 0);
	c = crop_draw(crop_key(1, 1), 0, 30, 10000);
	ck_assert(c.cols == 30 && c.rows == 40 && c.left == 0 && c.top == 4980);
	c = crop_draw(crop_key(1, 1), 0, 1, 1);
	ck_assert(c.cols == 1 && c.rows == 1 && c.left == 0 && c.top == 0);
}
END_TEST

/* A function of (seed, epoch, position): the same again, others elsewhere. */
START_TEST(test_counter)
{
	size_t alike[3] = {0};

	for (uint64_t i = 0; i < 1000; i++) {
		struct crop c = crop_draw(crop_key(9, 4), i, 500, 375), other;

		other = crop_draw(crop_key(9, 4), i, 500, 375);
		ck_assert(equal(&c, &other));
		other = crop_draw(crop_key(9, 4), i + 1, 500, 375);
		alike[0] += equal(&c, &other);
		other = crop_draw(crop_key(9, 5), i, 500, 375);
		alike[1] += equal(&c, &other);
		other = crop_draw(crop_key(10, 4), i, 500, 375);
		alike[2] += equal(&c, &other);
	}
	for (size_t i = 0; i < 3; i++)
		ck_assert_uint_le(alike[i], 2);
}
END_TEST

/* By hand: the short side becomes 256 (of 224), the long side and the margin whole pixels. */
START_TEST(test_middle)
{
	static const struct {
		size_t size, cols, rows;
		double wide, high, left, top; /* scaled image, margin */
	} cases[] = {
		{224, 500, 375, 341, 256, 58, 16}, /* 500 * 256 / 375 = 341.3; 58.5 to even */
		{224, 375, 500, 256, 341, 16, 58},
		{224, 256, 256, 256, 256, 16, 16},
		{112, 100, 100, 128, 128, 8, 8},
		{64, 200, 73, 200, 73, 68, 4}, /* 4.5 to even */
		{8, 1, 1, 9, 9, 0, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct crop c = crop_middle(cases[i].size, cases[i].cols, cases[i].rows);
		double across = (double)cases[i].cols / cases[i].wide;
		double down = (double)cases[i].rows / cases[i].high;

		ck_assert_double_eq_tol(c.left, cases[i].left * across, 1e-9);
		ck_assert_double_eq_tol(c.top, cases[i].top * down, 1e-9);
		ck_assert_double_eq_tol(c.cols, (double)cases[i].size * across, 1e-9);
		ck_assert_double_eq_tol(c.rows, (double)cases[i].size * down, 1e-9);
		ck_assert(!c.mirror);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("image_crop");
	TCase *c = tcase_create("crop");

	tcase_add_loop_test(c, test_inside, 0, (int)(sizeof(sizes) / sizeof(sizes[0])));
	tcase_add_loop_test(c, test_spread, 0, 3);
	tcase_add_test(c, test_fall_back);
	tcase_add_test(c, test_counter);
	tcase_add_test(c, test_middle);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
