/*
 * A session that was saved, ended and loaded goes on bit for bit as one that never stopped: at any
 * step, with ranks that wander, buckets that regroup, with and without error feedback and warm
 * start.
 */
#include <math.h>
#include <string.h>

#include "base/state.h"
#include "grads.h"
#include "support/group.h"
#include "support/suite.h"

#define STEPS 16
#define WORKERS 3
#define EPOCH 4

/* A controller whose state is all it decides by: another rank for each tensor, in many steps. */
struct wanderer {
	uint64_t state, decisions;
	double norm; /* of the last sum that it saw */
};

static uint32_t wander_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	uint32_t needs = PSGD_NEED_DECISION | PSGD_NEED_GRAD_SUM | PSGD_NEED_GRAD_NORM;

	(void)self, (void)epoch, (void)epoch_end;
	if (step % 3)
		needs |= PSGD_NEED_LOCAL_SUM | PSGD_NEED_ENTROPY;
	return needs | PSGD_NEED_LOCAL_NORMS;
}

static psgd_status wander_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	static const uint32_t list[] = {4, 1, 8, 0, 2};
	struct wanderer *w = self;
	struct rng rng = {w->state + (uint64_t)w->decisions++};

	if (!seen->first)
		w->norm += seen->grad_sum_norm + (isnan(seen->entropy) ? 0 : seen->entropy);
	if (seen->local_norms)
		w->norm += seen->local_norms[2] * (double)seen->local_sum_steps;
	memcpy(&w->state, &w->norm, sizeof(w->state));
	for (size_t i = 0; i < seen->n_tensors; i++) {
		ranks[i] = list[w->decisions % 3 ? rng_range(&rng, 0, 4) : w->decisions / 3 % 5];
		out->rank = ranks[i] > out->rank ? ranks[i] : out->rank;
	}
	out->regime = w->decisions % 2 ? "odd" : "even";
	out->value = w->norm;
	out->reset_grad_sum = w->decisions % 5 == 0;
	out->reset_local_sum = w->decisions % 7 == 0;
	return PSGD_OK;
}

static psgd_status wander_save(void *self, const struct psgd_state_writer *writer)
{
	return psgd__state_put(writer, "all", PSGD_U8, 1, sizeof(struct wanderer), self);
}

static psgd_status wander_load(void *self, const struct psgd_state_reader *reader)
{
	return psgd__state_get(reader, "all", PSGD_U8, sizeof(struct wanderer), self);
}

static const struct psgd_controller_ops wander_ops = {.size = sizeof(wander_ops),
	.name = "wanderer",
	.needs = wander_needs,
	.decide = wander_decide,
	.save = wander_save,
	.load = wander_load};

struct scene {
	uint64_t seed;
	uint32_t flags;					 /* of PowerSGD */
	const struct psgd_rank_control_options *control; /* NULL: the wanderer */
	int from, to, save_at;				 /* save_at: -1 never */
	struct psgd__kept kept[WORKERS];
	/* What the steps were, in bits. */
	uint64_t hash[WORKERS][STEPS];
	uint64_t told[WORKERS][STEPS];
};

static uint64_t mix(uint64_t hash, const void *data, size_t n)
{
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u;
	return hash;
}

/* All of a report that is no time. */
static uint64_t words_of(const struct psgd_report *r)
{
	const struct psgd_decision *d = &r->decision;
	uint64_t hash = 1469598103934665603u;
	uint64_t numbers[] = {r->step, r->raw_bytes, r->payload_bytes, r->n_messages, r->rank_min,
		r->rank_max, r->n_nonfinite, r->decided};

	hash = mix(hash, numbers, sizeof(numbers));
	hash = mix(hash, &r->grad_sum_norm, sizeof(double));
	if (!r->decided)
		return hash;
	hash = mix(hash, d->regime, strlen(d->regime));
	hash = mix(hash, &d->value, sizeof(double));
	hash = mix(hash, &d->step, sizeof(d->step));
	hash = mix(hash, &d->rank, sizeof(d->rank));
	hash = mix(hash, &d->changed, 3);
	ck_assert_uint_eq(d->n_ranks, TENSORS);
	return mix(hash, d->ranks, TENSORS * sizeof(uint32_t));
}

/* Where step cuts the tensors into buckets. */
static int cuts_of(const struct scene *s, int step, int *cuts)
{
	struct rng rng = {s->seed * 1000 + (uint64_t)step};
	int n = 0;

	cuts[0] = 0;
	while (cuts[n] < TENSORS) {
		cuts[n + 1] = cuts[n] + (int)rng_range(&rng, 1, (uint32_t)(TENSORS - cuts[n]));
		n++;
	}
	return n;
}

static void fill(const struct scene *s, struct grads *g, int step, uint32_t worker)
{
	grads_fill(g, s->seed + (uint64_t)step * 100 + worker);
	/* A step whose sums are not finite changes neither error nor Q. */
	if (step == 5 && worker == 1)
		g->data[2][7] = NAN;
}

static struct psgd_step_info info_of(int step)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);

	info.epoch = (uint64_t)step / EPOCH;
	info.epoch_end = step % EPOCH == EPOCH - 1;
	info.learning_rate = step < 8 ? 0.1 : 0.01;
	return info;
}

static psgd_status step_once(struct member *me, struct scene *s, struct grads *g, int step)
{
	struct psgd_report report = PSGD_INIT(psgd_report);
	struct psgd_step_info info = info_of(step);
	int cuts[TENSORS + 1], n = cuts_of(s, step, cuts);
	psgd_status status = PSGD_OK;

	fill(s, g, step, me->worker);
	for (int b = 0; b < n && status >= 0; b++)
		status = grads_submit(me, g, cuts[b], cuts[b + 1]);
	if (status >= 0)
		status = psgd_session_finish_step(me->session, &info, &report);
	s->hash[me->worker][step] = grads_hash(g);
	s->told[me->worker][step] = words_of(&report);
	return status;
}

static psgd_status train(struct member *me, void *user)
{
	struct scene *s = user;
	struct psgd_state_writer writer = psgd__kept_writer(&s->kept[me->worker]);
	struct psgd_state_reader reader = psgd__kept_reader(&s->kept[me->worker]);
	psgd_status status = PSGD_OK;
	struct grads g;

	grads_init(&g);
	if (s->from)
		status = psgd_session_load(me->session, &reader);
	for (int step = s->from; step < s->to && status >= 0; step++) {
		status = step_once(me, s, &g, step);
		if (status >= 0 && step + 1 == s->save_at)
			status = psgd_session_save(me->session, &writer);
	}
	grads_free(&g);
	return status;
}

static void run(struct scene *s, int from, int to, int save_at)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct wanderer wanderer = {.state = s->seed};
	struct psgd_controller controller = {&wander_ops, &wanderer};
	struct team_options o = grads_team(&powersgd);
	struct team team;

	s->from = from;
	s->to = to;
	s->save_at = save_at;
	powersgd.flags = s->flags;
	powersgd.rank = 2;
	powersgd.start_step = s->seed % 2 ? 3 : 0;
	session.flags = PSGD_SESSION_GRAD_SUM;
	o.session = &session;
	if (s->control)
		o.control = s->control;
	else
		session.controller = &controller;
	team_run(&team, WORKERS, &o, train, s);
	for (uint32_t w = 0; w < WORKERS; w++)
		ck_assert_msg(team.members[w].status == PSGD_OK, "worker %u: %s, %s", w,
			psgd_status_name(team.members[w].status), team.members[w].error);
}

static void forget(struct scene *s)
{
	for (uint32_t w = 0; w < WORKERS; w++)
		psgd__kept_free(&s->kept[w]);
}

/* Whole; with a save in the middle; and its end from the save, in new sessions. */
static void check_law(struct scene whole, int save_at)
{
	static struct scene first, rest;

	run(&whole, 0, STEPS, -1);
	first = rest = whole;
	run(&first, 0, STEPS, save_at);
	memcpy(rest.kept, first.kept, sizeof(rest.kept));
	memset(rest.hash, 0, sizeof(rest.hash));
	run(&rest, save_at, STEPS, -1);
	for (uint32_t w = 0; w < WORKERS; w++) {
		for (int step = 0; step < STEPS; step++) {
			ck_assert_uint_eq(first.hash[w][step], whole.hash[w][step]);
			ck_assert_uint_eq(first.told[w][step], whole.told[w][step]);
			if (step != 5)
				ck_assert_uint_eq(whole.hash[w][step], whole.hash[0][step]);
			if (step < save_at)
				continue;
			ck_assert_msg(rest.hash[w][step] == whole.hash[w][step],
				"worker %u, step %d, saved at %d: other gradients", w, step,
				save_at);
			ck_assert_msg(rest.told[w][step] == whole.told[w][step],
				"worker %u, step %d, saved at %d: another report", w, step,
				save_at);
		}
	}
	forget(&first);
}

START_TEST(goes_on_as_if_nothing_had_been)
{
	static struct scene scene;
	struct rng rng = {(uint64_t)_i};

	scene = (struct scene){.seed = (uint64_t)_i * 7 + 1, .flags = (uint32_t)_i % 4};
	check_law(scene, (int)rng_range(&rng, 1, STEPS - 1));
}
END_TEST

/* The controllers of the library. */
START_TEST(rank_controls_go_on)
{
	static const struct psgd_replay_entry replay[] = {
		{0, 4, 0}, {3, 1, 0}, {6, 8, 0}, {9, 0, 0}, {12, 2, 0}};
	static const struct psgd_schedule_range ranges[] = {{0, 1, 4, 0}, {2, 2, 0, 0}};
	struct psgd_epochnorm_options norm = PSGD_INIT(psgd_epochnorm_options);
	struct psgd_rank_control_options control = PSGD_INIT(psgd_rank_control_options);
	static struct scene scene;

	static const uint32_t choices[] = {
		PSGD_CHOICE_FIXED, PSGD_CHOICE_SCHEDULE, PSGD_CHOICE_REPLAY, PSGD_CHOICE_EPOCHNORM};

	control.choice = choices[_i];
	norm.force_max = 2;
	norm.stride = 3;
	norm.in_steps = 1;
	norm.threshold = 0.3;
	norm.rank_cooldown = norm.lr_cooldown = 2;
	control.epochnorm = _i == 3 ? &norm : NULL;
	control.max_rank = _i == 3 ? 8 : 0;
	control.fixed_rank = 4;
	control.ranges = _i == 1 ? ranges : NULL;
	control.n_ranges = _i == 1 ? 2 : 0;
	control.replay = _i == 2 ? replay : NULL;
	control.n_replay = _i == 2 ? 5 : 0;
	scene = (struct scene){.seed = 11, .control = &control};
	for (int save_at = 2; save_at < STEPS; save_at += 5)
		check_law(scene, save_at);
}
END_TEST

struct side {
	struct group group;
	struct wanderer wanderer;
	struct psgd_controller controller;
	struct grads grads[WORKERS];
};

static psgd_status make_powersgd(void *user, struct psgd_compressor *out)
{
	struct psgd_powersgd_options o = PSGD_INIT(psgd_powersgd_options);

	(void)user;
	o.rank = 3;
	return psgd_compressor_powersgd(&o, out);
}

static void open_side(struct side *side)
{
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);

	memset(side, 0, sizeof(*side));
	side->controller = (struct psgd_controller){&wander_ops, &side->wanderer};
	o.controller = &side->controller;
	group_open(&side->group, WORKERS, grads_tensors, TENSORS, make_powersgd, NULL, &o);
	for (int w = 0; w < WORKERS; w++)
		grads_init(&side->grads[w]);
}

static uint64_t group_once(struct side *side, const struct scene *s, int step)
{
	struct psgd_grad list[WORKERS][TENSORS];
	struct psgd_bucket buckets[WORKERS][TENSORS], *rows[WORKERS];
	struct psgd_step_info info = info_of(step);
	int cuts[TENSORS + 1], n = cuts_of(s, step, cuts);

	for (uint32_t w = 0; w < WORKERS; w++) {
		fill(s, &side->grads[w], step, w);
		for (int i = 0; i < TENSORS; i++)
			list[w][i] =
				(struct psgd_grad){grads_tensors[i].id, side->grads[w].data[i]};
		for (int b = 0; b < n; b++)
			buckets[w][b] = (struct psgd_bucket){sizeof(buckets[w][b]),
				&list[w][cuts[b]], (size_t)(cuts[b + 1] - cuts[b])};
		rows[w] = buckets[w];
	}
	ck_assert_int_eq(group_step(&side->group, rows, (size_t)n, &info, NULL), PSGD_OK);
	return grads_hash(&side->grads[0]) * 31 + grads_hash(&side->grads[2]);
}

static void close_side(struct side *side)
{
	group_close(&side->group);
	for (int w = 0; w < WORKERS; w++)
		grads_free(&side->grads[w]);
}

/* Sessions without a transport: what is not done yet stands in the way, and is not lost. */
START_TEST(exchanges_go_on)
{
	static struct scene s;
	static struct side a, b;
	struct psgd__kept kept[WORKERS] = {{.n = 0}};

	s = (struct scene){.seed = 5};
	open_side(&a);
	struct psgd_state_writer early = psgd__kept_writer(&kept[0]);
	ck_assert_int_eq(psgd_session_save(a.group.session[0], &early), PSGD_ERR_STATE);
	ck_assert_uint_eq(kept[0].n, 0);
	for (int step = 0; step < 7; step++)
		group_once(&a, &s, step);
	open_side(&b);
	for (uint32_t w = 0; w < WORKERS; w++) {
		struct psgd_state_writer writer = psgd__kept_writer(&kept[w]);
		struct psgd_state_reader reader = psgd__kept_reader(&kept[w]);

		ck_assert_int_eq(psgd_session_save(a.group.session[w], &writer), PSGD_OK);
		ck_assert_int_eq(psgd_session_load(b.group.session[w], &reader), PSGD_OK);
		psgd__kept_free(&kept[w]);
	}
	/* A trial on one of the sides makes no difference either. */
	for (uint32_t rank = 0; rank < 6; rank += 5) {
		for (uint32_t w = 0; w < WORKERS; w++)
			ck_assert_int_eq(psgd_session_trial(b.group.session[w], rank), PSGD_OK);
		group_once(&b, &s, 1);
		group_once(&b, &s, 2);
	}
	for (uint32_t w = 0; w < WORKERS; w++)
		ck_assert_int_eq(psgd_session_trial(b.group.session[w], PSGD_TRIAL_END), PSGD_OK);
	for (int step = 7; step < STEPS; step++)
		ck_assert_uint_eq(group_once(&a, &s, step), group_once(&b, &s, step));
	close_side(&a);
	close_side(&b);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("resume");
	TCase *c = tcase_create("resume");

	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, goes_on_as_if_nothing_had_been, 0, 12);
	tcase_add_loop_test(c, rank_controls_go_on, 0, 4);
	tcase_add_test(c, exchanges_go_on);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
