/*
 * The CUDA device against the CPU: random groups of matrices. What all workers compute for
 * themselves is the CPU's bits; projections are within 1e-5 of float64. Built twice: on the CUDA
 * that runs on a CPU, in every order of threads, with streams that run at once and with streams
 * that run late; and for a real device, where there is one.
 */
#include <sched.h>
#include <stdio.h>

#include "cuda/group.h"
#include "support/oracle.h"
#include "support/suite.h"

/* Few large matrices, many small ones, and some with more columns than a kernel takes. */
static const struct sizes shapes[] = {
	{1, 300, 200, 5},
	{3, 700, 90, 32},
	{40, 60, 30, 8},
	{200, 9, 12, 3},
	{4, 150, 70, 64},
};
#define SHAPES (int)PSGD__COUNT(shapes)

static void open_loop(struct devices *d, int i)
{
	take_order(i % ORDERS);
	devices_open(d);
}

static struct group *loop_group(struct devices *d, int i, struct rng *rng)
{
	return group_new(d, &shapes[i / ORDERS % SHAPES], rng);
}

/* g = values of g + e; p (or q) = g q (or g^T p), in double. */
static void project_in_double(const struct psgd__matrix *x, const float *g, bool back, double *out)
{
	for (uint32_t c = 0; c < x->r; c++) {
		for (int64_t i = 0; i < x->n; i++) {
			for (int64_t j = 0; j < x->m; j++) {
				const double v = (double)g[i * x->m + j];

				if (back)
					out[c * x->m + j] += v * (double)x->p[c * x->n + i];
				else
					out[c * x->n + i] += v * (double)x->q[c * x->m + j];
			}
		}
	}
}

static void close_to(const float *got, const double *want, size_t n)
{
	double *wide = calloc(n + 1, sizeof(*wide));

	for (size_t i = 0; i < n; i++)
		wide[i] = (double)got[i];
	ck_assert_double_le(oracle_distance(wide, want, n), 1e-5);
	free(wide);
}

static void check_projection(struct devices *d, const struct group *group, size_t k, bool back)
{
	const struct psgd__matrix *x = &group->cpu[k];
	const struct twin *result = back ? &group->q[k] : &group->p[k];
	float *got = twin_fetch(d, result);
	double *want = calloc(result->n + 1, sizeof(*want));

	/* The sum of two floats is one rounding: g itself is the CPU's bits. */
	if (!back && x->e) {
		for (int64_t i = 0; i < x->n * x->m; i++)
			x->g[i] += x->e[i];
	}
	twin_equal(d, &group->g[k], "g");
	if (!back && !x->r)
		memcpy(result->host, x->g, result->n * sizeof(float));
	if (x->r) {
		project_in_double(x, x->g, back, want);
		close_to(got, want, result->n);
	} else {
		twin_equal(d, result, "message");
	}
	free(want);
	free(got);
}

START_TEST(projections)
{
	struct rng rng = {(uint64_t)_i / ORDERS + 1};
	struct group *group;
	struct devices d;

	open_loop(&d, _i);
	group = loop_group(&d, _i, &rng);
	group_send(&d, group);
	ck_assert_int_eq(d.cuda.ops->kernels->absorb_project(
				 d.cuda.self, group->cuda, group->count, d.stream),
		PSGD_OK);
	for (size_t k = 0; k < group->count; k++)
		check_projection(&d, group, k, false);
	/* p as the host knows it. */
	group_send(&d, group);
	ck_assert_int_eq(
		d.cuda.ops->kernels->back_project(d.cuda.self, group->cuda, group->count, d.stream),
		PSGD_OK);
	for (size_t k = 0; k < group->count; k++)
		check_projection(&d, group, k, true);
	group_free(&d, group);
	devices_close(&d);
}
END_TEST

START_TEST(reconstruct_is_exact)
{
	struct rng rng = {(uint64_t)_i / ORDERS + 100};
	struct group *group;
	struct devices d;

	open_loop(&d, _i);
	group = loop_group(&d, _i, &rng);
	group_send(&d, group);
	ck_assert_int_eq(
		d.cuda.ops->kernels->reconstruct(d.cuda.self, group->cuda, group->count, d.stream),
		PSGD_OK);
	ck_assert_int_eq(
		d.cpu.ops->kernels->reconstruct(d.cpu.self, group->cpu, group->count, NULL),
		PSGD_OK);
	group_equal(&d, group, true);
	group_free(&d, group);
	devices_close(&d);
}
END_TEST

/* The messages of a group: two spans over memory of their own. */
struct messages {
	struct twin values[2];
	struct psgd__span cpu[2], cuda[2];
};

static void messages_new(struct devices *d, struct messages *x, struct rng *rng)
{
	for (int i = 0; i < 2; i++) {
		x->values[i] = twin_new(d, rng_range(rng, 1, 40000), rng_range(rng, 0, 3));
		twin_fill(&x->values[i], rng);
		x->cpu[i] = (struct psgd__span){x->values[i].host, (int64_t)x->values[i].n};
		x->cuda[i] = (struct psgd__span){x->values[i].device, (int64_t)x->values[i].n};
	}
}

static void messages_spoil(struct messages *x, struct rng *rng)
{
	static const float bad[] = {NAN, INFINITY, -INFINITY};
	const struct twin *which = &x->values[rng_range(rng, 0, 1)];

	which->host[rng_range(rng, 0, (uint32_t)which->n - 1)] = bad[rng_range(rng, 0, 2)];
}

static void finish_both(struct devices *d, const struct group *group, const struct messages *x,
	uint32_t as_is, uint32_t bad)
{
	uint32_t on_cpu = 7, on_cuda = 7;
	struct psgd__finish f = {
		.list = group->cpu,
		.count = group->count,
		.messages = x->cpu,
		.n_messages = 2,
		.nonfinite = &on_cpu,
		.mean = 1.0f / 3.0f,
		.as_is = as_is,
	};

	ck_assert_int_eq(d->cpu.ops->kernels->finish(d->cpu.self, &f, NULL), PSGD_OK);
	f.list = group->cuda;
	f.messages = x->cuda;
	f.nonfinite = &on_cuda;
	ck_assert_int_eq(d->cuda.ops->kernels->finish(d->cuda.self, &f, d->stream), PSGD_OK);
	ck_assert_int_eq(d->cuda.ops->stream_finish(d->cuda.self, d->stream), PSGD_OK);
	ck_assert_uint_eq(on_cpu, bad);
	ck_assert_uint_eq(on_cuda, bad);
}

/* Finite; not finite, so NaN and nothing else changes; not finite, and as it is. */
#define KINDS 3

START_TEST(finish_is_exact)
{
	struct rng rng = {(uint64_t)_i / ORDERS + 200};
	const int kind = _i / (ORDERS * SHAPES);
	struct messages messages;
	struct group *group;
	struct devices d;

	open_loop(&d, _i);
	group = loop_group(&d, _i, &rng);
	messages_new(&d, &messages, &rng);
	if (kind)
		messages_spoil(&messages, &rng);
	group_send(&d, group);
	for (int i = 0; i < 2; i++)
		twin_send(&d, &messages.values[i]);
	finish_both(&d, group, &messages, kind == 2, kind > 0);
	group_equal(&d, group, false);
	if (kind == 1)
		ck_assert_float_nan(group->g[0].host[0]);
	for (int i = 0; i < 2; i++)
		twin_free(&d, &messages.values[i]);
	group_free(&d, group);
	devices_close(&d);
}
END_TEST

/* Columns that are zero, the same, tiny, and with zeros of both signs. */
static void make_awkward(struct twin *q, size_t rows, uint32_t cols, struct rng *rng)
{
	for (int i = 0; i < 5 && q->n; i++)
		q->host[rng_next(rng) % q->n] = i % 2 ? -0.0f : 1e-41f;
	if (cols > 1)
		memset(q->host + rows, 0, rows * sizeof(float));
	if (cols > 3)
		memcpy(q->host + 3 * rows, q->host + 2 * rows, rows * sizeof(float));
	for (size_t i = 0; i < rows && cols > 4; i++)
		q->host[4 * rows + i] *= 1e-22f;
}

START_TEST(orthonormalize_is_exact)
{
	struct rng rng = {(uint64_t)_i / ORDERS + 300};
	struct psgd__panel cpu[MOST_MATRICES], cuda[MOST_MATRICES];
	struct group *group;
	struct devices d;

	open_loop(&d, _i);
	group = loop_group(&d, _i, &rng);
	for (size_t k = 0; k < group->count; k++) {
		const struct psgd__matrix *x = &group->cpu[k];

		if (k % 2)
			make_awkward(&group->q[k], (size_t)x->m, x->r, &rng);
		cpu[k] = (struct psgd__panel){x->q, x->m, x->r, 0};
		cuda[k] = (struct psgd__panel){group->cuda[k].q, x->m, x->r, 0};
	}
	group_send(&d, group);
	ck_assert_int_eq(d.cuda.ops->kernels->orthonormalize(
				 d.cuda.self, cuda, group->count, 1e-8f, d.stream),
		PSGD_OK);
	ck_assert_int_eq(
		d.cpu.ops->kernels->orthonormalize(d.cpu.self, cpu, group->count, 1e-8f, NULL),
		PSGD_OK);
	group_equal(&d, group, true);
	group_free(&d, group);
	devices_close(&d);
}
END_TEST

/* Columns of about as many values as are added in one piece, and of more. */
static const size_t lengths[] = {191, 192, 193, 1151, 1152, 1153, 2341};
#define LENGTHS (int)PSGD__COUNT(lengths)

START_TEST(long_columns)
{
	const size_t rows = lengths[_i / ORDERS], cols = 6;
	struct rng rng = {(uint64_t)_i + 350};
	struct psgd__panel panel = {NULL, (int64_t)rows, (uint32_t)cols, 0};
	struct devices d;
	struct twin q;

	open_loop(&d, _i);
	q = twin_new(&d, rows * cols, 0);
	twin_fill(&q, &rng);
	twin_send(&d, &q);
	panel.data = q.device;
	ck_assert_int_eq(
		d.cuda.ops->kernels->orthonormalize(d.cuda.self, &panel, 1, 0.0f, d.stream),
		PSGD_OK);
	panel.data = q.host;
	ck_assert_int_eq(
		d.cpu.ops->kernels->orthonormalize(d.cpu.self, &panel, 1, 0.0f, NULL), PSGD_OK);
	twin_equal(&d, &q, "q");
	twin_free(&d, &q);
	devices_close(&d);
}
END_TEST

/* Drawn, or from an earlier Q with columns that carry nothing. */
START_TEST(start_is_exact)
{
	struct rng rng = {(uint64_t)_i / ORDERS + 400};
	struct psgd__start cpu[MOST_MATRICES], cuda[MOST_MATRICES];
	struct group *group;
	struct devices d;

	open_loop(&d, _i);
	group = loop_group(&d, _i, &rng);
	for (size_t k = 0; k < group->count; k++) {
		const struct psgd__matrix *x = &group->cpu[k];

		if (k % 3)
			make_awkward(&group->keep[k], (size_t)x->m, x->r, &rng);
		cpu[k] = (struct psgd__start){
			.q = x->q,
			.from = k % 3 ? group->keep[k].host : NULL,
			.m = x->m,
			.r = x->r,
			.tensor = 7 + (uint32_t)k,
			.draw = 3,
			.redraw = 0x80000005u,
		};
		cuda[k] = cpu[k];
		cuda[k].q = group->cuda[k].q;
		cuda[k].from = k % 3 ? group->keep[k].device : NULL;
	}
	group_send(&d, group);
	ck_assert_int_eq(d.cuda.ops->kernels->start(d.cuda.self, cuda, group->count,
				 UINT64_C(0x123456789abcdef0), 1e-8f, d.stream),
		PSGD_OK);
	ck_assert_int_eq(d.cpu.ops->kernels->start(d.cpu.self, cpu, group->count,
				 UINT64_C(0x123456789abcdef0), 1e-8f, NULL),
		PSGD_OK);
	group_equal(&d, group, true);
	group_free(&d, group);
	devices_close(&d);
}
END_TEST

static void check_spans(struct devices *d, struct messages *x, struct rng *rng)
{
	double on_cpu = 1.5, on_cuda = 1.5;
	int finite = -1;

	ck_assert_int_eq(
		d->cpu.ops->kernels->sum_squares(d->cpu.self, x->cpu, 2, &on_cpu, NULL), PSGD_OK);
	ck_assert_int_eq(
		d->cuda.ops->kernels->sum_squares(d->cuda.self, x->cuda, 2, &on_cuda, d->stream),
		PSGD_OK);
	ck_assert_mem_eq(&on_cpu, &on_cuda, sizeof(on_cpu));
	ck_assert_int_eq(d->cuda.ops->kernels->finite(d->cuda.self, x->cuda, 2, &finite, d->stream),
		PSGD_OK);
	ck_assert_int_eq(finite, 1);
	messages_spoil(x, rng);
	for (int i = 0; i < 2; i++)
		twin_send(d, &x->values[i]);
	ck_assert_int_eq(d->cuda.ops->kernels->finite(d->cuda.self, x->cuda, 2, &finite, d->stream),
		PSGD_OK);
	ck_assert_int_eq(finite, 0);
}

static void check_axpby(struct devices *d, struct rng *rng)
{
	static const float factors[][2] = {{0.3f, 0.7f}, {1.0f, 1.0f}, {-2.5f, 0.0f}};
	const size_t n = rng_range(rng, 1, 70000);
	struct twin x = twin_new(d, n, rng_range(rng, 0, 1)), y = twin_new(d, n, 0);
	const struct psgd_kernels *cpu = d->cpu.ops->kernels, *cuda = d->cuda.ops->kernels;

	for (size_t i = 0; i < PSGD__COUNT(factors); i++) {
		const float a = factors[i][0], b = factors[i][1];

		twin_fill(&x, rng);
		twin_fill(&y, rng);
		if (b == 0.0f)
			y.host[n / 2] = NAN; /* must not be read */
		twin_send(d, &x);
		twin_send(d, &y);
		ck_assert_int_eq(
			cpu->axpby(d->cpu.self, (int64_t)n, a, x.host, b, y.host, NULL), PSGD_OK);
		ck_assert_int_eq(
			cuda->axpby(d->cuda.self, (int64_t)n, a, x.device, b, y.device, d->stream),
			PSGD_OK);
		twin_equal(d, &y, "y");
		/* In place. */
		ck_assert_int_eq(
			cpu->axpby(d->cpu.self, (int64_t)n, a, x.host, b, x.host, NULL), PSGD_OK);
		ck_assert_int_eq(
			cuda->axpby(d->cuda.self, (int64_t)n, a, x.device, b, x.device, d->stream),
			PSGD_OK);
		twin_equal(d, &x, "x");
	}
	twin_free(d, &x);
	twin_free(d, &y);
}

static void check_accumulate(struct devices *d, struct rng *rng)
{
	struct psgd__addend cpu[3], cuda[3];
	struct twin to[3], from[3];

	for (int i = 0; i < 3; i++) {
		const size_t n = i ? rng_range(rng, 1, 40000) : 7;

		to[i] = twin_new(d, n, rng_range(rng, 0, 1));
		from[i] = twin_new(d, n, 0);
		twin_fill(&to[i], rng);
		twin_fill(&from[i], rng);
		twin_send(d, &to[i]);
		twin_send(d, &from[i]);
		cpu[i] = (struct psgd__addend){to[i].host, from[i].host, (int64_t)n};
		cuda[i] = (struct psgd__addend){to[i].device, from[i].device, (int64_t)n};
	}
	ck_assert_int_eq(d->cpu.ops->kernels->accumulate(d->cpu.self, cpu, 3, NULL), PSGD_OK);
	ck_assert_int_eq(
		d->cuda.ops->kernels->accumulate(d->cuda.self, cuda, 3, d->stream), PSGD_OK);
	for (int i = 0; i < 3; i++) {
		twin_equal(d, &to[i], "to");
		twin_equal(d, &from[i], "from");
		twin_free(d, &to[i]);
		twin_free(d, &from[i]);
	}
}

static void check_fill(struct devices *d, struct rng *rng)
{
	const uint32_t rows = rng_range(rng, 1, 9000), cols = rng_range(rng, 1, 5);
	struct twin x = twin_new(d, (size_t)rows * cols, 0), y = twin_new(d, rows, 0);
	struct psgd__fill list[2] = {
		{x.host, rows, 1, cols, 9, 3}, {y.host, rows, cols, 1, 9, 0x80000003u}};

	twin_send(d, &x);
	twin_send(d, &y);
	ck_assert_int_eq(
		d->cpu.ops->kernels->fill(d->cpu.self, list, 2, UINT64_C(1) << 40 | 5, NULL),
		PSGD_OK);
	list[0].data = x.device;
	list[1].data = y.device;
	ck_assert_int_eq(
		d->cuda.ops->kernels->fill(d->cuda.self, list, 2, UINT64_C(1) << 40 | 5, d->stream),
		PSGD_OK);
	twin_equal(d, &x, "x");
	twin_equal(d, &y, "y");
	twin_free(d, &x);
	twin_free(d, &y);
}

static void check_sample(struct devices *d, struct rng *rng)
{
	const int64_t stride = rng_range(rng, 1, 9), count = rng_range(rng, 1, 3000);
	struct twin x = twin_new(d, (size_t)(stride * count), 0);
	float *to = calloc((size_t)count, sizeof(*to));

	twin_fill(&x, rng);
	twin_send(d, &x);
	ck_assert_int_eq(
		d->cuda.ops->kernels->sample(d->cuda.self, x.device, stride, count, to, d->stream),
		PSGD_OK);
	for (int64_t i = 0; i < count; i++) {
		if (to[i] != x.host[i * stride])
			ck_abort_msg("value %d of a sample", (int)i);
	}
	free(to);
	twin_free(d, &x);
}

static void check_leading(struct devices *d, struct rng *rng)
{
	const uint32_t cols = rng_range(rng, 1, 20), rows = rng_range(rng, cols, 200);
	const uint32_t keep = rng_range(rng, 1, cols);
	struct twin from = twin_new(d, (size_t)rows * cols, 0),
		    to = twin_new(d, (size_t)rows * keep, 0);
	struct psgd__panel panel = {from.host, rows, cols, 0};

	twin_fill(&from, rng);
	twin_send(d, &from);
	twin_send(d, &to);
	ck_assert_int_eq(
		d->cpu.ops->kernels->leading(d->cpu.self, &panel, keep, to.host, NULL), PSGD_OK);
	panel.data = from.device;
	ck_assert_int_eq(
		d->cuda.ops->kernels->leading(d->cuda.self, &panel, keep, to.device, d->stream),
		PSGD_OK);
	twin_equal(d, &to, "leading");
	ck_assert_int_eq(
		d->cuda.ops->kernels->leading(d->cuda.self, &panel, cols + 1, to.device, d->stream),
		PSGD_ERR_INVALID);
	twin_free(d, &from);
	twin_free(d, &to);
}

START_TEST(small_kernels_are_exact)
{
	struct rng rng = {(uint64_t)_i + 500};
	struct messages messages;
	struct devices d;

	open_loop(&d, _i);
	messages_new(&d, &messages, &rng);
	for (int i = 0; i < 2; i++)
		twin_send(&d, &messages.values[i]);
	check_spans(&d, &messages, &rng);
	check_axpby(&d, &rng);
	check_accumulate(&d, &rng);
	check_fill(&d, &rng);
	check_sample(&d, &rng);
	check_leading(&d, &rng);
	for (int i = 0; i < 2; i++)
		twin_free(&d, &messages.values[i]);
	devices_close(&d);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cuda kernels");
	TCase *c = tcase_create("against the CPU");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, projections, 0, ORDERS * SHAPES);
	tcase_add_loop_test(c, reconstruct_is_exact, 0, ORDERS * SHAPES);
	tcase_add_loop_test(c, finish_is_exact, 0, ORDERS * SHAPES * KINDS);
	tcase_add_loop_test(c, orthonormalize_is_exact, 0, ORDERS * SHAPES);
	tcase_add_loop_test(c, long_columns, 0, ORDERS * LENGTHS);
	tcase_add_loop_test(c, start_is_exact, 0, ORDERS * SHAPES);
	tcase_add_loop_test(c, small_kernels_are_exact, 0, 2 * ORDERS);
	suite_add_tcase(s, c);
	return s;
}

#ifndef CUDA_ON_A_DEVICE
/*
 * Memory of the emulation's device changes hands by the protection of its pages, of which another
 * processor is told each time: one that sleeps in a virtual machine takes its time.
 */
static void stay_on_one_processor(void)
{
	const int at = sched_getcpu();
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET((size_t)(at < 0 ? 0 : at), &one);
	(void)sched_setaffinity(0, sizeof(one), &one);
}
#endif

int main(void)
{
#ifdef CUDA_ON_A_DEVICE
	struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
	char reason[256];

	if (psgd_cuda_info(0, CUDA_MODULE_DIR, &info, NULL, reason, sizeof(reason)) ==
		PSGD_ERR_UNSUPPORTED) {
		printf("1..0 # SKIP %s\n", reason);
		return 0;
	}
#else
	stay_on_one_processor();
#endif
	return run_suite(suite());
}
