/* Times of the passes, over the floor of the same memory in the same round. */
#include <stdio.h>
#include <stdlib.h>

#include "device/kernels.h"

#define ROUNDS 15
#define SETS 6 /* of matrices: by the time that one is used again it is in no cache */
#define MATRICES 8
#define MAX_R 32
#define PASSES 4

/* A mix as large networks have it: wide and narrow, 11 million values. */
static const int64_t shapes[MATRICES][2] = {{512, 4608}, {512, 4608}, {512, 2304}, {256, 2304},
	{1024, 1024}, {1000, 2048}, {128, 1152}, {2048, 64}};

struct set {
	struct psgd__matrix list[MATRICES];
	struct psgd__panel panels[MATRICES];
	struct psgd_floor_matrix floor[MATRICES];
};

static float *values(int64_t count, struct rng *rng)
{
	float *x = aligned_alloc(64, ((size_t)count * sizeof(float) + 63) / 64 * 64);

	for (int64_t i = 0; x && i < count; i++)
		x[i] = rng_float(rng);
	return x;
}

static void set_init(struct set *s, struct rng *rng)
{
	for (int k = 0; k < MATRICES; k++) {
		const int64_t n = shapes[k][0], m = shapes[k][1];

		s->list[k] = (struct psgd__matrix){
			.g = values(n * m, rng),
			.e = values(n * m, rng),
			.p = values(n * MAX_R, rng),
			.q = values(m * MAX_R, rng),
			.n = n,
			.m = m,
		};
		s->floor[k] = (struct psgd_floor_matrix){s->list[k].g, s->list[k].e, n, m};
	}
}

static void set_free(struct set *s)
{
	for (int k = 0; k < MATRICES; k++) {
		free(s->list[k].g);
		free(s->list[k].e);
		free(s->list[k].p);
		free(s->list[k].q);
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *x)
{
	qsort(x, ROUNDS, sizeof(*x), compare);
	return x[ROUNDS / 2];
}

static void step(
	const struct psgd_kernels *table, void *self, struct set *s, uint32_t r, double ms[PASSES])
{
	int64_t t[PASSES + 1];

	for (int k = 0; k < MATRICES; k++) {
		s->list[k].r = r;
		s->panels[k] = (struct psgd__panel){s->list[k].p, s->list[k].n, r, 0};
	}
	t[0] = psgd__now_ns();
	table->absorb_project(self, s->list, MATRICES, NULL);
	t[1] = psgd__now_ns();
	table->orthonormalize(self, s->panels, MATRICES, 0.0f, NULL);
	t[2] = psgd__now_ns();
	table->back_project(self, s->list, MATRICES, NULL);
	t[3] = psgd__now_ns();
	table->reconstruct(self, s->list, MATRICES, NULL);
	t[4] = psgd__now_ns();
	for (int i = 0; i < PASSES; i++)
		ms[i] = (double)(t[i + 1] - t[i]) / 1e6;
}

static void bench_rank(const struct variant *variant, struct set *sets, uint32_t r)
{
	double ms[PASSES][ROUNDS], floors[ROUNDS], over[ROUNDS], all[PASSES];
	const struct psgd_device_cpu_options options = options_of(variant);
	struct psgd_device cpu;
	int next = 0;

	if (psgd_device_cpu(&options, &cpu) < 0)
		return;
	for (int i = 0; i < ROUNDS; i++) {
		int64_t ns[PSGD_FLOOR_PASSES] = {0};
		double sum = 0.0;

		psgd_device_floor(&cpu, sets[next++ % SETS].floor, MATRICES, ns);
		step(cpu.ops->kernels, cpu.self, &sets[next++ % SETS], r, all);
		floors[i] = (double)(ns[0] + ns[1] + ns[2]) / 1e6;
		for (int k = 0; k < PASSES; k++) {
			ms[k][i] = all[k];
			sum += all[k];
		}
		over[i] = sum / floors[i];
	}
	printf("%-15s %3u %10.2f %10.2f %10.2f %12.2f %10.2f %10.2f\n", variant->name, r,
		median(ms[0]), median(ms[1]), median(ms[2]), median(ms[3]), median(floors),
		median(over));
	fflush(stdout);
	psgd_device_destroy(&cpu);
}

void bench(void)
{
	struct set sets[SETS];
	struct rng rng = {1};

	for (int i = 0; i < SETS; i++)
		set_init(&sets[i], &rng);
	printf("%-15s %3s %10s %10s %10s %12s %10s %10s\n", "kernels", "r", "project_ms", "orth_ms",
		"back_ms", "reconstr_ms", "floor_ms", "over_floor");
	for (int v = 0; v < VARIANTS; v++) {
		for (uint32_t r = 1; r <= MAX_R; r *= 2)
			bench_rank(&variants[v], sets, r);
	}
	for (int i = 0; i < SETS; i++)
		set_free(&sets[i]);
}
