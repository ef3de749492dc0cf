#include "grads.h"

const struct psgd_tensor grads_tensors[TENSORS] = {
	{.id = 10, .dtype = PSGD_F32, .n_dims = 2, .dims = {64, 48}, .name = "w1"},
	{.id = 11, .dtype = PSGD_F32, .n_dims = 1, .dims = {64}},
	{.id = 12, .dtype = PSGD_F32, .n_dims = 4, .dims = {32, 16, 3, 3}},
	{.id = 13, .dtype = PSGD_F32, .n_dims = 2, .dims = {20, 100}},
	{.id = 14, .dtype = PSGD_F32},
};

struct team_options grads_team(const struct psgd_powersgd_options *powersgd)
{
	return (struct team_options){
		.tensors = grads_tensors, .n_tensors = TENSORS, .powersgd = powersgd};
}

void grads_init(struct grads *g)
{
	for (int i = 0; i < TENSORS; i++)
		g->data[i] = calloc((size_t)psgd_tensor_count(&grads_tensors[i]), sizeof(float));
}

void grads_fill(struct grads *g, uint64_t seed)
{
	struct rng rng = {seed};

	for (int i = 0; i < TENSORS; i++)
		for (int64_t k = 0; k < psgd_tensor_count(&grads_tensors[i]); k++)
			g->data[i][k] = rng_float(&rng);
}

uint64_t grads_hash(const struct grads *g)
{
	uint64_t hash = 1469598103934665603u;

	for (int i = 0; i < TENSORS; i++) {
		const unsigned char *p = (const unsigned char *)g->data[i];

		for (int64_t k = 0; k < 4 * psgd_tensor_count(&grads_tensors[i]); k++)
			hash = (hash ^ p[k]) * 1099511628211u;
	}
	return hash;
}

void grads_free(struct grads *g)
{
	for (int i = 0; i < TENSORS; i++)
		free(g->data[i]);
}

psgd_status grads_submit(struct member *me, const struct grads *g, int from, int to)
{
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_grad grads[TENSORS];

	for (int i = from; i < to; i++)
		grads[i - from] = (struct psgd_grad){grads_tensors[i].id, g->data[i]};
	bucket.grads = grads;
	bucket.n_grads = (size_t)(to - from);
	return psgd_session_submit(me->session, &bucket, NULL, NULL);
}

psgd_status grads_step(struct member *me, const struct grads *g, struct psgd_step_info *info,
	struct psgd_report *r)
{
	psgd_status status = grads_submit(me, g, 0, 2);

	if (status >= 0)
		status = grads_submit(me, g, 2, 3);
	if (status >= 0)
		status = grads_submit(me, g, 3, TENSORS);
	return status < 0 ? status : psgd_session_finish_step(me->session, info, r);
}
