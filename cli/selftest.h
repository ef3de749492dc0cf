/* What the files of `psgd selftest` share. SPDX-License-Identifier: MIT */
#ifndef CLI_SELFTEST_H
#define CLI_SELFTEST_H

#include <psgd/compressor.h>

#include "cli.h"

/* What is claimed of a device. A check compares many things, and tells the first that is wrong. */
enum cli_claim {
	CLI_CLAIM_MEMORY,
	CLI_CLAIM_ORDER,
	CLI_CLAIM_CALLS,
	CLI_CLAIM_ABSORB,
	CLI_CLAIM_START,
	CLI_CLAIM_PROJECT,
	CLI_CLAIM_ORTHONORMAL,
	CLI_CLAIM_BACK_PROJECT,
	CLI_CLAIM_RECONSTRUCT,
	CLI_CLAIM_STATE,
	CLI_CLAIM_RANKS,
	CLI_CLAIM_NONFINITE,
	CLI_CLAIM_MOVE,
	CLI_CLAIM_EXCHANGE,
	CLI_CLAIMS
};

struct cli_check {
	uint64_t n;	  /* things compared */
	double largest;	  /* error found, where a tolerance is claimed */
	const char *skip; /* why it was not made; NULL: it was */
	char why[256];	  /* "": all is well */
};

/* A device, and the stream that all work on it goes through here; NULL on the CPU. */
struct cli_side {
	struct psgd_device device;
	psgd_stream stream;
};

enum { CLI_TESTED, CLI_REFERENCE, CLI_SIDES };

struct cli_selftest {
	struct cli_side sides[CLI_SIDES];
	uint64_t random; /* the state of what is drawn */
	struct cli_check checks[CLI_CLAIMS];
};

/* Keeps the first reason. */
void cli_claim_fails(struct cli_selftest *t, enum cli_claim claim, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* A call failed: false, with the device's reason. */
bool cli_claim_ok(struct cli_selftest *t, enum cli_claim claim, psgd_status status,
	const struct cli_side *side, const char *what);
/* Equal bytes; names the first value that differs. */
bool cli_claim_equal(struct cli_selftest *t, enum cli_claim claim, const float *tested,
	const float *reference, size_t n, const char *what, size_t which);

/* low to high, both included; and -1 to 1. */
uint32_t cli_draw(struct cli_selftest *t, uint32_t low, uint32_t high);
float cli_draw_value(struct cli_selftest *t);

/* ---- selftest_memory.c ---- */

/* An asynchronous device has calls that others lack. */
bool cli_side_is_async(const struct cli_side *side);
/* Memory of the device; NULL: none is left. */
void *cli_side_alloc(const struct cli_side *side, size_t bytes);
void cli_side_free(const struct cli_side *side, void *memory, size_t bytes);
/* Between the host's memory and the device's, done on return. */
psgd_status cli_side_put(const struct cli_side *side, void *to, const void *from, size_t bytes);
psgd_status cli_side_get(const struct cli_side *side, void *to, const void *from, size_t bytes);
psgd_status cli_side_finish(const struct cli_side *side);

/* The claims MEMORY, ORDER and CALLS. */
void cli_check_memory(struct cli_selftest *t);

/* ---- selftest_arrays.c ---- */

/* The state of a compressor in memory. */
struct cli_arrays {
	struct cli_array *list;
	size_t n;
};

psgd_status cli_arrays_save(struct cli_arrays *arrays, const struct psgd_compressor *from);
psgd_status cli_arrays_load(const struct cli_arrays *arrays, const struct psgd_compressor *to);
void cli_arrays_free(struct cli_arrays *arrays);
/* NULL: byte for byte the same; else the name of the first that differs. */
const char *cli_arrays_differ(const struct cli_arrays *a, const struct cli_arrays *b);

/* ---- selftest_model.c ---- */

#define CLI_SELFTEST_WORKERS 3
#define CLI_SELFTEST_TENSORS 200

/* Random tensors, and where their values lie in the block of a worker. */
struct cli_model {
	struct psgd_tensor tensors[CLI_SELFTEST_TENSORS];
	int64_t rows[CLI_SELFTEST_TENSORS], cols[CLI_SELFTEST_TENSORS];
	size_t at[CLI_SELFTEST_TENSORS]; /* values */
	size_t n, n_values;
	uint32_t n_workers;
	float *gradients[CLI_SELFTEST_WORKERS]; /* in the host's memory */
};

/* n tensors of at most `most` rows and columns. False: no memory; to be closed in any case. */
bool cli_model_open(struct cli_selftest *t, struct cli_model *model, size_t n, uint32_t most,
	uint32_t n_workers);
void cli_model_close(struct cli_model *model);
/* New gradients: low rank and noise, as in training; one tensor may be zero. */
void cli_model_draw(struct cli_selftest *t, struct cli_model *model);
/* A rank for every tensor, 0 (dense) to most. */
void cli_model_draw_ranks(struct cli_selftest *t, const struct cli_model *model, uint32_t most,
	uint32_t ranks[CLI_SELFTEST_TENSORS]);

/* ---- selftest_group.c, selftest_reference.c ---- */

/* The claims of a compressor's rounds, over groups of matrices. */
void cli_check_groups(struct cli_selftest *t, uint32_t n_groups);

/*
 * In float64: p = g q (rows by r), and q = g^T p (cols by r). g is row-major, p and q have their
 * columns one after the other. The error of `tested`, as a Frobenius norm over that of the result.
 */
double cli_project_error(const float *g, const float *q, int64_t rows, int64_t cols, uint32_t r,
	const float *tested);
double cli_back_project_error(const float *g, const float *p, int64_t rows, int64_t cols,
	uint32_t r, const float *tested);

/* ---- selftest_session.c ---- */

/* The claim EXCHANGE. */
void cli_check_sessions(struct cli_selftest *t);

#endif
