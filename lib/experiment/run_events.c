#include <math.h>
#include <string.h>
#include <time.h>

#include "experiment/run_impl.h"

double psgd__unix_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1e3;
}

json_t *psgd__json_number(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static json_t *json_rank(uint32_t rank)
{
	return rank == PSGD_RANK_DENSE ? json_string("dense") : json_integer(rank);
}

json_t *psgd__json_text(const char *text)
{
	json_t *value = text ? json_string(text) : json_null();
	char *copy;

	if (value)
		return value;
	copy = psgd__strdup(text);
	if (!copy)
		return NULL;
	for (char *c = copy; *c; c++)
		*c = (unsigned char)*c < 0x80 ? *c : '?';
	value = json_string(copy);
	free(copy);
	return value;
}

psgd_status psgd__event_append(struct psgd_run *run, json_t *line)
{
	char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(16)) : NULL;
	psgd_status status = PSGD_OK;
	size_t n;

	json_decref(line);
	if (!text)
		return psgd__run_fail(run, PSGD_ERR_NOMEM, "out of memory");
	n = strlen(text);
	text[n] = '\n'; /* in the place of the zero: lines are not strings */
	if (psgd__record_append(&run->events, text, n + 1))
		status = psgd__run_fail_write(run, run->events.name);
	free(text);
	return status;
}

psgd_status psgd__event_text(
	struct psgd_run *run, const char *event, uint64_t iteration, const char *text)
{
	return psgd__event_append(
		run, json_pack("{s:f, s:o, s:I, s:o}", "time", psgd__unix_time(), "event",
			     psgd__json_text(event), "iteration", (json_int_t)iteration, "text",
			     psgd__json_text(text)));
}

static psgd_status event_notices(struct psgd_run *run, const char *notices)
{
	char line[512];

	for (const char *at = notices; *at;) {
		size_t n = strcspn(at, "\n");

		psgd__text(line, sizeof(line), "%.*s", (int)n, at);
		PSGD__TRY(psgd__event_text(run, "notice", 0, line));
		at += n + (at[n] != '\0');
	}
	return PSGD_OK;
}

psgd_status psgd__event_start(struct psgd_run *run, const struct psgd_run_options *options)
{
	PSGD__TRY(psgd__event_append(
		run, json_pack("{s:f, s:s, s:s, s:o, s:i, s:o, s:o, s:I}", "time",
			     psgd__unix_time(), "event", "start", "version", psgd_version_string(),
			     "name", psgd__json_text(options->config->name), "workers",
			     (int)run->n_workers, "transport", psgd__json_text(options->transport),
			     "device", psgd__json_device(options->cuda), "seed",
			     (json_int_t)options->config->seed)));
	return event_notices(run, psgd_config_notices(options->config));
}

/* What was recorded from this iteration on is superseded by what follows. */
psgd_status psgd__event_resume(struct psgd_run *run)
{
	return psgd__event_append(run,
		json_pack("{s:f, s:s, s:s, s:I, s:I}", "time", psgd__unix_time(), "event", "resume",
			"version", psgd_version_string(), "iteration",
			(json_int_t)run->resume_iteration, "epoch", (json_int_t)run->resume_epoch));
}

/* Of all tensors, when they are not alike, in the order of the session; *out NULL: they are. */
static psgd_status tensor_ranks(const struct psgd_decision *decision, json_t **out)
{
	uint32_t one = 0;
	bool alike = true;
	json_t *list;

	*out = NULL;
	for (size_t i = 0; decision->ranks && i < decision->n_ranks; i++) {
		one = one ? one : decision->ranks[i];
		alike &= !decision->ranks[i] || decision->ranks[i] == one;
	}
	if (alike)
		return PSGD_OK;
	list = json_array();
	for (size_t i = 0; i < decision->n_ranks; i++) {
		if (json_array_append_new(list, json_integer(decision->ranks[i])) == 0)
			continue;
		json_decref(list);
		return PSGD_ERR_NOMEM;
	}
	*out = list;
	return PSGD_OK;
}

static uint64_t hash_ranks(const struct psgd_decision *decision)
{
	return decision->ranks ? psgd__hash(PSGD__HASH_START, decision->ranks,
					 decision->n_ranks * sizeof(*decision->ranks))
			       : 0;
}

/* A rank in force from a step on. `decision` is NULL when nobody decided. */
static psgd_status event_rank(struct psgd_run *run, uint64_t epoch, uint64_t step, uint32_t rank,
	const struct psgd_decision *decision)
{
	static const struct psgd_decision none = {
		.value = NAN,
		.threshold = NAN,
		.link_delay_ns = NAN,
		.link_ns_per_byte = NAN,
		.predicted_exposed = NAN,
	};
	const struct psgd_decision *d = decision ? decision : &none;
	/* 1 byte/ns is 8000 Mbit/s. */
	double mbps = d->link_ns_per_byte > 0 ? 8000 / d->link_ns_per_byte : NAN;
	json_t *previous, *ranks;

	if (tensor_ranks(d, &ranks))
		return psgd__run_fail(run, PSGD_ERR_NOMEM, "out of memory");
	previous = run->has_rank_event ? json_integer(run->last_rank) : json_null();
	run->has_rank_event = true;
	run->last_rank = rank;
	run->last_ranks = hash_ranks(d);
	return psgd__event_append(run,
		json_pack("{s:f, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, "
			  "s:o*}",
			"time", psgd__unix_time(), "event", "rank", "step", (json_int_t)step,
			"rank", (json_int_t)rank, "previous", previous, "cap",
			decision ? json_rank(d->cap) : json_null(), "choice",
			decision ? json_rank(d->choice) : json_null(), "regime",
			psgd__json_text(d->regime), "value", psgd__json_number(d->value),
			"threshold", psgd__json_number(d->threshold), "link_delay_us",
			psgd__json_number(d->link_delay_ns / 1000), "link_mbps",
			psgd__json_number(mbps), "predicted_exposed",
			psgd__json_number(d->predicted_exposed), "epoch", (json_int_t)epoch,
			"ranks", ranks));
}

static psgd_status step_rank(struct psgd_run *run, const struct psgd_iteration_row *row,
	const struct psgd_report *report)
{
	const struct psgd_decision *decision = &report->decision;

	if (!report->decided) {
		if (run->has_rank_event)
			return PSGD_OK;
		return event_rank(run, row->epoch, report->step, report->rank_max, NULL);
	}
	run->has_decision = true;
	run->last_cap = decision->cap;
	run->last_choice = decision->choice;
	/* The first decision is no change, but a replay begins with it. */
	if (!decision->changed && run->has_rank_event && run->last_ranks == hash_ranks(decision))
		return PSGD_OK;
	return event_rank(run, row->epoch, decision->step, decision->rank, decision);
}

static psgd_status step_learning_rate(struct psgd_run *run, const struct psgd_iteration_row *row)
{
	double before = run->last_learning_rate;

	if (row->learning_rate == before || !isfinite(row->learning_rate))
		return PSGD_OK;
	run->last_learning_rate = row->learning_rate;
	return psgd__event_append(
		run, json_pack("{s:f, s:s, s:I, s:I, s:o, s:o}", "time", psgd__unix_time(), "event",
			     "lr", "iteration", (json_int_t)row->iteration, "epoch",
			     (json_int_t)row->epoch, "learning_rate",
			     psgd__json_number(row->learning_rate), "previous",
			     psgd__json_number(before)));
}

static psgd_status step_stats(struct psgd_run *run, const struct psgd_iteration_row *row,
	const struct psgd_report *report)
{
	uint64_t raw, payload, steps;

	run->stats_raw_bytes += report->raw_bytes;
	run->stats_payload_bytes += report->payload_bytes;
	run->stats_steps++;
	if (!run->stats_every || (row->iteration + 1) % run->stats_every)
		return PSGD_OK;
	raw = run->stats_raw_bytes;
	payload = run->stats_payload_bytes;
	steps = run->stats_steps;
	run->stats_raw_bytes = run->stats_payload_bytes = run->stats_steps = 0;
	return psgd__event_append(
		run, json_pack("{s:f, s:s, s:I, s:I, s:I, s:I, s:o, s:I, s:I}", "time",
			     psgd__unix_time(), "event", "stats", "iteration",
			     (json_int_t)row->iteration, "steps", (json_int_t)steps, "raw_bytes",
			     (json_int_t)raw, "payload_bytes", (json_int_t)payload, "ratio",
			     psgd__json_number(payload ? (double)raw / (double)payload : NAN),
			     "rank_min", (json_int_t)report->rank_min, "rank_max",
			     (json_int_t)report->rank_max));
}

psgd_status psgd__event_step(struct psgd_run *run, const struct psgd_iteration_row *row,
	const struct psgd_report *report)
{
	PSGD__TRY(step_rank(run, row, report));
	PSGD__TRY(psgd__event_stage(run, row));
	PSGD__TRY(step_learning_rate(run, row));
	PSGD__TRY(step_stats(run, row, report));
	if (!report->n_nonfinite)
		return PSGD_OK;
	return psgd__event_append(
		run, json_pack("{s:f, s:s, s:I, s:I, s:I, s:I}", "time", psgd__unix_time(), "event",
			     "nonfinite", "iteration", (json_int_t)row->iteration, "step",
			     (json_int_t)report->step, "epoch", (json_int_t)row->epoch, "buckets",
			     (json_int_t)report->n_nonfinite));
}

psgd_status psgd__event_epoch(struct psgd_run *run, const struct psgd_epoch_row *row)
{
	return psgd__event_append(
		run, json_pack("{s:f, s:s, s:I, s:I, s:o, s:o, s:o}", "time", psgd__unix_time(),
			     "event", "epoch", "epoch", (json_int_t)row->epoch, "iteration",
			     (json_int_t)row->iteration, "epoch_loss",
			     psgd__json_number(row->epoch_loss), "accuracy",
			     psgd__json_number(row->accuracy), "grad_accum_norm",
			     psgd__json_number(row->grad_accum_norm)));
}

psgd_status psgd__event_env(struct psgd_run *run, const struct psgd_measured *found,
	const struct psgd__link_check *check)
{
	return psgd__event_append(
		run, json_pack("{s:f, s:s, s:f, s:o, s:f, s:f, s:f, s:o}", "time",
			     psgd__unix_time(), "event", "env", "latency_ms", found->latency_ms,
			     "allreduce_bandwidth_mbps", psgd__json_number(found->bandwidth_mbps),
			     "allreduce_delay_us", found->delay_ns / 1e3, "allreduce_ns_per_byte",
			     found->ns_per_byte, "seconds", (double)found->elapsed_ns / 1e9,
			     "interface", psgd__link_check_json(check)));
}

static json_t *mbps(uint64_t bps)
{
	return bps ? json_real((double)bps / 1e6) : json_null();
}

psgd_status psgd__event_link(struct psgd_run *run, uint64_t iteration, const struct psgd_link *link)
{
	if (!run->writes)
		return PSGD_OK;
	return psgd__event_append(
		run, json_pack("{s:f, s:s, s:I, s:o, s:o, s:f}", "time", psgd__unix_time(), "event",
			     "link", "iteration", (json_int_t)iteration, "egress_mbps",
			     mbps(link->egress_bps), "ingress_mbps", mbps(link->ingress_bps),
			     "latency_ms", (double)link->delay_ns / 1e6));
}

psgd_status psgd__event_finish(struct psgd_run *run, const char *state, const char *reason)
{
	return psgd__event_append(
		run, json_pack("{s:f, s:s, s:s, s:o}", "time", psgd__unix_time(), "event", "finish",
			     "state", state, "reason", psgd__json_text(reason)));
}
