/*
 * The CUDA device's memory, streams and events; and what becomes of it when something fails: every
 * call of CUDA's and cuBLAS's in turn, every allocation, no device, no driver.
 */
#include <cuda_runtime.h>
#include <pthread.h>

#include "cuda/cuda.h"
#include "support/suite.h"

/* What `everything` works with. */
struct all {
	struct psgd_device cuda;
	psgd_stream stream, other;
	psgd_event from, to;
	void *memory;
	uint32_t nonfinite;
	int called;
};

#define COUNT 40000 /* values of g and e of the largest matrix: 200 by 200 */
#define VALUES (7 * COUNT)

static void note(void *user)
{
	*(int *)user = 1;
}

static psgd_status prepare(struct all *x)
{
	const struct psgd_device_ops *ops = x->cuda.ops;
	void *self = x->cuda.self;
	float *host = calloc(VALUES, sizeof(*host));
	psgd_status status = ops->stream_create(self, &x->stream);

	for (size_t i = 0; i < VALUES; i++)
		host[i] = (float)(i % 89) - 44.0f;
	if (!status)
		status = ops->stream_create(self, &x->other);
	if (!status)
		status = ops->event_create(self, &x->from);
	if (!status)
		status = ops->event_create(self, &x->to);
	if (!status)
		status = ops->alloc(self, VALUES * sizeof(*host), &x->memory);
	if (!status)
		status = ops->upload(self, x->memory, host, VALUES * sizeof(*host), x->stream);
	free(host);
	return status;
}

/* All kernels, for a matrix that is compressed, one by cuBLAS, and one that is not. */
static psgd_status kernels(struct all *x)
{
	const struct psgd_kernels *table = x->cuda.ops->kernels;
	void *self = x->cuda.self;
	float *v = x->memory, few[5];
	const struct psgd__matrix list[] = {
		{.g = v,
			.e = v + COUNT,
			.p = v + 2 * COUNT,
			.q = v + 2 * COUNT + 9000,
			.n = 200,
			.m = 200,
			.r = 40},
		{.g = v + 3 * COUNT,
			.e = v + 4 * COUNT,
			.p = v + 5 * COUNT,
			.q = v + 5 * COUNT + 1000,
			.n = 40,
			.m = 1000,
			.r = 3},
		{.g = v + 6 * COUNT, .p = v + 6 * COUNT + 4000, .n = 4000, .m = 1},
	};
	const struct psgd__start start = {.q = list[1].q, .m = 1000, .r = 3, .tensor = 4};
	const struct psgd__panel panel = {list[1].p, 40, 3, 0};
	const struct psgd__span span = {list[1].p, 120};
	const struct psgd__addend addend = {v, v + 200, 100};
	const struct psgd__fill fill = {v, 100, 0, 2, 9, 3};
	const struct psgd__finish finish = {.list = list,
		.count = 3,
		.messages = &span,
		.n_messages = 1,
		.nonfinite = &x->nonfinite,
		.mean = 1.0f};
	double squares = 0.0;
	int finite;

	PSGD__TRY(table->start(self, &start, 1, 1, 0.0f, x->stream));
	PSGD__TRY(table->absorb_project(self, list, 3, x->stream));
	PSGD__TRY(table->orthonormalize(self, &panel, 1, 0.0f, x->stream));
	PSGD__TRY(table->back_project(self, list, 3, x->stream));
	PSGD__TRY(table->finish(self, &finish, x->stream));
	PSGD__TRY(table->reconstruct(self, list, 3, x->stream));
	PSGD__TRY(table->axpby(self, 100, 1.0f, v, 1.0f, v, x->stream));
	PSGD__TRY(table->accumulate(self, &addend, 1, x->stream));
	PSGD__TRY(table->sum_squares(self, &span, 1, &squares, x->stream));
	PSGD__TRY(table->finite(self, &span, 1, &finite, x->stream));
	PSGD__TRY(table->leading(self, &panel, 2, v, x->stream));
	PSGD__TRY(table->fill(self, &fill, 1, 1, x->stream));
	return table->sample(self, v, 3, 5, few, x->stream);
}

static psgd_status operations(struct all *x)
{
	const struct psgd_device_ops *ops = x->cuda.ops;
	void *self = x->cuda.self;
	uint64_t free_bytes, total;
	float few[4];
	int64_t ns;

	PSGD__TRY(ops->event_record(self, x->from, x->stream));
	PSGD__TRY(ops->stream_wait(self, x->other, x->from));
	PSGD__TRY(ops->zero(self, x->memory, 16, x->other));
	PSGD__TRY(ops->copy(self, (char *)x->memory + 16, x->memory, 16, x->other));
	PSGD__TRY(ops->stream_call(self, x->other, note, &x->called));
	PSGD__TRY(ops->event_record(self, x->to, x->other));
	PSGD__TRY(ops->stream_finish(self, x->other));
	PSGD__TRY(ops->event_test(self, x->to));
	PSGD__TRY(ops->event_elapsed(self, x->from, x->to, &ns));
	PSGD__TRY(ops->memory(self, &free_bytes, &total));
	return ops->download(self, few, x->memory, sizeof(few), x->other);
}

/* Opens a device, does all that it can, and ends it. The reason of a failure is in text. */
static psgd_status everything(
	const struct psgd_device_cuda_options *options, char *text, size_t bytes)
{
	struct psgd_device_cuda_options o = *options;
	struct all x = {0};
	psgd_status status;

	*text = '\0';
	o.module_dir = CUDA_MODULE_DIR;
	o.error = text;
	o.error_bytes = bytes;
	status = psgd_device_cuda(&o, &x.cuda);
	if (status) {
		ck_assert_ptr_null(x.cuda.ops);
		return status;
	}
	status = prepare(&x);
	if (!status)
		status = kernels(&x);
	if (!status)
		status = operations(&x);
	x.cuda.ops->error(x.cuda.self, text, bytes);
	/* Twice, since it may be the one that fails. */
	for (int i = 0; i < 2; i++) {
		x.cuda.ops->stream_finish(x.cuda.self, x.other);
		x.cuda.ops->stream_finish(x.cuda.self, x.stream);
	}
	x.cuda.ops->free(x.cuda.self, x.memory, VALUES * sizeof(float));
	x.cuda.ops->event_destroy(x.cuda.self, x.to);
	x.cuda.ops->event_destroy(x.cuda.self, x.from);
	x.cuda.ops->stream_destroy(x.cuda.self, x.other);
	x.cuda.ops->stream_destroy(x.cuda.self, x.stream);
	psgd_device_destroy(&x.cuda);
	return status;
}

static const struct psgd_device_cuda_options by_default = {.size = sizeof(by_default)};

/*
 * Every call fails in turn, or is the first after which the device is lost: a status and its
 * reason, nothing left behind, no crash, no wait for what never comes.
 */
START_TEST(every_call_fails)
{
	void (*const trouble)(uint64_t nth) = _i / 2 ? shim_lose : shim_fail;
	uint64_t failures = 0, nth = 1;
	char text[256];

	for (;; nth += CALLS_APART) {
		psgd_status status;

		shim_reset();
		shim_lazy(_i % 2);
		trouble(nth);
		status = everything(&by_default, text, sizeof(text));
		if (shim_calls() < nth)
			break;
		if (status < 0 && (!text[0] || shim_leaks()))
			ck_abort_msg("call %d: %s: '%s', %d left", (int)nth,
				psgd_status_name(status), text, (int)shim_leaks());
		failures += status < 0;
		if (shim_leaks())
			ck_abort_msg("call %d: %d left", (int)nth, (int)shim_leaks());
	}
	/* The others are versions, texts, and what is freed. */
	ck_assert_uint_gt(nth, 100);
	ck_assert_uint_gt(failures, nth / 2 / CALLS_APART);
	shim_reset();
	ck_assert_int_eq(everything(&by_default, text, sizeof(text)), PSGD_OK);
}
END_TEST

/* More and more memory, until it is enough. */
START_TEST(out_of_memory)
{
	const size_t apart = THINNED(12345, 123450);
	psgd_status status = PSGD_ERR_NOMEM;
	int failures = 0;
	char text[256];

	for (size_t limit = 0; status; limit += apart) {
		shim_reset();
		shim_memory_limit(limit ? limit : 1);
		status = everything(&by_default, text, sizeof(text));
		ck_assert_uint_eq(shim_leaks(), 0);
		if (!status)
			break;
		failures++;
		ck_assert_int_eq(status, PSGD_ERR_NOMEM);
		ck_assert_msg(strstr(text, "out of device memory: ") && strstr(text, " wanted, ") &&
				      strstr(text, " free of "),
			"%s", text);
	}
	ck_assert_int_gt(failures, THINNED(50, 5));
}
END_TEST

struct hook {
	int turn; /* the allocation that fails */
	int blocks;
};

static void *hook_alloc(void *user, size_t bytes)
{
	struct hook *hook = user;
	void *memory;

	if (!hook->turn--)
		return NULL;
	if (cudaMalloc(&memory, bytes) != cudaSuccess)
		return NULL;
	hook->blocks++;
	return memory;
}

static void hook_free(void *user, void *memory, size_t bytes)
{
	struct hook *hook = user;

	ck_assert_uint_gt(bytes, 0);
	hook->blocks--;
	cudaFree(memory);
}

START_TEST(the_callers_allocator)
{
	struct psgd_device_cuda_options o = by_default;
	psgd_status status = PSGD_ERR_NOMEM;
	int turn = 0;
	char text[256];

	shim_reset();
	o.alloc = hook_alloc;
	ck_assert_int_eq(everything(&o, text, sizeof(text)), PSGD_ERR_INVALID);
	ck_assert_str_eq(text, "alloc and free go together");
	o.free = hook_free;
	for (; status; turn++) {
		struct hook hook = {.turn = turn};

		o.alloc_user = &hook;
		status = everything(&o, text, sizeof(text));
		ck_assert_int_eq(hook.blocks, 0);
		ck_assert_int_eq(status, hook.turn < 0 ? PSGD_ERR_NOMEM : PSGD_OK);
		ck_assert_uint_eq(shim_leaks(), 0);
	}
	ck_assert_int_gt(turn, 4);
}
END_TEST

START_TEST(no_device)
{
	struct psgd_device_cuda_options o = by_default;
	struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
	char text[256];
	uint32_t count = 9;

	shim_reset();
	shim_devices(0);
	ck_assert_int_eq(everything(&o, text, sizeof(text)), PSGD_ERR_UNSUPPORTED);
	ck_assert_str_eq(text, "no CUDA device");
	ck_assert_int_eq(psgd_cuda_info(0, CUDA_MODULE_DIR, &info, &count, text, sizeof(text)),
		PSGD_ERR_UNSUPPORTED);
	ck_assert_uint_eq(count, 0);
	ck_assert_uint_gt(info.runtime, 0);
	shim_devices(-1);
	ck_assert_int_eq(everything(&o, text, sizeof(text)), PSGD_ERR_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(text, "driver"));
	shim_devices(2);
	o.ordinal = 2;
	ck_assert_int_eq(everything(&o, text, sizeof(text)), PSGD_ERR_INVALID);
	ck_assert_str_eq(text, "no CUDA device 2: there are 2");
	ck_assert_int_eq(psgd_cuda_info(2, CUDA_MODULE_DIR, &info, &count, text, sizeof(text)),
		PSGD_ERR_INVALID);
	ck_assert_uint_eq(count, 2);
	ck_assert_int_eq(
		psgd_cuda_info(1, CUDA_MODULE_DIR, &info, &count, text, sizeof(text)), PSGD_OK);
	ck_assert_str_eq(text, "");
	ck_assert_str_ne(info.name, "");
	ck_assert_uint_eq(info.ordinal, 1);
	ck_assert_str_eq(info.bus, "0000:02:00");
	ck_assert_uint_gt(info.memory_bytes, 0);
	ck_assert_uint_eq(info.size, sizeof(info));
	ck_assert_int_eq(psgd_cuda_info(0, CUDA_MODULE_DIR, NULL, NULL, NULL, 0), PSGD_ERR_INVALID);
	ck_assert_uint_eq(shim_leaks(), 0);
}
END_TEST

START_TEST(no_module)
{
	struct psgd_device_cuda_options o = PSGD_INIT(psgd_device_cuda_options);
	struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
	struct psgd_device cuda;
	uint32_t count = 9;
	char text[256];

	o.module_dir = "/nowhere";
	o.error = text;
	o.error_bytes = sizeof(text);
	ck_assert_int_eq(psgd_device_cuda(&o, &cuda), PSGD_ERR_UNSUPPORTED);
	ck_assert_ptr_null(cuda.ops);
	ck_assert_ptr_nonnull(strstr(text, "no CUDA module"));
	ck_assert_int_eq(
		psgd_cuda_info(0, "/nowhere", &info, &count, NULL, 0), PSGD_ERR_UNSUPPORTED);
	ck_assert_uint_eq(count, 0);
	ck_assert_uint_eq(info.runtime, 0);
	ck_assert_int_eq(psgd_device_cuda(&o, NULL), PSGD_ERR_INVALID);
}
END_TEST

/*
 * The device of another ordinal, from a thread that has never set one: each keeps its own, and no
 * other device gets a context.
 */
static void *elsewhere(void *user)
{
	char text[256];
	int current = -1;

	ck_assert_msg(everything(user, text, sizeof(text)) == PSGD_OK, "%s", text);
	ck_assert_int_eq(cudaGetDevice(&current), cudaSuccess);
	ck_assert_int_eq(current, 0);
	return NULL;
}

START_TEST(any_thread)
{
	struct psgd_device_cuda_options o = by_default;
	pthread_t thread;

	shim_reset();
	shim_devices(2);
	o.ordinal = 1;
	ck_assert_int_eq(pthread_create(&thread, NULL, elsewhere, &o), 0);
	pthread_join(thread, NULL);
	elsewhere(&o);
	ck_assert_uint_eq(shim_contexts(), 1 << 1);
	/* What a thread has set is set again. */
	ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
	elsewhere(&o);
	ck_assert_uint_eq(shim_contexts(), 1 << 0 | 1 << 1);
	ck_assert_uint_eq(shim_leaks(), 0);
}
END_TEST

START_TEST(streams_and_events)
{
	struct devices d;
	const struct psgd_device_ops *ops;
	psgd_event event, never;
	uint64_t free_bytes = 0, total = 0;
	float *memory, got[4] = {1.0f, 2.0f, 3.0f, 4.0f};
	void *block;
	int called = 0;

	shim_reset();
	shim_lazy(true);
	devices_open(&d);
	ops = d.cuda.ops;
	ck_assert_str_eq(ops->name, "cuda");
	ck_assert_int_eq(strncmp(ops->variant(d.cuda.self), "sm_", 3), 0);
	ck_assert_int_eq(ops->event_create(d.cuda.self, &event), PSGD_OK);
	ck_assert_int_eq(ops->event_create(d.cuda.self, &never), PSGD_OK);
	ck_assert_int_eq(ops->event_test(d.cuda.self, never), PSGD_OK);
	ck_assert_int_eq(ops->alloc(d.cuda.self, sizeof(got), &block), PSGD_OK);
	memory = block;
	ck_assert_int_eq(ops->upload(d.cuda.self, memory, got, sizeof(got), d.stream), PSGD_OK);
	ck_assert_int_eq(ops->copy(d.cuda.self, memory + 2, memory, 8, d.stream), PSGD_OK);
	ck_assert_int_eq(ops->zero(d.cuda.self, memory, 4, d.stream), PSGD_OK);
	ck_assert_int_eq(ops->stream_call(d.cuda.self, d.stream, note, &called), PSGD_OK);
	ck_assert_int_eq(ops->event_record(d.cuda.self, event, d.stream), PSGD_OK);
	ck_assert_int_eq(ops->stream_finish(d.cuda.self, d.stream), PSGD_OK);
	ck_assert_int_eq(called, 1);
	ck_assert_int_eq(ops->event_test(d.cuda.self, event), PSGD_OK);
	ck_assert_int_eq(ops->download(d.cuda.self, got, memory, sizeof(got), d.stream), PSGD_OK);
	ck_assert_float_eq(got[0], 0.0f);
	ck_assert_float_eq(got[2], 1.0f);
	ck_assert_float_eq(got[3], 2.0f);
	/* Nothing at all is fine. */
	ck_assert_int_eq(ops->copy(d.cuda.self, NULL, NULL, 0, d.stream), PSGD_OK);
	ck_assert_int_eq(ops->upload(d.cuda.self, NULL, NULL, 0, d.stream), PSGD_OK);
	ck_assert_int_eq(
		d.cuda.ops->kernels->start(d.cuda.self, NULL, 0, 0, 0.0f, d.stream), PSGD_OK);
	ops->free(d.cuda.self, NULL, 0);
	ops->stream_destroy(d.cuda.self, NULL);
	ops->event_destroy(d.cuda.self, NULL);
	ck_assert_int_eq(ops->memory(d.cuda.self, &free_bytes, &total), PSGD_OK);
	ck_assert_uint_gt(free_bytes, 0);
	ck_assert_uint_ge(total, free_bytes);
	ck_assert_int_eq(
		ops->event_elapsed(d.cuda.self, never, event, &(int64_t){0}), PSGD_ERR_DEVICE);
	ops->free(d.cuda.self, block, sizeof(got));
	ops->event_destroy(d.cuda.self, never);
	ops->event_destroy(d.cuda.self, event);
	devices_close(&d);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cuda device");
	TCase *c = tcase_create("device");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, every_call_fails, 0, 4);
	tcase_add_test(c, out_of_memory);
	tcase_add_test(c, the_callers_allocator);
	tcase_add_test(c, no_device);
	tcase_add_test(c, no_module);
	tcase_add_test(c, any_thread);
	tcase_add_test(c, streams_and_events);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
