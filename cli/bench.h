/* What the files of `psgd bench` share. SPDX-License-Identifier: MIT */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include <argp.h>
#include <jansson.h>

#include <psgd/device.h>
#include <psgd/session.h>

#include "cli.h"

int cli_bench_compress(int argc, char **argv);
int cli_bench_allreduce(int argc, char **argv);

/* The number of a flag; says so and ends the program when it is none. */
void cli_bench_number(const char *flag, const char *text, int64_t min, int64_t max, int64_t *out,
	struct argp_state *state);

/* The file, if one is named, can be written, as far as that is known ahead; false: said why not. */
bool cli_bench_writable(const char *path);

/* Writes root to the file; false: said why not. */
bool cli_bench_write(const json_t *root, const char *path);

/* ---- bench_shapes.c ---- */

/* The names, ending with NULL, and the same in words. */
extern const char *const cli_bench_models[];
extern const char cli_bench_models_text[];

/*
 * The parameter tensors of a model in forward order, ids from 0; freed by free().
 * NULL: no such model, or no memory.
 */
struct psgd_tensor *cli_bench_shapes(const char *model, size_t *n);

/* ---- bench_model.c ---- */

/*
 * Where a model's gradients lie in one block of values: in the order of a backward pass, the last
 * tensor first, each beginning on a cache line.
 */
struct cli_bench_model {
	struct psgd_tensor *tensors; /* in the order of a backward pass */
	int64_t *counts;
	size_t *at; /* of each tensor's values in the block */
	size_t n_tensors;
	size_t n_values;     /* of the tensors */
	size_t block_bytes;  /* of the block */
	size_t *first;	     /* tensor of each bucket; one more entry for the end */
	size_t n_buckets;    /* as many bytes as PyTorch's, or a tensor that is larger */
	size_t bucket_bytes; /* of the largest */
};

bool cli_bench_model_open(const char *name, struct cli_bench_model *out);
void cli_bench_model_close(struct cli_bench_model *model);

/* ---- bench_copy.c ---- */

/* Also the passes of the floor. */
enum { CLI_BENCH_PROJECT, CLI_BENCH_BACK_PROJECT, CLI_BENCH_RECONSTRUCT, CLI_BENCH_PHASES };

struct cli_bench_times {
	int64_t ns[CLI_BENCH_PHASES];
};

/* A worker: a session of one rank, with gradients and error memory of its own. */
struct cli_bench_copy {
	const struct psgd_device *device;
	const struct cli_bench_model *model;
	struct psgd_compressor compressor;
	psgd_session *session;
	float *values; /* of the device */
	struct psgd_grad *grads;
	struct psgd_bucket *buckets;
	char error[256];
};

/* rank 0: the dense compressor. On failure *out must be closed too. */
psgd_status cli_bench_copy_open(const struct cli_bench_model *model,
	const struct psgd_device *device, uint32_t rank, uint64_t seed, struct cli_bench_copy *out);
void cli_bench_copy_close(struct cli_bench_copy *copy);

/* One step, buckets one after the other. */
psgd_status cli_bench_copy_step(
	struct cli_bench_copy *copy, struct cli_bench_times *times, struct psgd_report *report);

/* One step with the messages of all buckets in memory at once, and what that takes. */
psgd_status cli_bench_copy_memory(struct cli_bench_copy *copy, struct psgd_memory *memory);

/* ---- bench_floor.c ---- */

/* Memory of the floor: what a copy has, and laid out as there, without a session. */
struct cli_bench_floor {
	const struct psgd_device *device;
	const struct cli_bench_model *model;
	float *values, *message;
	float **errors; /* of each tensor */
};

/* On failure *out must be closed too. */
psgd_status cli_bench_floor_open(const struct cli_bench_model *model,
	const struct psgd_device *device, uint64_t seed, struct cli_bench_floor *out);
void cli_bench_floor_close(struct cli_bench_floor *floor);

/* The least work for the tensors that `copy` compresses, and for those that it does not. */
psgd_status cli_bench_floor_run(struct cli_bench_floor *floor, const struct cli_bench_copy *copy,
	struct cli_bench_times *times);

/* Values that a sum of two makes no special case of. */
void cli_bench_fill(float *values, size_t n, uint64_t seed);

/* ---- bench_device.c ---- */

/* Calls on it return before they have finished; its memory is not the host's. */
bool cli_bench_is_async(const struct psgd_device *device);
/* cli_bench_fill of memory of the device. */
psgd_status cli_bench_upload(const struct psgd_device *device, float *to, size_t n, uint64_t seed);
/* Waits until all that is in the stream is done. */
psgd_status cli_bench_finish(const struct psgd_device *device, psgd_stream stream);
/* 10^9 bytes a second, read and written, in copies of a buffer that no cache holds. */
psgd_status cli_bench_bandwidth(const struct psgd_device *device, double *gb_per_s);

/* ---- bench_cache.c ---- */

/* So many caches of other memory are used before memory is used again. */
#define CLI_BENCH_OVER_CACHE 4

/* How many copies of each rank, and of the floor's memory, take turns. */
struct cli_bench_rotation {
	size_t cache_bytes; /* in: of the largest cache */
	size_t n_copies, n_floors;
	size_t bytes; /* of all of them */
	bool capped;  /* memory does not suffice: times may be of warm caches */
};

/*
 * For gradients of block_bytes, and n_ranks ranks in a round. False: one of each is more than is
 * available; bytes is what they need.
 */
bool cli_bench_rotate(struct cli_bench_rotation *rotation, size_t block_bytes, size_t n_ranks,
	size_t available_bytes);

size_t cli_bench_cache_bytes(void);	/* of the largest cache */
size_t cli_bench_available_bytes(void); /* memory that can be had without swapping */

/* ---- bench_report.c ---- */

/* One rank, and its floor beside it, in every round. */
struct cli_bench_series {
	uint32_t rank; /* 0: dense */
	size_t n;
	struct cli_bench_times *steps, *floors;
	struct psgd_report report; /* of a step */
	struct psgd_memory memory;
	size_t n_values, n_compressed; /* values of all tensors, and of those that are compressed */
};

/* What a series comes to. */
struct cli_bench_figures {
	uint32_t rank;
	double total_ms, floor_ms, over_floor;
	double low, high; /* quartiles of the rounds' ratios */
	double phases[CLI_BENCH_PHASES], floor_phases[CLI_BENCH_PHASES]; /* ms */
	double floor_gb_per_s, ratio, memory_over_gradients;
	uint64_t payload_bytes, state_bytes, message_bytes;
};

/* False: no memory. */
bool cli_bench_figures(const struct cli_bench_series *series, struct cli_bench_figures *out);

void cli_bench_print(const struct cli_bench_figures *figures, size_t n);
json_t *cli_bench_json(const struct cli_bench_figures *figures, size_t n);

#endif
