/* What a transport makes of a library of collectives: one that does as the test says, in memory. */
#include <pthread.h>
#include <string.h>

#include <psgd/streamed.h>

#include "support/suite.h"
#include "transport/workers.h"

#define MS INT64_C(1000000)
#define MAX_JOBS 8

/* The memory of the host follows. */
struct place {
	int n_in_use;
	int reserved;
};

/* The library. A collective adds 1 to each value, when its `done` is called. */
struct library {
	pthread_mutex_t lock;
	int pending; /* each start answers PENDING so often */
	int left;    /* of those, for the job that is being started */
	void *starting;
	psgd_status start, mark; /* how they end */
	bool late;		 /* `done` is for the test to call */
	bool host;		 /* data is memory of the host */
	struct place *places[MAX_JOBS];
	int n_places, n_started, n_aborted, n_closed, n_close_pending;
	uint64_t last_tag;
	const struct psgd_streamed_job *jobs[MAX_JOBS]; /* whose `done` is to come */
	int n_jobs;
};

static psgd_status is_host(void *self, const void *data, bool *host, char *reason)
{
	struct library *l = self;

	(void)data, (void)reason;
	*host = l->host;
	return PSGD_OK;
}

static psgd_status place_create(void *self, size_t bytes, void **place, void **host, char *reason)
{
	struct library *l = self;
	struct place *p = malloc(sizeof(*p) + bytes);

	(void)reason;
	REQUIRE(p && !bytes == !l->host && l->n_places < MAX_JOBS);
	p->n_in_use = 0;
	l->places[l->n_places++] = p;
	*place = p;
	*host = bytes ? p + 1 : NULL;
	return PSGD_OK;
}

static psgd_status mark(void *self, void *place, psgd_stream stream, char *reason)
{
	struct library *l = self;
	struct place *p = place;

	(void)stream;
	if (l->mark)
		strcpy(reason, "no mark");
	else
		REQUIRE(p->n_in_use++ == 0);
	return l->mark;
}

static void complete(const struct psgd_streamed_job *job)
{
	const struct psgd_collective *c = job->collective;
	float *data = job->host ? job->host : c->data;

	REQUIRE(job->bytes == (size_t)c->count * sizeof(float));
	for (int64_t i = 0; i < c->count; i++)
		data[i] += 1;
	((struct place *)job->place)->n_in_use--;
	job->done(job->user);
}

static psgd_status start(void *self, const struct psgd_streamed_job *job, char *reason)
{
	struct library *l = self;
	psgd_status status;
	bool late;

	pthread_mutex_lock(&l->lock);
	if (!l->starting) {
		/* In the order of posting, and none before the one before it is through. */
		REQUIRE(job->collective->tag == l->last_tag + 1);
		l->last_tag++;
		l->starting = job->place;
		l->left = l->pending;
	}
	REQUIRE(l->starting == job->place);
	if (l->left-- > 0) {
		pthread_mutex_unlock(&l->lock);
		return PSGD_PENDING;
	}
	l->starting = NULL;
	l->n_started++;
	status = l->start;
	late = l->late;
	if (status)
		strcpy(reason, "no start");
	else if (late)
		l->jobs[l->n_jobs++] = job;
	pthread_mutex_unlock(&l->lock);
	if (!status && !late)
		complete(job);
	return status;
}

static psgd_status test(
	void *self, const struct psgd_streamed_job *job, int64_t *wire_ns, char *reason)
{
	(void)self, (void)job, (void)reason;
	*wire_ns = 1000;
	return PSGD_OK;
}

static void library_abort(void *self)
{
	((struct library *)self)->n_aborted++;
}

static psgd_status library_close(void *self)
{
	struct library *l = self;

	if (l->n_close_pending-- > 0)
		return PSGD_PENDING;
	l->n_closed++;
	for (int i = 0; i < l->n_places; i++)
		free(l->places[i]);
	return PSGD_OK;
}

static const struct psgd_streamed_ops ops = {sizeof(ops), "library", is_host, place_create, mark,
	start, test, library_abort, library_close};

static void on_notify(void *user)
{
	atomic_fetch_add((atomic_int *)user, 1);
}

struct message {
	float data[1000];
	struct psgd_collective c;
	atomic_int notified;
	void *request;
};

static psgd_status post(struct psgd_transport *t, struct message *m, uint64_t tag)
{
	memset(m, 0, sizeof(*m));
	m->c.size = sizeof(m->c);
	m->c.kind = PSGD_ALLREDUCE_SUM;
	m->c.dtype = PSGD_F32;
	m->c.count = 1 + (int64_t)(tag * 37 % 1000);
	m->c.data = m->data;
	m->c.tag = tag;
	m->c.notify = on_notify;
	m->c.notify_user = &m->notified;
	for (int64_t i = 0; i < m->c.count; i++)
		m->data[i] = (float)(tag + (uint64_t)i);
	return t->ops->post(t->self, &m->c, &m->request);
}

static psgd_status finish(struct psgd_transport *t, struct message *m, struct psgd_transfer *out)
{
	psgd_status status;

	do
		status = t->ops->test(t->self, m->request, 100 * MS, out);
	while (status == PSGD_PENDING);
	for (int i = 0; i < 5000 && !atomic_load(&m->notified); i++)
		sleep_ms(1);
	ck_assert_int_eq(atomic_load(&m->notified), 1);
	for (int64_t i = 0; i < m->c.count && !status; i++)
		ck_assert(m->data[i] == (float)(m->c.tag + (uint64_t)i + 1));
	return status;
}

/* With data of the host, and of the device; put on the stream at once, or after a while. */
START_TEST(test_order)
{
	struct library l = {.lock = PTHREAD_MUTEX_INITIALIZER,
		.host = _i & 1,
		.pending = _i & 2,
		.n_close_pending = 3};
	static struct message m[MAX_JOBS];
	struct psgd_transport t;
	uint64_t tag = 0;

	ck_assert_int_eq(psgd_transport_streamed(&ops, &l, 1, 3, 0, &t), PSGD_OK);
	ck_assert(t.worker == 1 && t.n_workers == 3);
	ck_assert_str_eq(t.ops->name, "library");
	for (int round = 0; round < 20; round++) {
		int64_t last = 0;

		for (int i = 0; i < MAX_JOBS; i++)
			ck_assert_int_eq(post(&t, &m[i], ++tag), PSGD_OK);
		for (int i = 0; i < MAX_JOBS; i++) {
			struct psgd_transfer x = PSGD_INIT(psgd_transfer);

			ck_assert_int_eq(finish(&t, &m[i], &x), PSGD_OK);
			ck_assert(x.post_ns <= x.start_ns && x.start_ns <= x.end_ns);
			ck_assert(x.start_ns >= last || x.start_ns == x.end_ns);
			ck_assert_int_ge(x.end_ns, last);
			ck_assert_uint_eq(x.payload_bytes, (uint64_t)m[i].c.count * 4);
			ck_assert_uint_eq(x.sent_bytes, (x.payload_bytes * 4 + 2) / 3);
			last = x.end_ns;
		}
	}
	psgd_transport_destroy(&t);
	/* Places are used again and again; the end is orderly, and waits. */
	ck_assert_int_eq(l.n_started, 20 * MAX_JOBS);
	ck_assert(l.n_aborted == 0 && l.n_closed == 1 && l.n_close_pending == -1);
}
END_TEST

/* The library's `test` is ahead of its `done`: the request ends with the later one. */
START_TEST(test_late)
{
	struct library l = {.lock = PTHREAD_MUTEX_INITIALIZER, .late = true, .host = _i};
	static struct message m[3];
	struct psgd_transport t;

	ck_assert_int_eq(psgd_transport_streamed(&ops, &l, 0, 2, 0, &t), PSGD_OK);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(post(&t, &m[i], (uint64_t)i + 1), PSGD_OK);
	for (int i = 0; i < 3; i++) {
		const struct psgd_streamed_job *job = NULL;

		ck_assert_int_eq(t.ops->test(t.self, m[i].request, 20 * MS, NULL), PSGD_PENDING);
		while (!job) {
			pthread_mutex_lock(&l.lock);
			job = l.n_jobs > i ? l.jobs[i] : NULL;
			pthread_mutex_unlock(&l.lock);
		}
		complete(job);
		ck_assert_int_eq(finish(&t, &m[i], NULL), PSGD_OK);
	}
	psgd_transport_destroy(&t);
	ck_assert(l.n_aborted == 0 && l.n_closed == 1);
}
END_TEST

/* A failed start ends all requests, by one abort; a failed mark has started nothing. */
START_TEST(test_failures)
{
	struct library l = {.lock = PTHREAD_MUTEX_INITIALIZER, .late = true};
	static struct message m[3];
	struct psgd_transport t;
	char reason[300];

	ck_assert_int_eq(psgd_transport_streamed(&ops, &l, 0, 2, 0, &t), PSGD_OK);
	l.mark = PSGD_ERR_NOMEM;
	ck_assert_int_eq(post(&t, &m[0], 1), PSGD_ERR_NOMEM);
	t.ops->error(t.self, reason, sizeof(reason));
	ck_assert_str_eq(reason, "worker 0: library: no mark");
	l.mark = PSGD_OK;
	ck_assert_int_eq(post(&t, &m[0], 1), PSGD_OK);
	while (t.ops->test(t.self, m[0].request, 0, NULL) == PSGD_PENDING) {
		pthread_mutex_lock(&l.lock);
		if (l.n_jobs)
			l.start = PSGD_ERR_PEER_LOST;
		pthread_mutex_unlock(&l.lock);
		if (l.start)
			break;
	}
	ck_assert_int_eq(post(&t, &m[1], 2), PSGD_OK);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(finish(&t, &m[i], NULL), PSGD_ERR_PEER_LOST);
	t.ops->error(t.self, reason, sizeof(reason));
	ck_assert_str_eq(reason, "worker 0 has lost worker 1: library: no start");
	ck_assert_int_eq(post(&t, &m[2], 3), PSGD_ERR_PEER_LOST);
	psgd_transport_destroy(&t);
	ck_assert(l.n_aborted == 1 && l.n_closed == 1 && l.n_started == 2);
}
END_TEST

START_TEST(test_invalid)
{
	struct library l = {.lock = PTHREAD_MUTEX_INITIALIZER};
	struct psgd_transport t;

	ck_assert_int_eq(psgd_transport_streamed(&ops, &l, 0, 1, 0, NULL), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_streamed(NULL, &l, 0, 1, 0, &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_streamed(&ops, &l, 1, 1, 0, &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_streamed(&ops, &l, 0, 0, 0, &t), PSGD_ERR_INVALID);
	ck_assert_int_eq(psgd_transport_streamed(&ops, &l, 0, 1, -1, &t), PSGD_ERR_INVALID);
	/* No entry may be missing: neither empty, nor beyond a short table's end. */
	for (size_t at = sizeof(size_t); at < sizeof(ops); at += sizeof(void *)) {
		struct psgd_streamed_ops less = ops;

		memset((char *)&less + at, 0, sizeof(void *));
		ck_assert_int_eq(psgd_transport_streamed(&less, &l, 0, 1, 0, &t), PSGD_ERR_INVALID);
		less = ops;
		less.size = at;
		ck_assert_int_eq(psgd_transport_streamed(&less, &l, 0, 1, 0, &t), PSGD_ERR_INVALID);
		ck_assert(!t.ops && !t.self);
	}
	ck_assert_int_eq(l.n_closed, 0);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("transport streamed");
	TCase *c = tcase_create("streamed");

	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_order, 0, 4);
	tcase_add_loop_test(c, test_late, 0, 2);
	tcase_add_test(c, test_failures);
	tcase_add_test(c, test_invalid);
	suite_add_tcase(suite, c);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
