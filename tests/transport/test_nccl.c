/* What the conformance of transports does not ask: NCCL's failures, and how its workers meet. */
#include <cuda_runtime.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_shim/shim.h"
#include "cuda_shim/shim_nccl.h"
#include "support/suite.h"
#include "transport/crew.h"

/* What may pass until a library that does not return is given up. */
#define LET_GO (5000 * MS)
#define SLACK (4000 * MS)

static bool says(const char *text, const char *part)
{
	if (!strstr(text, part))
		fprintf(stderr, "\"%s\" is not in: %s\n", part, text);
	return strstr(text, part);
}

static void run_sums(struct member *m)
{
	for (int64_t count = 1; count < 300000; count = count * 7 + 1) {
		REQUIRE(sum_host(&m->transport, count) == PSGD_OK);
		REQUIRE(sum_device(&m->transport, m->worker, count) == PSGD_OK);
	}
	m->result = PSGD_OK;
}

START_TEST(test_threads)
{
	struct crew crew = {.n = 1 + (uint32_t)_i % 4, .run = run_sums};

	shim_devices(MAX_WORKERS);
	shim_lazy(_i >= 4);
	run_crew(&crew);
	for (uint32_t w = 0; w < crew.n; w++) {
		ck_assert_int_eq(crew.members[w].status, PSGD_OK);
		ck_assert_str_eq(crew.members[w].reason, "");
	}
	require_no_leaks();
}
END_TEST

/* Once all is made, a collective on the device costs one call of NCCL's, no copy, and no wait. */
static void run_count(struct member *m)
{
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	const uint64_t copies = shim_count(SHIM_COPIES), syncs = shim_count(SHIM_SYNCS);
	const uint64_t before = shim_count(SHIM_COLLECTIVES);
	void *device;

	REQUIRE(!cudaMalloc(&device, 4000));
	REQUIRE(!cudaMemsetAsync(device, 0, 4000, NULL));
	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = 1000;
	c.data = device;
	for (int i = 0; i < 20; i++)
		REQUIRE(collect(&m->transport, &c) == PSGD_OK);
	REQUIRE(shim_count(SHIM_COLLECTIVES) == before + 20);
	REQUIRE(shim_count(SHIM_COPIES) == copies);
	REQUIRE(shim_count(SHIM_SYNCS) == syncs);
	REQUIRE(!cudaFree(device));
}

START_TEST(test_count)
{
	struct crew crew = {.n = 1, .run = run_count};

	run_crew(&crew);
	ck_assert_int_eq(crew.members[0].status, PSGD_OK);
	require_no_leaks();
}
END_TEST

/* Delayed and shaped, data on the device. */
static void run_decorated(struct member *m)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct psgd_transport delayed, shaped;
	struct psgd_shaper shaper;

	link.egress_bps = link.ingress_bps = 2000000000;
	link.delay_ns = 100000;
	REQUIRE(psgd_shaper_model(&link, &shaper) == PSGD_OK);
	REQUIRE(psgd_transport_delayed(&m->transport, &shaper, &delayed) == PSGD_OK);
	for (int i = 0; i < 5; i++)
		REQUIRE(sum_device(&delayed, m->worker, 5000) == PSGD_OK);
	psgd_transport_destroy(&delayed);
	REQUIRE(psgd_transport_shaped(&m->transport, &shaper, &shaped) == PSGD_OK);
	for (int i = 0; i < 5; i++)
		REQUIRE(sum_device(&shaped, m->worker, 5000) == PSGD_OK);
	psgd_transport_destroy(&shaped);
	psgd_shaper_destroy(&shaper);
}

START_TEST(test_decorated)
{
	struct crew crew = {.n = 2, .run = run_decorated};

	shim_devices(2);
	shim_lazy(_i);
	run_crew(&crew);
	ck_assert_int_eq(crew.members[0].status, PSGD_OK);
	ck_assert_int_eq(crew.members[1].status, PSGD_OK);
	require_no_leaks();
}
END_TEST

/* Both are named, to everybody, and NCCL is not even asked. */
START_TEST(test_one_device)
{
	struct crew crew = {.n = 3, .ordinals = {0, 0, (uint32_t)-1}};

	shim_devices(3);
	run_crew(&crew);
	for (uint32_t w = 0; w < 3; w++) {
		ck_assert_int_eq(crew.members[w].status, PSGD_ERR_UNSUPPORTED);
		ck_assert(says(crew.members[w].reason, "workers 1 and 2"));
		ck_assert(says(crew.members[w].reason, "device 0000:"));
	}
	ck_assert_uint_eq(shim_count(SHIM_COLLECTIVES), 0);
	require_no_leaks();
}
END_TEST

static void other_version(struct member *m)
{
	if (m->worker == 1)
		shim_nccl_version(22705);
}

START_TEST(test_versions)
{
	struct crew crew = {.n = 2, .before = other_version};

	shim_devices(2);
	run_crew(&crew);
	for (uint32_t w = 0; w < 2; w++) {
		ck_assert_int_eq(crew.members[w].status, PSGD_ERR_MISMATCH);
		ck_assert(
			says(crew.members[w].reason, "worker 0 has NCCL 2.28.9, worker 1 2.27.5"));
	}
	require_no_leaks();
}
END_TEST

/* One worker's trouble is all workers' news, at once. */
START_TEST(test_devices)
{
	static const struct {
		int devices;
		uint32_t ordinal;
		psgd_status status;
		const char *words;
	} cases[] = {
		{-1, 0, PSGD_ERR_UNSUPPORTED, "no CUDA device: "},
		{0, 0, PSGD_ERR_UNSUPPORTED, "no CUDA device: "},
		{2, 1, PSGD_ERR_INVALID, "no CUDA device 2: there are 2"},
	};
	struct crew crew = {.n = 2, .ordinals = {0, cases[_i].ordinal}};

	shim_devices(cases[_i].devices);
	run_crew(&crew);
	for (uint32_t w = 0; w < 2; w++) {
		ck_assert_int_eq(crew.members[w].status, cases[_i].status);
		ck_assert(says(crew.members[w].reason, cases[_i].words));
	}
	if (cases[_i].ordinal)
		ck_assert(says(crew.members[0].reason, "worker 1: no CUDA device 2"));
	require_no_leaks();
}
END_TEST

static psgd_status alone(void *self, const void *send, void *recv, size_t bytes)
{
	memcpy(recv, send, bytes);
	if (self) /* what a second worker of another make might say */
		memset((char *)recv + bytes, *(const int *)self, bytes);
	return PSGD_OK;
}

START_TEST(test_options)
{
	int fill = _i ? 0xff : 0;
	const struct psgd_oob single = {alone, NULL, 0, 1}, hostile = {alone, &fill, 0, 2};
	const struct psgd_oob bad_worker = {alone, NULL, 1, 1};
	struct psgd_nccl_options o = PSGD_INIT(psgd_nccl_options);
	struct psgd_transport t;
	char reason[300];

	o.error = reason;
	o.error_bytes = sizeof(reason);
	ck_assert_int_eq(psgd_transport_nccl(&o, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_nccl(NULL, &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_nccl(&o, &t), PSGD_ERR_INVALID);
	o.oob = &bad_worker;
	ck_assert_int_eq(psgd_transport_nccl(&o, &t), PSGD_ERR_INVALID);
	o.oob = &single;
	o.module_dir = "/nonexistent";
	ck_assert_int_eq(psgd_transport_nccl(&o, &t), PSGD_ERR_UNSUPPORTED);
	ck_assert(says(reason, "/nonexistent/psgd-nccl.so"));
	o.module_dir = NCCL_MODULE_DIR;
	o.timeout_ns = -1;
	ck_assert_int_eq(psgd_transport_nccl(&o, &t), PSGD_ERR_INVALID);
	o.timeout_ns = 0;
	o.oob = &hostile;
	ck_assert_int_eq(psgd_transport_nccl(&o, &t), PSGD_ERR_MISMATCH);
	ck_assert(says(reason, "worker 1"));
	o.oob = &single;
	ck_assert_int_eq(psgd_transport_nccl(&o, &t), PSGD_OK);
	ck_assert_str_eq(reason, "");
	ck_assert_str_eq(t.ops->name, "nccl");
	psgd_transport_destroy(&t);
	require_no_leaks();
}
END_TEST

START_TEST(test_info)
{
	char error[300] = "x";
	uint32_t version = 1;

	/* No device is asked for. */
	shim_devices(-1);
	ck_assert_int_eq(psgd_nccl_info(NCCL_MODULE_DIR, &version, error, sizeof(error)), PSGD_OK);
	ck_assert_uint_eq(version, 22809);
	ck_assert_str_eq(error, "");
	ck_assert_int_eq(psgd_nccl_info(NCCL_MODULE_DIR, NULL, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_nccl_info("/nonexistent", &version, error, sizeof(error)),
		PSGD_ERR_UNSUPPORTED);
	ck_assert_uint_eq(version, 0);
	ck_assert(says(error, "/nonexistent/psgd-nccl.so"));
}
END_TEST

/* What the first collective needs never comes. */
START_TEST(test_never_connects)
{
	static const unsigned int stalls[] = {
		SHIM_NCCL_INIT, SHIM_NCCL_CONNECT, SHIM_NCCL_COLLECTIVE};
	struct crew crew = {.n = 2, .timeout_ns = 300 * MS};
	const int64_t start = now_ns();

	shim_devices(2);
	shim_nccl_stall(stalls[_i]);
	run_crew(&crew);
	ck_assert_int_lt(now_ns() - start, 300 * MS + SLACK);
	for (uint32_t w = 0; w < 2; w++) {
		const struct member *m = &crew.members[w];

		ck_assert(m->status == PSGD_ERR_TIMEOUT || m->status == PSGD_ERR_PEER_LOST);
		ck_assert(says(m->reason, "NCCL does not bring the workers together"));
	}
	ck_assert(crew.members[0].status == PSGD_ERR_TIMEOUT ||
		  crew.members[1].status == PSGD_ERR_TIMEOUT);
	require_no_leaks();
}
END_TEST

/* The abort does not return: the request ends all the same, and so does destroy. */
static atomic_int n_notified;

static void on_notify(void *user)
{
	(void)user;
	atomic_fetch_add(&n_notified, 1);
}

static void run_stuck(struct member *m)
{
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	float data[3] = {1, 2, 3};
	char reason[512];
	const int64_t start = now_ns();
	void *request;

	shim_nccl_stall(SHIM_NCCL_COLLECTIVE | SHIM_NCCL_ABORT);
	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = 3;
	c.data = data;
	c.notify = on_notify;
	REQUIRE(m->transport.ops->post(m->transport.self, &c, &request) == PSGD_OK);
	do
		m->result = m->transport.ops->test(m->transport.self, request, 100 * MS, NULL);
	while (m->result == PSGD_PENDING);
	REQUIRE(now_ns() - start >= 300 * MS + LET_GO);
	REQUIRE(now_ns() - start < 300 * MS + LET_GO + SLACK);
	m->transport.ops->error(m->transport.self, reason, sizeof(reason));
	REQUIRE(says(reason, "worker 0: all-reduce of 3 f32 (12 bytes), tag 0 was not through"));
	REQUIRE(says(reason, "within 300 ms: nccl; nccl does not let go"));
	REQUIRE(m->transport.ops->post(m->transport.self, &c, &request) == PSGD_ERR_TIMEOUT);
}

START_TEST(test_stuck)
{
	struct crew crew = {.n = 1, .timeout_ns = 300 * MS, .run = run_stuck};
	const int64_t start = now_ns();

	run_crew(&crew);
	ck_assert_int_lt(now_ns() - start, 300 * MS + LET_GO + 2 * SLACK);
	ck_assert_int_eq(crew.members[0].status, PSGD_OK);
	ck_assert_int_eq(crew.members[0].result, PSGD_ERR_TIMEOUT);
	ck_assert_int_eq(atomic_load(&n_notified), 1);
	ck_assert_uint_gt(shim_leaks(), 0);
	/* Should it come back after all, nothing is left of it. */
	shim_nccl_stall(0);
	require_no_leaks();
}
END_TEST

/* A peer that does not leave with the others is waited for, but not for ever. */
static void run_no_finalize(struct member *m)
{
	REQUIRE(sum_host(&m->transport, 10) == PSGD_OK);
	shim_nccl_stall(SHIM_NCCL_FINALIZE);
}

START_TEST(test_no_finalize)
{
	struct crew crew = {.n = 2, .run = run_no_finalize};
	const int64_t start = now_ns();

	shim_devices(2);
	run_crew(&crew);
	ck_assert_int_eq(crew.members[0].status, PSGD_OK);
	ck_assert_int_lt(now_ns() - start, LET_GO + SLACK);
	require_no_leaks();
}
END_TEST

/*
 * Call k of CUDA or NCCL fails, for every k, or the device is lost there: a status, the truth or an
 * error, and nothing left.
 */
static void run_some(struct member *m)
{
	m->result = sum_host(&m->transport, 100);
	if (!m->result)
		m->result = sum_device(&m->transport, m->worker, 1000);
	if (!m->result)
		m->result = sum_host(&m->transport, 100000);
}

START_TEST(test_failures)
{
	void (*const trouble)(uint64_t nth) = _i / 2 ? shim_lose : shim_fail;
	const uint32_t n = 1 + (uint32_t)_i % 2;
	uint64_t k, failed = 0, late = 0;

	shim_devices(2);
	for (k = 1;; k++) {
		struct crew crew = {.n = n, .timeout_ns = 400 * MS, .run = run_some};
		bool fired, all_well = true;

		trouble(k);
		run_crew(&crew);
		fired = shim_calls() >= k;
		trouble(0);
		for (uint32_t w = 0; w < n; w++) {
			const struct member *m = &crew.members[w];

			ck_assert_int_le(m->status, 0);
			ck_assert_int_le(m->result, 0);
			all_well = all_well && !m->status && !m->result;
		}
		failed += fired && !all_well;
		require_no_leaks();
		if (!fired && all_well)
			break;
		/* Nothing was in its way but a machine that is busy with something else. */
		if (!fired) {
			ck_assert_uint_lt(++late, 20);
			k--;
		}
	}
	/* What only frees may fail without harm; what makes and moves may not. */
	ck_assert_uint_gt(failed, k / 2);
	printf("# %u workers: %llu calls, %llu of them fail the transport\n", n,
		(unsigned long long)k - 1, (unsigned long long)failed);
	fflush(stdout);
}
END_TEST

START_TEST(test_memory_of_device)
{
	struct crew crew = {.n = 1, .run = run_some};

	shim_memory_limit(200000);
	run_crew(&crew);
	ck_assert_int_eq(crew.members[0].status, PSGD_OK);
	ck_assert_int_eq(crew.members[0].result, PSGD_ERR_NOMEM);
	require_no_leaks();
}
END_TEST

enum death { WHILE_IDLE, AFTER_POST, IN_MID_MESSAGE, N_DEATHS };

/* The last worker is killed. The others hear of it within 5 s, and live on. */
static void run_killed(struct worker *w)
{
	const uint32_t victim = w->transport.n_workers - 1;
	const enum death death = *(const enum death *)w->arg;
	const int64_t count = death == IN_MID_MESSAGE ? 1000000 : 100000;
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	char want[32], reason[256] = "";
	psgd_status status;
	void *request;
	int64_t start;

	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = count;
	c.data = calloc((size_t)count, sizeof(float));
	REQUIRE(c.data);
	REQUIRE(sum_host(&w->transport, 1000) == PSGD_OK);
	meet(w, 1);
	if (w->transport.worker == victim) {
		if (death != WHILE_IDLE)
			REQUIRE(!w->transport.ops->post(w->transport.self, &c, &request));
		if (death == IN_MID_MESSAGE)
			sleep_ms(3);
		kill(getpid(), SIGKILL);
	}
	if (death == WHILE_IDLE)
		sleep_ms(50);
	start = now_ns();
	status = collect(&w->transport, &c);
	/* The message may have been through before the kill: then the next one cannot be. */
	if (status == PSGD_OK) {
		start = now_ns();
		status = collect(&w->transport, &c);
	}
	REQUIRE(status == PSGD_ERR_PEER_LOST);
	REQUIRE(now_ns() - start < 5000 * MS);
	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	snprintf(want, sizeof(want), "has lost worker %u", victim);
	REQUIRE(says(reason, victim == 1 ? want : "has lost another worker"));
	REQUIRE(collect(&w->transport, &c) == PSGD_ERR_PEER_LOST);
	free(c.data);
}

START_TEST(test_killed)
{
	enum death death = (enum death)(_i % N_DEATHS);
	const uint32_t n = 2 + (uint32_t)(_i / N_DEATHS);
	const struct cluster c = {
		.kind = NCCL, .n = n, .run = run_killed, .arg = &death, .killed = (int)n - 1};

	run_workers(&c);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport nccl");
	TCase *c = tcase_create("nccl");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, test_threads, 0, 8);
	tcase_add_test(c, test_count);
	tcase_add_loop_test(c, test_decorated, 0, 2);
	tcase_add_test(c, test_one_device);
	tcase_add_test(c, test_versions);
	tcase_add_loop_test(c, test_devices, 0, 3);
	tcase_add_loop_test(c, test_options, 0, 2);
	tcase_add_test(c, test_info);
	tcase_add_loop_test(c, test_never_connects, 0, 3);
	tcase_add_test(c, test_stuck);
	tcase_add_test(c, test_no_finalize);
	tcase_add_loop_test(c, test_failures, 0, 3);
	tcase_add_test(c, test_memory_of_device);
	tcase_add_loop_test(c, test_killed, 0, N_DEATHS * 2);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
