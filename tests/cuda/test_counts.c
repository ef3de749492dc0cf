/*
 * What a bucket costs on the CUDA device: launches, copies, waits of the host, allocations, and
 * bytes of memory that the kernels touch for each element of its gradients.
 */
#include <stdio.h>

#include "cuda/cuda.h"
#include "cuda/touch.h"
#include "support/suite.h"

uint64_t touched_matrices, touched_factors, touched_sums;

#define MOST 200

/* Matrices of one shape, one behind the other. */
struct bucket {
	struct psgd__matrix list[MOST];
	struct psgd__start starts[MOST];
	struct psgd__panel panels[MOST];
	struct psgd__span messages[2];
	float *memory;
	size_t count, bytes;
	int64_t elements;
	uint32_t nonfinite;
};

static void bucket_new(
	struct devices *d, struct bucket *b, size_t count, int64_t n, int64_t m, uint32_t r)
{
	const size_t matrix = (size_t)(n * m), p = (size_t)n * r, q = (size_t)m * r;
	const size_t all = count * (2 * matrix + p + 2 * q);
	float *host = calloc(all, sizeof(*host)), *ps, *qs;
	void *memory;

	*b = (struct bucket){.count = count, .elements = n * m * (int64_t)count};
	b->bytes = all * sizeof(float);
	ck_assert_int_eq(d->cuda.ops->alloc(d->cuda.self, b->bytes, &memory), PSGD_OK);
	b->memory = memory;
	for (size_t i = 0; i < all; i++)
		host[i] = (float)(i % 101) - 50.0f;
	ck_assert_int_eq(
		d->cuda.ops->upload(d->cuda.self, memory, host, b->bytes, d->stream), PSGD_OK);
	free(host);
	ps = b->memory + 2 * matrix * count;
	qs = ps + p * count;
	b->messages[0] = (struct psgd__span){ps, (int64_t)(p * count)};
	b->messages[1] = (struct psgd__span){qs, (int64_t)(q * count)};
	for (size_t k = 0; k < count; k++) {
		b->list[k] = (struct psgd__matrix){
			.g = b->memory + 2 * k * matrix,
			.e = b->memory + (2 * k + 1) * matrix,
			.p = ps + k * p,
			.q = qs + k * q,
			.keep = qs + count * q + k * q,
			.n = n,
			.m = m,
			.r = r,
		};
		b->starts[k] = (struct psgd__start){
			.q = b->list[k].q, .m = m, .r = r, .tensor = (uint32_t)k};
		b->panels[k] = (struct psgd__panel){.data = b->list[k].p, .rows = n, .cols = r};
	}
}

static void bucket_free(struct devices *d, struct bucket *b)
{
	d->cuda.ops->free(d->cuda.self, b->memory, b->bytes);
}

/* A whole bucket, less its collectives. Nothing waits. */
static void step(struct devices *d, struct bucket *b)
{
	const struct psgd_kernels *kernels = d->cuda.ops->kernels;
	const struct psgd__finish finish = {
		.list = b->list,
		.count = b->count,
		.messages = b->messages,
		.n_messages = 2,
		.nonfinite = &b->nonfinite,
		.mean = 0.5f,
	};

	b->nonfinite = 7;
	ck_assert_int_eq(
		kernels->start(d->cuda.self, b->starts, b->count, 1, 0.0f, d->stream), PSGD_OK);
	ck_assert_int_eq(
		kernels->absorb_project(d->cuda.self, b->list, b->count, d->stream), PSGD_OK);
	ck_assert_int_eq(
		kernels->orthonormalize(d->cuda.self, b->panels, b->count, 0.0f, d->stream),
		PSGD_OK);
	ck_assert_int_eq(
		kernels->back_project(d->cuda.self, b->list, b->count, d->stream), PSGD_OK);
	ck_assert_int_eq(kernels->finish(d->cuda.self, &finish, d->stream), PSGD_OK);
}

static void end_step(struct devices *d, struct bucket *b)
{
	ck_assert_int_eq(d->cuda.ops->stream_finish(d->cuda.self, d->stream), PSGD_OK);
	ck_assert_uint_eq(b->nonfinite, 0);
}

/* So large that both projections have partial sums. */
START_TEST(launches)
{
	static const size_t counts[] = {1, 3, 200};
	struct devices d;
	struct bucket b;

	shim_reset();
	devices_open(&d);
	for (size_t i = 0; i < PSGD__COUNT(counts); i++) {
		uint64_t kernels, copies, syncs;

		bucket_new(&d, &b, counts[i], 280, 260, 2);
		/* The first step allocates. */
		step(&d, &b);
		end_step(&d, &b);
		kernels = shim_count(SHIM_KERNELS);
		copies = shim_count(SHIM_COPIES);
		syncs = shim_count(SHIM_SYNCS);
		step(&d, &b);
		ck_assert_uint_eq(shim_count(SHIM_KERNELS) - kernels, 8);
		/* A list for each call, and the verdict. */
		ck_assert_uint_eq(shim_count(SHIM_COPIES) - copies, 6);
		ck_assert_uint_eq(shim_count(SHIM_SYNCS) - syncs, 0);
		ck_assert_uint_eq(shim_count(SHIM_BLAS), 0);
		end_step(&d, &b);
		bucket_free(&d, &b);
	}
	devices_close(&d);
}
END_TEST

/* What a run's worker 0 asks besides of the gradients of a bucket: their norm, and to add them up.
 */
START_TEST(observations)
{
	static const size_t counts[] = {1, 3, 200};
	struct psgd__addend addends[MOST];
	struct psgd__span spans[MOST];
	struct devices d;
	struct bucket b;

	shim_reset();
	devices_open(&d);
	for (size_t i = 0; i < PSGD__COUNT(counts); i++) {
		const struct psgd_kernels *kernels = d.cuda.ops->kernels;
		uint64_t before;
		double squares = 0.0;

		bucket_new(&d, &b, counts[i], 280, 260, 2);
		for (size_t k = 0; k < b.count; k++) {
			spans[k] = (struct psgd__span){b.list[k].g, 280 * 260};
			addends[k] = (struct psgd__addend){b.list[k].e, b.list[k].g, 280 * 260};
		}
		before = shim_count(SHIM_KERNELS);
		ck_assert_int_eq(
			kernels->accumulate(d.cuda.self, addends, b.count, d.stream), PSGD_OK);
		ck_assert_int_eq(
			kernels->sum_squares(d.cuda.self, spans, b.count, &squares, d.stream),
			PSGD_OK);
		ck_assert_uint_eq(shim_count(SHIM_KERNELS) - before, 2);
		ck_assert_double_gt(squares, 0.0);
		bucket_free(&d, &b);
	}
	devices_close(&d);
}
END_TEST

/* Once the memory is there, steps take what is there. */
START_TEST(no_more_allocations)
{
	struct devices d;
	struct bucket b;
	uint64_t allocations;

	shim_reset();
	shim_lazy(true);
	devices_open(&d);
	bucket_new(&d, &b, 20, 150, 140, 3);
	for (int i = 0; i < 2; i++) {
		step(&d, &b);
		end_step(&d, &b);
	}
	allocations = shim_count(SHIM_ALLOCATIONS);
	for (int i = 0; i < 5; i++) {
		step(&d, &b);
		end_step(&d, &b);
	}
	ck_assert_uint_eq(shim_count(SHIM_ALLOCATIONS), allocations);
	bucket_free(&d, &b);
	devices_close(&d);
}
END_TEST

/*
 * 28 bytes of g and e for each element: three reads of g, one of e, two writes of g, one of e. With
 * partial sums at most 32, up to the largest rank. What is read of p and q is in caches.
 */
START_TEST(bytes)
{
	static const struct {
		int64_t n, m;
		uint32_t r;
	} cases[] = {{256, 2304, 1}, {256, 2304, 4}, {256, 2304, 32}, {512, 576, 32}, {10, 512, 4},
		{64, 147, 4}, {300, 301, 16}};
	struct devices d;
	struct bucket b;

	shim_reset();
	devices_open(&d);
	for (size_t i = 0; i < PSGD__COUNT(cases); i++) {
		double sums;

		bucket_new(&d, &b, 1, cases[i].n, cases[i].m, cases[i].r);
		touched_matrices = touched_factors = touched_sums = 0;
		step(&d, &b);
		end_step(&d, &b);
		sums = (double)(touched_matrices + touched_sums) / (double)b.elements;
		printf("# %d by %d, r=%u: %.2f bytes per element, p and q %.2f\n", (int)cases[i].n,
			(int)cases[i].m, cases[i].r, sums,
			(double)touched_factors / (double)b.elements);
		ck_assert_uint_eq(touched_matrices, 28 * (uint64_t)b.elements);
		ck_assert_double_le(sums, 32.0);
		bucket_free(&d, &b);
	}
	fflush(stdout);
	devices_close(&d);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cuda counts");
	TCase *c = tcase_create("of a bucket");

	tcase_set_timeout(c, 120);
	tcase_add_test(c, launches);
	tcase_add_test(c, observations);
	tcase_add_test(c, no_more_allocations);
	tcase_add_test(c, bytes);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
