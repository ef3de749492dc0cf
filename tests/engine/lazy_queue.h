/* The streams of a lazy device, and who does what is in them. Part of lazy_device.c. */
#ifndef TESTS_ENGINE_LAZY_QUEUE_H
#define TESTS_ENGINE_LAZY_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>

#include "lazy_device.h"
#include "lazy_work.h"
#include "support/random.h"

#define LAZY_STREAMS 64

struct event {
	const struct stream *stream; /* that it was recorded in; NULL: never */
	uint64_t at;		     /* done when the stream has done so much */
	int64_t ns;		     /* when that was */
	int pending;		     /* RECORDs that are still to come */
	bool destroyed;
};

struct op {
	struct op *next;
	enum { CALL, KERNEL, COPY, ZERO, RECORD, WAIT, HOLD } kind;
	void (*fn)(void *user);
	void *user;
	struct lazy_work *work;
	void *to;
	const void *from;
	size_t bytes;
	struct event *event;	     /* of RECORD */
	const struct stream *stream; /* of WAIT, as at */
	uint64_t at;
};

/* Kept until the device ends: waits may name one that is destroyed. */
struct stream {
	struct op *first, *last;
	uint64_t put, done;
	bool alive;
};

struct lazy {
	enum lazy_mode mode;
	struct psgd_device cpu;
	pthread_mutex_t lock; /* guards all that follows, but the counters */
	pthread_cond_t changed;
	pthread_t thread;
	struct stream streams[LAZY_STREAMS]; /* [0] is the default one */
	size_t n_streams;
	struct rng rng;
	bool stop, held, broken;
	char text[128];
	atomic_long calls, fail_at, waits, made, alive;
	atomic_bool failed;
};

/* All with the lock held; it is let go while work is done. */
uint64_t lazy_put(
	struct lazy *l, struct stream *s, struct op what); /* how much the stream has then */
bool lazy_do_next(struct lazy *l);			   /* false: nothing can be done */
void lazy_wait_until(struct lazy *l, const struct stream *s, uint64_t done);
bool lazy_is_done(const struct event *e);

void *lazy_work_on(void *lazy); /* the thread */

#endif
