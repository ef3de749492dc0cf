/* The binomial tree of a broadcast: in round i, each place below 2^i sends to the one 2^i above. */
#ifndef PSGD_TRANSPORT_TREE_H
#define PSGD_TRANSPORT_TREE_H

#include <stdint.h>

/* To how many workers this one sends; the root's place is 0. */
static inline uint64_t psgd__tree_children(uint64_t worker, uint64_t root, uint64_t n_workers)
{
	uint64_t place = (worker + n_workers - root) % n_workers, children = 0;

	for (uint64_t reach = 1; reach < n_workers; reach *= 2)
		children += place < reach && place + reach < n_workers;
	return children;
}

/* The number of rounds. */
static inline uint32_t psgd__tree_depth(uint64_t n_workers)
{
	uint32_t depth = 0;

	for (uint64_t reach = 1; reach < n_workers; reach *= 2)
		depth++;
	return depth;
}

#endif
