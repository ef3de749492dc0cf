/*
 * The floor of a step: what must be done whatever the rank. For a tensor that is compressed three
 * passes (g += e; read g; e = g and g = 0), for another one a copy to the message and one back.
 * Bucket by bucket, as a step is, so that both find in the caches what the pass before left there.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

#define LANES 16

/* A tensor of the floor. */
struct matrix {
	float *g, *e;
	int64_t count;
};

/* Lanes, so that the compiler may make vectors of the sum. */
static float sum(const float *x, int64_t count)
{
	float lane[LANES] = {0};

	for (int64_t i = 0; i + LANES <= count; i += LANES) {
		for (int l = 0; l < LANES; l++)
			lane[l] += x[i + l];
	}
	for (int l = 1; l < LANES; l++)
		lane[0] += lane[l];
	return lane[0];
}

static void absorb(float *restrict g, const float *restrict e, int64_t count)
{
	for (int64_t i = 0; i < count; i++)
		g[i] += e[i];
}

static void keep(float *restrict g, float *restrict e, int64_t count)
{
	for (int64_t i = 0; i < count; i++) {
		e[i] = g[i];
		g[i] = 0;
	}
}

static void passes(struct cli_bench_floor *floor, const struct matrix *list, size_t n, int64_t *ns)
{
	int64_t begin = cli_now_ns(), end;

	for (size_t k = 0; k < n; k++)
		absorb(list[k].g, list[k].e, list[k].count);
	end = cli_now_ns();
	ns[CLI_BENCH_PROJECT] += end - begin;
	begin = end;
	for (size_t k = 0; k < n; k++)
		floor->sink = sum(list[k].g, list[k].count);
	end = cli_now_ns();
	ns[CLI_BENCH_BACK_PROJECT] += end - begin;
	begin = end;
	for (size_t k = 0; k < n; k++)
		keep(list[k].g, list[k].e, list[k].count);
	ns[CLI_BENCH_RECONSTRUCT] += cli_now_ns() - begin;
}

psgd_status cli_bench_floor_open(const struct cli_bench_model *model,
	const struct psgd_device *device, uint64_t seed, struct cli_bench_floor *out)
{
	float **const memory[] = {&out->values, &out->errors, &out->message};
	const size_t bytes[] = {model->block_bytes, model->block_bytes, model->bucket_bytes};

	*out = (struct cli_bench_floor){.device = device,
		.bytes = model->block_bytes,
		.message_bytes = model->bucket_bytes};
	for (size_t i = 0; i < CLI_COUNT(memory); i++) {
		void *block;
		psgd_status status = device->ops->alloc(device->self, bytes[i], &block);

		if (status != PSGD_OK)
			return status;
		*memory[i] = block;
		memset(block, 0, bytes[i]);
	}
	cli_bench_fill(out->values, out->bytes / sizeof(float), seed);
	return PSGD_OK;
}

void cli_bench_floor_close(struct cli_bench_floor *floor)
{
	const struct psgd_device *device = floor->device;

	if (!device)
		return;
	device->ops->free(device->self, floor->values, floor->bytes);
	device->ops->free(device->self, floor->errors, floor->bytes);
	device->ops->free(device->self, floor->message, floor->message_bytes);
	*floor = (struct cli_bench_floor){0};
}

/* Dense tensors of a bucket, to the message or back. */
static psgd_status copy_dense(const struct cli_bench_floor *floor,
	const struct cli_bench_model *model, const struct cli_bench_copy *copy, size_t bucket,
	bool back)
{
	const struct psgd_device *device = floor->device;
	float *message = floor->message;
	psgd_status status = PSGD_OK;

	for (size_t i = model->first[bucket]; i < model->first[bucket + 1]; i++) {
		float *values = floor->values + model->at[i];

		if (psgd_session_rank(copy->session, model->tensors[i].id))
			continue;
		status = device->ops->copy(device->self, back ? values : message,
			back ? message : values, (size_t)model->counts[i] * sizeof(float), NULL);
		if (status != PSGD_OK)
			break;
		message += model->counts[i];
	}
	return status;
}

static psgd_status run_bucket(struct cli_bench_floor *floor, const struct cli_bench_model *model,
	const struct cli_bench_copy *copy, size_t bucket, struct matrix *list,
	struct cli_bench_times *times)
{
	int64_t begin;
	psgd_status status;
	size_t n = 0;

	for (size_t i = model->first[bucket]; i < model->first[bucket + 1]; i++) {
		if (!psgd_session_rank(copy->session, model->tensors[i].id))
			continue;
		list[n] = (struct matrix){floor->values + model->at[i],
			floor->errors + model->at[i], model->counts[i]};
		n++;
	}
	begin = cli_now_ns();
	status = copy_dense(floor, model, copy, bucket, false);
	times->ns[CLI_BENCH_PROJECT] += cli_now_ns() - begin;
	if (status == PSGD_OK)
		passes(floor, list, n, times->ns);
	begin = cli_now_ns();
	if (status == PSGD_OK)
		status = copy_dense(floor, model, copy, bucket, true);
	times->ns[CLI_BENCH_RECONSTRUCT] += cli_now_ns() - begin;
	return status;
}

psgd_status cli_bench_floor_run(struct cli_bench_floor *floor, const struct cli_bench_model *model,
	const struct cli_bench_copy *copy, struct cli_bench_times *times)
{
	struct matrix *list = calloc(model->n_tensors, sizeof(*list));
	psgd_status status = list ? PSGD_OK : PSGD_ERR_NOMEM;

	*times = (struct cli_bench_times){0};
	for (size_t b = 0; b < model->n_buckets && status == PSGD_OK; b++)
		status = run_bucket(floor, model, copy, b, list, times);
	free(list);
	return status;
}
