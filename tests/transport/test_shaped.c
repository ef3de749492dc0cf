/* Completion times on a modelled link against arithmetic, and against late workers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/suite.h"
#include "transport/workers.h"

#define MS INT64_C(1000000)
#define BPS 100000000
#define BURST 3028
#define N_REPEATS 7

static const struct psgd_link link_100 = {.egress_bps = BPS, .ingress_bps = BPS};
static const int64_t sizes[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20};
#define N_SIZES ((int)(sizeof(sizes) / sizeof(sizes[0])))

/* A ring of n: 2(n-1) steps of bytes/n; the bucket is full once. */
static int64_t theory_ns(int64_t bytes, uint32_t n)
{
	const int64_t part = (bytes + n - 1) / n;

	return (2 * (n - 1) * part - BURST) * 8 * 1000 / (BPS / 1000000);
}

static void post_kind(
	struct worker *w, uint32_t kind, float *data, int64_t bytes, uint64_t tag, void **request)
{
	struct psgd_collective c = PSGD_INIT(psgd_collective);

	c.kind = kind;
	c.dtype = PSGD_F32;
	c.count = bytes / 4;
	c.data = data;
	c.tag = tag;
	REQUIRE(w->transport.ops->post(w->transport.self, &c, request) == PSGD_OK);
}

static void post(struct worker *w, float *data, int64_t bytes, uint64_t tag, void **request)
{
	post_kind(w, PSGD_ALLREDUCE_SUM, data, bytes, tag, request);
}

static void finish(struct worker *w, void *request, struct psgd_transfer *t)
{
	psgd_status status;

	do
		status = w->transport.ops->test(w->transport.self, request, 1000 * MS, t);
	while (status == PSGD_PENDING);
	REQUIRE(status == PSGD_OK);
}

static int by_value(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* The lower quartile: a machine with other work makes some late, and none early. */
static int64_t typical(int64_t *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), by_value);
	return values[n / 4];
}

static void require_near(int64_t got, int64_t want, double part)
{
	const double limit = part * (double)want;

	if ((double)llabs(got - want) > limit)
		fprintf(stderr, "%.3f ms, expected %.3f ms\n", (double)got / 1e6,
			(double)want / 1e6);
	REQUIRE((double)llabs(got - want) <= limit);
}

/* When the last worker posted. */
static int64_t latest(const struct worker *w)
{
	int64_t last = 0;

	for (uint32_t i = 0; i < w->transport.n_workers; i++) {
		const int64_t at = (int64_t)atomic_load(&w->board->words[i]);

		last = at > last ? at : last;
	}
	return last;
}

/* Over repeats, from the moment all have posted, by the report and by the clock. */
static void run_times(struct worker *w)
{
	const uint32_t n = w->transport.n_workers;
	float *data = calloc(1, 4 << 20);
	unsigned int round = 0;
	uint64_t tag = 0;

	REQUIRE(data);
	for (int s = 0; s < N_SIZES; s++) {
		const int n_repeats = sizes[s] > 1 << 20 ? 1 : N_REPEATS;
		int64_t reported[N_REPEATS], clocked[N_REPEATS];

		for (int i = 0; i < n_repeats; i++) {
			struct psgd_transfer t = PSGD_INIT(psgd_transfer);
			int64_t end;
			void *request;

			meet(w, ++round);
			atomic_store(&w->board->words[w->transport.worker],
				(unsigned long long)now_ns());
			post(w, data, sizes[s], ++tag, &request);
			finish(w, request, &t);
			end = now_ns();
			meet(w, ++round);
			clocked[i] = end - latest(w);
			reported[i] = t.end_ns - t.start_ns;
			REQUIRE(t.start_ns >= t.post_ns);
			/* Never earlier than the link allows. */
			REQUIRE(reported[i] >= theory_ns(sizes[s], n));
		}
		require_near(typical(reported, n_repeats), theory_ns(sizes[s], n), 0.05);
		/* The clock also sees how long it takes to wake up, which counts for short ones. */
		if (sizes[s] >= 1 << 20)
			require_near(typical(clocked, n_repeats), theory_ns(sizes[s], n), 0.05);
	}
	free(data);
}

/* On top of a slow network: its time and the delays, and neither beside another message's. */
static void run_delayed(struct worker *w)
{
	const struct psgd_link link = {.size = sizeof(link), .delay_ns = 5 * MS};
	const uint32_t n = w->transport.n_workers;
	const int64_t each = theory_ns(sizes[0], n) + 2 * (n - 1) * link.delay_ns;
	struct psgd_transport slow = w->transport;
	struct psgd_shaper shaper;
	float *data = calloc(3, (size_t)sizes[0]);
	int64_t spans[N_REPEATS];

	REQUIRE(data && psgd_shaper_model(&link, &shaper) == PSGD_OK);
	REQUIRE(psgd_transport_delayed(&slow, &shaper, &w->transport) == PSGD_OK);
	for (unsigned int r = 0; r < N_REPEATS; r++) {
		struct psgd_transfer t[3];
		void *requests[3];

		meet(w, r + 1);
		for (unsigned int i = 0; i < 3; i++)
			post(w, data + i * sizes[0] / 4, sizes[0], 3 * r + i + 1, &requests[i]);
		for (int i = 0; i < 3; i++) {
			t[i] = PSGD_INIT(psgd_transfer);
			finish(w, requests[i], &t[i]);
			REQUIRE(t[i].end_ns - t[i].start_ns >= each);
			REQUIRE(!i || t[i].start_ns >= t[i - 1].end_ns);
		}
		spans[r] = t[2].end_ns - t[0].start_ns;
	}
	require_near(typical(spans, N_REPEATS), 3 * each, 0.05);
	psgd_transport_destroy(&w->transport);
	psgd_shaper_destroy(&shaper);
	w->transport = slow;
	free(data);
}

START_TEST(test_delayed)
{
	const struct cluster c = {SHAPED, 2 + (uint32_t)_i, 0, link_100, run_delayed, NULL, -1};

	run_workers(&c);
}
END_TEST

START_TEST(test_times)
{
	const struct cluster c = {.kind = _i < 2 ? SHAPED : SHAPED_GLOO,
		.n = 2 + (uint32_t)_i % 2,
		.link = link_100,
		.run = run_times,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/* An all-gather: n - 1 steps of one block, with a delay in each. */
static void run_gather(struct worker *w)
{
	const uint32_t n = w->transport.n_workers;
	const int64_t bytes = 256 << 10, delay = 2 * MS;
	/* The delay is long enough to fill the bucket again for the next step. */
	const int64_t theory = (n - 1) * (delay + (bytes - BURST) * 8 * 1000 / (BPS / 1000000));
	float *data = calloc(n, (size_t)bytes);
	int64_t reported[N_REPEATS];

	REQUIRE(data);
	for (int i = 0; i < N_REPEATS; i++) {
		struct psgd_transfer t = PSGD_INIT(psgd_transfer);
		void *request;

		meet(w, 2 * (unsigned int)i + 1);
		post_kind(w, PSGD_ALLGATHER, data, bytes, (uint64_t)i, &request);
		finish(w, request, &t);
		meet(w, 2 * (unsigned int)i + 2);
		REQUIRE(t.payload_bytes == (uint64_t)bytes);
		REQUIRE(t.sent_bytes == (n - 1) * (uint64_t)bytes);
		reported[i] = t.end_ns - t.start_ns;
		REQUIRE(reported[i] >= theory);
	}
	require_near(typical(reported, N_REPEATS), theory, 0.05);
	free(data);
}

START_TEST(test_gather)
{
	static const struct psgd_link link = {
		.egress_bps = BPS, .ingress_bps = BPS, .delay_ns = 2 * MS};
	const struct cluster c = {.kind = _i < 2 ? SHAPED : SHAPED_GLOO,
		.n = 2 + (uint32_t)_i % 2,
		.link = link,
		.run = run_gather,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/* A worker that posts 100 ms late: from then on both wait for the link, and no longer. */
static void run_late(struct worker *w)
{
	const int64_t bytes = 1 << 20, late = 100 * MS, theory = theory_ns(bytes, 2);
	float *data = calloc(1, (size_t)bytes);
	int64_t took[N_REPEATS], wire[N_REPEATS];
	unsigned int round = 0;
	uint64_t tag = 0;

	REQUIRE(data);
	for (int i = 0; i < N_REPEATS + 1; i++) {
		struct psgd_transfer t = PSGD_INIT(psgd_transfer);
		int64_t end;
		void *request;

		meet(w, ++round);
		/* Each worker in turn, and from the very first message on. */
		if ((uint32_t)i % 2 == w->transport.worker)
			sleep_ms(late / MS);
		atomic_store(&w->board->words[w->transport.worker], (unsigned long long)now_ns());
		post(w, data, bytes, ++tag, &request);
		finish(w, request, &t);
		end = now_ns();
		meet(w, ++round);
		/* Nothing is known at first of the inner transport: late, but not early. */
		REQUIRE(i || end - latest(w) >= theory);
		if (!i)
			continue;
		took[i - 1] = end - latest(w);
		wire[i - 1] = t.end_ns - t.start_ns;
	}
	require_near(typical(took, N_REPEATS), theory, 0.05);
	require_near(typical(wire, N_REPEATS), theory, 0.05);
	free(data);
}

START_TEST(test_late)
{
	const struct cluster c = {.kind = _i ? SHAPED_GLOO : SHAPED,
		.n = 2,
		.link = link_100,
		.run = run_late,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/* Twenty messages posted at once take as long as the link needs for their sum. */
static void run_many(struct worker *w)
{
	enum { N = 60 };
	const int64_t bytes = 200000;
	float *data = calloc(N, (size_t)bytes);
	struct psgd_transfer t[N];
	void *requests[N];
	int64_t theory, last = 0;

	REQUIRE(data);
	meet(w, 1);
	for (int i = 0; i < N; i++)
		post(w, data + i * (bytes / 4), bytes, (uint64_t)i, &requests[i]);
	for (int i = 0; i < N; i++) {
		t[i] = PSGD_INIT(psgd_transfer);
		finish(w, requests[i], &t[i]);
		REQUIRE(t[i].start_ns >= last);
		REQUIRE(t[i].end_ns > t[i].start_ns);
		/* Each starts where the one before ended on the link, not when it was released. */
		last = i ? t[i - 1].start_ns : 0;
	}
	theory = (N * bytes - BURST) * 8 * 1000 / (BPS / 1000000);
	require_near(t[N - 1].end_ns - t[0].start_ns, theory, 0.03);
	free(data);
}

START_TEST(test_many)
{
	const struct cluster c = {.kind = _i ? SHAPED_GLOO : SHAPED,
		.n = 2,
		.link = link_100,
		.run = run_many,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/*
 * The link changes between messages, on every worker: 100 Mbit/s, then a tenth of it in one
 * direction or both, then faster and far away.
 */
static void run_change(struct worker *w)
{
	static const struct psgd_link links[] = {
		{.egress_bps = BPS, .ingress_bps = BPS},
		{.egress_bps = BPS / 10, .ingress_bps = BPS},
		{.egress_bps = BPS, .ingress_bps = BPS / 10},
		{.egress_bps = 2 * (uint64_t)BPS, .delay_ns = 30 * MS},
	};
	const int64_t bytes = 256 << 10, n = w->transport.n_workers, steps = 2 * (n - 1);
	const int64_t part = (bytes + n - 1) / n;
	float *data = calloc(1, (size_t)bytes);
	unsigned int round = 0;
	uint64_t tag = 0;

	REQUIRE(data);
	for (size_t k = 0; k < sizeof(links) / sizeof(links[0]); k++) {
		struct psgd_link link = links[k];
		const int64_t bps = k == 3 ? 2 * BPS : k ? BPS / 10 : BPS;
		/* A delay lets the bucket fill again for each step. */
		const int64_t bursts = link.delay_ns ? steps : 1;
		const int64_t theory =
			(steps * part - bursts * BURST) * 8 * 1000 / (bps / 1000000) +
			steps * link.delay_ns;
		int64_t took[N_REPEATS];

		link.size = sizeof(link);
		REQUIRE(psgd_shaper_set_link(w->shaper, &link) == PSGD_OK);
		for (int i = 0; i < N_REPEATS; i++) {
			struct psgd_transfer t = PSGD_INIT(psgd_transfer);
			void *request;

			meet(w, ++round);
			post(w, data, bytes, ++tag, &request);
			finish(w, request, &t);
			took[i] = t.end_ns - t.start_ns;
			REQUIRE(took[i] >= theory);
		}
		require_near(typical(took, N_REPEATS), theory, 0.05);
		/* Nobody changes the link under a message that another still waits for. */
		meet(w, ++round);
	}
	free(data);
}

START_TEST(test_change)
{
	const struct cluster c = {.kind = _i < 2 ? SHAPED : SHAPED_GLOO,
		.n = 2 + (uint32_t)_i % 2,
		.link = link_100,
		.run = run_change,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/* A message on the wire keeps the time that it was promised; the next one meets the new link. */
static void run_change_under_way(struct worker *w)
{
	const int64_t bytes = 1 << 20, first = theory_ns(bytes, 2);
	struct psgd_link fast = {.size = sizeof(fast), .egress_bps = 10 * (uint64_t)BPS};
	float *data = calloc(2, (size_t)bytes);
	struct psgd_transfer t[2] = {PSGD_INIT(psgd_transfer), PSGD_INIT(psgd_transfer)};
	int64_t took[2][N_REPEATS];
	void *requests[2];
	unsigned int round = 0;
	uint64_t tag = 0;

	REQUIRE(data);
	for (int i = 0; i < N_REPEATS; i++) {
		struct psgd_link slow = link_100;

		slow.size = sizeof(slow);
		REQUIRE(psgd_shaper_set_link(w->shaper, &slow) == PSGD_OK);
		meet(w, ++round);
		post(w, data, bytes, ++tag, &requests[0]);
		/* By now it is on the modelled link, and far from through. */
		sleep_ms(first / MS / 3);
		REQUIRE(psgd_shaper_set_link(w->shaper, &fast) == PSGD_OK);
		post(w, data + bytes / 4, bytes, ++tag, &requests[1]);
		for (int k = 0; k < 2; k++) {
			finish(w, requests[k], &t[k]);
			took[k][i] = t[k].end_ns - t[k].start_ns;
		}
		REQUIRE(took[0][i] >= first);
		meet(w, ++round);
	}
	require_near(typical(took[0], N_REPEATS), first, 0.05);
	require_near(typical(took[1], N_REPEATS), bytes * 8 * 1000 / (10 * BPS / 1000000), 0.10);
	free(data);
}

START_TEST(test_change_under_way)
{
	const struct cluster c = {.kind = _i ? SHAPED_GLOO : SHAPED,
		.n = 2,
		.link = link_100,
		.run = run_change_under_way,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/*
 * Frames are lost: on average 1 / (1 - p) of the bytes, and the flights of the steps' frames, pass
 * the wire. The messages of one seed take the same on both workers.
 */
static void run_losses(struct worker *w)
{
	enum { N = 40 };
	const int64_t bytes = 120000, delay = 2 * MS;
	const double p = 0.02, frames = 40, step_ns = 60000 * 8e3 / (BPS / 1000000);
	float *data = calloc(N, (size_t)bytes);
	double took = 0, flights = 1;
	void *requests[N];

	REQUIRE(data);
	for (int k = 1; k < 20; k++)
		flights += 1 - pow(1 - pow(p, k), frames);
	meet(w, 1);
	for (int i = 0; i < N; i++)
		post(w, data + i * (bytes / 4), bytes, (uint64_t)i, &requests[i]);
	for (int i = 0; i < N; i++) {
		struct psgd_transfer t = PSGD_INIT(psgd_transfer);

		finish(w, requests[i], &t);
		took += (double)(t.end_ns - t.start_ns) / 1e6;
	}
	/* What gathers in a round trip carries up to two frames of a flight for nothing. */
	require_near((int64_t)(took * 1e6),
		(int64_t)(2 * N * (step_ns + (double)delay + (flights - 1) * 2 * (double)delay)),
		0.10);
	free(data);
}

START_TEST(test_losses)
{
	const struct psgd_link link = {.egress_bps = BPS,
		.ingress_bps = BPS,
		.delay_ns = 2 * MS,
		.loss_ppm = 20000,
		.seed = 4};
	const struct cluster c = {.kind = _i ? SHAPED_GLOO : SHAPED,
		.n = 2,
		.link = link,
		.run = run_losses,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/* Alone there is no wire. */
static void run_alone(struct worker *w)
{
	struct psgd_transfer t = PSGD_INIT(psgd_transfer);
	float data[1000] = {0};
	void *request;

	data[5] = 3;
	post(w, data, sizeof(data), 1, &request);
	finish(w, request, &t);
	REQUIRE(data[5] == 3);
	REQUIRE(t.sent_bytes == 0);
	REQUIRE(t.end_ns - t.post_ns < 5000 * MS);
}

START_TEST(test_alone)
{
	const struct psgd_link slow = {.egress_bps = 1, .ingress_bps = 1};
	const struct cluster c = {
		.kind = SHAPED, .n = 1, .link = slow, .run = run_alone, .killed = -1};

	run_workers(&c);
}
END_TEST

/* An inner transport that calls notify very late: it is polled, and may outlive the decorator. */
struct mute {
	struct psgd_transport local;
	struct psgd_collective owed; /* whose notify is still to be called */
};

static psgd_status mute_post(void *self, const struct psgd_collective *c, void **request)
{
	struct mute *m = self;
	struct psgd_collective quiet = *c;

	m->owed = *c;
	quiet.notify = NULL;
	return m->local.ops->post(m->local.self, &quiet, request);
}

static psgd_status mute_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct mute *m = self;

	return m->local.ops->test(m->local.self, request, timeout_ns, out);
}

static void mute_abort(void *self)
{
	struct mute *m = self;

	m->local.ops->abort(m->local.self);
}

START_TEST(test_arguments)
{
	struct psgd_transport_ops ops = {.size = sizeof(ops),
		.name = "mute",
		.post = mute_post,
		.test = mute_test,
		.abort = mute_abort};
	struct mute mute;
	struct psgd_transport out;
	struct psgd_link none = PSGD_INIT(psgd_link);
	struct psgd_shaper shaper, bad;
	struct psgd_shaper_ops no_admit;

	ck_assert_int_eq(psgd_transport_local(1, 0, &mute.local), PSGD_OK);
	ck_assert_int_eq(psgd_shaper_model(&none, &shaper), PSGD_OK);
	const struct psgd_transport inner = {&ops, &mute, 0, 1};
	ck_assert_int_eq(psgd_transport_shaped(&inner, &shaper, &out), PSGD_OK);
	struct worker w = {.transport = out};
	run_alone(&w);
	psgd_transport_destroy(&out);
	ck_assert_ptr_null(out.ops);
	mute.owed.notify(mute.owed.notify_user);

	no_admit = *shaper.ops;
	no_admit.admit = NULL;
	bad = (struct psgd_shaper){&no_admit, shaper.self};
	ck_assert_int_eq(psgd_transport_shaped(&inner, &bad, &out), PSGD_ERR_UNSUPPORTED);
	no_admit = *shaper.ops;
	no_admit.size = offsetof(struct psgd_shaper_ops, admit);
	ck_assert_int_eq(psgd_transport_shaped(&inner, &bad, &out), PSGD_ERR_UNSUPPORTED);
	ck_assert_ptr_null(out.ops);
	ck_assert_int_eq(psgd_transport_shaped(NULL, &shaper, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_shaped(&inner, NULL, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_shaped(&inner, &shaper, NULL), PSGD_ERR_INVALID);
	ops.test = NULL;
	ck_assert_int_eq(psgd_transport_shaped(&inner, &shaper, &out), PSGD_ERR_INVALID);
	psgd_shaper_destroy(&shaper);
	psgd_transport_destroy(&mute.local);

	ck_assert_int_eq(psgd_transport_local(0, 0, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_local(1, -1, &out), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_local(1, 0, NULL), PSGD_ERR_INVALID);
	psgd_transport_destroy(NULL);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport shaped");
	TCase *c = tcase_create("shaped");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_times, 0, 4);
	tcase_add_loop_test(c, test_delayed, 0, 2);
	tcase_add_loop_test(c, test_gather, 0, 4);
	tcase_add_loop_test(c, test_late, 0, 2);
	tcase_add_loop_test(c, test_many, 0, 2);
	tcase_add_loop_test(c, test_change, 0, 4);
	tcase_add_loop_test(c, test_change_under_way, 0, 2);
	tcase_add_loop_test(c, test_losses, 0, 2);
	tcase_add_test(c, test_alone);
	tcase_add_test(c, test_arguments);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
