/* Strangers and wrong tokens do not stop those who may meet. */
#include "experiment/rendezvous_support.h"

/* --- strangers --- */

START_TEST(garbage_does_not_end_it)
{
	struct worker workers[2];
	uint8_t garbage[3000];
	int fds[8];

	init_all(workers, 2);
	start(&workers[0]);
	srand(7);
	for (int s = 0; s < 8; s++) {
		size_t n = s ? (size_t)rand() % sizeof(garbage) : sizeof(garbage);

		fds[s] = connect_stranger(workers[0].launch.master_port);
		for (size_t i = 0; i < n; i++)
			garbage[i] = (uint8_t)rand();
		/* Magic and type that are right, and a length that is not. */
		if (s & 1)
			memcpy(garbage, "\x89PSG\1\0\0\0\xff\xff\xff\x7f", 12);
		send(fds[s], garbage, n, MSG_NOSIGNAL);
	}
	send(fds[0], "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
	start(&workers[1]);
	join(&workers[0]);
	join(&workers[1]);
	for (int s = 0; s < 8; s++)
		close(fds[s]);
	ck_assert_msg(workers[0].status == PSGD_OK, "%s", workers[0].error);
	ck_assert_msg(workers[1].status == PSGD_OK, "%s", workers[1].error);
	ck_assert(log_has(&workers[0], "it speaks another protocol"));
}
END_TEST

START_TEST(silent_strangers_do_not_block_it)
{
	struct worker workers[2];
	int fds[100];

	init_all(workers, 2);
	start(&workers[0]);
	for (int s = 0; s < 100; s++)
		fds[s] = connect_stranger(workers[0].launch.master_port);
	send(fds[99], "\x89P", 2, MSG_NOSIGNAL);
	start(&workers[1]);
	join(&workers[0]);
	join(&workers[1]);
	for (int s = 0; s < 100; s++)
		close(fds[s]);
	ck_assert_msg(workers[0].status == PSGD_OK, "%s", workers[0].error);
	ck_assert_msg(workers[1].status == PSGD_OK, "%s", workers[1].error);
}
END_TEST

START_TEST(refusals_are_counted_in_the_timeout)
{
	struct worker workers[2];
	int fd;

	init_all(workers, 2);
	workers[0].timeout_ns = SECOND;
	start(&workers[0]);
	fd = connect_stranger(workers[0].launch.master_port);
	send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
	join(&workers[0]);
	close(fd);
	ck_assert_int_eq(workers[0].status, PSGD_ERR_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(workers[0].error,
		"within 1 s (connections refused: 1; the last: it speaks another protocol, from "
		"127.0.0.1:"));
}
END_TEST

/* Something else has worker 0's port: the others go on trying. */
START_TEST(wrong_server_is_not_worker_0)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd;
	struct worker workers[2];
	char sink[256];

	init_all(workers, 2);
	address.sin_port = htons(workers[0].launch.master_port);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(listener, 8), 0);
	workers[1].timeout_ns = SECOND;
	start(&workers[1]);
	fd = accept(listener, NULL, NULL);
	ck_assert_int_gt(recv(fd, sink, sizeof(sink), 0), 0);
	send(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28, MSG_NOSIGNAL);
	close(listener);
	close(fd);
	join(&workers[1]);
	ck_assert_int_eq(workers[1].status, PSGD_ERR_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(workers[1].error, "worker 0 of 2 did not come to"));
}
END_TEST

/* --- token --- */

START_TEST(token_opens)
{
	struct worker workers[3];
	char a[64], b[64];

	/* White space around it does not count. */
	write_token(a, "0123456789abcdef-secret", 0600);
	write_token(b, "\n 0123456789abcdef-secret \r\n", 0400);
	init_all(workers, 3);
	workers[0].token_file = workers[1].token_file = a;
	workers[2].token_file = b;
	for (int w = 0; w < 3; w++)
		workers[w].work = exchange;
	run_all(workers, 3);
	for (int w = 0; w < 3; w++)
		ck_assert_msg(workers[w].status == PSGD_OK, "worker %d: %s", w, workers[w].error);
	unlink(a);
	unlink(b);
}
END_TEST

/* A wrong or missing token ends the one who came with it, and nobody else. */
static void check_token(const char *own, const char *other, const char *text)
{
	struct worker workers[2], wrong;

	init_all(workers, 2);
	init_worker(&wrong, 1, 2, workers[0].launch.master_port);
	workers[0].token_file = workers[1].token_file = own;
	wrong.token_file = other;
	start(&workers[0]);
	start(&wrong);
	join(&wrong);
	ck_assert_int_eq(wrong.status, PSGD_ERR_AUTH);
	ck_assert_msg(strstr(wrong.error, text) != NULL, "%s", wrong.error);
	ck_assert_msg(strstr(wrong.error, "refused this worker") != NULL, "%s", wrong.error);
	start(&workers[1]);
	join(&workers[0]);
	join(&workers[1]);
	ck_assert_msg(workers[0].status == PSGD_OK, "%s", workers[0].error);
	ck_assert_msg(workers[1].status == PSGD_OK, "%s", workers[1].error);
	ck_assert(log_has(&workers[0], text));
}

START_TEST(tokens_that_differ)
{
	char a[64], b[64];

	write_token(a, "0123456789abcdef", 0600);
	write_token(b, "0123456789abcdeF", 0600);
	check_token(a, b, "its token is not worker 0's");
	check_token(a, NULL, "worker 0 asks for a token, the other has none");
	check_token(NULL, a, "worker 0 has no token, the other has one");
	unlink(a);
	unlink(b);
}
END_TEST

/* A server that skips the challenge, or makes up its proof, must not get a worker with a token. */
START_TEST(false_master_is_refused)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd;
	uint8_t frame[12 + 32] = "\x89PSG\4\0\0\0\x20\0\0\0";
	struct worker workers[2];
	char a[64], sink[256];

	write_token(a, "0123456789abcdef", 0600);
	init_all(workers, 2);
	address.sin_port = htons(workers[0].launch.master_port);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(listener, 8), 0);
	workers[1].token_file = a;
	workers[1].timeout_ns = 10 * SECOND;
	start(&workers[1]);
	/* WELCOME at once: it comes again. */
	fd = accept(listener, NULL, NULL);
	send(fd, frame, sizeof(frame), MSG_NOSIGNAL);
	while (recv(fd, sink, sizeof(sink), 0) > 0)
		;
	close(fd);
	/* CHALLENGE, then a WELCOME without a proof. */
	fd = accept(listener, NULL, NULL);
	frame[4] = 2;
	send(fd, frame, sizeof(frame), MSG_NOSIGNAL);
	ck_assert_int_gt(recv(fd, sink, sizeof(sink), 0), 0);
	frame[4] = 4;
	send(fd, frame, sizeof(frame), MSG_NOSIGNAL);
	join(&workers[1]);
	close(fd);
	close(listener);
	ck_assert_int_eq(workers[1].status, PSGD_ERR_AUTH);
	ck_assert_ptr_nonnull(strstr(workers[1].error, "does not have this worker's token"));
	unlink(a);
}
END_TEST

static const struct {
	const char *text;
	mode_t mode;
	const char *error;
} bad_tokens[] = {
	{"0123456789abcde", 0600, "is too short: 15 bytes, at least 16"},
	{"   0123456789abcde\n", 0600, "is too short: 15 bytes, at least 16"},
	{"", 0600, "is too short: 0 bytes, at least 16"},
	{"0123456789abcdef", 0640, "is open to other users (mode 0640): chmod 600 it"},
	{"0123456789abcdef", 0604, "is open to other users (mode 0604): chmod 600 it"},
};

START_TEST(bad_token_files)
{
	struct worker worker;
	char path[64];

	write_token(path, bad_tokens[_i].text, bad_tokens[_i].mode);
	init_worker(&worker, 0, 2, free_port());
	worker.token_file = path;
	start(&worker);
	join(&worker);
	unlink(path);
	ck_assert_int_eq(worker.status, PSGD_ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(worker.error, bad_tokens[_i].error));
	start(&worker);
	join(&worker);
	ck_assert_int_eq(worker.status, PSGD_ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(worker.error, "No such file or directory"));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("rendezvous_strangers");
	TCase *x = tcase_create("strangers"), *k = tcase_create("token");

	tcase_add_test(x, garbage_does_not_end_it);
	tcase_add_test(x, silent_strangers_do_not_block_it);
	tcase_add_test(x, refusals_are_counted_in_the_timeout);
	tcase_add_test(x, wrong_server_is_not_worker_0);
	tcase_set_timeout(x, 30);
	suite_add_tcase(s, x);
	tcase_add_test(k, token_opens);
	tcase_add_test(k, tokens_that_differ);
	tcase_add_test(k, false_master_is_refused);
	tcase_add_loop_test(k, bad_token_files, 0, sizeof(bad_tokens) / sizeof(bad_tokens[0]));
	tcase_set_timeout(k, 30);
	suite_add_tcase(s, k);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
