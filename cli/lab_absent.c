/* psgd lab, where the build has no netlink. SPDX-License-Identifier: MIT */
#include "cli.h"

int cli_lab(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	cli_complain_as("lab",
		"this build is without libnl-route-3, which makes the nodes; `psgd run "
		"--standalone --nproc-per-node N' emulates the link of network_limits");
	return CLI_ENVIRONMENT;
}
