/*
 * Allocation k fails, for every k, on some worker of a running session: the call that needed it
 * says so, what it had not started can be called again, and nobody crashes, hangs or leaks.
 */
#include <stdio.h>
#include <string.h>

#include "crew.h"
#include "support/fault.h"
#include "support/suite.h"

#define MAX_RUNS 3000

static const struct crew_variant variants[] = {
	{"dense, 1 worker", .n_workers = 1},
	{"dense, 2 workers", .n_workers = 2},
	{"powersgd, 2 workers", .n_workers = 2, .powersgd = true, .rank = 2,
		.flags = PSGD_SESSION_NO_OVERLAP | PSGD_SESSION_GRAD_NORM},
	{"controlled, 2 workers", .n_workers = 2, .threads = 3, .powersgd = true,
		.controlled = true, .flags = PSGD_SESSION_GRAD_SUM},
	{"controlled from step 2, 1 worker", .n_workers = 1, .powersgd = true, .controlled = true,
		.late = true, .flags = PSGD_SESSION_GRAD_SUM},
	{"controlled, 3 workers, shaped", .n_workers = 3, .powersgd = true, .controlled = true,
		.shaped = true},
};

/* Runs all workers; `at`, `k`: see fault_arm_at, or fault_arm for FAULT_SITES. */
static bool run(const struct crew_variant *v, size_t at, long k, struct crew *crew)
{
	crew_start(crew, v);
	if (at == FAULT_SITES)
		fault_arm(k);
	else
		fault_arm_at(at, k);
	crew_go(crew);
	crew_join(crew);
	return fault_disarm();
}

/* The failure is told by the worker that had it; the others lost a peer, or noticed nothing. */
static void judge(const struct crew_variant *v, const struct crew *crew, bool fired, uint64_t hash,
	const char *what)
{
	bool told = false, failed = false, again = false;

	for (uint32_t i = 0; i < v->n_workers; i++) {
		const struct crew_worker *w = &crew->workers[i];

		ck_assert_msg(
			!w->loose, "%s, %s: worker %u: a call broke its promise", v->name, what, i);
		ck_assert_msg(w->status >= 0 || w->status == PSGD_ERR_NOMEM ||
				      w->status == PSGD_ERR_PEER_LOST ||
				      w->status == PSGD_ERR_TRANSPORT,
			"%s, %s: worker %u: %s: %s", v->name, what, i, w->where,
			psgd_status_name(w->status));
		told |= w->status == PSGD_ERR_NOMEM;
		failed |= w->status < 0;
		again |= w->again;
		ck_assert_msg(w->status < 0 || w->hash == hash,
			"%s, %s: worker %u: other gradients", v->name, what, i);
	}
	ck_assert_msg(failed == told, "%s, %s: a peer is lost, and nobody was out of memory",
		v->name, what);
	ck_assert_msg(
		fired == (told || again), "%s, %s: a failure that nobody told", v->name, what);
	ck_assert_int_eq(fault_device_blocks(), 0);
}

/* Places that the counting order has missed: threads do not take turns alike in every run. */
static size_t aim_at_the_rest(const struct crew_variant *v, uint64_t hash)
{
	struct crew crew;
	size_t n = fault_n_sites(), left = 0;

	for (size_t site = 0; site < n; site++) {
		for (int i = 0; i < 20 && !fault_has_failed(site); i++)
			judge(v, &crew, run(v, site, 0, &crew), hash, "aimed");
		left += !fault_has_failed(site);
	}
	return left;
}

START_TEST(sessions_survive_every_failure)
{
	const struct crew_variant *v = &variants[_i];
	struct crew crew;
	long k, clean;
	uint64_t hash;

	ck_assert(!run(v, FAULT_SITES, -1, &crew));
	clean = fault_count();
	hash = crew.workers[0].hash;
	judge(v, &crew, false, hash, "clean");
	for (k = 0; k < MAX_RUNS; k++) {
		bool fired = run(v, FAULT_SITES, k, &crew);
		char what[32];

		snprintf(what, sizeof(what), "allocation %ld", k);
		judge(v, &crew, fired, hash, what);
		if (!fired && k > clean)
			break;
	}
	ck_assert_int_lt(k, MAX_RUNS);
	ck_assert_uint_eq(aim_at_the_rest(v, hash), 0);
	printf("# %s: %ld allocations at %zu places\n", v->name, clean, fault_n_sites());
	fflush(stdout);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("memory");
	TCase *c = tcase_create("memory");

	tcase_set_timeout(c, 240);
	tcase_add_loop_test(
		c, sessions_survive_every_failure, 0, sizeof(variants) / sizeof(variants[0]));
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
