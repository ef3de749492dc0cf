/* What differs where the device is not the CPU. SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "bench.h"

#define COPY_BYTES ((size_t)256 << 20) /* larger than any cache */
#define COPIES 4		       /* timed together, */
#define BATCHES 5		       /* so many times; the best counts */

bool cli_bench_is_async(const struct psgd_device *device)
{
	return device->ops->size > offsetof(struct psgd_device_ops, error) &&
	       device->ops->stream_finish;
}

psgd_status cli_bench_upload(const struct psgd_device *device, float *to, size_t n, uint64_t seed)
{
	float *host;
	psgd_status status;

	if (!cli_bench_is_async(device)) {
		cli_bench_fill(to, n, seed);
		return PSGD_OK;
	}
	host = malloc(n * sizeof(*host));
	if (!host)
		return PSGD_ERR_NOMEM;
	cli_bench_fill(host, n, seed);
	status = device->ops->upload(device->self, to, host, n * sizeof(*host), NULL);
	free(host);
	return status;
}

psgd_status cli_bench_finish(const struct psgd_device *device, psgd_stream stream)
{
	if (!cli_bench_is_async(device))
		return PSGD_OK;
	return device->ops->stream_finish(device->self, stream);
}

static psgd_status time_copies(
	const struct psgd_device *device, void *to, const void *from, size_t bytes, int64_t *ns)
{
	int64_t begin = cli_now_ns();
	psgd_status status = PSGD_OK;

	for (int i = 0; i < COPIES && status == PSGD_OK; i++)
		status = device->ops->copy(device->self, to, from, bytes, NULL);
	if (status == PSGD_OK)
		status = cli_bench_finish(device, NULL);
	*ns = cli_now_ns() - begin;
	return status;
}

psgd_status cli_bench_bandwidth(const struct psgd_device *device, double *gb_per_s)
{
	void *memory[2] = {NULL, NULL};
	psgd_status status = device->ops->alloc(device->self, COPY_BYTES, &memory[0]);
	int64_t best = INT64_MAX;

	if (status == PSGD_OK)
		status = device->ops->alloc(device->self, COPY_BYTES, &memory[1]);
	if (status == PSGD_OK)
		status = device->ops->zero(device->self, memory[0], COPY_BYTES, NULL);
	/* The first is for warming up. */
	for (int i = 0; i <= BATCHES && status == PSGD_OK; i++) {
		int64_t ns;

		status = time_copies(device, memory[1], memory[0], COPY_BYTES, &ns);
		if (i > 0 && ns < best)
			best = ns;
	}
	for (int i = 0; i < 2; i++)
		device->ops->free(device->self, memory[i], COPY_BYTES);
	/* Each byte is read, and written. */
	*gb_per_s = 2.0 * COPIES * (double)COPY_BYTES / (double)best;
	return status;
}
