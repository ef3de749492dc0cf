/* Exact bytes, the criterion, the start phase, memory, and what a change of rank keeps. */
#include <math.h>
#include <string.h>

#include "compress/powersgd.h"
#include "support/group.h"
#include "support/oracle.h"
#include "support/random.h"
#include "support/resnet18.h"
#include "support/suite.h"

static psgd_status make_powersgd(void *user, struct psgd_compressor *out)
{
	return psgd_compressor_powersgd(user, out);
}

static struct psgd_tensor matrix(uint32_t id, int64_t n, int64_t m)
{
	return (struct psgd_tensor){.id = id, .dtype = PSGD_F32, .n_dims = 2, .dims = {n, m}};
}

static struct psgd_tensor vector(uint32_t id, int64_t n)
{
	return (struct psgd_tensor){.id = id, .dtype = PSGD_F32, .n_dims = 1, .dims = {n}};
}

/* The paper's table: 243, 136 and 72 times fewer bytes than dense at r = 1, 2, 4. */
START_TEST(resnet18_bytes)
{
	static const struct {
		uint32_t rank;
		int times;
	} paper[] = {{1, 243}, {2, 136}, {4, 72}};
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct psgd_tensor tensors[RESNET18_TENSORS];
	struct psgd_grad grads[2][RESNET18_TENSORS];
	struct psgd_bucket buckets[2][1];
	struct psgd_bucket *by_worker[2] = {buckets[0], buckets[1]};
	const size_t n = RESNET18_TENSORS;
	uint64_t dense = 0, sent;
	struct group g;

	resnet18_tensors(tensors);
	for (size_t i = 0; i < n; i++) {
		size_t count = (size_t)psgd_tensor_count(&tensors[i]);

		dense += 4 * count;
		for (int w = 0; w < 2; w++)
			grads[w][i] =
				(struct psgd_grad){tensors[i].id, calloc(count, sizeof(float))};
	}
	ck_assert_uint_eq(dense, 4 * RESNET18_VALUES);
	o.rank = paper[_i].rank;
	group_open(&g, 2, tensors, n, make_powersgd, &o, NULL);
	for (int w = 0; w < 2; w++) {
		buckets[w][0] = PSGD_INIT(psgd_bucket);
		buckets[w][0].grads = grads[w];
		buckets[w][0].n_grads = n;
	}
	/* The first step has the agreement of the workers in it. */
	ck_assert_int_eq(group_step(&g, by_worker, 1, NULL, NULL), PSGD_OK);
	sent = g.bytes;
	ck_assert_int_eq(group_step(&g, by_worker, 1, NULL, &report), PSGD_OK);
	sent = g.bytes - sent;
	ck_assert_uint_eq(report.payload_bytes, sent);
	ck_assert_uint_eq(report.raw_bytes, dense);
	ck_assert_int_eq((int)lround((double)dense / (double)sent), paper[_i].times);
	group_close(&g);
	for (size_t i = 0; i < n; i++)
		for (int w = 0; w < 2; w++)
			free(grads[w][i].data);
}
END_TEST

static struct psgd_plan plan_of(const struct psgd_tensor *t, size_t n, uint32_t rank, double ratio,
	uint64_t start, uint64_t step)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	struct psgd_scope scope = PSGD_INIT(psgd_scope);
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_plan plan, at;
	struct psgd_compressor c;
	struct psgd_device cpu;
	struct psgd_grad grads[8];

	o.rank = rank;
	o.min_ratio = ratio;
	o.start_step = start;
	for (size_t i = 0; i < n; i++)
		grads[i] = (struct psgd_grad){t[i].id, NULL};
	bucket.grads = grads;
	bucket.n_grads = n;
	ck_assert_int_eq(psgd_device_cpu(NULL, &cpu), PSGD_OK);
	scope.tensors = t;
	scope.n_tensors = n;
	scope.device = &cpu;
	scope.n_workers = 2;
	ck_assert_int_eq(psgd_compressor_powersgd(&o, &c), PSGD_OK);
	ck_assert_int_eq(c.ops->attach(c.self, &scope), PSGD_OK);
	ck_assert_int_eq(c.ops->plan(c.self, &bucket, step, &plan), PSGD_OK);
	ck_assert_int_eq(c.ops->plan_at(c.self, &bucket, rank, &at), PSGD_OK);
	if (step >= start)
		ck_assert_mem_eq(&plan, &at, sizeof(plan));
	c.ops->detach(c.self);
	psgd_compressor_destroy(&c);
	psgd_device_destroy(&cpu);
	return plan;
}

/*
 * The paper's language model: an embedding, three LSTM layers of 650, and their biases, here as one
 * vector: 310, 203 and 120 times fewer bytes.
 */
START_TEST(lstm_bytes)
{
	static const struct {
		uint32_t rank;
		int times;
	} paper[] = {{1, 310}, {2, 203}, {4, 120}};
	struct psgd_tensor tensors[8];
	struct psgd_plan plan;

	tensors[0] = matrix(0, 28869, 650);
	for (uint32_t i = 1; i < 7; i++)
		tensors[i] = matrix(i, 2600, 650);
	tensors[7] = vector(7, 6 * 2600 + 28869);
	plan = plan_of(tensors, 8, paper[_i].rank, 2.0, 0, 0);
	ck_assert_uint_eq(plan.raw_bytes, 4 * UINT64_C(28949319));
	ck_assert_int_eq(
		(int)lround((double)plan.raw_bytes / (double)(psgd_payload_bytes(&plan.round[0]) +
							      psgd_payload_bytes(&plan.round[1]))),
		paper[_i].times);
}
END_TEST

/* (n + m) * r * min_ratio < n * m, strictly, with r clamped to the shape. */
START_TEST(criterion_is_strict)
{
	struct psgd_tensor equal = matrix(1, 8, 8), above = matrix(1, 8, 9);
	struct psgd_tensor both[2] = {matrix(1, 8, 8), matrix(2, 40, 50)};
	struct psgd_tensor wide = matrix(1, 3, 1000), flat = vector(1, 4096);

	/* 16 * 2 * 2 = 64 = 8 * 8: dense. 17 * 2 * 2 = 68 < 72: compressed. */
	ck_assert_uint_eq(plan_of(&equal, 1, 2, 2.0, 0, 0).n_compressed, 0);
	ck_assert_uint_eq(plan_of(&equal, 1, 2, 2.0, 0, 0).n_rounds, 1);
	ck_assert_uint_eq(plan_of(&above, 1, 2, 2.0, 0, 0).n_compressed, 1);
	/* r = 7 is clamped to 3: 1003 * 3 * 1 is not below 3000; r = 2: 2006 is. */
	ck_assert_uint_eq(plan_of(&wide, 1, 7, 1.0, 0, 0).n_compressed, 0);
	ck_assert_uint_eq(plan_of(&wide, 1, 2, 1.0, 0, 0).n_compressed, 1);
	ck_assert_uint_eq(plan_of(&flat, 1, 1, 1.0, 0, 0).n_compressed, 0);
	/* One message: P of the second, then the first as it is. */
	struct psgd_plan plan = plan_of(both, 2, 3, 2.0, 0, 0);

	ck_assert_uint_eq(plan.n_rounds, 2);
	ck_assert_int_eq(plan.round[0].count, 40 * 3 + 64);
	ck_assert_int_eq(plan.round[1].count, 50 * 3);
	ck_assert_uint_eq(plan.raw_bytes, 4 * (64 + 2000));
}
END_TEST

/* More columns than can be rotated are not kept, and the criterion goes by those that are. */
START_TEST(most_columns)
{
	struct psgd_tensor large = matrix(1, 2100, 2100);

	ck_assert_int_eq(plan_of(&large, 1, 1024, 1.0, 0, 0).round[0].count, 2100 * 1024);
	ck_assert_int_eq(plan_of(&large, 1, 1025, 1.0, 0, 0).round[0].count, 2100 * 1024);
	ck_assert_int_eq(plan_of(&large, 1, UINT32_MAX - 1, 1.0, 0, 0).round[1].count, 2100 * 1024);
}
END_TEST

START_TEST(start_phase_is_dense)
{
	struct psgd_tensor t = matrix(1, 40, 50);

	ck_assert_int_eq(plan_of(&t, 1, 1, 2.0, 5, 4).round[0].count, 2000);
	ck_assert_int_eq(plan_of(&t, 1, 1, 2.0, 5, 5).round[0].count, 40);
}
END_TEST

/* A single worker whose state is looked at while its rank changes. */
struct lone {
	struct psgd_tensor tensor;
	struct group g;
	struct psgd_grad grad;
	struct psgd_bucket bucket;
	struct psgd_bucket *by_worker[1];
	struct psgd_powersgd_options o;
};

static void lone_open(struct lone *x, int64_t n, int64_t m, uint32_t rank)
{
	memset(x, 0, sizeof(*x));
	x->tensor = matrix(5, n, m);
	x->o = PSGD_INIT(psgd_powersgd_options);
	x->o.rank = rank;
	x->o.min_ratio = 1.0;
	group_open(&x->g, 1, &x->tensor, 1, make_powersgd, &x->o, NULL);
	x->grad = (struct psgd_grad){5, calloc((size_t)(n * m), sizeof(float))};
	x->bucket = PSGD_INIT(psgd_bucket);
	x->bucket.grads = &x->grad;
	x->bucket.n_grads = 1;
	x->by_worker[0] = &x->bucket;
}

static struct psgd__ps_tensor *lone_state(struct lone *x)
{
	return ((struct psgd__powersgd *)x->g.compressor[0].self)->tensors;
}

static void lone_close(struct lone *x)
{
	group_close(&x->g);
	free(x->grad.data);
}

static double dot(const float *a, const float *b, int64_t n)
{
	double sum = 0.0;

	for (int64_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

/* Gradient sum of `weights[k]` times random rank-one matrices: a known spectrum, nearly. */
static void lone_step(struct lone *x, struct rng *rng, const float *weights, int n_weights)
{
	int64_t n = x->tensor.dims[0], m = x->tensor.dims[1];

	for (int64_t k = 0; k < n * m; k++)
		x->grad.data[k] = 1e-4f * rng_float(rng);
	for (int w = 0; w < n_weights; w++)
		for (int64_t i = 0; i < n; i++)
			for (int64_t j = 0; j < m; j++)
				x->grad.data[i * m + j] += weights[w] *
							   sinf(0.7f * (float)((w + 1) * (i + 1))) *
							   cosf(0.3f * (float)((w + 2) * (j + 1)));
	ck_assert_int_eq(group_step(&x->g, x->by_worker, 1, NULL, NULL), PSGD_OK);
}

/* Shrinking keeps the error, the leading directions, and most of the energy. */
START_TEST(shrink_keeps_the_leading_energy)
{
	static const float weights[] = {1.0f, 8.0f, 0.5f, 4.0f, 0.25f, 2.0f};
	struct rng rng = {77};
	struct lone x;

	lone_open(&x, 50, 33, 6);
	for (int step = 0; step < 6; step++)
		lone_step(&x, &rng, weights, 6);
	struct psgd__ps_tensor *t = lone_state(&x);
	double total = dot(t->q, t->q, 33 * 6), kept, off = 0.0;
	uint64_t e = psgd__hash(PSGD__HASH_START, t->e, 50 * 33 * sizeof(float));
	uint32_t rank = 3;

	ck_assert_int_eq(psgd_session_set_ranks(x.g.session[0], &rank, 1), PSGD_OK);
	ck_assert_uint_eq(t->rank, 3);
	ck_assert_uint_eq(psgd_session_rank(x.g.session[0], 5), 3);
	ck_assert_uint_eq(psgd__hash(PSGD__HASH_START, t->e, 50 * 33 * sizeof(float)), e);
	kept = dot(t->q, t->q, 33 * 3);
	/* 8, 4 and 2 of the six weights: 84 of 85.3 parts. */
	ck_assert_double_gt(kept / total, 0.97);
	for (int a = 0; a < 3; a++) {
		for (int b = 0; b < a; b++)
			off = fmax(off, fabs(dot(t->q + 33 * a, t->q + 33 * b, 33)));
		if (a)
			ck_assert_double_ge(dot(t->q + 33 * (a - 1), t->q + 33 * (a - 1), 33),
				dot(t->q + 33 * a, t->q + 33 * a, 33));
	}
	ck_assert_double_lt(off / total, 1e-5);
	lone_close(&x);
}
END_TEST

/* Growing keeps the error and the old columns to the bit; the new ones are orthogonal to them. */
START_TEST(grow_appends_orthogonal_columns)
{
	static const float weights[] = {3.0f, 2.0f};
	struct rng rng = {78};
	float old[33 * 2];
	struct lone x;
	uint32_t rank = 5;

	lone_open(&x, 50, 33, 2);
	for (int step = 0; step < 4; step++)
		lone_step(&x, &rng, weights, 2);
	struct psgd__ps_tensor *t = lone_state(&x);
	uint64_t e = psgd__hash(PSGD__HASH_START, t->e, 50 * 33 * sizeof(float));

	memcpy(old, t->q, sizeof(old));
	ck_assert_int_eq(psgd_session_set_ranks(x.g.session[0], &rank, 1), PSGD_OK);
	ck_assert_mem_eq(t->q, old, sizeof(old));
	ck_assert_uint_eq(psgd__hash(PSGD__HASH_START, t->e, 50 * 33 * sizeof(float)), e);
	for (int c = 2; c < 5; c++) {
		double norm = sqrt(dot(t->q + 33 * c, t->q + 33 * c, 33));

		ck_assert_double_gt(norm, 0.0);
		for (int b = 0; b < c; b++) {
			double other = sqrt(dot(t->q + 33 * b, t->q + 33 * b, 33));

			ck_assert_double_lt(
				fabs(dot(t->q + 33 * b, t->q + 33 * c, 33)) / (norm * other), 1e-5);
		}
	}
	/* An immediate shrink gives the old span back. */
	rank = 2;
	ck_assert_int_eq(psgd_session_set_ranks(x.g.session[0], &rank, 1), PSGD_OK);
	ck_assert_double_eq_tol(dot(t->q, t->q, 66), dot(old, old, 66), 1e-4 * dot(old, old, 66));
	lone_close(&x);
}
END_TEST

/* State is the error (once the gradients) and Q; nothing grows when ranks go up and down. */
START_TEST(memory_is_bounded)
{
	struct psgd_memory first = PSGD_INIT(psgd_memory), last = PSGD_INIT(psgd_memory);
	static const float weights[] = {1.0f};
	struct rng rng = {79};
	struct lone x;
	uint32_t rank;

	lone_open(&x, 300, 200, 8);
	for (int step = 0; step < 20; step++) {
		lone_step(&x, &rng, weights, 1);
		rank = step % 2 ? 8 : 3;
		ck_assert_int_eq(psgd_session_set_ranks(x.g.session[0], &rank, 1), PSGD_OK);
		if (step == 3)
			ck_assert_int_eq(psgd_session_memory(x.g.session[0], &first), PSGD_OK);
	}
	ck_assert_int_eq(psgd_session_memory(x.g.session[0], &last), PSGD_OK);
	ck_assert_uint_eq(first.state_bytes, 4 * (300 * 200 + 200 * 8));
	ck_assert_uint_eq(last.state_bytes, first.state_bytes);
	ck_assert_uint_le(last.message_bytes, 4 * 2 * (500 * 8 + 32));
	lone_close(&x);
}
END_TEST

static void expect_invalid(double min_ratio, double eps, uint32_t flags)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);
	struct psgd_compressor c;

	o.min_ratio = min_ratio;
	o.eps = eps;
	o.flags = flags;
	ck_assert_int_eq(psgd_compressor_powersgd(&o, &c), PSGD_ERR_INVALID);
	ck_assert_ptr_null(c.ops);
	psgd_compressor_destroy(&c);
}

START_TEST(bad_options_are_refused)
{
	struct psgd_compressor c;

	expect_invalid(0.5, 0.0, 0);
	expect_invalid(NAN, 0.0, 0);
	expect_invalid(INFINITY, 0.0, 0);
	expect_invalid(2.0, -1.0, 0);
	expect_invalid(2.0, NAN, 0);
	expect_invalid(2.0, 0.0, 4);
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_compressor_dense(NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &c), PSGD_OK);
	psgd_compressor_destroy(&c);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("bytes");
	TCase *c = tcase_create("bytes");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, resnet18_bytes, 0, 3);
	tcase_add_loop_test(c, lstm_bytes, 0, 3);
	tcase_add_test(c, criterion_is_strict);
	tcase_add_test(c, most_columns);
	tcase_add_test(c, start_phase_is_dense);
	tcase_add_test(c, shrink_keeps_the_leading_energy);
	tcase_add_test(c, grow_appends_orthogonal_columns);
	tcase_add_test(c, memory_is_bounded);
	tcase_add_test(c, bad_options_are_refused);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
