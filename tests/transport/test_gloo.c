/* What only processes on a network can show: lost peers, bytes on sockets, a missing module. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "support/suite.h"
#include "transport/workers.h"

#define MS INT64_C(1000000)

static psgd_status post_kind(
	struct worker *w, uint32_t kind, float *data, int64_t count, uint64_t tag, void **request)
{
	struct psgd_collective c = PSGD_INIT(psgd_collective);

	c.kind = kind;
	c.dtype = PSGD_F32;
	c.count = count;
	c.data = data;
	c.tag = tag;
	return w->transport.ops->post(w->transport.self, &c, request);
}

static psgd_status post(struct worker *w, float *data, int64_t count, uint64_t tag, void **request)
{
	return post_kind(w, PSGD_ALLREDUCE_SUM, data, count, tag, request);
}

static psgd_status finish(struct worker *w, void *request, struct psgd_transfer *t)
{
	const int64_t deadline = now_ns() + 20000 * MS;
	psgd_status status;

	do {
		REQUIRE(now_ns() < deadline);
		status = w->transport.ops->test(w->transport.self, request, 100 * MS, t);
	} while (status == PSGD_PENDING);
	return status;
}

static psgd_status allreduce(
	struct worker *w, float *data, int64_t count, uint64_t tag, struct psgd_transfer *t)
{
	psgd_status status;
	void *request;

	status = post(w, data, count, tag, &request);
	return status ? status : finish(w, request, t);
}

enum death { WHILE_IDLE, AFTER_POST, IN_MID_MESSAGE, N_DEATHS };

/* The last worker is killed. The others hear of it within 5 s, know its name, and live on. */
static void run_killed(struct worker *w)
{
	const uint32_t n = w->transport.n_workers, victim = n - 1;
	const enum death death = *(const enum death *)w->arg;
	const int64_t count = death == IN_MID_MESSAGE ? 30000000 : 100000;
	float *data = calloc((size_t)count, sizeof(*data));
	char want[32], reason[256] = "";
	psgd_status status;
	void *request;
	int64_t start;

	REQUIRE(data);
	REQUIRE(allreduce(w, data, 1000, 1, NULL) == PSGD_OK);
	meet(w, 1);
	if (w->transport.worker == victim) {
		if (death != WHILE_IDLE)
			REQUIRE(post(w, data, count, 2, &request) == PSGD_OK);
		if (death == IN_MID_MESSAGE)
			sleep_ms(15);
		kill(getpid(), SIGKILL);
	}
	if (death == WHILE_IDLE)
		sleep_ms(100);
	start = now_ns();
	status = allreduce(w, data, count, 2, NULL);
	/* The message may have been through before the kill: then the next one cannot be. */
	if (status == PSGD_OK)
		status = allreduce(w, data, count, 3, NULL);
	REQUIRE(status == PSGD_ERR_PEER_LOST);
	REQUIRE(now_ns() - start < 5000 * MS);
	w->transport.ops->error(w->transport.self, reason, sizeof(reason));
	snprintf(want, sizeof(want), "worker %u", victim);
	if (!strstr(reason, want))
		fprintf(stderr, "%s\n", reason);
	REQUIRE(strstr(reason, want));
	REQUIRE(post(w, data, 1, 4, &request) == PSGD_ERR_PEER_LOST);
	free(data);
}

START_TEST(test_killed)
{
	enum death death = (enum death)(_i % N_DEATHS);
	const uint32_t n = 2 + (uint32_t)(_i / N_DEATHS);
	const struct cluster c = {
		.kind = GLOO, .n = n, .run = run_killed, .arg = &death, .killed = (int)n - 1};

	run_workers(&c);
}
END_TEST

static void run_count(struct worker *w)
{
	/* Odd counts, counts below the number of segments, and several segments per worker. */
	static const int64_t counts[] = {1, 2, 3, 7, 100, 25001, 65537, 300007, 2000003};
	const double n = w->transport.n_workers;
	float *data = calloc(2000003, sizeof(*data));
	unsigned int round = 0;

	REQUIRE(data);
	for (uint64_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct psgd_transfer t = PSGD_INIT(psgd_transfer);
		const uint64_t before = socket_bytes();
		uint64_t sent, most, segments;

		meet(w, ++round);
		REQUIRE(allreduce(w, data, counts[i], i, &t) == PSGD_OK);
		meet(w, ++round);
		sent = socket_bytes() - before;
		/* Three headers of 48 bytes for each segment that goes or comes. */
		most = (uint64_t)ceil((double)t.payload_bytes / (1 << 20));
		segments = most > 2 * (uint64_t)n ? most + (uint64_t)n : 2 * (uint64_t)n;
		REQUIRE(sent >= t.sent_bytes);
		REQUIRE(sent - t.sent_bytes <= 2 * segments * 3 * 48);
		if (t.sent_bytes)
			REQUIRE(sent - t.sent_bytes >= 96);
		if (t.payload_bytes >= 100000)
			REQUIRE((double)(sent - t.sent_bytes) < 0.03 * (double)t.sent_bytes);
		if (t.payload_bytes >= 100000)
			REQUIRE(fabs((double)t.sent_bytes -
					2 * (n - 1) / n * (double)t.payload_bytes) <
				0.001 * (double)t.payload_bytes);
		meet(w, ++round);
	}
	free(data);
}

/* An all-gather passes n - 1 blocks on, each in two messages. */
static void run_count_gathered(struct worker *w)
{
	static const int64_t counts[] = {1, 3, 25001, 300007};
	const uint32_t n = w->transport.n_workers;
	float *data = calloc((size_t)300007 * n, sizeof(*data));
	unsigned int round = 0;

	REQUIRE(data);
	for (uint64_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct psgd_transfer t = PSGD_INIT(psgd_transfer);
		const uint64_t before = socket_bytes();
		uint64_t sent;
		void *request;

		meet(w, ++round);
		REQUIRE(post_kind(w, PSGD_ALLGATHER, data, counts[i], i, &request) == PSGD_OK);
		REQUIRE(finish(w, request, &t) == PSGD_OK);
		meet(w, ++round);
		sent = socket_bytes() - before;
		REQUIRE(t.sent_bytes == (n - 1) * 4 * (uint64_t)counts[i]);
		REQUIRE(sent >= t.sent_bytes + (uint64_t)96);
		REQUIRE(sent - t.sent_bytes <= (uint64_t)2 * (n - 1) * 2 * 3 * 48);
		meet(w, ++round);
	}
	free(data);
}

START_TEST(test_sent_bytes)
{
	const struct cluster c = {.kind = GLOO,
		.n = 2 + (uint32_t)_i % 3,
		.run = _i < 3 ? run_count : run_count_gathered,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/* The values of one worker do not depend on who sums: a hash of the bits, seen by all. */
static void run_bits(struct worker *w)
{
	static const int64_t counts[] = {1, 3, 5, 31, 1023, 99991};
	const uint32_t n = w->transport.n_workers;
	float *data = calloc(99991, sizeof(*data));
	unsigned int round = 0;

	REQUIRE(data);
	for (uint64_t k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {
		uint64_t hash = 0;

		for (int64_t i = 0; i < counts[k]; i++)
			data[i] = 1.0f / (float)(1 + (i * 7 + w->transport.worker * 13) % 101);
		REQUIRE(allreduce(w, data, counts[k], k, NULL) == PSGD_OK);
		for (int64_t i = 0; i < counts[k]; i++) {
			uint32_t bits;

			memcpy(&bits, &data[i], sizeof(bits));
			hash = (hash ^ bits) * UINT64_C(0x100000001b3);
		}
		atomic_store(&w->board->words[w->transport.worker], hash);
		meet(w, ++round);
		for (uint32_t other = 0; other < n; other++)
			REQUIRE(atomic_load(&w->board->words[other]) == hash);
		meet(w, ++round);
	}
	free(data);
}

START_TEST(test_equal_bits)
{
	const struct cluster c = {
		.kind = GLOO, .n = 2 + (uint32_t)_i, .run = run_bits, .killed = -1};

	run_workers(&c);
}
END_TEST

static psgd_status alone_allgather(void *self, const void *send, void *recv, size_t bytes)
{
	(void)self;
	memcpy(recv, send, bytes);
	return PSGD_OK;
}

static psgd_status broken_allgather(void *self, const void *send, void *recv, size_t bytes)
{
	(void)self, (void)send, (void)recv, (void)bytes;
	return PSGD_ERR_PEER_LOST;
}

/* What a worker of another make might say. */
static psgd_status hostile_allgather(void *self, const void *send, void *recv, size_t bytes)
{
	memcpy(recv, send, bytes);
	memset((char *)recv + bytes, *(const int *)self, bytes);
	return PSGD_OK;
}

static psgd_status open_gloo(
	const struct psgd_oob *oob, struct psgd_gloo_options o, char *reason, size_t bytes)
{
	struct psgd_transport t = {.self = &o};
	psgd_status status;

	o.size = sizeof(o);
	o.oob = oob;
	o.timeout_ns = 300 * MS;
	o.error = reason;
	o.error_bytes = bytes;
	status = psgd_transport_gloo(&o, &t);
	if (status) {
		ck_assert_ptr_null(t.ops);
		ck_assert_ptr_null(t.self);
	}
	psgd_transport_destroy(&t);
	return status;
}

START_TEST(test_open)
{
	const struct psgd_oob alone = {alone_allgather, NULL, 0, 1};
	const struct psgd_oob broken = {broken_allgather, NULL, 0, 2};
	const struct psgd_oob bad_worker = {alone_allgather, NULL, 1, 1};
	const struct psgd_gloo_options good = {.module_dir = GLOO_MODULE_DIR};
	struct psgd_gloo_options o;
	char reason[300];

	ck_assert_int_eq(open_gloo(&alone, good, reason, sizeof(reason)), PSGD_OK);
	ck_assert_str_eq(reason, "");
	ck_assert_int_eq(open_gloo(&alone, good, NULL, 0), PSGD_OK);
	o = good;
	o.interface_name = "lo";
	ck_assert_int_eq(open_gloo(&alone, o, reason, sizeof(reason)), PSGD_OK);
	o = good;
	o.address = "localhost";
	ck_assert_int_eq(open_gloo(&alone, o, reason, sizeof(reason)), PSGD_OK);

	o = good;
	o.module_dir = "/nonexistent";
	ck_assert_int_eq(open_gloo(&alone, o, reason, sizeof(reason)), PSGD_ERR_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(reason, "/nonexistent/psgd-gloo.so"));
	o = good;
	o.address = "no.such.host.invalid";
	ck_assert_int_eq(open_gloo(&alone, o, reason, sizeof(reason)), PSGD_ERR_TRANSPORT);
	ck_assert_ptr_nonnull(strstr(reason, "no.such.host.invalid"));
	o = good;
	o.address = "192.0.2.1"; /* nobody's */
	ck_assert_int_eq(open_gloo(&alone, o, reason, sizeof(reason)), PSGD_ERR_TRANSPORT);
	o = good;
	o.interface_name = "nosuch0";
	ck_assert_int_eq(open_gloo(&alone, o, reason, sizeof(reason)), PSGD_ERR_IO);
	ck_assert_ptr_nonnull(strstr(reason, "nosuch0"));

	ck_assert_int_eq(open_gloo(&broken, good, reason, sizeof(reason)), PSGD_ERR_PEER_LOST);
	ck_assert_int_eq(open_gloo(&bad_worker, good, reason, sizeof(reason)), PSGD_ERR_INVALID);
	ck_assert_int_eq(open_gloo(NULL, good, reason, sizeof(reason)), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_gloo(NULL, NULL), PSGD_ERR_INVALID);
}
END_TEST

START_TEST(test_hostile)
{
	int fills[] = {0, 0xff, 'A'};
	const struct psgd_gloo_options good = {.module_dir = GLOO_MODULE_DIR};
	char reason[300];

	for (size_t i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
		const struct psgd_oob oob = {hostile_allgather, &fills[i], 0, 2};

		ck_assert_int_eq(open_gloo(&oob, good, reason, sizeof(reason)), PSGD_ERR_MISMATCH);
		ck_assert_ptr_nonnull(strstr(reason, "worker 1"));
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport gloo");
	TCase *c = tcase_create("gloo");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_killed, 0, N_DEATHS * 3);
	tcase_add_loop_test(c, test_sent_bytes, 0, 6);
	tcase_add_loop_test(c, test_equal_bits, 0, 3);
	tcase_add_test(c, test_open);
	tcase_add_test(c, test_hostile);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
