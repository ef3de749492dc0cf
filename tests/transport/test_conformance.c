/* One set of laws for every transport: threads, processes, and a modelled link over either. */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "support/suite.h"
#include "transport/workers.h"

#define MS INT64_C(1000000)
#define MAX_BATCH 8
#define NO_KILL .killed = -1

static const struct psgd_link fast_link = {
	.egress_bps = 2000000000, .ingress_bps = 2000000000, .delay_ns = 20000, .jitter_ns = 10000};

/* Loop tests number all kinds by all worker counts from `least` on. */
static struct cluster cluster_of(int i, uint32_t least, void (*run)(struct worker *))
{
	const int n_counts = MAX_WORKERS - (int)least + 1;

	return (struct cluster){.kind = (enum kind)(i / n_counts),
		.n = least + (uint32_t)(i % n_counts),
		.link = fast_link,
		.run = run,
		NO_KILL};
}
#define N_CASES(least) (N_KINDS * (MAX_WORKERS - (least) + 1))

/* Counter-based, so that every worker can say what every other one holds. */
static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = (a + 1) * 0x9e3779b97f4a7c15 ^ (b + 0x7f4a7c15) * 0xbf58476d1ce4e5b9;

	x = (x ^ x >> 31) * 0x94d049bb133111eb;
	return x ^ x >> 29;
}

static double value_of(uint64_t message, uint32_t worker, int64_t i)
{
	return (double)(mix(message * 8 + worker, (uint64_t)i) >> 40) / (1 << 20) - 8.0;
}

struct item {
	struct psgd_collective c;
	void *request;
	atomic_int notified;
	uint64_t message;
};

static void on_notify(void *user)
{
	struct item *item = user;

	atomic_fetch_add(&item->notified, 1);
}

static psgd_status post(struct worker *w, struct item *item)
{
	item->c.size = sizeof(item->c);
	item->c.tag = item->message;
	item->c.notify = on_notify;
	item->c.notify_user = item;
	return w->transport.ops->post(w->transport.self, &item->c, &item->request);
}

/* Until the request ends; fails when that takes too long. */
static psgd_status finish(struct worker *w, struct item *item, struct psgd_transfer *t)
{
	const int64_t deadline = now_ns() + 40000 * MS;
	psgd_status status;

	do {
		REQUIRE(now_ns() < deadline);
		status = w->transport.ops->test(w->transport.self, item->request, 100 * MS, t);
	} while (status == PSGD_PENDING);
	return status;
}

/* Notify may come a moment after test has seen the result, but it must come. */
static void require_notified(struct item *item)
{
	const int64_t deadline = now_ns() + 5000 * MS;

	while (!atomic_load(&item->notified)) {
		REQUIRE(now_ns() < deadline);
		sleep_ms(1);
	}
	REQUIRE(atomic_load(&item->notified) == 1);
}

static void fill(struct item *item, uint32_t worker)
{
	for (int64_t i = 0; i < item->c.count; i++) {
		const double x = value_of(item->message, worker, i);

		if (item->c.dtype == PSGD_F32)
			((float *)item->c.data)[i] = (float)x;
		else if (item->c.dtype == PSGD_F64)
			((double *)item->c.data)[i] = x;
		else
			((uint8_t *)item->c.data)[i] = (uint8_t)(int)(x * 16);
	}
}

static void require_value(const struct item *item, uint32_t n, int64_t i)
{
	const bool f32 = item->c.dtype == PSGD_F32;
	double want = 0, got;

	if (item->c.dtype == PSGD_U8) {
		REQUIRE(((uint8_t *)item->c.data)[i] ==
			(uint8_t)(int)(value_of(item->message, item->c.root, i) * 16));
		return;
	}
	got = f32 ? (double)((float *)item->c.data)[i] : ((double *)item->c.data)[i];
	if (item->c.kind == PSGD_BROADCAST)
		want = value_of(item->message, item->c.root, i);
	else
		for (uint32_t w = 0; w < n; w++)
			want += value_of(item->message, w, i);
	REQUIRE(fabs(got - want) <= (f32 ? 2e-5 : 1e-12));
}

/* A message that all workers know from its number. */
static void draw(struct item *item, uint64_t message, uint32_t n)
{
	const uint64_t r = mix(message, 1000);
	const int64_t sizes[] = {1, 2, 3, 5, 17, (int64_t)(r >> 8 & 0x3ff) + 1,
		(int64_t)(r >> 20 & 0xffff) + 1, (int64_t)(r >> 40 & 0x3ffff) + 1};

	memset(item, 0, sizeof(*item));
	item->message = message;
	item->c.count = sizes[r & 7];
	item->c.kind = (r >> 3 & 3) ? PSGD_ALLREDUCE_SUM : PSGD_BROADCAST;
	item->c.dtype = 1 + (uint32_t)((r >> 5 & 7) % (item->c.kind == PSGD_BROADCAST ? 3 : 2));
	item->c.root = item->c.kind == PSGD_BROADCAST ? (uint32_t)((r >> 50) % n) : 0;
	item->c.data = malloc((size_t)item->c.count * 8);
	REQUIRE(item->c.data);
}

static void require_transfer(
	const struct psgd_transfer *t, const struct item *item, uint32_t n, int64_t *last_end)
{
	const uint64_t payload = (uint64_t)item->c.count * psgd_dtype_bytes(item->c.dtype);

	REQUIRE(t->payload_bytes == payload);
	REQUIRE(t->post_ns <= t->start_ns && t->start_ns <= t->end_ns);
	REQUIRE(t->end_ns >= *last_end && t->end_ns <= now_ns());
	*last_end = t->end_ns;
	if (item->c.kind == PSGD_BROADCAST) {
		REQUIRE(t->sent_bytes % payload == 0 && t->sent_bytes <= 2 * payload);
	} else {
		/* A ring sends all but one part in n, twice; short messages do not divide well. */
		const double even = 2.0 * (n - 1) / n * (double)payload;

		REQUIRE(t->sent_bytes <= 2 * payload);
		REQUIRE(payload < 4096 || fabs((double)t->sent_bytes - even) < 0.05 * even + 1);
	}
}

/* The bytes of all workers are those of worker 0. */
static void require_equal_bits(struct worker *w, struct item *item)
{
	const size_t bytes = (size_t)item->c.count * psgd_dtype_bytes(item->c.dtype);
	struct item copy;

	memset(&copy, 0, sizeof(copy));
	copy.message = item->message + 1000000;
	copy.c.kind = PSGD_BROADCAST;
	copy.c.dtype = PSGD_U8;
	copy.c.count = (int64_t)bytes;
	copy.c.data = malloc(bytes);
	REQUIRE(copy.c.data);
	memcpy(copy.c.data, item->c.data, bytes);
	REQUIRE(post(w, &copy) == PSGD_OK);
	REQUIRE(finish(w, &copy, NULL) == PSGD_OK);
	REQUIRE(!memcmp(copy.c.data, item->c.data, bytes));
	require_notified(&copy);
	free(copy.c.data);
}

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
			fill(&items[i], w->transport.worker);
		}
		for (int i = 0; i < batches[b]; i++)
			REQUIRE(post(w, &items[i]) == PSGD_OK);
		for (int i = 0; i < batches[b]; i++) {
			struct psgd_transfer t = PSGD_INIT(psgd_transfer);

			REQUIRE(finish(w, &items[i], &t) == PSGD_OK);
			require_transfer(&t, &items[i], n, &last_end);
			for (int64_t k = 0; k < items[i].c.count; k++)
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

static struct item one_item(int64_t count)
{
	struct item item = {.message = 1};

	item.c.kind = PSGD_ALLREDUCE_SUM;
	item.c.dtype = PSGD_F32;
	item.c.count = count;
	item.c.data = calloc((size_t)count, 4);
	REQUIRE(item.c.data);
	return item;
}

static void require_reason(struct worker *w)
{
	char reason[256] = "";

	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	REQUIRE(strstr(reason, "worker "));
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
	else if (!strcmp(what, "root")) {
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
	static const char *const whats[] = {"tag", "larger", "smaller", "dtype", "kind", "root"};

	for (size_t i = 0; i < sizeof(whats) / sizeof(whats[0]); i++) {
		struct cluster c = cluster_of(_i, 2, run_disagree);

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
	REFUSED(kind, 3, PSGD_ERR_INVALID);
	REFUSED(dtype, 0, PSGD_ERR_INVALID);
	REFUSED(dtype, 9, PSGD_ERR_INVALID);
	REFUSED(dtype, PSGD_U8, PSGD_ERR_UNSUPPORTED);
	REFUSED(count, 0, PSGD_ERR_INVALID);
	REFUSED(count, -1, PSGD_ERR_INVALID);
	REFUSED(count, INT64_MAX, PSGD_ERR_INVALID);
	REFUSED(data, NULL, PSGD_ERR_INVALID);
	REFUSED(reserved, 1, PSGD_ERR_INVALID);
	REFUSED(stream, w, PSGD_ERR_UNSUPPORTED);
	bad = good;
	bad.c.kind = PSGD_BROADCAST;
	bad.c.root = w->transport.n_workers;
	REQUIRE(post(w, &bad) == PSGD_ERR_INVALID);
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
	tcase_add_loop_test(c, test_disagree, 0, N_CASES(2));
	tcase_add_loop_test(c, test_never_posts, 0, N_CASES(2));
	tcase_add_loop_test(c, test_abort, 0, N_CASES(2));
	tcase_add_loop_test(c, test_destroy_pending, 0, N_CASES(2));
	tcase_add_loop_test(c, test_leave_early, 0, N_CASES(2));
	tcase_add_loop_test(c, test_invalid, 0, N_CASES(1));
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
