/*
 * The end of a bucket, and what is not compressed in a group: against float64, against what
 * `finish` is made of, and every variant against plain C.
 */
#include <math.h>
#include <string.h>

#include "device/kernels.h"

#define ITEMS 6
#define MEAN (1.0f / 3.0f) /* so that it rounds */

/* A bucket as it comes back from its last collective: every second item is not compressed. */
struct bucket {
	struct psgd__matrix list[ITEMS];
	struct guarded g[ITEMS], e[ITEMS], keep[ITEMS], p, q;
	struct psgd__span messages[2];
	struct psgd__finish finish;
	uint32_t nonfinite;
};

static void shapes_init(struct bucket *x, struct rng *rng, bool large)
{
	for (int k = 0; k < ITEMS; k++) {
		struct psgd__matrix *a = &x->list[k];

		a->n = rng_range(rng, 1, large ? 900 : 60);
		a->m = rng_range(rng, 1, large ? 900 : 130);
		a->r = k % 2 ? 0 : rng_range(rng, 1, 19);
	}
	/* Threads share one that is not compressed, whatever its shape. */
	if (large) {
		x->list[1].n = 1;
		x->list[1].m = 600001;
		x->list[3].n = 300001;
		x->list[3].m = 1;
	}
}

/* The same for the same rng. */
static void bucket_init(struct bucket *x, struct rng rng, bool large)
{
	size_t p = 0, q = 0;

	memset(x, 0, sizeof(*x));
	shapes_init(x, &rng, large);
	for (int k = 0; k < ITEMS; k++) {
		const struct psgd__matrix *a = &x->list[k];

		p += (size_t)(a->n * (a->r ? a->r : a->m));
		q += (size_t)(a->m * a->r);
	}
	x->p = guarded(p);
	x->q = guarded(q);
	fill(&x->p, &rng);
	fill(&x->q, &rng);
	p = q = 0;
	for (int k = 0; k < ITEMS; k++) {
		struct psgd__matrix *a = &x->list[k];

		x->g[k] = guarded((size_t)(a->n * a->m));
		x->e[k] = guarded((size_t)(a->n * a->m));
		x->keep[k] = guarded((size_t)(a->m * a->r));
		fill(&x->g[k], &rng);
		fill(&x->e[k], &rng);
		fill(&x->keep[k], &rng);
		a->g = x->g[k].data;
		a->e = k / 2 % 2 ? NULL : x->e[k].data;
		a->keep = a->r && k % 4 ? NULL : x->keep[k].data;
		a->p = x->p.data + p;
		a->q = x->q.data + q;
		p += (size_t)(a->n * (a->r ? a->r : a->m));
		q += (size_t)(a->m * a->r);
	}
	x->messages[0] = (struct psgd__span){x->p.data, (int64_t)p};
	x->messages[1] = (struct psgd__span){x->q.data, (int64_t)q};
	x->nonfinite = 7;
	x->finish = (struct psgd__finish){
		.list = x->list,
		.count = ITEMS,
		.messages = x->messages,
		.n_messages = 2,
		.nonfinite = &x->nonfinite,
		.mean = MEAN,
	};
}

static void bucket_free(struct bucket *x)
{
	for (int k = 0; k < ITEMS; k++) {
		guarded_free(&x->g[k]);
		guarded_free(&x->e[k]);
		guarded_free(&x->keep[k]);
	}
	guarded_free(&x->p);
	guarded_free(&x->q);
}

/* For the inside of long loops: check's own take a microsecond each. */
static void within(double got, double want, double tolerance)
{
	if (!(fabs(got - want) <= tolerance))
		ck_abort_msg("%.9g and not %.9g", got, want);
}

static void same(float got, float want)
{
	if (got != want)
		ck_abort_msg("%.9g and not %.9g", (double)got, (double)want);
}

static void finish(const struct variant *variant, struct bucket *x)
{
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(variant, &cpu);

	ck_assert_int_eq(table->finish(cpu.self, &x->finish, NULL), PSGD_OK);
	psgd_device_destroy(&cpu);
}

/* was: the same bucket before. */
static void check_compressed(const struct bucket *x, const struct bucket *was, int k)
{
	const struct psgd__matrix *a = &x->list[k], *b = &was->list[k];

	for (int64_t i = 0; i < a->n; i++) {
		for (int64_t j = 0; j < a->m; j++) {
			const int64_t at = i * a->m + j;
			double want = 0.0, size = 0.0;

			for (uint32_t c = 0; c < a->r; c++) {
				double v = (double)b->p[c * a->n + i] * (double)b->q[c * a->m + j] *
					   (double)MEAN;

				want += v;
				size += fabs(v);
			}
			within((double)a->g[at], want, 1e-5 * (size + 1e-3));
			if (a->e)
				within((double)a->e[at], (double)b->g[at] - want,
					1e-5 * (size + 2.0));
		}
	}
	for (int64_t i = 0; a->keep && i < a->m * a->r; i++)
		same(a->keep[i], MEAN * b->q[i]);
}

static void check_dense(const struct bucket *x, const struct bucket *was, int k)
{
	for (size_t i = 0; i < x->g[k].n; i++) {
		same(x->g[k].data[i], MEAN * was->list[k].p[i]);
		if (x->list[k].e)
			same(x->e[k].data[i], 0.0f);
	}
}

START_TEST(finish_gives_the_mean)
{
	const struct rng rng = {(uint64_t)_i + 700};
	struct bucket was, x;

	bucket_init(&was, rng, _i / VARIANTS == 0);
	bucket_init(&x, rng, _i / VARIANTS == 0);
	finish(&variants[_i % VARIANTS], &x);
	ck_assert_uint_eq(x.nonfinite, 0);
	guarded_equal(&x.p, &was.p);
	for (int k = 0; k < ITEMS; k++) {
		if (x.list[k].r)
			check_compressed(&x, &was, k);
		else
			check_dense(&x, &was, k);
		/* What is no part of the bucket. */
		if (!x.list[k].e)
			guarded_equal(&x.e[k], &was.e[k]);
		if (!x.list[k].keep)
			guarded_equal(&x.keep[k], &was.keep[k]);
	}
	bucket_free(&was);
	bucket_free(&x);
}
END_TEST

/* What finish promises to the bit: q * mean, rounded, and then reconstruct. */
static void by_hand(const struct variant *variant, struct bucket *x)
{
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(variant, &cpu);

	ck_assert_int_eq(
		table->axpby(cpu.self, (int64_t)x->q.n, MEAN, x->q.data, 0.0f, x->q.data, NULL),
		PSGD_OK);
	for (int k = 0; k < ITEMS; k++) {
		struct psgd__matrix *a = &x->list[k];
		const size_t values = (size_t)(a->n * a->m);

		if (a->r) {
			ck_assert_int_eq(table->reconstruct(cpu.self, a, 1, NULL), PSGD_OK);
			if (a->keep)
				memcpy(a->keep, a->q, x->keep[k].n * sizeof(float));
			continue;
		}
		ck_assert_int_eq(
			table->axpby(cpu.self, (int64_t)values, MEAN, a->p, 0.0f, a->g, NULL),
			PSGD_OK);
		if (a->e)
			memset(a->e, 0, values * sizeof(float));
	}
	psgd_device_destroy(&cpu);
}

START_TEST(finish_to_the_bit)
{
	const struct rng rng = {(uint64_t)_i + 800};
	struct bucket want, got;

	bucket_init(&want, rng, _i % 4 == 0);
	by_hand(&variants[0], &want);
	for (int v = 0; v < VARIANTS; v++) {
		bucket_init(&got, rng, _i % 4 == 0);
		finish(&variants[v], &got);
		for (int k = 0; k < ITEMS; k++) {
			guarded_equal(&got.g[k], &want.g[k]);
			guarded_equal(&got.e[k], &want.e[k]);
			guarded_equal(&got.keep[k], &want.keep[k]);
		}
		bucket_free(&got);
	}
	bucket_free(&want);
}
END_TEST

/* Wherever the one value is: NaN goes to the trainer, and nothing else changes. */
START_TEST(finish_discards_what_is_not_finite)
{
	const struct rng rng = {(uint64_t)_i + 900};
	struct rng places = {(uint64_t)_i + 901};
	static const float poisons[] = {INFINITY, -INFINITY, NAN};

	for (int run = 0; run < 12; run++) {
		const bool large = run == 0;
		struct bucket was, x;

		bucket_init(&was, rng, large);
		bucket_init(&x, rng, large);
		struct guarded *message = run % 2 ? &x.q : &x.p;

		message->data[rng_next(&places) % message->n] = poisons[run % 3];
		finish(&variants[_i], &x);
		ck_assert_uint_eq(x.nonfinite, 1);
		for (int k = 0; k < ITEMS; k++) {
			size_t nans = 0;

			for (size_t i = 0; i < x.g[k].n; i++)
				nans += isnan(x.g[k].data[i]) != 0;
			ck_assert_uint_eq(nans, x.g[k].n);
			guarded_equal(&x.e[k], &was.e[k]);
			guarded_equal(&x.keep[k], &was.keep[k]);
		}
		bucket_free(&was);
		bucket_free(&x);
	}
}
END_TEST

/* The dense compressor's way: the mean as it is, and it is told. */
START_TEST(finish_as_is)
{
	const struct rng rng = {(uint64_t)_i + 950};
	struct bucket was, x;
	size_t finite = 0, poisoned = 0;

	bucket_init(&was, rng, false);
	bucket_init(&x, rng, false);
	x.finish.as_is = 1;
	x.list[1].p[0] = INFINITY;
	finish(&variants[_i], &x);
	ck_assert_uint_eq(x.nonfinite, 1);
	for (int k = 0; k < ITEMS; k++) {
		if (x.list[k].r)
			check_compressed(&x, &was, k);
		for (size_t i = 0; i < x.g[k].n && !x.list[k].r; i++) {
			if (k == 1 && i == 0) {
				poisoned += isinf(x.g[k].data[i]) != 0;
				continue;
			}
			finite += x.g[k].data[i] == MEAN * was.list[k].p[i];
		}
	}
	ck_assert_uint_eq(poisoned, 1);
	ck_assert_uint_eq(finite, x.g[1].n + x.g[3].n + x.g[5].n - 1);
	bucket_free(&was);
	bucket_free(&x);
}
END_TEST

/* The first round: what is not compressed goes into the message, with what had stayed behind. */
START_TEST(dense_items_travel_as_they_are)
{
	const struct rng rng = {(uint64_t)_i + 1100};
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(&variants[_i % VARIANTS], &cpu);
	const bool large = _i / VARIANTS == 0;
	struct bucket was, x;

	bucket_init(&was, rng, large);
	bucket_init(&x, rng, large);
	x.list[5].p = NULL;
	ck_assert_int_eq(table->absorb_project(cpu.self, x.list, ITEMS, NULL), PSGD_OK);
	for (int k = 1; k < ITEMS; k += 2) {
		const float *p = k == 5 ? NULL : x.list[k].p;

		for (size_t i = 0; i < x.g[k].n; i++) {
			float sum = was.g[k].data[i];

			if (x.list[k].e)
				sum = sum + was.e[k].data[i];
			same(x.g[k].data[i], sum);
			if (p)
				same(p[i], sum);
		}
		guarded_equal(&x.e[k], &was.e[k]);
	}
	/* Its part of the message is left alone. */
	ck_assert_mem_eq(
		was.list[5].p, x.p.data + (was.list[5].p - was.p.data), was.g[5].n * sizeof(float));
	/* The way back concerns the others only. */
	const uint64_t p = psgd__hash(PSGD__HASH_START, x.p.data, x.p.n * sizeof(float));

	ck_assert_int_eq(table->back_project(cpu.self, x.list, ITEMS, NULL), PSGD_OK);
	ck_assert_uint_eq(psgd__hash(PSGD__HASH_START, x.p.data, x.p.n * sizeof(float)), p);
	bucket_free(&was);
	bucket_free(&x);
	psgd_device_destroy(&cpu);
}
END_TEST

TCase *rounds_case(void)
{
	TCase *c = tcase_create("rounds");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, finish_gives_the_mean, 0, 3 * VARIANTS);
	tcase_add_loop_test(c, finish_to_the_bit, 0, 12);
	tcase_add_loop_test(c, finish_discards_what_is_not_finite, 0, VARIANTS);
	tcase_add_loop_test(c, finish_as_is, 0, VARIANTS);
	tcase_add_loop_test(c, dense_items_travel_as_they_are, 0, 2 * VARIANTS);
	return c;
}
