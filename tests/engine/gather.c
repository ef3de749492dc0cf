#include "gather.h"

#include <stdlib.h>
#include <string.h>

struct gather {
	struct gather_options options;
	struct psgd_scope scope;
};

static int64_t count_of(const struct gather *g, uint32_t id)
{
	for (size_t i = 0; i < g->scope.n_tensors; i++) {
		if (g->scope.tensors[i].id == id)
			return psgd_tensor_count(&g->scope.tensors[i]);
	}
	abort();
}

static int64_t values_of(const struct gather *g, const struct psgd_bucket *bucket)
{
	int64_t values = 0;

	for (size_t i = 0; i < bucket->n_grads; i++)
		values += count_of(g, bucket->grads[i].id);
	return values;
}

/* The bucket's value number `at`. */
static float *value_at(const struct gather *g, const struct psgd_bucket *bucket, int64_t at)
{
	size_t i = 0;

	for (; at >= count_of(g, bucket->grads[i].id); i++)
		at -= count_of(g, bucket->grads[i].id);
	return bucket->grads[i].data + at;
}

static psgd_status attach(void *self, const struct psgd_scope *scope)
{
	((struct gather *)self)->scope = *scope;
	return PSGD_OK;
}

static void detach(void *self)
{
	(void)self;
}

static psgd_status plan(
	void *self, const struct psgd_bucket *bucket, uint64_t step, struct psgd_plan *out)
{
	const struct gather *g = self;
	int64_t values = values_of(g, bucket);

	(void)step;
	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	out->raw_bytes = 4 * (uint64_t)values;
	out->n_rounds = g->options.n_rounds ? g->options.n_rounds : 3;
	out->round[0].kind = g->options.sums ? 0 : PSGD_ALLGATHER;
	out->round[0].count = (values + 1) / 2;
	out->round[1].dtype = PSGD_F64;
	out->round[1].count = values / 2 + 1;
	out->round[2] = (struct psgd_payload){PSGD_ALLGATHER, PSGD_U8, LABEL};
	if (g->options.instead.kind)
		out->round[0] = g->options.instead;
	return PSGD_OK;
}

static psgd_status plan_at(
	void *self, const struct psgd_bucket *bucket, uint32_t rank, struct psgd_plan *out)
{
	return plan(self, bucket, rank, out);
}

static psgd_status finish(const struct gather *g, struct psgd_round *round)
{
	int64_t values = values_of(g, round->bucket), half = (values + 1) / 2;
	const uint8_t *labels = round->message[2];
	const float *first = round->message[0];
	const double *second = round->message[1];
	const double n = g->scope.n_workers;

	for (uint32_t w = 0; w < g->scope.n_workers; w++) {
		if (labels[w * LABEL] != w || labels[w * LABEL + 2] != (uint8_t)round->step)
			return PSGD_ERR_INTERNAL;
	}
	for (int64_t i = 0; i < values; i++) {
		double sum = i < half ? 0 : second[i - half];

		for (uint32_t w = 0; i < half && w < (g->options.sums ? 1 : n); w++)
			sum += first[w * half + i];
		*value_at(g, round->bucket, i) = (float)(sum / n);
	}
	return PSGD_OK;
}

static psgd_status run(void *self, struct psgd_round *round)
{
	const struct gather *g = self;
	int64_t values = values_of(g, round->bucket), half = (values + 1) / 2;
	uint32_t worker = g->scope.worker;

	if (round->index == 0) {
		float *to = (float *)round->message[0] + (g->options.sums ? 0 : worker * half);

		for (int64_t i = 0; i < half; i++)
			to[i] = *value_at(g, round->bucket, i);
	} else if (round->index == 1) {
		double *to = round->message[1];

		for (int64_t i = half; i < values; i++)
			to[i - half] = *value_at(g, round->bucket, i);
		to[values - half] = 1;
	} else if (round->index == 2) {
		uint8_t *to = (uint8_t *)round->message[2] + worker * LABEL;

		to[0] = (uint8_t)worker;
		to[1] = 0x5a;
		to[2] = (uint8_t)round->step;
	} else {
		return finish(g, round);
	}
	return PSGD_OK;
}

static psgd_status set_ranks(void *self, const uint32_t *ranks)
{
	(void)self, (void)ranks;
	return PSGD_OK;
}

static const struct psgd_compressor_ops ops = {
	.size = sizeof(ops),
	.name = "gather",
	.attach = attach,
	.detach = detach,
	.plan = plan,
	.plan_at = plan_at,
	.run = run,
	.set_ranks = set_ranks,
	.destroy = free,
};

psgd_status gather_make(void *options, struct psgd_compressor *out)
{
	struct gather *g = calloc(1, sizeof(*g));

	if (!g)
		return PSGD_ERR_NOMEM;
	if (options)
		g->options = *(struct gather_options *)options;
	*out = (struct psgd_compressor){&ops, g};
	return PSGD_OK;
}
