/* Messages that every worker knows from their number, and what must have become of them. */
#ifndef TESTS_TRANSPORT_MESSAGES_H
#define TESTS_TRANSPORT_MESSAGES_H

#include "transport/workers.h"

#define MS INT64_C(1000000)

struct item {
	struct psgd_collective c;
	void *request;
	atomic_int notified;
	uint64_t message;
	void *device; /* where post has put the data meanwhile; NULL: nowhere */
};

/* With NCCL, each other message goes by memory of the device. */
psgd_status post(struct worker *w, struct item *item);

/* Until the request ends; fails when that takes too long. */
psgd_status finish(struct worker *w, struct item *item, struct psgd_transfer *t);

/* Notify may come a moment after test has seen the result, but it must come. */
void require_notified(struct item *item);

/* In memory: of an all-gather, all blocks. */
int64_t values_in(const struct item *item, uint32_t n);

/* What is not this worker's to fill holds what must not stay. */
void fill(struct item *item, uint32_t worker, uint32_t n);

void require_value(const struct item *item, uint32_t n, int64_t i);

/* A message that all workers know from its number. */
void draw(struct item *item, uint64_t message, uint32_t n);

void require_transfer(
	const struct psgd_transfer *t, const struct item *item, uint32_t n, int64_t *last_end);

/* The bytes of all workers are those of worker 0. */
void require_equal_bits(struct worker *w, struct item *item);

/* An all-reduce of zeros, with memory for any kind of collective. */
struct item one_item(int64_t count);

#endif
