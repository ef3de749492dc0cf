/*
 * One measured worker. It is the only one, so that the sum of a message over the workers is the
 * message, and the collectives that are handed out need no answer.
 *
 * Gradients are filled once: what a step leaves in them and in the error memory adds up to what it
 * found there, so that every step compresses the same matrix.
 */
#include <stdlib.h>

#include <psgd/exchange.h>

#include "bench.h"

void cli_bench_fill(float *values, size_t n, uint64_t seed)
{
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

	for (size_t i = 0; i < n; i++) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		values[i] = (float)(int32_t)(x >> 32) * 0x1p-38f;
	}
}

static psgd_status make_compressor(uint32_t rank, struct psgd_compressor *out)
{
	struct psgd_powersgd_options options = PSGD_INIT(psgd_powersgd_options);

	options.rank = rank;
	return rank ? psgd_compressor_powersgd(&options, out) : psgd_compressor_dense(out);
}

static void fill_buckets(struct cli_bench_copy *copy)
{
	const struct cli_bench_model *model = copy->model;

	for (size_t i = 0; i < model->n_tensors; i++)
		copy->grads[i] = (struct psgd_grad){
			.id = model->tensors[i].id, .data = copy->values + model->at[i]};
	for (size_t b = 0; b < model->n_buckets; b++) {
		copy->buckets[b] = PSGD_INIT(psgd_bucket);
		copy->buckets[b].grads = copy->grads + model->first[b];
		copy->buckets[b].n_grads = model->first[b + 1] - model->first[b];
	}
}

psgd_status cli_bench_copy_open(const struct cli_bench_model *model,
	const struct psgd_device *device, uint32_t rank, uint64_t seed, struct cli_bench_copy *out)
{
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	psgd_status status;
	void *memory;

	*out = (struct cli_bench_copy){.device = device, .model = model};
	out->grads = calloc(model->n_tensors, sizeof(*out->grads));
	out->buckets = calloc(model->n_buckets, sizeof(*out->buckets));
	if (!out->grads || !out->buckets)
		return PSGD_ERR_NOMEM;
	status = device->ops->alloc(device->self, model->block_bytes, &memory);
	if (status != PSGD_OK)
		return status;
	out->values = memory;
	status = cli_bench_upload(device, out->values, model->block_bytes / sizeof(float), seed);
	fill_buckets(out);
	if (status == PSGD_OK)
		status = make_compressor(rank, &out->compressor);
	if (status != PSGD_OK)
		return status;
	options.device = device;
	options.compressor = &out->compressor;
	return psgd_session_open(model->tensors, model->n_tensors, &options, &out->session);
}

void cli_bench_copy_close(struct cli_bench_copy *copy)
{
	psgd_session_close(&copy->session);
	psgd_compressor_destroy(&copy->compressor);
	if (copy->values)
		copy->device->ops->free(copy->device->self, copy->values, copy->model->block_bytes);
	free(copy->grads);
	free(copy->buckets);
	*copy = (struct cli_bench_copy){0};
}

static psgd_status keep_error(struct cli_bench_copy *copy, psgd_status status)
{
	if (status < 0)
		psgd_session_error(copy->session, copy->error, sizeof(copy->error));
	return status < 0 ? status : PSGD_OK;
}

/* As far as it goes, and done: of an asynchronous device PENDING is no more than that. */
static psgd_status next(const struct psgd_device *device, psgd_exchange *exchange,
	struct psgd_collective *collective)
{
	psgd_status status, finished;

	do
		status = psgd_exchange_next(exchange, collective);
	while (status == PSGD_PENDING && cli_bench_is_async(device));
	if (status != PSGD_WANT_COLLECTIVE)
		return status;
	finished = cli_bench_finish(device, collective->stream);
	return finished == PSGD_OK ? status : finished;
}

/*
 * Runs a bucket to its end. The first call is the projection and the last the reconstruction, with
 * a back projection between them where something is compressed.
 */
static psgd_status drive(const struct psgd_device *device, psgd_exchange *exchange,
	struct cli_bench_times *times, int64_t begin)
{
	struct psgd_collective collective = PSGD_INIT(psgd_collective);
	int phase = CLI_BENCH_PROJECT;
	psgd_status status;

	do {
		int64_t end;

		status = next(device, exchange, &collective);
		if (status != PSGD_WANT_COLLECTIVE)
			phase = CLI_BENCH_RECONSTRUCT;
		end = cli_now_ns();
		times->ns[phase] += end - begin;
		begin = end;
		phase = CLI_BENCH_BACK_PROJECT;
	} while (status == PSGD_WANT_COLLECTIVE);
	return status == PSGD_PENDING ? PSGD_ERR_INTERNAL : status;
}

static psgd_status finish(struct cli_bench_copy *copy, struct psgd_report *report)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	struct cli_bench_times unused = {0};
	psgd_exchange *exchange;
	psgd_status status;

	status = psgd_exchange_begin_finish(copy->session, &info, report, &exchange);
	if (status < 0)
		return status;
	status = drive(copy->device, exchange, &unused, 0);
	psgd_exchange_end(&exchange);
	return status;
}

psgd_status cli_bench_copy_step(
	struct cli_bench_copy *copy, struct cli_bench_times *times, struct psgd_report *report)
{
	const struct cli_bench_model *model = copy->model;
	psgd_status status = PSGD_OK;

	*times = (struct cli_bench_times){0};
	for (size_t b = 0; b < model->n_buckets && status == PSGD_OK; b++) {
		int64_t begin = cli_now_ns();
		psgd_exchange *exchange;

		status = psgd_exchange_begin(copy->session, &copy->buckets[b], NULL, &exchange);
		if (status < 0)
			break;
		status = drive(copy->device, exchange, times, begin);
		psgd_exchange_end(&exchange);
	}
	if (status == PSGD_OK)
		status = finish(copy, report);
	return keep_error(copy, status);
}

psgd_status cli_bench_copy_memory(struct cli_bench_copy *copy, struct psgd_memory *memory)
{
	const struct cli_bench_model *model = copy->model;
	psgd_exchange **exchanges = calloc(model->n_buckets, sizeof(psgd_exchange *));
	struct psgd_collective collective = PSGD_INIT(psgd_collective);
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct cli_bench_times unused = {0};
	psgd_status status = exchanges ? PSGD_OK : PSGD_ERR_NOMEM;
	size_t n = 0;

	/* As far as they come without the others: the first message of each is made. */
	for (; n < model->n_buckets && status >= 0; n++) {
		status = psgd_exchange_begin(copy->session, &copy->buckets[n], NULL, &exchanges[n]);
		if (status >= 0)
			status = next(copy->device, exchanges[n], &collective);
	}
	for (size_t b = 0; b < n; b++) {
		if (status >= 0)
			status = drive(copy->device, exchanges[b], &unused, 0);
		psgd_exchange_end(&exchanges[b]);
	}
	free(exchanges);
	if (status == PSGD_OK)
		status = finish(copy, &report);
	/* The session keeps the messages of a step until the end of the next. */
	if (status == PSGD_OK)
		status = psgd_session_memory(copy->session, memory);
	return keep_error(copy, status);
}
