/* psgd/mpi.h over an MPI whose processes are threads: a transport like the others. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "support/suite.h"
#include "transport/messages.h"
#include "transport/mpi/control.h"

#define MOST 4
#define LONG ((1 << 20) + 5) /* values: they go in two parts */

static const mpi_wrap wraps[] = {mpi_wrap_in_c, mpi_wrap_in_cpp};

struct process {
	struct psgd_transport inner; /* of the MPI */
	MPI_Comm world;
	struct board *board;
	int64_t timeout_ns;
	void (*run)(struct worker *w);
	pthread_t thread;
};

static void *process_main(void *arg)
{
	struct process *p = arg;
	struct worker w = {.board = p->board};
	char error[256] = "x";

	p->world = mpi_world(&p->inner);
	REQUIRE(wraps[p->inner.worker % 2](
			p->world, p->timeout_ns, error, sizeof(error), &w.transport) == PSGD_OK);
	REQUIRE(!error[0] && w.transport.worker == p->inner.worker &&
		w.transport.n_workers == p->inner.n_workers);
	p->run(&w);
	psgd_transport_destroy(&w.transport);
	return NULL;
}

/* copies: of communicators that are left to MPI. */
static void run_processes(
	uint32_t n, int64_t timeout_ns, void (*run)(struct worker *w), const int *copies)
{
	struct psgd_transport inner[MOST];
	struct process processes[MOST];
	struct board board = {.arrived = 0};

	mpi_level(MPI_THREAD_MULTIPLE);
	ck_assert_int_eq(psgd_transport_local(n, 0, inner), PSGD_OK);
	for (uint32_t w = 0; w < n; w++) {
		processes[w] = (struct process){
			.inner = inner[w], .board = &board, .timeout_ns = timeout_ns, .run = run};
		ck_assert(!pthread_create(&processes[w].thread, NULL, process_main, &processes[w]));
	}
	for (uint32_t w = 0; w < n; w++)
		pthread_join(processes[w].thread, NULL);
	while (mpi_inside())
		sleep_ms(1);
	for (uint32_t w = 0; w < n; w++) {
		ck_assert_int_eq(mpi_copies(processes[w].world), copies ? copies[w] : 0);
		mpi_world_free(processes[w].world);
		psgd_transport_destroy(&processes[w].inner);
	}
}

static void take(struct worker *w, struct item *item, int64_t *last_end)
{
	const uint32_t n = w->transport.n_workers;
	struct psgd_transfer t = PSGD_INIT(psgd_transfer);

	REQUIRE(finish(w, item, &t) == PSGD_OK);
	require_transfer(&t, item, n, last_end);
	for (int64_t k = 0; k < values_in(item, n); k++)
		require_value(item, n, k);
	require_notified(item);
}

static void run_random(struct worker *w)
{
	const uint32_t n = w->transport.n_workers;
	struct item items[6];
	uint64_t message = 0;

	for (int batch = 0; batch < 5; batch++) {
		int64_t last_end = 0;

		for (int i = 0; i < 6; i++) {
			draw(&items[i], ++message, n);
			fill(&items[i], w->transport.worker, n);
		}
		for (int i = 0; i < 6; i++)
			REQUIRE(post(w, &items[i]) == PSGD_OK);
		for (int i = 0; i < 6; i++)
			take(w, &items[i], &last_end);
		for (int i = 0; i < 6; i++) {
			require_equal_bits(w, &items[i]);
			free(items[i].c.data);
		}
	}
}

START_TEST(test_random)
{
	run_processes((uint32_t)_i, 0, run_random, NULL);
}
END_TEST

/* What does not go at once: parts of a sum and a broadcast, blocks one after the other. */
static void run_long(struct worker *w)
{
	static const struct {
		uint32_t kind, dtype;
	} cases[] = {{PSGD_ALLREDUCE_SUM, PSGD_F32}, {PSGD_BROADCAST, PSGD_F32},
		{PSGD_ALLGATHER, PSGD_U8}};
	const uint32_t n = w->transport.n_workers;
	int64_t last_end = 0;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct item item = {.message = i + 1};

		item.c.kind = cases[i].kind;
		item.c.dtype = cases[i].dtype;
		item.c.count = LONG;
		item.c.root = cases[i].kind == PSGD_BROADCAST;
		item.c.data = malloc((size_t)values_in(&item, n) * 4);
		REQUIRE(item.c.data);
		fill(&item, w->transport.worker, n);
		REQUIRE(post(w, &item) == PSGD_OK);
		take(w, &item, &last_end);
		free(item.c.data);
	}
}

START_TEST(test_long)
{
	run_processes(2, 0, run_long, NULL);
}
END_TEST

/* Worker 1 does not come: the other one has its memory back, and knows why. */
static void run_absent(struct worker *w)
{
	struct item item = one_item(1000);
	const int64_t start = now_ns();
	char reason[512];

	if (w->transport.worker == 0) {
		REQUIRE(post(w, &item) == PSGD_OK);
		REQUIRE(finish(w, &item, NULL) == PSGD_ERR_TIMEOUT);
		REQUIRE(now_ns() - start < 8000 * MS);
		w->transport.ops->error(w->transport.self, reason, sizeof(reason));
		REQUIRE(strstr(reason, "was not through within 200 ms: mpi"));
		REQUIRE(post(w, &item) == PSGD_ERR_TIMEOUT);
		free(item.c.data);
		meet(w, 1);
		return;
	}
	free(item.c.data);
	meet(w, 1);
	/* Much later it does come, to a call that is still in MPI. */
	item = one_item(1000);
	REQUIRE(post(w, &item) == PSGD_OK);
	REQUIRE(finish(w, &item, NULL) == PSGD_OK);
	free(item.c.data);
}

START_TEST(test_absent)
{
	static const int copies[] = {1, 0};

	run_processes(2, 200 * MS, run_absent, copies);
}
END_TEST

static void run_trouble(struct worker *w)
{
	struct item item = one_item(10);
	char reason[512];

	item.c.stream = w;
	REQUIRE(post(w, &item) == PSGD_ERR_UNSUPPORTED);
	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	REQUIRE(strstr(reason, "memory of a device does not go by MPI"));
	item.c.stream = NULL;
	REQUIRE(post(w, &item) == PSGD_OK);
	REQUIRE(finish(w, &item, NULL) == PSGD_OK);
	mpi_fail(1);
	REQUIRE(post(w, &item) == PSGD_OK);
	REQUIRE(finish(w, &item, NULL) == PSGD_ERR_TRANSPORT);
	mpi_fail(0);
	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	REQUIRE(strstr(reason, "mpi: MPI error 15"));
	free(item.c.data);
}

/* Memory of a device, and a collective that fails. */
START_TEST(test_trouble)
{
	static const int copies[] = {1};

	run_processes(1, 0, run_trouble, copies);
}
END_TEST

/* Each call of the constructor fails; and an MPI that does not do. */
START_TEST(test_constructor)
{
	struct psgd_transport inner, t;
	psgd_status status = PSGD_ERR_INTERNAL;
	char error[64];
	MPI_Comm world;
	int k;

	ck_assert_int_eq(psgd_transport_local(1, 0, &inner), PSGD_OK);
	world = mpi_world(&inner);
	mpi_level(MPI_THREAD_MULTIPLE);
	for (k = 1; status != PSGD_OK; k++) {
		t = (struct psgd_transport){.self = &k};
		mpi_fail(k);
		status = wraps[k % 2](world, 0, error, sizeof(error), &t);
		mpi_fail(0);
		ck_assert(status == PSGD_OK ? !error[0] : error[0] && !t.ops && !t.self);
		psgd_transport_destroy(&t);
		ck_assert_int_eq(mpi_copies(world), 0);
	}
	ck_assert_int_eq(k, 8);
	ck_assert_int_eq(wraps[0](MPI_COMM_NULL, 0, error, sizeof(error), &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(wraps[0](world, -1, error, sizeof(error), &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(mpi_copies(world), 0);
	for (int level = -1; level < MPI_THREAD_MULTIPLE; level++) {
		mpi_level(level);
		ck_assert_int_eq(
			wraps[1](world, 0, error, sizeof(error), &t), PSGD_ERR_UNSUPPORTED);
		ck_assert_str_eq(error, "MPI_Init_thread must have given MPI_THREAD_MULTIPLE");
	}
	mpi_world_free(world);
	psgd_transport_destroy(&inner);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport mpi");
	TCase *c = tcase_create("mpi");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_random, 1, MOST + 1);
	tcase_add_test(c, test_long);
	tcase_add_test(c, test_absent);
	tcase_add_test(c, test_trouble);
	tcase_add_test(c, test_constructor);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
