/* The fitted line of the live cap: it finds the link, outliers do not move it, changes do. */
#include "control/control.h"
#include "support/suite.h"

#include <string.h>

#include "scene.h"

struct wire {
	struct psgd__link_fit fit;
	struct scene random;
	double delay, per_byte, noise, outliers;
};

static void wire_init(struct wire *w, uint64_t seed)
{
	memset(w, 0, sizeof(*w));
	w->random = scene_new(seed);
}

/* A step with the given sizes. */
static bool step(struct wire *w, const uint64_t *bytes, size_t n, double slow)
{
	struct psgd_message_time message[256] = {0};

	w->random.noise = w->noise;
	for (size_t i = 0; i < n; i++) {
		double ns = (w->delay + w->per_byte * (double)bytes[i]) * slow;

		if (scene_random(&w->random) < w->outliers)
			ns *= 2.0 + 50.0 * scene_random(&w->random);
		message[i].bytes = bytes[i];
		message[i].ns = scene_jitter(&w->random, ns);
	}
	return psgd__link_fit_add(&w->fit, message, n);
}

static double line(const struct wire *w, double bytes)
{
	return w->fit.delay_ns + w->fit.ns_per_byte * bytes;
}

static const uint64_t mixed[] = {4096, 40000, 8192, 20000, 6000, 80000, 4096, 30000};

/* Without noise the line is found exactly, but for the weak wish that the delay be small. */
START_TEST(exact)
{
	static const double delays[] = {0, 1e5, 5e6, 1e8}, rates[] = {0.8, 8, 80, 800};

	for (size_t d = 0; d < 4; d++) {
		for (size_t r = 0; r < 4; r++) {
			struct wire w;

			wire_init(&w, 1);
			w.delay = delays[d];
			w.per_byte = rates[r];
			for (int i = 0; i < 30; i++)
				ck_assert(!step(&w, mixed, 8, 1.0));
			for (double bytes = 4096; bytes <= 80000; bytes += 4096)
				ck_assert_double_eq_tol(
					line(&w, bytes) / (delays[d] + rates[r] * bytes), 1.0,
					0.02);
		}
	}
}
END_TEST

/* With noise and one message in twelve late by 2 to 52 times: within 15 % at every size. */
START_TEST(outliers)
{
	double worst = 0.0;

	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct wire w;

		wire_init(&w, seed);
		w.delay = 1e6;
		w.per_byte = 80;
		w.noise = 0.05;
		w.outliers = 0.08;
		for (int i = 0; i < 100; i++) {
			step(&w, mixed, 8, 1.0);
			for (double bytes = 4096; i > 4 && bytes <= 80000; bytes += 4096)
				worst = fmax(
					worst, fabs(line(&w, bytes) / (1e6 + 80 * bytes) - 1.0));
		}
	}
	ck_assert_double_lt(worst, 0.15);
}
END_TEST

/* One step, or two, in which everything is late: nothing moves. */
START_TEST(bad_steps)
{
	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct wire w;

		wire_init(&w, seed);
		w.delay = 1e6;
		w.per_byte = 80;
		w.noise = 0.03;
		for (int i = 0; i < 120; i++) {
			bool bad = i % 20 == 10 || i % 20 == 11;

			ck_assert(!step(&w, mixed, 8, bad ? 3.0 + (double)seed : 1.0));
			if (i > 4)
				ck_assert_double_eq_tol(line(&w, 40000) / 4.2e6, 1.0, 0.10);
		}
	}
}
END_TEST

/* A link that becomes 2 or more times slower or faster is followed in the third step. */
START_TEST(change)
{
	static const double factors[] = {10, 0.1, 2, 0.5, 100};

	for (uint64_t seed = 1; seed <= 50; seed++) {
		for (size_t f = 0; f < 5; f++) {
			struct wire w;

			wire_init(&w, seed);
			w.delay = 1e6;
			w.per_byte = 80;
			w.noise = 0.03;
			for (int i = 0; i < 20 + (int)seed; i++)
				ck_assert(!step(&w, mixed, 8, 1.0));
			for (int i = 0; i < 3; i++)
				ck_assert_int_eq(step(&w, mixed, 8, factors[f]), i == 2);
			ck_assert_double_eq_tol(line(&w, 40000) / (4.2e6 * factors[f]), 1.0, 0.12);
			for (int i = 0; i < 20; i++)
				ck_assert(!step(&w, mixed, 8, factors[f]));
		}
	}
}
END_TEST

/* A smaller change: within 9 steps. */
START_TEST(small_change)
{
	static const double factors[] = {1.5, 0.66, 1.35, 0.75, 1.1};

	for (uint64_t seed = 1; seed <= 50; seed++) {
		for (size_t f = 0; f < 5; f++) {
			struct wire w;

			wire_init(&w, seed);
			w.delay = 1e6;
			w.per_byte = 80;
			w.noise = 0.03;
			for (int i = 0; i < 30; i++)
				ck_assert(!step(&w, mixed, 8, 1.0));
			for (int i = 0; i < 9; i++)
				step(&w, mixed, 8, factors[f]);
			ck_assert_double_eq_tol(line(&w, 40000) / (4.2e6 * factors[f]), 1.0, 0.12);
		}
	}
}
END_TEST

/* One size: the time is all bytes, and the line goes through what was seen. */
START_TEST(one_size)
{
	static const uint64_t same[] = {50000, 50000, 50000};
	struct wire w;

	wire_init(&w, 3);
	w.delay = 2e6;
	w.per_byte = 80;
	w.noise = 0.05;
	for (int i = 0; i < 60; i++) {
		step(&w, same, 3, 1.0);
		ck_assert_double_ge(w.fit.delay_ns, 0.0);
		ck_assert_double_ge(w.fit.ns_per_byte, 0.0);
		ck_assert_double_lt(w.fit.delay_ns, 1e3);
		ck_assert_double_eq_tol(line(&w, 50000) / 6e6, 1.0, 0.12);
	}
	/* Nearly one size: noise must not become a slope. */
	for (int i = 0; i < 60; i++) {
		static const uint64_t near[] = {50000, 50400, 49800};

		step(&w, near, 3, 1.0);
		ck_assert_double_gt(line(&w, 100000), line(&w, 50000) * 1.2);
		ck_assert_double_lt(line(&w, 100000), line(&w, 50000) * 2.2);
	}
}
END_TEST

/* New sizes after a change of rank lie on the line or bend it; the link has not changed. */
START_TEST(new_sizes)
{
	for (uint64_t seed = 1; seed <= 50; seed++) {
		uint64_t sizes[8];
		struct wire w;

		wire_init(&w, seed);
		w.delay = 1e6;
		w.per_byte = 80;
		w.noise = 0.05;
		for (uint64_t rank = 1; rank <= 32; rank *= 2) {
			for (size_t i = 0; i < 8; i++)
				sizes[i] = mixed[i] * rank;
			for (int i = 0; i < 25; i++)
				ck_assert(!step(&w, sizes, 8, 1.0));
			ck_assert_double_eq_tol(line(&w, 80000.0 * (double)rank) /
							(1e6 + 80 * 80000.0 * (double)rank),
				1.0, 0.1);
		}
	}
}
END_TEST

/* Many messages are thinned out, and both of two alternating kinds are still seen. */
START_TEST(thinned)
{
	uint64_t bytes[256];
	struct wire w;

	wire_init(&w, 9);
	w.delay = 1e6;
	w.per_byte = 8;
	for (size_t i = 0; i < 256; i++)
		bytes[i] = i % 2 ? 1000 : 400000;
	for (int i = 0; i < 20; i++)
		step(&w, bytes, 256, 1.0);
	ck_assert_double_eq_tol(w.fit.delay_ns / 1e6, 1.0, 0.02);
	ck_assert_double_eq_tol(w.fit.ns_per_byte / 8, 1.0, 0.02);
}
END_TEST

/* All-gathers take half as long as all-reduces of all their blocks: one line fits them all. */
START_TEST(gathers)
{
	struct wire w;

	wire_init(&w, 1);
	for (int i = 0; i < 30; i++) {
		struct psgd_message_time message[8] = {0};

		for (size_t k = 0; k < 8; k++) {
			bool gather = (k + (size_t)i) % 3 != 0;
			double ns = 2e5 + 80 * (double)mixed[k];

			message[k].kind = gather ? PSGD_ALLGATHER : PSGD_ALLREDUCE_SUM;
			message[k].bytes = mixed[k];
			message[k].ns = (int64_t)(gather ? ns / 2 : ns);
		}
		ck_assert(!psgd__link_fit_add(&w.fit, message, 8));
	}
	ck_assert_double_eq_tol(w.fit.ns_per_byte, 80, 0.5);
	ck_assert_double_eq_tol(line(&w, 40000), 2e5 + 80 * 40000, 2e4);
}
END_TEST

/*
 * Through a token bucket the first bytes of a message take no time: the rate is found all the same,
 * also when it changes, and by messages that are hardly larger than the bucket.
 */
START_TEST(free_bytes)
{
	static const uint64_t sizes[] = {4200, 9300, 5000, 6100};
	const double free = 3028;

	for (uint64_t seed = 1; seed <= 50; seed++) {
		struct wire w;

		wire_init(&w, seed);
		w.noise = seed % 2 ? 0.03 : 0;
		w.per_byte = 400;
		for (int i = 0; i < 90; i++) {
			if (i == 60)
				w.per_byte = 1600;
			w.delay = -free * w.per_byte;
			step(&w, sizes, 4, 1.0);
			if (i % 60 < 16)
				continue;
			/* Also for twice and four times the rank. */
			for (double bytes = 4200; bytes < 40000; bytes *= 2)
				ck_assert_double_eq_tol(
					line(&w, bytes) / (w.per_byte * (bytes - free)), 1.0,
					w.noise > 0 ? 0.2 : 0.06);
		}
	}
}
END_TEST

/* Nonsense does not get in; the extremes of the types give finite lines. */
START_TEST(hostile)
{
	struct psgd__link_fit fit = {0};
	struct psgd_message_time bad[] = {
		{.bytes = 0, .ns = 5}, {.bytes = 5, .ns = 0}, {.bytes = 5, .ns = -5}};
	struct psgd_message_time wild[] = {{.bytes = 1, .ns = 1},
		{.bytes = UINT64_MAX, .ns = INT64_MAX}, {.bytes = UINT64_MAX, .ns = 1},
		{.bytes = 1, .ns = INT64_MAX}};

	ck_assert(!psgd__link_fit_add(&fit, bad, 3));
	ck_assert(!psgd__link_fit_add(&fit, NULL, 0));
	ck_assert_uint_eq(fit.n_steps, 0);
	for (size_t i = 0; i < 64; i++) {
		psgd__link_fit_add(&fit, wild + i % 4, 1 + (i / 4) % (4 - i % 4));
		ck_assert(isfinite(fit.delay_ns));
		ck_assert(isfinite(fit.ns_per_byte) && fit.ns_per_byte >= 0);
	}
}
END_TEST

START_TEST(nth)
{
	struct scene random = scene_new(4);

	for (size_t n = 1; n < 40; n++) {
		for (int round = 0; round < 50; round++) {
			double values[40];
			size_t k = (size_t)(scene_random(&random) * (double)n), below = 0, same = 0;
			double got;

			for (size_t i = 0; i < n; i++)
				values[i] = floor(scene_random(&random) * (round % 2 ? 5 : 1000));
			got = psgd__nth(values, n, k);
			for (size_t i = 0; i < n; i++) {
				below += values[i] < got;
				same += values[i] == got;
			}
			ck_assert(below <= k && k < below + same);
		}
	}
}
END_TEST

/* Of bytes that a stranger wrote. */
START_TEST(impossible_fits)
{
	struct wire w;

	wire_init(&w, 3);
	w.per_byte = 1;
	step(&w, (uint64_t[]){100, 10000}, 2, 1);
	ck_assert(psgd__link_fit_possible(&w.fit));
	w.fit.known = 2;
	ck_assert(!psgd__link_fit_possible(&w.fit));
	w.fit.known = 1;
	ck_assert(psgd__link_fit_possible(&w.fit));
	w.fit.known_off = 3;
	ck_assert(!psgd__link_fit_possible(&w.fit));
	w.fit.known_off = 2;
	w.fit.step[0].ns[0] = -1;
	ck_assert(!psgd__link_fit_possible(&w.fit));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("link");
	TCase *t = tcase_create("link");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, exact);
	tcase_add_test(t, outliers);
	tcase_add_test(t, bad_steps);
	tcase_add_test(t, change);
	tcase_add_test(t, small_change);
	tcase_add_test(t, free_bytes);
	tcase_add_test(t, one_size);
	tcase_add_test(t, new_sizes);
	tcase_add_test(t, thinned);
	tcase_add_test(t, gathers);
	tcase_add_test(t, hostile);
	tcase_add_test(t, nth);
	tcase_add_test(t, impossible_fits);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
