/* Streams and events: what is in order, what is not, and when anything runs at all. */
#include <atomic>
#include <cmath>
#include <memory>
#include <thread>

#include "shim_impl.h"
#include "test_shim.h"

struct Pair {
	cudaStream_t a, b;
	cudaEvent_t event;

	explicit Pair(unsigned flags = cudaStreamNonBlocking)
	{
		OK(cudaStreamCreateWithFlags(&a, flags));
		OK(cudaStreamCreateWithFlags(&b, flags));
		OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
	}
	~Pair()
	{
		cudaStreamDestroy(a);
		cudaStreamDestroy(b);
		cudaEventDestroy(event);
	}
};

/* Pinned memory of the host. */
struct Pinned {
	float *data;

	explicit Pinned(size_t n)
	{
		OK(cudaHostAlloc(
			reinterpret_cast<void **>(&data), n * sizeof(float), cudaHostAllocDefault));
	}
	~Pinned()
	{
		cudaFreeHost(data);
	}
};

static __global__ void increase(float *data, float by)
{
	data[threadIdx.x] += by;
}

static void copy_back(float *to, const Array<float> &from, cudaStream_t stream)
{
	OK(cudaMemcpyAsync(
		to, from.data, from.count * sizeof(float), cudaMemcpyDeviceToHost, stream));
}

static Array<float> *ones(size_t n)
{
	return new Array<float>(std::vector<float>(n, 1));
}

/* One stream uses what another makes: right with the event, wrong without it. */
START_TEST(missing_wait)
{
	bool with_wait = _i & 1;
	Pair s;
	Pinned out(4);
	std::unique_ptr<Array<float>> data(ones(4));

	shim_lazy(true);
	OK(cudaStreamSynchronize(nullptr));
	PSGD_LAUNCH(increase, 1, 4, 0, s.a, data->data, 1.0f);
	OK(cudaEventRecord(s.event, s.a));
	if (with_wait)
		OK(cudaStreamWaitEvent(s.b, s.event, 0));
	copy_back(out.data, *data, s.b);
	ck_assert(std::isnan(out.data[0]));
	OK(cudaStreamSynchronize(s.b));
	ck_assert_float_eq(out.data[3], with_wait ? 2 : 1);
	OK(cudaStreamSynchronize(s.a));
}
END_TEST

/* Long chains over two streams, which run on their own. */
START_TEST(chains)
{
	Pair s;
	Pinned out(4);
	std::unique_ptr<Array<float>> data(ones(4));

	shim_lazy(_i & 1);
	OK(cudaStreamSynchronize(nullptr));
	for (int i = 0; i < 200; i++) {
		cudaStream_t from = i % 2 ? s.a : s.b, to = i % 2 ? s.b : s.a;

		PSGD_LAUNCH(increase, 1, 4, 0, from, data->data, (float)i);
		OK(cudaEventRecord(s.event, from));
		OK(cudaStreamWaitEvent(to, s.event, 0));
	}
	copy_back(out.data, *data, s.b);
	OK(cudaStreamSynchronize(s.b));
	ck_assert_float_eq(out.data[0], 1 + 199 * 100);
}
END_TEST

/* Without an event, both orders of two streams come about. */
START_TEST(any_order)
{
	Pair s;
	int made[2] = {0, 0};

	for (int i = 0; i < 200 && !(made[0] && made[1]); i++) {
		std::vector<int> came;
		auto note = [&came](int which) { came.push_back(which); };

		/* Neither goes before both are there. */
		std::atomic<bool> go{false};
		shim_enqueue_poll(nullptr, [&go] { return go.load(); });
		OK(cudaEventRecord(s.event, nullptr));
		OK(cudaStreamWaitEvent(s.a, s.event, 0));
		OK(cudaStreamWaitEvent(s.b, s.event, 0));
		ck_assert(shim_enqueue(s.a, [=] { note(0); }));
		ck_assert(shim_enqueue(s.b, [=] { note(1); }));
		go = true;
		OK(cudaStreamSynchronize(s.a));
		OK(cudaStreamSynchronize(s.b));
		made[came[0]]++;
	}
	ck_assert(made[0] && made[1]);
}
END_TEST

/* The default stream is in order with streams that are not cudaStreamNonBlocking. */
START_TEST(default_stream)
{
	Pair s(cudaStreamDefault), apart;
	Pinned out(4);
	std::unique_ptr<Array<float>> data(ones(4));

	shim_lazy(true);
	PSGD_LAUNCH(increase, 1, 4, 0, s.a, data->data, 1.0f);
	PSGD_LAUNCH(increase, 1, 4, 0, apart.a, data->data, 100.0f);
	PSGD_LAUNCH(increase, 1, 4, 0, nullptr, data->data, 2.0f);
	copy_back(out.data, *data, s.b);
	OK(cudaStreamSynchronize(s.b));
	ck_assert_float_eq(out.data[0], 4);
	OK(cudaStreamSynchronize(apart.a));
}
END_TEST

START_TEST(queries)
{
	Pair s;
	std::unique_ptr<Array<float>> data(ones(4));
	cudaError_t error;

	OK(cudaStreamSynchronize(nullptr));
	shim_lazy(_i & 1);
	OK(cudaEventQuery(s.event)); /* never recorded */
	PSGD_LAUNCH(increase, 1, 4, 0, s.a, data->data, 1.0f);
	OK(cudaEventRecord(s.event, s.a));
	/* A question moves what it needs, and nothing else. */
	PSGD_LAUNCH(increase, 1, 4, 0, s.b, data->data, 100.0f);
	while ((error = cudaEventQuery(s.event)) == cudaErrorNotReady)
		ck_assert_int_eq(cudaGetLastError(), cudaErrorNotReady);
	OK(error);
	while ((error = cudaStreamQuery(s.a)) == cudaErrorNotReady)
		continue;
	OK(error);
	if (_i & 1) {
		Pinned out(4);

		copy_back(out.data, *data, s.a);
		OK(cudaStreamSynchronize(s.a));
		ck_assert_float_eq(out.data[0], 2);
	}
	OK(cudaStreamSynchronize(s.b));
}
END_TEST

struct Called {
	std::atomic<int> error{-1};
};

static void ask_cuda(void *user)
{
	int count;

	static_cast<Called *>(user)->error = cudaGetDeviceCount(&count);
}

/* A host function comes with nobody waiting, after what is before it; it may not call CUDA. */
START_TEST(host_function)
{
	Pair s;
	Called called;
	std::unique_ptr<Array<float>> data(ones(4));

	OK(cudaStreamSynchronize(nullptr));
	shim_lazy(_i & 1);
	PSGD_LAUNCH(increase, 1, 4, 0, s.a, data->data, 1.0f);
	OK(cudaEventRecord(s.event, s.a));
	OK(cudaLaunchHostFunc(s.a, ask_cuda, &called));
	while (called.error < 0)
		std::this_thread::yield();
	ck_assert_int_eq(called.error, cudaErrorNotPermitted);
	OK(cudaEventQuery(s.event));
	ck_assert_uint_eq(shim_count(SHIM_CALLS_BACK), 1);
	OK(cudaStreamSynchronize(s.a));
}
END_TEST

/* What frees waits for what is on the device's streams, and counts as a wait. */
START_TEST(free_waits)
{
	Pair s;
	std::unique_ptr<Array<float>> data(ones(4));
	std::atomic<bool> done{false};
	uint64_t waits;

	OK(cudaStreamSynchronize(nullptr));
	shim_lazy(_i & 1);
	shim_enqueue(s.a, [&done] {
		std::this_thread::sleep_for(std::chrono::milliseconds(5));
		done = true;
	});
	waits = shim_count(SHIM_SYNCS);
	data.reset();
	ck_assert(done);
	ck_assert_uint_eq(shim_count(SHIM_SYNCS), waits + 1);
}
END_TEST

static void note_call(void *user)
{
	*static_cast<std::atomic<bool> *>(user) = true;
}

/* A device that is lost does nothing more, calls nobody, and says so at every call. */
START_TEST(lost)
{
	auto s = std::make_unique<Pair>();
	std::atomic<bool> called{false};
	void *memory;

	shim_lazy(true);
	OK(cudaMalloc(&memory, 4));
	shim_enqueue_poll(s->a, [] { return false; });
	OK(cudaLaunchHostFunc(s->a, note_call, &called));
	OK(cudaEventRecord(s->event, s->a));
	ck_assert_int_eq(cudaEventQuery(s->event), cudaErrorNotReady);
	shim_lose(2);
	ck_assert_int_eq(cudaEventQuery(s->event), cudaErrorNotReady);
	OK(cudaMemsetAsync(memory, 0, 4, s->b));
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(cudaStreamSynchronize(s->a), cudaErrorIllegalAddress);
		ck_assert_int_eq(cudaEventQuery(s->event), cudaErrorIllegalAddress);
		ck_assert_int_eq(cudaMemsetAsync(memory, 0, 4, s->b), cudaErrorIllegalAddress);
	}
	OK(cudaSetDevice(0));
	ck_assert_int_eq(cudaFree(memory), cudaErrorIllegalAddress);
	s.reset();
	ck_assert_uint_eq(shim_leaks(), 0);
	std::this_thread::sleep_for(std::chrono::milliseconds(20));
	ck_assert(!called);
	shim_reset();
	OK(cudaStreamSynchronize(nullptr));
}
END_TEST

/* Pageable memory is read in the call; pinned memory when the stream comes to it. */
START_TEST(copies)
{
	Pair s;
	Pinned pinned(2);
	float plain[2] = {1, 2}, back[2];
	Array<float> a(2), b(2);

	shim_lazy(true);
	pinned.data[0] = 1;
	OK(cudaMemcpyAsync(a.data, plain, sizeof(plain), cudaMemcpyHostToDevice, s.a));
	OK(cudaMemcpyAsync(b.data, pinned.data, sizeof(plain), cudaMemcpyDefault, s.a));
	plain[0] = pinned.data[0] = 5;
	OK(cudaMemcpyAsync(back, a.data, sizeof(plain), cudaMemcpyDeviceToHost, s.a));
	ck_assert_float_eq(back[0], 1);
	OK(cudaMemcpyAsync(back, b.data, sizeof(plain), cudaMemcpyDeviceToHost, s.a));
	ck_assert_float_eq(back[0], 5);
	ck_assert_uint_eq(shim_count(SHIM_COPIES), 4);
	ck_assert_uint_eq(shim_count(SHIM_SYNCS), 3);

	/* Two columns of a matrix of three. */
	std::vector<float> matrix = {1, 2, 3, 4, 5, 6};
	Array<float> m(matrix), packed(4);

	OK(cudaMemcpy2DAsync(packed.data, 8, m.data + 1, 12, 8, 2, cudaMemcpyDeviceToDevice));
	ck_assert(packed.get() == (std::vector<float>{2, 3, 5, 6}));
	ck_assert_int_eq(
		cudaMemcpy2DAsync(packed.data, 4, m.data, 12, 8, 2, cudaMemcpyDeviceToDevice),
		cudaErrorInvalidPitchValue);
}
END_TEST

START_TEST(elapsed_time)
{
	cudaEvent_t begin, end, untimed;
	float ms = -1;
	std::atomic<bool> go{false};

	OK(cudaEventCreateWithFlags(&begin, cudaEventDefault));
	OK(cudaEventCreateWithFlags(&end, cudaEventDefault));
	OK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
	OK(cudaEventRecord(begin, nullptr));
	shim_enqueue_poll(nullptr, [&go] { return go.load(); });
	OK(cudaEventRecord(end, nullptr));
	OK(cudaEventSynchronize(begin));
	ck_assert_int_eq(cudaEventElapsedTime(&ms, begin, end), cudaErrorNotReady);
	ck_assert_int_eq(cudaEventElapsedTime(&ms, begin, untimed), cudaErrorInvalidResourceHandle);
	std::this_thread::sleep_for(std::chrono::milliseconds(2));
	go = true;
	OK(cudaEventSynchronize(end));
	OK(cudaEventElapsedTime(&ms, begin, end));
	ck_assert_float_ge(ms, 2);
	OK(cudaEventDestroy(begin));
	OK(cudaEventDestroy(end));
	OK(cudaEventDestroy(untimed));
}
END_TEST

/* Streams of another device are not taken for this one's. */
START_TEST(devices)
{
	cudaStream_t stream;
	std::unique_ptr<Array<float>> data(ones(4));

	OK(cudaStreamSynchronize(nullptr));
	shim_devices(2);
	OK(cudaSetDevice(1));
	OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	PSGD_LAUNCH(increase, 1, 4, 0, stream, data->data, 1.0f);
	OK(cudaGetLastError());
	OK(cudaStreamSynchronize(stream));
	OK(cudaSetDevice(0));
	PSGD_LAUNCH(increase, 1, 4, 0, stream, data->data, 1.0f);
	ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidResourceHandle);
	ck_assert_int_eq(cudaSetDevice(2), cudaErrorInvalidDevice);
	OK(cudaStreamDestroy(stream));
	ck_assert_int_eq(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
}
END_TEST

static void add_loop(TCase *tc, const TTest *test, int end)
{
	tcase_add_loop_test(tc, test, 0, end);
}

void add_stream_tests(Suite *suite)
{
	TCase *tc = tcase_create("streams");

	tcase_set_timeout(tc, 0);
	add_loop(tc, missing_wait, 2);
	add_loop(tc, chains, 2);
	tcase_add_test(tc, any_order);
	tcase_add_test(tc, default_stream);
	add_loop(tc, queries, 2);
	add_loop(tc, host_function, 2);
	add_loop(tc, free_waits, 2);
	tcase_add_test(tc, lost);
	tcase_add_test(tc, copies);
	tcase_add_test(tc, elapsed_time);
	tcase_add_test(tc, devices);
	suite_add_tcase(suite, tc);
}
