/* The models of `psgd bench`. SPDX-License-Identifier: MIT */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "cli.h"

/*
 * The parameter tensors of a model in forward order, ids from 0; freed by free().
 * NULL: no such model, or no memory.
 */
struct psgd_tensor *cli_bench_shapes(const char *model, size_t *n);

/* The names, ending with NULL. */
extern const char *const cli_bench_models[];

#endif
