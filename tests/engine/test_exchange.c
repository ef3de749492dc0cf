/* Trainers with collectives of their own: the same engine, driven by hand. */
#include <string.h>

#include "grads.h"
#include "support/group.h"
#include "support/suite.h"

static psgd_status make_powersgd(void *user, struct psgd_compressor *out)
{
	return psgd_compressor_powersgd(user, out);
}

/* Ranks of a schedule are in force from the first step of their epoch, alike on all workers. */
START_TEST(decisions_travel_with_exchanges)
{
	static const struct psgd_schedule_range ranges[] = {{1, 1, 4, 0}, {2, 2, 0, 0}};
	static const uint32_t want[] = {1, 1, 4, 4, 0, 0};
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_bucket buckets[GROUP_MAX][TENSORS], *by_worker[GROUP_MAX];
	struct psgd_grad grad[GROUP_MAX][TENSORS];
	struct psgd_controller controller;
	struct grads g[GROUP_MAX];
	struct group group;
	const uint32_t n = (uint32_t)_i;

	control.choice = PSGD_CHOICE_SCHEDULE;
	control.ranges = ranges;
	control.n_ranges = 2;
	ck_assert_int_eq(psgd_controller_rank_control(&control, NULL, 0, &controller), PSGD_OK);
	options.controller = &controller;
	group_open(&group, n, grads_tensors, TENSORS, make_powersgd, &powersgd, &options);
	for (uint32_t w = 0; w < n; w++) {
		grads_init(&g[w]);
		by_worker[w] = buckets[w];
		for (int b = 0; b < TENSORS; b++) {
			grad[w][b] = (struct psgd_grad){grads_tensors[b].id, g[w].data[b]};
			buckets[w][b] = PSGD_INIT(psgd_bucket);
			buckets[w][b].grads = &grad[w][b];
			buckets[w][b].n_grads = 1;
		}
	}
	for (int step = 0; step < 6; step++) {
		struct psgd_step_info info = PSGD_INIT(psgd_step_info);
		struct psgd_report report = PSGD_INIT(psgd_report);

		info.epoch = (uint64_t)step / 2;
		info.epoch_end = step % 2 == 1;
		for (uint32_t w = 0; w < n; w++)
			grads_fill(&g[w], (uint64_t)step * 10 + w);
		ck_assert_int_eq(group_step(&group, by_worker, TENSORS, &info, &report), PSGD_OK);
		ck_assert_uint_eq(report.rank_max, want[step]);
		ck_assert_uint_eq(report.n_buckets, TENSORS);
		ck_assert_int_eq(report.step_ns, report.compute_ns + report.exposed_encode_ns +
							 report.exposed_wire_ns +
							 report.exposed_decode_ns);
		ck_assert_int_gt(report.exposed_encode_ns, 0);
		for (uint32_t w = 1; w < n; w++)
			ck_assert_uint_eq(grads_hash(&g[w]), grads_hash(&g[0]));
	}
	group_close(&group);
	psgd_controller_destroy(&controller);
	for (uint32_t w = 0; w < n; w++)
		grads_free(&g[w]);
}
END_TEST

/* Nobody tells an exchange how long a collective took: a cap that needs it is refused. */
START_TEST(timing_needs_a_transport)
{
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_controller controller;
	struct psgd_compressor compressor;
	psgd_session *session;

	control.cap = PSGD_CAP_LIVE;
	ck_assert_int_eq(psgd_controller_rank_control(&control, NULL, 0, &controller), PSGD_OK);
	ck_assert_int_eq(psgd_compressor_powersgd(NULL, &compressor), PSGD_OK);
	options.compressor = &compressor;
	options.controller = &controller;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &options, &session),
		PSGD_ERR_UNSUPPORTED);
	psgd_compressor_destroy(&compressor);
	psgd_controller_destroy(&controller);
}
END_TEST

/* A table without an entry that must be there is refused, not called. */
START_TEST(short_tables_are_refused)
{
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_compressor compressor;
	struct psgd_compressor_ops ops;
	psgd_session *session;

	ck_assert_int_eq(psgd_compressor_dense(&compressor), PSGD_OK);
	ops = *compressor.ops;
	ops.detach = NULL;
	struct psgd_compressor lame = {&ops, compressor.self};

	options.compressor = &lame;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &options, &session),
		PSGD_ERR_UNSUPPORTED);
	ops = *compressor.ops;
	ops.size = offsetof(struct psgd_compressor_ops, run);
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &options, &session),
		PSGD_ERR_UNSUPPORTED);
	ops = *compressor.ops;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &options, &session), PSGD_OK);
	psgd_session_close(&session);
	psgd_compressor_destroy(&compressor);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("exchange");
	TCase *c = tcase_create("exchange");

	tcase_add_loop_test(c, decisions_travel_with_exchanges, 1, 5);
	tcase_add_test(c, timing_needs_a_transport);
	tcase_add_test(c, short_tables_are_refused);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
