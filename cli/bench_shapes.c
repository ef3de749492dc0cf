/* Shapes of well-known models. SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

struct list {
	struct psgd_tensor *items;
	size_t n;
	bool failed;
};

static void add(struct list *list, uint32_t n_dims, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
	struct psgd_tensor *grown = realloc(list->items, (list->n + 1) * sizeof(*grown));

	if (!grown) {
		list->failed = true;
		return;
	}
	list->items = grown;
	grown[list->n] = (struct psgd_tensor){.id = (uint32_t)list->n,
		.dtype = PSGD_F32,
		.n_dims = n_dims,
		.dims = {d0, d1, d2, d3}};
	list->n++;
}

static void linear(struct list *list, int64_t out, int64_t in)
{
	add(list, 2, out, in, 0, 0);
	add(list, 1, out, 0, 0, 0);
}

/* A convolution without bias, and its batch norm. */
static void conv_norm(struct list *list, int64_t out, int64_t in, int64_t kernel)
{
	add(list, 4, out, in, kernel, kernel);
	add(list, 1, out, 0, 0, 0);
	add(list, 1, out, 0, 0, 0);
}

static void mlp(struct list *list)
{
	linear(list, 1024, 784);
	linear(list, 1024, 1024);
	linear(list, 10, 1024);
}

/* For 32 x 32 images and 10 classes: the one of the PowerSGD paper. */
static void resnet18(struct list *list)
{
	int64_t in = 64;

	conv_norm(list, 64, 3, 3);
	for (int64_t width = 64; width <= 512; width *= 2) {
		for (int block = 0; block < 2; block++) {
			conv_norm(list, width, in, 3);
			conv_norm(list, width, width, 3);
			if (in != width)
				conv_norm(list, width, in, 1);
			in = width;
		}
	}
	linear(list, 10, 512);
}

/* For 224 x 224 images and 1000 classes, as the next. */
static void resnet50(struct list *list)
{
	static const int blocks[] = {3, 4, 6, 3};
	int64_t in = 64, width = 64;

	conv_norm(list, 64, 3, 7);
	for (size_t stage = 0; stage < CLI_COUNT(blocks); stage++, width *= 2) {
		for (int block = 0; block < blocks[stage]; block++) {
			conv_norm(list, width, in, 1);
			conv_norm(list, width, width, 3);
			conv_norm(list, width * 4, width, 1);
			if (block == 0)
				conv_norm(list, width * 4, in, 1);
			in = width * 4;
		}
	}
	linear(list, 1000, 2048);
}

static void vgg16(struct list *list)
{
	static const int64_t widths[] = {
		64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512};
	int64_t in = 3;

	for (size_t i = 0; i < CLI_COUNT(widths); i++) {
		add(list, 4, widths[i], in, 3, 3);
		add(list, 1, widths[i], 0, 0, 0);
		in = widths[i];
	}
	linear(list, 4096, 25088);
	linear(list, 4096, 4096);
	linear(list, 1000, 4096);
}

static void layer_norm(struct list *list)
{
	add(list, 1, 768, 0, 0, 0);
	add(list, 1, 768, 0, 0, 0);
}

/* A weight as GPT-2 keeps it, with its inputs as rows, and the bias. */
static void gpt2_linear(struct list *list, int64_t in, int64_t out)
{
	add(list, 2, in, out, 0, 0);
	add(list, 1, out, 0, 0, 0);
}

/* The small one; its head is the token embedding. */
static void gpt2(struct list *list)
{
	add(list, 2, 50257, 768, 0, 0);
	add(list, 2, 1024, 768, 0, 0);
	for (int block = 0; block < 12; block++) {
		layer_norm(list);
		gpt2_linear(list, 768, 3 * 768);
		gpt2_linear(list, 768, 768);
		layer_norm(list);
		gpt2_linear(list, 768, 4 * 768);
		gpt2_linear(list, 4 * 768, 768);
	}
	layer_norm(list);
}

static void (*const builders[])(struct list *list) = {mlp, resnet18, resnet50, vgg16, gpt2};
const char *const cli_bench_models[] = {"mlp", "resnet18", "resnet50", "vgg16", "gpt2", NULL};
const char cli_bench_models_text[] = "mlp, resnet18, resnet50, vgg16, gpt2";

struct psgd_tensor *cli_bench_shapes(const char *model, size_t *n)
{
	struct list list = {0};

	for (size_t i = 0; cli_bench_models[i]; i++) {
		if (strcmp(model, cli_bench_models[i]) == 0)
			builders[i](&list);
	}
	if (list.failed) {
		free(list.items);
		list.items = NULL;
	}
	*n = list.n;
	return list.items;
}
