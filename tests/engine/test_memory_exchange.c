/* Allocation k fails, for every k, in sessions without a transport: in one thread, so each in turn.
 */
#include <stdio.h>
#include <string.h>

#include "grads.h"
#include "support/fault.h"
#include "support/suite.h"

#define STEPS 3
#define BUCKETS 2
#define MAX_WORKERS 3
#define MAX_RUNS 3000

struct scene {
	uint32_t n, refused; /* calls that failed for memory, and succeeded the second time */
	bool broken;	     /* a failure that was not the session's, or was forgotten */
	struct psgd_device device;
	struct psgd_controller controller;
	struct psgd_compressor compressor[MAX_WORKERS];
	psgd_session *session[MAX_WORKERS];
	psgd_exchange *exchange[BUCKETS][MAX_WORKERS];
	struct grads grads[MAX_WORKERS];
};

#define TRY_TWICE(scene, call)                                                                     \
	do {                                                                                       \
		psgd_status once_ = (call);                                                        \
                                                                                                   \
		if (once_ == PSGD_ERR_NOMEM) {                                                     \
			once_ = (call);                                                            \
			(scene)->refused += once_ >= 0;                                            \
		}                                                                                  \
		if (once_ < 0)                                                                     \
			return once_;                                                              \
	} while (0)

static psgd_status open_all(struct scene *s)
{
	static const struct psgd_schedule_range range = {1, 2, 4, 0};
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	struct psgd_device_cpu_options cpu = PSGD_INIT(psgd_device_cpu_options);

	cpu.alloc = fault_alloc;
	cpu.free = fault_free;
	control.choice = PSGD_CHOICE_SCHEDULE;
	control.ranges = &range;
	control.n_ranges = 1;
	TRY_TWICE(s, psgd_device_cpu(&cpu, &s->device));
	TRY_TWICE(s, psgd_controller_rank_control(&control, NULL, 0, &s->controller));
	for (uint32_t w = 0; w < s->n; w++) {
		struct psgd_session_options o = PSGD_INIT(psgd_session_options);

		TRY_TWICE(s, psgd_compressor_powersgd(NULL, &s->compressor[w]));
		o.device = &s->device;
		o.compressor = &s->compressor[w];
		o.controller = &s->controller;
		o.worker = w;
		o.n_workers = s->n;
		o.check_every = 2;
		o.flags = PSGD_SESSION_GRAD_SUM;
		TRY_TWICE(s, psgd_session_open(grads_tensors, TENSORS, &o, &s->session[w]));
	}
	return PSGD_OK;
}

static void sum_all(const struct psgd_collective *c, uint32_t n)
{
	size_t bytes = (size_t)c[0].count * psgd_dtype_bytes(c[0].dtype);

	for (uint32_t w = 1; w < n; w++) {
		for (int64_t i = 0; c[0].kind == PSGD_ALLREDUCE_SUM && i < c[0].count; i++) {
			if (c[0].dtype == PSGD_F32)
				((float *)c[0].data)[i] += ((float *)c[w].data)[i];
			else
				((double *)c[0].data)[i] += ((double *)c[w].data)[i];
		}
	}
	for (uint32_t w = 1; w < n; w++)
		memcpy(c[w].data, c[0].data, bytes);
}

/* Until the exchange of every worker is done, or fails on one. */
static psgd_status finish_exchange(struct scene *s, psgd_exchange **x)
{
	struct psgd_collective c[MAX_WORKERS];
	psgd_status status = PSGD_WANT_COLLECTIVE;

	while (status == PSGD_WANT_COLLECTIVE) {
		for (uint32_t w = 0; w < s->n; w++) {
			status = psgd_exchange_next(x[w], &c[w]);
			if (status >= 0)
				continue;
			/* The session has failed, so the exchange does not go on. */
			s->broken |= psgd_exchange_next(x[w], &c[w]) != status;
			return status;
		}
		if (status == PSGD_WANT_COLLECTIVE)
			sum_all(c, s->n);
	}
	return status;
}

static void end_exchanges(struct scene *s)
{
	for (int b = 0; b < BUCKETS; b++)
		for (uint32_t w = 0; w < s->n; w++)
			psgd_exchange_end(&s->exchange[b][w]);
}

static psgd_status run_buckets(struct scene *s)
{
	static const int cuts[] = {0, 2, TENSORS};

	for (int b = 0; b < BUCKETS; b++) {
		for (uint32_t w = 0; w < s->n; w++) {
			struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
			struct psgd_grad list[TENSORS];

			for (int i = cuts[b]; i < cuts[b + 1]; i++)
				list[i - cuts[b]] = (struct psgd_grad){
					grads_tensors[i].id, s->grads[w].data[i]};
			bucket.grads = list;
			bucket.n_grads = (size_t)(cuts[b + 1] - cuts[b]);
			TRY_TWICE(s, psgd_exchange_begin(
					     s->session[w], &bucket, NULL, &s->exchange[b][w]));
		}
	}
	for (int b = 0; b < BUCKETS; b++) {
		psgd_status status = finish_exchange(s, s->exchange[b]);

		if (status < 0)
			return status;
	}
	return PSGD_OK;
}

static psgd_status run_steps(struct scene *s, uint64_t *hash)
{
	psgd_status status = PSGD_OK;

	for (uint64_t step = 0; step < STEPS && status >= 0; step++) {
		struct psgd_step_info info = PSGD_INIT(psgd_step_info);

		info.epoch = step;
		info.epoch_end = 1;
		for (uint32_t w = 0; w < s->n; w++)
			grads_fill(&s->grads[w], step * 10 + w);
		status = run_buckets(s);
		end_exchanges(s);
		for (uint32_t w = 0; w < s->n && status >= 0; w++) {
			status = psgd_exchange_begin_finish(
				s->session[w], &info, NULL, &s->exchange[0][w]);
			/* The step has ended, and cannot be ended again. */
			if (status < 0)
				s->broken |= psgd_exchange_begin_finish(s->session[w], &info, NULL,
						     &s->exchange[0][w]) != status;
		}
		if (status >= 0)
			status = finish_exchange(s, s->exchange[0]);
		end_exchanges(s);
		for (uint32_t w = 0; w < s->n; w++)
			*hash = *hash * 31 + grads_hash(&s->grads[w]);
	}
	return status;
}

static psgd_status run(struct scene *s, uint32_t n, long k, bool *fired, uint64_t *hash)
{
	psgd_status status;

	memset(s, 0, sizeof(*s));
	s->n = n;
	*hash = 0;
	for (uint32_t w = 0; w < n; w++)
		grads_init(&s->grads[w]);
	fault_arm(k);
	status = open_all(s);
	if (status >= 0)
		status = run_steps(s, hash);
	*fired = fault_disarm();
	for (uint32_t w = 0; w < n; w++) {
		psgd_session_close(&s->session[w]);
		psgd_compressor_destroy(&s->compressor[w]);
		grads_free(&s->grads[w]);
	}
	psgd_controller_destroy(&s->controller);
	psgd_device_destroy(&s->device);
	return status;
}

START_TEST(exchanges_survive_every_failure)
{
	struct scene scene;
	uint64_t clean, hash;
	bool fired;
	long count, k;

	ck_assert_int_eq(run(&scene, (uint32_t)_i, -1, &fired, &clean), PSGD_OK);
	count = fault_count();
	ck_assert_int_gt(count, 50);
	for (k = 0; k < count; k++) {
		psgd_status status = run(&scene, (uint32_t)_i, k, &fired, &hash);

		ck_assert_msg(fired, "allocation %ld is gone", k);
		ck_assert_msg(!scene.broken, "allocation %ld: the session goes on", k);
		ck_assert_int_eq(fault_device_blocks(), 0);
		/* Told, and the session has failed; or told, and called again with success. */
		if (status >= 0) {
			ck_assert_uint_eq(scene.refused, 1);
			ck_assert_uint_eq(hash, clean);
		} else {
			ck_assert_int_eq(status, PSGD_ERR_NOMEM);
			ck_assert_uint_eq(scene.refused, 0);
		}
	}
	for (size_t site = 0; site < fault_n_sites(); site++)
		ck_assert_msg(fault_has_failed(site), "%s never failed", fault_kind(site));
	printf("# %d workers: %ld allocations at %zu places\n", _i, count, fault_n_sites());
	fflush(stdout);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("memory_exchange");
	TCase *c = tcase_create("memory_exchange");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, exchanges_survive_every_failure, 1, MAX_WORKERS + 1);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
