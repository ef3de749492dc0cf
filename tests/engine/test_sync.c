/* Sums in the middle of a step: right, alike on all workers, in their place, and counted apart. */
#include <math.h>
#include <string.h>

#include "engine/core.h"
#include "grads.h"
#include "support/suite.h"

#define STEPS 6
#define MOST 300

struct plan {
	bool syncs, broken[TEAM_MAX], seen_wrong;
	uint32_t flags;
	uint64_t seed;
	uint64_t hash[TEAM_MAX];
	struct psgd_report report[TEAM_MAX][STEPS];
	float sums[TEAM_MAX][STEPS][2][MOST];
	size_t values[STEPS]; /* of each of its sums */
	size_t seen_messages, seen_bytes;
	int64_t seen_exposed;
	const struct psgd_link *link; /* NULL: none */
};

static void fill(float *to, size_t n, uint64_t seed)
{
	struct rng rng = {seed};

	for (size_t i = 0; i < n; i++)
		to[i] = rng_float(&rng) * (i % 7 ? 1.0f : 1e6f);
}

static psgd_status sum_now(struct member *me, struct plan *p, int step, int which)
{
	float *values = p->sums[me->worker][step][which];

	fill(values, p->values[step], (uint64_t)(step * 20 + which * 10) + me->worker);
	return psgd_session_sync(me->session, values, p->values[step]);
}

/* A sum in forward, buckets, and one between the buckets. */
static psgd_status one_step(struct member *me, struct plan *p, struct grads *g, int step)
{
	float before = g->data[0][5];
	psgd_status status = PSGD_OK;

	if (p->syncs)
		status = sum_now(me, p, step, 0);
	if (status >= 0)
		status = grads_submit(me, g, 0, 3);
	if (status >= 0 && p->syncs)
		status = sum_now(me, p, step, 1);
	/* Without overlap the bucket still waits. */
	if (p->flags & PSGD_SESSION_NO_OVERLAP)
		p->broken[me->worker] |= g->data[0][5] != before;
	if (status >= 0)
		status = grads_submit(me, g, 3, TENSORS);
	p->report[me->worker][step] = PSGD_INIT(psgd_report);
	return status < 0
		       ? status
		       : psgd_session_finish_step(me->session, NULL, &p->report[me->worker][step]);
}

static psgd_status train(struct member *me, void *user)
{
	struct plan *p = user;
	psgd_status status = PSGD_OK;
	struct grads g;

	grads_init(&g);
	for (int step = 0; step < STEPS && status >= 0; step++) {
		grads_fill(&g, (uint64_t)step * 100 + me->worker);
		if ((uint32_t)step % 3 == me->worker)
			sleep_ns(MS);
		status = one_step(me, p, &g, step);
		p->hash[me->worker] = p->hash[me->worker] * 31 + grads_hash(&g);
	}
	grads_free(&g);
	return status;
}

static void run(struct plan *p, uint32_t n, const struct psgd_controller *controller)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct team_options o = grads_team(&powersgd);
	struct rng rng = {p->seed};
	struct team team;

	powersgd.rank = 2;
	session.flags = p->flags;
	session.controller = controller;
	o.session = &session;
	o.link = p->link;
	for (int step = 0; step < STEPS; step++)
		p->values[step] = rng_range(&rng, 1, MOST);
	team_run(&team, n, &o, train, p);
	for (uint32_t w = 0; w < n; w++) {
		ck_assert_msg(team.members[w].status == PSGD_OK, "%s", team.members[w].error);
		ck_assert_uint_eq(p->hash[w], p->hash[0]);
		ck_assert(!p->broken[w]);
	}
	ck_assert(!p->seen_wrong);
}

static void check_sums(const struct plan *p, uint32_t n, int step)
{
	float own[MOST];
	size_t count = p->values[step];

	for (int which = 0; which < 2; which++) {
		double want[MOST] = {0.0}, size[MOST] = {0.0};

		for (uint32_t w = 0; w < n; w++) {
			fill(own, count, (uint64_t)(step * 20 + which * 10) + w);
			for (size_t i = 0; i < count; i++) {
				want[i] += own[i];
				size[i] += fabs(own[i]);
			}
			ck_assert_mem_eq(p->sums[w][step][which], p->sums[0][step][which],
				count * sizeof(float));
		}
		for (size_t i = 0; i < count; i++)
			ck_assert_double_eq_tol(
				p->sums[0][step][which][i], want[i], 1e-6 * size[i]);
	}
}

/* The same gradients, payload and messages as without sums; their time and bytes on their own. */
START_TEST(sums_are_right_and_counted_apart)
{
	uint32_t n = (uint32_t)_i / 2 + 1, flags = _i % 2 ? PSGD_SESSION_NO_OVERLAP : 0;
	static struct plan with, without;

	with = (struct plan){.syncs = true, .flags = flags, .seed = (uint64_t)_i};
	without = (struct plan){.syncs = false, .flags = flags, .seed = (uint64_t)_i};
	run(&with, n, NULL);
	run(&without, n, NULL);
	ck_assert_uint_eq(with.hash[0], without.hash[0]);
	for (int step = 0; step < STEPS; step++) {
		check_sums(&with, n, step);
		for (uint32_t w = 0; w < n; w++) {
			const struct psgd_report *a = &with.report[w][step];
			const struct psgd_report *b = &without.report[w][step];

			ck_assert_int_eq(a->step_ns, a->compute_ns + a->exposed_encode_ns +
							     a->exposed_wire_ns +
							     a->exposed_decode_ns + a->sync_ns);
			ck_assert_int_ge(a->hidden_wire_ns, 0);
			ck_assert_int_gt(a->sync_ns, n == 1 ? -1 : 0);
			ck_assert_int_eq(b->sync_ns, 0);
			ck_assert_uint_eq(b->sync_bytes, 0);
			ck_assert_uint_eq(a->payload_bytes, b->payload_bytes);
			ck_assert_uint_eq(a->n_messages, b->n_messages);
			/* Two workers in a ring: each sends as much as there is. */
			if (n == 2)
				ck_assert_uint_eq(
					a->sync_bytes, 2 * with.values[step] * sizeof(float));
			if (n == 1)
				ck_assert_uint_eq(a->sync_bytes, 0);
			/* After the agreements of the first use of a size. */
			if (n == 2 && a->control_bytes == b->control_bytes)
				ck_assert_uint_eq(a->sent_bytes, b->sent_bytes + a->sync_bytes);
			ck_assert_uint_ge(a->sent_bytes, b->sent_bytes + a->sync_bytes);
		}
	}
}
END_TEST

static uint32_t watch_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch, (void)epoch_end;
	return PSGD_NEED_DECISION | PSGD_NEED_TIMING;
}

static psgd_status watch_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	struct plan *p = self;

	p->seen_messages += seen->n_messages;
	for (size_t i = 0; i < seen->n_messages; i++)
		p->seen_bytes += seen->messages[i].bytes;
	p->seen_exposed += seen->exposed_ns;
	if (seen->step_ns < seen->exposed_ns || seen->compute_ns < 0)
		p->seen_wrong = true;
	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] = 2;
	out->rank = 2;
	return PSGD_OK;
}

/* A fit of the link sees gradients only. */
START_TEST(controllers_do_not_see_sums)
{
	static const struct psgd_controller_ops ops = {
		.size = sizeof(ops), .name = "watch", .needs = watch_needs, .decide = watch_decide};
	static struct plan p;
	struct psgd_controller controller = {&ops, &p};
	int64_t exposed = 0, sync = 0;
	size_t bytes = 0;

	p = (struct plan){.syncs = true, .seed = 3};
	run(&p, 2, &controller);
	ck_assert_uint_eq(p.seen_messages, STEPS * p.report[0][0].n_messages);
	for (int step = 0; step < STEPS; step++) {
		bytes += p.report[0][step].payload_bytes;
		for (int w = 0; w < 2; w++)
			exposed += (p.report[w][step].step_ns - p.report[w][step].compute_ns -
					   p.report[w][step].sync_ns) /
				   2;
		for (int w = 0; w < 2; w++)
			sync += p.report[w][step].sync_ns / 2;
	}
	ck_assert_uint_eq(p.seen_bytes, bytes);
	/* What a sum waits for buckets is exposed. */
	ck_assert_int_ge(p.seen_exposed, exposed - 10 * STEPS);
	ck_assert_int_le(p.seen_exposed, exposed + sync + 10 * STEPS);
}
END_TEST

/*
 * Behind a slow link a trainer that computes nothing waits for buckets in its sums too: to a
 * controller all of that is exposed. The toy takes a sum's whole time for the trainer's.
 */
START_TEST(waits_behind_buckets_are_exposed)
{
	static const struct psgd_controller_ops ops = {
		.size = sizeof(ops), .name = "watch", .needs = watch_needs, .decide = watch_decide};
	static struct plan p;
	struct psgd_link link = {.size = sizeof(link), .delay_ns = 2000000};
	struct psgd_controller controller = {&ops, &p};
	int64_t least = 0;

	p = (struct plan){.syncs = true, .seed = 3, .link = &link};
	run(&p, 2, &controller);
	for (int step = 0; step < STEPS; step++) {
		const struct psgd_report *r = &p.report[0][step];

		/* Each message of a bucket takes two delays; nothing is computed meanwhile. */
		least += (int64_t)r->n_messages * 2 * link.delay_ns;
	}
	ck_assert_int_ge(p.seen_exposed, least);
}
END_TEST

/* Behind buckets is where one of them is on the wire, encoded or decoded, once. */
START_TEST(waits_are_counted_once)
{
	struct psgd__interval busy[] = {{25, 40, PSGD__DECODING}, {12, 18, PSGD__ON_WIRE},
		{5, 15, PSGD__ENCODING}, {60, 70, PSGD__ON_WIRE}, {13, 14, PSGD__ON_WIRE}};
	struct psgd__interval syncs[] = {{10, 30, PSGD__ON_WIRE}, {65, 90, PSGD__ON_WIRE}};
	struct psgd__record record = {
		.intervals = busy, .n_intervals = 5, .syncs = syncs, .n_syncs = 2};

	psgd__record_merge(&record);
	ck_assert_uint_eq(record.n_intervals, 3);
	ck_assert_int_eq(psgd__record_behind(&record, INT64_MAX), 8 + 5 + 5);
	ck_assert_int_eq(psgd__record_behind(&record, 26), 8 + 1);
	ck_assert_int_eq(psgd__record_behind(&record, 10), 0);
}
END_TEST

static psgd_status differ(struct member *me, void *user)
{
	float values[4] = {1, 2, 3, 4};
	psgd_status status;

	(void)user;
	status = psgd_session_sync(me->session, values, 2);
	if (status < 0 || values[1] != 6.0f)
		return PSGD_ERR_INTERNAL;
	return psgd_session_sync(me->session, values, 2 + me->worker);
}

START_TEST(another_size_is_named)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	team_run(&team, 3, &o, differ, NULL);
	/* Worker 0 has agreed on its size before: a transport tells the messages apart then. */
	for (uint32_t w = 0; w < 3; w++)
		ck_assert_msg(team.members[w].status < 0, "worker %u", w);
}
END_TEST

static psgd_status differ_at_once(struct member *me, void *user)
{
	float values[4] = {1, 2, 3, 4};

	(void)user;
	return psgd_session_sync(me->session, values, 2 + me->worker / 2);
}

START_TEST(a_first_sum_of_another_size_is_named)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	team_run(&team, 3, &o, differ_at_once, NULL);
	for (uint32_t w = 0; w < 3; w++) {
		ck_assert_int_eq(team.members[w].status, PSGD_ERR_MISMATCH);
		ck_assert_str_eq(team.members[w].error,
			"a sum within a step differs on worker 2: worker 0 sends 2 values, worker "
			"2 3");
	}
}
END_TEST

#define SIZES 6000 /* of sums, all different: agreements that are made only once */

/* The values of the state's array of agreements; -1: it has none. */
static int64_t agreements_of(psgd_session *session)
{
	struct psgd__kept kept = {.n = 0};
	struct psgd_state_writer writer = psgd__kept_writer(&kept);
	int64_t found = -1;

	if (psgd_session_save(session, &writer) != PSGD_OK)
		return -2;
	for (size_t i = 0; i < kept.n; i++) {
		if (!strcmp(kept.arrays[i].array.name, "session/agreed"))
			found = kept.arrays[i].array.dims[0];
	}
	psgd__kept_free(&kept);
	return found;
}

static psgd_status many_sizes(struct member *me, void *user)
{
	float *values = calloc(SIZES, sizeof(*values));
	psgd_status status = PSGD_OK;

	(void)user;
	for (size_t n = 1; n <= SIZES && status >= 0; n++) {
		values[0] = values[n - 1] = 1;
		status = psgd_session_sync(me->session, values, n);
		if (status >= 0 && values[n - 1] != 2)
			status = PSGD_ERR_INTERNAL;
		values[n - 1] = 0;
		if (status >= 0 && n % 100 == 0)
			status = psgd_session_finish_step(me->session, NULL, NULL);
	}
	free(values);
	if (status >= 0 && !(agreements_of(me->session) > 0 && agreements_of(me->session) < 4200))
		status = PSGD_ERR_INTERNAL;
	return status;
}

/* What was agreed on long ago does not make a session's state grow. */
START_TEST(old_agreements_are_forgotten)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	team_run(&team, 2, &o, many_sizes, NULL);
	for (uint32_t w = 0; w < 2; w++)
		ck_assert_msg(team.members[w].status == PSGD_OK, "%s", team.members[w].error);
}
END_TEST

START_TEST(misuse)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	psgd_session *session;
	float value = 1.0f;

	o.n_workers = 2;
	ck_assert_int_eq(psgd_session_open(grads_tensors, TENSORS, &o, &session), PSGD_OK);
	ck_assert_int_eq(psgd_session_sync(session, &value, 1), PSGD_ERR_STATE);
	ck_assert_int_eq(psgd_session_sync(session, NULL, 1), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_sync(session, &value, 0), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_sync(session, &value, SIZE_MAX), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_session_sync(NULL, &value, 1), PSGD_ERR_INVALID);
	psgd_session_close(&session);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("sync");
	TCase *c = tcase_create("sync");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, sums_are_right_and_counted_apart, 0, 2 * TEAM_MAX);
	tcase_add_test(c, controllers_do_not_see_sums);
	tcase_add_test(c, waits_behind_buckets_are_exposed);
	tcase_add_test(c, waits_are_counted_once);
	tcase_add_test(c, another_size_is_named);
	tcase_add_test(c, a_first_sum_of_another_size_is_named);
	tcase_add_test(c, old_agreements_are_forgotten);
	tcase_add_test(c, misuse);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
