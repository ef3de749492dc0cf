/* Which stage of the training a step belongs to. */
#include "experiment/run_impl.h"

psgd_status psgd__stages_take(struct psgd_run *run, const struct psgd_config_adaptive *adaptive)
{
	if (!adaptive->enable || !adaptive->stages_count)
		return PSGD_OK;
	run->stages = psgd__calloc(adaptive->stages_count, sizeof(*run->stages));
	if (!run->stages)
		return PSGD_ERR_NOMEM;
	for (; run->n_stages < adaptive->stages_count; run->n_stages++) {
		const struct psgd_config_stage *from = &adaptive->stages[run->n_stages];
		struct psgd__stage *stage = &run->stages[run->n_stages];

		stage->start_epoch = from->start_epoch;
		stage->end_epoch = from->end_epoch;
		stage->name = from->name ? psgd__strdup(from->name) : NULL;
		if (from->name && !stage->name)
			return PSGD_ERR_NOMEM;
	}
	run->stage = run->n_stages;
	return PSGD_OK;
}

void psgd__stages_free(struct psgd_run *run)
{
	for (size_t i = 0; i < run->n_stages; i++)
		free(run->stages[i].name);
	free(run->stages);
}

psgd_status psgd__event_stage(struct psgd_run *run, const struct psgd_iteration_row *row)
{
	size_t at = 0;

	while (at < run->n_stages && (row->epoch < run->stages[at].start_epoch ||
					     row->epoch > run->stages[at].end_epoch))
		at++;
	if (at == run->stage)
		return PSGD_OK;
	run->stage = at;
	return psgd__event_append(run,
		json_pack("{s:f, s:s, s:I, s:I, s:o, s:o}", "time", psgd__unix_time(), "event",
			"stage", "iteration", (json_int_t)row->iteration, "epoch",
			(json_int_t)row->epoch, "stage",
			at < run->n_stages ? json_integer((json_int_t)at) : json_null(), "name",
			psgd__json_text(at < run->n_stages ? run->stages[at].name : NULL)));
}
