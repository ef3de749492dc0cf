/* Where a model's gradients lie. SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "bench.h"

#define BUCKET_BYTES ((size_t)25 << 20)
#define LINE_VALUES 16

static void reverse(struct psgd_tensor *tensors, size_t n)
{
	for (size_t i = 0; i < n / 2; i++) {
		struct psgd_tensor first = tensors[i];

		tensors[i] = tensors[n - 1 - i];
		tensors[n - 1 - i] = first;
	}
}

static void place(struct cli_bench_model *m)
{
	size_t at = 0, bytes = 0;

	for (size_t i = 0; i < m->n_tensors; i++) {
		size_t count = (size_t)psgd_tensor_count(&m->tensors[i]);

		if (i == 0 || bytes >= BUCKET_BYTES) {
			m->first[m->n_buckets++] = i;
			bytes = 0;
		}
		m->counts[i] = (int64_t)count;
		m->at[i] = at;
		m->n_values += count;
		at += (count + LINE_VALUES - 1) / LINE_VALUES * LINE_VALUES;
		bytes += count * sizeof(float);
		if (bytes > m->bucket_bytes)
			m->bucket_bytes = bytes;
	}
	m->first[m->n_buckets] = m->n_tensors;
	m->block_bytes = at * sizeof(float);
}

bool cli_bench_model_open(const char *name, struct cli_bench_model *out)
{
	*out = (struct cli_bench_model){0};
	out->tensors = cli_bench_shapes(name, &out->n_tensors);
	if (!out->tensors)
		return false;
	out->counts = calloc(out->n_tensors, sizeof(*out->counts));
	out->at = calloc(out->n_tensors, sizeof(*out->at));
	out->first = calloc(out->n_tensors + 1, sizeof(*out->first));
	if (!out->counts || !out->at || !out->first)
		return false;
	reverse(out->tensors, out->n_tensors);
	place(out);
	return true;
}

void cli_bench_model_close(struct cli_bench_model *model)
{
	free(model->tensors);
	free(model->counts);
	free(model->at);
	free(model->first);
	*model = (struct cli_bench_model){0};
}
