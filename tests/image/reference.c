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

static double conv_at(const struct view *in, const double *w, const struct nn_window *window,
	size_t n, size_t y, size_t x, size_t o)
{
	size_t height = (size_t)window->height, width = (size_t)window->width;
	size_t stride = (size_t)window->stride, padding = (size_t)window->padding;
	double sum = 0.0;

	for (size_t dy = 0; dy < height; dy++)
		for (size_t dx = 0; dx < width; dx++) {
			/* Outside: huge, or too large. */
			size_t sy = y * stride + dy - padding, sx = x * stride + dx - padding;

			if (sy >= in->h || sx >= in->w)
				continue;
			for (size_t i = 0; i < in->c; i++)
				sum += w[((o * in->c + i) * height + dy) * width + dx] *
				       pixel(in, n, sy, sx)[i];
		}
	return sum;
}

static void conv(const struct view *in, const struct view *out, const double *w,
	const struct nn_window *window)
{
	for (size_t n = 0; n < out->n; n++)
		for (size_t y = 0; y < out->h; y++)
			for (size_t x = 0; x < out->w; x++)
				for (size_t o = 0; o < out->c; o++)
					pixel(out, n, y, x)[o] = conv_at(in, w, window, n, y, x, o);
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

static double pool_at(const struct view *in, const struct nn_window *window, bool average, size_t n,
	size_t y, size_t x, size_t c)
{
	size_t height = (size_t)window->height, width = (size_t)window->width;
	size_t stride = (size_t)window->stride, padding = (size_t)window->padding;
	double largest = -INFINITY, sum = 0.0, count = 0.0;

	for (size_t dy = 0; dy < height; dy++)
		for (size_t dx = 0; dx < width; dx++) {
			size_t sy = y * stride + dy - padding, sx = x * stride + dx - padding;

			if (sy >= in->h || sx >= in->w)
				continue;
			largest = fmax(largest, pixel(in, n, sy, sx)[c]);
			sum += pixel(in, n, sy, sx)[c];
			count += 1.0;
		}
	return average ? sum / count : largest;
}

static void pool(const struct view *in, const struct view *out, const struct net_layer *layer)
{
	for (size_t n = 0; n < out->n; n++)
		for (size_t y = 0; y < out->h; y++)
			for (size_t x = 0; x < out->w; x++)
				for (size_t c = 0; c < out->c; c++)
					pixel(out, n, y, x)[c] = pool_at(
						in, &layer->window, layer->average, n, y, x, c);
}

static size_t view_values(const struct view *v)
{
	return v->n * v->c * v->h * v->w;
}

static void relu(const struct view *v)
{
	for (size_t i = 0; i < view_values(v); i++)
		v->at[i] = fmax(v->at[i], 0.0);
}

static void run_layer(const struct net *net, const struct net_layer *layer, const double *params,
	const float *running, const struct view *values, const struct view *out)
{
	const struct net_tensor *tensor = &net->tensor[layer->first_tensor];
	const struct view *in = &values[layer->from[0]];

	if (layer->kind == &layer_dense) {
		dense(in, out, params + tensor[0].offset, params + tensor[1].offset);
	} else if (layer->kind == &layer_conv) {
		conv(in, out, params + tensor[0].offset, &layer->window);
	} else if (layer->kind == &layer_norm) {
		norm(in, out, params + tensor[0].offset, params + tensor[1].offset,
			running ? running + layer->running : NULL);
		if (layer->relu)
			relu(out);
	} else if (layer->kind == &layer_pool) {
		pool(in, out, layer);
	} else {
		for (size_t k = 0; k < layer->n_from; k++)
			for (size_t i = 0; i < view_values(out); i++)
				out->at[i] += values[layer->from[k]].at[i];
		relu(out);
	}
}

double *reference_forward(const struct net *net, const double *params, const float *images,
	size_t batch, const float *running)
{
	struct view *values = calloc(net->n_layers + 1, sizeof(*values));
	double *result;

	values[0] = view_new(batch, &net->in);
	for (size_t i = 0; i < view_values(&values[0]); i++)
		values[0].at[i] = images[i];
	for (size_t l = 0; l < net->n_layers; l++) {
		values[l + 1] = view_new(batch, &net->layer[l].out);
		run_layer(net, &net->layer[l], params, running, values, &values[l + 1]);
	}
	for (size_t l = 0; l < net->n_layers; l++)
		free(values[l].at);
	result = values[net->n_layers].at;
	free(values);
	return result;
}
