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

static void say_choice(const struct psgd_config *config, FILE *to, const char *path)
{
	fprintf(to, "%s: inactive, rank_control.choice is %s\n", path, config->rank_control.choice);
}

/* Why the keys of the rule ema do nothing; the choice is another. */
static void say_no_ema(const struct psgd_config *config, FILE *to, const char *path)
{
	const struct psgd_config_accordion *a = &config->accordion;

	if (strcmp(a->rule, "ema") != 0)
		say(to, path, "inactive, it acts with accordion.rule: ema");
	else if (config->rank_control.choice)
		say_choice(config, to, path);
	else
		say(to, path,
			a->enable ? "inactive, use_fixed_rank_after_calibration keeps the rank"
				  : "inactive, accordion.enable is false");
}

static void accordion(const struct psgd_config *config, FILE *to)
{
	enum psgd_choice_kind kind = psgd__config_choice(config);
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

	if (kind != PSGD_CHOICE_EMA)
		for (size_t i = 0; i < PSGD__COUNT(keys); i++)
			if (keys[i].given)
				say_no_ema(config, to, keys[i].path);
	if (!a->enable || !config->compression.enable_powerSGD || kind == PSGD_CHOICE_EMA ||
		kind == PSGD_CHOICE_EPOCHNORM || kind == PSGD_CHOICE_ACCORDION)
		return;
	if (config->rank_control.choice)
		say_choice(config, to, "accordion.enable");
	else
		say(to, "accordion.enable",
			"inactive, use_fixed_rank_after_calibration keeps the rank");
}

/* Beside a choice or a cap that the file names. */
static void control(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_compression *c = &config->compression;
	const char *cap = config->rank_control.cap;

	if (c->rank_schedule.ranges_count && config->rank_control.choice &&
		psgd__config_choice(config) != PSGD_CHOICE_SCHEDULE)
		say_choice(config, to, "compression.rank_schedule.ranges");
	if (c->use_fixed_rank && c->calibration.use_fixed_rank_after_calibration)
		say(to, "compression.calibration.use_fixed_rank_after_calibration",
			"inactive, compression.use_fixed_rank is true");
	if (c->calibration.enable && psgd__config_cap(config) != PSGD_CAP_CALIBRATION)
		say(to, "compression.calibration.enable",
			!cap			   ? "inactive, a replay does not calibrate"
			: strcmp(cap, "live") == 0 ? "inactive, rank_control.cap is live"
						   : "inactive, rank_control.cap is none");
}

static void dense(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_compression *c = &config->compression;
	const struct {
		const char *path;
		bool given;
	} keys[] = {
		{"compression.use_fixed_rank", c->use_fixed_rank},
		{"compression.enable_stage_adjust", c->enable_stage_adjust},
		{"compression.calibration.enable", c->calibration.enable},
		{"compression.rank_schedule.ranges", c->rank_schedule.ranges_count > 0},
		{"accordion.enable", config->accordion.enable},
		{"rank_control.cap", config->rank_control.cap},
		{"rank_control.choice", config->rank_control.choice},
	};

	for (size_t i = 0; i < PSGD__COUNT(keys); i++)
		if (keys[i].given)
			say(to, keys[i].path, "inactive, compression.enable_powerSGD is false");
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
	if (c->enable_stage_adjust && c->enable_powerSGD && !psgd__config_stages_choose(config))
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

/* What only CUDA devices have. */
static void cpu(const struct psgd_config *config, FILE *to)
{
	if (strcmp(config->device, "cpu") != 0)
		return;
	if (config->allow_mixed)
		say(to, "allow_mixed", "inactive, device is cpu");
	if (strcmp(config->training.tf32, "convolutions") != 0)
		say(to, "training.tf32", "inactive, device is cpu");
}

static void network(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_network *net = &config->network_limits;

	if (net->enable && !psgd__config_limited(net))
		say(to, "network_limits.enable",
			"nothing is limited, egress_mbps, ingress_mbps, latency_ms and loss_pct "
			"are 0");
}

/* An end at max_iterations is a trial's. */
static void training(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_training *t = &config->training;

	if (t->warmup_epochs > t->epochs)
		fprintf(to,
			"training.warmup_epochs: training ends in the warm-up, after %u of its %u "
			"epochs\n",
			t->epochs, t->warmup_epochs);
}

psgd_status psgd__config_notices(const struct psgd_config *config, char **out)
{
	const struct psgd_config_powersgd *p = &config->powerSGD;
	size_t n;
	FILE *to = open_memstream(out, &n);

	if (!to)
		return PSGD_ERR_NOMEM;
	training(config, to);
	if (p->batch_tensors_with_same_shape)
		say(to, "powerSGD.batch_tensors_with_same_shape",
			"nothing to change, the matrices of a bucket are always computed together");
	if (p->matrix_approximation_rank &&
		p->matrix_approximation_rank != config->compression.base_rank)
		say(to, "powerSGD.matrix_approximation_rank",
			"inactive, compression.base_rank is given");
	accordion(config, to);
	if (config->compression.enable_powerSGD)
		control(config, to);
	else
		dense(config, to);
	stages(config, to);
	cpu(config, to);
	network(config, to);
	return fclose(to) == 0 && *out ? PSGD_OK : PSGD_ERR_NOMEM;
}
