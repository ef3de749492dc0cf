/* psgd batch: runs experiments one after the other. SPDX-License-Identifier: MIT */
#include <argp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/stack.h>

#include "batch.h"
#include "run.h"

enum key { KEY_LIST = 256, KEY_START_FROM, KEY_RESUME, KEY_KEEP_GOING, KEY_SMOKE, KEY_OVERWRITE };

static const struct argp_option options[] = {{.doc = "The campaign:", .group = 4},
	{"list", KEY_LIST, 0, 0, "Print the items with their ports and states; run nothing", 4},
	{"start-from", KEY_START_FROM, "ITEM", 0, "Begin at this index, name or file", 4},
	{"resume", KEY_RESUME, 0, 0,
		"Go on with a campaign: skip what is finished, resume what was interrupted", 4},
	{"keep-going", KEY_KEEP_GOING, 0, 0, "Go on after an item that fails; exit code 1", 4},
	{"smoke", KEY_SMOKE, 0, 0, "5 iterations of each, nothing is left", 4},
	{"overwrite", KEY_OVERWRITE, 0, 0, "Replace finished runs in the same folders", 4}, {0}};

static const char doc[] =
	"Runs experiments one after the other, each as `psgd run' would. WHAT is a configuration, "
	"a "
	"folder of them (its *.yaml in the order of their names), or a list: a file with one "
	"configuration a line, relative to the list, each with key=value of its own if needed; "
	"# begins a comment.\v"
	"key=value holds for all items. key=[A,B] and key=0:3 (0, 1, 2) make one item for each "
	"value, and for each combination when there are several, the last one turning fastest; a "
	"list as a value is written [[1,2],[1,4]]. Their folders are named by the values, "
	"and end in _seed<N>.\n\n"
	"On several nodes start the same command on each, in any order. Worker 0's node says which "
	"item is next, whether it is skipped or resumed, and its flags hold; the others wait for "
	"it "
	"and compare their lists with its. Item i uses the port --master-port + i, the nodes "
	"meet at --master-port - 1. A node that was killed is started again, with --resume.\n\n"
	"After WHAT may stand the worker's number and the item to begin with, for --rank and "
	"--start-from. Variables: MASTER_ADDR, WORLD_SIZE, MASTER_PORT_BASE (--master-port), "
	"NCCL_IFNAME (--ifname), RESUME_FROM (--start-from).\n\n"
	"Exit codes: 0 all finished, 1 some failed with --keep-going, else that of the item that "
	"failed; 2 usage or configuration, 4 a node did not come, 5 environment, 128 + N ended by "
	"signal N.";

struct arguments {
	struct cli_place place;
	struct cli_strings overrides;
	const char *what, *start_from;
	const char *worker; /* its number, after WHAT */
	bool list, resume, keep_going, smoke, overwrite;
};

/* WHAT [RANK [START_FROM]] */
static void positional(struct arguments *a, char *arg, struct argp_state *state)
{
	int64_t rank;

	if (cli_is_override(arg))
		cli_strings_add(&a->overrides, "%s", arg);
	else if (!a->what)
		a->what = arg;
	else if (a->place.identity.rank < 0 && cli_parse_number(arg, 0, 4095, &rank)) {
		a->place.identity.rank = rank;
		a->worker = arg;
	} else if (a->place.identity.rank >= 0 && !a->start_from)
		a->start_from = arg;
	else
		argp_error(state, "'%s' is neither key=value nor a worker's number", arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case KEY_LIST:
		a->list = true;
		break;
	case KEY_START_FROM:
		a->start_from = arg;
		break;
	case KEY_RESUME:
		a->resume = true;
		break;
	case KEY_KEEP_GOING:
		a->keep_going = true;
		break;
	case KEY_SMOKE:
		a->smoke = true;
		break;
	case KEY_OVERWRITE:
		a->overwrite = true;
		break;
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->place;
		break;
	case ARGP_KEY_ARG:
		positional(a, arg, state);
		break;
	case ARGP_KEY_END:
		if (!a->what)
			argp_error(state, "WHAT is missing: a list, a folder or a configuration");
		if (a->resume + a->overwrite + a->smoke > 1)
			argp_error(state, "--resume, --overwrite and --smoke: give one");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const char *variable(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

/* Variables by which a script of many runs is driven; flags are stronger. */
static int adopt_variables(struct arguments *a)
{
	struct cli_identity *id = &a->place.identity;
	const char *port = variable("MASTER_PORT_BASE"), *size = variable("WORLD_SIZE");

	if (!a->start_from)
		a->start_from = variable("RESUME_FROM");
	if (!a->place.ifname)
		a->place.ifname = variable("NCCL_IFNAME");
	if (id->standalone)
		return CLI_OK;
	if (port && id->master_port < 0 && !id->rdzv_endpoint &&
		!cli_parse_number(port, 1, 65535, &id->master_port)) {
		cli_complain("MASTER_PORT_BASE is '%s', expected a port from 1 to 65535", port);
		return CLI_USAGE;
	}
	/* with a worker's number of its own it says the rest of the identity */
	if (size && id->rank >= 0 && id->world_size < 0 && (a->worker || !variable("RANK")) &&
		!cli_parse_number(size, 1, 4096, &id->world_size)) {
		cli_complain("WORLD_SIZE is '%s', expected 1 to 4096", size);
		return CLI_USAGE;
	}
	return CLI_OK;
}

/* Ports from base - 1, where the nodes meet, to that of the last item. */
static int check_ports(const struct batch_campaign *campaign)
{
	uint32_t base = campaign->workers[0].master_port;

	if (campaign->place->identity.standalone ||
		(base > 1 && base + campaign->list.n - 1 <= 65535))
		return CLI_OK;
	cli_complain("--master-port %u: %zu items take the ports %lld to %zu, of 1 to 65535", base,
		campaign->list.n, (long long)base - 1, base + campaign->list.n - 1);
	return CLI_USAGE;
}

static int find_start(struct batch_campaign *campaign, const char *start_from)
{
	campaign->start = start_from ? batch_list_find(&campaign->list, start_from) : 0;
	if (campaign->start != SIZE_MAX)
		return CLI_OK;
	cli_complain("--start-from: no item is '%s'; --list shows the %zu items", start_from,
		campaign->list.n);
	return CLI_USAGE;
}

/* In the words that the user has written. */
static int check_worker(const struct arguments *a)
{
	const struct cli_identity *id = &a->place.identity;

	if (!a->worker || id->standalone || id->nnodes >= 0 || id->nproc_per_node >= 0 ||
		(id->world_size > id->rank))
		return CLI_OK;
	if (id->world_size < 0)
		cli_complain("'%s' after %s is a worker's number: set WORLD_SIZE, or give "
			     "--world-size",
			a->worker, a->what);
	else
		cli_complain("'%s' after %s is a worker's number, and there are %lld workers "
			     "(0 .. %lld)",
			a->worker, a->what, (long long)id->world_size,
			(long long)id->world_size - 1);
	return CLI_USAGE;
}

static int prepare(struct arguments *a, struct batch_campaign *campaign)
{
	char error[CLI_ERROR_BYTES] = "";
	psgd_status status;
	int code = adopt_variables(a);

	if (code == CLI_OK)
		code = check_worker(a);
	if (code == CLI_OK)
		code = batch_list_read(a->what, &a->overrides, &campaign->list);
	if (code == CLI_OK)
		code = find_start(campaign, a->start_from);
	if (code != CLI_OK)
		return code;
	status = cli_identify(
		&a->place.identity, &campaign->workers, &campaign->n_workers, error, sizeof(error));
	if (status != PSGD_OK) {
		cli_complain("%s", *error ? error : psgd_status_text(status));
		return status == PSGD_ERR_IO ? CLI_ENVIRONMENT : CLI_USAGE;
	}
	return check_ports(campaign);
}

int cli_batch(int argc, char **argv)
{
	static const struct argp_child place[] = {{&cli_place_argp, 0, NULL, 0}, {0}};
	static const struct argp argp = {.options = options,
		.parser = parse,
		.args_doc = "WHAT [key=value...]",
		.doc = doc,
		.children = place};
	struct arguments a = {.place = CLI_PLACE_INIT};
	struct batch_campaign campaign = {.place = &a.place};
	int code = CLI_USAGE;

	cli_normalize_flags(argc, argv);
	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		goto out;
	code = prepare(&a, &campaign);
	if (code != CLI_OK)
		goto out;
	setvbuf(stdout, NULL, _IOLBF, 0);
	campaign.resume = a.resume;
	campaign.keep_going = a.keep_going;
	campaign.smoke = a.smoke;
	campaign.overwrite = a.overwrite;
	batch_date(&campaign.list, a.list || a.resume, campaign.date);
	if (a.list) {
		batch_print_list(&campaign.list, campaign.date,
			a.place.identity.standalone ? 0 : campaign.workers[0].master_port);
	} else {
		/* a reader of our output that goes away must not take the campaign with it */
		signal(SIGPIPE, SIG_IGN);
		/* each run gets its identity by flags */
		cli_forget_identity();
		code = batch_campaign(&campaign);
	}
out:
	free(campaign.workers);
	batch_list_free(&campaign.list);
	cli_strings_free(&a.overrides);
	return code;
}
