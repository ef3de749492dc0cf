/* Trials leave nothing behind: what a run does after one is bit for bit what it does without. */
#include <math.h>
#include <string.h>

#include "base/state.h"
#include "grads.h"
#include "support/group.h"
#include "support/suite.h"

#define STEPS 12
#define WORKERS 3

struct scene {
	uint64_t seed;
	uint32_t flags;
	uint64_t start_step;
	bool controlled;
	int trial_at;	     /* before this step; -1: none */
	bool wrong[WORKERS]; /* a trial step was not what it should be */
	uint64_t hash[WORKERS][STEPS], told[WORKERS][STEPS];
	uint64_t control_bytes[WORKERS], sent_bytes[WORKERS]; /* of step `place` */
	int place;
	struct psgd_memory before[WORKERS], after[WORKERS];
};

/* Ranks by the step, and a sum that it reads and starts anew. */
static uint32_t needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch, (void)epoch_end;
	return PSGD_NEED_DECISION | PSGD_NEED_GRAD_SUM | PSGD_NEED_GRAD_NORM | PSGD_NEED_LOCAL_SUM |
	       PSGD_NEED_LOCAL_NORMS | PSGD_NEED_ENTROPY;
}

static psgd_status decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	static const uint32_t list[] = {4, 1, 8, 0, 2};
	double *sum = self;

	out->rank = list[(seen->step + 1) % 5];
	for (size_t i = 0; i < seen->n_tensors; i++)
		ranks[i] = out->rank;
	if (!seen->first)
		*sum += seen->grad_sum_norm + seen->local_norms[0] + seen->entropy +
			(double)(seen->grad_sum_steps + seen->local_sum_steps);
	out->value = *sum;
	out->reset_grad_sum = seen->step % 4 == 3;
	return PSGD_OK;
}

static psgd_status step_once(
	struct member *me, struct grads *g, uint64_t step, uint64_t hash, struct psgd_report *r)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);

	info.epoch = step / 4;
	info.epoch_end = step % 4 == 3;
	info.param_hash = hash;
	*r = PSGD_INIT(psgd_report);
	return grads_step(me, g, &info, r);
}

/* r as each matrix has it: 64 x 48, 32 x 144 and 20 x 100 all carry up to 8. */
static uint64_t bytes_at(uint32_t r)
{
	uint64_t dense = 64 * 48 + 64 + 32 * 144 + 20 * 100 + 1;

	return 4 * (r ? r * (64 + 48 + 32 + 144 + 20 + 100) + 64 + 1 : dense);
}

static psgd_status try_ranks(struct member *me, struct scene *s, struct grads *g)
{
	static const uint32_t list[] = {4, 0, 1, 6, 1};
	psgd_status status = PSGD_OK;
	struct psgd_report report;

	for (uint32_t k = 0; k < 5 && status >= 0; k++) {
		status = psgd_session_trial(me->session, list[k]);
		for (uint64_t step = 0; step < k + 2u && status >= 0; step++) {
			grads_fill(g, 999 + step * 31 + me->worker + k);
			for (int i = 0; i < 64; i++)
				g->data[0][i] *= 1e20f;
			if (k == 3 && step == 1)
				g->data[2][0] = INFINITY;
			/* Parameters that differ are no matter here. */
			status = step_once(me, g, step, me->worker, &report);
			s->wrong[me->worker] |= report.payload_bytes != bytes_at(list[k]) ||
						report.decided || report.rank_max != list[k];
		}
	}
	return status < 0 ? status : psgd_session_trial(me->session, PSGD_TRIAL_END);
}

static psgd_status train(struct member *me, void *user)
{
	struct scene *s = user;
	psgd_status status = PSGD_OK;
	struct grads g;

	grads_init(&g);
	for (int step = 0; step < STEPS && status >= 0; step++) {
		struct psgd_report r;

		if (step == s->trial_at) {
			s->before[me->worker] = s->after[me->worker] = PSGD_INIT(psgd_memory);
			psgd_session_memory(me->session, &s->before[me->worker]);
			status = try_ranks(me, s, &g);
			psgd_session_memory(me->session, &s->after[me->worker]);
			if (status < 0)
				break;
		}
		grads_fill(&g, s->seed + (uint64_t)step * 100 + me->worker);
		status = step_once(me, &g, (uint64_t)step, 7, &r);
		if (step == s->place) {
			s->control_bytes[me->worker] = r.control_bytes;
			s->sent_bytes[me->worker] = r.sent_bytes;
		}
		s->hash[me->worker][step] = grads_hash(&g);
		s->told[me->worker][step] = r.step * 1000 + r.decided * 100 + r.rank_max * 10 +
					    r.n_messages + r.payload_bytes * 10000;
		if (r.decided && me->worker == 0) {
			uint64_t bits;

			memcpy(&bits, &r.decision.value, sizeof(bits));
			s->told[me->worker][step] ^= bits * 31;
			for (size_t i = 0; i < r.decision.n_ranks; i++)
				s->told[me->worker][step] ^= (uint64_t)r.decision.ranks[i]
							     << (4 * i);
		}
	}
	grads_free(&g);
	return status;
}

static void run(struct scene *s)
{
	static const struct psgd_controller_ops ops = {
		.size = sizeof(ops), .name = "by the step", .needs = needs, .decide = decide};
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct team_options o = grads_team(&powersgd);
	double sum = 0.0;
	struct psgd_controller controller = {&ops, &sum};
	struct team team;

	powersgd.rank = 2;
	powersgd.flags = s->flags;
	powersgd.start_step = s->start_step;
	session.flags = PSGD_SESSION_GRAD_SUM;
	session.check_every = 3;
	session.controller = s->controlled ? &controller : NULL;
	o.session = &session;
	team_run(&team, WORKERS, &o, train, s);
	for (uint32_t w = 0; w < WORKERS; w++)
		ck_assert_msg(team.members[w].status == PSGD_OK, "worker %u: %s, %s", w,
			psgd_status_name(team.members[w].status), team.members[w].error);
}

/* In the start phase, in the middle, before the first step; with and without a controller. */
START_TEST(nothing_stays)
{
	static struct scene with, without;
	static const int places[] = {0, 1, 4, 7, 11};

	with = (struct scene){.seed = (uint64_t)_i,
		.flags = (uint32_t)_i % 4,
		.controlled = _i / 4 % 2,
		.start_step = _i % 3 == 0 ? 5 : 0,
		.trial_at = places[_i % 5],
		.place = places[_i % 5]};
	without = with;
	without.trial_at = -1;
	run(&with);
	run(&without);
	for (uint32_t w = 0; w < WORKERS; w++) {
		ck_assert(!with.wrong[w]);
		for (int step = 0; step < STEPS; step++) {
			ck_assert_msg(with.hash[w][step] == without.hash[w][step],
				"worker %u, step %d: other gradients", w, step);
			ck_assert_msg(with.told[w][step] == without.told[w][step],
				"worker %u, step %d: another report", w, step);
		}
		/* What went before the trial is in the step after it; there ranks are agreed on. */
		if (!with.controlled && with.place) {
			ck_assert_uint_eq(with.control_bytes[w], without.control_bytes[w]);
			ck_assert_uint_eq(with.sent_bytes[w], without.sent_bytes[w]);
			ck_assert(without.control_bytes[w] || (with.place - 1) % 3);
		}
		ck_assert_uint_eq(with.before[w].state_bytes, with.after[w].state_bytes);
		ck_assert_uint_eq(with.before[w].observe_bytes, with.after[w].observe_bytes);
	}
}
END_TEST

/* A trial begins from the same state whatever was tried before it. */
static psgd_status same_again(struct member *me, void *user)
{
	static const uint32_t list[] = {2, 5, 2, 0, 2, 1, 2};
	uint64_t *hash = (uint64_t *)user + 8 * me->worker;
	psgd_status status = PSGD_OK;
	struct psgd_report r;
	struct grads g;

	grads_init(&g);
	for (int k = -2; k < 7 && status >= 0; k++) {
		if (k >= 0)
			status = psgd_session_trial(me->session, list[k]);
		for (uint64_t step = 0; step < 3 && status >= 0; step++) {
			grads_fill(&g, step * 10 + me->worker);
			status = step_once(me, &g, step, 7, &r);
		}
		if (k >= 0)
			hash[k] = grads_hash(&g);
	}
	grads_free(&g);
	return status;
}

START_TEST(every_trial_begins_alike)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct team_options o = grads_team(&powersgd);
	uint64_t hash[8 * WORKERS];
	struct team team;

	powersgd.rank = 3;
	team_run(&team, WORKERS, &o, same_again, hash);
	for (uint32_t w = 0; w < WORKERS; w++) {
		ck_assert_int_eq(team.members[w].status, PSGD_OK);
		for (int k = 0; k < 7; k += 2)
			ck_assert_uint_eq(hash[8 * w + (uint32_t)k], hash[0]);
		ck_assert_uint_ne(hash[1], hash[0]);
	}
}
END_TEST

static psgd_status put_nothing(void *user, const struct psgd_state_array *array, const void *data)
{
	(void)user, (void)array, (void)data;
	return PSGD_OK;
}

static psgd_status find_nothing(void *user, const char *name, struct psgd_state_array *out)
{
	(void)user, (void)name, (void)out;
	return PSGD_ERR_INVALID;
}

static psgd_status read_nothing(void *user, const char *name, void *to, size_t bytes)
{
	(void)user, (void)name, (void)to, (void)bytes;
	return PSGD_ERR_INVALID;
}

#define WANT(call, status)                                                                         \
	do {                                                                                       \
		if ((call) != (status))                                                            \
			return PSGD_ERR_INTERNAL;                                                  \
	} while (0)

static psgd_status misuse(struct member *me, void *user)
{
	const struct psgd_state_writer writer = {put_nothing, NULL};
	const struct psgd_state_reader reader = {find_nothing, read_nothing, NULL};
	static const uint32_t ranks[TENSORS] = {1, 1, 1, 1, 1};
	psgd_session *s = me->session;
	char text[128];
	struct grads g;
	psgd_status status;

	(void)user;
	grads_init(&g);
	WANT(psgd_session_trial(NULL, 1), PSGD_ERR_INVALID);
	WANT(psgd_session_trial(s, PSGD_TRIAL_END), PSGD_ERR_STATE);
	WANT(grads_submit(me, &g, 0, 1), PSGD_OK);
	WANT(psgd_session_trial(s, 1), PSGD_ERR_STATE);
	WANT(psgd_session_save(s, &writer), PSGD_ERR_STATE);
	WANT(psgd_session_load(s, &reader), PSGD_ERR_STATE);
	WANT(psgd_session_finish_step(s, NULL, NULL), PSGD_OK);
	/* Another rank on worker 1: all are told, and go on. */
	WANT(psgd_session_trial(s, me->worker == 1 ? 2 : 4), PSGD_ERR_MISMATCH);
	psgd_session_error(s, text, sizeof(text));
	WANT(strcmp(text, "the rank of a trial differs between workers"), 0);
	WANT(psgd_session_trial(s, 4), PSGD_OK);
	WANT(psgd_session_set_ranks(s, ranks, TENSORS), PSGD_ERR_STATE);
	WANT(psgd_session_save(s, &writer), PSGD_ERR_STATE);
	WANT(psgd_session_load(s, &reader), PSGD_ERR_STATE);
	WANT(grads_submit(me, &g, 0, 1), PSGD_OK);
	WANT(psgd_session_trial(s, PSGD_TRIAL_END), PSGD_ERR_STATE);
	WANT(psgd_session_finish_step(s, NULL, NULL), PSGD_OK);
	WANT(psgd_session_trial(s, PSGD_TRIAL_END), PSGD_OK);
	WANT(psgd_session_set_ranks(s, ranks, TENSORS), PSGD_OK);
	status = psgd_session_trial(s, 3);
	/* Closed with a trial on: nothing leaks. */
	grads_free(&g);
	return status;
}

START_TEST(misuse_is_told)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct team_options o = grads_team(&powersgd);
	struct team team;

	team_run(&team, WORKERS, &o, misuse, NULL);
	for (uint32_t w = 0; w < WORKERS; w++)
		ck_assert_msg(team.members[w].status == PSGD_OK, "%s: %s",
			psgd_status_name(team.members[w].status), team.members[w].error);
}
END_TEST

static psgd_status dense_only(struct member *me, void *user)
{
	(void)user;
	WANT(psgd_session_trial(me->session, 1), PSGD_ERR_UNSUPPORTED);
	WANT(psgd_session_trial(me->session, PSGD_TRIAL_END), PSGD_ERR_STATE);
	WANT(psgd_session_trial(me->session, 0), PSGD_OK);
	WANT(psgd_session_trial(me->session, 1), PSGD_ERR_UNSUPPORTED);
	return psgd_session_trial(me->session, PSGD_TRIAL_END);
}

START_TEST(a_compressor_without_ranks_is_dense)
{
	struct team_options o = grads_team(NULL);
	struct team team;

	team_run(&team, 2, &o, dense_only, NULL);
	for (uint32_t w = 0; w < 2; w++)
		ck_assert_int_eq(team.members[w].status, PSGD_OK);
}
END_TEST

/* PowerSGD that says nothing of its state. */
static psgd_status make_silent(void *user, struct psgd_compressor *out)
{
	static struct psgd_compressor_ops ops;
	psgd_status status = psgd_compressor_powersgd(user, out);

	ops = *out->ops;
	ops.save = NULL;
	ops.load = NULL;
	out->ops = &ops;
	return status;
}

static uint64_t step_bytes(struct group *group, struct grads *g)
{
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct psgd_grad list[TENSORS];
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket), *rows[1] = {&bucket};

	for (int i = 0; i < TENSORS; i++)
		list[i] = (struct psgd_grad){grads_tensors[i].id, g->data[i]};
	bucket.grads = list;
	bucket.n_grads = TENSORS;
	ck_assert_int_eq(group_step(group, rows, 1, NULL, &report), PSGD_OK);
	return report.payload_bytes;
}

/* A compressor with ranks and without a state has at least its ranks again. */
START_TEST(ranks_come_back_without_a_state)
{
	static const uint32_t three[TENSORS] = {3, 3, 3, 3, 3}, one[TENSORS] = {1, 1, 1, 1, 1};
	struct psgd__kept kept = {.n = 0};
	struct psgd_state_writer writer = psgd__kept_writer(&kept);
	struct psgd_state_reader reader = psgd__kept_reader(&kept);
	struct group group;
	psgd_session *s;
	struct grads g;

	grads_init(&g);
	group_open(&group, 1, grads_tensors, TENSORS, make_silent, NULL, NULL);
	s = group.session[0];
	ck_assert_int_eq(psgd_session_set_ranks(s, three, TENSORS), PSGD_OK);
	ck_assert_uint_eq(step_bytes(&group, &g), bytes_at(3));
	ck_assert_int_eq(psgd_session_trial(s, 1), PSGD_OK);
	ck_assert_uint_eq(step_bytes(&group, &g), bytes_at(1));
	ck_assert_int_eq(psgd_session_trial(s, PSGD_TRIAL_END), PSGD_OK);
	ck_assert_uint_eq(step_bytes(&group, &g), bytes_at(3));
	ck_assert_int_eq(psgd_session_save(s, &writer), PSGD_OK);
	ck_assert_int_eq(psgd_session_set_ranks(s, one, TENSORS), PSGD_OK);
	ck_assert_uint_eq(step_bytes(&group, &g), bytes_at(1));
	ck_assert_int_eq(psgd_session_load(s, &reader), PSGD_OK);
	ck_assert_uint_eq(psgd_session_rank(s, 10), 3);
	ck_assert_uint_eq(step_bytes(&group, &g), bytes_at(3));
	group_close(&group);
	psgd__kept_free(&kept);
	grads_free(&g);
}
END_TEST

static void count_log(void *user, enum psgd_log_level level, const char *text)
{
	(void)level, (void)text;
	++*(int *)user;
}

static psgd_status make_powersgd(void *user, struct psgd_compressor *out)
{
	return psgd_compressor_powersgd(user, out);
}

/* A candidate above a matrix is no news: the one line on it is the run's. */
START_TEST(trials_do_not_speak_of_large_ranks)
{
	static const uint32_t large[TENSORS] = {500, 500, 500, 500, 500};
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	struct group group;
	int lines = 0;

	o.log = count_log;
	o.log_user = &lines;
	o.log_level = PSGD_LOG_INFO;
	group_open(&group, 1, grads_tensors, TENSORS, make_powersgd, NULL, &o);
	ck_assert_int_eq(psgd_session_trial(group.session[0], 500), PSGD_OK);
	ck_assert_int_eq(psgd_session_trial(group.session[0], 600), PSGD_OK);
	ck_assert_int_eq(psgd_session_trial(group.session[0], PSGD_TRIAL_END), PSGD_OK);
	ck_assert_int_eq(lines, 0);
	ck_assert_int_eq(psgd_session_set_ranks(group.session[0], large, TENSORS), PSGD_OK);
	ck_assert_int_eq(lines, 1);
	group_close(&group);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("trial");
	TCase *c = tcase_create("trial");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, nothing_stays, 0, 12);
	tcase_add_test(c, every_trial_begins_alike);
	tcase_add_test(c, misuse_is_told);
	tcase_add_test(c, a_compressor_without_ranks_is_dense);
	tcase_add_test(c, ranks_come_back_without_a_state);
	tcase_add_test(c, trials_do_not_speak_of_large_ranks);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
