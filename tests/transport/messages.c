#include "transport/messages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef NCCL_MODULE_DIR
#include <cuda_runtime.h>
#endif

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

static void on_notify(void *user)
{
	struct item *item = user;

	atomic_fetch_add(&item->notified, 1);
}

#ifdef NCCL_MODULE_DIR
static _Thread_local cudaStream_t upload;

static size_t bytes_of(const struct worker *w, const struct item *item)
{
	return (size_t)values_in(item, w->transport.n_workers) * psgd_dtype_bytes(item->c.dtype);
}

/* The data gets there, late, in the order of a stream, and nothing waits for it here. */
static void to_device(const struct worker *w, struct item *item, struct psgd_collective *c)
{
	const size_t bytes = bytes_of(w, item);

	REQUIRE(!cudaSetDevice((int)w->transport.worker));
	if (!upload)
		REQUIRE(!cudaStreamCreateWithFlags(&upload, cudaStreamNonBlocking));
	REQUIRE(!cudaMalloc(&item->device, bytes));
	REQUIRE(!cudaMemcpyAsync(item->device, c->data, bytes, cudaMemcpyHostToDevice, upload));
	c->data = item->device;
	c->stream = upload;
}

/*
 * What test says is in place is so for any stream, a new one for example; and nothing works on the
 * data any more, whatever test has said: freeing it would end the process.
 */
static void from_device(const struct worker *w, struct item *item, psgd_status status)
{
	cudaStream_t stream;

	if (status == PSGD_OK) {
		REQUIRE(!cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
		REQUIRE(!cudaMemcpyAsync(item->c.data, item->device, bytes_of(w, item),
			cudaMemcpyDeviceToHost, stream));
		REQUIRE(!cudaStreamSynchronize(stream));
		REQUIRE(!cudaStreamDestroy(stream));
	}
	REQUIRE(!cudaStreamSynchronize(upload));
	REQUIRE(!cudaFree(item->device));
	item->device = NULL;
}

static bool by_device(const struct item *item)
{
	return item->message % 2 && item->c.data && item->c.count > 0 && item->c.count < 1 << 24;
}
#endif

psgd_status post(struct worker *w, struct item *item)
{
	struct psgd_collective c;
	psgd_status status;

	item->c.size = sizeof(item->c);
	item->c.tag = item->message;
	item->c.notify = on_notify;
	item->c.notify_user = item;
	c = item->c;
#ifdef NCCL_MODULE_DIR
	if (by_device(item))
		to_device(w, item, &c);
#endif
	status = w->transport.ops->post(w->transport.self, &c, &item->request);
#ifdef NCCL_MODULE_DIR
	if (status && item->device)
		from_device(w, item, status);
#endif
	return status;
}

psgd_status finish(struct worker *w, struct item *item, struct psgd_transfer *t)
{
	const int64_t deadline = now_ns() + 40000 * MS;
	psgd_status status;

	do {
		REQUIRE(now_ns() < deadline);
		status = w->transport.ops->test(w->transport.self, item->request, 100 * MS, t);
	} while (status == PSGD_PENDING);
#ifdef NCCL_MODULE_DIR
	if (item->device)
		from_device(w, item, status);
#endif
	return status;
}

void require_notified(struct item *item)
{
	const int64_t deadline = now_ns() + 5000 * MS;

	while (!atomic_load(&item->notified)) {
		REQUIRE(now_ns() < deadline);
		sleep_ms(1);
	}
	REQUIRE(atomic_load(&item->notified) == 1);
}

int64_t values_in(const struct item *item, uint32_t n)
{
	return item->c.kind == PSGD_ALLGATHER ? item->c.count * n : item->c.count;
}

void fill(struct item *item, uint32_t worker, uint32_t n)
{
	const size_t each = psgd_dtype_bytes(item->c.dtype);
	const int64_t from = item->c.kind == PSGD_ALLGATHER ? worker * item->c.count : 0;

	memset(item->c.data, 0xa5, (size_t)values_in(item, n) * each);
	for (int64_t i = 0; i < item->c.count; i++) {
		const double x = value_of(item->message, worker, i);

		if (item->c.dtype == PSGD_F32)
			((float *)item->c.data)[from + i] = (float)x;
		else if (item->c.dtype == PSGD_F64)
			((double *)item->c.data)[from + i] = x;
		else
			((uint8_t *)item->c.data)[from + i] = (uint8_t)(int)(x * 16);
	}
}

void require_value(const struct item *item, uint32_t n, int64_t i)
{
	const bool f32 = item->c.dtype == PSGD_F32;
	double want = 0, got;

	if (item->c.kind == PSGD_BROADCAST)
		want = value_of(item->message, item->c.root, i);
	if (item->c.kind == PSGD_ALLGATHER)
		want = value_of(item->message, (uint32_t)(i / item->c.count), i % item->c.count);
	if (item->c.dtype == PSGD_U8) {
		REQUIRE(((uint8_t *)item->c.data)[i] == (uint8_t)(int)(want * 16));
		return;
	}
	got = f32 ? (double)((float *)item->c.data)[i] : ((double *)item->c.data)[i];
	if (item->c.kind == PSGD_ALLREDUCE_SUM)
		for (uint32_t w = 0; w < n; w++)
			want += value_of(item->message, w, i);
	REQUIRE(fabs(got - want) <= (f32 ? 2e-5 : 1e-12));
}

void draw(struct item *item, uint64_t message, uint32_t n)
{
	const uint64_t r = mix(message, 1000);
	const int64_t sizes[] = {1, 2, 3, 5, 17, (int64_t)(r >> 8 & 0x3ff) + 1,
		(int64_t)(r >> 20 & 0xffff) + 1, (int64_t)(r >> 40 & 0x3ffff) + 1};
	static const uint32_t kinds[] = {
		PSGD_BROADCAST, PSGD_ALLREDUCE_SUM, PSGD_ALLGATHER, PSGD_ALLREDUCE_SUM};

	memset(item, 0, sizeof(*item));
	item->message = message;
	item->c.count = sizes[r & 7];
	item->c.kind = kinds[r >> 3 & 3];
	item->c.dtype = 1 + (uint32_t)((r >> 5 & 7) % (item->c.kind == PSGD_ALLREDUCE_SUM ? 2 : 3));
	item->c.root = item->c.kind == PSGD_BROADCAST ? (uint32_t)((r >> 50) % n) : 0;
	item->c.data = malloc((size_t)values_in(item, n) * 8);
	REQUIRE(item->c.data);
}

void require_transfer(
	const struct psgd_transfer *t, const struct item *item, uint32_t n, int64_t *last_end)
{
	const uint64_t payload = (uint64_t)item->c.count * psgd_dtype_bytes(item->c.dtype);

	REQUIRE(t->payload_bytes == payload);
	REQUIRE(t->post_ns <= t->start_ns && t->start_ns <= t->end_ns);
	REQUIRE(t->end_ns >= *last_end && t->end_ns <= now_ns());
	*last_end = t->end_ns;
	if (item->c.kind == PSGD_BROADCAST) {
		REQUIRE(t->sent_bytes % payload == 0 && t->sent_bytes <= 2 * payload);
	} else if (item->c.kind == PSGD_ALLGATHER) {
		REQUIRE(t->sent_bytes == (n - 1) * payload);
	} else {
		/* A ring sends all but one part in n, twice; short messages do not divide well. */
		const double even = 2.0 * (n - 1) / n * (double)payload;

		REQUIRE(t->sent_bytes <= 2 * payload);
		REQUIRE(payload < 4096 || fabs((double)t->sent_bytes - even) < 0.05 * even + 1);
	}
}

void require_equal_bits(struct worker *w, struct item *item)
{
	const size_t bytes =
		(size_t)values_in(item, w->transport.n_workers) * psgd_dtype_bytes(item->c.dtype);
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

struct item one_item(int64_t count)
{
	struct item item = {.message = 1};

	item.c.kind = PSGD_ALLREDUCE_SUM;
	item.c.dtype = PSGD_F32;
	item.c.count = count;
	item.c.data = calloc((size_t)count * MAX_WORKERS, 4);
	REQUIRE(item.c.data);
	return item;
}
