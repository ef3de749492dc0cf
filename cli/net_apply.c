/* psgd net apply: limits an interface until it is cleared. SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "net_limits.h"

#define MAX_PORTS 64
#define MAX_MBPS 1e9
#define MAX_MS 1e6
#define MAX_PERCENT 99.9999

enum key {
	KEY_INTERFACE = 256,
	KEY_EGRESS,
	KEY_INGRESS,
	KEY_LATENCY,
	KEY_JITTER,
	KEY_LOSS,
	KEY_BURST,
	KEY_PORT,
	KEY_PRINT
};

static const struct argp_option options[] = {
	{"interface", KEY_INTERFACE, "IF", 0, "The network interface; else the one of CONFIG", 1},
	{"egress", KEY_EGRESS, "MBPS", 0, "10^6 bits a second that leave; 0: no limit", 2},
	{"ingress", KEY_INGRESS, "MBPS", 0, "The same of what arrives", 2},
	{"latency", KEY_LATENCY, "MS", 0, "Delay of what leaves", 2},
	{"jitter", KEY_JITTER, "MS", 0, "The delay varies by so much, at most by itself", 2},
	{"loss", KEY_LOSS, "PCT", 0, "Share of the frames that is lost, below 100", 2},
	{"burst", KEY_BURST, "BYTES", 0,
		"What may leave at once after a pause (two frames and 100 us of the rate)", 2},
	{"unshaped-port", KEY_PORT, "PORT", 0,
		"TCP from or to this port is not limited; may be given again", 3},
	{"print-tc", KEY_PRINT, 0, 0, "Print the commands of tc that do it; change nothing", 4},
	{0}};

static const char doc[] =
	"Limits a network interface by the kernel's traffic control, until `psgd net clear'. "
	"CONFIG "
	"gives the limits of its network_limits, and flags change them.\v"
	"What psgd put there before is replaced, unless a run that is alive did, and stays where "
	"this kernel cannot do what is asked for; what anybody else put there is never touched. It "
	"needs CAP_NET_ADMIN.\n\n"
	"Exit codes: 0 ok, 2 usage or configuration, 5 no right to, nothing in the kernel for it, "
	"or somebody else's limits are there.";

/* NAN, -1 or NULL: not given. */
struct arguments {
	const char *interface, *config;
	struct cli_strings overrides;
	double egress, ingress, latency, jitter, loss;
	int64_t burst;
	uint16_t ports[MAX_PORTS];
	size_t n_ports;
	bool print;
};

/* 0, or a number from least to most. */
static double number(
	struct argp_state *state, const char *flag, const char *arg, double least, double most)
{
	char *end;
	double value = strtod(arg, &end);

	if (end == arg || *end || !(value == 0 || (value >= least && value <= most)))
		argp_error(state, "%s: '%s' is not 0 or a number from %.15g to %.15g", flag, arg,
			least, most);
	return value;
}

static void add_port(struct argp_state *state, struct arguments *a, const char *arg)
{
	int64_t port = cli_number(state, "--unshaped-port", arg, 1, 65535);

	if (a->n_ports == MAX_PORTS)
		argp_error(state, "--unshaped-port: at most %d ports", MAX_PORTS);
	else
		a->ports[a->n_ports++] = (uint16_t)port;
}

static void positional(struct argp_state *state, struct arguments *a, char *arg)
{
	if (cli_is_override(arg))
		cli_strings_add(&a->overrides, "%s", arg);
	else if (!a->config)
		a->config = arg;
	else
		argp_error(state, "'%s' is not key=value", arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case KEY_INTERFACE:
		a->interface = arg;
		return 0;
	case KEY_EGRESS:
		a->egress = number(state, "--egress", arg, 0.001, MAX_MBPS);
		return 0;
	case KEY_INGRESS:
		a->ingress = number(state, "--ingress", arg, 0.001, MAX_MBPS);
		return 0;
	case KEY_LATENCY:
		a->latency = number(state, "--latency", arg, 1e-6, MAX_MS);
		return 0;
	case KEY_JITTER:
		a->jitter = number(state, "--jitter", arg, 1e-6, MAX_MS);
		return 0;
	case KEY_LOSS:
		a->loss = number(state, "--loss", arg, 1e-4, MAX_PERCENT);
		return 0;
	case KEY_BURST:
		a->burst = cli_number(state, "--burst", arg, 0, UINT32_MAX);
		return 0;
	case KEY_PORT:
		add_port(state, a, arg);
		return 0;
	case KEY_PRINT:
		a->print = true;
		return 0;
	case ARGP_KEY_ARG:
		positional(state, a, arg);
		return 0;
	case ARGP_KEY_END:
		if (a->overrides.n && !a->config)
			argp_error(state, "'%s' needs a CONFIG", a->overrides.items[0]);
		if (!a->interface && !a->config)
			argp_error(state, "--interface is missing");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* What the kernel would do for the configuration by itself, with the flags over it. */
static int find_link(
	const struct arguments *a, const struct psgd_config *config, struct psgd_link *link)
{
	bool limited = false;
	psgd_status status = PSGD_OK;

	if (config)
		status = psgd_config_kernel_link(config, link, &limited);
	if (status != PSGD_OK)
		return cli_tc_complain(a->config, status, "");
	if (!isnan(a->egress))
		link->egress_bps = (uint64_t)(a->egress * 1e6 + 0.5);
	if (!isnan(a->ingress))
		link->ingress_bps = (uint64_t)(a->ingress * 1e6 + 0.5);
	if (!isnan(a->latency))
		link->delay_ns = (int64_t)(a->latency * 1e6 + 0.5);
	if (!isnan(a->jitter))
		link->jitter_ns = (int64_t)(a->jitter * 1e6 + 0.5);
	if (!isnan(a->loss))
		link->loss_ppm = (uint32_t)(a->loss * 1e4 + 0.5);
	if (a->burst >= 0)
		link->burst_bytes = (uint64_t)a->burst;
	if (link->jitter_ns > link->delay_ns) {
		cli_complain_as("net apply", "the jitter is above the latency");
		return CLI_USAGE;
	}
	if (link->egress_bps || link->ingress_bps || link->delay_ns || link->loss_ppm)
		return CLI_OK;
	cli_complain_as("net apply",
		"%s%slimits nothing: give --egress, --ingress, --latency or --loss",
		config ? a->config : "", config ? " " : "this ");
	return CLI_USAGE;
}

static const char *find_interface(const struct arguments *a, const struct psgd_config *config)
{
	if (a->interface)
		return a->interface;
	if (strcmp(config->network_limits.interface, "auto") != 0)
		return config->network_limits.interface;
	if (config->communication.interface)
		return config->communication.interface;
	cli_complain_as("net apply", "--interface is missing, and %s names none", a->config);
	return NULL;
}

static int apply(const struct arguments *a, const struct psgd_config *config)
{
	const char *interface = find_interface(a, config);
	char error[CLI_LIMITS_ERROR_BYTES], text[256], burst[96];
	struct psgd_tc_options tc = cli_tc_options(interface, error, sizeof(error));
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct cli_held held;
	psgd_status status;
	int code;

	if (!interface || !cli_tc_interface_exists_as("net apply", interface))
		return CLI_USAGE;
	code = find_link(a, config, &link);
	if (code != CLI_OK)
		return code;
	tc.unshaped_ports = a->ports;
	tc.n_unshaped_ports = a->n_ports;
	if (a->print)
		return cli_tc_print_commands(&tc, &link, "");
	/* not a half of it */
	cli_hold_signals(&held);
	status = psgd_tc_apply(&tc, &link);
	cli_release_signals(&held);
	if (status != PSGD_OK)
		return cli_tc_complain_as("net apply", status, error);
	printf("%s: %s%s, until `psgd net clear %s'\n", interface,
		cli_link_text(text, sizeof(text), &link),
		cli_burst_text(burst, sizeof(burst), &link), interface);
	return CLI_OK;
}

int cli_net_apply(int argc, char **argv)
{
	static const struct argp argp = {.options = options,
		.parser = parse,
		.args_doc = "[CONFIG [key=value...]]",
		.doc = doc};
	struct arguments a = {.egress = NAN,
		.ingress = NAN,
		.latency = NAN,
		.jitter = NAN,
		.loss = NAN,
		.burst = -1};
	struct psgd_config *config = NULL;
	char error[CLI_ERROR_BYTES] = "";
	psgd_status status = PSGD_OK;
	int code = CLI_USAGE;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a))
		goto out;
	/* here the kernel does all of it, whoever does it in a run */
	if (a.config) {
		cli_strings_add(&a.overrides, "network_limits.method=tc");
		status = psgd_config_load(a.config, (const char *const *)a.overrides.items,
			a.overrides.n, &config, error, sizeof(error));
	}
	if (status == PSGD_OK)
		code = apply(&a, config);
	else
		fprintf(stderr, "%s\n", *error ? error : psgd_status_text(status));
out:
	psgd_config_free(&config);
	cli_strings_free(&a.overrides);
	return code;
}
