#include <string.h>

#include "experiment/config_private.h"

#define MOST_SPANS 1000

bool psgd__config_given(struct psgd__doc *doc, const char *path)
{
	int node = psgd__doc_find(doc, path);

	return node && !psgd__doc_null(doc, node);
}

psgd_status psgd__config_increasing(
	struct psgd__doc *doc, const char *path, const unsigned *values, unsigned n)
{
	char at[PSGD__PATH_BYTES];

	for (unsigned i = 1; i < n; i++) {
		if (values[i] > values[i - 1])
			continue;
		psgd__text(at, sizeof(at), "%s[%u]", path, i);
		return REFUSE(doc, at, "expected increasing values, got %u after %u", values[i],
			values[i - 1]);
	}
	return PSGD_OK;
}

static psgd_status check_rank(
	struct psgd__doc *doc, const struct psgd_config *config, const char *path, unsigned rank)
{
	const struct psgd_config_compression *c = &config->compression;

	if (rank > c->max_rank)
		return REFUSE(doc, path, "%u is above compression.max_rank, which is %u", rank,
			c->max_rank);
	if (rank < c->min_rank)
		return REFUSE(doc, path, "%u is below compression.min_rank, which is %u", rank,
			c->min_rank);
	return PSGD_OK;
}

static psgd_status check_candidates(struct psgd__doc *doc, const struct psgd_config *config,
	const char *path, const unsigned *ranks, unsigned n)
{
	char at[PSGD__PATH_BYTES];

	if (!n && psgd__config_given(doc, path))
		return REFUSE(doc, path, "expected at least one rank, got an empty list");
	if (n > PSGD__MOST_CANDIDATES)
		return REFUSE(
			doc, path, "expected at most %d ranks, got %u", PSGD__MOST_CANDIDATES, n);
	PSGD__TRY(psgd__config_increasing(doc, path, ranks, n));
	for (unsigned i = 0; i < n; i++) {
		psgd__text(at, sizeof(at), "%s[%u]", path, i);
		PSGD__TRY(check_rank(doc, config, at, ranks[i]));
	}
	return PSGD_OK;
}

struct span {
	unsigned start_epoch, end_epoch; /* inclusive */
	unsigned rank;			 /* 0: dense, or not given */
};

/* One entry of `list` ("a.ranges", whose last word is `noun`) against those before it. */
static psgd_status check_span(struct psgd__doc *doc, const char *list, const char *noun,
	const struct span *spans, unsigned i)
{
	const struct span *s = &spans[i];
	char at[PSGD__PATH_BYTES];

	psgd__text(at, sizeof(at), "%s[%u]", list, i);
	if (s->start_epoch > s->end_epoch)
		return REFUSE(doc, at, "start_epoch %u is after end_epoch %u", s->start_epoch,
			s->end_epoch);
	for (unsigned k = 0; k < i; k++)
		if (s->start_epoch <= spans[k].end_epoch && spans[k].start_epoch <= s->end_epoch)
			return REFUSE(doc, at, "epochs %u to %u overlap epochs %u to %u of %s[%u]",
				s->start_epoch, s->end_epoch, spans[k].start_epoch,
				spans[k].end_epoch, noun, k);
	return PSGD_OK;
}

/* Ranks that do not act are not held against the others. */
static psgd_status check_spans(struct psgd__doc *doc, const struct psgd_config *config,
	const char *list, const char *rank, const struct span *spans, unsigned n, bool acts)
{
	const char *noun = strrchr(list, '.') + 1;
	char at[PSGD__PATH_BYTES];

	for (unsigned i = 0; i < n; i++) {
		PSGD__TRY(check_span(doc, list, noun, spans, i));
		psgd__text(at, sizeof(at), "%s[%u].%s", list, i, rank);
		if (spans[i].rank && acts)
			PSGD__TRY(check_rank(doc, config, at, spans[i].rank));
	}
	return PSGD_OK;
}

static psgd_status check_ranges(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_schedule *s = &config->compression.rank_schedule;
	struct span spans[MOST_SPANS];
	bool acts = psgd__config_choice(config) == PSGD_CHOICE_SCHEDULE &&
		    !psgd__config_stages_choose(config);

	if (s->ranges_count > MOST_SPANS)
		return REFUSE(doc, "compression.rank_schedule.ranges",
			"expected at most %d ranges, got %u", MOST_SPANS, s->ranges_count);
	for (unsigned i = 0; i < s->ranges_count; i++)
		spans[i] = (struct span){
			s->ranges[i].start_epoch, s->ranges[i].end_epoch, s->ranges[i].rank};
	PSGD__TRY(check_spans(doc, config, "compression.rank_schedule.ranges", "rank", spans,
		s->ranges_count, acts));
	return acts ? check_rank(doc, config, "compression.rank_schedule.default_rank",
			      s->default_rank)
		    : PSGD_OK;
}

static psgd_status check_stages(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_adaptive *a = &config->adaptive_training;
	struct span spans[MOST_SPANS];

	if (a->enable && !a->stages_count)
		return REFUSE(doc, "adaptive_training.enable", "needs adaptive_training.stages");
	if (a->stages_count > MOST_SPANS)
		return REFUSE(doc, "adaptive_training.stages", "expected at most %d stages, got %u",
			MOST_SPANS, a->stages_count);
	for (unsigned i = 0; i < a->stages_count; i++)
		spans[i] = (struct span){a->stages[i].start_epoch, a->stages[i].end_epoch,
			a->stages[i].base_matrix_rank};
	return check_spans(doc, config, "adaptive_training.stages", "base_matrix_rank", spans,
		a->stages_count, psgd__config_stages_choose(config));
}

static psgd_status check_own_ranks(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;
	static const char older[] = "powerSGD.matrix_approximation_rank";
	/* The key that says base_rank. */
	const char *base =
		psgd__config_given(doc, "compression.base_rank") || !psgd__config_given(doc, older)
			? "compression.base_rank"
			: older;

	PSGD__TRY(check_rank(doc, config, base, c->base_rank));
	if (psgd__config_choice(config) != PSGD_CHOICE_FIXED)
		return PSGD_OK;
	return check_rank(
		doc, config, "compression.fixed_rank_value", psgd__config_fixed_rank(config));
}

psgd_status psgd__config_check_ranks(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;

	if (c->min_rank > c->max_rank)
		return REFUSE(doc, "compression.min_rank",
			"%u is above compression.max_rank, which is %u", c->min_rank, c->max_rank);
	PSGD__TRY(check_own_ranks(doc, config));
	PSGD__TRY(check_candidates(doc, config, "compression.calibration.ranks",
		c->calibration.ranks, c->calibration.ranks_count));
	PSGD__TRY(check_candidates(doc, config, "rank_control.candidates",
		config->rank_control.candidates, config->rank_control.candidates_count));
	PSGD__TRY(check_ranges(doc, config));
	return check_stages(doc, config);
}

/* Two keys that each say how the rank is chosen are a mistake, not a matter of precedence. */
static psgd_status check_choice(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;
	const char *choice = config->rank_control.choice;
	bool stages = psgd__config_stages_choose(config);
	/* What the file says beside rank_control, the first that holds. */
	const char *other = c->use_fixed_rank	       ? "compression.use_fixed_rank"
			    : config->accordion.enable ? "accordion.enable"
						       : NULL;

	if (c->use_fixed_rank && choice && psgd__config_choice(config) != PSGD_CHOICE_FIXED)
		return REFUSE(doc, "rank_control.choice",
			"'%s' contradicts compression.use_fixed_rank: true", choice);
	if (c->use_fixed_rank && config->accordion.enable)
		return REFUSE(
			doc, "accordion.enable", "contradicts compression.use_fixed_rank: true");
	if (stages && choice && psgd__config_choice(config) != PSGD_CHOICE_SCHEDULE)
		return REFUSE(doc, "rank_control.choice",
			"'%s' contradicts compression.enable_stage_adjust: true", choice);
	if (stages && other)
		return REFUSE(
			doc, "compression.enable_stage_adjust", "contradicts %s: true", other);
	if (stages && c->rank_schedule.ranges_count)
		return REFUSE(doc, "compression.rank_schedule.ranges",
			"contradicts compression.enable_stage_adjust: true");
	if (!choice && other && c->rank_schedule.ranges_count)
		return REFUSE(
			doc, "compression.rank_schedule.ranges", "contradicts %s: true", other);
	return PSGD_OK;
}

static psgd_status check_replay(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_rank_control *control = &config->rank_control;
	bool replay = psgd__config_choice(config) == PSGD_CHOICE_REPLAY;

	if (replay && !control->replay)
		return REFUSE(doc, "rank_control.choice",
			"replay needs rank_control.replay, the events.jsonl of a run");
	if (!replay && control->replay)
		return REFUSE(doc, "rank_control.replay", "needs rank_control.choice: replay");
	if (replay && psgd__config_cap(config) != PSGD_CAP_NONE)
		return REFUSE(doc, "rank_control.cap", "'%s' would change a replay, expected none",
			control->cap);
	return PSGD_OK;
}

static psgd_status check_accordion(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_accordion *a = &config->accordion;
	const char *choice = config->rank_control.choice;

	if (!a->stride_iters &&
		(a->force_max_iters || a->rank_cooldown_iters || a->lr_cooldown_iters))
		return REFUSE(doc,
			a->force_max_iters	 ? "accordion.force_max_iters"
			: a->rank_cooldown_iters ? "accordion.rank_cooldown_iters"
						 : "accordion.lr_cooldown_iters",
			"needs accordion.stride_iters of at least 1");
	if (strcmp(a->rule, "ema") == 0 && choice && strcmp(choice, "epochnorm") == 0)
		return REFUSE(
			doc, "accordion.rule", "'ema' contradicts rank_control.choice: epochnorm");
	if (a->critical_factor > 0 && a->relaxed_factor >= a->critical_factor &&
		!psgd__config_given(doc, "accordion.relaxed_factor"))
		return REFUSE(doc, "accordion.critical_factor",
			"%.15g is not above accordion.relaxed_factor, which is %.15g",
			a->critical_factor, a->relaxed_factor);
	if (a->critical_factor > 0 && a->relaxed_factor >= a->critical_factor)
		return REFUSE(doc, "accordion.relaxed_factor",
			"%.15g is not below accordion.critical_factor, which is %.15g",
			a->relaxed_factor, a->critical_factor);
	return PSGD_OK;
}

static psgd_status check_calibration(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_calibration *c = &config->compression.calibration;
	const char *choice = config->rank_control.choice;
	bool keeps = c->use_fixed_rank_after_calibration &&
		     psgd__config_cap(config) == PSGD_CAP_CALIBRATION;

	if (c->max_batches && c->max_batches <= c->warmup_iters)
		return REFUSE(doc, "compression.calibration.max_batches",
			"%u leaves nothing to measure after warmup_iters, which is %u",
			c->max_batches, c->warmup_iters);
	if (keeps && choice && strcmp(choice, "max") != 0)
		return REFUSE(doc, "compression.calibration.use_fixed_rank_after_calibration",
			"contradicts rank_control.choice: %s", choice);
	if (!keeps || psgd__config_choice(config) != PSGD_CHOICE_MAX)
		return PSGD_OK;
	if (!choice && config->compression.rank_schedule.ranges_count)
		return REFUSE(doc, "compression.rank_schedule.ranges",
			"contradicts compression.calibration.use_fixed_rank_after_calibration: "
			"true");
	if (psgd__config_stages_choose(config))
		return REFUSE(doc, "compression.enable_stage_adjust",
			"contradicts compression.calibration.use_fixed_rank_after_calibration: "
			"true");
	return PSGD_OK;
}

/* Of two numbers that the wrong one is larger, said at a key that is given. */
static psgd_status check_order(
	struct psgd__doc *doc, const char *low, unsigned a, const char *high, unsigned b)
{
	if (a <= b)
		return PSGD_OK;
	if (psgd__config_given(doc, low))
		return REFUSE(doc, low, "%u is above %s, which is %u", a, high, b);
	return REFUSE(doc, high, "%u is below %s, which is %u", b, low, a);
}

psgd_status psgd__config_check_control(struct psgd__doc *doc, const struct psgd_config *config)
{
	PSGD__TRY(check_choice(doc, config));
	PSGD__TRY(check_replay(doc, config));
	PSGD__TRY(check_accordion(doc, config));
	PSGD__TRY(check_calibration(doc, config));
	PSGD__TRY(check_order(doc, "lgreco.sample_iters", config->lgreco.sample_iters,
		"lgreco.adjust_iters", config->lgreco.adjust_iters));
	PSGD__TRY(check_order(doc, "entropy.sample_every", config->entropy.sample_every,
		"entropy.window_iters", config->entropy.window_iters));
	return check_order(doc, "entropy.round_to", config->entropy.round_to, "entropy.slew",
		config->entropy.slew);
}
