/* The nodes of a campaign meet between two experiments. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/rendezvous.h>
#include <psgd/experiment/stack.h>

#include "batch.h"

#define BLOCK_BYTES 512

/* One try; a node that is lost in it makes another. */
struct meeting {
	struct batch_node *node;
	psgd_rendezvous *rendezvous;
	char error[1024];
};

static void log_line(void *user, enum psgd_log_level level, const char *message)
{
	struct batch_node *node = user;

	if (level == PSGD_LOG_ERROR || level > PSGD_LOG_INFO)
		return;
	if (level == PSGD_LOG_WARN && node->warned)
		return;
	node->warned |= level == PSGD_LOG_WARN;
	cli_complain("%s%s", node->by_node ? "by node, not worker: " : "", message);
}

static psgd_status open_meeting(struct meeting *meeting)
{
	struct psgd_rendezvous_options options = PSGD_INIT(psgd_rendezvous_options);

	options.launch = &meeting->node->launch;
	options.token_file = meeting->node->token_file;
	options.timeout_ns = meeting->node->timeout_s * INT64_C(1000000000);
	options.log = log_line;
	options.log_user = meeting->node;
	options.error = meeting->error;
	options.error_bytes = sizeof(meeting->error);
	return psgd_rendezvous_open(&options, &meeting->rendezvous);
}

static psgd_status failed(struct meeting *meeting, psgd_status status)
{
	if (status != PSGD_OK)
		psgd_rendezvous_error(meeting->rendezvous, meeting->error, sizeof(meeting->error));
	return status;
}

/* A text of every node; *all has n_nodes blocks and is freed by free(). */
static psgd_status gather(struct meeting *meeting, const char *text, char (**all)[BLOCK_BYTES])
{
	struct psgd_oob oob = psgd_rendezvous_oob(meeting->rendezvous);
	char own[BLOCK_BYTES] = "";
	psgd_status status;

	*all = calloc(meeting->node->launch.n_workers, sizeof(**all));
	if (!*all) {
		snprintf(meeting->error, sizeof(meeting->error), "out of memory");
		return PSGD_ERR_NOMEM;
	}
	snprintf(own, sizeof(own), "%s", text);
	status = failed(meeting, oob.allgather(oob.self, own, *all, sizeof(own)));
	for (uint32_t i = 0; i < meeting->node->launch.n_workers; i++)
		(*all)[i][BLOCK_BYTES - 1] = '\0';
	if (status != PSGD_OK) {
		free(*all);
		*all = NULL;
	}
	return status;
}

static struct batch_report parse_report(const char *text)
{
	struct batch_report report = {SIZE_MAX, 0, 0};
	json_t *value = json_loads(text, 0, NULL);
	const json_t *item = json_object_get(value, "item");

	if (json_is_integer(item) && json_integer_value(item) >= 0) {
		report.item = (size_t)json_integer_value(item);
		report.code = (int)json_integer_value(json_object_get(value, "code"));
		report.signal = (int)json_integer_value(json_object_get(value, "signal"));
	}
	json_decref(value);
	return report;
}

static psgd_status gather_reports(
	struct meeting *meeting, const struct batch_report *own, struct batch_report *all)
{
	char text[BLOCK_BYTES], (*blocks)[BLOCK_BYTES];
	psgd_status status;

	snprintf(text, sizeof(text), "{\"item\": %lld, \"code\": %d, \"signal\": %d}",
		own->item == SIZE_MAX ? -1LL : (long long)own->item, own->code, own->signal);
	status = gather(meeting, text, &blocks);
	if (status != PSGD_OK)
		return status;
	for (uint32_t i = 0; i < meeting->node->launch.n_workers; i++)
		all[i] = parse_report(blocks[i]);
	free(blocks);
	return PSGD_OK;
}

/* The leader's message on all nodes. */
static psgd_status share(struct meeting *meeting, json_t *decision, json_t **message)
{
	char *text = decision ? json_dumps(decision, JSON_COMPACT) : NULL;
	void *shared = NULL;
	size_t bytes = 0;
	psgd_status status = failed(meeting, psgd_rendezvous_share(meeting->rendezvous, text,
						     text ? strlen(text) : 0, &shared, &bytes));

	free(text);
	if (status != PSGD_OK)
		return status;
	*message = json_loadb(shared, bytes, 0, NULL);
	free(shared);
	if (json_is_object(*message))
		return PSGD_OK;
	json_decref(*message);
	*message = NULL;
	snprintf(meeting->error, sizeof(meeting->error), "worker 0's message cannot be read");
	return PSGD_ERR_MISMATCH;
}

/* Every node says whether it can follow; what one says ends the campaign on all. */
static psgd_status agree(
	struct meeting *meeting, const struct batch_step *step, const json_t *message)
{
	char own[BLOCK_BYTES] = "", (*all)[BLOCK_BYTES];
	psgd_status status;

	step->agree(step->user, message, own, sizeof(own));
	status = gather(meeting, own, &all);
	if (status != PSGD_OK)
		return status;
	for (uint32_t i = 0; i < meeting->node->launch.n_workers && status == PSGD_OK; i++) {
		if (!all[i][0])
			continue;
		snprintf(meeting->error, sizeof(meeting->error), "%s", all[i]);
		status = PSGD_ERR_MISMATCH;
	}
	free(all);
	return status;
}

static psgd_status meet(struct meeting *meeting, const struct batch_report *own,
	const struct batch_step *step, json_t **message)
{
	uint32_t n = meeting->node->launch.n_workers;
	struct batch_report *all = calloc(n, sizeof(*all));
	json_t *decision = NULL;
	psgd_status status = all ? open_meeting(meeting) : PSGD_ERR_NOMEM;

	if (status == PSGD_OK)
		status = gather_reports(meeting, own, all);
	if (status == PSGD_OK && meeting->node->launch.worker == 0)
		decision = step->decide(step->user, all, n);
	if (status == PSGD_OK)
		status = share(meeting, decision, message);
	if (status == PSGD_OK)
		status = agree(meeting, step, *message);
	if (status != PSGD_OK) {
		json_decref(*message);
		*message = NULL;
	}
	json_decref(decision);
	free(all);
	psgd_rendezvous_close(&meeting->rendezvous);
	return status;
}

int batch_meet(struct batch_node *node, const struct batch_report *own,
	const struct batch_step *step, json_t **message)
{
	psgd_status status;

	*message = NULL;
	for (;;) {
		struct meeting meeting = {.node = node};

		status = meet(&meeting, own, step, message);
		if (status == PSGD_OK)
			return CLI_OK;
		cli_complain("%s", meeting.error[0] ? meeting.error : psgd_status_text(status));
		if (status != PSGD_ERR_PEER_LOST)
			return psgd_exit_code(status);
		/* it may be started again: everybody meets anew */
	}
}
