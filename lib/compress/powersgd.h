/* State of PowerSGD, shared by the step (powersgd.c) and the change of ranks (powersgd_rank.c). */
#ifndef PSGD_COMPRESS_POWERSGD_H
#define PSGD_COMPRESS_POWERSGD_H

#include <psgd/compressor.h>

#include "base/base.h"
#include "base/index.h"
#include "base/kernels.h"

struct psgd__ps_tensor {
	int64_t n, m;
	uint32_t id;
	uint32_t rank; /* in force, clamped; 0: dense */
	float *e;      /* error memory, n by m; NULL until the tensor is first compressed */
	float *q;      /* q_cols columns of m values; NULL without warm start */
	uint32_t q_cols;
	uint32_t draw;	   /* of the next random Q, or columns of one */
	bool compressible; /* a matrix that may be compressed at all */
	bool q_used;	   /* q holds the last step's Q */
	bool e_used;	   /* e may hold something other than zeros */
};

struct psgd__powersgd {
	struct psgd_powersgd_options options;
	struct psgd_scope scope;
	struct psgd__index index;
	struct psgd__ps_tensor *tensors;
	uint64_t state_bytes;
	/* The bucket at hand as the kernels take it, with room for every tensor. */
	struct psgd__ps_group {
		const struct psgd__ps_tensor **tensors;
		struct psgd__matrix *list; /* the compressed ones first */
		struct psgd__start *starts;
		struct psgd__panel *panels;
		size_t n, n_compressed;
		int64_t values[2]; /* of the messages */
	} group;
};

/* The rank that a tensor would have: clamped, 0 if it would travel dense. */
uint32_t psgd__powersgd_effective_rank(
	const struct psgd__powersgd *ps, const struct psgd__ps_tensor *tensor, uint32_t rank);

/* See psgd_compressor_ops. */
psgd_status psgd__powersgd_set_ranks(void *self, const uint32_t *ranks);

/* Device memory that is counted in state_bytes. */
psgd_status psgd__powersgd_alloc(struct psgd__powersgd *ps, size_t values, float **out);
void psgd__powersgd_free(struct psgd__powersgd *ps, float *memory, size_t values);

/*
 * Waits until the device has done all it was asked for: memory is given back in no order. Nothing
 * to wait for on a device that is not asynchronous.
 */
psgd_status psgd__powersgd_drain(const struct psgd__powersgd *ps);

/* powersgd_state.c; see psgd_compressor_ops. */
psgd_status psgd__powersgd_save(void *self, const struct psgd_state_writer *writer);
psgd_status psgd__powersgd_load(void *self, const struct psgd_state_reader *reader);

#endif
