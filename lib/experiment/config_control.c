#include "experiment/config_private.h"

/* What psgd_rank_control_options points to while the controller is made; it copies all of it. */
struct parts {
	uint32_t candidates[PSGD__MOST_CANDIDATES + 1];
	struct psgd_schedule_range *ranges;
	struct psgd__replay replay;
	struct psgd_epochnorm_options epochnorm;
	struct psgd_ema_options ema;
	struct psgd_accordion_options accordion;
	struct psgd_lgreco_options lgreco;
	struct psgd_entropy_options entropy;
	struct psgd_live_options live;
	struct psgd_calibration_options calibration;
};

/* Doubling from the smallest rank to the largest, which is always one of them. */
static size_t default_candidates(const struct psgd_config_compression *c, uint32_t *out)
{
	size_t n = 0;

	for (unsigned rank = c->min_rank; rank < c->max_rank; rank *= 2)
		out[n++] = rank;
	out[n++] = c->max_rank;
	return n;
}

size_t psgd__config_candidates(const struct psgd_config *config, uint32_t *out)
{
	bool calibrate = psgd__config_cap(config) == PSGD_CAP_CALIBRATION;
	const struct psgd_config_calibration *calibration = &config->compression.calibration;
	const unsigned *list = config->rank_control.candidates;
	size_t n = config->rank_control.candidates_count;

	if (calibrate && calibration->ranks_count) {
		list = calibration->ranks;
		n = calibration->ranks_count;
	}
	if (!n)
		n = default_candidates(&config->compression, out);
	else
		for (size_t i = 0; i < n; i++)
			out[i] = list[i];
	if (config->rank_control.dense_candidate)
		out[n++] = PSGD_RANK_DENSE;
	return n;
}

/* Stages that have no rank are at base_rank, and so are epochs that have no stage. */
static size_t stage_ranges(const struct psgd_config *config, struct psgd_schedule_range *out)
{
	const struct psgd_config_adaptive *a = &config->adaptive_training;
	size_t n = 0;

	for (unsigned i = 0; i < a->stages_count; i++)
		if (a->stages[i].base_matrix_rank)
			out[n++] = (struct psgd_schedule_range){
				.start_epoch = a->stages[i].start_epoch,
				.end_epoch = a->stages[i].end_epoch,
				.rank = a->stages[i].base_matrix_rank,
			};
	return n;
}

static psgd_status add_ranges(const struct psgd_config *config, struct parts *parts,
	struct psgd_rank_control_options *options)
{
	const struct psgd_config_schedule *s = &config->compression.rank_schedule;
	bool stages = psgd__config_stages_choose(config);
	size_t n = stages ? config->adaptive_training.stages_count : s->ranges_count;

	parts->ranges = psgd__calloc(n, sizeof(*parts->ranges));
	if (!parts->ranges)
		return PSGD_ERR_NOMEM;
	options->ranges = parts->ranges;
	options->n_ranges = s->ranges_count;
	if (stages) {
		options->default_rank = config->compression.base_rank;
		options->n_ranges = stage_ranges(config, parts->ranges);
		return PSGD_OK;
	}
	for (unsigned i = 0; i < s->ranges_count; i++) {
		parts->ranges[i].start_epoch = s->ranges[i].start_epoch;
		parts->ranges[i].end_epoch = s->ranges[i].end_epoch;
		parts->ranges[i].rank = s->ranges[i].rank;
		if (!s->ranges[i].rank)
			options->max_rank = PSGD_RANK_DENSE;
	}
	return PSGD_OK;
}

/* What a recorded run did is allowed, whatever this file's largest rank is. */
static psgd_status add_replay(const struct psgd_config *config, struct parts *parts,
	struct psgd_rank_control_options *options, char *error, size_t error_bytes)
{
	PSGD__TRY(psgd__config_replay(
		config->rank_control.replay, &parts->replay, error, error_bytes));
	options->replay = parts->replay.entries;
	options->n_replay = parts->replay.n;
	options->replay_ranks = parts->replay.ranks;
	options->n_replay_tensors = parts->replay.n_tensors;
	for (size_t i = 0; i < options->n_replay; i++) {
		uint32_t rank = options->replay[i].rank ? options->replay[i].rank : PSGD_RANK_DENSE;

		if (rank > options->max_rank)
			options->max_rank = rank;
		if (rank < options->min_rank)
			options->min_rank = rank;
	}
	return PSGD_OK;
}

/* 0 means "default" in the options and zero in the file: each zero is said with its flag. */
static void set_epochnorm(const struct psgd_config_accordion *a, struct psgd_epochnorm_options *out)
{
	bool in_steps = a->stride_iters > 0;

	*out = PSGD_INIT(psgd_epochnorm_options);
	out->in_steps = in_steps;
	out->force_max = in_steps ? a->force_max_iters : a->force_max_epochs;
	out->stride = in_steps ? a->stride_iters : a->stride_epochs;
	out->rank_cooldown = in_steps ? a->rank_cooldown_iters : a->rank_cooldown_epochs;
	out->lr_cooldown = in_steps ? a->lr_cooldown_iters : a->lr_cooldown_epochs;
	out->threshold = a->threshold;
	out->no_force_max = !out->force_max;
	out->no_rank_cooldown = !out->rank_cooldown;
	out->no_lr_cooldown = !out->lr_cooldown;
}

static void set_choices(const struct psgd_config *config, struct parts *parts)
{
	const struct psgd_config_accordion *a = &config->accordion;
	const struct psgd_config_lgreco *l = &config->lgreco;
	const struct psgd_config_entropy *e = &config->entropy;
	unsigned base = config->compression.base_rank;

	set_epochnorm(a, &parts->epochnorm);
	parts->ema = PSGD_INIT(psgd_ema_options);
	parts->ema.beta = a->ema_beta;
	parts->ema.critical = a->critical_factor;
	parts->ema.relaxed = a->relaxed_factor;
	parts->ema.interval_steps = a->update_interval;
	/* The three levels of a base rank, unless the file lists its own. */
	if (!config->rank_control.candidates_count && base > config->compression.min_rank)
		parts->ema.base_rank = base;
	parts->accordion = PSGD_INIT(psgd_accordion_options);
	parts->accordion.threshold = a->threshold;
	parts->accordion.in_steps = a->stride_iters > 0;
	parts->accordion.stride = a->stride_iters ? a->stride_iters : a->stride_epochs;
	parts->accordion.no_lr_drop =
		!(a->stride_iters ? a->lr_cooldown_iters : a->lr_cooldown_epochs);
	parts->lgreco = PSGD_INIT(psgd_lgreco_options);
	parts->lgreco.adjust_steps = l->adjust_iters;
	parts->lgreco.sample_steps = l->sample_iters;
	parts->lgreco.alpha = l->alpha;
	parts->lgreco.low = l->low;
	parts->lgreco.high = l->high;
	parts->lgreco.base_rank = base;
	parts->entropy = PSGD_INIT(psgd_entropy_options);
	parts->entropy.window_steps = e->window_iters;
	parts->entropy.sample_every = e->sample_every;
	parts->entropy.slew = e->slew;
	parts->entropy.round_to = e->round_to;
}

static void set_caps(const struct psgd_config *config, struct parts *parts)
{
	const struct psgd_config_calibration *c = &config->compression.calibration;
	const struct psgd_config_rank_control *control = &config->rank_control;
	double exposed = control->max_exposed > 0 ? control->max_exposed : c->comm_ratio_threshold;

	parts->live = PSGD_INIT(psgd_live_options);
	parts->live.max_exposed = exposed;
	parts->live.dwell_steps = control->dwell_iters;
	parts->calibration = PSGD_INIT(psgd_calibration_options);
	parts->calibration.start_step = c->force_start_iter;
	parts->calibration.max_exposed = exposed;
	parts->calibration.allow_rank_one = c->allow_rank_one;
}

psgd_status psgd__config_controller(const struct psgd_config *config,
	const struct psgd_cost_link *prior, struct psgd_controller *out, char *error,
	size_t error_bytes)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);
	struct parts parts = {0};
	psgd_status status = PSGD_OK;

	psgd__text(error, error_bytes, "%s", "");
	if (!config || !out)
		return PSGD_ERR_INVALID;
	*out = (struct psgd_controller){0};
	if (!config->compression.enable_powerSGD)
		return PSGD_OK;
	options.cap = psgd__config_cap(config);
	options.choice = psgd__config_choice(config);
	options.min_rank = config->compression.min_rank;
	options.max_rank = config->rank_control.dense_candidate ? PSGD_RANK_DENSE
								: config->compression.max_rank;
	options.fixed_rank = psgd__config_fixed_rank(config);
	options.default_rank = config->compression.rank_schedule.default_rank;
	options.candidates = parts.candidates;
	options.n_candidates = psgd__config_candidates(config, parts.candidates);
	set_choices(config, &parts);
	set_caps(config, &parts);
	if (prior) {
		parts.live.prior_delay_ns = prior->delay_ns;
		parts.live.prior_ns_per_byte = prior->ns_per_byte;
	}
	options.epochnorm = &parts.epochnorm;
	options.ema = &parts.ema;
	options.accordion = &parts.accordion;
	options.lgreco = &parts.lgreco;
	options.entropy = &parts.entropy;
	options.live = &parts.live;
	options.calibration = &parts.calibration;
	if (options.choice == PSGD_CHOICE_SCHEDULE)
		status = add_ranges(config, &parts, &options);
	else if (options.choice == PSGD_CHOICE_REPLAY)
		status = add_replay(config, &parts, &options, error, error_bytes);
	if (status >= 0)
		status = psgd_controller_rank_control(&options, error, error_bytes, out);
	psgd__replay_free(&parts.replay);
	free(parts.ranges);
	return status == PSGD_ERR_INVALID ? PSGD_ERR_CONFIG : status;
}

psgd_status psgd_config_controller(const struct psgd_config *config, struct psgd_controller *out,
	char *error, size_t error_bytes)
{
	return psgd__config_controller(config, NULL, out, error, error_bytes);
}
