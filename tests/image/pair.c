/* The same net on this processor and on the CUDA engine, for comparison. */
#include "pair.h"

#include <check.h>
#include <math.h>
#include <shim.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/image/cuda_open.h"
#include "examples/image/models.h"
#include "examples/image/rng.h"

#define BATCH 5
#define TOLERANCE 1e-4 /* relative, of a whole tensor */

struct nn *pair_cpu, *pair_cuda;
struct image_error pair_error;
static size_t leaks;

void pair_setup(void)
{
	shim_reset();
	leaks = shim_leaks();
	ck_assert_int_eq(nn_open(1, &pair_cpu, &pair_error), PSGD_OK);
	ck_assert_msg(
		cuda_open(0, "none", &pair_cuda, &pair_error) == PSGD_OK, "%s", pair_error.text);
}

void pair_teardown(void)
{
	nn_close(&pair_cpu);
	nn_close(&pair_cuda);
	ck_assert_uint_eq(shim_leaks(), leaks);
	/* What nobody has waited for finds out that its memory is gone. */
	shim_reset();
}

void pair_noise(float *out, size_t n, uint64_t item)
{
	for (size_t i = 0; i < n; i++)
		out[i] = rng_symmetric(rng_key(7, RNG_SYNTHETIC, item), i);
}

float *pair_values(struct nn *nn, const float *values, size_t n)
{
	float *out = calloc(n + 1, sizeof(*out));

	ck_assert_int_eq(nn_download(nn, out, values, n, &pair_error), PSGD_OK);
	return out;
}

void pair_check_close(
	const float *got, const float *expected, size_t n, double tolerance, const char *what)
{
	double wrong = 0.0, size = 0.0;

	for (size_t i = 0; i < n; i++) {
		wrong += pow((double)got[i] - (double)expected[i], 2);
		size += pow((double)expected[i], 2);
	}
	ck_assert_msg(sqrt(wrong) <= tolerance * sqrt(size) + 1e-9, "%s: off by %g of %g", what,
		sqrt(wrong), sqrt(size));
}

static void stir(struct pair *p)
{
	for (size_t i = 0; i < p->cpu.n_tensors; i++) {
		const struct net_tensor *tensor = &p->cpu.tensor[i];
		float *values = p->cpu.params + tensor->offset;

		/* Constants would hide a wrong index. */
		if (tensor->init != NET_CONSTANT)
			continue;
		pair_noise(values, tensor->count, i);
		for (size_t j = 0; j < tensor->count; j++)
			values[j] += tensor->scale;
	}
	ck_assert_int_eq(
		nn_upload(pair_cuda, p->cuda.params, p->cpu.params, p->cpu.n_params, &pair_error),
		PSGD_OK);
}

void pair_prepare(struct pair *p, int64_t batch, bool train)
{
	p->on_cpu = net_prepare(&p->cpu, batch, train);
	p->on_cuda = net_prepare(&p->cuda, batch, train);
	ck_assert_ptr_nonnull(p->on_cpu);
	ck_assert_msg(p->on_cuda, "%s", p->cuda.error.text);
}

void pair_open(struct pair *p, void (*add)(struct net *), const struct nn_shape *in, int64_t batch)
{
	struct net *nets[2] = {&p->cpu, &p->cuda};

	for (int i = 0; i < 2; i++) {
		net_begin(nets[i], i ? pair_cuda : pair_cpu, in);
		add(nets[i]);
		ck_assert_int_eq(net_end(nets[i], 3), PSGD_OK);
	}
	stir(p);
	pair_prepare(p, batch, true);
}

void pair_close(struct pair *p)
{
	net_free(&p->cpu);
	net_free(&p->cuda);
}

void pair_input(struct pair *p, uint64_t item)
{
	size_t n = net_values(&p->cpu.in, p->on_cpu->batch);

	pair_noise(p->on_cpu->input, n, item);
	memcpy(p->on_cuda->input, p->on_cpu->input, n * sizeof(float));
}

size_t pair_outputs(const struct pair *p)
{
	const struct net *net = &p->cpu;

	return net_values(&net->layer[net->n_layers - 1].out, p->on_cpu->batch);
}

void pair_check_outputs(struct pair *p, const char *what)
{
	ck_assert_int_eq(net_output(&p->cuda, p->on_cuda), PSGD_OK);
	pair_check_close(p->on_cuda->output, p->on_cpu->output, pair_outputs(p), TOLERANCE, what);
}

void pair_forward(struct pair *p, float *running_cpu, float *running_cuda)
{
	ck_assert_int_eq(net_forward(&p->cpu, p->on_cpu, running_cpu), PSGD_OK);
	ck_assert_msg(net_forward(&p->cuda, p->on_cuda, running_cuda) == PSGD_OK, "%s",
		p->cuda.error.text);
}

void pair_backward(struct pair *p, uint64_t item)
{
	pair_noise(p->on_cpu->diff_start, pair_outputs(p), item);
	memcpy(p->on_cuda->diff_start, p->on_cpu->diff_start, pair_outputs(p) * sizeof(float));
	ck_assert_int_eq(net_backward(&p->cpu, p->on_cpu, NULL, NULL), PSGD_OK);
	ck_assert_msg(net_backward(&p->cuda, p->on_cuda, NULL, NULL) == PSGD_OK, "%s",
		p->cuda.error.text);
}

void pair_check_grads(struct pair *p, const char *what)
{
	float *grads = pair_values(pair_cuda, p->cuda.grads, p->cuda.n_params);
	float *running = pair_values(pair_cuda, p->cuda.running, p->cuda.n_running);

	for (size_t t = 0; t < p->cpu.n_tensors; t++) {
		const struct net_tensor *tensor = &p->cpu.tensor[t];
		char text[128];

		(void)snprintf(text, sizeof(text), "%s: gradient of %s", what, tensor->name);
		pair_check_close(grads + tensor->offset, p->cpu.grads + tensor->offset,
			tensor->count, TOLERANCE, text);
	}
	pair_check_close(
		running, p->cpu.running, p->cpu.n_running, TOLERANCE, "running statistics");
	free(running);
	free(grads);
}

void pair_model(struct pair *p, char *name, int64_t batch)
{
	const struct psgd_config_model model = {
		.name = name, .stem = (char[]){"auto"}, .num_classes = 10};
	struct nn_shape in = {.c = 3, .h = 16, .w = 16};

	ck_assert_int_eq(model_build(&p->cpu, pair_cpu, &model, &in, 5, &pair_error), PSGD_OK);
	ck_assert_int_eq(model_build(&p->cuda, pair_cuda, &model, &in, 5, &pair_error), PSGD_OK);
	pair_prepare(p, batch, true);
}
