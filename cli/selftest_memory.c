/* Memory of a device, and the order of its streams. SPDX-License-Identifier: MIT */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "selftest.h"

#define PATIENCE_NS INT64_C(30000000000) /* for what the device does by itself */
#define TURNS 24			 /* of two streams, one after the other */

bool cli_side_is_async(const struct cli_side *side)
{
	const struct psgd_device_ops *ops = side->device.ops;

	return ops->size > offsetof(struct psgd_device_ops, error) && ops->stream_create;
}

void *cli_side_alloc(const struct cli_side *side, size_t bytes)
{
	void *memory = NULL;
	psgd_status status = side->device.ops->alloc(side->device.self, bytes, &memory);

	return status == PSGD_OK ? memory : NULL;
}

void cli_side_free(const struct cli_side *side, void *memory, size_t bytes)
{
	side->device.ops->free(side->device.self, memory, bytes);
}

psgd_status cli_side_put(const struct cli_side *side, void *to, const void *from, size_t bytes)
{
	if (cli_side_is_async(side))
		return side->device.ops->upload(side->device.self, to, from, bytes, side->stream);
	memcpy(to, from, bytes);
	return PSGD_OK;
}

psgd_status cli_side_get(const struct cli_side *side, void *to, const void *from, size_t bytes)
{
	if (cli_side_is_async(side))
		return side->device.ops->download(side->device.self, to, from, bytes, side->stream);
	memcpy(to, from, bytes);
	return PSGD_OK;
}

psgd_status cli_side_finish(const struct cli_side *side)
{
	if (!cli_side_is_async(side))
		return PSGD_OK;
	return side->device.ops->stream_finish(side->device.self, side->stream);
}

/* ---- memory ---- */

/* Sizes around those by which memory is cut. */
static const size_t sizes[] = {1, 4, 255, 256, 257, 4096, 65535, 1 << 20, (1 << 22) + 12};

static void fill(struct cli_selftest *t, unsigned char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		bytes[i] = (unsigned char)cli_draw(t, 0, 255);
}

/* Up, a copy on the device, down; then zeros. */
static bool round_trip(struct cli_selftest *t, const struct cli_side *side, size_t n,
	unsigned char *host, void *first, void *second)
{
	const struct psgd_device_ops *ops = side->device.ops;
	void *self = side->device.self;
	unsigned char *back = host + n;

	fill(t, host, n);
	memset(back, 0xa5, n);
	if (!cli_claim_ok(
		    t, CLI_CLAIM_MEMORY, cli_side_put(side, first, host, n), side, "upload") ||
		!cli_claim_ok(t, CLI_CLAIM_MEMORY, ops->copy(self, second, first, n, side->stream),
			side, "copy") ||
		!cli_claim_ok(
			t, CLI_CLAIM_MEMORY, cli_side_get(side, back, second, n), side, "download"))
		return false;
	if (memcmp(host, back, n) != 0) {
		cli_claim_fails(t, CLI_CLAIM_MEMORY, "%zu bytes came back otherwise", n);
		return false;
	}
	if (!cli_claim_ok(
		    t, CLI_CLAIM_MEMORY, ops->zero(self, second, n, side->stream), side, "zero") ||
		!cli_claim_ok(
			t, CLI_CLAIM_MEMORY, cli_side_get(side, back, second, n), side, "download"))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (back[i] != 0) {
			cli_claim_fails(t, CLI_CLAIM_MEMORY, "byte %zu of %zu is not zero", i, n);
			return false;
		}
	}
	return true;
}

static bool check_size(struct cli_selftest *t, const struct cli_side *side, size_t n)
{
	unsigned char *host = malloc(2 * n);
	void *first = cli_side_alloc(side, n), *second = cli_side_alloc(side, n);
	bool good = false;

	if (!host || !first || !second)
		cli_claim_fails(t, CLI_CLAIM_MEMORY, "%zu bytes: out of memory", n);
	else if ((uintptr_t)first % 64 || (uintptr_t)second % 64)
		cli_claim_fails(t, CLI_CLAIM_MEMORY, "%zu bytes are not aligned to 64", n);
	else
		good = round_trip(t, side, n, host, first, second);
	cli_side_free(side, first, n);
	cli_side_free(side, second, n);
	free(host);
	t->checks[CLI_CLAIM_MEMORY].n++;
	return good;
}

/* ---- streams ---- */

struct streams {
	psgd_stream stream[2];
	psgd_event event[2], begin;
	float *memory; /* of the device */
	size_t n;      /* values of each of its three parts */
};

static bool open_streams(struct cli_selftest *t, const struct cli_side *side, struct streams *s)
{
	const struct psgd_device_ops *ops = side->device.ops;
	void *self = side->device.self;
	psgd_status status = PSGD_OK;

	for (int k = 0; k < 2 && status == PSGD_OK; k++) {
		status = ops->stream_create(self, &s->stream[k]);
		if (status == PSGD_OK)
			status = ops->event_create(self, &s->event[k]);
	}
	if (status == PSGD_OK)
		status = ops->event_create(self, &s->begin);
	s->n = 1 << 18;
	s->memory = cli_side_alloc(side, 3 * s->n * sizeof(float));
	if (status == PSGD_OK && !s->memory)
		status = PSGD_ERR_NOMEM;
	return cli_claim_ok(t, CLI_CLAIM_ORDER, status, side, "streams and events");
}

static void close_streams(const struct cli_side *side, struct streams *s)
{
	const struct psgd_device_ops *ops = side->device.ops;
	void *self = side->device.self;

	for (int k = 0; k < 2; k++) {
		if (s->stream[k])
			ops->stream_finish(self, s->stream[k]);
		ops->event_destroy(self, s->event[k]);
		ops->stream_destroy(self, s->stream[k]);
	}
	ops->event_destroy(self, s->begin);
	cli_side_free(side, s->memory, 3 * s->n * sizeof(float));
}

/*
 * The two streams take turns in moving values from part to part, each behind the event of the
 * other; the host waits for nothing. Who comes too early moves what is not there yet.
 */
static psgd_status take_turns(const struct cli_side *side, const struct streams *s)
{
	const struct psgd_device_ops *ops = side->device.ops;
	void *self = side->device.self;
	size_t bytes = s->n * sizeof(float);
	psgd_status status = ops->event_record(self, s->begin, s->stream[0]);

	for (size_t turn = 0; turn < TURNS && status == PSGD_OK; turn++) {
		psgd_stream stream = s->stream[turn % 2];
		float *from = s->memory + turn % 3 * s->n, *to = s->memory + (turn + 1) % 3 * s->n;

		if (turn > 0)
			status = ops->stream_wait(self, stream, s->event[(turn - 1) % 2]);
		if (status == PSGD_OK)
			status = ops->copy(self, to, from, bytes, stream);
		if (status == PSGD_OK)
			status = ops->zero(self, from, bytes, stream);
		if (status == PSGD_OK)
			status = ops->event_record(self, s->event[turn % 2], stream);
	}
	return status;
}

static psgd_status await_event(const struct cli_side *side, psgd_event event)
{
	int64_t deadline = cli_now_ns() + PATIENCE_NS;
	psgd_status status;

	while ((status = side->device.ops->event_test(side->device.self, event)) == PSGD_PENDING) {
		if (cli_now_ns() > deadline)
			return PSGD_ERR_TIMEOUT;
		sched_yield();
	}
	return status;
}

static void check_turns(struct cli_selftest *t, const struct cli_side *side, struct streams *s)
{
	const struct psgd_device_ops *ops = side->device.ops;
	void *self = side->device.self;
	float *host = calloc(2 * s->n, sizeof(*host));
	psgd_event last = s->event[(TURNS - 1) % 2];
	psgd_status status = host ? PSGD_OK : PSGD_ERR_NOMEM;
	int64_t ns = -1;

	for (size_t i = 0; host && i < s->n; i++)
		host[i] = cli_draw_value(t);
	if (status == PSGD_OK)
		status = ops->upload(self, s->memory, host, s->n * sizeof(*host), s->stream[0]);
	if (status == PSGD_OK)
		status = take_turns(side, s);
	if (status == PSGD_OK)
		status = await_event(side, last);
	if (status == PSGD_OK)
		status = ops->event_elapsed(self, s->begin, last, &ns);
	if (status == PSGD_OK)
		status = ops->download(self, host + s->n, s->memory + TURNS % 3 * s->n,
			s->n * sizeof(*host), s->stream[0]);
	if (cli_claim_ok(t, CLI_CLAIM_ORDER, status, side, "streams in turns")) {
		cli_claim_equal(
			t, CLI_CLAIM_ORDER, host + s->n, host, s->n, "turns of two streams", 0);
		if (ns < 0)
			cli_claim_fails(t, CLI_CLAIM_ORDER,
				"the last event was %lld ns before the first", (long long)-ns);
	}
	free(host);
}

/* ---- host functions ---- */

/* What a host function saw, and what comes after it may see. */
struct call {
	atomic_int *counter;
	int expected;
	atomic_bool right;
};

static void come(void *user)
{
	struct call *call = user;

	atomic_store(&call->right, atomic_fetch_add(call->counter, 1) == call->expected);
}

/* Behind work of another stream, so that they cannot come at once by chance. */
static psgd_status enqueue_calls(
	const struct cli_side *side, const struct streams *s, struct call *calls, int n)
{
	const struct psgd_device_ops *ops = side->device.ops;
	void *self = side->device.self;
	psgd_status status = take_turns(side, s);

	if (status == PSGD_OK)
		status = ops->stream_wait(self, s->stream[0], s->event[(TURNS - 1) % 2]);
	for (int i = 0; i < n && status == PSGD_OK; i++)
		status = ops->stream_call(self, s->stream[0], come, &calls[i]);
	if (status == PSGD_OK)
		status = ops->event_record(self, s->event[0], s->stream[0]);
	return status == PSGD_OK ? await_event(side, s->event[0]) : status;
}

static void check_calls(struct cli_selftest *t, const struct cli_side *side, struct streams *s)
{
	atomic_int counter = 0;
	struct call calls[8];
	int n = (int)CLI_COUNT(calls);
	psgd_status status;

	for (int i = 0; i < n; i++)
		calls[i] = (struct call){.counter = &counter, .expected = i};
	status = enqueue_calls(side, s, calls, n);
	/* They hold what lies on this stack. */
	side->device.ops->stream_finish(side->device.self, s->stream[0]);
	if (!cli_claim_ok(t, CLI_CLAIM_CALLS, status, side, "host functions"))
		return;
	t->checks[CLI_CLAIM_CALLS].n += (uint64_t)n;
	if (atomic_load(&counter) != n)
		cli_claim_fails(t, CLI_CLAIM_CALLS, "%d of %d came", atomic_load(&counter), n);
	for (int i = 0; i < n; i++) {
		if (!atomic_load(&calls[i].right))
			cli_claim_fails(t, CLI_CLAIM_CALLS, "number %d came out of turn", i);
	}
}

void cli_check_memory(struct cli_selftest *t)
{
	static const char skip[] = "calls have finished when they return";
	const struct cli_side *side = &t->sides[CLI_TESTED];
	struct streams s = {0};

	for (size_t i = 0; i < CLI_COUNT(sizes); i++) {
		if (!check_size(t, side, sizes[i]))
			break;
	}
	if (!cli_side_is_async(side)) {
		t->checks[CLI_CLAIM_ORDER].skip = t->checks[CLI_CLAIM_CALLS].skip = skip;
		return;
	}
	if (open_streams(t, side, &s)) {
		check_turns(t, side, &s);
		check_calls(t, side, &s);
	}
	close_streams(side, &s);
}
