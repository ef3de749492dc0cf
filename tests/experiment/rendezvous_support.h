/* Workers as threads of one process, for the tests of the rendezvous. */
#ifndef TESTS_EXPERIMENT_RENDEZVOUS_SUPPORT_H
#define TESTS_EXPERIMENT_RENDEZVOUS_SUPPORT_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <psgd/experiment/rendezvous.h>

#include "support/suite.h"

#define MAX_WORKERS 4
#define SECOND INT64_C(1000000000)

struct worker {
	pthread_t thread;
	struct psgd_launch launch;
	const char *token_file;
	int64_t timeout_ns;
	unsigned delay_ms;
	void (*work)(struct worker *worker); /* after open; NULL: none */
	psgd_rendezvous *rendezvous;
	psgd_status status;
	char error[1024];
	char address[80];
	pthread_mutex_t lock;
	char log[4096];
	unsigned warnings;
};

static inline void sleep_ms(unsigned ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

static inline void keep_log(void *user, enum psgd_log_level level, const char *message)
{
	struct worker *worker = user;
	size_t n;

	pthread_mutex_lock(&worker->lock);
	n = strlen(worker->log);
	snprintf(worker->log + n, sizeof(worker->log) - n, "%s\n", message);
	worker->warnings += level == PSGD_LOG_WARN;
	pthread_mutex_unlock(&worker->lock);
}

static inline bool log_has(struct worker *worker, const char *text)
{
	bool has;

	pthread_mutex_lock(&worker->lock);
	has = strstr(worker->log, text) != NULL;
	pthread_mutex_unlock(&worker->lock);
	return has;
}

static inline uint16_t free_port(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	close(fd);
	return ntohs(address.sin_port);
}

static inline void init_worker(struct worker *worker, uint32_t number, uint32_t n, uint16_t port)
{
	memset(worker, 0, sizeof(*worker));
	worker->launch = PSGD_INIT(psgd_launch);
	worker->launch.worker = number;
	worker->launch.n_workers = n;
	worker->launch.master_port = port;
	snprintf(worker->launch.master_addr, sizeof(worker->launch.master_addr), "127.0.0.1");
	worker->timeout_ns = 30 * SECOND;
	pthread_mutex_init(&worker->lock, NULL);
}

static inline void init_all(struct worker *workers, uint32_t n)
{
	uint16_t port = free_port();

	for (uint32_t w = 0; w < n; w++)
		init_worker(&workers[w], w, n, port);
}

static inline void *run_worker(void *arg)
{
	struct worker *worker = arg;
	struct psgd_rendezvous_options options = PSGD_INIT(psgd_rendezvous_options);

	sleep_ms(worker->delay_ms);
	options.launch = &worker->launch;
	options.token_file = worker->token_file;
	options.timeout_ns = worker->timeout_ns;
	options.log = keep_log;
	options.log_user = worker;
	options.error = worker->error;
	options.error_bytes = sizeof(worker->error);
	worker->status = psgd_rendezvous_open(&options, &worker->rendezvous);
	if (worker->status == PSGD_OK) {
		snprintf(worker->address, sizeof(worker->address), "%s",
			psgd_rendezvous_address(worker->rendezvous));
		if (worker->work)
			worker->work(worker);
	}
	psgd_rendezvous_close(&worker->rendezvous);
	return NULL;
}

static inline void start(struct worker *worker)
{
	ck_assert_int_eq(pthread_create(&worker->thread, NULL, run_worker, worker), 0);
}

static inline void join(struct worker *worker)
{
	pthread_join(worker->thread, NULL);
}

static inline void run_all(struct worker *workers, uint32_t n)
{
	for (uint32_t w = 0; w < n; w++)
		start(&workers[w]);
	for (uint32_t w = 0; w < n; w++)
		join(&workers[w]);
}

static inline void write_token(char *path, const char *text, mode_t mode)
{
	int fd;

	strcpy(path, "/tmp/psgd-token-XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	fchmod(fd, mode);
	close(fd);
}

/* Connects as soon as worker 0 listens. */
static inline int connect_stranger(uint16_t port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(port)};

	for (int tries = 0; tries < 500; tries++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
			return fd;
		close(fd);
		sleep_ms(10);
	}
	ck_abort_msg("nobody listens at %u", port);
	return -1;
}

static inline bool is_all(const char *bytes, size_t n, char value)
{
	while (n && bytes[n - 1] == value)
		n--;
	return n == 0;
}

static inline void exchange(struct worker *worker)
{
	struct psgd_oob oob = psgd_rendezvous_oob(worker->rendezvous);
	uint32_t n = worker->launch.n_workers, me = worker->launch.worker;
	static const size_t sizes[] = {1, 7, 4096, 65536, 0};
	char text[64], *send, *recv;
	size_t out_bytes = 99, wrong = 0;
	void *out = NULL;

	for (int round = 0; round < 5 && !worker->status; round++) {
		size_t bytes = sizes[round];

		send = malloc(bytes + 1);
		recv = malloc(n * bytes + 1);
		memset(send, (int)(me * 16 + (uint32_t)round + 1), bytes);
		worker->status = oob.allgather(oob.self, send, recv, bytes);
		for (uint32_t w = 0; w < n; w++)
			wrong += !is_all(
				recv + w * bytes, bytes, (char)(w * 16 + (uint32_t)round + 1));
		ck_assert_uint_eq(wrong, 0);
		free(send);
		free(recv);
	}
	snprintf(text, sizeof(text), "from worker %u", me);
	ck_assert_int_eq(
		psgd_rendezvous_share(worker->rendezvous, text, 13, &out, &out_bytes), PSGD_OK);
	ck_assert_uint_eq(out_bytes, 13);
	ck_assert_mem_eq(out, "from worker 0", 13);
	free(out);
	ck_assert_int_eq(
		psgd_rendezvous_share(worker->rendezvous, NULL, 0, &out, &out_bytes), PSGD_OK);
	ck_assert_uint_eq(out_bytes, 0);
	free(out);
}

#endif
