/*
 * PowerSGD on a device that is asynchronous, as far as the compressor can tell: everything in the
 * stream of the scope, memory given back when the stream is through with it, and state that goes to
 * the host and back by download and upload alone.
 */
#include <string.h>

#include "base/state.h"
#include "compress/powersgd.h"
#include "support/random.h"
#include "support/suite.h"

#define STREAM ((psgd_stream)(uintptr_t)0x51)
#define FAILED PSGD_ERR_IO /* nothing else here returns it */
#define TENSORS 2
#define MOST_BLOCKS 64
#define MESSAGE 4096

static const struct psgd_tensor tensors[TENSORS] = {
	{.id = 4, .dtype = PSGD_F32, .n_dims = 2, .dims = {32, 48}},
	{.id = 1, .dtype = PSGD_F32, .n_dims = 2, .dims = {40, 24}},
};

/* A device around the real one. */
static struct {
	struct psgd_device_ops ops, real;
	struct psgd_kernels kernels, work;
	struct {
		const char *at;
		size_t bytes;
	} blocks[MOST_BLOCKS];
	bool pending; /* something was asked for since the stream was last waited for */
	long transfers, waits, fail; /* fail: this transfer, counted from 1; 0: none */
} strict;

static void asked(psgd_stream stream)
{
	ck_assert_ptr_eq(stream, STREAM);
	strict.pending = true;
}

static bool of_device(const void *memory)
{
	const char *at = memory;

	for (int i = 0; i < MOST_BLOCKS; i++) {
		if (strict.blocks[i].at && at >= strict.blocks[i].at &&
			at < strict.blocks[i].at + strict.blocks[i].bytes)
			return true;
	}
	return false;
}

static psgd_status strict_alloc(void *self, size_t bytes, void **out)
{
	int i = 0;

	while (i < MOST_BLOCKS && strict.blocks[i].at)
		i++;
	ck_assert_int_lt(i, MOST_BLOCKS);
	PSGD__TRY(strict.real.alloc(self, bytes, out));
	memset(*out, 0xff, bytes);
	strict.blocks[i].at = *out;
	strict.blocks[i].bytes = bytes;
	return PSGD_OK;
}

static void strict_free(void *self, void *memory, size_t bytes)
{
	ck_assert(!strict.pending);
	for (int i = 0; i < MOST_BLOCKS; i++) {
		if (strict.blocks[i].at == memory)
			strict.blocks[i].at = NULL;
	}
	strict.real.free(self, memory, bytes);
}

static psgd_status strict_copy(void *self, void *dst, const void *src, size_t bytes, psgd_stream s)
{
	asked(s);
	ck_assert(of_device(dst) && of_device(src));
	return strict.real.copy(self, dst, src, bytes, s);
}

static psgd_status strict_zero(void *self, void *dst, size_t bytes, psgd_stream s)
{
	asked(s);
	ck_assert(of_device(dst));
	return strict.real.zero(self, dst, bytes, s);
}

static psgd_status strict_finish(void *self, psgd_stream stream)
{
	(void)self;
	ck_assert_ptr_eq(stream, STREAM);
	strict.pending = false;
	strict.waits++;
	return PSGD_OK;
}

static psgd_status transfer(void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	asked(stream);
	strict.transfers++;
	if (strict.transfers == strict.fail)
		return FAILED;
	memcpy(dst, src, bytes);
	return PSGD_OK;
}

static psgd_status strict_upload(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	(void)self;
	ck_assert(of_device(dst) && !of_device(src));
	return transfer(dst, src, bytes, stream);
}

static psgd_status strict_download(
	void *self, void *dst, const void *src, size_t bytes, psgd_stream stream)
{
	(void)self;
	ck_assert(!of_device(dst) && of_device(src));
	return transfer(dst, src, bytes, stream);
}

static psgd_status strict_start(void *self, const struct psgd__start *list, size_t count,
	uint64_t seed, float eps, psgd_stream stream)
{
	asked(stream);
	return strict.work.start(self, list, count, seed, eps, stream);
}

static psgd_status strict_absorb(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	asked(stream);
	return strict.work.absorb_project(self, list, count, stream);
}

static psgd_status strict_orthonormalize(
	void *self, const struct psgd__panel *list, size_t count, float eps, psgd_stream stream)
{
	asked(stream);
	return strict.work.orthonormalize(self, list, count, eps, stream);
}

static psgd_status strict_back(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream)
{
	asked(stream);
	return strict.work.back_project(self, list, count, stream);
}

static psgd_status strict_finish_round(
	void *self, const struct psgd__finish *finish, psgd_stream stream)
{
	asked(stream);
	return strict.work.finish(self, finish, stream);
}

static psgd_status strict_axpby(
	void *self, int64_t count, float a, const float *x, float b, float *y, psgd_stream stream)
{
	asked(stream);
	return strict.work.axpby(self, count, a, x, b, y, stream);
}

static psgd_status strict_sum_squares(
	void *self, const struct psgd__span *list, size_t count, double *out, psgd_stream stream)
{
	asked(stream);
	return strict.work.sum_squares(self, list, count, out, stream);
}

static psgd_status strict_finite(
	void *self, const struct psgd__span *list, size_t count, int *out, psgd_stream stream)
{
	asked(stream);
	return strict.work.finite(self, list, count, out, stream);
}

static psgd_status strict_leading(
	void *self, const struct psgd__panel *from, uint32_t keep, float *to, psgd_stream stream)
{
	asked(stream);
	return strict.work.leading(self, from, keep, to, stream);
}

static psgd_status strict_fill(
	void *self, const struct psgd__fill *list, size_t count, uint64_t seed, psgd_stream stream)
{
	asked(stream);
	return strict.work.fill(self, list, count, seed, stream);
}

static struct psgd_device make_strict(const struct psgd_device *cpu)
{
	memset(&strict, 0, sizeof(strict));
	strict.ops = strict.real = *cpu->ops;
	strict.work = *cpu->ops->kernels;
	strict.kernels = (struct psgd_kernels){
		.size = sizeof(strict.kernels),
		.start = strict_start,
		.absorb_project = strict_absorb,
		.orthonormalize = strict_orthonormalize,
		.back_project = strict_back,
		.finish = strict_finish_round,
		.axpby = strict_axpby,
		.sum_squares = strict_sum_squares,
		.finite = strict_finite,
		.leading = strict_leading,
		.fill = strict_fill,
	};
	strict.ops.alloc = strict_alloc;
	strict.ops.free = strict_free;
	strict.ops.copy = strict_copy;
	strict.ops.zero = strict_zero;
	strict.ops.kernels = &strict.kernels;
	strict.ops.stream_finish = strict_finish;
	strict.ops.upload = strict_upload;
	strict.ops.download = strict_download;
	return (struct psgd_device){&strict.ops, cpu->self};
}

/* One worker, its gradients and messages in memory of its device. */
struct worker {
	struct psgd_device device;
	struct psgd_compressor compressor;
	struct psgd_grad grads[TENSORS];
	float *messages;
	psgd_stream stream;
	uint64_t step;
};

static float *room(const struct psgd_device *device, size_t values)
{
	void *memory;

	ck_assert_int_eq(
		device->ops->alloc(device->self, values * sizeof(float), &memory), PSGD_OK);
	return memory;
}

static void worker_open(struct worker *x, const struct psgd_device *device, psgd_stream stream)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	struct psgd_scope scope = PSGD_INIT(psgd_scope);

	*x = (struct worker){.device = *device, .stream = stream};
	o.rank = 3;
	scope.tensors = tensors;
	scope.n_tensors = TENSORS;
	scope.device = &x->device;
	scope.n_workers = 1;
	scope.stream = stream;
	ck_assert_int_eq(psgd_compressor_powersgd(&o, &x->compressor), PSGD_OK);
	ck_assert_int_eq(x->compressor.ops->attach(x->compressor.self, &scope), PSGD_OK);
	for (int i = 0; i < TENSORS; i++)
		x->grads[i] = (struct psgd_grad){
			tensors[i].id, room(device, (size_t)psgd_tensor_count(&tensors[i]))};
	x->messages = room(device, 2 * MESSAGE);
}

static void worker_close(struct worker *x)
{
	x->compressor.ops->detach(x->compressor.self);
	psgd_compressor_destroy(&x->compressor);
	for (int i = 0; i < TENSORS; i++)
		x->device.ops->free(x->device.self, x->grads[i].data,
			(size_t)psgd_tensor_count(&tensors[i]) * sizeof(float));
	x->device.ops->free(x->device.self, x->messages, 2 * MESSAGE * sizeof(float));
}

static void step(struct worker *x)
{
	const struct psgd_compressor_ops *ops = x->compressor.ops;
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_round round = PSGD_INIT(psgd_round);
	struct rng rng = {x->step};
	struct psgd_plan plan;

	for (int i = 0; i < TENSORS; i++)
		for (int64_t k = 0; k < psgd_tensor_count(&tensors[i]); k++)
			x->grads[i].data[k] = rng_float(&rng);
	bucket.grads = x->grads;
	bucket.n_grads = TENSORS;
	round.step = x->step++;
	round.bucket = &bucket;
	round.message[0] = x->messages;
	round.message[1] = x->messages + MESSAGE;
	round.stream = x->stream;
	ck_assert_int_eq(ops->plan(x->compressor.self, &bucket, round.step, &plan), PSGD_OK);
	for (; round.index <= plan.n_rounds; round.index++)
		ck_assert_int_eq(ops->run(x->compressor.self, &round), PSGD_OK);
	ops->settle(x->compressor.self, &round);
}

static void steps_are_equal(struct worker *a, struct worker *b)
{
	for (int n = 0; n < 3; n++) {
		step(a);
		step(b);
		for (int i = 0; i < TENSORS; i++)
			ck_assert_mem_eq(a->grads[i].data, b->grads[i].data,
				(size_t)psgd_tensor_count(&tensors[i]) * sizeof(float));
	}
}

static void change(struct worker *x, uint32_t first, uint32_t second)
{
	const uint32_t ranks[TENSORS] = {first, second};

	ck_assert_int_eq(x->compressor.ops->set_ranks(x->compressor.self, ranks), PSGD_OK);
}

/* Grown, shrunk, and dense with something left behind: all kinds of state. */
static void some_steps(struct worker *x)
{
	step(x);
	change(x, 5, 2);
	step(x);
	step(x);
	change(x, 4, 0);
}

static psgd_status host_put(void *user, const struct psgd_state_array *array, const void *data)
{
	const struct psgd_state_writer *kept = user;

	ck_assert(!of_device(data));
	return kept->put(kept->user, array, data);
}

static psgd_status host_find(void *user, const char *name, struct psgd_state_array *out)
{
	const struct psgd_state_reader *kept = user;

	return kept->find(kept->user, name, out);
}

static psgd_status host_read(void *user, const char *name, void *to, size_t bytes)
{
	const struct psgd_state_reader *kept = user;

	ck_assert(!of_device(to));
	return kept->read(kept->user, name, to, bytes);
}

static psgd_status save(struct worker *x, struct psgd__kept *to)
{
	struct psgd_state_writer kept = psgd__kept_writer(to);
	struct psgd_state_writer writer = {host_put, &kept};

	return x->compressor.ops->save(x->compressor.self, &writer);
}

static psgd_status load(struct worker *x, struct psgd__kept *from)
{
	struct psgd_state_reader kept = psgd__kept_reader(from);
	struct psgd_state_reader reader = {host_find, host_read, &kept};

	return x->compressor.ops->load(x->compressor.self, &reader);
}

static void kept_equal(const struct psgd__kept *a, const struct psgd__kept *b)
{
	ck_assert_uint_eq(a->n, b->n);
	for (size_t i = 0; i < a->n; i++) {
		ck_assert_str_eq(a->arrays[i].array.name, b->arrays[i].array.name);
		ck_assert_uint_eq(a->arrays[i].bytes, b->arrays[i].bytes);
		ck_assert_mem_eq(a->arrays[i].data, b->arrays[i].data, a->arrays[i].bytes);
	}
}

/* A worker on the plain CPU has the same state, and a third one goes on from it; at once, too. */
START_TEST(state_by_way_of_the_host)
{
	struct psgd__kept plain_state = {0}, state = {0};
	struct worker plain, x, next;
	struct psgd_device cpu, device;

	ck_assert_int_eq(psgd_device_cpu(NULL, &cpu), PSGD_OK);
	device = make_strict(&cpu);
	worker_open(&x, &device, STREAM);
	worker_open(&plain, &cpu, NULL);
	if (_i) {
		some_steps(&x);
		some_steps(&plain);
	}
	ck_assert_int_eq(save(&x, &state), PSGD_OK);
	ck_assert_int_eq(save(&plain, &plain_state), PSGD_OK);
	kept_equal(&state, &plain_state);
	/* An error and a Q of both tensors. */
	ck_assert_int_eq(strict.transfers, _i ? 4 : 0);
	worker_open(&next, &device, STREAM);
	ck_assert_int_eq(load(&next, &state), PSGD_OK);
	ck_assert_int_eq(strict.transfers, _i ? 8 : 0);
	next.step = x.step;
	steps_are_equal(&next, &plain);
	ck_assert_int_ge(strict.waits, 3); /* two attached, one loaded */
	psgd__kept_free(&state);
	psgd__kept_free(&plain_state);
	worker_close(&next);
	worker_close(&x);
	worker_close(&plain);
	for (int i = 0; i < MOST_BLOCKS; i++)
		ck_assert_ptr_null(strict.blocks[i].at);
	psgd_device_destroy(&cpu);
}
END_TEST

/* Transfer _i + 1 fails: the call says so, and nothing has changed. */
START_TEST(a_transfer_that_fails)
{
	struct psgd__kept state = {0}, rest = {0};
	struct worker twin, x;
	struct psgd_device cpu, device;

	ck_assert_int_eq(psgd_device_cpu(NULL, &cpu), PSGD_OK);
	device = make_strict(&cpu);
	worker_open(&x, &device, STREAM);
	worker_open(&twin, &cpu, NULL);
	some_steps(&x);
	some_steps(&twin);
	ck_assert_int_eq(save(&x, &state), PSGD_OK);
	step(&x);
	step(&twin);
	strict.fail = strict.transfers + _i + 1;
	ck_assert_int_eq(save(&x, &rest), FAILED);
	strict.fail = strict.transfers + _i + 1;
	ck_assert_int_eq(load(&x, &state), FAILED);
	strict.fail = 0;
	steps_are_equal(&x, &twin);
	psgd__kept_free(&state);
	psgd__kept_free(&rest);
	worker_close(&x);
	worker_close(&twin);
	psgd_device_destroy(&cpu);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("streams");
	TCase *c = tcase_create("streams");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, state_by_way_of_the_host, 0, 2);
	tcase_add_loop_test(c, a_transfer_that_fails, 0, 3);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
