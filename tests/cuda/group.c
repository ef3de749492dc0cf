#include "cuda/group.h"

static struct twin some(struct devices *d, size_t n, struct rng *rng)
{
	struct twin x = twin_new(d, n, rng_range(rng, 0, 3) ? 0 : 1);

	twin_fill(&x, rng);
	return x;
}

struct group *group_new(struct devices *d, const struct sizes *sizes, struct rng *rng)
{
	struct group *group = calloc(1, sizeof(*group));

	group->count = sizes->count;
	for (size_t k = 0; k < group->count; k++) {
		const uint32_t n = rng_range(rng, 1, sizes->most_n);
		const uint32_t m =
			rng_range(rng, 1, sizes->most_m) * (rng_range(rng, 0, 1) ? 4 : 1);
		const uint32_t r = k == 0	? sizes->most_r
				   : k % 7 == 3 ? 0
						: rng_range(rng, 0, sizes->most_r);
		const bool e = rng_range(rng, 0, 3);

		group->g[k] = some(d, (size_t)n * m, rng);
		if (e)
			group->e[k] = some(d, (size_t)n * m, rng);
		group->p[k] = some(d, (size_t)n * (r ? r : m), rng);
		group->q[k] = some(d, (size_t)m * r, rng);
		group->keep[k] = some(d, (size_t)m * r, rng);
		group->cpu[k] = (struct psgd__matrix){
			.g = group->g[k].host,
			.e = group->e[k].host,
			.p = group->p[k].host,
			.q = group->q[k].host,
			.keep = r ? group->keep[k].host : NULL,
			.n = n,
			.m = m,
			.r = r,
		};
		group->cuda[k] = group->cpu[k];
		group->cuda[k].g = group->g[k].device;
		group->cuda[k].e = group->e[k].device;
		group->cuda[k].p = group->p[k].device;
		group->cuda[k].q = group->q[k].device;
		group->cuda[k].keep = r ? group->keep[k].device : NULL;
	}
	return group;
}

void group_send(struct devices *d, const struct group *group)
{
	for (size_t k = 0; k < group->count; k++) {
		twin_send(d, &group->g[k]);
		if (group->e[k].host)
			twin_send(d, &group->e[k]);
		twin_send(d, &group->p[k]);
		twin_send(d, &group->q[k]);
		twin_send(d, &group->keep[k]);
	}
}

void group_equal(struct devices *d, const struct group *group, bool q)
{
	for (size_t k = 0; k < group->count; k++) {
		twin_equal(d, &group->g[k], "g");
		if (group->e[k].host)
			twin_equal(d, &group->e[k], "e");
		twin_equal(d, &group->p[k], "p");
		twin_equal(d, &group->keep[k], "keep");
		if (q)
			twin_equal(d, &group->q[k], "q");
	}
}

void group_free(struct devices *d, struct group *group)
{
	for (size_t k = 0; k < group->count; k++) {
		twin_free(d, &group->g[k]);
		twin_free(d, &group->e[k]);
		twin_free(d, &group->p[k]);
		twin_free(d, &group->q[k]);
		twin_free(d, &group->keep[k]);
	}
	free(group);
}
