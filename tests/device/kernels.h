/* What the parts of the test of the kernels share. */
#ifndef TESTS_DEVICE_KERNELS_H
#define TESTS_DEVICE_KERNELS_H

#include <check.h>

#include "base/base.h"
#include "base/kernels.h"
#include "support/random.h"

#define GUARD 64
#define GUARD_VALUE 12345.0f

/* A buffer with guard bands before and behind. */
struct guarded {
	float *base, *data;
	size_t n;
};

/* Every variant of the kernels, and the best by several threads. */
static const struct variant {
	const char *name;
	uint32_t without, threads;
} variants[] = {
	{"plain", PSGD_CPU_FEATURES, 1},
	{"avx2", PSGD_CPU_AVX512, 1},
	{"best", 0, 1},
	{"best, 3 threads", 0, 3},
};
#define VARIANTS (int)PSGD__COUNT(variants)

static inline struct guarded guarded(size_t n)
{
	struct guarded g = {calloc(n + 2 * GUARD, sizeof(float)), NULL, n};

	for (size_t i = 0; i < n + 2 * GUARD; i++)
		g.base[i] = GUARD_VALUE;
	g.data = g.base + GUARD;
	return g;
}

static inline void guarded_free(struct guarded *g)
{
	for (size_t i = 0; i < GUARD; i++) {
		ck_assert_float_eq(g->base[i], GUARD_VALUE);
		ck_assert_float_eq(g->data[g->n + i], GUARD_VALUE);
	}
	free(g->base);
}

static inline void guarded_equal(const struct guarded *a, const struct guarded *b)
{
	ck_assert_mem_eq(a->data, b->data, a->n * sizeof(float));
}

static inline void fill(struct guarded *g, struct rng *rng)
{
	for (size_t i = 0; i < g->n; i++)
		g->data[i] = rng_float(rng);
}

static inline struct psgd_device_cpu_options options_of(const struct variant *variant)
{
	struct psgd_device_cpu_options o = PSGD_INIT(psgd_device_cpu_options);

	o.without = variant->without;
	o.threads = variant->threads;
	return o;
}

static inline const struct psgd_kernels *open_variant(
	const struct variant *variant, struct psgd_device *cpu)
{
	const struct psgd_device_cpu_options o = options_of(variant);

	ck_assert_int_eq(psgd_device_cpu(&o, cpu), PSGD_OK);
	return cpu->ops->kernels;
}

TCase *rounds_case(void);
TCase *starts_case(void);
TCase *variants_case(void);
void bench(void);

#endif
