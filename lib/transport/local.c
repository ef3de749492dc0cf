/*
 * Workers that are threads of one process. The k-th collectives of all endpoints make up round k;
 * whoever posts the last one runs it. A broadcast counts as a binomial tree, an all-reduce and an
 * all-gather as rings, so that sent_bytes means the same as on a network.
 */
#include <string.h>

#include "transport/request.h"

#define DEFAULT_TIMEOUT_NS (60 * INT64_C(1000000000))
#define BLOCK 1024 /* values summed at a time: stays in the first-level cache */

struct local_request {
	struct psgd__request base;
	uint32_t worker;
};

struct round {
	struct round *next;
	uint64_t number;
	int64_t full_ns; /* when the last worker posted */
	int64_t deadline_ns;
	uint32_t n_posted;
	struct local_request *of[]; /* by worker */
};

struct endpoint {
	struct group *group;
	uint32_t worker;
	uint64_t n_posted;
};

struct group {
	struct psgd__requests requests; /* its lock guards all that follows */
	pthread_cond_t timer;
	pthread_t reaper;
	int64_t timeout_ns;
	uint32_t n;
	uint32_t n_open; /* endpoints not yet destroyed */
	struct round *first, *last;
	bool running; /* a thread runs rounds without the lock */
	bool stop;
	int64_t through_ns; /* end of the latest round */
	psgd_status failed; /* OK until something fails */
	uint32_t culprit;
	char reason[PSGD__REASON_BYTES];
	struct endpoint endpoints[];
};

/* A worker that went away itself is not a lost peer to itself. */
static psgd_status status_for(const struct group *g, uint32_t worker)
{
	bool own = g->failed == PSGD_ERR_PEER_LOST && g->culprit == worker;

	return own ? PSGD_ERR_TRANSPORT : g->failed;
}

/* With the lock held, once: reason is set by the caller. */
static void group_fail(struct group *g, psgd_status status, uint32_t culprit)
{
	struct round *round;

	g->failed = status;
	g->culprit = culprit;
	for (struct psgd__request *r = g->requests.first; r; r = r->next) {
		if (r->status == PSGD_PENDING && !r->claimed)
			r->status = status_for(g, ((struct local_request *)r)->worker);
	}
	while ((round = g->first)) {
		g->first = round->next;
		free(round);
	}
	g->last = NULL;
}

static bool same(const struct psgd_collective *a, const struct psgd_collective *b)
{
	return a->kind == b->kind && a->dtype == b->dtype && a->count == b->count &&
	       a->tag == b->tag && (a->kind != PSGD_BROADCAST || a->root == b->root);
}

/* The first worker of the round whose collective differs from r's, or NULL. */
static struct local_request *find_other(
	const struct group *g, const struct round *round, const struct local_request *r)
{
	for (uint32_t w = 0; w < g->n; w++) {
		struct local_request *other = round->of[w];

		if (other && !same(&other->base.collective, &r->base.collective))
			return other;
	}
	return NULL;
}

#define DEFINE_SUM(type)                                                                           \
	static void sum_##type(const struct round *round, uint32_t n, size_t count)                \
	{                                                                                          \
		type sum[BLOCK];                                                                   \
                                                                                                   \
		for (size_t at = 0; at < count; at += BLOCK) {                                     \
			size_t m = count - at < BLOCK ? count - at : BLOCK;                        \
                                                                                                   \
			memcpy(sum, (type *)round->of[0]->base.collective.data + at,               \
				m * sizeof(type));                                                 \
			for (uint32_t w = 1; w < n; w++) {                                         \
				const type *x = (type *)round->of[w]->base.collective.data + at;   \
                                                                                                   \
				for (size_t i = 0; i < m; i++)                                     \
					sum[i] += x[i];                                            \
			}                                                                          \
			for (uint32_t w = 0; w < n; w++)                                           \
				memcpy((type *)round->of[w]->base.collective.data + at, sum,       \
					m * sizeof(type));                                         \
		}                                                                                  \
	}
DEFINE_SUM(float)
DEFINE_SUM(double)

static void broadcast(const struct round *round, uint32_t n, size_t bytes)
{
	uint32_t root = round->of[0]->base.collective.root;
	const void *from = round->of[root]->base.collective.data;

	for (uint32_t w = 0; w < n; w++) {
		if (w != root)
			memcpy(round->of[w]->base.collective.data, from, bytes);
	}
}

static void allgather(const struct round *round, uint32_t n, size_t bytes)
{
	for (uint32_t from = 0; from < n; from++) {
		const char *block = (char *)round->of[from]->base.collective.data + from * bytes;

		for (uint32_t w = 0; w < n; w++) {
			if (w != from)
				memcpy((char *)round->of[w]->base.collective.data + from * bytes,
					block, bytes);
		}
	}
}

static void round_run(const struct round *round, uint32_t n)
{
	const struct psgd_collective *c = &round->of[0]->base.collective;

	/* It has its result, perhaps in memory that is no business of the host's. */
	if (n == 1)
		return;
	if (c->kind == PSGD_BROADCAST)
		broadcast(round, n, (size_t)round->of[0]->base.transfer.payload_bytes);
	else if (c->kind == PSGD_ALLGATHER)
		allgather(round, n, (size_t)round->of[0]->base.transfer.payload_bytes);
	else if (c->dtype == PSGD_F32)
		sum_float(round, n, (size_t)c->count);
	else
		sum_double(round, n, (size_t)c->count);
}

/* Runs full rounds in order. Called and left with the lock held. */
static void run_rounds(struct group *g)
{
	if (g->running)
		return;
	g->running = true;
	while (g->first && g->first->n_posted == g->n) {
		struct round *round = g->first;
		int64_t start = round->full_ns > g->through_ns ? round->full_ns : g->through_ns;

		g->first = round->next;
		if (!g->first)
			g->last = NULL;
		for (uint32_t w = 0; w < g->n; w++)
			round->of[w]->base.claimed = true;
		pthread_mutex_unlock(&g->requests.lock);
		round_run(round, g->n);
		pthread_mutex_lock(&g->requests.lock);
		g->through_ns = psgd__now_ns();
		for (uint32_t w = 0; w < g->n; w++) {
			struct local_request *r = round->of[w];

			r->base.transfer.start_ns = start;
			r->base.transfer.end_ns = g->through_ns;
			r->base.transfer.sent_bytes =
				psgd__request_sent_bytes(&r->base, r->worker, g->n);
			r->base.status = PSGD_OK;
		}
		free(round);
		pthread_mutex_unlock(&g->requests.lock);
		psgd__requests_deliver(&g->requests);
		pthread_mutex_lock(&g->requests.lock);
	}
	g->running = false;
	pthread_cond_broadcast(&g->requests.changed);
}

/* The endpoint's next round, made if it is the first to come. */
static struct round *round_of(struct group *g, const struct endpoint *e)
{
	struct round *round;

	if (g->last && g->last->number >= e->n_posted) {
		for (round = g->first; round->number != e->n_posted; round = round->next)
			;
		return round;
	}
	round = psgd__calloc(1, sizeof(*round) + g->n * sizeof(round->of[0]));
	if (!round)
		return NULL;
	round->number = e->n_posted;
	round->deadline_ns = psgd__after_ns(g->timeout_ns);
	if (g->last) {
		g->last->next = round;
	} else {
		g->first = round;
		pthread_cond_signal(&g->timer);
	}
	g->last = round;
	return round;
}

/* With the lock held. The request belongs to the group on success. */
static psgd_status post_locked(struct endpoint *e, struct local_request *r)
{
	struct group *g = e->group;
	struct local_request *other;
	struct round *round;

	if (g->failed)
		return status_for(g, e->worker);
	round = round_of(g, e);
	if (!round)
		return PSGD_ERR_NOMEM;
	e->n_posted++;
	psgd__requests_add(&g->requests, &r->base);
	other = find_other(g, round, r);
	if (other) {
		char a[160], b[160];

		psgd__request_describe(&other->base, other->worker, a, sizeof(a));
		psgd__request_describe(&r->base, r->worker, b, sizeof(b));
		psgd__text(g->reason, sizeof(g->reason), "workers disagree: %s; %s", a, b);
		group_fail(g, PSGD_ERR_MISMATCH, g->n);
		return PSGD_OK;
	}
	round->of[e->worker] = r;
	if (++round->n_posted == g->n) {
		round->full_ns = psgd__now_ns();
		run_rounds(g);
	}
	return PSGD_OK;
}

static psgd_status local_post(void *self, const struct psgd_collective *collective, void **request)
{
	struct endpoint *e = self;
	struct group *g = e->group;
	struct psgd__request *r;
	psgd_status status;

	if (!request)
		return PSGD_ERR_INVALID;
	*request = NULL;
	PSGD__TRY(psgd__request_new(collective, g->n, g->n == 1, sizeof(struct local_request), &r));
	((struct local_request *)r)->worker = e->worker;
	pthread_mutex_lock(&g->requests.lock);
	*request = r;
	status = post_locked(e, (struct local_request *)r);
	pthread_mutex_unlock(&g->requests.lock);
	if (status < 0) {
		*request = NULL;
		free(r);
		return status;
	}
	psgd__requests_deliver(&g->requests);
	return PSGD_OK;
}

static psgd_status local_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct endpoint *e = self;

	return psgd__requests_test(&e->group->requests, request, timeout_ns, out);
}

static void local_abort(void *self)
{
	struct endpoint *e = self;
	struct group *g = e->group;

	pthread_mutex_lock(&g->requests.lock);
	if (!g->failed) {
		psgd__text(g->reason, sizeof(g->reason), "aborted by worker %u", e->worker);
		group_fail(g, PSGD_ERR_PEER_LOST, e->worker);
	}
	pthread_mutex_unlock(&g->requests.lock);
	psgd__requests_deliver(&g->requests);
}

static void local_error(void *self, char *text, size_t bytes)
{
	struct endpoint *e = self;

	pthread_mutex_lock(&e->group->requests.lock);
	psgd__text(text, bytes, "%s", e->group->reason);
	pthread_mutex_unlock(&e->group->requests.lock);
}

static void reap(struct group *g, const struct round *round)
{
	size_t used = 0;
	const char *comma = "";

	for (uint32_t w = 0; w < g->n && used < sizeof(g->reason) - 64; w++) {
		if (round->of[w])
			continue;
		psgd__text(g->reason + used, sizeof(g->reason) - used, "%sworker %u", comma, w);
		used = strlen(g->reason);
		comma = ", ";
	}
	psgd__text(g->reason + used, sizeof(g->reason) - used, " did not come within %lld ms",
		(long long)(g->timeout_ns / 1000000));
	group_fail(g, PSGD_ERR_TIMEOUT, g->n);
}

/* Deadlines must end requests even when nobody calls test. */
static void *reaper_main(void *arg)
{
	struct group *g = arg;

	pthread_mutex_lock(&g->requests.lock);
	while (!g->stop) {
		struct round *round = g->first;

		if (round && round->n_posted < g->n && psgd__now_ns() >= round->deadline_ns) {
			reap(g, round);
			pthread_mutex_unlock(&g->requests.lock);
			psgd__requests_deliver(&g->requests);
			pthread_mutex_lock(&g->requests.lock);
			continue;
		}
		psgd__cond_wait(&g->timer, &g->requests.lock,
			!round			  ? INT64_MAX
			: round->n_posted == g->n ? psgd__after_ns(g->timeout_ns)
						  : round->deadline_ns);
	}
	pthread_mutex_unlock(&g->requests.lock);
	return NULL;
}

static void group_free(struct group *g)
{
	pthread_mutex_lock(&g->requests.lock);
	g->stop = true;
	pthread_cond_signal(&g->timer);
	pthread_mutex_unlock(&g->requests.lock);
	pthread_join(g->reaper, NULL);
	pthread_cond_destroy(&g->timer);
	psgd__requests_destroy(&g->requests);
	free(g);
}

static void local_destroy(void *self)
{
	struct endpoint *e = self;
	struct group *g = e->group;
	bool last;

	pthread_mutex_lock(&g->requests.lock);
	while (g->running)
		pthread_cond_wait(&g->requests.changed, &g->requests.lock);
	if (!g->failed) {
		psgd__text(g->reason, sizeof(g->reason), "worker %u has left", e->worker);
		group_fail(g, PSGD_ERR_PEER_LOST, e->worker);
	}
	pthread_mutex_unlock(&g->requests.lock);
	psgd__requests_deliver(&g->requests);
	pthread_mutex_lock(&g->requests.lock);
	psgd__requests_wait_delivered(&g->requests);
	for (struct psgd__request *r = g->requests.first, *next; r; r = next) {
		next = r->next;
		if (((struct local_request *)r)->worker == e->worker)
			psgd__requests_free(&g->requests, r);
	}
	last = --g->n_open == 0;
	pthread_mutex_unlock(&g->requests.lock);
	if (last)
		group_free(g);
}

static const struct psgd_transport_ops local_ops = {
	.size = sizeof(struct psgd_transport_ops),
	.name = "local",
	.post = local_post,
	.test = local_test,
	.abort = local_abort,
	.error = local_error,
	.destroy = local_destroy,
};

psgd_status psgd_transport_local(uint32_t n_workers, int64_t timeout_ns, struct psgd_transport *out)
{
	struct group *g;

	if (!n_workers || timeout_ns < 0 || !out)
		return PSGD_ERR_INVALID;
	for (uint32_t w = 0; w < n_workers; w++)
		out[w] = (struct psgd_transport){0};
	g = psgd__calloc(1, sizeof(*g) + n_workers * sizeof(g->endpoints[0]));
	if (!g)
		return PSGD_ERR_NOMEM;
	if (psgd__requests_init(&g->requests))
		goto free_group;
	if (psgd__cond_init(&g->timer))
		goto destroy_requests;
	g->timeout_ns = timeout_ns ? timeout_ns : DEFAULT_TIMEOUT_NS;
	g->n = n_workers;
	g->n_open = n_workers;
	if (psgd__thread_start(&g->reaper, reaper_main, g))
		goto destroy_timer;
	for (uint32_t w = 0; w < n_workers; w++) {
		g->endpoints[w].group = g;
		g->endpoints[w].worker = w;
		out[w] = (struct psgd_transport){&local_ops, &g->endpoints[w], w, n_workers};
	}
	return PSGD_OK;

destroy_timer:
	pthread_cond_destroy(&g->timer);
destroy_requests:
	psgd__requests_destroy(&g->requests);
free_group:
	free(g);
	return PSGD_ERR_NOMEM;
}
