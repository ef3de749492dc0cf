#include "transport/workers.h"

#include <check.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#ifdef NCCL_MODULE_DIR
#include "cuda_shim/shim.h"
#endif

#define BLOB_BYTES 8192

/* Shared by the processes of one run. */
struct shared {
	struct board board;
	atomic_uint n_gathered;
	char blocks[MAX_WORKERS][BLOB_BYTES];
};

struct oob {
	struct shared *shared;
	unsigned int worker, n, round;
};

struct thread {
	const struct cluster *cluster;
	struct psgd_transport inner;
	struct shared *shared;
	pthread_t id;
};

int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void sleep_ms(int64_t ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static void wait_for(atomic_uint *count, unsigned int n)
{
	const int64_t deadline = now_ns() + INT64_C(30000000000);

	while (atomic_load(count) < n) {
		REQUIRE(now_ns() < deadline);
		sleep_ms(1);
	}
}

void meet(struct worker *w, unsigned int round)
{
	atomic_fetch_add(&w->board->arrived, 1);
	wait_for(&w->board->arrived, round * w->transport.n_workers);
}

/* Each all-gather is two rounds: all have written, all have read. */
static psgd_status oob_allgather(void *self, const void *send, void *recv, size_t bytes)
{
	struct oob *oob = self;

	REQUIRE(bytes <= BLOB_BYTES);
	memcpy(oob->shared->blocks[oob->worker], send, bytes);
	atomic_fetch_add(&oob->shared->n_gathered, 1);
	wait_for(&oob->shared->n_gathered, ++oob->round * oob->n);
	for (unsigned int w = 0; w < oob->n; w++)
		memcpy((char *)recv + w * bytes, oob->shared->blocks[w], bytes);
	atomic_fetch_add(&oob->shared->n_gathered, 1);
	wait_for(&oob->shared->n_gathered, ++oob->round * oob->n);
	return PSGD_OK;
}

static void run_one(const struct cluster *c, struct psgd_transport *inner, struct shared *shared)
{
	struct worker w = {.kind = c->kind, .board = &shared->board, .arg = c->arg};
	struct psgd_transport shaped;
	struct psgd_shaper shaper;

	if (c->kind == LOCAL || c->kind == GLOO || c->kind == NCCL) {
		w.transport = *inner;
		c->run(&w);
		psgd_transport_destroy(inner);
		return;
	}
	struct psgd_link link = c->link;
	link.size = sizeof(link);
	REQUIRE(psgd_shaper_model(&link, &shaper) == PSGD_OK);
	REQUIRE(psgd_transport_shaped(inner, &shaper, &shaped) == PSGD_OK);
	w.transport = shaped;
	w.shaper = &shaper;
	c->run(&w);
	psgd_transport_destroy(&shaped);
	psgd_shaper_destroy(&shaper);
	psgd_transport_destroy(inner);
}

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	run_one(t->cluster, &t->inner, t->shared);
	return NULL;
}

static void run_threads(const struct cluster *c, struct shared *shared)
{
	struct psgd_transport endpoints[MAX_WORKERS];
	struct thread threads[MAX_WORKERS];

	ck_assert_int_eq(psgd_transport_local(c->n, c->timeout_ns, endpoints), PSGD_OK);
	for (uint32_t w = 0; w < c->n; w++) {
		threads[w] = (struct thread){c, endpoints[w], shared, 0};
		ck_assert_int_eq(pthread_create(&threads[w].id, NULL, thread_main, &threads[w]), 0);
	}
	for (uint32_t w = 0; w < c->n; w++)
		pthread_join(threads[w].id, NULL);
}

#ifdef NCCL_MODULE_DIR
psgd_status open_transport(const struct psgd_oob *oob, int64_t timeout_ns, char *reason,
	size_t bytes, struct psgd_transport *out)
{
	struct psgd_nccl_options options = PSGD_INIT(psgd_nccl_options);

	shim_devices(MAX_WORKERS);
	options.oob = oob;
	options.timeout_ns = timeout_ns;
	options.module_dir = NCCL_MODULE_DIR;
	options.error = reason;
	options.error_bytes = bytes;
	options.ordinal = oob->worker;
	return psgd_transport_nccl(&options, out);
}
#else
psgd_status open_transport(const struct psgd_oob *oob, int64_t timeout_ns, char *reason,
	size_t bytes, struct psgd_transport *out)
{
	struct psgd_gloo_options options = PSGD_INIT(psgd_gloo_options);

	options.oob = oob;
	options.timeout_ns = timeout_ns;
#ifdef GLOO_MODULE_DIR
	options.module_dir = GLOO_MODULE_DIR;
#endif
	options.error = reason;
	options.error_bytes = bytes;
	return psgd_transport_gloo(&options, out);
}
#endif

static void process_main(const struct cluster *c, uint32_t worker, struct shared *shared)
{
	struct oob gather = {shared, worker, c->n, 0};
	struct psgd_oob oob = {oob_allgather, &gather, worker, c->n};
	struct psgd_transport transport;
	char reason[256];

	if (open_transport(&oob, c->timeout_ns, reason, sizeof(reason), &transport)) {
		fprintf(stderr, "worker %u: %s\n", worker, reason);
		_exit(98);
	}
	run_one(c, &transport, shared);
	exit(0);
}

static void run_processes(const struct cluster *c, struct shared *shared)
{
	pid_t pids[MAX_WORKERS];

	for (uint32_t w = 0; w < c->n; w++) {
		pids[w] = fork();
		ck_assert_int_ge(pids[w], 0);
		if (!pids[w])
			process_main(c, w, shared);
	}
	for (uint32_t w = 0; w < c->n; w++) {
		int status;

		ck_assert_int_eq(waitpid(pids[w], &status, 0), pids[w]);
		if ((int)w == c->killed)
			ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		else
			ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
				"worker %u ended with status %#x", w, status);
	}
}

void run_workers(const struct cluster *cluster)
{
	struct shared *shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(shared, MAP_FAILED);
	if (cluster->kind == LOCAL || cluster->kind == SHAPED)
		run_threads(cluster, shared);
	else
		run_processes(cluster, shared);
	munmap(shared, sizeof(*shared));
}

uint64_t socket_bytes(void)
{
	uint64_t bytes = 0;
	struct stat seen[64], now;
	int n_seen = 0;

	for (int fd = 3; fd < 256; fd++) {
		struct tcp_info info;
		socklen_t length = sizeof(info);
		bool known = false;

		if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) || fstat(fd, &now))
			continue;
		/* A descriptor may be a second one of a socket. */
		for (int i = 0; i < n_seen; i++)
			known = known || seen[i].st_ino == now.st_ino;
		if (known || n_seen == 64)
			continue;
		seen[n_seen++] = now;
		bytes += info.tcpi_bytes_sent - info.tcpi_bytes_retrans;
	}
	return bytes;
}
