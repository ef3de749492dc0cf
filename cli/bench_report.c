/* What `psgd bench compress` says about its times. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

#define FLOOR_BYTES 28.0 /* moved for a compressed value: 12, 4 and 12 in the three passes */
#define COPY_BYTES 16.0	 /* for another one: to the message and back */

static const char *const phase_names[CLI_BENCH_PHASES] = {"project", "back_project", "reconstruct"};

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of an even number the mean of the two in the middle. */
static double median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), compare);
	return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/*
 * Medians of each phase, and their sum: what disturbs one phase of a round leaves the other two
 * alone, so that this is steadier than the median of the sums, and adds up.
 */
static double typical_ms(
	const struct cli_bench_times *times, size_t n, double *scratch, double phases[])
{
	double sum = 0;

	for (size_t k = 0; k < CLI_BENCH_PHASES; k++) {
		for (size_t i = 0; i < n; i++)
			scratch[i] = (double)times[i].ns[k] / 1e6;
		phases[k] = median(scratch, n);
		sum += phases[k];
	}
	return sum;
}

static double total(const struct cli_bench_times *times)
{
	double sum = 0;

	for (size_t k = 0; k < CLI_BENCH_PHASES; k++)
		sum += (double)times->ns[k];
	return sum;
}

bool cli_bench_figures(const struct cli_bench_series *s, struct cli_bench_figures *f)
{
	double *scratch = calloc(s->n, sizeof(*scratch));
	double raw = (double)s->report.raw_bytes;

	if (!scratch)
		return false;
	*f = (struct cli_bench_figures){.rank = s->rank,
		.payload_bytes = s->report.payload_bytes,
		.state_bytes = s->memory.state_bytes,
		.message_bytes = s->memory.message_bytes};
	f->total_ms = typical_ms(s->steps, s->n, scratch, f->phases);
	f->floor_ms = typical_ms(s->floors, s->n, scratch, f->floor_phases);
	f->over_floor = f->total_ms / f->floor_ms;
	for (size_t i = 0; i < s->n; i++)
		scratch[i] = total(&s->steps[i]) / total(&s->floors[i]);
	qsort(scratch, s->n, sizeof(*scratch), compare);
	f->low = scratch[(s->n - 1) / 4];
	f->high = scratch[s->n - 1 - (s->n - 1) / 4];
	f->floor_gb_per_s = (FLOOR_BYTES * (double)s->n_compressed +
				    COPY_BYTES * (double)(s->n_values - s->n_compressed)) /
			    f->floor_ms / 1e6;
	f->ratio = raw / (double)f->payload_bytes;
	f->memory_over_gradients = (double)(f->state_bytes + f->message_bytes) / raw;
	free(scratch);
	return true;
}

void cli_bench_print(const struct cli_bench_figures *figures, size_t n)
{
	printf("%-6s %8s %8s %8s %6s %-11s %8s %8s %8s %9s %7s\n", "rank", "total", "floor", "GB/s",
		"over", "quartiles", "project", "back", "reconstr", "ratio", "memory");
	printf("%-6s %8s %8s %8s %6s %-11s %8s %8s %8s %9s %7s\n", "", "ms", "ms", "floor", "floor",
		"", "ms", "ms", "ms", "", "");
	for (size_t i = 0; i < n; i++) {
		const struct cli_bench_figures *f = &figures[i];
		char name[16] = "dense";

		if (f->rank)
			snprintf(name, sizeof(name), "r=%u", f->rank);
		printf("%-6s %8.2f %8.2f %8.2f %6.2f %5.2f-%-5.2f %8.2f %8.2f %8.2f %9.1f %7.3f\n",
			name, f->total_ms, f->floor_ms, f->floor_gb_per_s, f->over_floor, f->low,
			f->high, f->phases[CLI_BENCH_PROJECT], f->phases[CLI_BENCH_BACK_PROJECT],
			f->phases[CLI_BENCH_RECONSTRUCT], f->ratio, f->memory_over_gradients);
	}
}

static json_t *phases_json(const double phases[])
{
	json_t *object = json_object();

	for (size_t i = 0; i < CLI_BENCH_PHASES; i++)
		json_object_set_new(object, phase_names[i], json_real(phases[i]));
	return object;
}

json_t *cli_bench_json(const struct cli_bench_figures *figures, size_t n)
{
	json_t *results = json_array();

	for (size_t i = 0; i < n; i++) {
		const struct cli_bench_figures *f = &figures[i];

		json_array_append_new(results,
			json_pack("{s:I, s:f, s:f, s:f, s:[f,f], s:o, s:o, s:f, s:I, s:f, s:I, "
				  "s:I, s:f}",
				"rank", (json_int_t)f->rank, "total_ms", f->total_ms, "floor_ms",
				f->floor_ms, "over_floor", f->over_floor, "over_floor_quartiles",
				f->low, f->high, "phases", phases_json(f->phases), "floor_phases",
				phases_json(f->floor_phases), "floor_gb_per_s", f->floor_gb_per_s,
				"payload_bytes", (json_int_t)f->payload_bytes, "ratio", f->ratio,
				"state_bytes", (json_int_t)f->state_bytes, "message_bytes",
				(json_int_t)f->message_bytes, "memory_over_gradients",
				f->memory_over_gradients));
	}
	return results;
}
