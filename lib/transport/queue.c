#include "transport/queue.h"

#include "base/slice.h"
#include "transport/request.h"

struct psgd__queue {
	struct psgd__requests requests; /* its lock guards all that follows */
	pthread_cond_t work;
	pthread_t thread;
	const struct psgd__queue_jobs *jobs;
	void *self;
	uint32_t worker, n_workers;
	bool stop;
	psgd_status failed; /* OK until something fails */
	char reason[PSGD__REASON_BYTES];
};

/* With the lock held: the first failure is the one that counts. */
static void queue_fail(struct psgd__queue *q, psgd_status status, const char *reason)
{
	if (!q->failed) {
		q->failed = status;
		psgd__text(q->reason, sizeof(q->reason), "%s", reason);
	}
	psgd__requests_fail(&q->requests, q->failed);
}

static struct psgd__request *next_request(const struct psgd__queue *q)
{
	struct psgd__request *r = q->requests.first;

	while (r && r->status != PSGD_PENDING)
		r = r->next;
	return r;
}

/* Called and left with the lock held. */
static void run_one(struct psgd__queue *q, struct psgd__request *r)
{
	struct psgd_transfer *t = &r->transfer;
	char reason[PSGD__REASON_BYTES] = "";
	psgd_status status;

	r->claimed = true;
	pthread_mutex_unlock(&q->requests.lock);
	t->start_ns = psgd__now_ns();
	status = q->jobs->run(q->self, &r->collective, &t->sent_bytes, reason, sizeof(reason));
	t->end_ns = psgd__now_ns();
	if (status)
		q->jobs->interrupt(q->self);
	pthread_mutex_lock(&q->requests.lock);
	r->claimed = false;
	if (status)
		queue_fail(q, status, reason);
	else
		r->status = PSGD_OK;
	pthread_mutex_unlock(&q->requests.lock);
	psgd__requests_deliver(&q->requests);
	pthread_mutex_lock(&q->requests.lock);
}

static void *queue_main(void *arg)
{
	struct psgd__queue *q = arg;

	psgd__slice_set(PSGD__SHORT_SLICE_NS);
	pthread_mutex_lock(&q->requests.lock);
	while (!q->stop) {
		struct psgd__request *r = next_request(q);

		if (r)
			run_one(q, r);
		else
			pthread_cond_wait(&q->work, &q->requests.lock);
	}
	pthread_mutex_unlock(&q->requests.lock);
	return NULL;
}

psgd_status psgd__queue_post(void *self, const struct psgd_collective *collective, void **request)
{
	struct psgd__queue *q = self;
	struct psgd__request *r;
	psgd_status failed;

	if (!request)
		return PSGD_ERR_INVALID;
	*request = NULL;
	PSGD__TRY(psgd__request_new(collective, q->n_workers, false, sizeof(*r), &r));
	pthread_mutex_lock(&q->requests.lock);
	failed = q->failed;
	if (!failed) {
		*request = r;
		psgd__requests_add(&q->requests, r);
		pthread_cond_signal(&q->work);
	}
	pthread_mutex_unlock(&q->requests.lock);
	if (failed)
		free(r);
	return failed;
}

psgd_status psgd__queue_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out)
{
	struct psgd__queue *q = self;

	return psgd__requests_test(&q->requests, request, timeout_ns, out);
}

void psgd__queue_abort(void *self)
{
	struct psgd__queue *q = self;
	char reason[64];

	psgd__text(reason, sizeof(reason), "aborted by worker %u", q->worker);
	pthread_mutex_lock(&q->requests.lock);
	queue_fail(q, PSGD_ERR_TRANSPORT, reason);
	pthread_mutex_unlock(&q->requests.lock);
	q->jobs->interrupt(q->self);
	psgd__requests_deliver(&q->requests);
}

void psgd__queue_error(void *self, char *text, size_t bytes)
{
	struct psgd__queue *q = self;

	pthread_mutex_lock(&q->requests.lock);
	psgd__text(text, bytes, "%s", q->reason);
	pthread_mutex_unlock(&q->requests.lock);
}

void psgd__queue_destroy(void *self)
{
	struct psgd__queue *q = self;
	bool pending;

	pthread_mutex_lock(&q->requests.lock);
	pending = next_request(q) != NULL;
	q->stop = true;
	pthread_cond_signal(&q->work);
	pthread_mutex_unlock(&q->requests.lock);
	if (pending)
		psgd__queue_abort(q);
	pthread_join(q->thread, NULL);
	pthread_mutex_lock(&q->requests.lock);
	psgd__requests_wait_delivered(&q->requests);
	pthread_mutex_unlock(&q->requests.lock);
	q->jobs->close(q->self);
	pthread_cond_destroy(&q->work);
	psgd__requests_destroy(&q->requests);
	free(q);
}

psgd_status psgd__queue_open(const struct psgd__queue_jobs *jobs, void *self, uint32_t worker,
	uint32_t n_workers, struct psgd__queue **out)
{
	struct psgd__queue *q = psgd__calloc(1, sizeof(*q));

	*out = NULL;
	if (!q)
		return PSGD_ERR_NOMEM;
	q->jobs = jobs;
	q->self = self;
	q->worker = worker;
	q->n_workers = n_workers;
	if (psgd__requests_init(&q->requests))
		goto free_queue;
	if (psgd__cond_init(&q->work))
		goto destroy_requests;
	if (psgd__thread_start(&q->thread, queue_main, q))
		goto destroy_work;
	*out = q;
	return PSGD_OK;

destroy_work:
	pthread_cond_destroy(&q->work);
destroy_requests:
	psgd__requests_destroy(&q->requests);
free_queue:
	free(q);
	return PSGD_ERR_NOMEM;
}
