/* psgd net show, psgd net clear: limits that are there. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>

#include "net_limits.h"

enum key { KEY_JSON = 256, KEY_ORPHANS };

struct arguments {
	const char *interface; /* NULL: all that psgd limits */
	bool flag;
};

/* What is on the interfaces; *states is freed by free(). Complains. */
static int look(
	const char *command, const char *interface, struct psgd_tc_state **states, size_t *n)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = cli_tc_options(interface, error, sizeof(error));
	size_t room = 8;
	psgd_status status;

	*states = NULL;
	*n = 0;
	if (interface && !cli_tc_interface_exists_as(command, interface))
		return CLI_USAGE;
	for (;;) {
		struct psgd_tc_state *more = realloc(*states, room * sizeof(*more));

		if (!more)
			return cli_tc_complain_as(command, PSGD_ERR_NOMEM, "");
		*states = more;
		for (size_t i = 0; i < room; i++)
			more[i] = PSGD_INIT(psgd_tc_state);
		status = psgd_tc_show(&options, more, room, n);
		if (status != PSGD_OK)
			return cli_tc_complain_as(command, status, error);
		if (*n <= room)
			return CLI_OK;
		room = *n;
	}
}

/* ---- show ---- */

static void print_state(const struct psgd_tc_state *state)
{
	char text[256], burst[96], sent[32], received[32], limited[32];

	if (state->shaped) {
		printf("%s: %s%s\n", state->interface_name,
			cli_link_text(text, sizeof(text), &state->link),
			cli_burst_text(burst, sizeof(burst), &state->link));
		printf("  owner: %s\n", cli_tc_owner_text(text, sizeof(text), state));
	} else {
		printf("%s: not limited by psgd; %s\n", state->interface_name,
			state->foreign ? "somebody else's queue is there (tc qdisc show)"
				       : "the queue of the system is there");
	}
	printf("  sent %s, received %s",
		cli_bytes_text(sent, sizeof(sent), (double)state->tx_bytes),
		cli_bytes_text(received, sizeof(received), (double)state->rx_bytes));
	if (state->shaped)
		printf("; limited %s, %llu dropped",
			cli_bytes_text(limited, sizeof(limited), (double)state->shaped_bytes),
			(unsigned long long)state->shaped_drops);
	printf("\n");
}

static json_t *state_json(const struct psgd_tc_state *state)
{
	static const char *const owners[] = {"nobody", "alive", "orphan", "unknown"};
	const struct psgd_link *link = &state->link;
	json_t *json = json_pack("{s:s, s:b, s:b, s:I, s:I}", "interface", state->interface_name,
		"limited", state->shaped, "foreign", state->foreign, "tx_bytes",
		(json_int_t)state->tx_bytes, "rx_bytes", (json_int_t)state->rx_bytes);

	if (!state->shaped)
		return json;
	json_object_set_new(json, "egress_bps", json_integer((json_int_t)link->egress_bps));
	json_object_set_new(json, "ingress_bps", json_integer((json_int_t)link->ingress_bps));
	json_object_set_new(json, "delay_ns", json_integer(link->delay_ns));
	json_object_set_new(json, "jitter_ns", json_integer(link->jitter_ns));
	json_object_set_new(json, "loss_ppm", json_integer(link->loss_ppm));
	json_object_set_new(json, "burst_bytes", json_integer((json_int_t)link->burst_bytes));
	json_object_set_new(json, "limited_bytes", json_integer((json_int_t)state->shaped_bytes));
	json_object_set_new(json, "drops", json_integer((json_int_t)state->shaped_drops));
	json_object_set_new(json, "owner",
		json_string(
			owners[state->owner <= PSGD_TC_UNKNOWN ? state->owner : PSGD_TC_UNKNOWN]));
	json_object_set_new(json, "owner_pid", json_integer(state->owner_pid));
	return json;
}

static void print_json(const struct psgd_tc_state *states, size_t n)
{
	json_t *list = json_array(), *root = json_pack("{s:o}", "interfaces", list);

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, state_json(&states[i]));
	json_dumpf(root, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(root);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case KEY_JSON:
	case KEY_ORPHANS:
		a->flag = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->interface)
			argp_error(state, "'%s': one interface, or all", arg);
		a->interface = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cli_net_show(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"json", KEY_JSON, 0, 0, "Print JSON: bits and bytes, nanoseconds, 10^-6", 0}, {0}};
	static const struct argp argp = {.options = options,
		.parser = parse,
		.args_doc = "[IF]",
		.doc = "Says what limits psgd put on the network interfaces of this machine, whose "
		       "they are, and what went through; of an interface that is named also what "
		       "else is there. It needs no right."};
	struct arguments a = {0};
	struct psgd_tc_state *states = NULL;
	size_t n = 0;
	int code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	code = look("net show", a.interface, &states, &n);
	if (code == CLI_OK && a.flag)
		print_json(states, n);
	for (size_t i = 0; code == CLI_OK && !a.flag && i < n; i++)
		print_state(&states[i]);
	if (code == CLI_OK && !a.flag && n == 0)
		printf("psgd limits no interface\n");
	free(states);
	return code;
}

/* ---- clear ---- */

static int clear(const char *interface, bool orphans)
{
	char error[CLI_LIMITS_ERROR_BYTES], owner[64];
	struct psgd_tc_options options = cli_tc_options(interface, error, sizeof(error));
	struct psgd_tc_state *states = NULL;
	size_t n = 0, cleared = 0;
	psgd_status status;
	int code = look("net clear", interface, &states, &n);

	if (code != CLI_OK)
		goto out;
	status = psgd_tc_clear(&options, orphans, &cleared);
	if (status != PSGD_OK) {
		code = cli_tc_complain_as("net clear", status, error);
		goto out;
	}
	for (size_t i = 0; i < n && cleared > 0; i++) {
		if (states[i].shaped && (!orphans || states[i].owner == PSGD_TC_GONE))
			printf("%s: removed the limits %s%s\n", states[i].interface_name,
				states[i].owner == PSGD_TC_NOBODY ? "" : "of ",
				states[i].owner == PSGD_TC_NOBODY
					? "set by hand"
					: cli_tc_owner_text(owner, sizeof(owner), &states[i]));
	}
	if (cleared == 0)
		printf("there are no %s to remove\n", orphans ? "orphans" : "limits of psgd");
out:
	free(states);
	return code;
}

int cli_net_clear(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{"orphans", KEY_ORPHANS, 0, 0,
			"Only what a process put there that is gone; a run that is alive, and "
			"`psgd net apply', keep theirs",
			0},
		{0}};
	static const struct argp argp = {.options = options,
		.parser = parse,
		.args_doc = "[IF]",
		.doc = "Removes the limits that psgd put on a network interface, or on all, also "
		       "those of a run that is alive. It needs CAP_NET_ADMIN."};
	struct arguments a = {0};

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		return CLI_USAGE;
	return clear(a.interface, a.flag);
}
