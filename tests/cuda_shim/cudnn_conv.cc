/* Convolutions by matrix products of one image at a time. */
#include "cudnn_conv.h"

#include <string.h>

#include <vector>

namespace
{
/* Calls each(row, place, pixel) for all that lies in the image; pixel: of the image. */
template <class F> void windows(const conv_shape &s, F each)
{
	size_t row = 0;

	for (int c = 0; c < s.w.c; c++)
		for (int a = 0; a < s.w.h; a++)
			for (int b = 0; b < s.w.w; b++, row++)
				for (int i = 0; i < s.y.h; i++) {
					int h = i * s.conv.stride_h - s.conv.padding_h + a;
					size_t place = (size_t)i * (size_t)s.y.w;

					if (h < 0 || h >= s.x.h)
						continue;
					for (int j = 0; j < s.y.w; j++) {
						int w = j * s.conv.stride_w - s.conv.padding_w + b;

						if (w >= 0 && w < s.x.w)
							each(row, place + (size_t)j,
								(size_t)((c * s.x.h + h) * s.x.w +
									 w));
					}
				}
}

void gather(const conv_shape &s, const float *image, float *rows)
{
	memset(rows, 0, s.windows());
	windows(s, [&](size_t row, size_t place, size_t pixel) {
		rows[row * s.columns + place] = image[pixel];
	});
}

void scatter(const conv_shape &s, const float *rows, float *image)
{
	memset(image, 0, s.image() * sizeof(float));
	windows(s, [&](size_t row, size_t place, size_t pixel) {
		image[pixel] += rows[row * s.columns + place];
	});
}

/* c (m x n) = a (m x k) b (k x n); a's values are `row` and `column` apart. */
void multiply(float *c, const float *a, size_t row, size_t column, const float *b, size_t m,
	size_t k, size_t n)
{
	memset(c, 0, m * n * sizeof(float));
	for (size_t i = 0; i < m; i++) {
		float *__restrict out = c + i * n;
		size_t l = 0;

		for (; l + 4 <= k; l += 4) {
			const float *from = a + i * row + l * column;
			const float *__restrict b0 = b + l * n, *__restrict b1 = b0 + n;
			const float *__restrict b2 = b1 + n, *__restrict b3 = b2 + n;
			float a0 = from[0], a1 = from[column], a2 = from[2 * column];
			float a3 = from[3 * column];

			for (size_t j = 0; j < n; j++)
				out[j] += (a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
		}
		for (; l < k; l++) {
			const float *__restrict b0 = b + l * n;
			float a0 = a[i * row + l * column];

			for (size_t j = 0; j < n; j++)
				out[j] += a0 * b0[j];
		}
	}
}

typedef float lanes __attribute__((vector_size(32), aligned(4)));

double dot(const float *a, const float *b, size_t n)
{
	lanes sum = {};
	double all = 0.0;
	size_t i = 0;

	for (; i + 8 <= n; i += 8)
		sum += *reinterpret_cast<const lanes *>(a + i) *
		       *reinterpret_cast<const lanes *>(b + i);
	for (size_t k = 0; k < 8; k++)
		all += (double)sum[k];
	for (; i < n; i++)
		all += (double)a[i] * (double)b[i];
	return all;
}

} /* namespace */

void conv_forward(const conv_shape &s, const float *x, const float *w, float *y, float *rows)
{
	for (int i = 0; i < s.x.n; i++) {
		gather(s, x + (size_t)i * s.image(), rows);
		multiply(y + (size_t)i * s.result(), w, s.rows, 1, rows, (size_t)s.y.c, s.rows,
			s.columns);
	}
}

void conv_backward_data(
	const conv_shape &s, const float *w, const float *dy, float *dx, float *rows)
{
	for (int i = 0; i < s.x.n; i++) {
		multiply(rows, w, 1, s.rows, dy + (size_t)i * s.result(), s.rows, (size_t)s.y.c,
			s.columns);
		scatter(s, rows, dx + (size_t)i * s.image());
	}
}

void conv_backward_filter(
	const conv_shape &s, const float *x, const float *dy, float *dw, float *rows)
{
	std::vector<double> sums(s.weights());

	for (int i = 0; i < s.x.n; i++) {
		const float *gradient = dy + (size_t)i * s.result();

		gather(s, x + (size_t)i * s.image(), rows);
		for (size_t k = 0; k < (size_t)s.w.k; k++)
			for (size_t r = 0; r < s.rows; r++)
				sums[k * s.rows + r] += dot(
					gradient + k * s.columns, rows + r * s.columns, s.columns);
	}
	for (size_t i = 0; i < sums.size(); i++)
		dw[i] = (float)sums[i];
}
