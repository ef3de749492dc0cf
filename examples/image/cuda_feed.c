/* Batches on their way to a CUDA device. SPDX-License-Identifier: MIT */
#include "cuda_nn.h"

#include <stdlib.h>

/*
 * Two places, which batches take in turn. A place of the host is free when its upload is done, one
 * of the device when the pass that took the batch has read it.
 */
struct nn_feed {
	struct nn_shape shape;
	size_t bytes;
	struct place {
		float *host, *device;
		cudaEvent_t uploaded, read;
	} place[2];
	size_t n_loaded, n_taken; /* so far */
};

void cuda_feed_close(struct nn *base, struct nn_feed *feed)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;

	if (!feed)
		return;
	(void)cudaStreamSynchronize(nn->uploads);
	(void)cudaStreamSynchronize(nn->place.stream);
	for (size_t i = 0; i < 2; i++) {
		struct place *place = &feed->place[i];

		if (place->read)
			(void)cudaEventDestroy(place->read);
		if (place->uploaded)
			(void)cudaEventDestroy(place->uploaded);
		if (place->device)
			(void)cudaFree(place->device);
		if (place->host)
			(void)cudaFreeHost(place->host);
	}
	(void)cudaGetLastError();
	free(feed);
}

static psgd_status open_place(size_t bytes, struct place *place, struct image_error *error)
{
	void *host = NULL, *device = NULL;
	psgd_status status =
		cuda_check(cudaHostAlloc(&host, bytes, cudaHostAllocDefault), "batch", error);

	place->host = host;
	if (!status)
		status = cuda_check(cudaMalloc(&device, bytes), "batch", error);
	place->device = device;
	if (!status)
		status = cuda_check(
			cudaEventCreateWithFlags(&place->uploaded, cudaEventDisableTiming), "event",
			error);
	if (!status)
		status = cuda_check(cudaEventCreateWithFlags(&place->read, cudaEventDisableTiming),
			"event", error);
	return status;
}

psgd_status cuda_feed_open(struct nn *base, const struct nn_shape *shape, struct nn_feed **out,
	float **host, struct image_error *error)
{
	struct nn_feed *feed = calloc(1, sizeof(*feed));
	psgd_status status = PSGD_OK;

	*out = NULL;
	if (!feed)
		return image_fail(error, PSGD_ERR_NOMEM, "out of memory");
	feed->shape = *shape;
	feed->bytes = (size_t)(shape->n * shape->c * shape->h * shape->w) * sizeof(float);
	for (size_t i = 0; !status && i < 2; i++)
		status = open_place(feed->bytes, &feed->place[i], error);
	if (status) {
		cuda_feed_close(base, feed);
		return status;
	}
	*out = feed;
	*host = feed->place[0].host;
	return PSGD_OK;
}

psgd_status cuda_feed_load(
	struct nn *base, struct nn_feed *feed, float **host, struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;
	struct place *place = &feed->place[feed->n_loaded % 2], *next;
	psgd_status status;

	if (feed->n_loaded - feed->n_taken >= 2)
		return image_fail(error, PSGD_ERR_STATE, "two batches are under way already");
	status = cuda_check(cudaStreamWaitEvent(nn->uploads, place->read, 0), "upload", error);
	if (!status)
		status = cuda_check(cudaMemcpyAsync(place->device, place->host, feed->bytes,
					    cudaMemcpyHostToDevice, nn->uploads),
			"upload", error);
	if (!status)
		status = cuda_check(cudaEventRecord(place->uploaded, nn->uploads), "upload", error);
	if (status)
		return status;
	feed->n_loaded++;
	next = &feed->place[feed->n_loaded % 2];
	*host = next->host;
	return cuda_check(cudaEventSynchronize(next->uploaded), "upload", error);
}

psgd_status cuda_feed_take(
	struct nn *base, struct nn_feed *feed, float *to, struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;
	struct place *place = &feed->place[feed->n_taken % 2];
	const struct nn_shape *s = &feed->shape;
	psgd_status status;

	status = cuda_check(
		cudaStreamWaitEvent(nn->place.stream, place->uploaded, 0), "upload", error);
	if (!status)
		status = cuda_check(cuda_to_planes(&nn->place, to, place->device, (int)s->n,
					    (int)s->c, (int)(s->h * s->w)),
			"batch", error);
	if (!status)
		status = cuda_check(cudaEventRecord(place->read, nn->place.stream), "batch", error);
	if (!status)
		feed->n_taken++;
	return status;
}

void cuda_feed_drop(struct nn *base, struct nn_feed *feed)
{
	(void)base;
	feed->n_taken = feed->n_loaded;
}
