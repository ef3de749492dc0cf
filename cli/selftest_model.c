/* Random tensors and gradients. SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "selftest.h"

#define ALIGN_VALUES 64 /* 256 bytes: as any device wants it */

/* One in so many is no matrix, is never compressed, or has a gradient of zeros. */
#define ONE_IN 9

static void draw_tensor(struct cli_selftest *t, struct psgd_tensor *tensor, uint32_t most)
{
	tensor->dtype = PSGD_F32;
	if (cli_draw(t, 1, ONE_IN) == 1) {
		tensor->n_dims = 1;
		tensor->dims[0] = cli_draw(t, 1, most);
	} else {
		tensor->n_dims = 2;
		tensor->dims[0] = cli_draw(t, 1, most);
		tensor->dims[1] = cli_draw(t, 1, most);
		if (cli_draw(t, 1, ONE_IN) == 1)
			tensor->flags = PSGD_TENSOR_DENSE;
	}
}

bool cli_model_open(struct cli_selftest *t, struct cli_model *model, size_t n, uint32_t most,
	uint32_t n_workers)
{
	*model = (struct cli_model){.n = n, .n_workers = n_workers};
	for (size_t i = 0; i < n; i++) {
		struct psgd_tensor *tensor = &model->tensors[i];
		size_t count;

		tensor->id = 1000 - 3 * (uint32_t)i; /* ids are not positions */
		draw_tensor(t, tensor, most);
		/* The only one of a group is one that is compressed. */
		if (n == 1)
			*tensor = (struct psgd_tensor){
				.dtype = PSGD_F32, .n_dims = 2, .dims = {most, most - most / 3}};
		psgd_tensor_matrix(tensor, &model->rows[i], &model->cols[i]);
		count = (size_t)(model->rows[i] * model->cols[i]);
		model->at[i] = model->n_values;
		model->n_values += (count + ALIGN_VALUES - 1) / ALIGN_VALUES * ALIGN_VALUES;
	}
	for (uint32_t w = 0; w < model->n_workers; w++) {
		model->gradients[w] = calloc(model->n_values, sizeof(float));
		if (!model->gradients[w])
			return false;
	}
	return true;
}

void cli_model_close(struct cli_model *model)
{
	for (uint32_t w = 0; w < CLI_SELFTEST_WORKERS; w++)
		free(model->gradients[w]);
	*model = (struct cli_model){0};
}

static void draw_matrix(struct cli_selftest *t, float *g, int64_t rows, int64_t cols, uint32_t w)
{
	for (int64_t i = 0; i < rows; i++) {
		float along = cli_draw_value(t);

		for (int64_t j = 0; j < cols; j++)
			g[i * cols + j] = along * (float)(j % 7 - 3) + 0.25f * cli_draw_value(t) +
					  0.0625f * (float)w;
	}
}

void cli_model_draw(struct cli_selftest *t, struct cli_model *model)
{
	for (size_t i = 0; i < model->n; i++) {
		size_t bytes = (size_t)(model->rows[i] * model->cols[i]) * sizeof(float);
		bool zero = model->n > 1 && cli_draw(t, 1, ONE_IN) == 1;

		for (uint32_t w = 0; w < model->n_workers; w++) {
			float *g = model->gradients[w] + model->at[i];

			if (zero)
				memset(g, 0, bytes);
			else
				draw_matrix(t, g, model->rows[i], model->cols[i], w);
		}
	}
}

void cli_model_draw_ranks(struct cli_selftest *t, const struct cli_model *model, uint32_t most,
	uint32_t ranks[CLI_SELFTEST_TENSORS])
{
	for (size_t i = 0; i < model->n; i++)
		ranks[i] = cli_draw(t, model->n > 1 ? 0 : 1, most);
}
