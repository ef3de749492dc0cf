/* Allocation k fails, for every k: constructors leave nothing, and a failed post started nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/psgd.h>

#include "support/fault.h"
#include "support/suite.h"
#include "transport/workers.h"

#define ROUNDS 3
#define COUNT 50
#define MS INT64_C(1000000)

struct scene {
	uint32_t n, again;
	psgd_status status; /* the first failure that calling again did not mend */
	struct psgd_transport local[MAX_WORKERS], shaped[MAX_WORKERS], *use;
	struct psgd_shaper shaper[MAX_WORKERS];
	float data[MAX_WORKERS][COUNT];
	void *request[MAX_WORKERS];
	bool broken;
};

/* True if the call has failed for memory and shall be made again. */
static bool once_more(struct scene *s, psgd_status status, const void *made)
{
	if (status != PSGD_ERR_NOMEM || s->again)
		return false;
	s->broken |= made != NULL;
	s->again = 1;
	return true;
}

static psgd_status make(struct scene *s, enum kind kind)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	psgd_status status;

	do {
		memset(s->local, 0xff, sizeof(s->local));
		status = psgd_transport_local(s->n, 0, s->local);
	} while (once_more(s, status, s->local[s->n - 1].self));
	s->use = s->local;
	for (uint32_t w = 0; w < s->n && status >= 0 && kind == SHAPED; w++) {
		do
			status = psgd_shaper_model(&link, &s->shaper[w]);
		while (once_more(s, status, s->shaper[w].self));
		if (status < 0)
			break;
		do
			status = psgd_transport_shaped(&s->local[w], &s->shaper[w], &s->shaped[w]);
		while (once_more(s, status, s->shaped[w].self));
		s->use = s->shaped;
	}
	return status;
}

static psgd_status post(struct scene *s, uint32_t w, uint64_t round)
{
	struct psgd_collective c = PSGD_INIT(psgd_collective);

	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = COUNT;
	c.data = s->data[w];
	c.tag = round;
	s->request[w] = &c;
	return s->use[w].ops->post(s->use[w].self, &c, &s->request[w]);
}

/* Until every request has ended. The first that fails is told to the others by an abort. */
static psgd_status finish_all(struct scene *s)
{
	psgd_status status[MAX_WORKERS], first = PSGD_OK;
	uint32_t left = s->n;

	for (uint32_t w = 0; w < s->n; w++)
		status[w] = PSGD_PENDING;
	for (int look = 0; look < 1000 && left; look++) {
		uint32_t w = (uint32_t)look % s->n;

		if (status[w] != PSGD_PENDING)
			continue;
		status[w] = s->use[w].ops->test(s->use[w].self, s->request[w], 10 * MS, NULL);
		left -= status[w] != PSGD_PENDING;
		if (status[w] >= 0 || first)
			continue;
		first = status[w];
		s->use[w].ops->abort(s->use[w].self);
	}
	s->broken |= left > 0;
	for (uint32_t w = 0; w < s->n; w++) {
		if (status[w] >= 0)
			s->broken |= s->data[w][7] != (float)(s->n * (s->n + 1)) / 2;
		else if (status[w] != first)
			s->broken |= status[w] != PSGD_ERR_PEER_LOST;
	}
	return first;
}

static psgd_status exchange(struct scene *s)
{
	psgd_status status = PSGD_OK;

	for (uint64_t round = 0; round < ROUNDS && status >= 0; round++) {
		for (uint32_t w = 0; w < s->n && status >= 0; w++) {
			for (int i = 0; i < COUNT; i++)
				s->data[w][i] = (float)(w + 1);
			do
				status = post(s, w, round);
			while (once_more(s, status, s->request[w]));
		}
		if (status >= 0)
			status = finish_all(s);
	}
	return status;
}

static bool run(struct scene *s, enum kind kind, uint32_t n, long k)
{
	memset(s, 0, sizeof(*s));
	s->n = n;
	fault_arm(k);
	s->status = make(s, kind);
	if (s->status >= 0)
		s->status = exchange(s);
	for (uint32_t w = 0; w < n; w++) {
		psgd_transport_destroy(&s->shaped[w]);
		psgd_shaper_destroy(&s->shaper[w]);
		psgd_transport_destroy(&s->local[w]);
	}
	return fault_disarm();
}

static void try_all(enum kind kind, uint32_t n)
{
	struct scene s;
	long count, k;

	ck_assert(!run(&s, kind, n, -1));
	ck_assert_int_eq(s.status, PSGD_OK);
	count = fault_count();
	for (k = 0; k < count; k++) {
		bool fired = run(&s, kind, n, k);

		ck_assert_msg(!s.broken, "allocation %ld", k);
		if (fired && s.again)
			ck_assert_int_eq(s.status, PSGD_OK);
		else
			ck_assert_int_eq(s.status, fired ? PSGD_ERR_NOMEM : PSGD_OK);
	}
	printf("# %s, %u workers: %ld allocations at %zu places\n",
		kind == LOCAL ? "local" : "shaped", n, count, fault_n_sites());
	fflush(stdout);
}

START_TEST(threads_survive_every_failure)
{
	try_all(_i % 2 ? SHAPED : LOCAL, (uint32_t)_i / 2 + 1);
}
END_TEST

#if defined(GLOO_MODULE_DIR) || defined(NCCL_MODULE_DIR)
static psgd_status alone(void *self, const void *send, void *recv, size_t bytes)
{
	(void)self;
	memcpy(recv, send, bytes);
	return PSGD_OK;
}

/* A worker that is alone: the constructor, and what is behind it. */
START_TEST(modules_survive_every_failure)
{
	const struct psgd_oob oob = {.allgather = alone, .worker = 0, .n_workers = 1};
	char error[128];
	long k;

	for (k = 0;; k++) {
		struct psgd_transport t = {(void *)&k, &k, 1, 1};
		struct scene s = {.n = 1, .use = &t};
		psgd_status status;
		bool fired;

		fault_arm(k);
		status = open_transport(&oob, 0, error, sizeof(error), &t);
		if (status < 0) {
			ck_assert(fault_disarm());
			ck_assert_int_eq(status, PSGD_ERR_NOMEM);
			ck_assert_ptr_nonnull(strstr(error, "out of memory"));
			ck_assert(!t.ops && !t.self);
			continue;
		}
		status = exchange(&s);
		psgd_transport_destroy(&t);
		fired = fault_disarm();
		ck_assert_int_eq(status, PSGD_OK);
		ck_assert_uint_eq(s.again, fired);
		ck_assert(!s.broken);
		if (!fired)
			break;
	}
	ck_assert_int_ge(k, 6 + ROUNDS);
	printf("# a module: %ld allocations at %zu places\n", k, fault_n_sites());
	fflush(stdout);
}
END_TEST
#endif

static Suite *suite(void)
{
	Suite *s = suite_create("transport memory");
	TCase *c = tcase_create("memory");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, threads_survive_every_failure, 0, 6);
#if defined(GLOO_MODULE_DIR) || defined(NCCL_MODULE_DIR)
	tcase_add_test(c, modules_survive_every_failure);
#endif
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
