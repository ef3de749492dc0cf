/* Threads that share the items of a job with the thread that calls. */
#include <pthread.h>
#include <signal.h>

#include "base/base.h"
#include "device/cpu.h"

struct psgd__pool {
	pthread_mutex_t busy; /* a job runs */
	pthread_mutex_t lock;
	pthread_cond_t begin, end;
	uint64_t job; /* guarded, as the next three */
	uint32_t n_working;
	bool stop;
	void (*task)(void *user, size_t item);
	void *user;
	size_t items;
	_Atomic size_t next;
	uint32_t n_threads;
	pthread_t threads[];
};

static void take_items(struct psgd__pool *pool)
{
	for (size_t item; (item = pool->next++) < pool->items;)
		pool->task(pool->user, item);
}

static void *work(void *user)
{
	struct psgd__pool *pool = user;
	uint64_t done = 0;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (pool->job == done && !pool->stop)
			pthread_cond_wait(&pool->begin, &pool->lock);
		if (pool->stop)
			break;
		done = pool->job;
		pthread_mutex_unlock(&pool->lock);
		take_items(pool);
		pthread_mutex_lock(&pool->lock);
		if (--pool->n_working == 0)
			pthread_cond_signal(&pool->end);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

void psgd__pool_run(
	struct psgd__pool *pool, void (*task)(void *user, size_t item), void *user, size_t items)
{
	/* One job at a time: a second session on the device works alone meanwhile. */
	if (!pool || items < 2 || pthread_mutex_trylock(&pool->busy)) {
		for (size_t i = 0; i < items; i++)
			task(user, i);
		return;
	}
	pthread_mutex_lock(&pool->lock);
	pool->task = task;
	pool->user = user;
	pool->items = items;
	pool->next = 0;
	pool->n_working = pool->n_threads;
	pool->job++;
	pthread_cond_broadcast(&pool->begin);
	pthread_mutex_unlock(&pool->lock);
	take_items(pool);
	pthread_mutex_lock(&pool->lock);
	while (pool->n_working)
		pthread_cond_wait(&pool->end, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
	pthread_mutex_unlock(&pool->busy);
}

psgd_status psgd__pool_open(uint32_t threads, struct psgd__pool **out)
{
	const size_t most = threads - 1;
	struct psgd__pool *pool;
	sigset_t all, old;
	size_t bytes;

	*out = NULL;
	if (psgd__mul_overflows(most, sizeof(pool->threads[0]), &bytes) ||
		__builtin_add_overflow(bytes, sizeof(*pool), &bytes))
		return PSGD_ERR_NOMEM;
	pool = psgd__calloc(1, bytes);
	if (!pool)
		return PSGD_ERR_NOMEM;
	pthread_mutex_init(&pool->busy, NULL);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->begin, NULL);
	pthread_cond_init(&pool->end, NULL);
	/* Signals are the trainer's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (pool->n_threads < most &&
		!pthread_create(&pool->threads[pool->n_threads], NULL, work, pool))
		pool->n_threads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pool->n_threads < most) {
		psgd__pool_close(pool);
		return PSGD_ERR_NOMEM;
	}
	*out = pool;
	return PSGD_OK;
}

void psgd__pool_close(struct psgd__pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->begin);
	pthread_mutex_unlock(&pool->lock);
	for (uint32_t i = 0; i < pool->n_threads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->end);
	pthread_cond_destroy(&pool->begin);
	pthread_mutex_destroy(&pool->lock);
	pthread_mutex_destroy(&pool->busy);
	free(pool);
}
