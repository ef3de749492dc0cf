/* Learning rates, and the batches of a step, by epoch. SPDX-License-Identifier: MIT */
#include "schedule.h"

#include <math.h>
#include <string.h>

static double scheduled(const struct psgd_config_training *training, double epoch)
{
	double drops = 0, period;

	if (strcmp(training->scheduler, "step") == 0)
		drops = training->step_size ? floor(epoch / training->step_size) : 0;
	if (strcmp(training->scheduler, "multistep") == 0)
		for (unsigned i = 0; i < training->milestones_count; i++)
			drops += epoch >= training->milestones[i];
	if (strcmp(training->scheduler, "cosine") == 0) {
		period = training->T_max ? training->T_max : training->epochs;
		return training->learning_rate * 0.5 * (1.0 + cos(M_PI * epoch / period));
	}
	return training->learning_rate * pow(training->gamma, drops);
}

static const struct psgd_config_stage *stage_of(const struct psgd_config *config, uint64_t epoch)
{
	const struct psgd_config_adaptive *adaptive = &config->adaptive_training;

	for (unsigned i = 0; adaptive->enable && i < adaptive->stages_count; i++)
		if (epoch >= adaptive->stages[i].start_epoch &&
			epoch <= adaptive->stages[i].end_epoch)
			return &adaptive->stages[i];
	return NULL;
}

double schedule_learning_rate(const struct psgd_config *config, uint64_t epoch)
{
	const struct psgd_config_training *training = &config->training;
	const struct psgd_config_stage *stage = stage_of(config, epoch);
	double warmup = training->warmup_epochs, to = training->learning_rate, from;

	if (stage && stage->learning_rate > 0)
		return stage->learning_rate;
	if ((double)epoch >= warmup)
		return scheduled(training, (double)epoch - warmup);
	from = fmax(training->warmup_start_lr, training->warmup_min_factor * to);
	return from + (to - from) * (double)epoch / warmup;
}

unsigned schedule_batches(const struct psgd_config *config, uint64_t epoch)
{
	const struct psgd_config_stage *stage = stage_of(config, epoch);

	if (!stage || !config->compression.enable_adaptive_sync || stage->base_sync_frequency < 1)
		return 1;
	return stage->base_sync_frequency;
}

unsigned schedule_most_batches(const struct psgd_config *config)
{
	const struct psgd_config_adaptive *adaptive = &config->adaptive_training;
	unsigned most = 1;

	if (!adaptive->enable || !config->compression.enable_adaptive_sync)
		return 1;
	for (unsigned i = 0; i < adaptive->stages_count; i++)
		if (adaptive->stages[i].base_sync_frequency > most)
			most = adaptive->stages[i].base_sync_frequency;
	return most;
}

uint64_t schedule_steps(const struct psgd_config *config, uint64_t epoch, uint64_t batches)
{
	unsigned each = schedule_batches(config, epoch);

	return batches / each + (batches % each > 0);
}

uint64_t schedule_total_steps(const struct psgd_config *config, uint64_t batches)
{
	uint64_t steps = 0, most = config->training.max_iterations;

	for (uint64_t epoch = 0; epoch < config->training.epochs && (!most || steps < most);
		epoch++)
		steps += schedule_steps(config, epoch, batches);
	return most && most < steps ? most : steps;
}
