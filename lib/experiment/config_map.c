#include <string.h>

#include "experiment/config_private.h"

enum psgd_cap_kind psgd__config_cap(const struct psgd_config *config)
{
	const char *cap = config->rank_control.cap;

	if (cap && strcmp(cap, "none") == 0)
		return PSGD_CAP_NONE;
	if (cap && strcmp(cap, "live") == 0)
		return PSGD_CAP_LIVE;
	if (cap)
		return PSGD_CAP_CALIBRATION;
	/* A replay repeats what a calibration came to; it does not calibrate again. */
	if (psgd__config_choice(config) == PSGD_CHOICE_REPLAY)
		return PSGD_CAP_NONE;
	return config->compression.calibration.enable ? PSGD_CAP_CALIBRATION : PSGD_CAP_NONE;
}

enum psgd_choice_kind psgd__config_choice(const struct psgd_config *config)
{
	static const struct {
		const char *word;
		enum psgd_choice_kind kind;
	} words[] = {
		{"max", PSGD_CHOICE_MAX},
		{"fixed", PSGD_CHOICE_FIXED},
		{"schedule", PSGD_CHOICE_SCHEDULE},
		{"epochnorm", PSGD_CHOICE_EPOCHNORM},
		{"ema", PSGD_CHOICE_EMA},
		{"accordion", PSGD_CHOICE_ACCORDION},
		{"lgreco", PSGD_CHOICE_LGRECO},
		{"entropy", PSGD_CHOICE_ENTROPY},
		{"replay", PSGD_CHOICE_REPLAY},
	};
	const struct psgd_config_calibration *calibration = &config->compression.calibration;
	const char *choice = config->rank_control.choice;
	const char *cap = config->rank_control.cap;

	for (size_t i = 0; choice && i < PSGD__COUNT(words); i++)
		if (strcmp(choice, words[i].word) == 0)
			return words[i].kind;
	if (config->compression.use_fixed_rank)
		return PSGD_CHOICE_FIXED;
	if (calibration->use_fixed_rank_after_calibration &&
		(cap ? strcmp(cap, "calibration") == 0 : calibration->enable))
		return PSGD_CHOICE_MAX;
	if (config->accordion.enable)
		return strcmp(config->accordion.rule, "ema") == 0 ? PSGD_CHOICE_EMA
								  : PSGD_CHOICE_EPOCHNORM;
	if (config->compression.rank_schedule.ranges_count || psgd__config_stages_choose(config))
		return PSGD_CHOICE_SCHEDULE;
	/* A cap that nothing asks for less than is the rank: what the link allows. */
	return cap && strcmp(cap, "live") == 0 ? PSGD_CHOICE_MAX : PSGD_CHOICE_FIXED;
}

bool psgd__config_stages_choose(const struct psgd_config *config)
{
	const struct psgd_config_adaptive *a = &config->adaptive_training;

	if (!a->enable || !config->compression.enable_stage_adjust)
		return false;
	for (unsigned i = 0; i < a->stages_count; i++)
		if (a->stages[i].base_matrix_rank)
			return true;
	return false;
}

unsigned psgd__config_fixed_rank(const struct psgd_config *config)
{
	bool asked = config->compression.use_fixed_rank || config->rank_control.choice;

	return asked ? config->compression.fixed_rank_value : config->compression.base_rank;
}

psgd_status psgd_config_compressor(const struct psgd_config *config, struct psgd_compressor *out)
{
	struct psgd_powersgd_options options = PSGD_INIT(psgd_powersgd_options);

	if (!config || !out)
		return PSGD_ERR_INVALID;
	if (!config->compression.enable_powerSGD)
		return psgd_compressor_dense(out);
	options.seed = config->powerSGD.random_seed;
	options.start_step = config->compression.start_power_iterations;
	options.min_ratio = config->powerSGD.min_compression_rate;
	options.eps = config->powerSGD.orthogonalization_epsilon;
	options.rank = config->compression.base_rank;
	if (psgd__config_choice(config) == PSGD_CHOICE_FIXED)
		options.rank = psgd__config_fixed_rank(config);
	if (!config->powerSGD.use_error_feedback)
		options.flags |= PSGD_POWERSGD_NO_ERROR_FEEDBACK;
	if (!config->powerSGD.warm_start)
		options.flags |= PSGD_POWERSGD_NO_WARM_START;
	return psgd_compressor_powersgd(&options, out);
}
