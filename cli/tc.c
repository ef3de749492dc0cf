/* What the commands that limit an interface share. SPDX-License-Identifier: MIT */
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net_limits.h"

struct psgd_tc_options cli_tc_options(const char *interface, char *error, size_t error_bytes)
{
	struct psgd_tc_options options = PSGD_INIT(psgd_tc_options);

	options.interface_name = interface;
	options.module_dir = cli_module_dir();
	options.error = error;
	options.error_bytes = error_bytes;
	if (error_bytes > 0)
		*error = '\0';
	return options;
}

int cli_tc_exit_code(psgd_status status)
{
	switch (status) {
	case PSGD_OK:
		return CLI_OK;
	case PSGD_ERR_INVALID:
	case PSGD_ERR_CONFIG:
		return CLI_USAGE;
	case PSGD_ERR_UNSUPPORTED:
	case PSGD_ERR_STATE:
	case PSGD_ERR_IO:
		return CLI_ENVIRONMENT;
	default:
		return CLI_FAILED;
	}
}

int cli_tc_complain(const char *what, psgd_status status, const char *error)
{
	cli_complain("%s: %s", what, *error ? error : psgd_status_text(status));
	return cli_tc_exit_code(status);
}

int cli_tc_complain_as(const char *command, psgd_status status, const char *error)
{
	cli_complain_as(command, "%s", *error ? error : psgd_status_text(status));
	return cli_tc_exit_code(status);
}

bool cli_tc_interface_exists(const char *what, const char *interface)
{
	if (if_nametoindex(interface))
		return true;
	cli_complain("%s: there is no network interface '%s' here", what, interface);
	return false;
}

bool cli_tc_interface_exists_as(const char *command, const char *interface)
{
	if (if_nametoindex(interface))
		return true;
	cli_complain_as(command, "there is no network interface '%s' here", interface);
	return false;
}

int cli_tc_print_commands(
	const struct psgd_tc_options *options, const struct psgd_link *link, const char *indent)
{
	char text[16384];
	psgd_status status = psgd_tc_commands(
		options, link, if_nametoindex(options->interface_name), text, sizeof(text));

	if (status != PSGD_OK)
		return cli_tc_complain(options->interface_name, status, options->error);
	for (const char *at = text; *at;) {
		int n = (int)strcspn(at, "\n");

		printf("%s%.*s\n", indent, n, at);
		at += n + (at[n] != '\0');
	}
	return CLI_OK;
}

const char *cli_tc_owner_text(char *to, size_t bytes, const struct psgd_tc_state *state)
{
	switch (state->owner) {
	case PSGD_TC_NOBODY:
		snprintf(to, bytes, "none, set by hand");
		break;
	case PSGD_TC_ALIVE:
		snprintf(to, bytes, "process %u, which is alive", state->owner_pid);
		break;
	case PSGD_TC_GONE:
		snprintf(to, bytes, "process %u, which is gone", state->owner_pid);
		break;
	default:
		snprintf(to, bytes, "unknown");
		break;
	}
	return to;
}
