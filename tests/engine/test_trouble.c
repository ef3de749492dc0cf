/*
 * Workers that do not do the same, workers that never come, and calls from other threads. Each is
 * told to all, by name where that is possible, and nobody waits for ever.
 */
#include <stdio.h>
#include <string.h>

#include "crew.h"
#include "support/fault.h"
#include "support/suite.h"

#define SECONDS (INT64_C(1000) * MS)

/* ---- buckets that differ, used for the first time ---- */

enum difference { ORDER, OTHER_IDS, SHAPE, RANKS, COMPRESSOR, CUT, MISSING, N_DIFFERENCES };

/* A transport that counts what goes out for a bucket, other than the agreements in F64. */
struct tap {
	struct psgd_transport inner;
	int messages;
};

static psgd_status tap_post(void *self, const struct psgd_collective *c, void **request)
{
	struct tap *tap = self;

	tap->messages += c->dtype == PSGD_F32;
	return tap->inner.ops->post(tap->inner.self, c, request);
}

static psgd_status tap_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct tap *tap = self;

	return tap->inner.ops->test(tap->inner.self, request, timeout_ns, out);
}

static void tap_abort(void *self)
{
	struct tap *tap = self;

	tap->inner.ops->abort(tap->inner.self);
}

static const struct psgd_transport_ops tap_ops = {.size = sizeof(tap_ops),
	.name = "tap",
	.post = tap_post,
	.test = tap_test,
	.abort = tap_abort};

/* Four matrices of one size, and a vector as long. */
static const struct psgd_tensor same_size[] = {
	{.id = 1, .dtype = PSGD_F32, .n_dims = 2, .dims = {16, 64}},
	{.id = 2, .dtype = PSGD_F32, .n_dims = 2, .dims = {16, 64}},
	{.id = 3, .dtype = PSGD_F32, .n_dims = 2, .dims = {16, 64}},
	{.id = 4, .dtype = PSGD_F32, .n_dims = 1, .dims = {1024}},
};

struct odd_one {
	enum difference difference;
	uint32_t who;
	psgd_status failed[TEAM_MAX];
	int messages[TEAM_MAX];
	char error[TEAM_MAX][256];
};

static psgd_status submit_ids(psgd_session *s, const uint32_t *ids, size_t n, float (*values)[1024])
{
	struct psgd_bucket bucket = PSGD_INIT(psgd_bucket);
	struct psgd_grad grads[3];

	for (size_t i = 0; i < n; i++)
		grads[i] = (struct psgd_grad){ids[i], values[ids[i] - 1]};
	bucket.grads = grads;
	bucket.n_grads = n;
	return psgd_session_submit(s, &bucket, NULL, NULL);
}

static psgd_status submit_oddly(psgd_session *s, enum difference d, bool odd, float (*v)[1024])
{
	static const uint32_t usual[] = {1, 2}, turned[] = {2, 1}, others[] = {1, 3}, next[] = {4};
	psgd_status status;

	if (d == CUT && odd)
		status = submit_ids(s, usual, 1, v);
	else if (!(d == MISSING && odd))
		status = submit_ids(s,
			odd && d == ORDER	? turned
			: odd && d == OTHER_IDS ? others
						: usual,
			2, v);
	else
		status = PSGD_OK;
	if (status >= 0)
		status = submit_ids(s, next, 1, v);
	return status < 0 ? status : psgd_session_finish_step(s, NULL, NULL);
}

/* The worker's own session, as the team's cannot differ from worker to worker. */
static psgd_status be_odd(struct member *me, void *user)
{
	struct odd_one *o = user;
	bool odd = me->worker == o->who;
	struct psgd_session_options options = PSGD_INIT(psgd_session_options);
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_tensor tensors[4];
	struct psgd_compressor compressor = {NULL, NULL};
	struct tap tap = {me->local, 0};
	struct psgd_transport transport = {&tap_ops, &tap, me->local.worker, me->local.n_workers};
	float values[4][1024] = {{0}};
	psgd_session *s = NULL;
	psgd_status status = PSGD_OK;

	memcpy(tensors, same_size, sizeof(tensors));
	if (odd && o->difference == SHAPE) {
		tensors[1].dims[0] = 64;
		tensors[1].dims[1] = 16;
	}
	powersgd.rank = odd && o->difference == RANKS ? 3 : 2;
	if (!(odd && o->difference == COMPRESSOR))
		status = psgd_compressor_powersgd(&powersgd, &compressor);
	options.compressor = compressor.ops ? &compressor : NULL;
	options.transport = &transport;
	if (status >= 0)
		status = psgd_session_open(tensors, 4, &options, &s);
	if (status >= 0)
		status = submit_oddly(s, o->difference, odd, values);
	o->failed[me->worker] = status;
	o->messages[me->worker] = tap.messages;
	psgd_session_error(s, o->error[me->worker], sizeof(o->error[0]));
	psgd_session_close(&s);
	psgd_compressor_destroy(&compressor);
	return PSGD_OK;
}

/* Named on every worker in the same words, and nothing of the bucket has gone out. */
START_TEST(buckets_that_differ)
{
	struct team_options options = {.tensors = same_size, .n_tensors = 4};

	for (uint32_t n = 2; n <= 3; n++) {
		for (uint32_t who = 0; who < n; who += n - 1) {
			struct odd_one o = {.difference = (enum difference)_i, .who = who};
			char name[32];
			struct team team;

			/* All others differ from worker 0, when that is the odd one. */
			snprintf(name, sizeof(name), "differs on worker %u", who ? who : 1);
			team_run(&team, n, &options, be_odd, &o);
			for (uint32_t w = 0; w < n; w++) {
				ck_assert_msg(o.failed[w] == PSGD_ERR_MISMATCH,
					"difference %d, worker %u of %u: %s, %s", _i, w, n,
					psgd_status_name(o.failed[w]), o.error[w]);
				ck_assert_msg(strstr(o.error[w], name), "%s", o.error[w]);
				ck_assert_str_eq(o.error[w], o.error[0]);
				ck_assert_int_eq(o.messages[w], 0);
			}
		}
	}
}
END_TEST

/* ---- calls that wait are ended by an abort from another thread ---- */

enum waiting { WAIT, FINISH, SUM, BROADCAST, AGREE, MEMORY, N_WAITING };

struct waits {
	enum waiting what;
	psgd_status status[2];
	int64_t took_ns[2];
};

static void *abort_later(void *user)
{
	sleep_ns(30 * MS);
	psgd_session_abort(user);
	return NULL;
}

static psgd_status wait_somewhere(psgd_session *s, enum waiting what, psgd_ticket ticket)
{
	struct psgd_memory memory = PSGD_INIT(psgd_memory);
	double one = 1;

	switch (what) {
	case WAIT:
		return psgd_session_wait(s, ticket, INT64_MAX);
	case FINISH:
		return psgd_session_finish_step(s, NULL, NULL);
	case SUM:
		return psgd_session_sum(s, &one, 1);
	case BROADCAST:
		return psgd_session_broadcast(s, &one, sizeof(one), 1);
	case AGREE:
		return psgd_session_agree(s, 1);
	default:
		return psgd_session_memory(s, &memory);
	}
}

/* Worker 1 comes only when worker 0 has been aborted, and hears of it. */
static psgd_status be_aborted(struct member *me, void *user)
{
	struct waits *x = user;
	psgd_status status = PSGD_OK;
	bool in_step = x->what == WAIT || x->what == FINISH;
	int64_t start;
	pthread_t other;
	struct grads g;

	grads_init(&g);
	if (me->worker == 1)
		team_meet(me);
	start = now_ns();
	if (me->worker == 0)
		pthread_create(&other, NULL, abort_later, me->session);
	if (in_step)
		status = grads_submit(me, &g, 0, 2);
	/* With a hash to compare, the end of a step leaves a message that nobody waits for. */
	if (x->what == MEMORY)
		status = psgd_session_finish_step(me->session, NULL, NULL);
	if (status >= 0)
		status = wait_somewhere(me->session, x->what, 1);
	x->status[me->worker] = status;
	x->took_ns[me->worker] = now_ns() - start;
	if (me->worker == 0) {
		pthread_join(other, NULL);
		team_meet(me);
	}
	grads_free(&g);
	return PSGD_OK;
}

START_TEST(aborts_end_every_wait)
{
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct team_options o = grads_team(NULL);
	struct waits waits = {.what = (enum waiting)_i};
	struct team team;

	session.check_every = 1;
	o.session = &session;
	team_run(&team, 2, &o, be_aborted, &waits);
	ck_assert_int_eq(waits.status[0], PSGD_ERR_FAILED);
	ck_assert_str_eq(team.members[0].error, "the session was aborted");
	ck_assert_int_eq(waits.status[1], PSGD_ERR_PEER_LOST);
	ck_assert_ptr_nonnull(strstr(team.members[1].error, "worker 0"));
	for (int w = 0; w < 2; w++)
		ck_assert_int_lt(waits.took_ns[w], 10 * SECONDS);
}
END_TEST

/* ---- closing while work is in flight and the peer never posts ---- */

static psgd_status close_alone(struct member *me, void *user)
{
	psgd_status status = PSGD_OK;
	int64_t *took = user, start;
	struct grads g;

	grads_init(&g);
	if (me->worker == 0) {
		status = grads_submit(me, &g, 0, 1);
		if (status >= 0)
			status = grads_submit(me, &g, 1, 3);
		sleep_ns(20 * MS); /* until the first message is on its way */
		start = now_ns();
		psgd_session_close(&me->session);
		*took = now_ns() - start;
	}
	team_meet(me);
	grads_free(&g);
	return status;
}

START_TEST(close_without_the_peer)
{
	static const uint32_t flags[] = {0, PSGD_SESSION_NO_OVERLAP};
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct team_options o = grads_team(NULL);
	int64_t took = -1;
	struct team team;

	session.flags = flags[_i];
	o.session = &session;
	team_run(&team, 2, &o, close_alone, &took);
	ck_assert_int_ge(took, 0);
	ck_assert_int_lt(took, 5 * SECONDS);
	for (int w = 0; w < 2; w++)
		ck_assert_int_eq(team.members[w].status, PSGD_OK);
}
END_TEST

/* ---- sessions of one process do not know of each other ---- */

static void dress_in_one_device(void *user, uint32_t worker, struct psgd_session_options *options)
{
	(void)worker;
	options->device = user;
}

/* In every other round all of them compute on one device, whose threads serve who comes first. */
START_TEST(crews_side_by_side)
{
	static const struct crew_variant variants[] = {
		{"dense", .n_workers = 2},
		{"rank 2", .n_workers = 3, .powersgd = true, .rank = 2,
			.flags = PSGD_SESSION_GRAD_NORM},
		{"rank 7", .n_workers = 2, .powersgd = true, .rank = 7,
			.flags = PSGD_SESSION_NO_OVERLAP},
		{"controlled", .n_workers = 2, .powersgd = true, .controlled = true, .shaped = true,
			.rank = 1, .flags = PSGD_SESSION_GRAD_SUM},
	};
	enum { N = sizeof(variants) / sizeof(variants[0]) };
	static struct crew crews[N];
	struct psgd_device_cpu_options cpu = PSGD_INIT(psgd_device_cpu_options);
	struct psgd_device device;
	uint64_t alone[N];

	cpu.threads = 3;
	ck_assert_int_eq(psgd_device_cpu(&cpu, &device), PSGD_OK);

	for (int i = 0; i < N; i++) {
		crew_start(&crews[i], &variants[i]);
		crew_go(&crews[i]);
		crew_join(&crews[i]);
		alone[i] = crews[i].workers[0].hash;
		for (int k = 0; k < i; k++)
			ck_assert_uint_ne(alone[k], alone[i]);
	}
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < N; i++)
			crew_start(&crews[i], &variants[i]);
		for (int i = 0; i < N; i++) {
			crews[i].dress = round % 2 ? dress_in_one_device : NULL;
			crews[i].user = &device;
		}
		for (int i = 0; i < N; i++)
			crew_go(&crews[i]);
		for (int i = 0; i < N; i++)
			crew_join(&crews[i]);
		for (int i = 0; i < N; i++) {
			for (uint32_t w = 0; w < variants[i].n_workers; w++) {
				const struct crew_worker *x = &crews[i].workers[w];

				ck_assert_msg(x->status == PSGD_OK, "%s: %s: %s", variants[i].name,
					x->where, x->error);
				ck_assert(!x->loose);
				ck_assert_uint_eq(x->hash, alone[i]);
			}
		}
	}
	psgd_device_destroy(&device);
	ck_assert_int_eq(fault_device_blocks(), 0);
}
END_TEST

/* ---- an abort may come at any moment ---- */

START_TEST(aborts_at_any_moment)
{
	static const struct crew_variant variants[] = {
		{"plain", .n_workers = 2, .powersgd = true, .rank = 2},
		{"controlled", .n_workers = 3, .powersgd = true, .controlled = true, .rank = 2,
			.flags = PSGD_SESSION_GRAD_SUM | PSGD_SESSION_NO_OVERLAP},
		{"shaped", .n_workers = 2, .powersgd = true, .shaped = true, .rank = 2},
	};
	const struct crew_variant *v = &variants[_i];
	struct rng rng = {(uint64_t)_i + 1};
	int64_t clean_ns = now_ns();
	struct crew crew;
	int cut = 0;

	crew_start(&crew, v);
	crew_go(&crew);
	crew_join(&crew);
	clean_ns = now_ns() - clean_ns;
	for (int run = 0; run < 80; run++) {
		uint32_t who = rng_range(&rng, 0, v->n_workers - 1);
		int64_t start = now_ns();

		crew_start(&crew, v);
		crew_go(&crew);
		sleep_ns((int64_t)rng_range(&rng, 0, 999) * clean_ns / 1000);
		crew_abort(&crew, who);
		crew_join(&crew);
		ck_assert_int_lt(now_ns() - start, 20 * SECONDS);
		for (uint32_t i = 0; i < v->n_workers; i++) {
			const struct crew_worker *w = &crew.workers[i];

			ck_assert_msg(w->status >= 0 || w->status == PSGD_ERR_PEER_LOST ||
					      w->status == PSGD_ERR_TRANSPORT ||
					      (i == who && w->status == PSGD_ERR_FAILED),
				"%s, run %d: worker %u: %s: %s (%s)", v->name, run, i, w->where,
				psgd_status_name(w->status), w->error);
			ck_assert(w->status < 0 || !w->loose);
			cut += w->status == PSGD_ERR_FAILED;
		}
		ck_assert_int_eq(fault_device_blocks(), 0);
	}
	ck_assert_int_gt(cut, 5);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("trouble");
	TCase *c = tcase_create("trouble");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, buckets_that_differ, 0, N_DIFFERENCES);
	tcase_add_loop_test(c, aborts_end_every_wait, 0, N_WAITING);
	tcase_add_loop_test(c, close_without_the_peer, 0, 2);
	tcase_add_test(c, crews_side_by_side);
	tcase_add_loop_test(c, aborts_at_any_moment, 0, 3);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
