/* Makes a transport of blocking collectives: one thread runs them in the order of posting. */
#ifndef PSGD_TRANSPORT_QUEUE_H
#define PSGD_TRANSPORT_QUEUE_H

#include <psgd/transport.h>

struct psgd__queue;

/* What the queue runs. An error of `run` is final: it is never called again. */
struct psgd__queue_jobs {
	psgd_status (*run)(void *self, const struct psgd_collective *collective,
		uint64_t *sent_bytes, char *reason, size_t bytes);
	/* Any thread: makes `run` fail soon, now and later, and lets the peers notice. */
	void (*interrupt)(void *self);
	void (*close)(void *self);
};

/* On success the queue owns self, and ends it by jobs->close; on failure the caller does. */
psgd_status psgd__queue_open(const struct psgd__queue_jobs *jobs, void *self, uint32_t worker,
	uint32_t n_workers, struct psgd__queue **out);

/* Members of psgd_transport_ops; self is the queue. */
psgd_status psgd__queue_post(void *self, const struct psgd_collective *collective, void **request);
psgd_status psgd__queue_test(
	void *self, void *request, int64_t timeout_ns, struct psgd_transfer *out);
void psgd__queue_abort(void *self);
void psgd__queue_error(void *self, char *text, size_t bytes);
void psgd__queue_destroy(void *self);

#endif
