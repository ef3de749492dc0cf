/* How the network of a run is limited on this node. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "net_limits.h"

#define METHOD "network_limits.method"

static psgd_status fail(char *error, size_t bytes, psgd_status status, const char *text)
{
	snprintf(error, bytes, "%s", text);
	return status;
}

static const char all_here[] = "all workers are on this node";

/* Why the kernel has nothing to limit between these workers; NULL: it may have. */
static const char *not_for_tc(const struct psgd_launch *workers, size_t n)
{
	if (workers[0].n_workers <= n || workers[0].local_size >= workers[0].n_workers)
		return all_here;
	/* One of them would end what the others still need. */
	if (workers[0].local_size > n)
		return "workers of this node have a psgd run of their own";
	return NULL;
}

/* ---- which method ---- */

/* The configuration with another method; interface "" stays what it is. */
static psgd_status with_method(const struct psgd_config *config, const char *method,
	const char *interface, struct psgd_config **out, char *error, size_t bytes)
{
	char path[64], words[2][64];
	const char *const overrides[] = {words[0], words[1]};
	int fd = cli_config_file(config, path, sizeof(path));
	psgd_status status;

	if (fd < 0)
		return fail(error, bytes, PSGD_ERR_IO, "no memory for the configuration");
	snprintf(words[0], sizeof(words[0]), METHOD "=%s", method);
	snprintf(words[1], sizeof(words[1]), "network_limits.interface='%s'", interface);
	status = psgd_config_load(path, overrides, *interface ? 2 : 1, out, error, bytes);
	close(fd);
	return status;
}

static struct psgd_tc_options options_of(const struct cli_limits *limits, char *error, size_t bytes)
{
	struct psgd_tc_options options = cli_tc_options(limits->interface, error, bytes);

	options.unshaped_ports = &limits->port;
	options.n_unshaped_ports = 1;
	return options;
}

static psgd_status try_method(const struct psgd_config *config, const char *method,
	struct cli_limits *limits, struct psgd_config **resolved, char *error, size_t bytes)
{
	struct psgd_config *made = NULL;
	psgd_status status = with_method(config, method, limits->interface, &made, error, bytes);

	if (status == PSGD_OK)
		status = psgd_config_kernel_link(made, &limits->kernel, &limits->by_kernel);
	if (status == PSGD_OK && !limits->by_kernel)
		status = fail(error, bytes, PSGD_ERR_CONFIG,
			"the kernel would limit rates, and there is none");
	if (status == PSGD_OK) {
		struct psgd_tc_options options = options_of(limits, error, bytes);

		options.owner_pid = (uint32_t)getpid();
		status = psgd_tc_check(&options, &limits->kernel);
	}
	if (status == PSGD_OK) {
		snprintf(limits->method, sizeof(limits->method), "%s", method);
		*resolved = made;
		return PSGD_OK;
	}
	psgd_config_free(&made);
	limits->by_kernel = false;
	return status;
}

static bool has_delay_or_loss(const struct psgd_link *link)
{
	return link->delay_ns > 0 || link->jitter_ns > 0 || link->loss_ppm > 0;
}

static psgd_status try_all(const struct psgd_config *config, struct cli_limits *limits,
	struct psgd_config **resolved, char *error, size_t bytes)
{
	char rest[CLI_LIMITS_ERROR_BYTES] = "";
	psgd_status status;

	if (strcmp(limits->asked, "auto") != 0)
		return try_method(config, limits->asked, limits, resolved, error, bytes);
	status = try_method(config, "tc", limits, resolved, error, bytes);
	if (status != PSGD_ERR_UNSUPPORTED || !has_delay_or_loss(&limits->kernel))
		return status;
	/* What is missing may be what makes delays. */
	if (try_method(config, "tc+model", limits, resolved, rest, sizeof(rest)) != PSGD_OK)
		return status;
	snprintf(limits->reason, sizeof(limits->reason), "%s", error);
	return PSGD_OK;
}

/* Another run of this machine is there; complains. */
static bool is_taken(const struct cli_limits *limits)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = cli_tc_options(limits->interface, error, sizeof(error));
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	size_t found = 0;

	if (psgd_tc_show(&options, &state, 1, &found) != PSGD_OK || found != 1 || !state.shaped ||
		state.owner != PSGD_TC_ALIVE || state.owner_pid == (uint32_t)getpid())
		return false;
	cli_complain("%s is limited by process %u, which is alive: two runs cannot limit one "
		     "interface",
		limits->interface, state.owner_pid);
	return true;
}

/* What auto comes to where tc cannot act. */
static int fall_back(const struct psgd_config *config, struct cli_limits *limits,
	const char *reason, struct psgd_config **resolved)
{
	char error[CLI_ERROR_BYTES] = "";
	psgd_status status = with_method(config, "model", "", resolved, error, sizeof(error));

	snprintf(limits->method, sizeof(limits->method), "model");
	snprintf(limits->reason, sizeof(limits->reason), "%s", reason);
	return status == PSGD_OK ? CLI_OK : cli_tc_complain(METHOD, status, error);
}

/* Something is to be limited, and not by the model alone. */
static int choose(const struct psgd_config *config, const char *unfit, psgd_status status,
	char *error, size_t bytes, struct cli_limits *limits, struct psgd_config **resolved)
{
	bool is_auto = strcmp(limits->asked, "auto") == 0;

	if (unfit && is_auto)
		return fall_back(config, limits, unfit == all_here ? "" : unfit, resolved);
	if (unfit) {
		cli_complain(METHOD ": %s limits the network between nodes, but %s: use auto or "
				    "model",
			limits->asked, unfit);
		return CLI_USAGE;
	}
	if (status == PSGD_ERR_CONFIG) {
		cli_complain("%s", error);
		return CLI_USAGE;
	}
	if (status == PSGD_OK) {
		if (is_taken(limits))
			return CLI_ENVIRONMENT;
		status = try_all(config, limits, resolved, error, bytes);
	}
	if (status == PSGD_OK)
		return CLI_OK;
	if (!is_auto)
		return cli_tc_complain(METHOD, status, error);
	return fall_back(config, limits, *error ? error : psgd_status_text(status), resolved);
}

int cli_limits_resolve(const struct psgd_config *config, const char *ifname,
	const struct psgd_launch *workers, size_t n, struct cli_limits *limits,
	struct psgd_config **resolved)
{
	const struct psgd_config_network *net = &config->network_limits;
	const char *unfit = not_for_tc(workers, n);
	struct psgd_link link = PSGD_INIT(psgd_link);
	char error[CLI_ERROR_BYTES] = "";
	psgd_status found = PSGD_OK, status;
	bool limited = false;

	*resolved = NULL;
	*limits = (struct cli_limits){.asked = net->method,
		.port = workers[0].master_port,
		.kernel = PSGD_INIT(psgd_link)};
	snprintf(limits->method, sizeof(limits->method), "%s", net->method);
	if (!unfit)
		found = cli_limits_interface(config, ifname, &workers[0], limits->interface, &unfit,
			error, sizeof(error));
	status = psgd_config_limits(config, &link, &limited);
	if (status != PSGD_OK)
		return cli_tc_complain("network_limits", status, "");
	if (!limited || strcmp(net->method, "model") == 0)
		return CLI_OK;
	return choose(config, unfit, found, error, sizeof(error), limits, resolved);
}

/* ---- what is printed ---- */

static void print_changes(const struct psgd_config_network *net)
{
	for (unsigned i = 0; i < net->schedule_count; i++) {
		const struct psgd_config_link_change *change = &net->schedule[i];

		if (i == 0)
			printf(", changes at %s ", change->at_iteration ? "iteration" : "second");
		else
			printf(", ");
		if (change->at_iteration)
			printf("%u", change->at_iteration);
		else
			printf("%g", change->at_second);
	}
}

void cli_limits_print(
	const struct cli_limits *limits, const struct psgd_config *config, bool foreign)
{
	/* Nothing reaches into a trainer of another's. */
	const char *who = foreign ? "each worker that opens a psgd_stack" : "each worker";
	const struct psgd_config_network *net = &config->network_limits;
	struct psgd_link link = PSGD_INIT(psgd_link);
	char text[256], burst[96] = "";
	bool limited = false;

	if (psgd_config_limits(config, &link, &limited) != PSGD_OK || !limited)
		return;
	if (!limits->by_kernel)
		printf("network limited by model, in %s", who);
	else
		printf("network limited by tc on %s", limits->interface);
	if (limits->by_kernel && strcmp(limits->method, "tc") != 0)
		printf(", delay and losses by model, in %s", who);
	if (limits->by_kernel)
		cli_burst_text(burst, sizeof(burst), &link);
	printf(" (method %s): %s%s", limits->asked, cli_link_text(text, sizeof(text), &link),
		burst);
	print_changes(net);
	printf("\n");
	if (*limits->reason)
		printf("note: " METHOD ": auto is %s here: %s\n", limits->method, limits->reason);
}

void cli_limits_print_commands(const struct cli_limits *limits)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = options_of(limits, error, sizeof(error));

	if (!limits->by_kernel)
		return;
	printf("network of this node:\n");
	cli_tc_print_commands(&options, &limits->kernel, "  ");
}

/* ---- what is done ---- */

void cli_limits_tidy(const struct cli_limits *limits)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = cli_tc_options(limits->interface, error, sizeof(error));
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	size_t found = 0;

	/* A machine without the module has nothing of ours. */
	if (!*limits->interface || psgd_tc_show(&options, &state, 1, &found) != PSGD_OK ||
		found != 1 || !state.shaped)
		return;
	if (state.owner == PSGD_TC_NOBODY && limits->by_kernel)
		printf("%s: these limits take the place of those of `psgd net apply'; none are "
		       "left after the run\n",
			limits->interface);
	if (state.owner != PSGD_TC_GONE)
		return;
	if (psgd_tc_clear(&options, 1, NULL) == PSGD_OK)
		printf("%s: removed the limits that process %u left behind\n", limits->interface,
			state.owner_pid);
	else
		cli_complain("%s still has the limits that process %u left behind: %s",
			limits->interface, state.owner_pid, error);
}

int cli_limits_apply(const struct cli_limits *limits, char *reason, size_t reason_bytes)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = options_of(limits, error, sizeof(error));
	psgd_status status;

	if (!limits->by_kernel)
		return CLI_OK;
	options.owner_pid = (uint32_t)getpid();
	status = psgd_tc_apply(&options, &limits->kernel);
	if (status == PSGD_OK)
		return CLI_OK;
	snprintf(reason, reason_bytes, "%s: %s", limits->interface,
		*error ? error : psgd_status_text(status));
	cli_complain("%s", reason);
	return cli_tc_exit_code(status);
}

int cli_limits_remove(const struct cli_limits *limits)
{
	char error[CLI_LIMITS_ERROR_BYTES];
	struct psgd_tc_options options = cli_tc_options(limits->interface, error, sizeof(error));
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	psgd_status status;
	size_t found = 0;

	if (!limits->by_kernel)
		return CLI_OK;
	/* Somebody may have cleared it meanwhile, and put their own there. */
	status = psgd_tc_show(&options, &state, 1, &found);
	if (status == PSGD_OK && found == 1 && state.shaped &&
		(state.owner == PSGD_TC_NOBODY ||
			(state.owner != PSGD_TC_UNKNOWN && state.owner_pid != (uint32_t)getpid())))
		return CLI_OK;
	status = psgd_tc_clear(&options, 0, NULL);
	if (status == PSGD_OK)
		return CLI_OK;
	return cli_tc_complain(limits->interface, status, error);
}
