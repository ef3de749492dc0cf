/* Asynchronous devices: the same bits as the CPU's, whatever the device puts off. */
#include <string.h>

#include "hand.h"
#include "rig.h"
#include "support/suite.h"

/* ---- by exchanges ---- */

static void same_state(const struct psgd__kept *a, const struct psgd__kept *b)
{
	ck_assert_uint_eq(a->n, b->n);
	for (size_t i = 0; i < a->n; i++) {
		ck_assert_str_eq(a->arrays[i].array.name, b->arrays[i].array.name);
		ck_assert_uint_eq(a->arrays[i].bytes, b->arrays[i].bytes);
		ck_assert_msg(!memcmp(a->arrays[i].data, b->arrays[i].data, a->arrays[i].bytes),
			"%s differs", a->arrays[i].array.name);
	}
}

static void same_report(const struct psgd_report *a, const struct psgd_report *b)
{
	ck_assert_uint_eq(a->step, b->step);
	ck_assert_uint_eq(a->raw_bytes, b->raw_bytes);
	ck_assert_uint_eq(a->payload_bytes, b->payload_bytes);
	ck_assert_uint_eq(a->control_bytes, b->control_bytes);
	ck_assert_uint_eq(a->n_buckets, b->n_buckets);
	ck_assert_uint_eq(a->n_messages, b->n_messages);
	ck_assert_uint_eq(a->rank_max, b->rank_max);
	ck_assert_uint_eq(a->n_nonfinite, b->n_nonfinite);
	ck_assert(!memcmp(&a->grad_norm, &b->grad_norm, sizeof(double)));
	ck_assert(!memcmp(&a->grad_sum_norm, &b->grad_sum_norm, sizeof(double)));
}

START_TEST(same_bits_by_exchanges)
{
	static const uint32_t flags[] = {0, PSGD_SESSION_GRAD_NORM, PSGD_SESSION_GRAD_SUM,
		PSGD_SESSION_GRAD_NORM | PSGD_SESSION_GRAD_SUM};
	const struct hand what = {.seed = (uint64_t)_i + 1,
		.n_workers = (uint32_t)_i % HAND_WORKERS + 1,
		.flags = flags[_i / 3 % 4],
		.dense = _i % 7 == 6,
		.with_trial = _i % 5 == 4,
		.steps = HAND_STEPS};
	enum lazy_mode mode = _i % 4 ? LAZY_WAITED : LAZY_DELAYED;
	struct hand plain = what, lazy = what;
	uint32_t n_nonfinite = 0;
	struct psgd_device device;

	ck_assert_int_eq(lazy_open(mode, what.seed, &device), PSGD_OK);
	lazy.device = &device;
	ck_assert_int_eq(hand_run(&plain), PSGD_OK);
	ck_assert_msg(hand_run(&lazy) == PSGD_OK, "%s", lazy.error);
	ck_assert(!plain.broken && !lazy.broken);
	for (int step = 0; step < what.steps; step++) {
		ck_assert_uint_eq(lazy.hash[step], plain.hash[step]);
		same_report(&lazy.report[step], &plain.report[step]);
		times_add_up(&lazy.report[step]);
		ck_assert_int_gt(lazy.report[step].encode_ns, 0);
		n_nonfinite += lazy.report[step].n_nonfinite;
	}
	ck_assert_uint_gt(n_nonfinite, 0);
	for (uint32_t w = 0; w < what.n_workers; w++) {
		same_state(&lazy.kept[w], &plain.kept[w]);
		psgd__kept_free(&lazy.kept[w]);
		psgd__kept_free(&plain.kept[w]);
	}
	ck_assert_int_eq(lazy_leaks(&device), 0);
	psgd_device_destroy(&device);
}
END_TEST

/* ---- sessions ---- */

static const struct crew_variant variants[] = {
	{"dense", .n_workers = 1},
	{"ranks by hand", .n_workers = 2, .powersgd = true, .rank = 2},
	{"norms", .n_workers = 3, .powersgd = true, .rank = 3, .flags = PSGD_SESSION_GRAD_NORM},
	{"no overlap", .n_workers = 2, .powersgd = true, .rank = 2,
		.flags = PSGD_SESSION_NO_OVERLAP | PSGD_SESSION_GRAD_SUM},
	{"controlled", .n_workers = 3, .powersgd = true, .controlled = true, .rank = 2,
		.flags = PSGD_SESSION_GRAD_SUM},
	{"late", .n_workers = 2, .powersgd = true, .controlled = true, .late = true, .shaped = true,
		.rank = 1},
};
#define N_VARIANTS (int)(sizeof(variants) / sizeof(variants[0]))

/* All that a trainer does, trials, state, sums and broadcasts too. */
START_TEST(same_bits_by_sessions)
{
	const struct crew_variant *v = &variants[_i];
	struct crew plain, lazy;
	struct rig rig;

	crew_start(&plain, v);
	crew_go(&plain);
	crew_join(&plain);
	for (uint64_t seed = 1; seed <= 4; seed++) {
		rig_open(&rig, seed * 10);
		rig_start(&rig, &lazy, v);
		crew_join(&lazy);
		for (uint32_t w = 0; w < v->n_workers; w++) {
			ck_assert_msg(lazy.workers[w].status == PSGD_OK, "%s: %s: %s", v->name,
				lazy.workers[w].where, lazy.workers[w].error);
			ck_assert(!lazy.workers[w].loose);
			ck_assert_uint_eq(lazy.workers[w].hash, plain.workers[w].hash);
		}
		rig_close(&rig);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("device");
	TCase *c = tcase_create("device");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, same_bits_by_exchanges, 0, 24);
	tcase_add_loop_test(c, same_bits_by_sessions, 0, N_VARIANTS);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
