/*
 * What waits for what on the CUDA device, with streams that run late: lists and partial sums of
 * calls that are in flight are neither overwritten nor freed, and streams wait for each other.
 */
#include "cuda/cuda.h"
#include "support/suite.h"

/* More lists in flight than there are slots: none is overwritten before it was read. */
START_TEST(lists_in_flight)
{
	enum { CALLS = 150, ROWS = 33 };
	float want[ROWS], got[ROWS];
	struct devices d;
	void *memory;

	shim_reset();
	shim_lazy(_i);
	devices_open(&d);
	ck_assert_int_eq(d.cuda.ops->alloc(d.cuda.self, CALLS * sizeof(want), &memory), PSGD_OK);
	for (uint32_t i = 0; i < CALLS; i++) {
		const struct psgd__fill fill = {(float *)memory + i * ROWS, ROWS, 0, 1, i, 2};

		ck_assert_int_eq(
			d.cuda.ops->kernels->fill(d.cuda.self, &fill, 1, 5, d.stream), PSGD_OK);
	}
	for (uint32_t i = 0; i < CALLS; i++) {
		const struct psgd__fill fill = {want, ROWS, 0, 1, i, 2};

		ck_assert_int_eq(d.cpu.ops->kernels->fill(d.cpu.self, &fill, 1, 5, NULL), PSGD_OK);
		ck_assert_int_eq(d.cuda.ops->download(d.cuda.self, got, (float *)memory + i * ROWS,
					 sizeof(got), d.stream),
			PSGD_OK);
		ck_assert_mem_eq(got, want, sizeof(want));
	}
	d.cuda.ops->free(d.cuda.self, memory, CALLS * sizeof(want));
	devices_close(&d);
}
END_TEST

/*
 * Two streams whose projections have partial sums, in the same memory: each g is one value
 * throughout, so every value of its p is known.
 */
START_TEST(sums_of_two_streams)
{
	enum { N = 8, M = 700, TURNS = 40 };
	struct devices d;
	struct twin g[2], q, p[2][TURNS];
	psgd_stream streams[2];

	shim_reset();
	shim_order(SHIM_RANDOM, (uint64_t)_i + 1);
	shim_lazy(_i % 2);
	devices_open(&d);
	streams[0] = d.stream;
	ck_assert_int_eq(d.cuda.ops->stream_create(d.cuda.self, &streams[1]), PSGD_OK);
	q = twin_new(&d, M, 0);
	for (size_t i = 0; i < M; i++)
		q.host[i] = 1.0f;
	twin_send(&d, &q);
	for (int s = 0; s < 2; s++) {
		g[s] = twin_new(&d, N * M, 0);
		for (size_t i = 0; i < N * M; i++)
			g[s].host[i] = 1.0f + (float)s;
		twin_send(&d, &g[s]);
		for (int i = 0; i < TURNS; i++) {
			p[s][i] = twin_new(&d, N, 0);
			for (size_t k = 0; k < N; k++)
				p[s][i].host[k] = (1.0f + (float)s) * M;
			twin_send(&d, &p[s][i]);
		}
	}
	for (int i = 0; i < TURNS; i++) {
		for (int s = 0; s < 2; s++) {
			const struct psgd__matrix x = {.g = g[s].device,
				.q = q.device,
				.p = p[s][i].device,
				.n = N,
				.m = M,
				.r = 1};

			ck_assert_int_eq(
				d.cuda.ops->kernels->absorb_project(d.cuda.self, &x, 1, streams[s]),
				PSGD_OK);
		}
	}
	for (int s = 0; s < 2; s++)
		ck_assert_int_eq(d.cuda.ops->stream_finish(d.cuda.self, streams[s]), PSGD_OK);
	for (int s = 0; s < 2; s++) {
		for (int i = 0; i < TURNS; i++) {
			twin_equal(&d, &p[s][i], "p");
			twin_free(&d, &p[s][i]);
		}
		twin_free(&d, &g[s]);
	}
	twin_free(&d, &q);
	d.cuda.ops->stream_destroy(d.cuda.self, streams[1]);
	devices_close(&d);
}
END_TEST

/* A matrix of ones, and q of ones: every value of p is m. Several tiles along the sum. */
struct ones {
	struct twin g, q, p;
	struct psgd__matrix x;
};

static void ones_new(struct devices *d, struct ones *ones, size_t n, size_t m)
{
	ones->g = twin_new(d, n * m, 0);
	ones->q = twin_new(d, m, 0);
	ones->p = twin_new(d, n, 0);
	for (size_t i = 0; i < n * m; i++)
		ones->g.host[i] = 1.0f;
	for (size_t i = 0; i < m; i++)
		ones->q.host[i] = 1.0f;
	for (size_t i = 0; i < n; i++)
		ones->p.host[i] = 0.0f;
	twin_send(d, &ones->g);
	twin_send(d, &ones->q);
	twin_send(d, &ones->p);
	for (size_t i = 0; i < n; i++)
		ones->p.host[i] = (float)m;
	ones->x = (struct psgd__matrix){.g = ones->g.device,
		.q = ones->q.device,
		.p = ones->p.device,
		.n = (int64_t)n,
		.m = (int64_t)m,
		.r = 1};
}

static void ones_end(struct devices *d, struct ones *ones, bool failed)
{
	if (!failed)
		twin_equal(d, &ones->p, "p");
	twin_free(d, &ones->g);
	twin_free(d, &ones->q);
	twin_free(d, &ones->p);
}

static void open_lazy(struct devices *d)
{
	shim_reset();
	shim_lazy(true);
	devices_open(d);
}

static void project(struct devices *d, const struct ones *ones)
{
	ck_assert_int_eq(d->cuda.ops->kernels->absorb_project(d->cuda.self, &ones->x, 1, d->stream),
		PSGD_OK);
}

/* The memory for partial sums is replaced by more, while the projection before has not run. */
START_TEST(sums_that_grow)
{
	struct ones small, large;
	struct devices d;

	open_lazy(&d);
	ones_new(&d, &small, 5, 600);
	ones_new(&d, &large, 50, 1000);
	/* Two in flight make two places for lists: who finds a free one does not ask for the other,
	 * which late work would take for being waited for. */
	project(&d, &small);
	project(&d, &small);
	ck_assert_int_eq(d.cuda.ops->stream_finish(d.cuda.self, d.stream), PSGD_OK);
	project(&d, &small);
	project(&d, &large);
	ones_end(&d, &small, false);
	ones_end(&d, &large, false);
	devices_close(&d);
}
END_TEST

/*
 * A device ends while its work has not run: its lists and sums last until then. Also when the last
 * calls of `absorb_project`, which mark where they are used last, fail (the nth from its
 * beginning).
 */
START_TEST(destroyed_under_way)
{
	struct psgd_device second;
	struct ones ones;
	struct devices d;
	psgd_status status;
	char text[256];

	open_lazy(&d);
	ones_new(&d, &ones, 20, 900);
	ck_assert_int_eq(open_cuda(&second, text, sizeof(text)), PSGD_OK);
	if (_i)
		shim_fail((uint64_t)_i);
	status = second.ops->kernels->absorb_project(second.self, &ones.x, 1, d.stream);
	shim_fail(0);
	if (!_i)
		ck_assert_int_eq(status, PSGD_OK);
	psgd_device_destroy(&second);
	ck_assert_int_eq(d.cuda.ops->stream_finish(d.cuda.self, d.stream), PSGD_OK);
	/* What failed may have run or not. */
	ones_end(&d, &ones, status < 0);
	devices_close(&d);
}
END_TEST

/* What one stream writes is read in another, which is the only one that is waited for. */
START_TEST(streams_wait)
{
	const float one = 1.0f;
	const struct psgd_device_ops *ops;
	struct devices d;
	psgd_stream other;
	psgd_event event;
	float got = 5.0f;
	void *block;
	float *memory;

	open_lazy(&d);
	ops = d.cuda.ops;
	ck_assert_int_eq(ops->stream_create(d.cuda.self, &other), PSGD_OK);
	ck_assert_int_eq(ops->event_create(d.cuda.self, &event), PSGD_OK);
	ck_assert_int_eq(ops->alloc(d.cuda.self, 2 * sizeof(float), &block), PSGD_OK);
	memory = block;
	ck_assert_int_eq(ops->upload(d.cuda.self, memory, &one, sizeof(one), d.stream), PSGD_OK);
	ck_assert_int_eq(
		ops->kernels->axpby(d.cuda.self, 1, 3.0f, memory, 0.0f, memory, d.stream), PSGD_OK);
	ck_assert_int_eq(ops->event_record(d.cuda.self, event, d.stream), PSGD_OK);
	ck_assert_int_eq(ops->stream_wait(d.cuda.self, other, event), PSGD_OK);
	ck_assert_int_eq(ops->copy(d.cuda.self, memory + 1, memory, sizeof(float), other), PSGD_OK);
	ck_assert_int_eq(ops->download(d.cuda.self, &got, memory + 1, sizeof(got), other), PSGD_OK);
	ck_assert_float_eq(got, 3.0f);
	ops->free(d.cuda.self, block, 2 * sizeof(float));
	ops->event_destroy(d.cuda.self, event);
	ops->stream_destroy(d.cuda.self, other);
	devices_close(&d);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cuda order");
	TCase *c = tcase_create("order");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, lists_in_flight, 0, 2);
	tcase_add_loop_test(c, sums_of_two_streams, 0, 6);
	tcase_add_test(c, sums_that_grow);
	tcase_add_loop_test(c, destroyed_under_way, 0, 24);
	tcase_add_test(c, streams_wait);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
