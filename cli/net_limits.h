/* Limits of the kernel on an interface, for a run and by hand. SPDX-License-Identifier: MIT */
#ifndef CLI_NET_LIMITS_H
#define CLI_NET_LIMITS_H

#include <psgd/tc.h>

#include "cli.h"

/* ---- link.c ---- */

/* "12.5 Mbit/s", "egress ..., ingress ..., latency 3 ms", ", burst 4278 bytes"; to is returned. */
const char *cli_rate_text(char *to, size_t bytes, double mbps);
const char *cli_link_text(char *to, size_t bytes, const struct psgd_link *link);
const char *cli_burst_text(char *to, size_t bytes, const struct psgd_link *link);

/* ---- net_where.c ---- */

/*
 * The interface that leads to the other nodes; "" and *unfit, why, where it leads to none. ifname:
 * what the flag of that name gave the configuration, or NULL. Errors, with text: CONFIG (the one
 * that is named does not exist), and what psgd_tc_interface_to has.
 */
psgd_status cli_limits_interface(const struct psgd_config *config, const char *ifname,
	const struct psgd_launch *launch, char name[16], const char **unfit, char *error,
	size_t bytes);

/* Whether the interface of the gradients is there. Complains, returns an exit code. */
int cli_check_interface(const struct psgd_config *config, const char *ifname);

/* ---- net_limits.c ---- */

#define CLI_LIMITS_ERROR_BYTES 512

/* How the network of a run is limited on this node. */
struct cli_limits {
	const char *asked;  /* network_limits.method as it was configured */
	char method[16];    /* model, tc or tc+model, what auto came to */
	char interface[16]; /* that leads to the other nodes; "": there are none, or nobody knows */
	bool by_kernel;
	uint16_t port;			     /* of the rendezvous, which is not limited */
	struct psgd_link kernel;	     /* what the kernel does */
	char reason[CLI_LIMITS_ERROR_BYTES]; /* why auto is not all tc; "": there is none to tell */
};

/*
 * Decides it; nothing is changed. *resolved is the configuration for the workers, to be ended by
 * psgd_config_free; NULL: as it was given. ifname as above. Complains and returns an exit code.
 * config must outlive limits.
 */
int cli_limits_resolve(const struct psgd_config *config, const char *ifname,
	const struct psgd_launch *workers, size_t n, struct cli_limits *limits,
	struct psgd_config **resolved);

/* What limits the network, in a line; nothing where nothing does. foreign: of cli_job. */
void cli_limits_print(
	const struct cli_limits *limits, const struct psgd_config *config, bool foreign);

/* The commands of tc that do what cli_limits_apply does. */
void cli_limits_print_commands(const struct cli_limits *limits);

/*
 * Before cli_limits_apply: removes what a supervisor that was killed left on the interface, and
 * says so; says also what will be replaced.
 */
void cli_limits_tidy(const struct cli_limits *limits);

/*
 * Limits the interface in the name of this process, and ends that; nothing where the kernel does
 * nothing. Signals that end this process must be held. Complain, and return an exit code.
 */
int cli_limits_apply(const struct cli_limits *limits, char *reason, size_t reason_bytes);
int cli_limits_remove(const struct cli_limits *limits);

/* ---- tc.c ---- */

/* Options for an interface (NULL: all); why a call fails goes to error. */
struct psgd_tc_options cli_tc_options(const char *interface, char *error, size_t error_bytes);

/* 2 for what a caller asks wrongly, 5 for what this machine lacks or has in the way. */
int cli_tc_exit_code(psgd_status status);

/* Complains in the words of the call that failed: "what: error". Returns its exit code. */
int cli_tc_complain(const char *what, psgd_status status, const char *error);

/* The same of a command, such as "net show". */
int cli_tc_complain_as(const char *command, psgd_status status, const char *error);

/* True if there is one; else complains. */
bool cli_tc_interface_exists(const char *what, const char *interface);
bool cli_tc_interface_exists_as(const char *command, const char *interface);

/* Prints the commands that put a link on an interface, each after `indent`. */
int cli_tc_print_commands(
	const struct psgd_tc_options *options, const struct psgd_link *link, const char *indent);

/* "process 12, which is alive" */
const char *cli_tc_owner_text(char *to, size_t bytes, const struct psgd_tc_state *state);

/* ---- net_apply.c, net_show.c ---- */

/* argv[0] is the name to be seen in messages. */
int cli_net_apply(int argc, char **argv);
int cli_net_show(int argc, char **argv);
int cli_net_clear(int argc, char **argv);

#endif
