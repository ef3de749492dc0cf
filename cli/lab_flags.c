/* The flags that say what a lab is. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab_flags.h"

enum key { KEY_NAME = 512, KEY_RANGE, KEY_MBPS, KEY_EGRESS, KEY_INGRESS, KEY_LATENCY, KEY_MACVLAN };

static const struct argp_option options[] = {{.doc = "The lab:", .group = 1},
	{"name", KEY_NAME, "NAME", 0, "Of the lab (lab); its nodes are NAME0, NAME1 ...", 1},
	{"nodes", 'n', "N", 0, "How many (2)", 1},
	{"range", KEY_RANGE, "ADDRESS/BITS", 0, "Of their addresses (10.77.0.0/24)", 1},
	{"mbps", KEY_MBPS, "M", 0, "Limit of a node, both ways, in 10^6 bit/s", 1},
	{"egress", KEY_EGRESS, "M", 0, "Limit of what leaves a node", 1},
	{"ingress", KEY_INGRESS, "M", 0, "Limit of what arrives at a node", 1},
	{"latency", KEY_LATENCY, "MS", 0, "Delay of what leaves a node", 1},
	{"macvlan", KEY_MACVLAN, 0, 0, "By macvlan in place of veth pairs and a bridge", 1}, {0}};

const char *lab_check_name(struct argp_state *state, const char *name)
{
	size_t length = strlen(name);

	if (length == 0 || length >= LAB_NAME_BYTES || !isalnum((unsigned char)*name) ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") !=
			length)
		argp_error(state,
			"--name: '%s' is not 1 to %d letters, digits, '_' and '-', a letter or "
			"digit first",
			name, LAB_NAME_BYTES - 1);
	return name;
}

static double real(
	struct argp_state *state, const char *flag, const char *arg, double min, double max)
{
	char *end;
	double value = strtod(arg, &end);

	if (end == arg || *end || !(value >= min && value <= max))
		argp_error(state, "%s: '%s' is not a number from %g to %g", flag, arg, min, max);
	return value;
}

static uint64_t rate(struct argp_state *state, const char *flag, const char *arg)
{
	return (uint64_t)(real(state, flag, arg, 0.01, 1e6) * 1e6 + 0.5);
}

static void set_range(struct argp_state *state, const char *arg, struct lab_plan *plan)
{
	size_t length = strcspn(arg, "/");
	char text[INET_ADDRSTRLEN];
	struct in_addr address;
	int64_t bits = 0;

	if (length >= sizeof(text) || arg[length] != '/' ||
		!cli_parse_number(arg + length + 1, 8, 30, &bits)) {
		argp_error(state,
			"--range: '%s' is not ADDRESS/BITS with 8 to 30 bits, such as "
			"10.77.0.0/24",
			arg);
		return;
	}
	memcpy(text, arg, length);
	text[length] = '\0';
	if (inet_pton(AF_INET, text, &address) != 1)
		argp_error(state, "--range: '%s' is not an IPv4 address", text);
	plan->range = ntohl(address.s_addr);
	plan->bits = (uint32_t)bits;
	if (plan->range & (UINT32_MAX >> bits))
		argp_error(state,
			"--range: %s has bits of a host; expected the address of the network", arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct lab_plan_flags *flags = state->input;
	struct psgd_link *link = &flags->plan.link;

	switch (key) {
	case KEY_NAME:
		flags->plan.name = lab_check_name(state, arg);
		return 0;
	case 'n':
		flags->plan.n = (uint32_t)cli_number(state, "-n", arg, 2, LAB_MAX_NODES);
		break;
	case KEY_RANGE:
		set_range(state, arg, &flags->plan);
		break;
	case KEY_MBPS:
		link->egress_bps = link->ingress_bps = rate(state, "--mbps", arg);
		flags->both = true;
		break;
	case KEY_EGRESS:
		flags->one_way = true;
		link->egress_bps = rate(state, "--egress", arg);
		break;
	case KEY_INGRESS:
		flags->one_way = true;
		link->ingress_bps = rate(state, "--ingress", arg);
		break;
	case KEY_LATENCY:
		link->delay_ns = (int64_t)(real(state, "--latency", arg, 0.001, 60000) * 1e6 + 0.5);
		break;
	case KEY_MACVLAN:
		flags->plan.macvlan = true;
		break;
	case ARGP_KEY_END:
		if (flags->both && flags->one_way)
			argp_error(state, "--mbps is --egress and --ingress in one: give either");
		flags->plan.limited = link->egress_bps || link->ingress_bps || link->delay_ns;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	flags->given = true;
	return 0;
}

const struct argp lab_plan_argp = {.options = options, .parser = parse};

bool lab_check_plan(const struct lab_plan *plan)
{
	/* all ones and all zeros are no host's */
	uint32_t hosts = (UINT32_MAX >> plan->bits) - 1;
	const struct in_addr range = {htonl(plan->range)};
	char text[INET_ADDRSTRLEN];

	if (plan->n <= hosts)
		return true;
	cli_complain_as("lab", "--range %s/%u has addresses for %u nodes, not for %u",
		inet_ntop(AF_INET, &range, text, sizeof(text)), plan->bits, hosts, plan->n);
	return false;
}

char **lab_cut_command(int *argc, char **argv)
{
	for (int i = 1; i < *argc; i++) {
		if (strcmp(argv[i], "--") != 0)
			continue;
		char **command = i + 1 < *argc ? argv + i + 1 : NULL;

		*argc = i;
		return command;
	}
	return NULL;
}
