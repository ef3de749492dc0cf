#include "net/pair.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 262144
#define SETTLE_S 0.5

/* A full frame of Ethernet carries so much of TCP, with time stamps. */
#define FRAME 1514.0
#define IN_FRAME 1448.0

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* In a child, so that the test itself stays where it is. */
static const char *why_not(void)
{
	pid_t pid;
	int status;

	if (geteuid())
		return "network namespaces need root";
	pid = fork();
	if (!pid)
		_exit(unshare(CLONE_NEWNET) ? 1 : 0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return "this root may not make network namespaces";
	if (system("ip -V >/dev/null 2>&1 && tc -V >/dev/null 2>&1"))
		return "ip and tc (iproute2) are not installed";
	return NULL;
}

bool pair_skips(void)
{
	const char *why = why_not();

	if (why)
		printf("1..0 # SKIP %s\n", why);
	return why != NULL;
}

char *pair_says(const char *format, ...)
{
	size_t used = 0, room = 1 << 16, n;
	char command[1024], *text = malloc(room);
	va_list args;
	FILE *pipe;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	pipe = popen(command, "r");
	ck_assert_ptr_nonnull(pipe);
	while ((n = fread(text + used, 1, room - used - 1, pipe)) > 0)
		used += n;
	text[used] = '\0';
	ck_assert_msg(!pclose(pipe), "failed: %s", command);
	ck_assert_uint_lt(used + 1, room);
	return text;
}

void pair_run(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	free(pair_says("%s", command));
}

static int own_namespace(void)
{
	int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static void enter(int fd)
{
	ck_assert_int_eq(setns(fd, CLONE_NEWNET), 0);
}

static void give_addresses(const char *name, int number)
{
	pair_run("ip link set lo up && ip link set %s up && ip address add 10.77.0.%d/24 dev %s && "
		 "ip address add fd77::%d/64 dev %s nodad",
		name, number, name, number, name);
}

struct pair pair_make(void)
{
	struct pair pair;

	ck_assert_int_eq(unshare(CLONE_NEWNET), 0);
	pair.right = own_namespace();
	ck_assert_int_eq(unshare(CLONE_NEWNET), 0);
	pair.left = own_namespace();
	pair_run("ip link add left type veth peer name right && "
		 "ip link set right netns /proc/%d/fd/%d",
		getpid(), pair.right);
	enter(pair.right);
	give_addresses("right", 2);
	enter(pair.left);
	give_addresses("left", 1);
	/* The kernel says so a moment later. */
	pair_run("until ip -o link show dev left | grep -q 'state UP'; do sleep 0.01; done");
	return pair;
}

bool pair_has_netem(void)
{
	return !system("tc qdisc add dev lo root netem delay 1ms >/dev/null 2>&1 && "
		       "tc qdisc del dev lo root");
}

static socklen_t address_of(struct sockaddr_storage *at, bool ipv6, int number, uint16_t port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)at;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)at;
	char text[32];

	memset(at, 0, sizeof(*at));
	snprintf(text, sizeof(text), ipv6 ? "fd77::%d" : "10.77.0.%d", number);
	if (ipv6) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		ck_assert_int_eq(inet_pton(AF_INET6, text, &v6->sin6_addr), 1);
		return sizeof(*v6);
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons(port);
	ck_assert_int_eq(inet_pton(AF_INET, text, &v4->sin_addr), 1);
	return sizeof(*v4);
}

struct flow flow_open(const struct pair *pair, bool to_right, bool ipv6, uint16_t port)
{
	struct sockaddr_storage at;
	const socklen_t length = address_of(&at, ipv6, to_right ? 2 : 1, port);
	const int family = ipv6 ? AF_INET6 : AF_INET, on = 1;
	struct flow flow;
	int listener;

	/* A socket stays in the namespace in which it was made. */
	enter(to_right ? pair->right : pair->left);
	listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&at, length), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	enter(to_right ? pair->left : pair->right);
	flow.from = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(flow.from, (struct sockaddr *)&at, length), 0);
	enter(pair->left);
	flow.to = accept(listener, NULL, NULL);
	ck_assert_int_ge(flow.to, 0);
	close(listener);
	setsockopt(flow.from, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* Whatever the host's is: bbr shares badly with itself in the other direction. */
	setsockopt(flow.from, IPPROTO_TCP, TCP_CONGESTION, "cubic", sizeof("cubic") - 1);
	setsockopt(flow.to, IPPROTO_TCP, TCP_CONGESTION, "cubic", sizeof("cubic") - 1);
	return flow;
}

void flow_close(struct flow *flow)
{
	const struct linger at_once = {.l_onoff = 1};

	/* What still waits in a queue is dropped, so that the next one finds it empty. */
	setsockopt(flow->from, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(flow->from);
	close(flow->to);
}

struct sender {
	pthread_t thread;
	int fd;
	atomic_bool stop;
	char *bytes;
};

static void *send_on(void *argument)
{
	struct sender *s = argument;

	while (!s->stop) {
		struct pollfd ready = {.fd = s->fd, .events = POLLOUT};

		if (poll(&ready, 1, 50) > 0 &&
			send(s->fd, s->bytes, CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
			errno != EAGAIN)
			break;
	}
	return NULL;
}

struct sender *flow_start(const struct flow *flow)
{
	struct sender *s = calloc(1, sizeof(*s));

	s->fd = flow->from;
	s->bytes = calloc(1, CHUNK);
	ck_assert_int_eq(pthread_create(&s->thread, NULL, send_on, s), 0);
	return s;
}

void flow_stop(struct sender *s)
{
	s->stop = true;
	pthread_join(s->thread, NULL);
	free(s->bytes);
	free(s);
}

/* Reads for so long; returns what came, and in *took how long it was until the last of it. */
static uint64_t read_for(int fd, double seconds, double *took)
{
	char *bytes = malloc(CHUNK);
	const double start = now_s();
	double last = start;
	uint64_t sum = 0;

	while (now_s() - start < seconds) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&ready, 1, 20) <= 0)
			continue;
		n = recv(fd, bytes, CHUNK, 0);
		ck_assert_int_gt(n, 0);
		sum += (uint64_t)n;
		last = now_s();
	}
	free(bytes);
	*took = last - start;
	return sum;
}

double flow_rate(const struct flow *flow, double seconds)
{
	double took;
	uint64_t bytes;

	read_for(flow->to, SETTLE_S, &took);
	bytes = read_for(flow->to, seconds, &took);
	ck_assert_double_gt(took, seconds / 2);
	return (double)bytes * 8 * FRAME / IN_FRAME / took;
}

double pair_rate(const struct pair *pair, bool to_right, uint16_t port, double seconds)
{
	struct flow flow = flow_open(pair, to_right, false, port);
	struct sender *sender = flow_start(&flow);
	const double rate = flow_rate(&flow, seconds);

	flow_stop(sender);
	flow_close(&flow);
	return rate;
}

struct message {
	int fd;
	size_t bytes;
	char *data;
	double start;
};

static void *send_message(void *argument)
{
	struct message *m = argument;

	m->start = now_s();
	for (size_t sent = 0; sent < m->bytes;) {
		ssize_t n = send(m->fd, m->data + sent, m->bytes - sent, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	return NULL;
}

double flow_message(const struct flow *flow, size_t bytes)
{
	struct message m = {.fd = flow->from, .bytes = bytes, .data = malloc(bytes)};
	char *to = malloc(CHUNK);
	pthread_t thread;
	double end;

	memset(m.data, 1, bytes);
	ck_assert_int_eq(pthread_create(&thread, NULL, send_message, &m), 0);
	for (size_t got = 0; got < bytes;) {
		ssize_t n = recv(flow->to, to, CHUNK, 0);

		ck_assert_int_gt(n, 0);
		got += (size_t)n;
	}
	end = now_s();
	pthread_join(thread, NULL);
	free(to);
	free(m.data);
	return end - m.start;
}
