#include <stdio.h>
#include <string.h>

#include "experiment/c_locale.h"
#include "experiment/config_private.h"

/* Who decides the rank of a run, in one line. */

static void list_candidates(const struct psgd_config *config, FILE *to)
{
	uint32_t ranks[PSGD__MOST_CANDIDATES + 1];
	size_t n = psgd__config_candidates(config, ranks);

	for (size_t i = 0; i < n; i++) {
		fputs(!i ? " " : i + 1 < n ? ", " : " or ", to);
		if (ranks[i] == PSGD_RANK_DENSE)
			fputs("dense", to);
		else
			fprintf(to, "r=%u", ranks[i]);
	}
}

static void cap(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_calibration *c = &config->compression.calibration;
	double exposed = config->rank_control.max_exposed > 0 ? config->rank_control.max_exposed
							      : c->comm_ratio_threshold;
	bool live = psgd__config_cap(config) == PSGD_CAP_LIVE;

	if (psgd__config_cap(config) == PSGD_CAP_NONE)
		return;
	fputs(psgd__config_choice(config) == PSGD_CHOICE_MAX ? "the largest of"
							     : ", at most the largest of",
		to);
	list_candidates(config, to);
	fprintf(to, " that leaves at most %.3g %% of a step exposed, ", 100 * exposed);
	if (live)
		fputs("followed while training runs", to);
	else
		fprintf(to, "measured once at step %u", c->force_start_iter);
}

/* "1 step", "2 steps" */
static void count(FILE *to, unsigned n, const char *what)
{
	fprintf(to, "%u %s%s", n, what, n == 1 ? "" : "s");
}

static void windows(const struct psgd_config_accordion *a, FILE *to)
{
	if (a->stride_iters)
		count(to, a->stride_iters, "step");
	else
		count(to, a->stride_epochs, "epoch");
}

static void high_and_low(const struct psgd_config *config, const char *what, FILE *to)
{
	const struct psgd_config_compression *c = &config->compression;

	if (config->rank_control.dense_candidate)
		fputs("dense", to);
	else
		fprintf(to, "r=%u", c->max_rank);
	fprintf(to, " while %s changes by %.3g %% or more in ", what,
		100 * config->accordion.threshold);
	windows(&config->accordion, to);
	fprintf(to, ", else r=%u", c->min_rank);
}

static void choice(const struct psgd_config *config, FILE *to)
{
	const struct psgd_config_compression *c = &config->compression;
	const struct psgd_config_accordion *a = &config->accordion;

	switch (psgd__config_choice(config)) {
	case PSGD_CHOICE_MAX:
		if (psgd__config_cap(config) == PSGD_CAP_NONE)
			fprintf(to, "r=%u", c->max_rank);
		return;
	case PSGD_CHOICE_SCHEDULE:
		if (psgd__config_stages_choose(config)) {
			fprintf(to, "by the stages, else r=%u", c->base_rank);
			return;
		}
		fputs("by ", to);
		count(to, c->rank_schedule.ranges_count, "range");
		fprintf(to, " of epochs, else r=%u", c->rank_schedule.default_rank);
		return;
	case PSGD_CHOICE_EPOCHNORM:
		high_and_low(config, "the gradient", to);
		return;
	case PSGD_CHOICE_ACCORDION:
		fputs("for each layer ", to);
		high_and_low(config, "its gradient", to);
		return;
	case PSGD_CHOICE_EMA:
		fprintf(to,
			"a candidate up where the gradient is %.3g times its average, one down at "
			"%.3g times, every ",
			a->critical_factor, a->relaxed_factor);
		count(to, a->update_interval, "step");
		return;
	case PSGD_CHOICE_LGRECO:
		fputs("for each layer anew every ", to);
		count(to, config->lgreco.adjust_iters, "step");
		fprintf(to, ", cheapest with %.3g times the error of r=%u", config->lgreco.alpha,
			c->base_rank);
		return;
	case PSGD_CHOICE_ENTROPY:
		fprintf(to, "falls from the largest to r=%u with the gradient's entropy, every ",
			c->min_rank);
		count(to, config->entropy.window_iters, "step");
		return;
	case PSGD_CHOICE_REPLAY:
		fprintf(to, "the ranks of %s", config->rank_control.replay);
		return;
	case PSGD_CHOICE_FIXED:
		fprintf(to, "r=%u", psgd__config_fixed_rank(config));
		return;
	}
}

psgd_status psgd_config_summary(const struct psgd_config *config, char *out, size_t bytes)
{
	struct psgd__c_locale locale;
	psgd_status status;
	char *text = NULL;
	size_t n;
	FILE *to;

	if (!config || !out || !bytes)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__c_locale_enter(&locale));
	to = open_memstream(&text, &n);
	if (to && !config->compression.enable_powerSGD) {
		fputs("dense in the whole run", to);
	} else if (to) {
		choice(config, to);
		cap(config, to);
	}
	status = to && fclose(to) == 0 && text ? PSGD_OK : PSGD_ERR_NOMEM;
	if (status == PSGD_OK)
		psgd__text(out, bytes, "%s", text);
	free(text);
	psgd__c_locale_leave(&locale);
	return status;
}
