/*
 * The floor of a step: what must be done whatever the rank. For a tensor that is compressed three
 * passes by the device, for another one a copy to the message and one back.
 * Bucket by bucket, as a step is, so that both find in the caches what the pass before left there.
 */
#include <stdlib.h>

#include "bench.h"

/* Written to, so that it is there. */
static psgd_status take_memory(const struct psgd_device *device, size_t bytes, float **out)
{
	void *memory = NULL;
	psgd_status status = device->ops->alloc(device->self, bytes, &memory);

	*out = memory;
	return status == PSGD_OK ? device->ops->zero(device->self, memory, bytes, NULL) : status;
}

psgd_status cli_bench_floor_open(const struct cli_bench_model *model,
	const struct psgd_device *device, uint64_t seed, struct cli_bench_floor *out)
{
	psgd_status status;

	*out = (struct cli_bench_floor){.device = device, .model = model};
	out->errors = calloc(model->n_tensors, sizeof(*out->errors));
	if (!out->errors)
		return PSGD_ERR_NOMEM;
	status = take_memory(device, model->block_bytes, &out->values);
	if (status == PSGD_OK)
		status = take_memory(device, model->bucket_bytes, &out->message);
	for (size_t i = 0; i < model->n_tensors && status == PSGD_OK; i++)
		status = take_memory(
			device, (size_t)model->counts[i] * sizeof(float), &out->errors[i]);
	if (status == PSGD_OK)
		status = cli_bench_upload(
			device, out->values, model->block_bytes / sizeof(float), seed);
	return status;
}

void cli_bench_floor_close(struct cli_bench_floor *floor)
{
	const struct cli_bench_model *model = floor->model;
	const struct psgd_device *device = floor->device;

	if (!device)
		return;
	device->ops->free(device->self, floor->values, model->block_bytes);
	device->ops->free(device->self, floor->message, model->bucket_bytes);
	for (size_t i = 0; floor->errors && i < model->n_tensors; i++)
		device->ops->free(
			device->self, floor->errors[i], (size_t)model->counts[i] * sizeof(float));
	free(floor->errors);
	*floor = (struct cli_bench_floor){0};
}

/* Dense tensors of a bucket, to the message or back. */
static psgd_status copy_dense(const struct cli_bench_floor *floor,
	const struct cli_bench_copy *copy, size_t bucket, bool back)
{
	const struct cli_bench_model *model = floor->model;
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
	return status == PSGD_OK ? cli_bench_finish(device, NULL) : status;
}

static psgd_status run_bucket(struct cli_bench_floor *floor, const struct cli_bench_copy *copy,
	size_t bucket, struct psgd_floor_matrix *list, struct cli_bench_times *times)
{
	const struct cli_bench_model *model = floor->model;
	int64_t begin;
	psgd_status status;
	size_t n = 0;

	for (size_t i = model->first[bucket]; i < model->first[bucket + 1]; i++) {
		if (!psgd_session_rank(copy->session, model->tensors[i].id))
			continue;
		list[n] = (struct psgd_floor_matrix){
			.g = floor->values + model->at[i], .e = floor->errors[i]};
		status = psgd_tensor_matrix(&model->tensors[i], &list[n].n, &list[n].m);
		if (status != PSGD_OK)
			return status;
		n++;
	}
	begin = cli_now_ns();
	status = copy_dense(floor, copy, bucket, false);
	times->ns[CLI_BENCH_PROJECT] += cli_now_ns() - begin;
	if (status == PSGD_OK && n)
		status = psgd_device_floor(floor->device, list, n, times->ns);
	begin = cli_now_ns();
	if (status == PSGD_OK)
		status = copy_dense(floor, copy, bucket, true);
	times->ns[CLI_BENCH_RECONSTRUCT] += cli_now_ns() - begin;
	return status;
}

psgd_status cli_bench_floor_run(struct cli_bench_floor *floor, const struct cli_bench_copy *copy,
	struct cli_bench_times *times)
{
	const struct cli_bench_model *model = floor->model;
	struct psgd_floor_matrix *list = calloc(model->n_tensors, sizeof(*list));
	psgd_status status = list ? PSGD_OK : PSGD_ERR_NOMEM;

	*times = (struct cli_bench_times){0};
	for (size_t b = 0; b < model->n_buckets && status == PSGD_OK; b++)
		status = run_bucket(floor, copy, b, list, times);
	free(list);
	return status;
}
