/*
 * Sessions on the CUDA device: gradients that the trainer's stream makes late, the same means as on
 * the CPU, and every call of CUDA's made to fail in turn.
 */
#include <stdio.h>

#include "cuda/cuda.h"

#include <psgd/exchange.h>

#include "support/suite.h"

#define N 4
#define BUCKETS 2
#define STEPS 4

static const struct psgd_tensor tensors[N] = {
	{.id = 1, .dtype = PSGD_F32, .n_dims = 2, .dims = {24, 31}},
	{.id = 2, .dtype = PSGD_F32, .n_dims = 1, .dims = {17}},
	{.id = 3, .dtype = PSGD_F32, .n_dims = 4, .dims = {9, 4, 3, 3}},
	{.id = 4, .dtype = PSGD_F32, .n_dims = 2, .dims = {40, 12}},
};
static const int cuts[BUCKETS + 1] = {0, 3, N};

/* A trainer: gradients of the device, and where they come from. */
struct trainer {
	const struct psgd_device *device;
	psgd_stream stream;
	float *grad[N], *made[N];
	struct psgd_compressor compressor;
	psgd_session *session;
};

static size_t bytes_of(int i)
{
	return (size_t)psgd_tensor_count(&tensors[i]) * sizeof(float);
}

static psgd_status trainer_open(struct trainer *t, const struct psgd_device *device,
	const struct psgd_transport *transport, uint32_t worker, uint32_t n_workers)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	const struct psgd_device_ops *ops = device->ops;
	void *memory;

	memset(t, 0, sizeof(*t));
	t->device = device;
	if (ops->stream_create)
		PSGD__TRY(ops->stream_create(device->self, &t->stream));
	for (int i = 0; i < 2 * N; i++) {
		PSGD__TRY(ops->alloc(device->self, bytes_of(i % N), &memory));
		*(i < N ? &t->grad[i] : &t->made[i - N]) = memory;
	}
	powersgd.rank = 2;
	PSGD__TRY(psgd_compressor_powersgd(&powersgd, &t->compressor));
	o.device = device;
	o.compressor = &t->compressor;
	o.transport = transport;
	o.worker = worker;
	o.n_workers = n_workers;
	/* As a run's worker 0 has it. */
	if (!worker)
		o.flags = PSGD_SESSION_GRAD_NORM | PSGD_SESSION_GRAD_SUM;
	return psgd_session_open(tensors, N, &o, &t->session);
}

static void trainer_close(struct trainer *t)
{
	const struct psgd_device_ops *ops = t->device->ops;

	psgd_session_close(&t->session);
	psgd_compressor_destroy(&t->compressor);
	if (t->stream && ops->stream_finish(t->device->self, t->stream) < 0)
		ops->stream_finish(t->device->self, t->stream);
	for (int i = 0; i < N; i++) {
		ops->free(t->device->self, t->grad[i], bytes_of(i));
		ops->free(t->device->self, t->made[i], bytes_of(i));
	}
	if (t->stream)
		ops->stream_destroy(t->device->self, t->stream);
}

/* Brought to the device or from it; on the CPU a copy. */
static psgd_status move(struct trainer *t, float *to, const float *from, size_t bytes, bool up)
{
	const struct psgd_device_ops *ops = t->device->ops;

	if (!ops->upload)
		memcpy(to, from, bytes);
	else if (up)
		return ops->upload(t->device->self, to, from, bytes, t->stream);
	else
		return ops->download(t->device->self, to, from, bytes, t->stream);
	return PSGD_OK;
}

/* The trainer's stream has yet to make the gradients when this returns. */
static psgd_status make_gradients(struct trainer *t, uint64_t seed, bool spoil)
{
	struct rng rng = {seed};

	for (int i = 0; i < N; i++) {
		float *values = malloc(bytes_of(i));
		psgd_status status;

		for (size_t k = 0; k < bytes_of(i) / sizeof(float); k++)
			values[k] = rng_float(&rng);
		if (spoil && i == 0)
			values[3] = INFINITY;
		status = move(t, t->made[i], values, bytes_of(i), true);
		free(values);
		PSGD__TRY(status);
		PSGD__TRY(t->device->ops->copy(
			t->device->self, t->grad[i], t->made[i], bytes_of(i), t->stream));
	}
	return PSGD_OK;
}

static struct psgd_bucket bucket_of(struct trainer *t, int b, struct psgd_grad *list)
{
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);

	for (int i = cuts[b]; i < cuts[b + 1]; i++)
		list[bucket.n_grads++] = (struct psgd_grad){tensors[i].id, t->grad[i]};
	bucket.grads = list;
	return bucket;
}

/* ---- two workers by exchanges ---- */

struct pair {
	struct trainer t[2];
	psgd_exchange *x[2];
};

/* The sum of both, by way of the host unless it is there. */
static void add_up(struct pair *p, const struct psgd_collective *c)
{
	const size_t n = (size_t)c[0].count, bytes = n * psgd_dtype_bytes(c[0].dtype);
	float *values[2] = {malloc(bytes), malloc(bytes)};

	if (c[0].dtype == PSGD_F64) {
		for (size_t i = 0; i < n; i++)
			((double *)c[0].data)[i] += ((double *)c[1].data)[i];
		memcpy(c[1].data, c[0].data, bytes);
	} else {
		for (int w = 0; w < 2; w++) {
			struct trainer at = p->t[w];

			at.stream = c[w].stream;
			ck_assert_int_eq(move(&at, values[w], c[w].data, bytes, false), PSGD_OK);
		}
		for (size_t i = 0; i < n; i++)
			values[0][i] += values[1][i];
		for (int w = 0; w < 2; w++) {
			struct trainer at = p->t[w];

			at.stream = c[w].stream;
			ck_assert_int_eq(move(&at, c[w].data, values[0], bytes, true), PSGD_OK);
		}
	}
	free(values[0]);
	free(values[1]);
}

static void finish(struct pair *p)
{
	struct psgd_collective c[2];
	psgd_status status[2];

	do {
		for (int w = 0; w < 2; w++) {
			do
				status[w] = psgd_exchange_next(p->x[w], &c[w]);
			while (status[w] == PSGD_PENDING);
			ck_assert_int_ge(status[w], 0);
		}
		ck_assert_int_eq(status[0], status[1]);
		if (status[0] == PSGD_WANT_COLLECTIVE)
			add_up(p, c);
	} while (status[0] != PSGD_OK);
	for (int w = 0; w < 2; w++)
		psgd_exchange_end(&p->x[w]);
}

/* What came of it: all gradients of both, and what worker 0 reports. */
struct outcome {
	float *grads;
	double norms[STEPS], sum_norm;
	uint32_t n_nonfinite;
};

/* Steps with ranks that change, one of them not finite; the last ends an epoch. */
static void run_pair(const struct psgd_device *device, struct outcome *out)
{
	static const uint32_t ranks[STEPS][N] = {
		{2, 2, 2, 2}, {4, 0, 1, 3}, {0, 0, 5, 2}, {3, 3, 3, 3}};
	struct pair p;
	float *at = out->grads = malloc(STEPS * 2 * 2000 * sizeof(float));

	out->n_nonfinite = 0;
	for (uint32_t w = 0; w < 2; w++)
		ck_assert_int_eq(trainer_open(&p.t[w], device, NULL, w, 2), PSGD_OK);
	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);
		struct psgd_step_info info = PSGD_INIT(psgd_step_info);

		info.epoch_end = step + 1 == STEPS;
		for (uint32_t w = 0; w < 2; w++) {
			ck_assert_int_eq(
				psgd_session_set_ranks(p.t[w].session, ranks[step], N), PSGD_OK);
			ck_assert_int_eq(make_gradients(&p.t[w], (uint64_t)step * 2 + w + 1,
						 step == 2 && w == 1),
				PSGD_OK);
		}
		for (int b = 0; b < BUCKETS; b++) {
			for (int w = 0; w < 2; w++) {
				struct psgd_grad list[N];
				struct psgd_bucket bucket = bucket_of(&p.t[w], b, list);

				ck_assert_int_eq(psgd_exchange_begin(p.t[w].session, &bucket,
							 p.t[w].stream, &p.x[w]),
					PSGD_OK);
			}
			finish(&p);
		}
		for (int w = 0; w < 2; w++)
			ck_assert_int_eq(psgd_exchange_begin_finish(p.t[w].session, &info,
						 w ? NULL : &report, &p.x[w]),
				PSGD_OK);
		finish(&p);
		out->n_nonfinite += report.n_nonfinite;
		out->norms[step] = report.grad_norm;
		out->sum_norm = report.grad_sum_norm;
		for (int i = 0; i < 2 * N; i++) {
			ck_assert_int_eq(move(&p.t[i / N], at, p.t[i / N].grad[i % N],
						 bytes_of(i % N), false),
				PSGD_OK);
			at += bytes_of(i % N) / sizeof(float);
		}
	}
	for (int w = 0; w < 2; w++)
		trainer_close(&p.t[w]);
}

/* Projections are not the CPU's bits, so norms are only about the same. */
static bool same_norm(double got, double want, bool discarded)
{
	if (discarded)
		return isnan(got) && isnan(want);
	return want > 0 && fabs(got - want) <= 1e-4 * want;
}

START_TEST(means_are_the_cpus)
{
	struct psgd_device cpu, cuda;
	struct outcome on_cpu, on_cuda;
	const float *want, *got;
	size_t at = 0;

	take_order(_i);
	ck_assert_int_eq(psgd_device_cpu(NULL, &cpu), PSGD_OK);
	ck_assert_int_eq(open_cuda(&cuda, NULL, 0), PSGD_OK);
	run_pair(&cpu, &on_cpu);
	run_pair(&cuda, &on_cuda);
	want = on_cpu.grads;
	got = on_cuda.grads;
	ck_assert_uint_eq(on_cpu.n_nonfinite, 1);
	ck_assert_uint_eq(on_cuda.n_nonfinite, 1);
	for (int step = 0; step < STEPS; step++)
		ck_assert(same_norm(on_cuda.norms[step], on_cpu.norms[step], step == 2));
	ck_assert(same_norm(on_cuda.sum_norm, on_cpu.sum_norm, false));
	for (int k = 0; k < STEPS * 2 * N; k++) {
		double error = 0, norm = 0;
		bool lost = false;

		for (size_t i = 0; i < bytes_of(k % N) / sizeof(float); i++, at++) {
			double d = (double)got[at] - (double)want[at];

			lost |= !isnan(got[at]) != !isnan(want[at]);
			error += isnan(d) ? 0 : d * d;
			norm += isnan(d) ? 0 : (double)want[at] * (double)want[at];
		}
		ck_assert_msg(!lost && error <= 1e-8 * norm,
			"step %d, worker %d, tensor %d: %g of %g", k / (2 * N), k / N % 2, k % N,
			sqrt(error), sqrt(norm));
	}
	free(on_cpu.grads);
	free(on_cuda.grads);
	psgd_device_destroy(&cuda);
	psgd_device_destroy(&cpu);
	ck_assert_uint_eq(shim_leaks(), 0);
}
END_TEST

/* ---- one worker, whose progress thread is woken by the device ---- */

static psgd_status train(struct trainer *t, int64_t *rest)
{
	for (int step = 0; step < 3; step++) {
		struct psgd_report r = PSGD_INIT(psgd_report);

		PSGD__TRY(make_gradients(t, (uint64_t)step + 1, false));
		for (int b = 0; b < BUCKETS; b++) {
			struct psgd_grad list[N];
			struct psgd_bucket bucket = bucket_of(t, b, list);

			PSGD__TRY(psgd_session_submit(t->session, &bucket, t->stream, NULL));
		}
		PSGD__TRY(psgd_session_finish_step(t->session, NULL, &r));
		*rest = r.step_ns - r.compute_ns - r.exposed_encode_ns - r.exposed_wire_ns -
			r.exposed_decode_ns;
	}
	return PSGD_OK;
}

static psgd_status run_alone(const char **words)
{
	static char text[512];
	struct psgd_transport local;
	struct psgd_device cuda;
	struct trainer t = {.device = NULL};
	int64_t rest = 0;
	psgd_status status;

	text[0] = '\0';
	*words = text;
	ck_assert_int_eq(psgd_transport_local(1, 0, &local), PSGD_OK);
	status = open_cuda(&cuda, text, sizeof(text));
	if (status >= 0) {
		status = trainer_open(&t, &cuda, &local, 0, 1);
		if (status >= 0)
			status = train(&t, &rest);
		psgd_session_error(t.session, text, sizeof(text));
		/* What the trainer's own calls say is the device's to tell. */
		if (status < 0 && !text[0])
			cuda.ops->error(cuda.self, text, sizeof(text));
		trainer_close(&t);
		psgd_device_destroy(&cuda);
	}
	psgd_transport_destroy(&local);
	ck_assert_int_eq(rest, 0);
	return status;
}

/* Or the device is lost, whose host functions do not come then. */
START_TEST(every_call_may_fail)
{
	void (*const trouble)(uint64_t nth) = _i / 2 ? shim_lose : shim_fail;
	const uint64_t apart = CALLS_APART * (_i / 2 ? 3 : 1);
	const char *words;
	uint64_t k = 1, told = 0;

	take_order(_i % 2 * (ORDERS / 2));
	for (;; k += apart) {
		psgd_status status;
		bool reached;

		trouble(k);
		status = run_alone(&words);
		reached = shim_calls() >= k;
		trouble(0);
		ck_assert_msg(shim_leaks() == 0, "call %llu: something is left: %s, %s",
			(unsigned long long)k, psgd_status_name(status), words);
		ck_assert_msg(status >= 0 || status == PSGD_ERR_DEVICE ||
				      status == PSGD_ERR_NOMEM || status == PSGD_ERR_UNSUPPORTED,
			"call %llu: %s", (unsigned long long)k, psgd_status_name(status));
		ck_assert(status >= 0 || words[0]);
		if (!reached)
			break;
		told += status < 0;
	}
	ck_assert_uint_gt(told, k / 2 / apart);
	printf("# %d: %llu calls, %llu told\n", _i, (unsigned long long)k - 1,
		(unsigned long long)told);
	fflush(stdout);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cuda_session");
	TCase *c = tcase_create("cuda_session");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, means_are_the_cpus, 0, ORDERS);
	tcase_add_loop_test(c, every_call_may_fail, 0, 4);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
