/* No compression: the values of a bucket one after the other, one all-reduce, their mean. */
#include <psgd/compressor.h>

#include <string.h>

#include "base/base.h"
#include "base/index.h"
#include "base/kernels.h"

struct dense {
	struct psgd_scope scope;
	struct psgd__index index;
	int64_t *counts;	   /* values per tensor */
	struct psgd__matrix *list; /* of a bucket, with room for every tensor */
};

static void dense_detach(void *self)
{
	struct dense *d = self;

	free(d->list);
	free(d->counts);
	d->list = NULL;
	d->counts = NULL;
	psgd__index_finish(&d->index);
}

static psgd_status dense_attach(void *self, const struct psgd_scope *scope)
{
	struct dense *d = self;

	if (d->counts)
		return PSGD_ERR_STATE;
	PSGD__TRY(psgd__index_init(&d->index, scope->tensors, scope->n_tensors));
	d->counts = psgd__calloc(scope->n_tensors, sizeof(*d->counts));
	d->list = psgd__calloc(scope->n_tensors, sizeof(*d->list));
	if (!d->counts || !d->list) {
		dense_detach(d);
		return PSGD_ERR_NOMEM;
	}
	for (size_t i = 0; i < scope->n_tensors; i++)
		d->counts[i] = psgd_tensor_count(&scope->tensors[i]);
	d->scope = *scope;
	return PSGD_OK;
}

static psgd_status dense_plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out)
{
	struct dense *d = self;
	size_t near = 0;

	(void)step;
	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	out->n_rounds = 1;
	for (size_t i = 0; i < bucket->n_grads; i++) {
		size_t at = psgd__index_find_near(&d->index, bucket->grads[i].id, &near);

		if (at == SIZE_MAX)
			return PSGD_ERR_INVALID;
		out->round[0].count += d->counts[at];
	}
	out->raw_bytes = (uint64_t)out->round[0].count * sizeof(float);
	return PSGD_OK;
}

static psgd_status dense_run(void *self, struct psgd_round *round)
{
	struct dense *d = self;
	const struct psgd_device *device = d->scope.device;
	const struct psgd_bucket *bucket = round->bucket;
	struct psgd__span sums = {.data = round->message[0]};
	size_t near = 0;

	for (size_t i = 0; i < bucket->n_grads; i++) {
		const struct psgd_grad *grad = &bucket->grads[i];
		int64_t count = d->counts[psgd__index_find_near(&d->index, grad->id, &near)];

		d->list[i] = (struct psgd__matrix){
			.g = grad->data, .p = sums.data + sums.count, .n = count, .m = 1};
		sums.count += count;
	}
	if (round->index == 0)
		return device->ops->kernels->absorb_project(
			device->self, d->list, bucket->n_grads, round->stream);
	const struct psgd__finish finish = {
		.list = d->list,
		.count = bucket->n_grads,
		.messages = &sums,
		.n_messages = 1,
		.nonfinite = &round->nonfinite,
		.mean = 1.0f / (float)d->scope.n_workers,
		.as_is = 1,
	};

	return device->ops->kernels->finish(device->self, &finish, round->stream);
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
