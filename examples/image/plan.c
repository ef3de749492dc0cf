/* A model's tensors as JSON. SPDX-License-Identifier: MIT */
#include "plan.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <psgd/experiment/config.h>

#include "data.h"
#include "models.h"

/* Names of tensors are ours and need no escapes. */
static void print_tensors(FILE *out, const struct net *net)
{
	fputs("{\"tensors\": [", out);
	for (size_t i = 0; i < net->n_tensors; i++) {
		const struct net_tensor *tensor = &net->tensor[i];

		fprintf(out, "%s\n{\"id\": %zu, \"name\": \"%s\", \"dims\": [", i ? "," : "", i,
			tensor->name);
		for (uint32_t d = 0; d < tensor->n_dims; d++)
			fprintf(out, "%s%" PRId64, d ? ", " : "", tensor->dims[d]);
		fputs("]}", out);
	}
	fputs("],\n", out);
}

static void print_buckets(FILE *out, const struct net *net)
{
	fputs("\"buckets\": [", out);
	for (unsigned b = 0; b < net->n_buckets; b++) {
		const char *separator = "";

		fputs(b ? ", [" : "[", out);
		for (size_t i = 0; i < net->n_tensors; i++) {
			if (net->tensor[i].bucket != b)
				continue;
			fprintf(out, "%s%zu", separator, i);
			separator = ", ";
		}
		fputs("]", out);
	}
	fputs("],\n", out);
}

/* A line of text; what it holds of a path may be anything. */
static void print_text(FILE *out, const char *text)
{
	fputc('"', out);
	for (const char *c = text; *c; c++) {
		if (*c == '"' || *c == '\\')
			fprintf(out, "\\%c", *c);
		else
			fputc((unsigned char)*c < ' ' ? ' ' : *c, out);
	}
	fputc('"', out);
}

/* What a run would miss on this machine; it may be on those of the run. */
static void print_notices(FILE *out, const struct psgd_config *config)
{
	struct image_error error = {""};
	const char *weights = config->model.weights, *separator = "";

	fputs("\"notices\": [", out);
	if (data_find(&config->dataset, &error)) {
		print_text(out, error.text);
		separator = ", ";
	}
	if (weights && access(weights, R_OK) != 0) {
		(void)image_fail(
			&error, PSGD_ERR_IO, "model.weights: %s: %s", weights, strerror(errno));
		fputs(separator, out);
		print_text(out, error.text);
	}
	fputs("],\n", out);
}

psgd_status plan_print(FILE *out, const char *config_path, const char *const *overrides,
	size_t n_overrides, struct image_error *error)
{
	struct psgd_config *config;
	struct net net = {0};
	struct image_shape shape;
	psgd_status status;

	status = psgd_config_load(
		config_path, overrides, n_overrides, &config, error->text, sizeof(error->text));
	if (status)
		return status;
	status = data_image_shape(&config->dataset, &shape, error);
	if (!status)
		status = model_build(&net, NULL, &config->model,
			&(struct nn_shape){.c = (int64_t)shape.channels,
				.h = (int64_t)shape.rows,
				.w = (int64_t)shape.cols},
			config->seed, error);
	if (!status) {
		print_tensors(out, &net);
		print_buckets(out, &net);
		print_notices(out, config);
		fprintf(out, "\"sync_values\": %zu}\n",
			config->model.sync_batchnorm ? net_sync_values(&net) : 0);
		if (fflush(out) != 0 || ferror(out))
			status = image_fail(error, PSGD_ERR_IO, "cannot write the plan");
	}
	net_free(&net);
	psgd_config_free(&config);
	return status;
}
