/* No compression: the values of a bucket one after the other, one all-reduce, their mean. */
#include <psgd/compressor.h>

#include <string.h>

#include "base/base.h"
#include "base/index.h"
#include "base/kernels.h"

struct dense {
	struct psgd_scope scope;
	struct psgd__index index;
	int64_t *counts; /* values per tensor */
};

static psgd_status dense_attach(void *self, const struct psgd_scope *scope)
{
	struct dense *d = self;

	if (d->counts)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__index_init(&d->index, scope->tensors, scope->n_tensors));
	d->counts = psgd__calloc(scope->n_tensors, sizeof(*d->counts));
	if (!d->counts) {
		psgd__index_finish(&d->index);
		return PSGD_ERR_NOMEM;
	}
	for (size_t i = 0; i < scope->n_tensors; i++)
		d->counts[i] = psgd_tensor_count(&scope->tensors[i]);
	d->scope = *scope;
	return PSGD_OK;
}

static void dense_detach(void *self)
{
	struct dense *d = self;

	free(d->counts);
	d->counts = NULL;
	psgd__index_finish(&d->index);
}

static psgd_status dense_plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out)
{
	struct dense *d = self;

	(void)step;
	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	out->n_rounds = 1;
	for (size_t i = 0; i < bucket->n_grads; i++) {
		size_t at = psgd__index_find(&d->index, bucket->grads[i].id);

		if (at == SIZE_MAX)
			return PSGD_ERR_INVALID;
		out->round[0].count += d->counts[at];
	}
	out->raw_bytes = (uint64_t)out->round[0].count * sizeof(float);
	return PSGD_OK;
}

static psgd_status encode(struct dense *d, const struct psgd_round *round)
{
	const struct psgd_device *device = d->scope.device;
	float *at = round->message[0];

	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];
		int64_t count = d->counts[psgd__index_find(&d->index, grad->id)];

		PSGD__TRY(device->ops->copy(device->self, at, grad->data,
			(size_t)count * sizeof(float), round->stream));
		at += count;
	}
	return PSGD_OK;
}

static psgd_status decode(struct dense *d, struct psgd_round *round)
{
	const struct psgd_device *device = d->scope.device;
	const struct psgd_kernels *kernels = device->ops->kernels;
	const float mean = 1.0f / (float)d->scope.n_workers;
	float *at = round->message[0];

	for (size_t i = 0; i < round->bucket->n_grads; i++) {
		const struct psgd_grad *grad = &round->bucket->grads[i];
		int64_t count = d->counts[psgd__index_find(&d->index, grad->id)];
		struct psgd__span sum = {at, count};
		int finite;

		PSGD__TRY(kernels->axpby(
			device->self, count, mean, at, 0.0f, grad->data, round->stream));
		PSGD__TRY(kernels->finite(device->self, &sum, 1, &finite, round->stream));
		round->nonfinite |= !finite;
		at += count;
	}
	return PSGD_OK;
}

static psgd_status dense_run(void *self, struct psgd_round *round)
{
	return round->index == 0 ? encode(self, round) : decode(self, round);
}

static const struct psgd_compressor_ops dense_ops = {
	.size = sizeof(dense_ops),
	.name = "dense",
	.attach = dense_attach,
	.detach = dense_detach,
	.plan = dense_plan,
	.run = dense_run,
	.destroy = free,
};

psgd_status psgd_compressor_dense(struct psgd_compressor *out)
{
	if (!out)
		return PSGD_ERR_INVALID;
	memset(out, 0, sizeof(*out));
	out->self = psgd__calloc(1, sizeof(struct dense));
	if (!out->self)
		return PSGD_ERR_NOMEM;
	out->ops = &dense_ops;
	return PSGD_OK;
}
