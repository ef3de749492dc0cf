#include <string.h>

#include "experiment/config_private.h"

static unsigned larger(unsigned a, unsigned b)
{
	return a > b ? a : b;
}

/* A maximum that the file does not give makes room for every rank that it does give. */
static unsigned default_max_rank(const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;
	unsigned most = larger(larger(8, c->min_rank), larger(c->base_rank, c->fixed_rank_value));

	for (unsigned i = 0; i < config->rank_control.candidates_count; i++)
		most = larger(most, config->rank_control.candidates[i]);
	for (unsigned i = 0; i < c->calibration.ranks_count; i++)
		most = larger(most, c->calibration.ranks[i]);
	for (unsigned i = 0; i < c->rank_schedule.ranges_count; i++)
		most = larger(most, c->rank_schedule.ranges[i].rank);
	for (unsigned i = 0; i < config->adaptive_training.stages_count; i++)
		most = larger(most, config->adaptive_training.stages[i].base_matrix_rank);
	return larger(most, c->rank_schedule.default_rank);
}

/* File names may hold any bytes and begin with a dot; YAML holds only UTF-8 text. */
static psgd_status derive_name(struct psgd__doc *doc, struct psgd_config *config, const char *name)
{
	bool utf8;

	config->name = psgd__strdup(name);
	if (!config->name)
		return PSGD_ERR_NOMEM;
	utf8 = psgd__config_add_plain(&doc->tree, name) != 0;
	for (char *at = config->name; *at; at++)
		if ((at == config->name && *at == '.') || (unsigned char)*at < 0x20 ||
			*at == 0x7f || (!utf8 && *at < 0))
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
	bool cifar, imagenet;

	if (strcmp(dataset->name, "cifar") == 0)
		PSGD__TRY(set_text(&dataset->name, "cifar10"));
	cifar = strncmp(dataset->name, "cifar", strlen("cifar")) == 0;
	imagenet = strcmp(dataset->name, "imagenet") == 0;
	if (psgd__config_given(doc, "dataset.augment"))
		return PSGD_OK;
	return set_text(&dataset->augment, cifar      ? "crop_flip"
					   : imagenet ? "resized_crop_flip"
						      : "none");
}

/* Where nothing else says what the rank is, it is what calibration found. */
static bool other_choice(const struct psgd_config *config)
{
	const struct psgd_config_compression *c = &config->compression;

	return config->rank_control.choice || c->use_fixed_rank || config->accordion.enable ||
	       c->rank_schedule.ranges_count || psgd__config_stages_choose(config);
}

/* With the other rule these four do nothing, and stay unset so that it can be said of them. */
static void derive_ema(struct psgd_config *config)
{
	struct psgd_config_accordion *a = &config->accordion;

	if (psgd__config_choice(config) != PSGD_CHOICE_EMA)
		return;
	if (!(a->ema_beta > 0))
		a->ema_beta = 0.9;
	if (!(a->critical_factor > 0))
		a->critical_factor = 1.2;
	if (!(a->relaxed_factor > 0))
		a->relaxed_factor = 0.95;
	if (!a->update_interval)
		a->update_interval = 100;
}

static void derive_ranks(struct psgd__doc *doc, struct psgd_config *config)
{
	struct psgd_config_compression *c = &config->compression;

	if (!psgd__config_given(doc, "compression.base_rank"))
		c->base_rank = config->powerSGD.matrix_approximation_rank
				       ? config->powerSGD.matrix_approximation_rank
				       : c->min_rank;
	if (!psgd__config_given(doc, "compression.start_power_iterations"))
		c->start_power_iterations = config->powerSGD.start_power_iterations;
	if (!psgd__config_given(doc, "compression.fixed_rank_value"))
		c->fixed_rank_value = c->base_rank;
	if (!psgd__config_given(doc, "compression.rank_schedule.default_rank"))
		c->rank_schedule.default_rank = c->min_rank;
	if (!psgd__config_given(doc, "compression.max_rank"))
		c->max_rank = default_max_rank(config);
	if (!psgd__config_given(doc, "compression.calibration.use_fixed_rank_after_calibration"))
		c->calibration.use_fixed_rank_after_calibration = !other_choice(config);
	if (!psgd__config_given(doc, "rank_control.dense_candidate"))
		config->rank_control.dense_candidate = psgd__config_cap(config) != PSGD_CAP_NONE;
	derive_ema(config);
}

static psgd_status derive_network(struct psgd__doc *doc, struct psgd_config *config)
{
	struct psgd_config_network *net = &config->network_limits;
	double latency_ms = net->latency_ms;
	char at[PSGD__PATH_BYTES];

	if (!psgd__config_given(doc, "network_limits.egress_mbps"))
		net->egress_mbps = net->bandwidth_mbps;
	if (!psgd__config_given(doc, "network_limits.ingress_mbps"))
		net->ingress_mbps = net->egress_mbps;
	for (unsigned i = 0; i < net->schedule_count; i++) {
		struct psgd_config_link_change *change = &net->schedule[i];

		psgd__text(at, sizeof(at), "network_limits.schedule[%u].ingress_mbps", i);
		if (!psgd__config_given(doc, at))
			change->ingress_mbps = change->egress_mbps;
		psgd__text(at, sizeof(at), "network_limits.schedule[%u].latency_ms", i);
		if (!psgd__config_given(doc, at))
			change->latency_ms = latency_ms;
		latency_ms = change->latency_ms;
	}
	if (config->communication.interface || strcmp(net->interface, "auto") == 0)
		return PSGD_OK;
	return set_text(&config->communication.interface, net->interface);
}

psgd_status psgd__config_derive(struct psgd__doc *doc, struct psgd_config *config, const char *name)
{
	/* An epoch has a step or more, so max_iterations always ends such a run. */
	if (!psgd__config_given(doc, "training.epochs"))
		config->training.epochs = config->training.max_iterations;
	derive_ranks(doc, config);
	PSGD__TRY(derive_network(doc, config));
	PSGD__TRY(derive_dataset(doc, &config->dataset));
	return config->name ? PSGD_OK : derive_name(doc, config, name);
}
