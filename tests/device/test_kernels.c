/*
 * The kernel table against float64: random shapes with odd tails, guard bands around every buffer,
 * every variant. With `bench` as argument the same program times them.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/philox.h"
#include "device/kernels.h"
#include "support/suite.h"

/* Tests loop over variants first, then over seeds. */
static const struct psgd_kernels *kernels(struct psgd_device *cpu, int loop)
{
	return open_variant(&variants[loop % VARIANTS], cpu);
}

#define MATRICES 3

struct passes {
	struct psgd__matrix list[MATRICES];
	struct guarded g[MATRICES], e[MATRICES], p[MATRICES], q[MATRICES];
	double *g0[MATRICES], *e0[MATRICES];
};

static void passes_init(struct passes *x, struct rng *rng, bool with_error)
{
	memset(x, 0, sizeof(*x));
	for (int k = 0; k < MATRICES; k++) {
		uint32_t n = rng_range(rng, 1, 70), m = rng_range(rng, 1, 150);
		uint32_t r = rng_range(rng, 0, 19);
		size_t count = (size_t)n * m;

		x->g[k] = guarded(count);
		x->e[k] = guarded(count);
		x->p[k] = guarded((size_t)n * r);
		x->q[k] = guarded((size_t)m * r);
		fill(&x->g[k], rng);
		fill(&x->e[k], rng);
		fill(&x->q[k], rng);
		x->g0[k] = calloc(count, sizeof(double));
		x->e0[k] = calloc(count, sizeof(double));
		for (size_t i = 0; i < count; i++) {
			x->g0[k][i] = (double)x->g[k].data[i];
			x->e0[k][i] = with_error ? (double)x->e[k].data[i] : 0.0;
		}
		x->list[k] = (struct psgd__matrix){
			.g = x->g[k].data,
			.e = with_error ? x->e[k].data : NULL,
			.p = r ? x->p[k].data : NULL,
			.q = x->q[k].data,
			.n = n,
			.m = m,
			.r = r,
		};
	}
}

static void passes_free(struct passes *x)
{
	for (int k = 0; k < MATRICES; k++) {
		guarded_free(&x->g[k]);
		guarded_free(&x->e[k]);
		guarded_free(&x->p[k]);
		guarded_free(&x->q[k]);
		free(x->g0[k]);
		free(x->e0[k]);
	}
}

static double tolerance(double sum_of_sizes)
{
	return 1e-5 * (sum_of_sizes + 1e-3);
}

static void check_project(const struct passes *x, int k)
{
	const struct psgd__matrix *a = &x->list[k];

	for (int64_t i = 0; i < a->n; i++) {
		for (int64_t j = 0; j < a->m; j++)
			ck_assert_double_eq_tol((double)a->g[i * a->m + j],
				x->g0[k][i * a->m + j] + x->e0[k][i * a->m + j], 1e-6);
		for (uint32_t c = 0; c < a->r; c++) {
			double want = 0.0, size = 0.0;

			for (int64_t j = 0; j < a->m; j++) {
				double v = (double)a->g[i * a->m + j] * (double)a->q[c * a->m + j];

				want += v;
				size += fabs(v);
			}
			ck_assert_double_eq_tol((double)a->p[c * a->n + i], want, tolerance(size));
		}
	}
}

static void check_back_project(const struct passes *x, int k)
{
	const struct psgd__matrix *a = &x->list[k];

	for (int64_t j = 0; j < a->m; j++) {
		for (uint32_t c = 0; c < a->r; c++) {
			double want = 0.0, size = 0.0;

			for (int64_t i = 0; i < a->n; i++) {
				double v = (double)a->g[i * a->m + j] * (double)a->p[c * a->n + i];

				want += v;
				size += fabs(v);
			}
			ck_assert_double_eq_tol((double)a->q[c * a->m + j], want, tolerance(size));
		}
	}
}

static void check_reconstruct(const struct passes *x, int k, const double *absorbed)
{
	const struct psgd__matrix *a = &x->list[k];

	for (int64_t i = 0; i < a->n; i++) {
		for (int64_t j = 0; j < a->m; j++) {
			double want = 0.0, size = 0.0;

			for (uint32_t c = 0; c < a->r; c++) {
				double v = (double)a->p[c * a->n + i] * (double)a->q[c * a->m + j];

				want += v;
				size += fabs(v);
			}
			ck_assert_double_eq_tol((double)a->g[i * a->m + j], want, tolerance(size));
			if (a->e)
				ck_assert_double_eq_tol((double)a->e[i * a->m + j],
					absorbed[i * a->m + j] - want, tolerance(size + 2.0));
		}
	}
}

START_TEST(three_passes)
{
	struct rng rng = {(uint64_t)_i};
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);
	struct passes x;

	for (int run = 0; run < 20; run++) {
		double *absorbed[MATRICES];

		passes_init(&x, &rng, run % 3 != 0);
		ck_assert_int_eq(table->absorb_project(cpu.self, x.list, MATRICES, NULL), PSGD_OK);
		for (int k = 0; k < MATRICES; k++) {
			check_project(&x, k);
			absorbed[k] = calloc(x.g[k].n, sizeof(double));
			for (size_t i = 0; i < x.g[k].n; i++)
				absorbed[k][i] = (double)x.g[k].data[i];
		}
		ck_assert_int_eq(table->back_project(cpu.self, x.list, MATRICES, NULL), PSGD_OK);
		for (int k = 0; k < MATRICES; k++)
			check_back_project(&x, k);
		ck_assert_int_eq(table->reconstruct(cpu.self, x.list, MATRICES, NULL), PSGD_OK);
		for (int k = 0; k < MATRICES; k++) {
			check_reconstruct(&x, k, absorbed[k]);
			free(absorbed[k]);
		}
		passes_free(&x);
	}
	psgd_device_destroy(&cpu);
}
END_TEST

static double column_dot(const float *a, const float *b, int64_t n)
{
	double sum = 0.0;

	for (int64_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

START_TEST(orthonormal_columns)
{
	struct rng rng = {(uint64_t)_i + 100};
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);

	for (int run = 0; run < 30; run++) {
		uint32_t cols = rng_range(&rng, 1, 24), rows = rng_range(&rng, cols, 300);
		struct guarded g = guarded((size_t)rows * cols);
		struct psgd__panel panel = {g.data, rows, cols, 0};

		fill(&g, &rng);
		/* Nearly dependent columns: one pass of Gram-Schmidt would leave 1e-3 or more. */
		for (uint32_t c = 1; run % 2 && c < cols; c++)
			for (uint32_t i = 0; i < rows; i++)
				g.data[c * rows + i] = g.data[i] + 1e-4f * g.data[c * rows + i];
		ck_assert_int_eq(table->orthonormalize(cpu.self, &panel, 1, 0.0f, NULL), PSGD_OK);
		for (uint32_t a = 0; a < cols; a++)
			for (uint32_t b = 0; b <= a; b++)
				ck_assert_double_eq_tol(
					column_dot(g.data + a * rows, g.data + b * rows, rows),
					a == b, 2e-5);
		guarded_free(&g);
	}
	psgd_device_destroy(&cpu);
}
END_TEST

/* A zero column gives zeros, a tiny one shrinks by eps, and nothing is ever NaN. */
START_TEST(degenerate_columns)
{
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);
	float data[4 * 8] = {0};
	struct psgd__panel panel = {data, 8, 4, 0};

	for (int i = 0; i < 8; i++) {
		data[8 + i] = 1e-30f;	  /* its square is below the smallest float */
		data[16 + i] = (float)i;  /* healthy */
		data[24 + i] = 1e-8f / 8; /* norm sqrt(8) * 1.25e-9, as large as eps / 3 */
	}
	ck_assert_int_eq(table->orthonormalize(cpu.self, &panel, 1, 1e-8f, NULL), PSGD_OK);
	for (int i = 0; i < 32; i++)
		ck_assert(isfinite(data[i]));
	for (int i = 0; i < 16; i++)
		ck_assert_float_eq_tol(data[i], 0.0f, 1e-6f);
	ck_assert_double_eq_tol(column_dot(data + 16, data + 16, 8), 1.0, 1e-6);
	ck_assert_double_lt(column_dot(data + 24, data + 24, 8), 0.2);
	memset(data, 0, sizeof(data));
	ck_assert_int_eq(table->orthonormalize(cpu.self, &panel, 1, 0.0f, NULL), PSGD_OK);
	for (int i = 0; i < 32; i++)
		ck_assert_float_eq(data[i], 0.0f);
	psgd_device_destroy(&cpu);
}
END_TEST

/* Known words of Philox4x32-10 from the paper's reference vectors. */
START_TEST(philox_known_answers)
{
	static const struct {
		uint32_t counter[4];
		uint64_t key;
		uint32_t want[4];
	} known[] = {
		{{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, UINT64_MAX,
			{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, UINT64_C(0x299f31d0a4093822),
			{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};
	uint32_t got[4];

	for (size_t i = 0; i < PSGD__COUNT(known); i++) {
		psgd__philox(known[i].key, known[i].counter, got);
		ck_assert_mem_eq(got, known[i].want, sizeof(got));
	}
}
END_TEST

/* Values depend on (seed, tensor, column, row, draw) alone, and look normal. */
START_TEST(fill_is_indexed)
{
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, 0);
	static float whole[1000 * 4], part[1000 * 2];
	struct psgd__fill all = {whole, 1000, 0, 4, 9, 3};
	struct psgd__fill last = {part, 1000, 2, 2, 9, 3};
	double mean = 0.0, square = 0.0, fourth = 0.0;
	const double variance = 8.0 * (0x1p32 - 1.0) / 12.0;

	ck_assert_int_eq(table->fill(cpu.self, &all, 1, 42, NULL), PSGD_OK);
	ck_assert_int_eq(table->fill(cpu.self, &last, 1, 42, NULL), PSGD_OK);
	ck_assert_mem_eq(part, whole + 2000, sizeof(part));
	for (int i = 0; i < 4000; i++) {
		double x = (double)whole[i] / sqrt(variance);

		mean += x / 4000;
		square += x * x / 4000;
		fourth += x * x * x * x / 4000;
	}
	ck_assert_double_eq_tol(mean, 0.0, 0.06);
	ck_assert_double_eq_tol(square, 1.0, 0.08);
	ck_assert_double_eq_tol(fourth, 3.0 - 1.2 / 8, 0.5);
	last.draw = 4;
	ck_assert_int_eq(table->fill(cpu.self, &last, 1, 42, NULL), PSGD_OK);
	ck_assert_float_ne(part[0], whole[2000]);
	psgd_device_destroy(&cpu);
}
END_TEST

START_TEST(leading_keeps_span_and_order)
{
	struct rng rng = {(uint64_t)_i + 300};
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);

	for (int run = 0; run < 10; run++) {
		uint32_t cols = rng_range(&rng, 1, 20), rows = rng_range(&rng, cols, 200);
		uint32_t keep = rng_range(&rng, 1, cols);
		struct guarded from = guarded((size_t)rows * cols),
			       to = guarded((size_t)rows * keep);
		struct psgd__panel panel = {from.data, rows, cols, 0};
		double total, before = INFINITY;

		fill(&from, &rng);
		total = column_dot(from.data, from.data, (int64_t)from.n);
		ck_assert_int_eq(table->leading(cpu.self, &panel, keep, to.data, NULL), PSGD_OK);
		for (uint32_t a = 0; a < keep; a++) {
			double energy = column_dot(to.data + a * rows, to.data + a * rows, rows);

			ck_assert_double_le(energy, before * (1 + 1e-5));
			before = energy;
			for (uint32_t b = 0; b < a; b++)
				ck_assert_double_eq_tol(
					column_dot(to.data + a * rows, to.data + b * rows, rows),
					0.0, 1e-5 * total);
		}
		if (keep == cols)
			ck_assert_double_eq_tol(
				column_dot(to.data, to.data, (int64_t)to.n), total, 1e-5 * total);
		guarded_free(&from);
		guarded_free(&to);
	}
	psgd_device_destroy(&cpu);
}
END_TEST

START_TEST(small_kernels)
{
	struct rng rng = {500 + (uint64_t)_i};
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);

	for (int run = 0; run < 40; run++) {
		size_t n = rng_range(&rng, 1, 200);
		struct guarded x = guarded(n), y = guarded(n);
		struct psgd__span span = {x.data, (int64_t)n};
		double squares = 1.0, want = 1.0;
		int finite = -1;
		size_t bad = rng_range(&rng, 0, (uint32_t)n - 1);

		fill(&x, &rng);
		for (size_t i = 0; i < n; i++) {
			y.data[i] = NAN; /* must not be read when b is 0 */
			want += (double)x.data[i] * (double)x.data[i];
		}
		ck_assert_int_eq(
			table->axpby(cpu.self, (int64_t)n, 0.5f, x.data, 0.0f, y.data, NULL), 0);
		for (size_t i = 0; i < n; i++)
			ck_assert_float_eq(y.data[i], 0.5f * x.data[i]);
		ck_assert_int_eq(
			table->axpby(cpu.self, (int64_t)n, 2.0f, x.data, 4.0f, y.data, NULL), 0);
		for (size_t i = 0; i < n; i++)
			ck_assert_float_eq_tol(y.data[i], 4.0f * x.data[i], 1e-6f);
		ck_assert_int_eq(table->sum_squares(cpu.self, &span, 1, &squares, NULL), 0);
		ck_assert_double_eq_tol(squares, want, 1e-9 * want);
		ck_assert_int_eq(table->finite(cpu.self, &span, 1, &finite, NULL), 0);
		ck_assert_int_eq(finite, 1);
		x.data[bad] = run % 3 == 0 ? NAN : run % 3 == 1 ? INFINITY : -INFINITY;
		ck_assert_int_eq(table->finite(cpu.self, &span, 1, &finite, NULL), 0);
		ck_assert_int_eq(finite, 0);
		guarded_free(&x);
		guarded_free(&y);
	}
	psgd_device_destroy(&cpu);
}
END_TEST

/* A long span is summed in parts, one after the other; sums of other spans come on top. */
START_TEST(squares_of_a_long_span)
{
	const size_t n = 67 * PSGD__SQUARES + 5;
	struct rng rng = {600};
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);
	struct guarded x = guarded(n);
	const struct psgd__span spans[] = {{x.data, 3}, {x.data, (int64_t)n}};
	double want = 0.0, got = 0.25, few = 0.0;

	fill(&x, &rng);
	for (size_t at = 0; at < n; at += PSGD__SQUARES) {
		const size_t left = n - at < PSGD__SQUARES ? n - at : PSGD__SQUARES;
		const struct psgd__span part = {x.data + at, (int64_t)left};
		double sum = 0.0;

		ck_assert_int_eq(table->sum_squares(cpu.self, &part, 1, &sum, NULL), 0);
		want += sum;
	}
	ck_assert_int_eq(table->sum_squares(cpu.self, spans, 1, &few, NULL), 0);
	ck_assert_int_eq(table->sum_squares(cpu.self, spans, 2, &got, NULL), 0);
	ck_assert_double_eq(got, 0.25 + few + want);
	guarded_free(&x);
	psgd_device_destroy(&cpu);
}
END_TEST

START_TEST(accumulate_adds)
{
	struct rng rng = {601};
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);
	struct guarded x = guarded(700), y = guarded(700);
	const struct psgd__addend list[] = {{y.data, x.data, 300}, {y.data + 300, x.data, 399}};
	float last;

	fill(&x, &rng);
	fill(&y, &rng);
	last = y.data[699];
	for (size_t i = 0; i < 300; i++)
		y.data[i] = -x.data[i];
	memset(y.data + 300, 0, 399 * sizeof(float));
	ck_assert_int_eq(table->accumulate(cpu.self, list, 2, NULL), 0);
	for (size_t i = 0; i < 300; i++)
		ck_assert_float_eq(y.data[i], 0.0f);
	ck_assert_mem_eq(y.data + 300, x.data, 399 * sizeof(float));
	ck_assert_float_eq(y.data[699], last);
	guarded_free(&x);
	guarded_free(&y);
	psgd_device_destroy(&cpu);
}
END_TEST

/* Wherever the one value is, also where the threads' parts meet. */
START_TEST(finite_of_a_long_span)
{
	enum { N = 600001 };
	static const int64_t places[] = {0, 65536, 262143, 262144, 524288, 599999, N - 1};
	float *x = calloc(N, sizeof(*x));
	const struct psgd__span spans[] = {{x, 7}, {x, N}};
	struct psgd_device cpu;
	const struct psgd_kernels *table = kernels(&cpu, _i);
	int finite = -1;

	ck_assert_int_eq(table->finite(cpu.self, spans, 2, &finite, NULL), 0);
	ck_assert_int_eq(finite, 1);
	for (size_t k = 0; k < PSGD__COUNT(places); k++) {
		x[places[k]] = -INFINITY;
		ck_assert_int_eq(table->finite(cpu.self, spans, 2, &finite, NULL), 0);
		ck_assert_int_eq(finite, 0);
		x[places[k]] = -FLT_MAX;
	}
	ck_assert_int_eq(table->finite(cpu.self, spans, 2, &finite, NULL), 0);
	ck_assert_int_eq(finite, 1);
	psgd_device_destroy(&cpu);
	free(x);
}
END_TEST

static void *refuse(void *user, size_t bytes)
{
	(*(size_t *)user) += bytes;
	return NULL;
}

static void ignore(void *user, void *memory, size_t bytes)
{
	(void)user;
	(void)memory;
	(void)bytes;
}

/* An allocator that frees by size, as many do. */
static void *count_alloc(void *user, size_t bytes)
{
	*(size_t *)user += bytes;
	return aligned_alloc(64, bytes);
}

static void count_free(void *user, void *memory, size_t bytes)
{
	*(size_t *)user -= bytes;
	free(memory);
}

START_TEST(allocator_gets_back_what_it_gave)
{
	static const size_t sizes[] = {0, 1, 63, 64, 65, 100, 4096};
	struct psgd_device_cpu_options o = PSGD_INIT(psgd_device_cpu_options);
	struct psgd_device cpu;
	size_t held = 0;
	void *memory;

	o.alloc = count_alloc;
	o.free = count_free;
	o.alloc_user = &held;
	ck_assert_int_eq(psgd_device_cpu(&o, &cpu), PSGD_OK);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		ck_assert_int_eq(cpu.ops->alloc(cpu.self, sizes[i], &memory), PSGD_OK);
		ck_assert_uint_ge(held, sizes[i]);
		cpu.ops->free(cpu.self, memory, sizes[i]);
		ck_assert_uint_eq(held, 0);
	}
	psgd_device_destroy(&cpu);
}
END_TEST

START_TEST(device_options)
{
	struct psgd_device_cpu_options o = PSGD_INIT(psgd_device_cpu_options);
	struct psgd_device cpu;
	size_t asked = 0;
	void *memory = &o;

	ck_assert_int_eq(psgd_device_cpu(NULL, NULL), PSGD_ERR_INVALID);
	o.alloc = refuse;
	ck_assert_int_eq(psgd_device_cpu(&o, &cpu), PSGD_ERR_INVALID);
	o.free = ignore;
	o.alloc_user = &asked;
	ck_assert_int_eq(psgd_device_cpu(&o, &cpu), PSGD_OK);
	ck_assert_int_eq(cpu.ops->alloc(cpu.self, 100, &memory), PSGD_ERR_NOMEM);
	ck_assert_ptr_null(memory);
	ck_assert_uint_eq(asked, 128);
	ck_assert_int_eq(cpu.ops->alloc(cpu.self, SIZE_MAX, &memory), PSGD_ERR_NOMEM);
	psgd_device_destroy(&cpu);
	psgd_device_destroy(&cpu);
	o = PSGD_INIT(psgd_device_cpu_options);
	o.without = PSGD_CPU_FEATURES + 1;
	ck_assert_int_eq(psgd_device_cpu(&o, &cpu), PSGD_ERR_INVALID);
	o.without = 0;
	o.threads = UINT32_MAX;
	ck_assert_int_eq(psgd_device_cpu(&o, &cpu), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_device_cpu(NULL, &cpu), PSGD_OK);
	ck_assert_int_eq(cpu.ops->alloc(cpu.self, 100, &memory), PSGD_OK);
	ck_assert_uint_eq((uintptr_t)memory % 64, 0);
	cpu.ops->free(cpu.self, memory, 100);
	psgd_device_destroy(&cpu);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("kernels");
	TCase *c = tcase_create("kernels");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, three_passes, 0, 4 * VARIANTS);
	tcase_add_loop_test(c, orthonormal_columns, 0, 2 * VARIANTS);
	tcase_add_loop_test(c, degenerate_columns, 0, VARIANTS);
	tcase_add_test(c, philox_known_answers);
	tcase_add_test(c, fill_is_indexed);
	tcase_add_loop_test(c, leading_keeps_span_and_order, 0, 4);
	tcase_add_loop_test(c, small_kernels, 0, VARIANTS);
	tcase_add_loop_test(c, squares_of_a_long_span, 0, VARIANTS);
	tcase_add_loop_test(c, accumulate_adds, 0, VARIANTS);
	tcase_add_loop_test(c, finite_of_a_long_span, 0, VARIANTS);
	tcase_add_test(c, device_options);
	tcase_add_test(c, allocator_gets_back_what_it_gave);
	suite_add_tcase(s, c);
	suite_add_tcase(s, rounds_case());
	suite_add_tcase(s, starts_case());
	suite_add_tcase(s, variants_case());
	return s;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "bench")) {
		bench();
		return 0;
	}
	return run_suite(suite());
}
