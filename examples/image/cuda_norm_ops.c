/* Norms of the CUDA engine. SPDX-License-Identifier: MIT */
#include "cuda_nn.h"

#include <stdlib.h>
#include <string.h>

struct norm_op {
	struct cuda_op op;
	struct cuda_norm norm;
};

#define NORM_VECTORS 5

static size_t vector_values(int c)
{
	return ((size_t)c + 15) / 16 * 16;
}

static size_t vectors_bytes(const struct cuda_norm *norm)
{
	return NORM_VECTORS * vector_values(norm->c) * sizeof(float);
}

static size_t sums_bytes(const struct cuda_norm *norm)
{
	return 2 * (size_t)norm->c * sizeof(double);
}

/* Vectors are in front of the parts and what they add up to. */
static size_t norm_bytes(const struct cuda_norm *norm)
{
	return vectors_bytes(norm) + sums_bytes(norm) +
	       cuda_norm_parts(norm->n, norm->c, norm->pixels) * sizeof(double);
}

static float *norm_vector(const struct cuda_nn *nn, const struct cuda_norm *norm, size_t i)
{
	return (float *)nn->scratch + i * vector_values(norm->c);
}

static double *norm_sums(const struct cuda_nn *nn, const struct cuda_norm *norm)
{
	return (double *)norm_vector(nn, norm, NORM_VECTORS);
}

static struct cuda_norm norm_of(const struct nn_shape *s, bool relu, float epsilon)
{
	return (struct cuda_norm){.n = (int)s->n,
		.c = (int)s->c,
		.pixels = (int)(s->h * s->w),
		.relu = relu,
		.epsilon = epsilon};
}

/* With the data of a call. */
static struct cuda_norm norm_with(
	const struct cuda_nn *nn, const struct cuda_op *op, const struct nn_data *data)
{
	struct cuda_norm norm = ((const struct norm_op *)op)->norm;

	norm.x = data->at[NN_SRC];
	norm.dy = data->at[NN_DIFF_DST];
	norm.out = op->pass == NN_BACK_DATA ? data->at[NN_DIFF_SRC] : data->at[NN_DST];
	norm.mean = data->at[NN_MEAN];
	norm.shift = data->at[NN_SHIFT];
	norm.scale = norm_vector(nn, &norm, 0);
	norm.dy_mean = norm_vector(nn, &norm, 1);
	norm.slope = norm_vector(nn, &norm, 2);
	norm.parts = norm_sums(nn, &norm) + 2 * (size_t)norm.c;
	return norm;
}

static psgd_status norm_forward(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	struct cuda_norm norm = norm_with(nn, op, data), moments = norm;
	cudaError_t result = cudaSuccess;

	moments.mean = NULL;
	if (op->pass == NN_TRAIN)
		result = cuda_norm_moments(&nn->place, moments);
	if (op->pass == NN_TRAIN && result == cudaSuccess)
		result = cuda_norm_statistics(
			&nn->place, moments, data->at[NN_MEAN], data->at[NN_VARIANCE]);
	if (result == cudaSuccess)
		result = cuda_norm_scale(&nn->place, norm, data->at[NN_SCALE],
			data->at[NN_VARIANCE], norm_vector(nn, &norm, 0));
	if (result == cudaSuccess)
		result = cuda_norm_apply(&nn->place, norm);
	return cuda_check(result, "batch norm", error);
}

static psgd_status norm_back(struct cuda_nn *nn, struct cuda_op *op, const struct nn_data *data,
	struct image_error *error)
{
	struct cuda_norm norm = norm_with(nn, op, data);
	cudaError_t result = cuda_norm_scale(&nn->place, norm, data->at[NN_SCALE],
		data->at[NN_VARIANCE], norm_vector(nn, &norm, 0));

	if (result == cudaSuccess)
		result = cuda_norm_products(&nn->place, norm);
	if (result == cudaSuccess)
		result = cuda_norm_slopes(&nn->place, norm, data->at[NN_VARIANCE],
			data->at[NN_DIFF_SCALE], data->at[NN_DIFF_SHIFT], norm_vector(nn, &norm, 1),
			norm_vector(nn, &norm, 2));
	if (result == cudaSuccess)
		result = cuda_norm_spread(&nn->place, norm);
	return cuda_check(result, "batch norm backward", error);
}

psgd_status cuda_norm_op(struct nn *base, enum nn_pass pass, const struct nn_shape *in, bool relu,
	float epsilon, const struct nn_op *forward, struct nn_op **out, struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;
	struct norm_op *op;
	struct cuda_op *made;
	psgd_status status = cuda_op_new(sizeof(*op), pass, in, in, &made, error);

	(void)forward;
	*out = NULL;
	if (status)
		return status;
	op = (struct norm_op *)made;
	op->norm = norm_of(in, relu, epsilon);
	op->op.run = pass == NN_BACK_DATA ? norm_back : norm_forward;
	status = cuda_reserve(nn, norm_bytes(&op->norm), error);
	if (status)
		free(op);
	else
		*out = &op->op.base;
	return status;
}

/* Room for the vectors of a norm that syncs, and its sums behind them. */
static psgd_status take_post(struct cuda_nn *nn, const struct cuda_norm *norm,
	struct cuda_post **out, struct image_error *error)
{
	struct cuda_post *post = &nn->post[nn->n_posts++ % 2];
	size_t bytes = vectors_bytes(norm) + sums_bytes(norm);
	void *larger = NULL;
	psgd_status status = cuda_check(cudaEventSynchronize(post->sent), "norm", error);

	*out = post;
	if (status || bytes <= post->bytes)
		return status;
	status = cuda_check(cudaHostAlloc(&larger, bytes, cudaHostAllocDefault), "norm", error);
	if (status)
		return status;
	if (post->host)
		(void)cudaFreeHost(post->host);
	post->host = larger;
	post->bytes = bytes;
	return PSGD_OK;
}

static psgd_status send_vectors(struct cuda_nn *nn, const struct cuda_norm *norm,
	const struct norm_rows *all, struct cuda_post *post, struct image_error *error)
{
	const float *from[NORM_VECTORS] = {
		all->mean, all->scale, all->shift, all->dy_mean, all->slope};
	float *vectors = post->host;
	psgd_status status;

	for (size_t i = 0; i < NORM_VECTORS; i++)
		memcpy(vectors + i * vector_values(norm->c), from[i],
			(size_t)norm->c * sizeof(float));
	status = cuda_check(cudaMemcpyAsync(nn->scratch, vectors, vectors_bytes(norm),
				    cudaMemcpyHostToDevice, nn->place.stream),
		"norm", error);
	return status ? status
		      : cuda_check(cudaEventRecord(post->sent, nn->place.stream), "norm", error);
}

static psgd_status take_sums(struct cuda_nn *nn, const struct cuda_norm *norm,
	const struct norm_rows *all, struct cuda_post *post, struct image_error *error)
{
	double *sums = norm_sums(nn, norm);
	char *host = (char *)post->host + vectors_bytes(norm);
	size_t bytes = sums_bytes(norm);
	cudaStream_t stream = nn->place.stream;
	cudaError_t result = cuda_norm_collect(&nn->place, *norm, sums);

	if (result == cudaSuccess)
		result = cudaMemcpyAsync(host, sums, bytes, cudaMemcpyDeviceToHost, stream);
	if (result == cudaSuccess)
		result = cudaStreamSynchronize(stream);
	if (result == cudaSuccess) {
		memcpy(all->sum, host, bytes / 2);
		memcpy(all->product, host + bytes / 2, bytes / 2);
	}
	return cuda_check(result, "sums of a norm", error);
}

psgd_status cuda_norm_loop(struct nn *base, enum norm_loop loop, const struct nn_shape *shape,
	const struct norm_rows *all, struct image_error *error)
{
	struct cuda_nn *nn = (struct cuda_nn *)base;
	struct cuda_norm norm = norm_of(shape, all->relu, 0.0f);
	const struct cuda_place *place = &nn->place;
	struct cuda_post *post;
	psgd_status status;

	if (!cuda_fits(shape))
		return image_fail(error, PSGD_ERR_UNSUPPORTED, "a norm has too many values");
	status = cuda_reserve(nn, norm_bytes(&norm), error);
	if (!status)
		status = take_post(nn, &norm, &post, error);
	if (!status)
		status = send_vectors(nn, &norm, all, post, error);
	if (status)
		return status;
	norm.x = all->x;
	norm.dy = all->dy;
	norm.out = all->out;
	norm.mean = norm_vector(nn, &norm, 0);
	norm.scale = norm_vector(nn, &norm, 1);
	norm.shift = norm_vector(nn, &norm, 2);
	norm.dy_mean = norm_vector(nn, &norm, 3);
	norm.slope = norm_vector(nn, &norm, 4);
	norm.parts = norm_sums(nn, &norm) + 2 * (size_t)norm.c;
	if (loop == NORM_APPLY)
		return cuda_check(cuda_norm_apply(place, norm), "norm", error);
	if (loop == NORM_SPREAD)
		return cuda_check(cuda_norm_spread(place, norm), "norm", error);
	status = cuda_check(loop == NORM_MOMENTS ? cuda_norm_moments(place, norm)
						 : cuda_norm_products(place, norm),
		"norm", error);
	return status ? status : take_sums(nn, &norm, all, post, error);
}
