/* A campaign: worker 0's node says which experiment is next. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/checkpoint.h>

#include "batch.h"

#define MAX_TRIES 5   /* of one item whose peers were lost and came back */
#define FAREWELL_S 10 /* a node that was told to end does not wait longer for the others */
#define GRACE_S 30    /* a peer's run may wait for its own deadline before it comes */
#define DEFAULT_WAIT_S 300

/* What the leader has made up its mind to, as the message says it. */
struct verdict {
	bool end, resume;
	size_t item; /* the next one; n: none is left */
	int code;    /* of the end */
};

struct play {
	struct batch_campaign *campaign;
	struct batch_node node;
	struct batch_report last; /* of this node */
	unsigned tries;
};

static bool leads(const struct play *play)
{
	return play->node.launch.worker == 0;
}

static uint32_t base_port(const struct batch_campaign *campaign)
{
	return campaign->workers[0].master_port;
}

static struct batch_item *item_at(const struct play *play, size_t i)
{
	return &play->campaign->list.items[i];
}

/* ---- the leader decides ---- */

/* How the last item ended, over all nodes; a lost peer is the echo of something else. */
static int worst_code(const struct play *play, const struct batch_report *all, uint32_t n)
{
	int worst = CLI_OK;

	for (uint32_t i = 0; i < n; i++) {
		int code = all[i].item == play->last.item ? all[i].code : CLI_OK;

		if (code != CLI_OK && (worst == CLI_OK || worst == CLI_PEER_LOST))
			worst = code;
	}
	return worst;
}

/* A node that began the item is new here: it was killed, and started again. */
static bool somebody_came_back(const struct play *play, const struct batch_report *all, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (all[i].item != play->last.item)
			return true;
	}
	return false;
}

static bool can_be_their_echo(int code)
{
	return code == CLI_FAILED || code == CLI_PEER_LOST || code == CLI_TIMEOUT;
}

static bool standalone(const struct batch_campaign *campaign)
{
	return campaign->place->identity.standalone;
}

/* False: the item cannot even be tried, and has its code. */
static bool can_start(const struct play *play, size_t i)
{
	uint32_t port = base_port(play->campaign) + (uint32_t)i;

	if (standalone(play->campaign) || play->campaign->workers[0].n_workers == 1 ||
		batch_port_is_free(play->campaign->workers, port))
		return true;
	cli_complain("item %zu (%s): port %u is in use", i, item_at(play, i)->name, port);
	item_at(play, i)->code = CLI_ENVIRONMENT;
	return false;
}

static struct verdict end_with(int code)
{
	return (struct verdict){.end = true, .code = code};
}

static struct verdict after_all(const struct batch_campaign *campaign)
{
	for (size_t i = 0; i < campaign->list.n; i++) {
		if (campaign->list.items[i].code > CLI_OK)
			return end_with(CLI_FAILED);
	}
	return end_with(CLI_OK);
}

/* The first item from i on that is to be run. */
static struct verdict go_on(const struct play *play, size_t i)
{
	const struct batch_campaign *campaign = play->campaign;

	for (; i < campaign->list.n; i++) {
		struct batch_item *item = item_at(play, i);
		char state[32];

		batch_item_state(item, campaign->date, state, sizeof(state));
		item->skipped = campaign->resume && strcmp(state, "finished") == 0;
		if (item->skipped)
			continue;
		batch_item_remember(item, campaign->date);
		if (can_start(play, i))
			return (struct verdict){
				.item = i, .resume = campaign->resume && strcmp(state, "new") != 0};
		if (!campaign->keep_going)
			return end_with(CLI_ENVIRONMENT);
	}
	return after_all(campaign);
}

static struct verdict judge(const struct play *play, const struct batch_report *all, uint32_t n)
{
	const struct batch_campaign *campaign = play->campaign;
	struct batch_item *last;
	int code;

	for (uint32_t i = 0; i < n; i++) {
		if (!all[i].signal)
			continue;
		if (play->last.item != SIZE_MAX)
			item_at(play, play->last.item)->code = 128 + all[i].signal;
		return end_with(128 + all[i].signal);
	}
	if (play->last.item == SIZE_MAX)
		return go_on(play, campaign->start);
	last = item_at(play, play->last.item);
	code = worst_code(play, all, n);
	if (can_be_their_echo(code) && somebody_came_back(play, all, n) &&
		play->tries < MAX_TRIES && can_start(play, play->last.item))
		/* what is there may be an older run, which this campaign is to replace */
		return (struct verdict){.item = play->last.item,
			.resume = campaign->resume || batch_item_saved(last, campaign->date)};
	last->code = code;
	if (code != CLI_OK && !campaign->keep_going)
		return end_with(code);
	return go_on(play, play->last.item + 1);
}

static json_t *list_json(const struct batch_list *list)
{
	json_t *items = json_array();

	for (size_t i = 0; i < list->n; i++)
		json_array_append_new(
			items, json_pack("[s, s]", list->items[i].name, list->items[i].hash));
	return items;
}

static json_t *decide(void *user, const struct batch_report *all, uint32_t n)
{
	const struct play *play = user;
	const struct batch_campaign *campaign = play->campaign;
	struct verdict verdict = judge(play, all, n);
	char *table = verdict.end ? batch_results(&campaign->list, campaign->date) : NULL;
	json_t *message;

	if (verdict.end)
		message = json_pack("{s:i, s:s}", "end", verdict.code, "table", table ? table : "");
	else
		message = json_pack("{s:I, s:b, s:b, s:b, s:s, s:o}", "run",
			(json_int_t)verdict.item, "resume", (int)verdict.resume, "overwrite",
			(int)campaign->overwrite, "smoke", (int)campaign->smoke, "date",
			campaign->date, "items", list_json(&campaign->list));
	free(table);
	return message;
}

/* ---- the others follow ---- */

static const char *text_at(const json_t *array, size_t i)
{
	const char *text = json_string_value(json_array_get(array, i));

	return text ? text : "?";
}

/* The first difference of two lists, in words; false: there is none. */
static bool differs(const struct play *play, const json_t *items, char *error, size_t bytes)
{
	const struct batch_list *list = &play->campaign->list;
	size_t n = json_array_size(items);
	uint32_t node = play->node.launch.worker;

	for (size_t i = 0; i < n && i < list->n; i++) {
		const json_t *theirs = json_array_get(items, i);
		const struct batch_item *item = &list->items[i];

		if (strcmp(text_at(theirs, 0), item->name) != 0)
			snprintf(error, bytes, "item %zu is %.100s on node 0, %.100s on node %u", i,
				text_at(theirs, 0), item->name, node);
		else if (strcmp(text_at(theirs, 1), item->hash) != 0)
			snprintf(error, bytes,
				"item %zu (%.100s): node %u has another configuration than node 0 "
				"(hash %s, not %.16s)",
				i, item->name, node, item->hash, text_at(theirs, 1));
		else
			continue;
		return true;
	}
	if (n == list->n)
		return false;
	snprintf(error, bytes, "node 0 has %zu items, node %u has %zu", n, node, list->n);
	return true;
}

static bool is_date(const char *text)
{
	return strlen(text) == 8 && strspn(text, "0123456789") == 8;
}

static void agree(void *user, const json_t *message, char *error, size_t bytes)
{
	const struct play *play = user;
	const json_t *run = json_object_get(message, "run");
	const char *date = json_string_value(json_object_get(message, "date"));

	*error = '\0';
	if (json_is_integer(json_object_get(message, "end")) ||
		(json_is_integer(run) &&
			differs(play, json_object_get(message, "items"), error, bytes)))
		return;
	if (!json_is_integer(run) || json_integer_value(run) < 0 ||
		(size_t)json_integer_value(run) >= play->campaign->list.n || !date ||
		!is_date(date))
		snprintf(error, bytes, "node %u does not understand node 0",
			play->node.launch.worker);
}

/* ---- one item ---- */

static void add_place(const struct play *play, size_t i, struct cli_strings *out)
{
	const struct cli_place *place = play->campaign->place;
	const struct psgd_launch *first = &play->campaign->workers[0];

	if (standalone(play->campaign)) {
		cli_strings_add(out, "--standalone");
		cli_strings_add(out, "--nproc-per-node=%zu", play->campaign->n_workers);
	} else {
		if (play->campaign->n_workers > 1) {
			cli_strings_add(out, "--nnodes=%u", play->node.launch.n_workers);
			cli_strings_add(out, "--node-rank=%u", play->node.launch.worker);
			cli_strings_add(out, "--nproc-per-node=%zu", play->campaign->n_workers);
		} else {
			cli_strings_add(out, "--rank=%u", first->worker);
			cli_strings_add(out, "--world-size=%u", first->n_workers);
			cli_strings_add(out, "--local-rank=%u", first->local_rank);
		}
		cli_strings_add(out, "--master-addr=%s", first->master_addr);
		cli_strings_add(out, "--master-port=%zu", base_port(play->campaign) + i);
	}
	if (place->ifname)
		cli_strings_add(out, "--ifname=%s", place->ifname);
	if (place->token_file)
		cli_strings_add(out, "--token-file=%s", place->token_file);
	if (place->rdzv_timeout >= 0)
		cli_strings_add(out, "--rdzv-timeout=%lld", (long long)place->rdzv_timeout);
}

static bool says(const json_t *message, const char *key)
{
	return json_is_true(json_object_get(message, key));
}

static void run_item(struct play *play, const json_t *message)
{
	size_t i = (size_t)json_integer_value(json_object_get(message, "run"));
	const struct batch_item *item = item_at(play, i);
	bool resume = says(message, "resume");
	struct cli_strings arguments = {0};
	char dir[PATH_MAX];

	batch_item_dir(item, json_string_value(json_object_get(message, "date")), dir, sizeof(dir));
	cli_strings_add(&arguments, "psgd");
	cli_strings_add(&arguments, "run");
	cli_strings_add(&arguments, "%s", item->file);
	for (size_t o = 0; o < item->overrides.n; o++)
		cli_strings_add(&arguments, "%s", item->overrides.items[o]);
	cli_strings_add(&arguments, "save_dir=%s", dir);
	add_place(play, i, &arguments);
	if (resume)
		cli_strings_add(&arguments, "--resume=auto");
	else if (says(message, "overwrite"))
		cli_strings_add(&arguments, "--overwrite");
	if (says(message, "smoke"))
		cli_strings_add(&arguments, "--smoke");
	printf("item %zu (%zu of %zu): %s%s\n", i, i + 1, play->campaign->list.n, item->name,
		resume ? ", resumed" : "");
	play->tries = play->last.item == i ? play->tries + 1 : 1;
	play->last.item = i;
	play->last.code = batch_process(arguments.items, &play->last.signal);
	cli_strings_free(&arguments);
}

/* ---- the whole ---- */

/* What was computed is worth more than a mistyped command: is there a run, or a part of one? */
static const char *found_in(const struct play *play, size_t i, const char *dir)
{
	struct psgd_checkpoint_position position = PSGD_INIT(psgd_checkpoint_position);
	char state[32], error[CLI_ERROR_BYTES];

	batch_item_state(item_at(play, i), play->campaign->date, state, sizeof(state));
	if (strcmp(state, "finished") == 0)
		return "a finished run; --resume skips it";
	if (strcmp(state, "new") != 0 &&
		psgd_checkpoint_newest(dir, 0, &position, error, sizeof(error)) == PSGD_OK)
		return "checkpoints of an unfinished run; --resume goes on with it";
	return NULL;
}

static int refuse_used(const struct play *play)
{
	const struct batch_campaign *campaign = play->campaign;
	char dir[PATH_MAX];

	if (!leads(play) || campaign->resume || campaign->overwrite || campaign->smoke)
		return CLI_OK;
	for (size_t i = campaign->start; i < campaign->list.n; i++) {
		const char *what;

		batch_item_dir(item_at(play, i), campaign->date, dir, sizeof(dir));
		what = found_in(play, i, dir);
		if (!what)
			continue;
		cli_complain("item %zu: %s holds %s, --overwrite replaces it", i, dir, what);
		return CLI_USAGE;
	}
	return CLI_OK;
}

static void prepare_node(struct play *play)
{
	const struct batch_campaign *campaign = play->campaign;
	struct psgd_launch *launch = &play->node.launch;

	*launch = campaign->workers[0];
	launch->worker /= (uint32_t)campaign->n_workers;
	launch->n_workers /= (uint32_t)campaign->n_workers;
	launch->local_rank = 0;
	launch->local_size = 1;
	launch->master_port = (uint16_t)(base_port(campaign) - 1);
	play->node.token_file = cli_token_file(campaign->place);
	play->node.timeout_s =
		GRACE_S + (campaign->place->rdzv_timeout >= 0 ? campaign->place->rdzv_timeout
							      : DEFAULT_WAIT_S);
	play->node.by_node = campaign->n_workers > 1;
}

static void print_own_table(const struct play *play)
{
	char *table;

	if (!leads(play))
		return;
	if (play->last.signal)
		item_at(play, play->last.item)->code = 128 + play->last.signal;
	table = batch_results(&play->campaign->list, play->campaign->date);
	fputs(table ? table : "", stdout);
	free(table);
}

int batch_campaign(struct batch_campaign *campaign)
{
	struct play play = {.campaign = campaign, .last = {SIZE_MAX, 0, 0}};
	const struct batch_step step = {decide, agree, &play};
	json_t *message = NULL;
	int code;

	prepare_node(&play);
	code = refuse_used(&play);
	if (code != CLI_OK)
		return code;
	for (;;) {
		code = batch_meet(&play.node, &play.last, &step, &message);
		if (code != CLI_OK || json_object_get(message, "end"))
			break;
		run_item(&play, message);
		json_decref(message);
		if (play.last.signal)
			play.node.timeout_s = FAREWELL_S;
	}
	if (code == CLI_OK) {
		fputs(json_string_value(json_object_get(message, "table")), stdout);
		code = (int)json_integer_value(json_object_get(message, "end"));
	} else {
		print_own_table(&play);
	}
	json_decref(message);
	return play.last.signal ? 128 + play.last.signal : code;
}
