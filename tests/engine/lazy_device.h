/*
 * An asynchronous device over the CPU's kernels: what comes into a stream is done later, by another
 * thread, in the order of that stream and in no order with others. Whatever relies on an order that
 * nobody asked for computes with what is not there yet.
 */
#ifndef TESTS_ENGINE_LAZY_DEVICE_H
#define TESTS_ENGINE_LAZY_DEVICE_H

#include <psgd/device.h>

enum lazy_mode {
	LAZY_DELAYED, /* a thread does the work, after short pauses by chance */
	LAZY_WAITED   /* work is done when somebody waits or asks, and then no more than it takes;
		       * all calls by one thread */
};

psgd_status lazy_open(enum lazy_mode mode, uint64_t seed, struct psgd_device *out);

/* Puts fn(user) into a stream, NULL: the default one, as a trainer's kernel would be. */
void lazy_push(
	const struct psgd_device *device, psgd_stream stream, void (*fn)(void *user), void *user);

/* What comes into the stream from now on does not begin before lazy_release. */
void lazy_hold(const struct psgd_device *device, psgd_stream stream);
void lazy_release(const struct psgd_device *device);

/* The k-th call from now on that can fail does (0: the next), once, and does nothing. -1: none. */
void lazy_fail(const struct psgd_device *device, long k);

/* From now on every call fails, and nothing that is in a stream is done. */
void lazy_break(const struct psgd_device *device);

long lazy_calls(const struct psgd_device *device);  /* that could have failed, since lazy_fail */
bool lazy_failed(const struct psgd_device *device); /* one has, since lazy_fail */

long lazy_waits(const struct psgd_device *device); /* calls so far that waited for a stream */
long lazy_made(const struct psgd_device *device);  /* streams and events created so far */
long lazy_leaks(const struct psgd_device *device); /* memory, streams, events not given back */

#endif
