/* Workers, as threads, meet over loopback, exchange bytes, and say who is missing. */
#include <sys/wait.h>

#include "experiment/rendezvous_support.h"

/* --- gather and share --- */

/* _i: 1 .. 4 workers; odd rounds worker 0 comes last. */
START_TEST(meets_and_exchanges)
{
	struct worker workers[MAX_WORKERS];
	uint32_t n = (uint32_t)_i / 2 + 1;

	init_all(workers, n);
	for (uint32_t w = 0; w < n; w++) {
		workers[w].work = exchange;
		workers[w].delay_ms = _i % 2 ? (n - w) * 60 : w * 60;
	}
	run_all(workers, n);
	for (uint32_t w = 0; w < n; w++) {
		ck_assert_msg(workers[w].status == PSGD_OK, "worker %u: %s", w, workers[w].error);
		ck_assert_str_eq(workers[w].address, "127.0.0.1");
		ck_assert_uint_eq(workers[w].warnings, 0);
	}
}
END_TEST

START_TEST(ipv6)
{
	struct worker workers[2];
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	bool have = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0;

	close(fd);
	if (!have)
		return; /* this machine has no IPv6 */
	init_all(workers, 2);
	for (int w = 0; w < 2; w++) {
		snprintf(workers[w].launch.master_addr, 255, "::1");
		workers[w].work = exchange;
	}
	run_all(workers, 2);
	for (int w = 0; w < 2; w++) {
		ck_assert_msg(workers[w].status == PSGD_OK, "%s", workers[w].error);
		ck_assert_str_eq(workers[w].address, "::1");
	}
}
END_TEST

static void share_large(struct worker *worker)
{
	size_t bytes = (size_t)16 << 20, out_bytes;
	char *text = NULL;
	void *out;

	if (!worker->launch.worker) {
		text = malloc(bytes + 1);
		for (size_t i = 0; i <= bytes; i++)
			text[i] = (char)(i * 31 >> 3);
	}
	ck_assert_int_eq(
		psgd_rendezvous_share(worker->rendezvous, text, bytes, &out, &out_bytes), PSGD_OK);
	ck_assert_uint_eq(out_bytes, bytes);
	for (size_t i = 0; i < bytes; i += 4093)
		ck_assert_int_eq(((char *)out)[i], (char)(i * 31 >> 3));
	free(out);
	worker->status =
		psgd_rendezvous_share(worker->rendezvous, text, bytes + 1, &out, &out_bytes);
	ck_assert_ptr_null(out);
	psgd_rendezvous_error(worker->rendezvous, worker->error, sizeof(worker->error));
	free(text);
}

START_TEST(share_is_bounded)
{
	struct worker workers[2];

	init_all(workers, 2);
	workers[0].work = workers[1].work = share_large;
	run_all(workers, 2);
	for (int w = 0; w < 2; w++) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_INVALID);
		ck_assert_str_eq(
			workers[w].error, "at most 16777216 bytes can be shared, not 16777217");
	}
}
END_TEST

/* Worker w sends w + 1 bytes. */
static void gather_uneven(struct worker *worker)
{
	struct psgd_oob oob = psgd_rendezvous_oob(worker->rendezvous);
	char send[8] = {0}, recv[32];

	worker->status = oob.allgather(oob.self, send, recv, worker->launch.worker == 1 ? 5 : 4);
	psgd_rendezvous_error(worker->rendezvous, worker->error, sizeof(worker->error));
	/* What has failed stays so. */
	ck_assert_int_eq(oob.allgather(oob.self, send, recv, 4), worker->status);
}

START_TEST(uneven_gather_is_named_everywhere)
{
	struct worker workers[3];

	init_all(workers, 3);
	for (int w = 0; w < 3; w++)
		workers[w].work = gather_uneven;
	run_all(workers, 3);
	for (int w = 0; w < 3; w++) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_MISMATCH);
		ck_assert_str_eq(workers[w].error, "worker 1 sends 5 bytes where worker 0 has 4");
	}
}
END_TEST

static void gather_once_then_leave(struct worker *worker)
{
	struct psgd_oob oob = psgd_rendezvous_oob(worker->rendezvous);
	char recv[MAX_WORKERS], send = 1;

	worker->status = oob.allgather(oob.self, &send, recv, 1);
	ck_assert_int_eq(worker->status, PSGD_OK);
	if (worker->launch.worker == 2)
		return;
	worker->status = oob.allgather(oob.self, &send, recv, 1);
	psgd_rendezvous_error(worker->rendezvous, worker->error, sizeof(worker->error));
}

START_TEST(lost_worker_is_named_everywhere)
{
	struct worker workers[3];

	init_all(workers, 3);
	for (int w = 0; w < 3; w++)
		workers[w].work = gather_once_then_leave;
	run_all(workers, 3);
	for (int w = 0; w < 2; w++) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_PEER_LOST);
		ck_assert_str_eq(workers[w].error, "worker 2 is gone");
	}
}
END_TEST

static void master_leaves(struct worker *worker)
{
	struct psgd_oob oob = psgd_rendezvous_oob(worker->rendezvous);
	char recv[MAX_WORKERS], send = 1;

	if (!worker->launch.worker)
		return;
	worker->status = oob.allgather(oob.self, &send, recv, 1);
	psgd_rendezvous_error(worker->rendezvous, worker->error, sizeof(worker->error));
}

START_TEST(lost_master_is_named)
{
	struct worker workers[2];

	init_all(workers, 2);
	workers[0].work = workers[1].work = master_leaves;
	run_all(workers, 2);
	ck_assert_int_eq(workers[1].status, PSGD_ERR_PEER_LOST);
	ck_assert_str_eq(workers[1].error, "worker 0 is gone");
}
END_TEST

static void slow_gather(struct worker *worker)
{
	struct psgd_oob oob = psgd_rendezvous_oob(worker->rendezvous);
	char recv[MAX_WORKERS], send = 1;

	if (worker->launch.worker == 1) {
		sleep_ms(1500);
		return;
	}
	worker->status = oob.allgather(oob.self, &send, recv, 1);
	psgd_rendezvous_error(worker->rendezvous, worker->error, sizeof(worker->error));
}

START_TEST(silent_worker_is_named)
{
	struct worker workers[3];

	init_all(workers, 3);
	for (int w = 0; w < 3; w++) {
		workers[w].work = slow_gather;
		workers[w].timeout_ns = SECOND;
	}
	workers[2].timeout_ns = 20 * SECOND; /* worker 0 tells it */
	run_all(workers, 3);
	for (int w = 0; w < 3; w += 2) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_TIMEOUT);
		ck_assert_str_eq(workers[w].error, "worker 1 did not answer within 1 s");
	}
}
END_TEST

/* Processes, because a killed one says nothing more. */
START_TEST(killed_worker_is_named)
{
	struct worker workers[3];
	pid_t child;
	int wait_status;

	init_all(workers, 3);
	child = fork();
	if (child == 0) {
		struct psgd_rendezvous_options options = PSGD_INIT(psgd_rendezvous_options);
		psgd_rendezvous *rendezvous;

		options.launch = &workers[2].launch;
		if (psgd_rendezvous_open(&options, &rendezvous))
			_exit(1);
		raise(SIGKILL);
	}
	workers[0].work = slow_gather;
	workers[1].work = master_leaves;
	start(&workers[0]);
	start(&workers[1]);
	waitpid(child, &wait_status, 0);
	join(&workers[0]);
	join(&workers[1]);
	ck_assert(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL);
	for (int w = 0; w < 2; w++) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_PEER_LOST);
		ck_assert_str_eq(workers[w].error, "worker 2 is gone");
	}
}
END_TEST

/* --- who may come --- */

START_TEST(missing_workers_are_named)
{
	struct worker workers[4];
	char text[200];

	init_all(workers, 4);
	workers[0].timeout_ns = SECOND / 2;
	start(&workers[0]);
	start(&workers[2]);
	join(&workers[0]);
	join(&workers[2]);
	snprintf(text, sizeof(text), "workers 1, 3 of 4 did not come to 127.0.0.1:%u within 0.5 s",
		workers[0].launch.master_port);
	ck_assert_int_eq(workers[0].status, PSGD_ERR_TIMEOUT);
	ck_assert_str_eq(workers[0].error, text);
	ck_assert_int_eq(workers[2].status, PSGD_ERR_TIMEOUT);
	ck_assert_str_eq(workers[2].error, text);
}
END_TEST

START_TEST(missing_worker_0_is_named)
{
	struct worker workers[2];
	char text[200];

	init_all(workers, 2);
	workers[1].timeout_ns = SECOND / 2;
	start(&workers[1]);
	join(&workers[1]);
	snprintf(text, sizeof(text),
		"worker 0 of 2 did not come to 127.0.0.1:%u within 0.5 s (the last try: Connection "
		"refused)",
		workers[1].launch.master_port);
	ck_assert_int_eq(workers[1].status, PSGD_ERR_TIMEOUT);
	ck_assert_str_eq(workers[1].error, text);
}
END_TEST

START_TEST(waiting_is_said_every_5_seconds)
{
	struct worker workers[2];
	char text[200];

	init_all(workers, 2);
	workers[0].timeout_ns = workers[1].timeout_ns = 6 * SECOND;
	workers[1].launch.master_port = free_port();
	run_all(workers, 2);
	snprintf(text, sizeof(text), "waiting for worker 1 at 127.0.0.1:%u (5 of 6 s)\n",
		workers[0].launch.master_port);
	ck_assert_str_eq(workers[0].log, text);
	snprintf(text, sizeof(text), "waiting for worker 0 at 127.0.0.1:%u (5 of 6 s)\n",
		workers[1].launch.master_port);
	ck_assert_str_eq(workers[1].log, text);
}
END_TEST

START_TEST(port_in_use)
{
	struct worker workers[2];
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char text[200];

	init_all(workers, 2);
	address.sin_port = htons(workers[0].launch.master_port);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	start(&workers[0]);
	join(&workers[0]);
	close(fd);
	snprintf(text, sizeof(text), "cannot listen on 127.0.0.1:%u: Address already in use",
		workers[0].launch.master_port);
	ck_assert_int_eq(workers[0].status, PSGD_ERR_IO);
	ck_assert_str_eq(workers[0].error, text);
}
END_TEST

START_TEST(addresses_that_cannot_be)
{
	struct worker worker;

	init_worker(&worker, 0, 2, free_port());
	snprintf(worker.launch.master_addr, 255, "0.0.0.0");
	start(&worker);
	join(&worker);
	ck_assert_int_eq(worker.status, PSGD_ERR_INVALID);
	ck_assert_ptr_nonnull(strstr(worker.error, "every address"));
	/* 192.0.2.0/24 is for documentation: no machine has it. */
	snprintf(worker.launch.master_addr, 255, "192.0.2.1");
	start(&worker);
	join(&worker);
	ck_assert_int_eq(worker.status, PSGD_ERR_IO);
	ck_assert_ptr_nonnull(strstr(worker.error, "no address of this machine"));
	worker.launch.worker = 2;
	start(&worker);
	join(&worker);
	ck_assert_int_eq(worker.status, PSGD_ERR_INVALID);
}
END_TEST

START_TEST(world_sizes_that_differ)
{
	struct worker workers[2];

	init_all(workers, 2);
	workers[1].launch.n_workers = 3;
	run_all(workers, 2);
	for (int w = 0; w < 2; w++) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_MISMATCH);
		ck_assert_str_eq(
			workers[w].error, "worker 1 has a world size of 3, worker 0 has 2");
	}
}
END_TEST

START_TEST(same_number_twice)
{
	struct worker workers[3];

	init_all(workers, 3);
	workers[2].launch.worker = 1;
	workers[1].delay_ms = 50;
	workers[2].delay_ms = 200;
	run_all(workers, 3);
	for (int w = 0; w < 3; w++) {
		ck_assert_int_eq(workers[w].status, PSGD_ERR_MISMATCH);
		ck_assert_ptr_nonnull(
			strstr(workers[w].error, "worker number 1 came twice, from 127.0.0.1:"));
	}
}
END_TEST

START_TEST(worker_that_leaves_may_come_again)
{
	struct worker workers[3], first;

	init_all(workers, 3);
	init_worker(&first, 1, 3, workers[0].launch.master_port);
	first.timeout_ns = SECOND / 2;
	start(&workers[0]);
	start(&first);
	join(&first);
	ck_assert_int_eq(first.status, PSGD_ERR_TIMEOUT);
	start(&workers[1]);
	start(&workers[2]);
	for (int w = 0; w < 3; w++) {
		join(&workers[w]);
		ck_assert_msg(workers[w].status == PSGD_OK, "%s", workers[w].error);
	}
	ck_assert(log_has(&workers[0], "worker 1 left before all were there"));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("rendezvous");
	TCase *t = tcase_create("exchange"), *w = tcase_create("who");

	tcase_add_loop_test(t, meets_and_exchanges, 0, 8);
	tcase_add_test(t, ipv6);
	tcase_add_test(t, share_is_bounded);
	tcase_add_test(t, uneven_gather_is_named_everywhere);
	tcase_add_test(t, lost_worker_is_named_everywhere);
	tcase_add_test(t, lost_master_is_named);
	tcase_add_test(t, silent_worker_is_named);
	tcase_add_test(t, killed_worker_is_named);
	tcase_set_timeout(t, 30);
	suite_add_tcase(s, t);
	tcase_add_test(w, missing_workers_are_named);
	tcase_add_test(w, missing_worker_0_is_named);
	tcase_add_test(w, waiting_is_said_every_5_seconds);
	tcase_add_test(w, port_in_use);
	tcase_add_test(w, addresses_that_cannot_be);
	tcase_add_test(w, world_sizes_that_differ);
	tcase_add_test(w, same_number_twice);
	tcase_add_test(w, worker_that_leaves_may_come_again);
	tcase_set_timeout(w, 30);
	suite_add_tcase(s, w);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
