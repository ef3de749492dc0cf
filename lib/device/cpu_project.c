/*
 * The passes before an all-reduce, which may sum in any order: P = g Q while g += e, and Q = g^T P.
 * Compiled for each instruction set, with multiply and add fused.
 *
 * Both walk blocks of a few rows, with as many columns of Q as there are registers for, so that
 * what is loaded is used several times. A tile of columns of g is as wide as its part of Q stays in
 * the second-level cache, and a block of g in the first when Q's columns take more than one turn.
 */
#include <string.h>

#include "device/cpu_isa.h"
#include "device/cpu_vector.h"

#define ROWS 4
#define MOST_COLS 4
#define COLS (WIDTH == 16 ? 4 : 2) /* that there are registers for */
#define TILE_NARROW 1024

static int64_t tile_of(const struct psgd__matrix *x)
{
	return x->r > COLS ? TILE_NARROW : tile_width(TILE_VALUES, x->r);
}

/* A block of g: `rows` rows from i, columns j .. end-1; and `cols` columns of p and q from c. */
struct block {
	int64_t i, j, end;
	uint32_t c;
};

INLINE void project_block(const struct psgd__matrix *x, const struct block *b, const int rows,
	const int cols, const bool absorb)
{
	const float *q = cols ? x->q + b->c * x->m : NULL;
	float *g = x->g + b->i * x->m;
	const float *e = absorb ? x->e + b->i * x->m : NULL;
	vec acc[ROWS][MOST_COLS] = {0};
	float tail[ROWS][MOST_COLS] = {0};
	int64_t k = b->j;

	for (; k + WIDTH <= b->end; k += WIDTH) {
		vec v[ROWS];

		UNROLL
		for (int a = 0; a < rows; a++) {
			v[a] = load(g + a * x->m + k);
			if (absorb) {
				ahead(g, (a + rows) * x->m + k);
				ahead(e, (a + rows) * x->m + k);
				v[a] = v[a] + load(e + a * x->m + k);
				store(g + a * x->m + k, v[a]);
			}
		}
		UNROLL
		for (int c = 0; c < cols; c++) {
			vec w = load(q + c * x->m + k);

			UNROLL
			for (int a = 0; a < rows; a++)
				acc[a][c] += v[a] * w;
		}
	}
	for (; k < b->end; k++) {
		for (int a = 0; a < rows; a++) {
			if (absorb)
				g[a * x->m + k] = g[a * x->m + k] + e[a * x->m + k];
			for (int c = 0; c < cols; c++)
				tail[a][c] += g[a * x->m + k] * q[c * x->m + k];
		}
	}
	UNROLL
	for (int c = 0; c < cols; c++) {
		float *p = x->p + (b->c + (uint32_t)c) * x->n + b->i;

		UNROLL
		for (int a = 0; a < rows; a++) {
			float s = sum_of(acc[a][c]) + tail[a][c];

			p[a] = b->j ? p[a] + s : s;
		}
	}
}

/* A block of all rows, or the last rows one by one. */
#define PROJECT(cols)                                                                              \
	static void project_##cols(                                                                \
		const struct psgd__matrix *x, struct block b, int64_t rows, bool absorb)           \
	{                                                                                          \
		const int64_t end = b.i + rows;                                                    \
                                                                                                   \
		if (rows == ROWS && absorb)                                                        \
			project_block(x, &b, ROWS, cols, true);                                    \
		else if (rows == ROWS)                                                             \
			project_block(x, &b, ROWS, cols, false);                                   \
		else if (absorb)                                                                   \
			for (; b.i < end; b.i++)                                                   \
				project_block(x, &b, 1, cols, true);                               \
		else                                                                               \
			for (; b.i < end; b.i++)                                                   \
				project_block(x, &b, 1, cols, false);                              \
	}

PROJECT(0)
PROJECT(1)
PROJECT(2)
PROJECT(4)

/* How many of the columns that are left have the next turn: 4, 2 or 1. */
static uint32_t turn(uint32_t left)
{
	if (COLS == 4 && left >= 4)
		return 4;
	return left >= 2 ? 2 : 1;
}

/* All columns of Q over one block of rows; the first turn absorbs e. */
static void project_rows(const struct psgd__matrix *x, struct block b, int64_t rows)
{
	bool absorb = x->e != NULL;

	if (x->r == 0 && absorb)
		project_0(x, b, rows, true);
	for (uint32_t cols; b.c < x->r; b.c += cols) {
		cols = turn(x->r - b.c);
		if (cols == 4)
			project_4(x, b, rows, absorb);
		else if (cols == 2)
			project_2(x, b, rows, absorb);
		else
			project_1(x, b, rows, absorb);
		absorb = false;
	}
}

void ISA(project)(const struct psgd__matrix *x, int64_t from, int64_t to)
{
	const int64_t tile = tile_of(x);

	for (int64_t j = 0; j < x->m; j += tile) {
		struct block b = {.j = j, .end = j + tile < x->m ? j + tile : x->m};

		for (b.i = from; b.i < to; b.i += ROWS)
			project_rows(x, b, to - b.i < ROWS ? to - b.i : ROWS);
	}
}

/* q += p g over a block. */
INLINE void back_block(const struct psgd__matrix *x, const struct block *b, const int rows,
	const int cols, const bool first)
{
	const float *g = x->g + b->i * x->m;
	float *q = x->q + b->c * x->m;
	const float *p = x->p + b->c * x->n + b->i;
	vec w[MOST_COLS][ROWS];
	int64_t k = b->j;

	UNROLL
	for (int c = 0; c < cols; c++) {
		UNROLL
		for (int a = 0; a < rows; a++)
			w[c][a] = spread(p[c * x->n + a]);
	}
	for (; k + WIDTH <= b->end; k += WIDTH) {
		vec v[ROWS];

		UNROLL
		for (int a = 0; a < rows; a++) {
			v[a] = load(g + a * x->m + k);
			if (first)
				ahead(g, (a + rows) * x->m + k);
		}
		UNROLL
		for (int c = 0; c < cols; c++) {
			vec s = load(q + c * x->m + k);

			UNROLL
			for (int a = 0; a < rows; a++)
				s += v[a] * w[c][a];
			store(q + c * x->m + k, s);
		}
	}
	for (; k < b->end; k++) {
		for (int c = 0; c < cols; c++) {
			for (int a = 0; a < rows; a++)
				q[c * x->m + k] += g[a * x->m + k] * p[c * x->n + a];
		}
	}
}

/* While the first columns walk a block, the next one is fetched. */
#define BACK(cols)                                                                                 \
	static void back_##cols(const struct psgd__matrix *x, struct block b, int64_t rows)        \
	{                                                                                          \
		if (rows == ROWS && b.c == 0)                                                      \
			back_block(x, &b, ROWS, cols, true);                                       \
		else if (rows == ROWS)                                                             \
			back_block(x, &b, ROWS, cols, false);                                      \
		else                                                                               \
			for (const int64_t end = b.i + rows; b.i < end; b.i++)                     \
				back_block(x, &b, 1, cols, false);                                 \
	}

BACK(1)
BACK(2)
BACK(4)

static void back_rows(const struct psgd__matrix *x, struct block b, int64_t rows)
{
	for (uint32_t cols; b.c < x->r; b.c += cols) {
		cols = turn(x->r - b.c);
		if (cols == 4)
			back_4(x, b, rows);
		else if (cols == 2)
			back_2(x, b, rows);
		else
			back_1(x, b, rows);
	}
}

void ISA(back_project)(const struct psgd__matrix *x, int64_t from, int64_t to)
{
	const int64_t tile = tile_of(x);

	for (int64_t j = from; j < to; j += tile) {
		struct block b = {.j = j, .end = j + tile < to ? j + tile : to};

		for (uint32_t c = 0; c < x->r; c++)
			memset(x->q + c * x->m + j, 0, (size_t)(b.end - j) * sizeof(float));
		for (b.i = 0; b.i < x->n; b.i += ROWS)
			back_rows(x, b, x->n - b.i < ROWS ? x->n - b.i : ROWS);
	}
}
