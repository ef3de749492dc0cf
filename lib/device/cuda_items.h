/*
 * Lists as kernels read them, and how the work on them is cut. A launch is for all items of a list:
 * each is cut into tiles, and a block finds its item in a table of how many tiles come before. So
 * small and large matrices share the chip. Plain, for C and for CUDA's C++.
 */
#ifndef PSGD_DEVICE_CUDA_ITEMS_H
#define PSGD_DEVICE_CUDA_ITEMS_H

#include <cuda_runtime.h>
#include <stdint.h>

#define PSGD__CUDA_THREADS 256 /* of every block */
#define PSGD__CUDA_WARPS (PSGD__CUDA_THREADS / 32)
#define PSGD__CUDA_STRIP 128	    /* values of a row that a warp takes at a time, four a lane */
#define PSGD__CUDA_MOST_COLS 32	    /* columns of p and q that one pass over g serves */
#define PSGD__CUDA_FLAT 16384	    /* values of a tile of what is one long row */
#define PSGD__CUDA_PROJECT_COLS 256 /* columns of g in a tile of g q: as much q as fits a block */
#define PSGD__CUDA_PROJECT_ROWS 64  /* and its rows are a multiple of this */
#define PSGD__CUDA_BACK_ROWS 64	    /* the same of g^T p, whose tiles are a strip wide */
#define PSGD__CUDA_FINISH_ROWS 64   /* rows of a tile of p q^T, which is a strip wide */
#define PSGD__CUDA_SUM_VALUES 32    /* values of a tile that adds partial sums */

struct psgd__cuda_matrix {
	float *g, *e, *p, *q, *keep;
	float *sums; /* of a projection: p or q, or where partial sums go, tile after tile */
	int64_t n, m;
	uint32_t r;
	uint32_t rows;	  /* of a tile; 0: not projected, tiles are of PSGD__CUDA_FLAT values */
	uint32_t across;  /* tiles beside each other */
	uint32_t vectors; /* 1: rows begin at multiples of 16 bytes */
};

/* Partial sums: to[i] = from[i] + from[i + count] + ..., `terms` of them. */
struct psgd__cuda_sum {
	float *to;
	const float *from;
	int64_t count;
	uint32_t terms;
	uint32_t reserved;
};

struct psgd__cuda_start {
	float *q;
	const float *from;
	int64_t m;
	uint32_t r;
	uint32_t tensor;
	uint32_t draw;
	uint32_t redraw;
};

struct psgd__cuda_panel {
	float *data;
	int64_t rows;
	uint32_t cols;
	uint32_t reserved;
};

struct psgd__cuda_span {
	float *data;
	int64_t count;
};

struct psgd__cuda_addend {
	float *to;
	const float *from;
	int64_t count;
	uint32_t vectors; /* 1: both begin at multiples of 16 bytes */
	uint32_t reserved;
};

struct psgd__cuda_fill {
	float *data;
	int64_t rows;
	uint32_t first_col, cols;
	uint32_t tensor;
	uint32_t draw;
};

/* Tiles of a list: item k has those from first[k] on. */
struct psgd__cuda_cut {
	const uint32_t *first;
	uint32_t count;
	uint32_t tiles; /* of all */
};

#ifdef __cplusplus
extern "C" {
#endif

/* Lists and what is in them are memory of the device. See struct psgd_kernels for what they do. */

/* g += e; sums of g q. `cols` is at least the r of all that have `rows`. */
cudaError_t psgd__cuda_project(const struct psgd__cuda_matrix *list,
	const struct psgd__cuda_cut *cut, uint32_t cols, cudaStream_t stream);
/* Sums of g^T p. */
cudaError_t psgd__cuda_back_project(const struct psgd__cuda_matrix *list,
	const struct psgd__cuda_cut *cut, uint32_t cols, cudaStream_t stream);
cudaError_t psgd__cuda_sum(
	const struct psgd__cuda_sum *list, const struct psgd__cuda_cut *cut, cudaStream_t stream);
/* *bad NULL or 0: as struct psgd_kernels' finish with finite messages, else NaN. */
cudaError_t psgd__cuda_finish(const struct psgd__cuda_matrix *list,
	const struct psgd__cuda_cut *cut, float mean, const uint32_t *bad, cudaStream_t stream);
/* *bad |= 1 if a value is not finite. */
cudaError_t psgd__cuda_finite(const struct psgd__cuda_span *list, const struct psgd__cuda_cut *cut,
	uint32_t *bad, cudaStream_t stream);
cudaError_t psgd__cuda_axpby(int64_t count, float a, const float *x, float b, float *y,
	uint32_t vectors, cudaStream_t stream);
cudaError_t psgd__cuda_accumulate(const struct psgd__cuda_addend *list,
	const struct psgd__cuda_cut *cut, cudaStream_t stream);
cudaError_t psgd__cuda_fill(const struct psgd__cuda_fill *list, const struct psgd__cuda_cut *cut,
	uint64_t seed, cudaStream_t stream);
cudaError_t psgd__cuda_gather(
	const float *from, int64_t stride, int64_t count, float *to, cudaStream_t stream);
cudaError_t psgd__cuda_start(const struct psgd__cuda_start *list, uint32_t count, uint64_t seed,
	float eps, cudaStream_t stream);
cudaError_t psgd__cuda_orthonormalize(
	const struct psgd__cuda_panel *list, uint32_t count, float eps, cudaStream_t stream);
/* out[k]: of tile k, of PSGD__CUDA_FLAT values. */
cudaError_t psgd__cuda_sum_squares(const struct psgd__cuda_span *list,
	const struct psgd__cuda_cut *cut, double *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
