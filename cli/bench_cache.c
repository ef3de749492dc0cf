/* What this machine has. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "bench.h"

#define UNKNOWN_CACHE ((size_t)32 << 20)

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
