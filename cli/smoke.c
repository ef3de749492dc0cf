/* A smoke test: what a run will do, in a few iterations. SPDX-License-Identifier: MIT */
#include <stdio.h>

#include <psgd/experiment/checkpoint.h>

#include "run.h"

#define ITERATIONS 5
/* Of a run that begins to compress later: some steps of both kinds. */
#define DENSE_ITERATIONS 2

void cli_smoke_overrides(struct cli_strings *overrides)
{
	cli_strings_add(overrides, "training.max_iterations=%d", ITERATIONS);
	cli_strings_add(overrides, "checkpoint.every_iters=%d", ITERATIONS);
	cli_strings_add(overrides, "benchmark_save_dir=null");
	cli_strings_add(overrides, "compression.calibration.save_dir=null");
}

bool cli_smoke_hasten(const struct psgd_config *config, struct cli_strings *overrides)
{
	const struct psgd_config_compression *c = &config->compression;
	size_t n = overrides->n;

	if (!c->enable_powerSGD)
		return false;
	if (c->start_power_iterations >= ITERATIONS)
		cli_strings_add(
			overrides, "compression.start_power_iterations=%d", DENSE_ITERATIONS);
	if (c->calibration.enable && c->calibration.force_start_iter >= ITERATIONS)
		cli_strings_add(
			overrides, "compression.calibration.force_start_iter=%d", DENSE_ITERATIONS);
	return overrides->n > n;
}

void cli_smoke_print(const struct psgd_config *config, unsigned run_begins)
{
	const struct psgd_config_compression *c = &config->compression;

	printf("smoke test: %d iterations, ", ITERATIONS);
	if (!c->enable_powerSGD)
		printf("dense as the run\n");
	else if (c->start_power_iterations == run_begins)
		printf("compression begins at iteration %u\n", run_begins);
	else
		printf("compression begins at iteration %u (in the run at %u)\n",
			c->start_power_iterations, run_begins);
}

int cli_smoke_read_back(const struct cli_job *job)
{
	struct psgd_checkpoint_position position = PSGD_INIT(psgd_checkpoint_position);
	char error[CLI_ERROR_BYTES];

	for (size_t i = 0; i < job->n_workers; i++) {
		if (psgd_checkpoint_newest(job->run_dir, job->workers[i].worker, &position, error,
			    sizeof(error)) == PSGD_OK)
			continue;
		cli_complain("smoke test: %s", error);
		return CLI_FAILED;
	}
	printf("checkpoint of iteration %llu written and read back\n",
		(unsigned long long)position.iteration);
	return CLI_OK;
}
