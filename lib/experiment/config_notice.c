#include <stdio.h>
#include <string.h>

#include "experiment/config_private.h"

/*
 * Keys that older files have and that do nothing beside the others of the file. They are judged by
 * their values: a configuration that was written out and read again says the same.
 */

static void say(FILE *to, const char *path, const char *text)
{
	fprintf(to, "%s: %s\n", path, text);
}

static void accordion(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_accordion *a = &config->accordion;
	const struct {
		const char *path;
		bool given;
	} keys[] = {
		{"accordion.ema_beta", a->ema_beta > 0},
		{"accordion.critical_factor", a->critical_factor > 0},
		{"accordion.relaxed_factor", a->relaxed_factor > 0},
		{"accordion.update_interval", a->update_interval > 0},
	};

	if (psgd__config_choice(config) != PSGD_CHOICE_EMA)
		for (size_t i = 0; i < PSGD__COUNT(keys); i++)
			if (keys[i].given)
				say(to, keys[i].path, "inactive, it acts with accordion.rule: ema");
	if (a->enable && psgd__config_choice(config) == PSGD_CHOICE_MAX)
		say(to, "accordion.enable",
			config->rank_control.choice
				? "inactive, rank_control.choice is max"
				: "inactive, use_fixed_rank_after_calibration keeps the rank");
}

static void stages(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_compression *c = &config->compression;
	const struct psgd_config_adaptive *a = &config->adaptive_training;
	bool ranks = false, syncs = false;

	for (unsigned i = 0; i < a->stages_count; i++) {
		ranks = ranks || a->stages[i].base_matrix_rank;
		syncs = syncs || a->stages[i].base_sync_frequency > 1;
	}
	if (a->stages_count && !a->enable)
		say(to, "adaptive_training.stages", "inactive, adaptive_training.enable is false");
	if (c->enable_stage_adjust && !psgd__config_stages_choose(config))
		say(to, "compression.enable_stage_adjust",
			a->enable ? "inactive, no stage has base_matrix_rank"
				  : "inactive, adaptive_training.enable is false");
	if (c->enable_adaptive_sync && !a->enable)
		say(to, "compression.enable_adaptive_sync",
			"inactive, adaptive_training.enable is false");
	if (!a->enable)
		return;
	if (ranks && !c->enable_stage_adjust)
		say(to, "adaptive_training.stages[].base_matrix_rank",
			"inactive, compression.enable_stage_adjust is false");
	if (syncs && !c->enable_adaptive_sync)
		say(to, "adaptive_training.stages[].base_sync_frequency",
			"inactive, compression.enable_adaptive_sync is false");
}

psgd_status psgd__config_notices(const struct psgd_config *config, char **out)
{
	const struct psgd_config_powersgd *p = &config->powerSGD;
	size_t n;
	FILE *to = open_memstream(out, &n);

	if (!to)
		return PSGD_ERR_NOMEM;
	if (p->batch_tensors_with_same_shape)
		say(to, "powerSGD.batch_tensors_with_same_shape",
			"nothing to change, the matrices of a bucket are always computed together");
	if (p->matrix_approximation_rank &&
		p->matrix_approximation_rank != config->compression.base_rank)
		say(to, "powerSGD.matrix_approximation_rank",
			"inactive, compression.base_rank is given");
	accordion(config, to);
	stages(config, to);
	return fclose(to) == 0 && *out ? PSGD_OK : PSGD_ERR_NOMEM;
}
