/* What callers get wrong: each is refused with a status, and nothing has changed by it. */
#include <string.h>

#include <psgd/cost.h>

#include "grads.h"
#include "support/suite.h"

#define REFUSES(status, call) ck_assert_int_eq(call, PSGD_ERR_##status)

/* NULL where a pointer must be, in every exported function that takes one and returns a status. */
START_TEST(null_is_refused)
{
	struct psgd_transport inner = {NULL, NULL, 0, 1}, transport;
	struct psgd_cost_link link = PSGD_INIT(psgd_cost_link);
	struct psgd_link wire = PSGD_INIT(psgd_link);
	struct psgd_cost cost = PSGD_INIT(psgd_cost);
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	struct psgd_payload payload = {0, 0, 1};
	struct psgd_floor_matrix matrix = {NULL, NULL, 1, 1};
	struct psgd_cost_bucket bucket = {NULL, 0, 0, 0};
	struct psgd_tensor tensor = grads_tensors[0];
	struct psgd_device device;
	struct psgd_shaper shaper;
	int64_t n, m, ns[PSGD_FLOOR_PASSES] = {0};
	uint32_t rank = 0;
	double value = 0;
	char text[8] = "?";

	REFUSES(INVALID, psgd_tensor_matrix(NULL, &n, &m));
	REFUSES(INVALID, psgd_tensor_matrix(&tensor, NULL, &m));
	REFUSES(INVALID, psgd_tensor_matrix(&tensor, &n, NULL));
	ck_assert_int_eq(psgd_tensor_count(NULL), -1);
	ck_assert_uint_eq(psgd_payload_bytes(NULL), 0);
	REFUSES(INVALID, psgd_device_cpu(NULL, NULL));
	ck_assert_int_eq(psgd_device_cpu(NULL, &device), PSGD_OK);
	REFUSES(INVALID, psgd_device_floor(NULL, &matrix, 1, ns));
	REFUSES(INVALID, psgd_device_floor(&device, NULL, 1, ns));
	REFUSES(INVALID, psgd_device_floor(&device, &matrix, 1, NULL));
	REFUSES(INVALID, psgd_device_floor(&device, &matrix, 1, ns));
	psgd_device_destroy(&device);
	REFUSES(INVALID, psgd_device_floor(&device, &matrix, 1, ns));
	REFUSES(INVALID, psgd_compressor_dense(NULL));
	REFUSES(INVALID, psgd_compressor_powersgd(NULL, NULL));
	REFUSES(INVALID, psgd_controller_rank_control(NULL, NULL, 0, NULL));
	ck_assert_uint_eq(psgd_controller_candidates(NULL, NULL, 5), 0);
	REFUSES(UNSUPPORTED, psgd_controller_calibrate(NULL, NULL, 5));
	REFUSES(INVALID, psgd_cost_link_of(NULL, 2, &link));
	REFUSES(INVALID, psgd_cost_link_of(&wire, 2, NULL));
	REFUSES(INVALID, psgd_cost_link_of(&wire, 0, &link));
	REFUSES(INVALID, psgd_cost_round(NULL, &payload, &value));
	REFUSES(INVALID, psgd_cost_round(&link, NULL, &value));
	REFUSES(INVALID, psgd_cost_round(&link, &payload, NULL));
	REFUSES(INVALID, psgd_cost_predict(NULL, 1, 0, &link, &cost));
	REFUSES(INVALID, psgd_cost_predict(&bucket, 1, 0, &link, &cost));
	REFUSES(INVALID, psgd_cost_predict(&bucket, 1, 0, NULL, &cost));
	REFUSES(INVALID, psgd_cost_predict(&bucket, 1, 0, &link, NULL));
	REFUSES(INVALID, psgd_shaper_model(NULL, NULL));
	REFUSES(INVALID, psgd_transport_local(1, 0, NULL));
	REFUSES(INVALID, psgd_transport_local(0, 0, &transport));
	REFUSES(INVALID, psgd_transport_local(1, -1, &transport));
	REFUSES(INVALID, psgd_transport_gloo(NULL, NULL));
	REFUSES(INVALID, psgd_transport_gloo(NULL, &transport));
	ck_assert_int_eq(psgd_shaper_model(NULL, &shaper), PSGD_OK);
	REFUSES(INVALID, psgd_transport_shaped(NULL, &shaper, &transport));
	REFUSES(INVALID, psgd_transport_shaped(&inner, &shaper, &transport));
	REFUSES(INVALID, psgd_transport_shaped(&inner, NULL, NULL));
	psgd_shaper_destroy(&shaper);
	REFUSES(INVALID, psgd_session_begin_step(NULL));
	REFUSES(INVALID, psgd_session_submit(NULL, NULL, NULL, NULL));
	REFUSES(INVALID, psgd_session_wait(NULL, 1, 0));
	REFUSES(INVALID, psgd_session_finish_step(NULL, NULL, NULL));
	REFUSES(INVALID, psgd_session_broadcast(NULL, text, 1, 0));
	REFUSES(INVALID, psgd_session_sum(NULL, &value, 1));
	REFUSES(INVALID, psgd_session_agree(NULL, 1));
	REFUSES(INVALID, psgd_session_set_ranks(NULL, &rank, 1));
	REFUSES(INVALID, psgd_session_memory(NULL, &memory));
	ck_assert_uint_eq(psgd_session_rank(NULL, 1), 0);
	psgd_session_error(NULL, text, sizeof(text));
	psgd_session_abort(NULL);
	psgd_session_close(NULL);
	psgd_exchange_end(NULL);
	psgd_device_destroy(NULL);
	psgd_compressor_destroy(NULL);
	psgd_controller_destroy(NULL);
	psgd_shaper_destroy(NULL);
	psgd_transport_destroy(NULL);
}
END_TEST

START_TEST(null_in_an_open_session)
{
	struct psgd_transport transport;
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	float values[64 * 48] = {0};
	struct psgd_grad grad = {10, values};
	struct psgd_collective c;
	psgd_session *s, *bare;
	psgd_exchange *x = NULL;
	char text[8] = "?";

	ck_assert_int_eq(psgd_transport_local(1, 0, &transport), PSGD_OK);
	o.transport = &transport;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, NULL, &bare), PSGD_OK);
	bucket.n_grads = 1;
	REFUSES(INVALID, psgd_session_submit(s, &bucket, NULL, NULL));
	bucket.grads = &grad;
	REFUSES(INVALID, psgd_session_broadcast(s, NULL, 1, 0));
	REFUSES(INVALID, psgd_session_broadcast(s, text, 0, 0));
	REFUSES(INVALID, psgd_session_broadcast(s, text, SIZE_MAX, 0));
	REFUSES(INVALID, psgd_session_sum(s, NULL, 1));
	REFUSES(INVALID, psgd_session_sum(s, (double *)(void *)values, 0));
	REFUSES(INVALID, psgd_session_sum(s, (double *)(void *)values, SIZE_MAX));
	REFUSES(INVALID, psgd_session_set_ranks(s, NULL, TENSORS));
	REFUSES(INVALID, psgd_session_memory(s, NULL));
	REFUSES(INVALID, psgd_session_wait(s, 0, 0));
	psgd_session_error(s, NULL, 0);
	psgd_session_error(s, text, 0);
	ck_assert_str_eq(text, "?");
	REFUSES(INVALID, psgd_exchange_begin(NULL, &bucket, NULL, &x));
	REFUSES(INVALID, psgd_exchange_begin(bare, NULL, NULL, &x));
	REFUSES(INVALID, psgd_exchange_begin(bare, &bucket, NULL, NULL));
	REFUSES(INVALID, psgd_exchange_begin_finish(NULL, NULL, NULL, &x));
	REFUSES(INVALID, psgd_exchange_begin_finish(bare, NULL, NULL, NULL));
	REFUSES(INVALID, psgd_exchange_next(NULL, &c));
	ck_assert_ptr_null(x);
	psgd_exchange_end(&x);
	ck_assert_int_eq(psgd_exchange_begin(bare, &bucket, NULL, &x), PSGD_OK);
	REFUSES(INVALID, psgd_exchange_next(x, NULL));
	/* Nothing has changed: both still work. */
	while (psgd_exchange_next(x, &c) == PSGD_WANT_COLLECTIVE)
		;
	psgd_exchange_end(&x);
	ck_assert_int_eq(psgd_exchange_begin_finish(bare, NULL, NULL, &x), PSGD_OK);
	psgd_exchange_end(&x);
	ck_assert_int_eq(psgd_session_submit(s, &bucket, NULL, NULL), PSGD_OK);
	ck_assert_int_eq(psgd_session_finish_step(s, NULL, NULL), PSGD_OK);
	psgd_session_close(&bare);
	psgd_session_close(&s);
	psgd_transport_destroy(&transport);
}
END_TEST

/* A struct of another version: at its end are bytes that this library does not know. */
struct newer {
	union {
		size_t size;
		struct psgd_session_options session;
		struct psgd_powersgd_options powersgd;
		struct psgd_rank_control_options control;
		struct psgd_device_cpu_options cpu;
		struct psgd_link link;
		struct psgd_step_info info;
		struct psgd_bucket bucket;
	};
	unsigned char more[16];
};

/* One function over the options that it takes. */
struct taker {
	const char *name;
	size_t bytes;
	psgd_status (*take)(const void *options, psgd_session *s);
};

static psgd_status take_session(const void *options, psgd_session *s)
{
	psgd_status status = psgd_session_open(grads_tensors, TENSORS, options, &s);

	psgd_session_close(&s);
	return status;
}

static psgd_status take_powersgd(const void *options, psgd_session *s)
{
	struct psgd_compressor out = {(const void *)&s, &s};
	psgd_status status = psgd_compressor_powersgd(options, &out);

	if (status < 0 && (out.ops || out.self))
		return PSGD_ERR_INTERNAL;
	psgd_compressor_destroy(&out);
	return status;
}

static psgd_status take_control(const void *options, psgd_session *s)
{
	struct psgd_controller out = {(const void *)&s, &s};
	psgd_status status = psgd_controller_rank_control(options, NULL, 0, &out);

	if (status < 0 && (out.ops || out.self))
		return PSGD_ERR_INTERNAL;
	psgd_controller_destroy(&out);
	return status;
}

static psgd_status take_cpu(const void *options, psgd_session *s)
{
	struct psgd_device out = {(const void *)&s, &s};
	psgd_status status = psgd_device_cpu(options, &out);

	if (status < 0 && (out.ops || out.self))
		return PSGD_ERR_INTERNAL;
	psgd_device_destroy(&out);
	return status;
}

static psgd_status take_link(const void *options, psgd_session *s)
{
	struct psgd_shaper out = {(const void *)&s, &s};
	psgd_status status = psgd_shaper_model(options, &out);

	if (status < 0 && (out.ops || out.self))
		return PSGD_ERR_INTERNAL;
	psgd_shaper_destroy(&out);
	return status;
}

static psgd_status take_info(const void *options, psgd_session *s)
{
	return psgd_session_finish_step(s, options, NULL);
}

/* Zeros are no bucket, so a good one is INVALID too; but nothing may be read past `size`. */
static psgd_status take_bucket(const void *options, psgd_session *s)
{
	psgd_status status = psgd_session_submit(s, options, NULL, NULL);
	size_t size = *(const size_t *)options;

	return status == PSGD_ERR_INVALID && size >= sizeof(size_t) && size < 65536 ? PSGD_OK
										    : status;
}

/* Sizes that cannot be, older and newer versions. What was refused leaves the session as it was. */
START_TEST(sizes_are_checked)
{
	static const struct taker takers[] = {
		{"session", sizeof(struct psgd_session_options), take_session},
		{"powersgd", sizeof(struct psgd_powersgd_options), take_powersgd},
		{"rank_control", sizeof(struct psgd_rank_control_options), take_control},
		{"device_cpu", sizeof(struct psgd_device_cpu_options), take_cpu},
		{"link", sizeof(struct psgd_link), take_link},
		{"step_info", sizeof(struct psgd_step_info), take_info},
		{"bucket", sizeof(struct psgd_bucket), take_bucket},
	};
	static const size_t wrong[] = {0, 1, sizeof(size_t) - 1, 65537, SIZE_MAX};
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	const struct taker *t = &takers[_i];
	struct psgd_transport transport;
	struct newer newer;
	psgd_session *s;

	ck_assert_int_eq(psgd_transport_local(1, 0, &transport), PSGD_OK);
	o.transport = &transport;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		memset(&newer, 0, sizeof(newer));
		newer.size = wrong[i];
		ck_assert_msg(t->take(&newer, s) == PSGD_ERR_INVALID, "%s: size %zu: %s", t->name,
			wrong[i], psgd_status_name(t->take(&newer, s)));
	}
	/* On the heap, so that a sanitizer sees what is read past the end. */
	for (size_t size = sizeof(size_t); size <= t->bytes; size += sizeof(size_t)) {
		size_t *older = calloc(1, size);

		*older = size;
		ck_assert_msg(t->take(older, s) == PSGD_OK, "%s: size %zu", t->name, size);
		free(older);
	}
	memset(&newer, 0, sizeof(newer));
	newer.size = t->bytes + 8;
	ck_assert_int_eq(t->take(&newer, s), PSGD_OK);
	((unsigned char *)&newer)[t->bytes + 7] = 1;
	/* The rank control has a text for it, and one status for all that it refuses. */
	ck_assert_int_eq(t->take(&newer, s),
		t->take == take_control ? PSGD_ERR_INVALID : PSGD_ERR_UNSUPPORTED);
	ck_assert_int_eq(psgd_session_finish_step(s, NULL, NULL), PSGD_OK);
	psgd_session_close(&s);
	psgd_transport_destroy(&transport);
}
END_TEST

/* A report is filled as far as it goes, or refused; never left as it was with an OK. */
START_TEST(sizes_of_reports)
{
	static const size_t wrong[] = {0, 7, 65537, SIZE_MAX};
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_cost_link link = PSGD_INIT(psgd_cost_link);
	struct psgd_link wire = PSGD_INIT(psgd_link);
	struct psgd_plan plan = PSGD_INIT(psgd_plan);
	struct psgd_cost_bucket bucket = {&plan, 0, 0, 0};
	struct psgd_transport transport;
	struct {
		union {
			size_t size;
			struct psgd_report report;
		};
		uint64_t guard[4];
	} newer;
	psgd_session *s, *bare;
	psgd_exchange *x;

	plan.n_rounds = 1;
	plan.round[0].count = 1;
	ck_assert_int_eq(psgd_transport_local(1, 0, &transport), PSGD_OK);
	o.transport = &transport;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, NULL, &bare), PSGD_OK);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct psgd_report report = {.size = wrong[i]};
		struct psgd_memory memory = {.size = wrong[i]};
		struct psgd_cost cost = {.size = wrong[i]};
		struct psgd_cost_link out = {.size = wrong[i]};

		REFUSES(INVALID, psgd_session_finish_step(s, NULL, &report));
		REFUSES(INVALID, psgd_exchange_begin_finish(bare, NULL, &report, &x));
		REFUSES(INVALID, psgd_session_memory(s, &memory));
		REFUSES(INVALID, psgd_cost_predict(&bucket, 1, 0, &link, &cost));
		REFUSES(INVALID, psgd_cost_link_of(&wire, 2, &out));
		ck_assert_uint_eq(report.size, wrong[i]);
	}
	memset(&newer, 0x5a, sizeof(newer));
	newer.size = sizeof(newer);
	ck_assert_int_eq(psgd_session_finish_step(s, NULL, &newer.report), PSGD_OK);
	ck_assert_uint_eq(newer.size, sizeof(newer));
	ck_assert_uint_eq(newer.report.step, 0); /* what was refused has not ended the step */
	ck_assert_uint_eq(newer.guard[0], UINT64_C(0x5a5a5a5a5a5a5a5a));
	newer.size = offsetof(struct psgd_report, step_ns);
	newer.report.step_ns = 77;
	ck_assert_int_eq(psgd_session_finish_step(s, NULL, &newer.report), PSGD_OK);
	ck_assert_uint_eq(newer.report.step, 1);
	ck_assert_int_eq(newer.report.step_ns, 77);
	psgd_session_close(&bare);
	psgd_session_close(&s);
	psgd_transport_destroy(&transport);
}
END_TEST

START_TEST(bad_options_of_a_session)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_tensor huge[2] = {
		{.id = 1, .dtype = PSGD_F32, .n_dims = 1, .dims = {INT64_C(1) << 62}},
		{.id = 2, .dtype = PSGD_F32, .n_dims = 1, .dims = {INT64_C(1) << 62}}};
	struct psgd_compressor compressor, nothing = {NULL, NULL};
	struct psgd_device no_device = {NULL, NULL};
	struct psgd_transport no_transport = {NULL, NULL, 0, 1};
	psgd_session *s, *first;

	/* Sizes of buckets are sums of these, and must not overflow. */
	REFUSES(INVALID, psgd_session_open(huge, 2, NULL, &s));
	ck_assert_ptr_null(s);
	o.flags = 1u << 31;
	REFUSES(INVALID, psgd_session_open(grads_tensors, TENSORS, &o, &s));
	o = PSGD_INIT(psgd_session_options);
	o.timeout_ns = -1;
	REFUSES(INVALID, psgd_session_open(grads_tensors, TENSORS, &o, &s));
	o = PSGD_INIT(psgd_session_options);
	o.compressor = &nothing;
	REFUSES(INVALID, psgd_session_open(grads_tensors, TENSORS, &o, &s));
	o = PSGD_INIT(psgd_session_options);
	o.device = &no_device;
	REFUSES(INVALID, psgd_session_open(grads_tensors, TENSORS, &o, &s));
	o = PSGD_INIT(psgd_session_options);
	o.transport = &no_transport;
	REFUSES(INVALID, psgd_session_open(grads_tensors, TENSORS, &o, &s));
	/* A compressor has one session at a time; refused, it still serves the first. */
	o = PSGD_INIT(psgd_session_options);
	for (int kind = 0; kind < 2; kind++) {
		ck_assert_int_eq(kind ? psgd_compressor_powersgd(NULL, &compressor)
				      : psgd_compressor_dense(&compressor),
			PSGD_OK);
		o.compressor = &compressor;
		ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &first), PSGD_OK);
		REFUSES(STATE, psgd_session_open(grads_tensors, TENSORS, &o, &s));
		ck_assert_uint_eq(psgd_session_rank(first, 10), (uint32_t)kind);
		psgd_session_close(&first);
		ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &first), PSGD_OK);
		psgd_session_close(&first);
		psgd_compressor_destroy(&compressor);
	}
}
END_TEST

/* A copy of the first `bytes` bytes of a table, at the end of its memory. */
static void *short_table(const void *ops, size_t bytes)
{
	size_t *copy = malloc(bytes);

	memcpy(copy, ops, bytes);
	*copy = bytes;
	return copy;
}

/* Tables that end before `destroy`, or before `error`: what is not there is not called. */
START_TEST(short_tables)
{
	struct psgd_transport local[2], transport, shaped;
	struct psgd_compressor dense, compressor;
	struct psgd_device cpu, device;
	struct psgd_shaper model, shaper;
	struct psgd_collective c = PSGD_INIT(psgd_collective);
	psgd_status status;
	void *request;
	float value = 1;

	ck_assert_int_eq(psgd_compressor_dense(&dense), PSGD_OK);
	compressor = (struct psgd_compressor){
		short_table(dense.ops, offsetof(struct psgd_compressor_ops, destroy)), dense.self};
	ck_assert_int_eq(psgd_device_cpu(NULL, &cpu), PSGD_OK);
	device = (struct psgd_device){
		short_table(cpu.ops, offsetof(struct psgd_device_ops, kernels)), cpu.self};
	ck_assert_int_eq(psgd_shaper_model(NULL, &model), PSGD_OK);
	shaper = (struct psgd_shaper){
		short_table(model.ops, offsetof(struct psgd_shaper_ops, destroy)), model.self};
	ck_assert_int_eq(psgd_transport_local(2, 50 * MS, local), PSGD_OK);
	transport = local[0];
	transport.ops = short_table(local[0].ops, offsetof(struct psgd_transport_ops, error));

	/* Through the decorator a failure has no words then, but it is one. */
	ck_assert_int_eq(psgd_transport_shaped(&transport, &shaper, &shaped), PSGD_OK);
	c.kind = PSGD_ALLREDUCE_SUM;
	c.dtype = PSGD_F32;
	c.count = 1;
	c.data = &value;
	ck_assert_int_eq(shaped.ops->post(shaped.self, &c, &request), PSGD_OK);
	do
		status = shaped.ops->test(shaped.self, request, 100 * MS, NULL);
	while (status == PSGD_PENDING);
	ck_assert_int_eq(status, PSGD_ERR_TIMEOUT);
	psgd_transport_destroy(&shaped);
	void *tables[] = {(void *)(uintptr_t)compressor.ops, (void *)(uintptr_t)device.ops,
		(void *)(uintptr_t)shaper.ops, (void *)(uintptr_t)transport.ops};

	psgd_compressor_destroy(&compressor);
	psgd_device_destroy(&device);
	psgd_shaper_destroy(&shaper);
	psgd_transport_destroy(&transport);
	ck_assert(!compressor.ops && !device.ops && !shaper.ops && !transport.ops);
	psgd_compressor_destroy(&dense);
	psgd_device_destroy(&cpu);
	psgd_shaper_destroy(&model);
	for (int w = 0; w < 2; w++)
		psgd_transport_destroy(&local[w]);
	for (int i = 0; i < 4; i++)
		free(tables[i]);
}
END_TEST

/* Calls out of order, in a session with a controller and in exchanges. */
START_TEST(wrong_order)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	struct psgd_report report = PSGD_INIT(psgd_report);
	float values[64 * 48] = {0};
	struct psgd_grad grad = {10, values};
	uint32_t ranks[TENSORS] = {0};
	struct psgd_compressor compressor;
	struct psgd_controller controller;
	struct psgd_collective c;
	psgd_exchange *x, *end;
	psgd_session *s;
	double one = 1;

	bucket.grads = &grad;
	bucket.n_grads = 1;
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &compressor), PSGD_OK);
	ck_assert_int_eq(psgd_controller_rank_control(NULL, NULL, 0, &controller), PSGD_OK);
	o.compressor = &compressor;
	o.controller = &controller;
	o.flags = PSGD_SESSION_GRAD_SUM;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	REFUSES(STATE, psgd_session_set_ranks(s, ranks, TENSORS)); /* the controller's */
	REFUSES(STATE, psgd_session_sum(s, &one, 1));		   /* no transport, so the next */
	REFUSES(STATE, psgd_session_agree(s, 1));
	REFUSES(STATE, psgd_session_broadcast(s, &one, 8, 0));
	REFUSES(STATE, psgd_session_finish_step(s, NULL, NULL));
	/* A step without buckets, though the first decision is not taken yet. */
	ck_assert_int_eq(psgd_exchange_begin_finish(s, NULL, &report, &end), PSGD_OK);
	while (psgd_exchange_next(end, &c) == PSGD_WANT_COLLECTIVE)
		;
	ck_assert_int_eq(psgd_exchange_next(end, &c), PSGD_OK);
	psgd_exchange_end(&end);
	ck_assert_int_eq(psgd_session_begin_step(s), PSGD_OK);
	ck_assert_int_eq(psgd_exchange_begin(s, &bucket, NULL, &x), PSGD_OK);
	REFUSES(STATE, psgd_session_begin_step(s));
	REFUSES(STATE, psgd_session_memory(s, &memory));
	REFUSES(STATE, psgd_exchange_begin_finish(s, NULL, NULL, &end)); /* x is not done */
	ck_assert_ptr_null(end);
	while (psgd_exchange_next(x, &c) == PSGD_WANT_COLLECTIVE)
		;
	ck_assert_int_eq(psgd_exchange_next(x, &c), PSGD_OK); /* done stays done */
	psgd_exchange_end(&x);
	ck_assert_int_eq(psgd_exchange_begin_finish(s, NULL, &report, &end), PSGD_OK);
	ck_assert_uint_eq(report.step, 1);
	psgd_exchange_end(&end);
	psgd_session_close(&s);

	/* Dense has no rank, so ranks cannot be set, nor a controller have it. */
	psgd_compressor_destroy(&compressor);
	ck_assert_int_eq(psgd_compressor_dense(&compressor), PSGD_OK);
	REFUSES(UNSUPPORTED, psgd_session_open(grads_tensors, TENSORS, &o, &s));
	o.controller = NULL;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	REFUSES(UNSUPPORTED, psgd_session_set_ranks(s, ranks, TENSORS));
	psgd_session_close(&s);

	/* Ranks change between steps only; and a session that has failed says so. */
	psgd_compressor_destroy(&compressor);
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &compressor), PSGD_OK);
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &s), PSGD_OK);
	ck_assert_int_eq(psgd_session_set_ranks(s, ranks, TENSORS), PSGD_OK);
	REFUSES(INVALID, psgd_session_set_ranks(s, ranks, TENSORS + 1));
	ck_assert_int_eq(psgd_exchange_begin(s, &bucket, NULL, &x), PSGD_OK);
	REFUSES(STATE, psgd_session_set_ranks(s, ranks, TENSORS));
	psgd_session_abort(s);
	REFUSES(FAILED, psgd_exchange_next(x, &c));
	REFUSES(FAILED, psgd_exchange_begin(s, &bucket, NULL, &end));
	psgd_exchange_end(&x);
	REFUSES(FAILED, psgd_exchange_begin_finish(s, NULL, NULL, &end));
	psgd_session_close(&s);
	psgd_compressor_destroy(&compressor);
	psgd_controller_destroy(&controller);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("misuse");
	TCase *c = tcase_create("misuse");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, null_is_refused);
	tcase_add_test(c, null_in_an_open_session);
	tcase_add_loop_test(c, sizes_are_checked, 0, 7);
	tcase_add_test(c, sizes_of_reports);
	tcase_add_test(c, bad_options_of_a_session);
	tcase_add_test(c, short_tables);
	tcase_add_test(c, wrong_order);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
