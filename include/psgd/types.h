/* Tensors, buckets and the struct initialiser. SPDX-License-Identifier: MIT */
#ifndef PSGD_TYPES_H
#define PSGD_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <psgd/status.h>

/*
 * Options and report structs begin with their size, so that a program and a library of different
 * versions understand each other. Create them in your own translation unit:
 *     struct psgd_link link = PSGD_INIT(psgd_link);
 * Every field is zero then, and zero means the default in every field.
 */
/* clang-format off */
#ifdef __cplusplus
#define PSGD_INIT(type) [] { struct type v_{}; v_.size = sizeof(v_); return v_; }()
#else
#define PSGD_INIT(type) ((struct type){ .size = sizeof(struct type) })
#endif
/* clang-format on */

PSGD_BEGIN

#define PSGD_MAX_DIMS 8

typedef void *psgd_stream;    /* a stream of the device; NULL on the CPU, which has only one */
typedef uint64_t psgd_ticket; /* names a submitted bucket; 0 is never one */

enum psgd_dtype {
	PSGD_F32 = 1,
	PSGD_F64 = 2, /* scalars and hashes */
	PSGD_U8 = 3   /* broadcasts of bytes */
};

enum psgd_tensor_flags {
	PSGD_TENSOR_DENSE = 1 << 0 /* never compress this tensor */
};

/*
 * A parameter tensor, row-major and contiguous. Compression sees it as the matrix
 * n = dims[0] by m = dims[1] * dims[2] * ...; one with n_dims below 2 is never compressed.
 */
struct psgd_tensor {
	uint32_t id;	 /* unique in a session, chosen by the caller, equal on all workers */
	uint32_t flags;	 /* enum psgd_tensor_flags */
	uint32_t dtype;	 /* enum psgd_dtype; gradients are PSGD_F32 */
	uint32_t n_dims; /* 0 (a scalar) to PSGD_MAX_DIMS */
	int64_t dims[PSGD_MAX_DIMS]; /* each at least 1 */
	const char *name;	     /* for messages; NULL: none; copied */
};

/* One gradient of a bucket: the tensor's id, and where its values are. */
struct psgd_grad {
	uint32_t id;
	float *data; /* as many values as the tensor has; replaced by the mean over the workers */
};

/* Gradients submitted together. Which tensors share a bucket may change from step to step. */
struct psgd_bucket {
	size_t size;
	const struct psgd_grad *grads;
	size_t n_grads; /* at least 1; each tensor at most once in a step */
};

/* Bytes of one value; 0 for an unknown type. Any thread. */
PSGD_API size_t psgd_dtype_bytes(uint32_t dtype);

/* Number of values; -1 when a dimension is below 1 or the product overflows. Any thread. */
PSGD_API int64_t psgd_tensor_count(const struct psgd_tensor *tensor);

/* The matrix view: n rows, m columns. A 0-d or 1-d tensor is count by 1. Any thread. */
PSGD_API psgd_status psgd_tensor_matrix(const struct psgd_tensor *tensor, int64_t *n, int64_t *m);

PSGD_END
#endif
