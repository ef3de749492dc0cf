/* The CPU as a device: what its files share. */
#ifndef PSGD_DEVICE_CPU_H
#define PSGD_DEVICE_CPU_H

#include "base/kernels.h"

/*
 * Kernels of one instruction set, on one matrix or a part of it. A part begins at a multiple of
 * PSGD__PART, and what is computed for a row or a column does not depend on the part it is in.
 */
#define PSGD__PART 64
#define PSGD__PART_VALUES (1 << 18) /* that a thread takes at once, about: 1 MiB */

struct psgd__cpu_isa {
	const char *name;
	/* Rows from .. to-1 of p. */
	void (*project)(const struct psgd__matrix *x, int64_t from, int64_t to);
	/* Rows from .. to-1 of each column of q, which are columns of g. */
	void (*back_project)(const struct psgd__matrix *x, int64_t from, int64_t to);
	/* Rows from .. to-1 of g and e. */
	void (*reconstruct)(const struct psgd__matrix *x, int64_t from, int64_t to);
	void (*orthonormalize)(const struct psgd__panel *x, float eps);
	/* g += e; p = g. */
	void (*absorb)(int64_t count, const float *e, float *g, float *p);
	void (*axpby)(int64_t count, float a, const float *x, float b, float *y);
	double (*sum_squares)(const float *x, int64_t count);
	bool (*finite)(const float *x, int64_t count);
};

/* The best that this CPU can run, leaving out the features in the mask. */
const struct psgd__cpu_isa *psgd__cpu_best(uint32_t without);

extern const struct psgd__cpu_isa psgd__cpu_plain;

/* cpu_pool.c: threads that share the items of a job with the thread that calls. */
struct psgd__pool;
psgd_status psgd__pool_open(uint32_t threads, struct psgd__pool **out);
/* Returns when all items are done. Items run in any order. pool NULL: the caller does them all. */
void psgd__pool_run(
	struct psgd__pool *pool, void (*task)(void *user, size_t item), void *user, size_t items);
void psgd__pool_close(struct psgd__pool *pool);

struct psgd__cpu {
	struct psgd_device_cpu_options options;
	const struct psgd__cpu_isa *isa;
	struct psgd__pool *pool; /* NULL: one thread */
};

/* The table; self is a struct psgd__cpu. */
extern const struct psgd_kernels psgd__cpu_kernels;

/* Entries of the table; see base/kernels.h. */
psgd_status psgd__cpu_absorb_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
psgd_status psgd__cpu_back_project(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
psgd_status psgd__cpu_reconstruct(
	void *self, const struct psgd__matrix *list, size_t count, psgd_stream stream);
psgd_status psgd__cpu_finish(void *self, const struct psgd__finish *finish, psgd_stream stream);
psgd_status psgd__cpu_finite(
	void *self, const struct psgd__span *list, size_t count, int *out, psgd_stream stream);
psgd_status psgd__cpu_leading(
	void *self, const struct psgd__panel *from, uint32_t keep, float *to, psgd_stream stream);

#endif
