/* What `psgd info` found, for people. SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "info.h"

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "unknown";
}

static double gib(const json_t *object)
{
	return (double)json_integer_value(json_object_get(object, "memory_bytes")) / (1 << 30);
}

static void print_processor(const json_t *processor)
{
	const json_t *list = json_object_get(processor, "features"), *feature;
	size_t i;

	printf("processor   %s, %lld cores online\n", text(processor, "model"),
		(long long)json_integer_value(json_object_get(processor, "cores_online")));
	if (list) {
		printf("            features:");
		json_array_foreach(list, i, feature) printf(" %s", json_string_value(feature));
		putchar('\n');
	}
	printf("memory      %.1f GiB\n", gib(processor));
	if (json_object_get(processor, "kernels"))
		printf("kernels     %s\n", text(processor, "kernels"));
}

/* True: it is there, and the line can go on. */
static bool print_module(const json_t *module, const char *name)
{
	bool found = json_is_true(json_object_get(module, "found"));

	printf("  %-9s %s", name, found ? "found" : text(module, "why"));
	return found;
}

static void print_cuda(const json_t *cuda)
{
	const json_t *device;
	size_t i;

	print_module(cuda, "cuda");
	if (json_object_get(cuda, "runtime"))
		printf("; runtime %s, driver %s", text(cuda, "runtime"),
			json_object_get(cuda, "driver") ? text(cuda, "driver") : "none");
	putchar('\n');
	json_array_foreach(json_object_get(cuda, "devices"), i, device)
	{
		if (json_object_get(device, "why"))
			printf("            device %zu: %s\n", i, text(device, "why"));
		else
			printf("            device %zu: %s (%s), %.1f GiB\n", i,
				text(device, "name"), text(device, "compute_capability"),
				gib(device));
	}
}

static void print_modules(const json_t *modules)
{
	const json_t *tc = json_object_get(modules, "tc"), *nccl = json_object_get(modules, "nccl");

	printf("modules\n");
	print_module(json_object_get(modules, "gloo"), "gloo");
	putchar('\n');
	if (print_module(tc, "tc"))
		printf(", %s CAP_NET_ADMIN; rates: %s; delay and loss: %s",
			json_is_true(json_object_get(tc, "net_admin")) ? "with" : "no",
			text(tc, "rates"), text(tc, "delay_and_loss"));
	putchar('\n');
	print_cuda(json_object_get(modules, "cuda"));
	if (print_module(nccl, "nccl"))
		printf(", %s", text(nccl, "version"));
	putchar('\n');
}

static void print_data_sets(const json_t *list)
{
	const json_t *set;
	size_t i;

	printf("data sets\n  synthetic      always there\n");
	json_array_foreach(list, i, set)
	{
		printf("  %-14s %s", text(set, "name"), text(set, "folder"));
		if (!json_is_true(json_object_get(set, "found")))
			printf(" (not there: apt-get install dataset-%s)", text(set, "name"));
		putchar('\n');
	}
}

void cli_info_print(const json_t *all)
{
	const json_t *trainer = json_object_get(all, "trainer");

	printf("psgd        %s, library %s\n", text(all, "psgd"), text(all, "library"));
	printf("compiler    %s\n", text(all, "compiler"));
	if (json_object_get(all, "system"))
		printf("system      %s\n", text(all, "system"));
	print_processor(json_object_get(all, "processor"));
	print_modules(json_object_get(all, "modules"));
	printf("trainer     %s\n", json_is_string(trainer) ? json_string_value(trainer)
							   : "psgd-train-image: not found");
	print_data_sets(json_object_get(all, "data_sets"));
}
