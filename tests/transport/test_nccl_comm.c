/* A trainer's own communicator, blocking or not, lent to the transport or given to it. */
#include <stdlib.h>
#include <string.h>

#include "cuda_shim/shim.h"
#include "cuda_shim/shim_nccl.h"
#include "support/suite.h"
#include "transport/crew.h"
#include "transport/nccl_plain.h"

static const nccl_wrap wraps[] = {wrap_in_c, wrap_in_cpp};

/* What a test wants of one worker. */
struct rank {
	ncclUniqueId id;
	int worker, n;
	bool blocking, gone;
	uint32_t flags;
	int64_t timeout_ns;
	nccl_wrap wrap;
	void (*run)(struct rank *r, struct psgd_transport *t);
	psgd_status result;
	pthread_t thread;
};

static ncclComm_t make(const struct rank *r)
{
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	ncclResult_t state = ncclInProgress;
	ncclComm_t comm;

	config.blocking = r->blocking;
	REQUIRE(!cudaSetDevice(r->worker));
	state = ncclCommInitRankConfig(&comm, r->n, r->id, r->worker, &config);
	for (int i = 0; i < 10000 && state == ncclInProgress; i++) {
		sleep_ms(1);
		REQUIRE(!ncclCommGetAsyncError(comm, &state));
	}
	REQUIRE(state == ncclSuccess);
	return comm;
}

static void *rank_main(void *arg)
{
	struct rank *r = arg;
	ncclComm_t comm = make(r);
	struct psgd_transport t;
	char error[256] = "x";

	REQUIRE(r->wrap(comm, r->flags, r->timeout_ns, &r->gone, error, &t) == PSGD_OK);
	REQUIRE(!error[0] && (int)t.worker == r->worker && (int)t.n_workers == r->n);
	r->run(r, &t);
	psgd_transport_destroy(&t);
	/* What was lent is the trainer's again, and works; unless it had to be aborted. */
	if (!(r->flags & PSGD_NCCL_OWN) && !r->gone)
		REQUIRE(!ncclCommDestroy(comm));
	return NULL;
}

static void run_ranks(struct rank *ranks, int n)
{
	ncclUniqueId id;

	shim_devices(n);
	ck_assert_int_eq(ncclGetUniqueId(&id), ncclSuccess);
	for (int w = 0; w < n; w++) {
		ranks[w].id = id;
		ranks[w].worker = w;
		ranks[w].n = n;
		ck_assert(!pthread_create(&ranks[w].thread, NULL, rank_main, &ranks[w]));
	}
	for (int w = 0; w < n; w++)
		pthread_join(ranks[w].thread, NULL);
	require_no_leaks();
}

static void run_sums(struct rank *r, struct psgd_transport *t)
{
	for (int i = 0; i < 5; i++) {
		REQUIRE(sum_host(t, 1 + i * 1000) == PSGD_OK);
		REQUIRE(sum_device(t, (uint32_t)r->worker, 1 + i * 1000) == PSGD_OK);
	}
}

START_TEST(test_sums)
{
	struct rank ranks[3] = {{.n = 0}};

	for (int w = 0; w < 3; w++)
		ranks[w] = (struct rank){.wrap = wraps[(_i + w) % 2],
			.blocking = _i & 1,
			.flags = _i & 2 ? PSGD_NCCL_OWN : 0,
			.run = run_sums};
	run_ranks(ranks, 3);
	for (int w = 0; w < 3; w++)
		ck_assert(!ranks[w].gone);
}
END_TEST

static void run_timeout(struct rank *r, struct psgd_transport *t)
{
	const int64_t start = now_ns();

	r->result = sum_host(t, 1000);
	REQUIRE(r->result == PSGD_ERR_TIMEOUT || r->result == PSGD_ERR_PEER_LOST);
	REQUIRE(now_ns() - start < 4000 * MS);
}

/* A blocking communicator holds the thread that starts a collective up; the deadline holds. */
START_TEST(test_stuck_in_call)
{
	struct rank ranks[2] = {{.n = 0}};

	shim_nccl_stall(SHIM_NCCL_CONNECT);
	for (int w = 0; w < 2; w++)
		ranks[w] = (struct rank){.wrap = wraps[w],
			.blocking = true,
			.flags = _i ? PSGD_NCCL_OWN : 0,
			.timeout_ns = 300 * MS,
			.run = run_timeout};
	run_ranks(ranks, 2);
	/* Who lent it must know. */
	ck_assert(ranks[0].gone == !_i && ranks[1].gone == !_i);
}
END_TEST

/* Each call of the constructor fails: the communicator is still the trainer's. */
START_TEST(test_failures)
{
	struct rank r = {.n = 1, .blocking = true};
	psgd_status status;
	uint64_t k;

	ck_assert_int_eq(ncclGetUniqueId(&r.id), ncclSuccess);
	for (k = 1;; k++) {
		ncclComm_t comm = make(&r);
		struct psgd_transport t = {.self = &r};
		char error[256] = "";

		shim_fail(k);
		status = wraps[k % 2](comm, 0, 0, NULL, error, &t);
		shim_fail(0);
		psgd_transport_destroy(&t);
		ck_assert_int_eq(ncclCommDestroy(comm), ncclSuccess);
		require_no_leaks();
		if (status == PSGD_OK)
			break;
		ck_assert(error[0] && !t.ops && !t.self);
	}
	ck_assert_uint_gt(k, 5);
}
END_TEST

/* No communicator, a flag that is not known, a time that cannot be: said before NCCL is called. */
START_TEST(test_arguments)
{
	struct rank r = {.n = 1, .blocking = true};
	struct psgd_transport t = {.self = &r};
	nccl_wrap wrap = wraps[_i];
	char error[256] = "";
	ncclComm_t comm;

	ck_assert_int_eq(ncclGetUniqueId(&r.id), ncclSuccess);
	comm = make(&r);
	ck_assert_int_eq(wrap(NULL, 0, 0, NULL, error, &t), PSGD_ERR_INVALID);
	ck_assert(error[0] && !t.ops && !t.self);
	ck_assert_int_eq(wrap(comm, PSGD_NCCL_OWN | 1u << 7, 0, NULL, error, &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(wrap(comm, 0, -1, NULL, error, &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(ncclCommDestroy(comm), ncclSuccess);
	require_no_leaks();
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport nccl comm");
	TCase *c = tcase_create("comm");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_sums, 0, 4);
	tcase_add_loop_test(c, test_stuck_in_call, 0, 2);
	tcase_add_test(c, test_failures);
	tcase_add_loop_test(c, test_arguments, 0, 2);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
