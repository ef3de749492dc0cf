/*
 * Where a Q begins, against float64, against what `start` is made of, and every variant against
 * plain C; and samples.
 */
#include <math.h>
#include <string.h>

#include "device/kernels.h"

#define ITEMS 6
#define MOST_ROWS 400
#define SEED 42

/* Qs of every kind: drawn, kept, kept with columns that are zero or twice the same. */
struct starts {
	struct psgd__start list[ITEMS];
	struct guarded q[ITEMS], from[ITEMS];
};

static void starts_init(struct starts *x, struct rng rng)
{
	memset(x, 0, sizeof(*x));
	for (int k = 0; k < ITEMS; k++) {
		struct psgd__start *a = &x->list[k];

		a->r = rng_range(&rng, 1, 20);
		a->m = rng_range(&rng, a->r, MOST_ROWS);
		a->tensor = 100 + (uint32_t)k;
		a->draw = (uint32_t)k % 3;
		a->redraw = 0x80000005u;
		x->q[k] = guarded((size_t)a->m * a->r);
		x->from[k] = guarded((size_t)a->m * a->r);
		fill(&x->q[k], &rng);
		fill(&x->from[k], &rng);
		a->q = x->q[k].data;
		a->from = k % 3 ? x->from[k].data : NULL;
		if (k % 3 != 2)
			continue;
		memset(x->from[k].data, 0, (size_t)a->m * sizeof(float));
		if (a->r > 2)
			memcpy(x->from[k].data + 2 * a->m, x->from[k].data + a->m,
				(size_t)a->m * sizeof(float));
	}
}

static void starts_free(struct starts *x)
{
	for (int k = 0; k < ITEMS; k++) {
		guarded_free(&x->q[k]);
		guarded_free(&x->from[k]);
	}
}

static double dot(const float *a, const float *b, int64_t n)
{
	double sum = 0.0;

	for (int64_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

/* How much of a column, as a share of its length, lies outside of the span of q. */
static double outside(const struct psgd__start *x, const float *column)
{
	double rest[MOST_ROWS], along, left = 0.0, all = dot(column, column, x->m);

	for (int64_t i = 0; i < x->m; i++)
		rest[i] = (double)column[i];
	for (uint32_t c = 0; c < x->r; c++) {
		along = dot(x->q + c * x->m, column, x->m);
		for (int64_t i = 0; i < x->m; i++)
			rest[i] -= along * (double)x->q[c * x->m + i];
	}
	for (int64_t i = 0; i < x->m; i++)
		left += rest[i] * rest[i];
	return all > 0.0 ? sqrt(left / all) : 0.0;
}

START_TEST(start_is_orthonormal)
{
	struct rng rng = {(uint64_t)_i + 1200};
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(&variants[_i % VARIANTS], &cpu);

	for (int run = 0; run < 20; run++) {
		struct starts x;

		rng_next(&rng);
		starts_init(&x, rng);
		ck_assert_int_eq(table->start(cpu.self, x.list, ITEMS, SEED, 1e-8f, NULL), PSGD_OK);
		for (int k = 0; k < ITEMS; k++) {
			const struct psgd__start *a = &x.list[k];

			for (uint32_t i = 0; i < a->r; i++)
				for (uint32_t j = 0; j <= i; j++)
					ck_assert_double_eq_tol(
						dot(a->q + i * a->m, a->q + j * a->m, a->m), i == j,
						2e-5);
			/* What an earlier Q spans is kept. */
			for (uint32_t c = 0; a->from && c < a->r; c++)
				ck_assert_double_lt(outside(a, a->from + c * a->m), 1e-4);
		}
		starts_free(&x);
	}
	psgd_device_destroy(&cpu);
}
END_TEST

/* What start promises to the bit, from the other kernels. */
static void start_by_hand(const struct variant *variant, struct starts *x, float eps)
{
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(variant, &cpu);

	for (int k = 0; k < ITEMS; k++) {
		const struct psgd__start *a = &x->list[k];
		const struct psgd__panel panel = {a->q, a->m, a->r, 0};
		struct psgd__fill whole = {a->q, a->m, 0, a->r, a->tensor, a->draw};
		int dead = 0;

		if (a->from)
			memcpy(a->q, a->from, x->q[k].n * sizeof(float));
		else
			table->fill(cpu.self, &whole, 1, SEED, NULL);
		table->orthonormalize(cpu.self, &panel, 1, eps, NULL);
		for (uint32_t c = 0; c < a->r; c++) {
			struct psgd__span column = {a->q + c * a->m, a->m};
			struct psgd__fill fill = {column.data, a->m, c, 1, a->tensor, a->redraw};
			double squares = 0.0;

			table->sum_squares(cpu.self, &column, 1, &squares, NULL);
			if (squares >= PSGD__DEAD_COLUMN)
				continue;
			table->fill(cpu.self, &fill, 1, SEED, NULL);
			dead++;
		}
		if (dead)
			table->orthonormalize(cpu.self, &panel, 1, 0.0f, NULL);
		/* A zero column is one. A column that is there twice leaves rounding, or nothing.
		 */
		ck_assert_int_ge(dead, k % 3 == 2);
		ck_assert_int_le(dead, k % 3 == 2 ? 2 : 0);
	}
	psgd_device_destroy(&cpu);
}

START_TEST(start_to_the_bit)
{
	const struct rng rng = {(uint64_t)_i + 1300};
	/* The last is one that makes columns shorter. */
	const float eps = _i % 3 == 0 ? 0.0f : _i % 3 == 1 ? 1e-8f : 1e-3f;
	struct starts want, got;

	starts_init(&want, rng);
	start_by_hand(&variants[0], &want, eps);
	for (int v = 0; v < VARIANTS; v++) {
		struct psgd_device cpu;
		const struct psgd_kernels *table = open_variant(&variants[v], &cpu);

		starts_init(&got, rng);
		ck_assert_int_eq(table->start(cpu.self, got.list, ITEMS, SEED, eps, NULL), PSGD_OK);
		for (int k = 0; k < ITEMS; k++) {
			guarded_equal(&got.q[k], &want.q[k]);
			guarded_equal(&got.from[k], &want.from[k]);
		}
		starts_free(&got);
		psgd_device_destroy(&cpu);
	}
	starts_free(&want);
}
END_TEST

START_TEST(samples)
{
	static const int64_t strides[] = {1, 2, 7, 1000};
	struct rng rng = {1400};
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(&variants[_i], &cpu);
	struct guarded from = guarded(5000);

	fill(&from, &rng);
	for (size_t s = 0; s < PSGD__COUNT(strides); s++) {
		const int64_t stride = strides[s], count = (4999 - 3) / stride + 1;
		struct guarded to = guarded((size_t)count);

		ck_assert_int_eq(
			table->sample(cpu.self, from.data + 3, stride, count, to.data, NULL),
			PSGD_OK);
		for (int64_t i = 0; i < count; i++)
			ck_assert_float_eq(to.data[i], from.data[3 + i * stride]);
		ck_assert_int_eq(
			table->sample(cpu.self, from.data, stride, 0, to.data, NULL), PSGD_OK);
		ck_assert_float_eq(to.data[0], from.data[3]);
		guarded_free(&to);
	}
	guarded_free(&from);
	psgd_device_destroy(&cpu);
}
END_TEST

TCase *starts_case(void)
{
	TCase *c = tcase_create("starts");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, start_is_orthonormal, 0, VARIANTS);
	tcase_add_loop_test(c, start_to_the_bit, 0, 20);
	tcase_add_loop_test(c, samples, 0, VARIANTS);
	return c;
}
