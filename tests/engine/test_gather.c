/* Rounds that are all-gathers, and other types than F32: by every transport, and by hand. */
#include <math.h>
#include <string.h>

#include "gather.h"
#include "grads.h"
#include "support/group.h"
#include "support/suite.h"
#include "transport/workers.h"

#define STEPS 4

/* What three buckets of grads_step send, one worker's: values 3136, 4608, 2001. */
#define PAYLOAD(values) (4 * (((values) + 1) / 2) + 8 * ((values) / 2 + 1) + LABEL)
#define ALL_PAYLOAD (PAYLOAD(3136) + PAYLOAD(4608) + PAYLOAD(2001))

static uint64_t seed_of(int step, uint32_t worker)
{
	return (uint64_t)step * 100 + worker;
}

/* The mean of all workers' gradients of a step. */
static bool is_mean(const struct grads *got, int step, uint32_t n)
{
	struct grads of[MAX_WORKERS];
	bool good = true;

	for (uint32_t w = 0; w < n; w++) {
		grads_init(&of[w]);
		grads_fill(&of[w], seed_of(step, w));
	}
	for (int t = 0; t < TENSORS; t++) {
		for (int64_t i = 0; i < psgd_tensor_count(&grads_tensors[t]); i++) {
			double sum = 0;

			for (uint32_t w = 0; w < n; w++)
				sum += (double)of[w].data[t][i];
			good = good && fabs(sum / n - (double)got->data[t][i]) < 1e-6;
		}
	}
	for (uint32_t w = 0; w < n; w++)
		grads_free(&of[w]);
	return good;
}

static void run_steps(struct worker *w)
{
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	const uint32_t n = w->transport.n_workers;
	struct psgd_compressor compressor;
	struct member me = {.worker = w->transport.worker};
	struct grads g;

	REQUIRE(gather_make(NULL, &compressor) == PSGD_OK);
	options.transport = &w->transport;
	options.compressor = &compressor;
	REQUIRE(psgd_session_open(grads_tensors, TENSORS, &options, &me.session) == PSGD_OK);
	grads_init(&g);
	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);

		grads_fill(&g, seed_of(step, me.worker));
		REQUIRE(grads_step(&me, &g, NULL, &report) == PSGD_OK);
		REQUIRE(is_mean(&g, step, n));
		REQUIRE(report.payload_bytes == ALL_PAYLOAD);
		REQUIRE(report.n_messages == 9);
		/* The first step has the agreements in it. */
		if (step && w->kind != GLOO && w->kind != SHAPED_GLOO)
			REQUIRE(fabs((double)report.sent_bytes -
					(double)(n - 1) * (2 * (3136 + 4608 + 2002) + 9) -
					2.0 * (n - 1) / n * 8 * (1569 + 2305 + 1001)) < 9);
	}
	REQUIRE(psgd_session_memory(me.session, &memory) == PSGD_OK);
	REQUIRE(memory.message_bytes >= 4 * (1568 + 2304 + 1001) * (n - 1));
	/* One that leaves takes the transport from under the others' last step. */
	meet(w, 1);
	psgd_session_close(&me.session);
	psgd_compressor_destroy(&compressor);
	grads_free(&g);
}

START_TEST(every_transport)
{
	static const uint32_t n_workers[] = {1, 2, 3, 5};
	const struct cluster c = {.kind = (enum kind)(_i / 4),
		.n = n_workers[_i % 4],
		.link = {.egress_bps = 2000000000, .delay_ns = 20000},
		.run = run_steps,
		.killed = -1};

	run_workers(&c);
}
END_TEST

/* Buckets of all workers in one thread. */
struct by_hand {
	struct group group;
	struct grads g[GROUP_MAX];
	struct psgd_grad grad[GROUP_MAX][TENSORS];
	struct psgd_bucket buckets[GROUP_MAX][TENSORS], *by_worker[GROUP_MAX];
};

static void by_hand_open(struct by_hand *h, uint32_t n)
{
	for (uint32_t w = 0; w < n; w++) {
		grads_init(&h->g[w]);
		h->by_worker[w] = h->buckets[w];
		for (int b = 0; b < TENSORS; b++) {
			h->grad[w][b] = (struct psgd_grad){grads_tensors[b].id, h->g[w].data[b]};
			h->buckets[w][b] = PSGD_INIT(psgd_bucket);
			h->buckets[w][b].grads = &h->grad[w][b];
			h->buckets[w][b].n_grads = 1;
		}
	}
}

static void by_hand_close(struct by_hand *h, uint32_t n)
{
	group_close(&h->group);
	for (uint32_t w = 0; w < n; w++)
		grads_free(&h->g[w]);
}

/* Exchanges hand all-gathers out like any other collective. */
START_TEST(by_exchange)
{
	const uint32_t n = (uint32_t)_i;
	struct by_hand h;

	group_open(&h.group, n, grads_tensors, TENSORS, gather_make, NULL, NULL);
	by_hand_open(&h, n);
	for (int step = 0; step < STEPS; step++) {
		struct psgd_report report = PSGD_INIT(psgd_report);

		for (uint32_t w = 0; w < n; w++)
			grads_fill(&h.g[w], seed_of(step, w));
		ck_assert_int_eq(
			group_step(&h.group, h.by_worker, TENSORS, NULL, &report), PSGD_OK);
		for (uint32_t w = 0; w < n; w++)
			ck_assert(is_mean(&h.g[w], step, n));
		ck_assert_uint_eq(report.n_messages, 3 * TENSORS);
	}
	by_hand_close(&h, n);
}
END_TEST

/* A controller that only looks. */
struct watcher {
	struct psgd_cost_link link; /* that the messages went over */
	int n_seen, n_near;
};

/* Slow enough that a message's time is that of the link, and a byte's worth of burst. */
static const struct psgd_link watched_link = {
	.egress_bps = 100000000, .delay_ns = 1000000, .burst_bytes = 1};

static uint32_t watch_needs(void *self, uint64_t step, uint64_t epoch, bool epoch_end)
{
	(void)self, (void)step, (void)epoch, (void)epoch_end;
	return PSGD_NEED_DECISION | PSGD_NEED_TIMING;
}

static psgd_status watch_decide(
	void *self, const struct psgd_observation *seen, uint32_t *ranks, struct psgd_decision *out)
{
	static const uint32_t kinds[] = {PSGD_ALLGATHER, PSGD_ALLREDUCE_SUM, PSGD_ALLGATHER};
	static const uint32_t types[] = {PSGD_F32, PSGD_F64, PSGD_U8};
	struct watcher *watcher = self;

	(void)out;
	memset(ranks, 0, seen->n_tensors * sizeof(*ranks));
	for (size_t i = 0; i < seen->n_messages; i++) {
		const struct psgd_message_time *m = &seen->messages[i];
		struct psgd_plan plan = PSGD_INIT(psgd_plan);
		uint64_t bytes;
		double ns;

		REQUIRE(seen->plan(seen->plan_user, m->bucket, 1, &plan) == PSGD_OK);
		bytes = psgd_payload_bytes(&plan.round[m->round]);
		/* Zeros of the plan are written out. */
		REQUIRE(plan.round[m->round].kind == kinds[m->round]);
		REQUIRE(plan.round[m->round].dtype == types[m->round]);
		REQUIRE(m->kind == kinds[m->round]);
		REQUIRE(m->bytes == bytes * (m->round == 1 ? 1 : seen->n_workers));
		/* What the cost model says of a round is what the link took. */
		REQUIRE(psgd_cost_round(&watcher->link, &plan.round[m->round], &ns) == PSGD_OK);
		watcher->n_near += m->kind == PSGD_ALLGATHER && fabs((double)m->ns - ns) < 0.1 * ns;
		watcher->n_seen++;
	}
	return PSGD_OK;
}

static const struct psgd_controller_ops watch_ops = {
	.size = sizeof(watch_ops),
	.name = "watcher",
	.needs = watch_needs,
	.decide = watch_decide,
};

static void run_watched(struct worker *w)
{
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct watcher watcher = {.link = PSGD_INIT(psgd_cost_link)};
	struct psgd_link link = watched_link;
	struct psgd_controller controller = {&watch_ops, &watcher};
	struct psgd_compressor compressor;
	struct member me = {.worker = w->transport.worker};
	struct grads g;

	link.size = sizeof(link);
	REQUIRE(psgd_cost_link_of(&link, w->transport.n_workers, &watcher.link) == PSGD_OK);
	REQUIRE(gather_make(NULL, &compressor) == PSGD_OK);
	options.transport = &w->transport;
	options.compressor = &compressor;
	options.controller = &controller;
	REQUIRE(psgd_session_open(grads_tensors, TENSORS, &options, &me.session) == PSGD_OK);
	grads_init(&g);
	for (int step = 0; step < STEPS; step++)
		REQUIRE(grads_step(&me, &g, NULL, NULL) == PSGD_OK);
	meet(w, 1);
	psgd_session_close(&me.session);
	REQUIRE(watcher.n_seen == (me.worker ? 0 : STEPS * 9));
	/* None if all-gathers had another price; a busy machine makes many late. */
	REQUIRE(6 * watcher.n_near >= watcher.n_seen);
	psgd_compressor_destroy(&compressor);
	grads_free(&g);
}

START_TEST(controllers_see_kinds)
{
	const struct cluster c = {
		.kind = SHAPED, .n = 3, .link = watched_link, .run = run_watched, .killed = -1};

	run_workers(&c);
}
END_TEST

/* Equal counts, but one worker sums what the others gather: named before anything is sent. */
START_TEST(other_kinds_are_named)
{
	struct gather_options odd = {.sums = true};
	struct by_hand h;
	char text[512];

	group_open(&h.group, 3, grads_tensors, TENSORS, gather_make, NULL, NULL);
	psgd_session_close(&h.group.session[1]);
	psgd_compressor_destroy(&h.group.compressor[1]);
	ck_assert_int_eq(gather_make(&odd, &h.group.compressor[1]), PSGD_OK);
	struct psgd_session_options o = PSGD_INIT(psgd_session_options);
	o.compressor = &h.group.compressor[1];
	o.worker = 1;
	o.n_workers = 3;
	ck_assert_int_eq(
		psgd_session_open(grads_tensors, TENSORS, &o, &h.group.session[1]), PSGD_OK);
	by_hand_open(&h, 3);
	ck_assert_int_eq(group_step(&h.group, h.by_worker, 1, NULL, NULL), PSGD_ERR_MISMATCH);
	for (uint32_t w = 0; w < 3; w++) {
		psgd_session_error(h.group.session[w], text, sizeof(text));
		ck_assert_str_eq(text,
			"bucket 0 of step 0 differs on worker 1: worker 0 sends 1 tensors in 3076 "
			"values, worker 1 1 tensors in 3076 values, by other kinds of rounds");
	}
	by_hand_close(&h, 3);
}
END_TEST

/* Plans of a compressor from outside are checked, and the compressor is named. */
START_TEST(bad_plans_are_named)
{
	static const struct {
		struct gather_options options;
		psgd_status status;
		const char *words;
	} cases[] = {
		{{.n_rounds = PSGD_MAX_ROUNDS + 1}, PSGD_ERR_INVALID, "round 0 of 5"},
		{{.n_rounds = 4}, PSGD_ERR_INVALID, "round 3 of 4, kind 1, dtype 1, count 0"},
		{{.instead = {PSGD_BROADCAST, 0, 5}}, PSGD_ERR_INVALID, "round 0 of 3, kind 2"},
		{{.instead = {9, 0, 5}}, PSGD_ERR_INVALID, "kind 9"},
		{{.instead = {PSGD_ALLREDUCE_SUM, PSGD_U8, 5}}, PSGD_ERR_INVALID, "dtype 3"},
		{{.instead = {PSGD_ALLGATHER, 77, 5}}, PSGD_ERR_INVALID, "dtype 77"},
		{{.instead = {PSGD_ALLGATHER, 0, -5}}, PSGD_ERR_INVALID, "count -5"},
		{{.instead = {PSGD_ALLGATHER, PSGD_F64, INT64_MAX}}, PSGD_ERR_INVALID, "count 9"},
		/* All blocks together do not fit. */
		{{.instead = {PSGD_ALLGATHER, PSGD_U8, INT64_MAX}}, PSGD_ERR_NOMEM, "memory"},
	};
	struct by_hand h;
	char text[512];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct gather_options options = cases[i].options;

		group_open(&h.group, 2, grads_tensors, TENSORS, gather_make, &options, NULL);
		by_hand_open(&h, 2);
		ck_assert_int_eq(group_step(&h.group, h.by_worker, 1, NULL, NULL), cases[i].status);
		psgd_session_error(h.group.session[0], text, sizeof(text));
		ck_assert_msg(strstr(text, cases[i].words) != NULL, "%s", text);
		if (cases[i].status == PSGD_ERR_INVALID)
			ck_assert_ptr_nonnull(strstr(text, "compressor gather plans"));
		by_hand_close(&h, 2);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("gather");
	TCase *c = tcase_create("gather");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, every_transport, 0, 4 * KINDS);
	tcase_add_loop_test(c, by_exchange, 1, GROUP_MAX + 1);
	tcase_add_test(c, controllers_see_kinds);
	tcase_add_test(c, other_kinds_are_named);
	tcase_add_test(c, bad_plans_are_named);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
