/*
 * A knapsack with one choice per matrix. The errors are rounded up to BUCKETS parts of the budget,
 * so that what fits in parts fits in truth; the table then has the fewest values for each number of
 * parts. What rounding lost is won back at the end, as far as single matrices can win it.
 */
#include "control/control.h"

#include <math.h>
#include <string.h>

#define BUCKETS 10000
#define NOTHING UINT64_MAX

static double error_at(const struct psgd__share *share, uint32_t rank)
{
	return share->error[rank - share->low];
}

double psgd__shared_error(const struct psgd__share *shares, size_t n)
{
	double sum = 0.0;

	for (size_t i = 0; i < n; i++)
		sum += error_at(&shares[i], shares[i].rank);
	return sum;
}

static uint64_t values_of(const struct psgd__share *shares, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += shares[i].rank * shares[i].weight;
	return sum;
}

/* BUCKETS + 1: more than the whole budget. */
static size_t parts_of(double error, double budget)
{
	double parts;

	if (error <= 0.0)
		return 0;
	parts = budget > 0.0 ? ceil(error * BUCKETS / budget) : INFINITY;
	return parts <= BUCKETS ? (size_t)parts : BUCKETS + 1;
}

/* after[b]: the fewest values with this matrix too, in at most b parts; pick[b]: at which rank. */
static void add_matrix(const struct psgd__share *share, double budget, const uint64_t *before,
	uint64_t *after, uint16_t *pick)
{
	size_t last = BUCKETS + 1;

	for (size_t b = 0; b <= BUCKETS; b++)
		after[b] = NOTHING;
	for (uint32_t rank = share->low; rank <= share->high; rank++) {
		size_t parts = parts_of(error_at(share, rank), budget);
		uint64_t values = rank * share->weight;

		/* A larger rank that saves no part is never better. */
		if (parts >= last)
			continue;
		last = parts;
		for (size_t b = parts; b <= BUCKETS; b++) {
			uint64_t sum = before[b - parts];

			if (sum != NOTHING && sum + values < after[b]) {
				after[b] = sum + values;
				pick[b] = (uint16_t)(rank - share->low);
			}
		}
	}
}

/* True when everything fits in BUCKETS parts; the ranks are set then. */
static bool by_parts(
	struct psgd__share *shares, size_t n, double budget, uint64_t *table, uint16_t *picks)
{
	uint64_t *before = table, *after = table + BUCKETS + 1;
	size_t left = BUCKETS;

	memset(before, 0, (BUCKETS + 1) * sizeof(*before));
	for (size_t i = 0; i < n; i++) {
		uint64_t *swap = before;

		add_matrix(&shares[i], budget, before, after, picks + i * (BUCKETS + 1));
		before = after;
		after = swap;
	}
	if (before[BUCKETS] == NOTHING)
		return false;
	for (size_t i = n; i-- > 0;) {
		shares[i].rank = shares[i].low + picks[i * (BUCKETS + 1) + left];
		left -= parts_of(error_at(&shares[i], shares[i].rank), budget);
	}
	return psgd__shared_error(shares, n) <= budget;
}

/* The lowest rank of one matrix that the budget allows while the others stay. */
static uint32_t lowest(struct psgd__share *shares, size_t n, size_t i, double budget)
{
	uint32_t now = shares[i].rank, rank = now;

	while (rank > shares[i].low) {
		shares[i].rank = rank - 1;
		if (psgd__shared_error(shares, n) > budget)
			break;
		rank--;
	}
	shares[i].rank = now;
	return rank;
}

/* Lowers the matrix that saves most, for as long as one can be lowered. */
static void use_the_rest(struct psgd__share *shares, size_t n, double budget)
{
	for (;;) {
		uint64_t most = 0;
		size_t at = 0;
		uint32_t to = 0;

		for (size_t i = 0; i < n; i++) {
			uint32_t rank = lowest(shares, n, i, budget);
			uint64_t saved = (shares[i].rank - rank) * shares[i].weight;

			if (saved > most) {
				most = saved;
				at = i;
				to = rank;
			}
		}
		if (!most)
			return;
		shares[at].rank = to;
	}
}

psgd_status psgd__share_budget(struct psgd__share *shares, size_t n, double budget, bool *within)
{
	uint64_t *table = psgd__calloc(BUCKETS + 1, 2 * sizeof(*table)), values;
	uint16_t *picks = psgd__calloc(n, (BUCKETS + 1) * sizeof(*picks));
	uint32_t *start = psgd__calloc(n, sizeof(*start));
	psgd_status status = PSGD_ERR_NOMEM;
	bool start_fits;

	if (!table || !picks || !start)
		goto out;
	status = PSGD_OK;
	for (size_t i = 0; i < n; i++)
		start[i] = shares[i].rank = shares[i].start;
	values = values_of(shares, n);
	start_fits = psgd__shared_error(shares, n) <= budget;
	*within = by_parts(shares, n, budget, table, picks);
	if (start_fits && (!*within || values_of(shares, n) > values)) {
		for (size_t i = 0; i < n; i++)
			shares[i].rank = start[i];
		*within = true;
	}
	if (!*within) {
		for (size_t i = 0; i < n; i++)
			shares[i].rank = shares[i].high;
		*within = psgd__shared_error(shares, n) <= budget;
	}
	if (*within)
		use_the_rest(shares, n, budget);
out:
	free(start);
	free(picks);
	free(table);
	return status;
}
