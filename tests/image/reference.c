/* A net in float64, by definition rather than by speed. */
#include "reference.h"

#include <math.h>
#include <stdlib.h>

#include "examples/image/layers.h"

struct view {
	size_t n, c, h, w;
	double *at;
};

static struct view view_new(size_t n, const struct nn_shape *s)
{
	struct view v = {n, (size_t)s->c, (size_t)s->h, (size_t)s->w, NULL};

	v.at = calloc(v.n * v.c * v.h * v.w, sizeof(double));
	return v;
}

static double *pixel(const struct view *v, size_t n, size_t y, size_t x)
{
	return v->at + ((n * v->h + y) * v->w + x) * v->c;
}

static void dense(const struct view *in, const struct view *out, const double *w, const double *b)
{
	size_t features = in->c * in->h * in->w;

	for (size_t n = 0; n < in->n; n++)
		for (size_t o = 0; o < out->c; o++) {
			double sum = b[o];

			for (size_t i = 0; i < features; i++)
				sum += w[o * features + i] * in->at[n * features + i];
			out->at[n * out->c + o] = sum;
		}
}

static double conv_at(
	const struct view *in, const double *w, size_t n, size_t y, size_t x, size_t o)
{
	double sum = 0.0;

	for (size_t dy = 0; dy < 3; dy++)
		for (size_t dx = 0; dx < 3; dx++) {
			size_t sy = y + dy - 1, sx = x + dx - 1; /* outside: huge, or too large */

			if (sy >= in->h || sx >= in->w)
				continue;
			for (size_t i = 0; i < in->c; i++)
				sum += w[((o * in->c + i) * 3 + dy) * 3 + dx] *
				       pixel(in, n, sy, sx)[i];
		}
	return sum;
}

static void conv(const struct view *in, const struct view *out, const double *w)
{
	for (size_t n = 0; n < in->n; n++)
		for (size_t y = 0; y < in->h; y++)
			for (size_t x = 0; x < in->w; x++)
				for (size_t o = 0; o < out->c; o++)
					pixel(out, n, y, x)[o] = conv_at(in, w, n, y, x, o);
}

static void norm(const struct view *in, const struct view *out, const double *scale,
	const double *shift, const float *running)
{
	size_t count = in->n * in->h * in->w;

	for (size_t c = 0; c < in->c; c++) {
		double mean = 0.0, variance = 0.0;

		for (size_t i = 0; i < count; i++)
			mean += in->at[i * in->c + c] / (double)count;
		for (size_t i = 0; i < count; i++)
			variance += pow(in->at[i * in->c + c] - mean, 2) / (double)count;
		if (running) {
			mean = running[c];
			variance = running[in->c + c];
		}
		for (size_t i = 0; i < count; i++)
			out->at[i * in->c + c] =
				(in->at[i * in->c + c] - mean) / sqrt(variance + 1e-5) * scale[c] +
				shift[c];
	}
}

static void pool(const struct view *in, const struct view *out)
{
	for (size_t n = 0; n < out->n; n++)
		for (size_t y = 0; y < out->h; y++)
			for (size_t x = 0; x < out->w; x++)
				for (size_t c = 0; c < out->c; c++)
					pixel(out, n, y, x)[c] = fmax(
						fmax(pixel(in, n, 2 * y, 2 * x)[c],
							pixel(in, n, 2 * y, 2 * x + 1)[c]),
						fmax(pixel(in, n, 2 * y + 1, 2 * x)[c],
							pixel(in, n, 2 * y + 1, 2 * x + 1)[c]));
}

double *reference_forward(const struct net *net, const double *params, const float *images,
	size_t batch, const float *running)
{
	struct view in = view_new(batch, &net->in);

	for (size_t i = 0; i < in.n * in.c * in.h * in.w; i++)
		in.at[i] = images[i];
	for (size_t l = 0; l < net->n_layers; l++) {
		const struct net_layer *layer = &net->layer[l];
		const struct net_tensor *tensor = &net->tensor[layer->first_tensor];
		struct view out = view_new(batch, &layer->out);

		if (layer->kind == &layer_dense)
			dense(&in, &out, params + tensor[0].offset, params + tensor[1].offset);
		else if (layer->kind == &layer_conv)
			conv(&in, &out, params + tensor[0].offset);
		else if (layer->kind == &layer_norm)
			norm(&in, &out, params + tensor[0].offset, params + tensor[1].offset,
				running ? running + layer->running : NULL);
		else if (layer->kind == &layer_pool)
			pool(&in, &out);
		else
			for (size_t i = 0; i < in.n * in.c * in.h * in.w; i++)
				out.at[i] = fmax(in.at[i], 0.0);
		free(in.at);
		in = out;
	}
	return in.at;
}
