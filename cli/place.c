/* The flags that say which workers are here and how they meet. SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "cli.h"

enum key {
	KEY_RANK = 256,
	KEY_WORLD_SIZE,
	KEY_LOCAL_RANK,
	KEY_MASTER_ADDR,
	KEY_MASTER_PORT,
	KEY_NNODES,
	KEY_NODE_RANK,
	KEY_NPROC,
	KEY_RDZV_ENDPOINT,
	KEY_RDZV_TIMEOUT,
	KEY_STANDALONE,
	KEY_IFNAME,
	KEY_TOKEN_FILE
};

static const struct argp_option options[] = {{.doc = "This node, as torchrun says it:", .group = 1},
	{"standalone", KEY_STANDALONE, 0, 0, "All workers here, on a free port of 127.0.0.1", 1},
	{"nproc-per-node", KEY_NPROC, "K", 0, "Workers of this node (1)", 1},
	{"nnodes", KEY_NNODES, "N", 0, "Number of nodes (1)", 1},
	{"node-rank", KEY_NODE_RANK, "R", 0, "This node, 0 to N-1; worker = R * K + local", 1},
	{.doc = "Or one worker, by hand:", .group = 2},
	{"rank", KEY_RANK, "R", 0, "Worker, 0 to W-1", 2},
	{"world-size", KEY_WORLD_SIZE, "W", 0, "Number of workers", 2},
	{"local-rank", KEY_LOCAL_RANK, "L", 0, "Its number on this node", 2},
	{.doc = "Where worker 0 listens:", .group = 3},
	{"master-addr", KEY_MASTER_ADDR, "HOST", 0, "Address of worker 0 (127.0.0.1)", 3},
	{"master-port", KEY_MASTER_PORT, "PORT", 0, "Port (29500)", 3},
	{"rdzv-endpoint", KEY_RDZV_ENDPOINT, "HOST:PORT", 0, "Both in one", 3},
	{"rdzv-timeout", KEY_RDZV_TIMEOUT, "SECONDS", 0, "How long to wait for peers (300)", 3},
	{"ifname", KEY_IFNAME, "IF", 0, "Network interface of the gradients", 3},
	{"token-file", KEY_TOKEN_FILE, "FILE", 0, "Shared secret of all workers", 3}, {0}};

int64_t cli_number(
	struct argp_state *state, const char *flag, const char *arg, int64_t min, int64_t max)
{
	int64_t value = 0;

	if (!cli_parse_number(arg, min, max, &value))
		argp_error(state, "%s: '%s' is not a whole number from %lld to %lld", flag, arg,
			(long long)min, (long long)max);
	return value;
}

const char *cli_token_file(const struct cli_place *place)
{
	const char *named = place->token_file ? place->token_file : getenv("PSGD_TOKEN_FILE");

	return named && *named ? named : NULL;
}

static error_t parse_identity(int key, char *arg, struct argp_state *state)
{
	struct cli_identity *id = &((struct cli_place *)state->input)->identity;

	switch (key) {
	case KEY_RANK:
		id->rank = cli_number(state, "--rank", arg, 0, 4095);
		break;
	case KEY_WORLD_SIZE:
		id->world_size = cli_number(state, "--world-size", arg, 1, 4096);
		break;
	case KEY_LOCAL_RANK:
		id->local_rank = cli_number(state, "--local-rank", arg, 0, 4095);
		break;
	case KEY_MASTER_ADDR:
		id->master_addr = arg;
		break;
	case KEY_MASTER_PORT:
		id->master_port = cli_number(state, "--master-port", arg, 1, 65535);
		break;
	case KEY_NNODES:
		id->nnodes = cli_number(state, "--nnodes", arg, 1, 4096);
		break;
	case KEY_NODE_RANK:
		id->node_rank = cli_number(state, "--node-rank", arg, 0, 4095);
		break;
	case KEY_NPROC:
		id->nproc_per_node = cli_number(state, "--nproc-per-node", arg, 1, 4096);
		break;
	case KEY_RDZV_ENDPOINT:
		id->rdzv_endpoint = arg;
		break;
	case KEY_STANDALONE:
		id->standalone = true;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cli_place *place = state->input;

	switch (key) {
	case KEY_RDZV_TIMEOUT:
		place->rdzv_timeout = cli_number(state, "--rdzv-timeout", arg, 1, 86400);
		return 0;
	case KEY_IFNAME:
		place->ifname = arg;
		return 0;
	case KEY_TOKEN_FILE:
		place->token_file = arg;
		return 0;
	default:
		return parse_identity(key, arg, state);
	}
}

const struct argp cli_place_argp = {.options = options, .parser = parse};
