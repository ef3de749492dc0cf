/*
 * Variants against each other: what every worker computes for itself is the same bits in plain C
 * and in every instruction set, and everything is the same bits for any number of threads.
 */
#include <string.h>

#include "device/kernels.h"

#define MATRICES 4

/* A group of matrices, and what a variant makes of it. */
struct group {
	struct psgd__matrix list[MATRICES];
	struct psgd__panel panels[MATRICES];
	struct guarded g[MATRICES], e[MATRICES], p[MATRICES], q[MATRICES];
};

/* The same for the same rng. large: so large that threads share a matrix. */
static void group_init(struct group *x, struct rng rng, bool large)
{
	for (int k = 0; k < MATRICES; k++) {
		uint32_t n = rng_range(&rng, 1, large ? 1200 : 70);
		uint32_t m = rng_range(&rng, 1, large ? 1200 : 150);
		uint32_t r = rng_range(&rng, 1, 21);

		x->g[k] = guarded((size_t)n * m);
		x->e[k] = guarded((size_t)n * m);
		x->p[k] = guarded((size_t)n * r);
		x->q[k] = guarded((size_t)m * r);
		fill(&x->g[k], &rng);
		fill(&x->e[k], &rng);
		fill(&x->p[k], &rng);
		fill(&x->q[k], &rng);
		x->list[k] = (struct psgd__matrix){
			.g = x->g[k].data,
			.e = k ? x->e[k].data : NULL,
			.p = x->p[k].data,
			.q = x->q[k].data,
			.n = n,
			.m = m,
			.r = r,
		};
		x->panels[k] = (struct psgd__panel){x->p[k].data, n, r, 0};
	}
}

static void group_free(struct group *x)
{
	for (int k = 0; k < MATRICES; k++) {
		guarded_free(&x->g[k]);
		guarded_free(&x->e[k]);
		guarded_free(&x->p[k]);
		guarded_free(&x->q[k]);
	}
}

static void groups_equal(const struct group *a, const struct group *b)
{
	for (int k = 0; k < MATRICES; k++) {
		guarded_equal(&a->g[k], &b->g[k]);
		guarded_equal(&a->e[k], &b->e[k]);
		guarded_equal(&a->p[k], &b->p[k]);
		guarded_equal(&a->q[k], &b->q[k]);
	}
}

/* Zeros of both signs, subnormal numbers, columns that are zero or twice the same. */
static void make_awkward(struct group *x, struct rng *rng)
{
	for (int k = 0; k < MATRICES; k++) {
		struct psgd__panel *p = &x->panels[k];

		for (int i = 0; i < 5; i++) {
			x->p[k].data[rng_next(rng) % x->p[k].n] = i % 2 ? -0.0f : 0.0f;
			x->q[k].data[rng_next(rng) % x->q[k].n] = 1e-41f;
			x->g[k].data[rng_next(rng) % x->g[k].n] = -0.0f;
		}
		if (p->cols > 1)
			memset(p->data, 0, (size_t)p->rows * sizeof(float));
		if (p->cols > 3)
			memcpy(p->data + 3 * p->rows, p->data + 2 * p->rows,
				(size_t)p->rows * sizeof(float));
	}
}

static void exact_kernels(const struct variant *variant, struct group *x, double *squares)
{
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(variant, &cpu);

	*squares = 0.0;
	ck_assert_int_eq(table->orthonormalize(cpu.self, x->panels, MATRICES, 1e-8f, NULL), 0);
	ck_assert_int_eq(table->reconstruct(cpu.self, x->list, MATRICES, NULL), 0);
	for (int k = 0; k < MATRICES; k++) {
		struct psgd__span span = {x->g[k].data, (int64_t)x->g[k].n};

		ck_assert_int_eq(table->sum_squares(cpu.self, &span, 1, squares, NULL), 0);
		ck_assert_int_eq(table->axpby(cpu.self, span.count, 0.3f, x->e[k].data, 0.7f,
					 x->g[k].data, NULL),
			0);
	}
	psgd_device_destroy(&cpu);
}

START_TEST(exact_in_every_variant)
{
	struct rng rng = {(uint64_t)_i};
	struct group want, got;
	double squares, other;

	for (int v = 1; v < VARIANTS; v++) {
		struct rng twice = {rng.state + 77};

		group_init(&want, rng, _i % 4 == 0);
		make_awkward(&want, &twice);
		exact_kernels(&variants[0], &want, &squares);
		twice = (struct rng){rng.state + 77};
		group_init(&got, rng, _i % 4 == 0);
		make_awkward(&got, &twice);
		exact_kernels(&variants[v], &got, &other);
		groups_equal(&want, &got);
		ck_assert_mem_eq(&squares, &other, sizeof(squares));
		group_free(&want);
		group_free(&got);
	}
}
END_TEST

static void all_kernels(const struct variant *variant, struct group *x)
{
	struct psgd_device cpu;
	const struct psgd_kernels *table = open_variant(variant, &cpu);

	ck_assert_int_eq(table->absorb_project(cpu.self, x->list, MATRICES, NULL), 0);
	ck_assert_int_eq(table->orthonormalize(cpu.self, x->panels, MATRICES, 0.0f, NULL), 0);
	ck_assert_int_eq(table->back_project(cpu.self, x->list, MATRICES, NULL), 0);
	ck_assert_int_eq(table->reconstruct(cpu.self, x->list, MATRICES, NULL), 0);
	for (int k = 0; k < MATRICES; k++)
		ck_assert_int_eq(table->axpby(cpu.self, (int64_t)x->g[k].n, 2.0f, x->e[k].data,
					 0.5f, x->g[k].data, NULL),
			0);
	psgd_device_destroy(&cpu);
}

START_TEST(any_number_of_threads)
{
	static const uint32_t threads[] = {2, 3, 8};
	struct rng rng = {(uint64_t)_i + 1000};
	struct group want, got;

	for (int v = 0; v < 3; v++) {
		struct variant many = variants[v];

		group_init(&want, rng, true);
		all_kernels(&variants[v], &want);
		for (size_t t = 0; t < PSGD__COUNT(threads); t++) {
			many.threads = threads[t];
			group_init(&got, rng, true);
			all_kernels(&many, &got);
			groups_equal(&want, &got);
			group_free(&got);
		}
		group_free(&want);
	}
}
END_TEST

/* The mask leaves features out: the names differ where the CPU has something to leave out. */
START_TEST(mask_is_obeyed)
{
	struct psgd_device plain, best;

	open_variant(&variants[0], &plain);
	open_variant(&variants[2], &best);
	ck_assert_str_eq(plain.ops->variant(plain.self), "plain");
	if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
		ck_assert_str_eq(best.ops->variant(best.self), "avx512");
	psgd_device_destroy(&best);
	open_variant(&variants[1], &best);
	if (__builtin_cpu_supports("avx2"))
		ck_assert_str_eq(best.ops->variant(best.self), "avx2");
	psgd_device_destroy(&best);
	psgd_device_destroy(&plain);
}
END_TEST

START_TEST(names_of_variants)
{
	struct psgd_device_cpu_options o = PSGD_INIT(psgd_device_cpu_options);
	static const char *const names[] = {"plain", "avx2", "avx512"};
	struct psgd_device cpu;

	for (size_t i = 0; i < PSGD__COUNT(names); i++) {
		psgd_status status = psgd_device_cpu_without(names[i], &o.without);

		if (status == PSGD_ERR_UNSUPPORTED)
			continue;
		ck_assert_int_eq(status, PSGD_OK);
		ck_assert_int_eq(psgd_device_cpu(&o, &cpu), PSGD_OK);
		ck_assert_str_eq(cpu.ops->variant(cpu.self), names[i]);
		psgd_device_destroy(&cpu);
	}
	ck_assert_int_eq(psgd_device_cpu_without("plain", &o.without), PSGD_OK);
	ck_assert_int_eq(psgd_device_cpu_without("auto", &o.without), PSGD_OK);
	ck_assert_uint_eq(o.without, 0);
	ck_assert_int_eq(psgd_device_cpu_without("sse", &o.without), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_device_cpu_without(NULL, &o.without), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_device_cpu_without("plain", NULL), PSGD_ERR_INVALID);
}
END_TEST

START_TEST(floor_passes)
{
	float g[12], e[12];
	struct psgd_floor_matrix list[2] = {{g, e, 2, 3}, {g + 6, e + 6, 1, 6}};
	int64_t ns[PSGD_FLOOR_PASSES] = {0};
	struct psgd_device cpu;

	open_variant(&variants[_i], &cpu);
	for (int i = 0; i < 12; i++) {
		g[i] = (float)i;
		e[i] = 100.0f;
	}
	ck_assert_int_eq(psgd_device_floor(&cpu, list, 2, ns), PSGD_OK);
	for (int i = 0; i < 12; i++) {
		ck_assert_float_eq(e[i], 100.0f + (float)i);
		ck_assert_float_eq(g[i], 0.0f);
	}
	ck_assert_int_gt(ns[0] + ns[1] + ns[2], 0);
	ck_assert_int_eq(psgd_device_floor(&cpu, list, 0, ns), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_device_floor(NULL, list, 2, ns), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_device_floor(&cpu, NULL, 2, ns), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_device_floor(&cpu, list, 2, NULL), PSGD_ERR_INVALID);
	list[1].m = 0;
	ck_assert_int_eq(psgd_device_floor(&cpu, list, 2, ns), PSGD_ERR_INVALID);
	psgd_device_destroy(&cpu);
}
END_TEST

TCase *variants_case(void)
{
	TCase *c = tcase_create("variants");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, exact_in_every_variant, 0, 24);
	tcase_add_loop_test(c, any_number_of_threads, 0, 2);
	tcase_add_test(c, mask_is_obeyed);
	tcase_add_test(c, names_of_variants);
	tcase_add_loop_test(c, floor_passes, 0, VARIANTS);
	return c;
}
