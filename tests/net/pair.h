/*
 * Two network namespaces on a veth pair. The test's process is in the first one and has the
 * interface "left" with 10.77.0.1 and fd77::1; the second has "right" with 10.77.0.2 and fd77::2.
 * Both end with the test, however it ends.
 */
#ifndef TESTS_NET_PAIR_H
#define TESTS_NET_PAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pair {
	int left, right; /* of namespaces */
};

/* Prints that the suite is skipped, and why, when this process cannot have namespaces. */
bool pair_skips(void);

/* Once in a process. */
struct pair pair_make(void);

/* What a command of a shell prints in the namespace of this thread. The caller frees. */
char *pair_says(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same for a command that must succeed; what it prints is dropped. */
void pair_run(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Does this kernel have netem? */
bool pair_has_netem(void);

/* A TCP connection: what is written to `from` comes out of `to`. */
struct flow {
	int from, to;
};

/* `to_right`: who sends. The port is the receiver's. */
struct flow flow_open(const struct pair *pair, bool to_right, bool ipv6, uint16_t port);
void flow_close(struct flow *flow);

/* Sends until flow_stop, in a thread of its own. */
struct sender;
struct sender *flow_start(const struct flow *flow);
void flow_stop(struct sender *sender);

/*
 * Bits per second that arrive, counted as the frames they came in, over `seconds` after a settling
 * time. Someone sends.
 */
double flow_rate(const struct flow *flow, double seconds);

/* The same of a connection of its own. */
double pair_rate(const struct pair *pair, bool to_right, uint16_t port, double seconds);

/* Seconds from the first byte written to the last one read. */
double flow_message(const struct flow *flow, size_t bytes);

#endif
