#include <string.h>

#include "experiment/config_private.h"

#define MOST_RANGES 1000

/* Fails at a key, with its place when the file or an override has it. */
#define REFUSE(doc, path, ...) psgd__doc_fail(doc, psgd__doc_find(doc, path), path, __VA_ARGS__)

static bool given(struct psgd__doc *doc, const char *path)
{
	int node = psgd__doc_find(doc, path);

	return node && !psgd__doc_null(doc, node);
}

static unsigned larger(unsigned a, unsigned b)
{
	return a > b ? a : b;
}

/* A maximum that the file does not give makes room for every rank that it does give. */
static unsigned default_max_rank(const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;
	unsigned most = larger(8, larger(c->base_rank, c->fixed_rank_value));

	for (unsigned i = 0; i < config->rank_control.candidates_count; i++)
		most = larger(most, config->rank_control.candidates[i]);
	for (unsigned i = 0; i < c->calibration.ranks_count; i++)
		most = larger(most, c->calibration.ranks[i]);
	for (unsigned i = 0; i < c->rank_schedule.ranges_count; i++)
		most = larger(most, c->rank_schedule.ranges[i].rank);
	return larger(most, c->rank_schedule.default_rank);
}

/* File names may hold any bytes, YAML only UTF-8 text. */
static psgd_status derive_name(struct psgd__doc *doc, struct psgd_config *config, const char *name)
{
	bool utf8;

	config->name = psgd__strdup(name);
	if (!config->name)
		return PSGD_ERR_NOMEM;
	utf8 = psgd__config_add_plain(&doc->tree, name) != 0;
	for (char *at = config->name; *at; at++)
		if ((unsigned char)*at < 0x20 || *at == 0x7f || (!utf8 && *at < 0))
			*at = '_';
	return PSGD_OK;
}

static psgd_status set_text(char **text, const char *value)
{
	char *copy = psgd__strdup(value);

	if (!copy)
		return PSGD_ERR_NOMEM;
	free(*text);
	*text = copy;
	return PSGD_OK;
}

/* Photographs are augmented unless the file says otherwise; the other sets are not. */
static psgd_status derive_dataset(struct psgd__doc *doc, struct psgd_config_dataset *dataset)
{
	bool photographs;

	if (strcmp(dataset->name, "cifar") == 0)
		PSGD__TRY(set_text(&dataset->name, "cifar10"));
	photographs = strncmp(dataset->name, "cifar", strlen("cifar")) == 0;
	if (given(doc, "dataset.augment"))
		return PSGD_OK;
	return set_text(&dataset->augment, photographs ? "crop_flip" : "none");
}

psgd_status psgd__config_derive(struct psgd__doc *doc, struct psgd_config *config, const char *name)
{
	struct psgd_config_compression *c = &config->compression;
	struct psgd_config_rank_control *control = &config->rank_control;
	struct psgd_config_network *net = &config->network_limits;

	/* An epoch has a step or more, so max_iterations always ends such a run. */
	if (!given(doc, "training.epochs"))
		config->training.epochs = config->training.max_iterations;
	if (!given(doc, "compression.base_rank"))
		c->base_rank = config->powerSGD.matrix_approximation_rank
				       ? config->powerSGD.matrix_approximation_rank
				       : c->min_rank;
	if (!given(doc, "compression.start_power_iterations"))
		c->start_power_iterations = config->powerSGD.start_power_iterations;
	if (!given(doc, "compression.fixed_rank_value"))
		c->fixed_rank_value = c->base_rank;
	if (!given(doc, "compression.rank_schedule.default_rank"))
		c->rank_schedule.default_rank = c->min_rank;
	if (!given(doc, "compression.max_rank"))
		c->max_rank = default_max_rank(config);
	if (!given(doc, "rank_control.dense_candidate"))
		control->dense_candidate = control->cap && strcmp(control->cap, "live") == 0;
	if (!given(doc, "network_limits.egress_mbps"))
		net->egress_mbps = net->bandwidth_mbps;
	if (!given(doc, "network_limits.ingress_mbps"))
		net->ingress_mbps = net->egress_mbps;
	PSGD__TRY(derive_dataset(doc, &config->dataset));
	return config->name ? PSGD_OK : derive_name(doc, config, name);
}

static psgd_status check_increasing(
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

static psgd_status check_training(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_training *t = &config->training;

	if (!t->epochs)
		return REFUSE(
			doc, "training", "required key 'epochs' is missing (or 'max_iterations')");
	if (!given(doc, "training.epochs") && !t->T_max && strcmp(t->scheduler, "cosine") == 0)
		return REFUSE(doc, "training.scheduler",
			"cosine needs training.epochs or training.T_max");
	if (t->nesterov && !(t->momentum > 0))
		return REFUSE(doc, "training.nesterov", "needs training.momentum above 0");
	if (strcmp(config->dataset.name, "idx") == 0 && !config->dataset.root)
		return REFUSE(doc, "dataset.name", "idx needs dataset.root");
	return check_increasing(doc, "training.milestones", t->milestones, t->milestones_count);
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

	if (!n && given(doc, path))
		return REFUSE(doc, path, "expected at least one rank, got an empty list");
	if (n > PSGD__MOST_CANDIDATES)
		return REFUSE(
			doc, path, "expected at most %d ranks, got %u", PSGD__MOST_CANDIDATES, n);
	PSGD__TRY(check_increasing(doc, path, ranks, n));
	for (unsigned i = 0; i < n; i++) {
		psgd__text(at, sizeof(at), "%s[%u]", path, i);
		PSGD__TRY(check_rank(doc, config, at, ranks[i]));
	}
	return PSGD_OK;
}

static psgd_status check_ranges(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_schedule *s = &config->compression.rank_schedule;
	char at[PSGD__PATH_BYTES];

	if (s->ranges_count > MOST_RANGES)
		return REFUSE(doc, "compression.rank_schedule.ranges",
			"expected at most %d ranges, got %u", MOST_RANGES, s->ranges_count);
	for (unsigned i = 0; i < s->ranges_count; i++) {
		const struct psgd_config_range *r = &s->ranges[i];

		psgd__text(at, sizeof(at), "compression.rank_schedule.ranges[%u]", i);
		if (r->start_epoch > r->end_epoch)
			return REFUSE(doc, at, "start_epoch %u is after end_epoch %u",
				r->start_epoch, r->end_epoch);
		for (unsigned k = 0; k < i; k++)
			if (r->start_epoch <= s->ranges[k].end_epoch &&
				s->ranges[k].start_epoch <= r->end_epoch)
				return REFUSE(doc, at,
					"epochs %u to %u overlap epochs %u to %u of ranges[%u]",
					r->start_epoch, r->end_epoch, s->ranges[k].start_epoch,
					s->ranges[k].end_epoch, k);
		psgd__text(at, sizeof(at), "compression.rank_schedule.ranges[%u].rank", i);
		if (r->rank)
			PSGD__TRY(check_rank(doc, config, at, r->rank));
	}
	return check_rank(doc, config, "compression.rank_schedule.default_rank", s->default_rank);
}

static psgd_status check_ranks(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;

	if (c->min_rank > c->max_rank)
		return REFUSE(doc, "compression.min_rank",
			"%u is above compression.max_rank, which is %u", c->min_rank, c->max_rank);
	PSGD__TRY(check_rank(doc, config, "compression.base_rank", c->base_rank));
	PSGD__TRY(check_rank(doc, config, "compression.fixed_rank_value", c->fixed_rank_value));
	PSGD__TRY(check_candidates(doc, config, "compression.calibration.ranks",
		c->calibration.ranks, c->calibration.ranks_count));
	PSGD__TRY(check_candidates(doc, config, "rank_control.candidates",
		config->rank_control.candidates, config->rank_control.candidates_count));
	return check_ranges(doc, config);
}

/* Two keys that each say how the rank is chosen are a mistake, not a matter of precedence. */
static psgd_status check_choice(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;
	const struct psgd_config_rank_control *control = &config->rank_control;
	enum psgd_choice_kind choice = psgd__config_choice(config);

	if (c->use_fixed_rank && control->choice && choice != PSGD_CHOICE_FIXED)
		return REFUSE(doc, "rank_control.choice",
			"'%s' contradicts compression.use_fixed_rank: true", control->choice);
	if (c->use_fixed_rank && config->accordion.enable)
		return REFUSE(
			doc, "accordion.enable", "contradicts compression.use_fixed_rank: true");
	if (control->choice)
		return PSGD_OK;
	if (c->rank_schedule.ranges_count && (c->use_fixed_rank || config->accordion.enable))
		return REFUSE(doc, "compression.rank_schedule.ranges", "contradicts %s: true",
			c->use_fixed_rank ? "compression.use_fixed_rank" : "accordion.enable");
	return PSGD_OK;
}

static psgd_status check_control(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_rank_control *control = &config->rank_control;
	const struct psgd_config_accordion *a = &config->accordion;
	bool replay = psgd__config_choice(config) == PSGD_CHOICE_REPLAY;

	PSGD__TRY(check_choice(doc, config));
	if (replay && !control->replay)
		return REFUSE(doc, "rank_control.choice",
			"replay needs rank_control.replay, the events.jsonl of a run");
	if (!replay && control->replay)
		return REFUSE(doc, "rank_control.replay", "needs rank_control.choice: replay");
	if (replay && psgd__config_cap(config) != PSGD_CAP_NONE)
		return REFUSE(doc, "rank_control.cap", "'%s' would change a replay, expected none",
			control->cap);
	if (!a->stride_iters &&
		(a->force_max_iters || a->rank_cooldown_iters || a->lr_cooldown_iters))
		return REFUSE(doc,
			a->force_max_iters	 ? "accordion.force_max_iters"
			: a->rank_cooldown_iters ? "accordion.rank_cooldown_iters"
						 : "accordion.lr_cooldown_iters",
			"needs accordion.stride_iters of at least 1");
	return PSGD_OK;
}

static psgd_status check_rate(struct psgd__doc *doc, const char *path, double mbps)
{
	if (mbps > 0 && mbps < 0.001)
		return REFUSE(doc, path, "expected 0 (no limit) or at least 0.001");
	return PSGD_OK;
}

static psgd_status check_network(struct psgd__doc *doc, const struct psgd_config *config)
{
	const struct psgd_config_network *net = &config->network_limits;

	PSGD__TRY(check_rate(doc, "network_limits.bandwidth_mbps", net->bandwidth_mbps));
	PSGD__TRY(check_rate(doc, "network_limits.egress_mbps", net->egress_mbps));
	PSGD__TRY(check_rate(doc, "network_limits.ingress_mbps", net->ingress_mbps));
	if (net->jitter_ms > net->latency_ms)
		return REFUSE(doc, "network_limits.jitter_ms",
			"%.15g is above network_limits.latency_ms, which is %.15g", net->jitter_ms,
			net->latency_ms);
	return PSGD_OK;
}

psgd_status psgd__config_check(struct psgd__doc *doc, const struct psgd_config *config)
{
	PSGD__TRY(check_training(doc, config));
	PSGD__TRY(check_ranks(doc, config));
	PSGD__TRY(check_control(doc, config));
	return check_network(doc, config);
}
