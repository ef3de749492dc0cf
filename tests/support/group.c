#include "support/group.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

void group_open(struct group *g, uint32_t n_workers, const struct psgd_tensor *tensors, size_t n,
	psgd_status (*make)(void *user, struct psgd_compressor *out), void *user,
	const struct psgd_session_options *options)
{
	memset(g, 0, sizeof(*g));
	g->n_workers = n_workers;
	for (uint32_t w = 0; w < n_workers; w++) {
		struct psgd_session_options o =
			options ? *options : PSGD_INIT(psgd_session_options);

		ck_assert_int_eq(make(user, &g->compressor[w]), PSGD_OK);
		o.compressor = &g->compressor[w];
		o.worker = w;
		o.n_workers = n_workers;
		ck_assert_int_eq(psgd_session_open(tensors, n, &o, &g->session[w]), PSGD_OK);
	}
}

static void collect(struct group *g, struct psgd_collective *c)
{
	size_t bytes = (size_t)c[0].count * psgd_dtype_bytes(c[0].dtype);

	for (uint32_t w = 1; w < g->n_workers; w++) {
		ck_assert_int_eq(c[w].kind, c[0].kind);
		ck_assert_int_eq(c[w].dtype, c[0].dtype);
		ck_assert_int_eq(c[w].count, c[0].count);
		ck_assert_uint_eq(c[w].tag, c[0].tag);
	}
	g->bytes += bytes;
	g->n_collectives++;
	for (int64_t i = 0; c[0].kind == PSGD_ALLREDUCE_SUM && i < c[0].count; i++) {
		for (uint32_t w = 1; w < g->n_workers; w++) {
			if (c[0].dtype == PSGD_F32)
				((float *)c[0].data)[i] += ((float *)c[w].data)[i];
			else
				((double *)c[0].data)[i] += ((double *)c[w].data)[i];
		}
	}
	for (uint32_t from = 0; c[0].kind == PSGD_ALLGATHER && from < g->n_workers; from++)
		for (uint32_t w = 0; w < g->n_workers; w++)
			if (w != from)
				memcpy((char *)c[w].data + from * bytes,
					(char *)c[from].data + from * bytes, bytes);
	for (uint32_t w = 0; c[0].kind != PSGD_ALLGATHER && w < g->n_workers; w++) {
		uint32_t from = c[0].kind == PSGD_BROADCAST ? c[0].root : 0;

		if (w != from)
			memcpy(c[w].data, c[from].data, bytes);
	}
}

/* Advances exchange x of every worker; OK: done. */
static psgd_status advance(struct group *g, psgd_exchange *const *x)
{
	struct psgd_collective c[GROUP_MAX];

	for (;;) {
		psgd_status status[GROUP_MAX] = {PSGD_OK};

		for (uint32_t w = 0; w < g->n_workers; w++) {
			status[w] = psgd_exchange_next(x[w], &c[w]);
			ck_assert_int_eq(status[w], status[0]);
		}
		if (status[0] != PSGD_WANT_COLLECTIVE)
			return status[0];
		collect(g, c);
	}
}

psgd_status group_step(struct group *g, struct psgd_bucket *const *buckets, size_t n_buckets,
	const struct psgd_step_info *info, struct psgd_report *report)
{
	psgd_exchange *x[64][GROUP_MAX];
	psgd_exchange *end[GROUP_MAX];
	psgd_status status = PSGD_OK;

	ck_assert_uint_le(n_buckets, 64);
	for (size_t b = 0; b < n_buckets; b++)
		for (uint32_t w = 0; w < g->n_workers; w++)
			ck_assert_int_eq(
				psgd_exchange_begin(g->session[w], &buckets[w][b], NULL, &x[b][w]),
				PSGD_OK);
	/* Later buckets are offered first: they must wait for their turn. */
	for (size_t b = n_buckets; b-- > 1;)
		ck_assert_int_ne(advance(g, x[b]), PSGD_OK);
	for (size_t b = 0; b < n_buckets && status >= 0; b++) {
		status = advance(g, x[b]);
		ck_assert_int_ne(status, PSGD_PENDING);
	}
	for (size_t b = 0; b < n_buckets; b++)
		for (uint32_t w = 0; w < g->n_workers; w++)
			psgd_exchange_end(&x[b][w]);
	if (status < 0)
		return status;
	for (uint32_t w = 0; w < g->n_workers; w++)
		ck_assert_int_eq(
			psgd_exchange_begin_finish(g->session[w], info, w ? NULL : report, &end[w]),
			PSGD_OK);
	status = advance(g, end);
	for (uint32_t w = 0; w < g->n_workers; w++)
		psgd_exchange_end(&end[w]);
	return status;
}

void group_close(struct group *g)
{
	for (uint32_t w = 0; w < g->n_workers; w++) {
		psgd_session_close(&g->session[w]);
		psgd_compressor_destroy(&g->compressor[w]);
	}
}
