/* Latency and bandwidth against links that are known: invented times, and emulated networks. */
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <psgd/experiment/measure.h>
#include <psgd/psgd.h>

#include "support/suite.h"

#define MAX_WORKERS 3
#define MS 1e6

/* ---- the fit ---- */

static struct psgd_measured fitted(const struct psgd_measure_point *points, size_t n, uint32_t w)
{
	struct psgd_measured found = PSGD_INIT(psgd_measured);

	ck_assert_int_eq(psgd_measure_fit(points, n, w, &found), PSGD_OK);
	ck_assert_uint_eq(found.n_workers, w);
	ck_assert_uint_eq(found.n_points, n);
	for (size_t i = 1; i < n; i++)
		ck_assert_uint_lt(found.points[i - 1].bytes, found.points[i].bytes);
	return found;
}

/* 100 Mbit/s and 3 ms one way, in whatever order the sizes were measured. */
START_TEST(fit_of_a_line)
{
	static const uint64_t sizes[] = {1 << 20, 8, 65536, 4 << 20, 1024};
	const uint32_t n = 2 + (uint32_t)_i;
	const double steps = 2.0 * (n - 1), per_byte = steps / n * 80;
	struct psgd_measure_point points[5];
	struct psgd_measured found;

	for (size_t i = 0; i < 5; i++)
		points[i] = (struct psgd_measure_point){
			sizes[i], (int64_t)(steps * 3 * MS + per_byte * (double)sizes[i])};
	found = fitted(points, 5, n);
	ck_assert_double_eq_tol(found.latency_ms, 3, 1e-3);
	ck_assert_double_eq_tol(found.bandwidth_mbps, 100, 0.1);
	ck_assert_double_eq_tol(found.delay_ns, steps * 3 * MS, 2000);
	ck_assert_double_eq_tol(found.ns_per_byte, per_byte, per_byte * 1e-3);
}
END_TEST

/* One late message of each kind, and a burst that carries the small ones for nothing. */
START_TEST(fit_is_robust)
{
	const struct psgd_measure_point points[] = {{8, 1622000}, {64, 107000}, {256, 104000},
		{1024, 104000}, {4096, 4023000}, {16384, 26083000}, {65536, 804784000},
		{262144, 419269000}};
	struct psgd_measured found = fitted(points, 8, 2);

	ck_assert_double_eq_tol(found.delay_ns, 104000, 1);
	ck_assert_double_eq_tol(found.bandwidth_mbps, 5, 0.05);
}
END_TEST

START_TEST(fit_of_few)
{
	const struct psgd_measure_point large[] = {{1 << 20, 3000000}, {2 << 20, 5000000}},
					falling[] = {{1 << 20, 5000000}, {2 << 20, 3000000}},
					small = {8, 1000000};
	struct psgd_measured found = fitted(large, 2, 2);

	ck_assert_double_eq_tol(found.delay_ns, 1000000, 1e-3);
	ck_assert_double_eq_tol(found.ns_per_byte, 2e6 / (1 << 20), 1e-9);
	found = fitted(falling, 2, 2);
	ck_assert(found.ns_per_byte >= 0 && found.delay_ns >= 0);
	found = fitted(&small, 1, 2);
	ck_assert_double_eq_tol(found.latency_ms, 0.5, 1e-9);
	ck_assert(isinf(found.bandwidth_mbps));
	found = fitted(large, 1, 4);
	ck_assert_double_eq_tol(found.delay_ns, 3000000, 1e-3);
}
END_TEST

START_TEST(fit_is_refused)
{
	struct psgd_measure_point points[] = {{8, 100}, {16, 100}, {16, 200}, {0, 5}, {32, 0}};
	struct psgd_measured found = PSGD_INIT(psgd_measured), none = {0};

	ck_assert_int_eq(psgd_measure_fit(NULL, 1, 2, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_fit(points, 0, 2, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_fit(points, 3, 2, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_fit(points + 3, 1, 2, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_fit(points + 4, 1, 2, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_fit(points, 2, 1, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_fit(points, 2, 2, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_fit(points, 2, 2, &none), PSGD_ERR_INVALID);
	ck_assert_int_eq(
		psgd_measure_fit(points, PSGD_MEASURE_MAX_POINTS + 1, 2, &found), PSGD_ERR_INVALID);
}
END_TEST

/* ---- networks ---- */

/* Workers that are threads, and a byte all-gather between them. */
struct crew {
	uint32_t n;
	pthread_barrier_t barrier;
	unsigned char blocks[MAX_WORKERS][256];
	struct psgd_link link;
	int fails_at; /* the last worker's post of that number, from 1; 0: none */
};

struct member {
	struct crew *crew;
	uint32_t worker;
	struct psgd_transport local;
	int n_posts;
	uint64_t posted_bytes;
	psgd_status status;
	struct psgd_measured found;
};

static psgd_status gather(void *self, const void *send, void *recv, size_t bytes)
{
	struct member *m = self;
	struct crew *crew = m->crew;

	ck_assert_uint_le(bytes, sizeof(crew->blocks[0]));
	memcpy(crew->blocks[m->worker], send, bytes);
	pthread_barrier_wait(&crew->barrier);
	for (uint32_t w = 0; w < crew->n; w++)
		memcpy((char *)recv + w * bytes, crew->blocks[w], bytes);
	pthread_barrier_wait(&crew->barrier);
	return PSGD_OK;
}

/* The local transport, which fails at a certain post. */
static psgd_status post(void *self, const struct psgd_collective *c, void **request)
{
	struct member *m = self;

	if (++m->n_posts == m->crew->fails_at && m->worker + 1 == m->crew->n) {
		m->local.ops->abort(m->local.self);
		return PSGD_ERR_TRANSPORT;
	}
	m->posted_bytes += (uint64_t)c->count * sizeof(float);
	return m->local.ops->post(m->local.self, c, request);
}

static psgd_status test(void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct member *m = self;

	return m->local.ops->test(m->local.self, request, timeout_ns, out);
}

static void abort_local(void *self)
{
	struct member *m = self;

	m->local.ops->abort(m->local.self);
}

static const struct psgd_transport_ops ops = {
	.size = sizeof(ops), .name = "test", .post = post, .test = test, .abort = abort_local};

static void *measure(void *arg)
{
	struct member *m = arg;
	struct crew *crew = m->crew;
	struct psgd_transport inner = {&ops, m, m->worker, crew->n}, shaped;
	struct psgd_oob oob = {gather, m, m->worker, crew->n};
	struct psgd_shaper shaper;

	if (psgd_shaper_model(&crew->link, &shaper) != PSGD_OK ||
		psgd_transport_shaped(&inner, &shaper, &shaped) != PSGD_OK)
		abort();
	m->found = PSGD_INIT(psgd_measured);
	m->status = psgd_measure_network(&shaped, &oob, 0, &m->found);
	psgd_transport_destroy(&shaped);
	psgd_shaper_destroy(&shaper);
	return NULL;
}

static void run_crew(struct crew *crew, struct member *members)
{
	struct psgd_transport local[MAX_WORKERS];
	pthread_t threads[MAX_WORKERS];

	crew->link.size = sizeof(crew->link);
	pthread_barrier_init(&crew->barrier, NULL, crew->n);
	ck_assert_int_eq(psgd_transport_local(crew->n, 0, local), PSGD_OK);
	for (uint32_t w = 0; w < crew->n; w++) {
		members[w] = (struct member){.crew = crew, .worker = w, .local = local[w]};
		ck_assert_int_eq(pthread_create(&threads[w], NULL, measure, &members[w]), 0);
	}
	for (uint32_t w = 0; w < crew->n; w++) {
		pthread_join(threads[w], NULL);
		psgd_transport_destroy(&members[w].local);
	}
	pthread_barrier_destroy(&crew->barrier);
}

static const struct {
	uint64_t mbps;
	double latency_ms;
} links[] = {{1, 0}, {5, 0}, {20, 5}, {100, 0}, {100, 10}, {200, 25}, {1000, 1}};
#define N_LINKS (int)(sizeof(links) / sizeof(links[0]))

/* What is configured is found, by all workers alike, within the time that is promised. */
START_TEST(emulated_links)
{
	const double mbps = (double)links[_i].mbps, latency_ms = links[_i].latency_ms;
	struct member members[MAX_WORKERS];
	struct crew crew = {.n = 2 + (uint32_t)_i % 2};
	uint64_t sent;

	crew.link.egress_bps = crew.link.ingress_bps = links[_i].mbps * 1000000;
	crew.link.delay_ns = (int64_t)(latency_ms * MS);
	run_crew(&crew, members);
	for (uint32_t w = 0; w < crew.n; w++) {
		const struct psgd_measured *found = &members[w].found;

		ck_assert_int_eq(members[w].status, PSGD_OK);
		if (fabs(found->bandwidth_mbps - mbps) > 0.15 * mbps)
			for (uint32_t i = 0; i < found->n_points; i++)
				fprintf(stderr, "%llu bytes: %.3f ms\n",
					(unsigned long long)found->points[i].bytes,
					(double)found->points[i].ns / MS);
		ck_assert_mem_eq(
			found, &members[0].found, offsetof(struct psgd_measured, sent_bytes));
		/* Of each all-reduce a worker of a ring sends 2 (n - 1) / n, rounded up. */
		sent = members[w].posted_bytes * 2 * (crew.n - 1);
		ck_assert_uint_ge(found->sent_bytes * crew.n, sent);
		ck_assert_uint_le(
			found->sent_bytes * crew.n, sent + crew.n * (uint64_t)members[w].n_posts);
		ck_assert_double_eq_tol(found->bandwidth_mbps, mbps, 0.15 * mbps);
		ck_assert_double_ge(found->latency_ms, latency_ms);
		ck_assert_double_le(found->latency_ms, 1.05 * latency_ms + 0.5);
		ck_assert_int_lt(found->elapsed_ns, (int64_t)(1500 * MS));
	}
}
END_TEST

/* Where one fails, all fail. */
START_TEST(failures)
{
	struct member members[MAX_WORKERS];
	struct crew crew = {.n = 3, .fails_at = 1 + 7 * _i};

	run_crew(&crew, members);
	for (uint32_t w = 0; w < crew.n; w++)
		ck_assert_int_lt(members[w].status, PSGD_OK);
}
END_TEST

START_TEST(calls_are_refused)
{
	struct member alone = {0};
	struct psgd_transport local[2], one;
	struct psgd_oob oob = {gather, &alone, 0, 2}, single = {gather, &alone, 0, 1};
	struct psgd_measured found = PSGD_INIT(psgd_measured);

	ck_assert_int_eq(psgd_transport_local(2, 0, local), PSGD_OK);
	ck_assert_int_eq(psgd_transport_local(1, 0, &one), PSGD_OK);
	ck_assert_int_eq(psgd_measure_network(NULL, &oob, 0, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_network(&local[0], NULL, 0, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_network(&local[0], &oob, -1, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_network(&local[0], &oob, 0, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_network(&local[0], &single, 0, &found), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_measure_network(&one, &single, 0, &found), PSGD_ERR_INVALID);
	psgd_transport_destroy(&one);
	psgd_transport_destroy(&local[0]);
	psgd_transport_destroy(&local[1]);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("measure");
	TCase *c = tcase_create("measure");

	tcase_add_loop_test(c, fit_of_a_line, 0, 3);
	tcase_add_test(c, fit_is_robust);
	tcase_add_test(c, fit_of_few);
	tcase_add_test(c, fit_is_refused);
	tcase_add_loop_test(c, emulated_links, 0, N_LINKS);
	tcase_add_loop_test(c, failures, 0, 3);
	tcase_add_test(c, calls_are_refused);
	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
