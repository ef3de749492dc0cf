/* One set of laws for every transport: threads, processes, and a modelled link over either. */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "support/suite.h"
#include "transport/messages.h"
#include "transport/workers.h"

#define MAX_BATCH 8
#define MOST 4 /* workers in loops over counts */
#define NO_KILL .killed = -1

static const struct psgd_link fast_link = {
	.egress_bps = 2000000000, .ingress_bps = 2000000000, .delay_ns = 20000, .jitter_ns = 10000};

/* Loop tests number all kinds by all worker counts from `least` on. */
static struct cluster cluster_of(int i, uint32_t least, void (*run)(struct worker *))
{
	const int n_counts = MOST - (int)least + 1;

	return (struct cluster){.kind = (enum kind)(FIRST_KIND + i / n_counts),
		.n = least + (uint32_t)(i % n_counts),
		.link = fast_link,
		.run = run,
		NO_KILL};
}
#define N_CASES(least) (N_KINDS * (MOST - (least) + 1))

static void run_random(struct worker *w)
{
	const uint32_t n = w->transport.n_workers;
	static const int batches[] = {1, 8, 3, 5, 8, 1, 2};
	struct item items[MAX_BATCH];
	uint64_t message = 0;

	for (size_t b = 0; b < sizeof(batches) / sizeof(batches[0]); b++) {
		int64_t last_end = 0;

		for (int i = 0; i < batches[b]; i++) {
			draw(&items[i], ++message, n);
			fill(&items[i], w->transport.worker, n);
		}
		for (int i = 0; i < batches[b]; i++)
			REQUIRE(post(w, &items[i]) == PSGD_OK);
		for (int i = 0; i < batches[b]; i++) {
			struct psgd_transfer t = PSGD_INIT(psgd_transfer);

			REQUIRE(finish(w, &items[i], &t) == PSGD_OK);
			require_transfer(&t, &items[i], n, &last_end);
			for (int64_t k = 0; k < values_in(&items[i], n); k++)
				require_value(&items[i], n, k);
			require_notified(&items[i]);
		}
		for (int i = 0; i < batches[b]; i++) {
			require_equal_bits(w, &items[i]);
			free(items[i].c.data);
		}
	}
	meet(w, 1); /* or the first to leave gives the others a reason */
	char reason[64] = "x";
	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	REQUIRE(!reason[0]);
	meet(w, 2);
}

START_TEST(test_random)
{
	const struct cluster c = cluster_of(_i, 1, run_random);

	run_workers(&c);
}
END_TEST

/* Counts that halves and words do not divide, of every type, between as many as are odd. */
static void run_allgather(struct worker *w)
{
	static const int64_t counts[] = {1, 2, 3, 7, 1001, 65537, 400003};
	const uint32_t n = w->transport.n_workers;
	struct item items[MAX_BATCH];
	uint64_t message = 0;

	for (uint32_t dtype = PSGD_F32; dtype <= PSGD_U8; dtype++) {
		const int n_counts = sizeof(counts) / sizeof(counts[0]);
		int64_t last_end = 0;

		for (int i = 0; i < n_counts; i++) {
			items[i] = (struct item){.message = ++message};
			items[i].c.kind = PSGD_ALLGATHER;
			items[i].c.dtype = dtype;
			items[i].c.count = counts[i];
			items[i].c.data = malloc((size_t)counts[i] * n * 8);
			REQUIRE(items[i].c.data);
			fill(&items[i], w->transport.worker, n);
			REQUIRE(post(w, &items[i]) == PSGD_OK);
		}
		for (int i = 0; i < n_counts; i++) {
			struct psgd_transfer t = PSGD_INIT(psgd_transfer);

			REQUIRE(finish(w, &items[i], &t) == PSGD_OK);
			require_transfer(&t, &items[i], n, &last_end);
			for (int64_t k = 0; k < values_in(&items[i], n); k++)
				require_value(&items[i], n, k);
			require_notified(&items[i]);
			free(items[i].c.data);
		}
	}
}

START_TEST(test_allgather)
{
	static const uint32_t n_workers[] = {2, 3, 5};
	const struct cluster c = {.kind = (enum kind)(FIRST_KIND + _i / 3),
		.n = n_workers[_i % 3],
		.link = fast_link,
		.run = run_allgather,
		NO_KILL};

	run_workers(&c);
}
END_TEST

static void require_reason(struct worker *w)
{
	char reason[256] = "";

	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	REQUIRE(strstr(reason, "worker "));
}

static void require_words(struct worker *w, const char *words)
{
	char reason[512] = "";

	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	REQUIRE(strstr(reason, words));
}

/* After an error, a post or its request fails, and at once. */
static void require_failed(struct worker *w)
{
	struct item item = one_item(10);
	const int64_t start = now_ns();

	if (post(w, &item) >= 0) {
		REQUIRE(finish(w, &item, NULL) < 0);
		require_notified(&item);
	}
	REQUIRE(now_ns() - start < 3000 * MS);
	free(item.c.data);
}

/* Each posts what the others do not expect. Nobody dies, and all hear of it in time. */
static void run_disagree(struct worker *w)
{
	const bool odd = w->transport.worker == w->transport.n_workers - 1;
	const char *what = w->arg;
	struct item item = one_item(30000);
	const int64_t start = now_ns();
	psgd_status status;

	if (odd && !strcmp(what, "tag"))
		item.message = 2;
	else if (odd && !strcmp(what, "larger"))
		item.c.count = 30000;
	else if (!odd && !strcmp(what, "larger"))
		item.c.count = 299;
	else if (odd && !strcmp(what, "smaller"))
		item.c.count = 1;
	else if (odd && !strcmp(what, "dtype")) {
		item.c.count = 15000;
		item.c.dtype = PSGD_F64;
	} else if (odd && !strcmp(what, "kind"))
		item.c.kind = PSGD_BROADCAST;
	else if (odd && !strcmp(what, "gather"))
		item.c.kind = PSGD_ALLGATHER;
	else if (!strcmp(what, "blocks")) {
		item.c.kind = PSGD_ALLGATHER;
		item.c.count -= odd;
	} else if (!strcmp(what, "root")) {
		item.c.kind = PSGD_BROADCAST;
		item.c.root = odd;
	}
	status = post(w, &item);
	if (status == PSGD_OK) {
		status = finish(w, &item, NULL);
		require_notified(&item);
	}
	if (w->kind == LOCAL || w->kind == SHAPED) {
		REQUIRE(status == PSGD_ERR_MISMATCH);
		require_reason(w);
		if (!strcmp(what, "gather"))
			require_words(w, "all-gather of 30000 f32");
	} else if (strcmp(what, "root")) {
		REQUIRE(status == PSGD_ERR_TIMEOUT || status == PSGD_ERR_PEER_LOST);
		require_reason(w);
	}
	REQUIRE(now_ns() - start < 5000 * MS);
	/* A broadcast root needs only those it sends to: it may have got through. */
	if (status < 0)
		require_failed(w);
	meet(w, 1);
	free(item.c.data);
}

START_TEST(test_disagree)
{
	static const char *const whats[] = {
		"tag", "larger", "smaller", "dtype", "kind", "gather", "blocks", "root"};

	for (size_t i = 0; i < sizeof(whats) / sizeof(whats[0]); i++) {
		struct cluster c = cluster_of(_i, 2, run_disagree);

		/* NCCL's messages have no names. */
		if (c.kind >= NCCL && !strcmp(whats[i], "tag"))
			continue;
		c.timeout_ns = 400 * MS;
		c.arg = (void *)(uintptr_t)whats[i];
		run_workers(&c);
	}
}
END_TEST

static void run_never_posts(struct worker *w)
{
	const uint32_t absent = w->transport.n_workers - 1;
	int64_t start;

	meet(w, 1); /* the deadline runs from the first post on */
	start = now_ns();
	if (w->transport.worker != absent) {
		struct item first = one_item(1000), second = one_item(5);
		psgd_status status;

		second.message = 2;
		REQUIRE(post(w, &first) == PSGD_OK);
		REQUIRE(post(w, &second) == PSGD_OK);
		status = finish(w, &first, NULL);
		/* With three and more, another worker's deadline may be the first news. */
		REQUIRE(status == PSGD_ERR_TIMEOUT ||
			(w->transport.n_workers > 2 && status == PSGD_ERR_PEER_LOST));
		REQUIRE(now_ns() - start >= 200 * MS && now_ns() - start < 5000 * MS);
		REQUIRE(finish(w, &second, NULL) < 0);
		require_reason(w);
		require_notified(&first);
		require_notified(&second);
		require_failed(w);
		free(first.c.data);
		free(second.c.data);
	}
	meet(w, 2);
}

START_TEST(test_never_posts)
{
	struct cluster c = cluster_of(_i, 2, run_never_posts);

	c.timeout_ns = 300 * MS;
	run_workers(&c);
}
END_TEST

static void *abort_later(void *arg)
{
	struct worker *w = arg;

	sleep_ms(50);
	w->transport.ops->abort(w->transport.self);
	return NULL;
}

/* Worker 0 aborts from another thread; the last worker, which has posted nothing, hears it too. */
static void run_abort(struct worker *w)
{
	const int64_t start = now_ns();
	struct item item = one_item(100000);
	pthread_t thread;

	if (w->transport.worker == 0)
		REQUIRE(!pthread_create(&thread, NULL, abort_later, w));
	if (w->transport.worker != w->transport.n_workers - 1) {
		psgd_status status = post(w, &item);

		if (status == PSGD_OK) {
			status = finish(w, &item, NULL);
			require_notified(&item);
		}
		REQUIRE(status == PSGD_ERR_TRANSPORT ||
			(w->transport.worker && status == PSGD_ERR_PEER_LOST));
		require_reason(w);
	}
	if (w->transport.worker == 0)
		pthread_join(thread, NULL);
	meet(w, 1);
	require_failed(w);
	REQUIRE(now_ns() - start < 5000 * MS);
	meet(w, 2);
	free(item.c.data);
}

START_TEST(test_abort)
{
	const struct cluster c = cluster_of(_i, 2, run_abort);

	run_workers(&c);
}
END_TEST

/* Requests that nobody tests any more are the transport's to free. */
static void run_destroy_pending(struct worker *w)
{
	static const int64_t counts[] = {200000, 1, 5, 70000, 3};

	if (w->transport.worker == w->transport.n_workers - 1) {
		meet(w, 1);
		return;
	}
	/* Static: the data must stay until the transport is destroyed, after this function. */
	static float data[MAX_WORKERS][200000];
	static struct item items[MAX_WORKERS][5];
	for (uint64_t i = 0; i < 5; i++) {
		struct item *item = &items[w->transport.worker][i];

		memset(item, 0, sizeof(*item));
		item->message = i;
		item->c.kind = PSGD_ALLREDUCE_SUM;
		item->c.dtype = PSGD_F32;
		item->c.count = counts[i];
		item->c.data = data[w->transport.worker];
		REQUIRE(post(w, item) == PSGD_OK);
	}
	meet(w, 1);
	w->transport.ops->abort(w->transport.self);
}

START_TEST(test_destroy_pending)
{
	const struct cluster c = cluster_of(_i, 2, run_destroy_pending);

	run_workers(&c);
}
END_TEST

/* One worker leaves when it has what it wants: the last message of the others still arrives. */
static void run_leave_early(struct worker *w)
{
	struct item item = one_item(100000 + 1);

	REQUIRE(post(w, &item) == PSGD_OK);
	if (w->transport.worker)
		sleep_ms(30);
	REQUIRE(finish(w, &item, NULL) == PSGD_OK);
	require_notified(&item);
	free(item.c.data);
}

START_TEST(test_leave_early)
{
	const struct cluster c = cluster_of(_i, 2, run_leave_early);

	run_workers(&c);
}
END_TEST

static void run_invalid(struct worker *w)
{
	const struct item good = one_item(4);
	struct item bad;
	void *request = w;

#define REFUSED(field, value, error)                                                               \
	do {                                                                                       \
		bad = good;                                                                        \
		bad.c.field = (value);                                                             \
		REQUIRE(post(w, &bad) == (error));                                                 \
		REQUIRE(!bad.request);                                                             \
	} while (0)
	REFUSED(kind, 0, PSGD_ERR_INVALID);
	REFUSED(kind, 4, PSGD_ERR_INVALID);
	REFUSED(dtype, 0, PSGD_ERR_INVALID);
	REFUSED(dtype, 9, PSGD_ERR_INVALID);
	REFUSED(dtype, PSGD_U8, PSGD_ERR_UNSUPPORTED);
	REFUSED(count, 0, PSGD_ERR_INVALID);
	REFUSED(count, -1, PSGD_ERR_INVALID);
	REFUSED(count, INT64_MAX, PSGD_ERR_INVALID);
	REFUSED(data, NULL, PSGD_ERR_INVALID);
	REFUSED(reserved, 1, PSGD_ERR_INVALID);
	/* A shaped transport leaves it to the inner one; one worker alone has nothing to move. */
	if (w->kind == GLOO || (w->kind == LOCAL && w->transport.n_workers > 1))
		REFUSED(stream, w, PSGD_ERR_UNSUPPORTED);
	bad = good;
	bad.c.kind = PSGD_BROADCAST;
	bad.c.root = w->transport.n_workers;
	REQUIRE(post(w, &bad) == PSGD_ERR_INVALID);
	bad = good;
	bad.c.kind = PSGD_ALLGATHER;
	bad.c.count = INT64_MAX / 8 + 1; /* all blocks together do not fit */
	REQUIRE(w->transport.n_workers == 1 || post(w, &bad) == PSGD_ERR_INVALID);
	REQUIRE(w->transport.ops->post(w->transport.self, NULL, &request) == PSGD_ERR_INVALID);
	/* What was refused has started nothing. */
	bad = good;
	REQUIRE(post(w, &bad) == PSGD_OK);
	REQUIRE(finish(w, &bad, NULL) == PSGD_OK);
	require_notified(&bad);
	free(good.c.data);
}

START_TEST(test_invalid)
{
	const struct cluster c = cluster_of(_i, 1, run_invalid);

	run_workers(&c);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport conformance");
	TCase *c = tcase_create("conformance");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, test_random, 0, N_CASES(1));
	tcase_add_loop_test(c, test_allgather, 0, 3 * N_KINDS);
	tcase_add_loop_test(c, test_abort, 0, N_CASES(2));
	tcase_add_loop_test(c, test_destroy_pending, 0, N_CASES(2));
	tcase_add_loop_test(c, test_leave_early, 0, N_CASES(2));
	tcase_add_loop_test(c, test_invalid, 0, N_CASES(1));
	suite_add_tcase(suite, c);
	/* Apart, as each waits for deadlines: CK_RUN_CASE leaves them out where they show nothing
	 * new. */
	c = tcase_create("deadlines");
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, test_disagree, 0, N_CASES(2));
	tcase_add_loop_test(c, test_never_posts, 0, N_CASES(2));
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
