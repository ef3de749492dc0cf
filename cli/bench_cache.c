/* Memory that takes turns, so that caches are cold. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "bench.h"

#define UNKNOWN_CACHE ((size_t)32 << 20)

static size_t bytes_of(const struct cli_bench_rotation *r, size_t block_bytes, size_t n_ranks)
{
	return (r->n_floors + r->n_copies * n_ranks) * 2 * block_bytes;
}

/*
 * A floor and a step each use gradients and as much error memory: four blocks for each rank of a
 * round. n_floors of these pass before the floor's memory is used again, n_copies * n_ranks before
 * a copy's.
 */
bool cli_bench_rotate(
	struct cli_bench_rotation *r, size_t block_bytes, size_t n_ranks, size_t available_bytes)
{
	r->capped = false;
	r->n_floors = CLI_BENCH_OVER_CACHE * r->cache_bytes / (4 * block_bytes) + 1;
	r->n_copies = (r->n_floors + n_ranks - 1) / n_ranks;
	while (bytes_of(r, block_bytes, n_ranks) > available_bytes &&
		(r->n_floors > 1 || r->n_copies > 1)) {
		r->n_floors -= r->n_floors > 1;
		r->n_copies -= r->n_copies > 1;
		r->capped = true;
	}
	r->bytes = bytes_of(r, block_bytes, n_ranks);
	return r->bytes <= available_bytes;
}

size_t cli_bench_cache_bytes(void)
{
	size_t largest = 0;

	for (int i = 0;; i++) {
		unsigned long long size;
		char path[80], unit = '\0';
		FILE *file;
		int n;

		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
		file = fopen(path, "r");
		if (!file)
			break;
		n = fscanf(file, "%llu%c", &size, &unit);
		fclose(file);
		if (n < 1)
			continue;
		size <<= unit == 'K' ? 10 : unit == 'M' ? 20 : 0;
		if (size > largest)
			largest = (size_t)size;
	}
	return largest ? largest : UNKNOWN_CACHE;
}

size_t cli_bench_available_bytes(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	unsigned long long kib = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	}
	if (file)
		fclose(file);
	return kib ? (size_t)kib << 10 : SIZE_MAX;
}
