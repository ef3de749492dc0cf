/* Makes a lab, and takes it down. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <stdio.h>
#include <unistd.h>

#include "lab.h"
#include "net_limits.h"

#define BRIDGE "br0"
#define PARENT "parent"
#define NO_PAIR "cannot make a pair of veth devices"

/* ---- up ---- */

static int fail(const char *what, const char *where, int error)
{
	cli_complain_as("lab", "%s in %s: %s", what, where, lab_link_error(error));
	return CLI_ENVIRONMENT;
}

/*
 * The switch: everything that is not a node's own. What macvlan devices stand on needs a carrier,
 * which a pair has by itself.
 */
static int make_hub(const struct lab_plan *plan, int fd, struct nl_sock **socket)
{
	char file[LAB_FILE_BYTES];
	int error;

	lab_file(plan->name, LAB_HUB, file);
	*socket = lab_socket(fd);
	if (!*socket) {
		cli_complain_as("lab", "no netlink in %s", file);
		return CLI_ENVIRONMENT;
	}
	error = plan->macvlan ? lab_link_pair(*socket, PARENT, "other")
			      : lab_link_bridge(*socket, BRIDGE);
	if (error == 0)
		return CLI_OK;
	return fail(plan->macvlan ? NO_PAIR : "cannot make a bridge", file, error);
}

static int limit(const struct lab_plan *plan, const char *file, int fd)
{
	static const uint16_t unshaped[] = {LAB_PORT};
	char error[CLI_LIMITS_ERROR_BYTES] = "";
	struct psgd_tc_options options = cli_tc_options(LAB_INTERFACE, error, sizeof(error));
	psgd_status status;
	int home;

	options.unshaped_ports = unshaped;
	options.n_unshaped_ports = CLI_COUNT(unshaped);
	if (!lab_enter(fd, &home)) {
		cli_complain_as("lab", "cannot enter %s", file);
		return CLI_ENVIRONMENT;
	}
	status = psgd_tc_apply(&options, &plan->link);
	lab_leave(home);
	return status == PSGD_OK ? CLI_OK : cli_tc_complain(file, status, error);
}

static int connect_node(
	const struct lab_plan *plan, struct nl_sock *hub, int number, const char *file, int fd)
{
	struct nl_sock *node;
	const uint32_t address = plan->range + 1 + (uint32_t)number;
	char port[16];
	int error;

	snprintf(port, sizeof(port), "port%d", number);
	error = plan->macvlan ? lab_link_macvlan(hub, PARENT, fd)
			      : lab_link_veth(hub, port, BRIDGE, fd);
	if (error < 0)
		return fail(plan->macvlan ? "cannot make a device of type macvlan" : NO_PAIR, file,
			error);
	node = lab_socket(fd);
	if (!node) {
		cli_complain_as("lab", "no netlink in %s", file);
		return CLI_ENVIRONMENT;
	}
	error = lab_link_address(node, LAB_INTERFACE, address, plan->bits);
	if (error == 0)
		error = lab_link_up(node, LAB_INTERFACE);
	/* A kernel that lacks it goes on by the host's. */
	if (error == 0)
		(void)lab_link_route(node, LAB_INTERFACE, address, plan->bits);
	lab_socket_close(node);
	return error == 0 ? CLI_OK : fail("cannot set the address of " LAB_INTERFACE, file, error);
}

static int make_node(const struct lab_plan *plan, struct nl_sock *hub, int number)
{
	struct lab_mark mark = {.number = number};
	char file[LAB_FILE_BYTES];
	int fd, code;

	snprintf(mark.name, sizeof(mark.name), "%s", plan->name);
	lab_file(plan->name, number, file);
	code = lab_space_make(&mark, &fd);
	if (code == CLI_OK)
		code = connect_node(plan, hub, number, file, fd);
	if (code == CLI_OK && plan->limited)
		code = limit(plan, file, fd);
	if (fd >= 0)
		close(fd);
	return code;
}

static int make_all(const struct lab_plan *plan)
{
	struct lab_mark mark = {.number = LAB_HUB, .n = plan->n, .kept = plan->kept};
	struct nl_sock *hub = NULL;
	int fd, code;

	snprintf(mark.name, sizeof(mark.name), "%s", plan->name);
	code = lab_space_make(&mark, &fd);
	if (code == CLI_OK)
		code = make_hub(plan, fd, &hub);
	for (uint32_t i = 0; code == CLI_OK && i < plan->n; i++)
		code = make_node(plan, hub, (int)i);
	mark.built = true;
	if (code == CLI_OK && !lab_space_mark(fd, &mark)) {
		cli_complain_as("lab", "no netlink in %s-hub", plan->name);
		code = CLI_ENVIRONMENT;
	}
	lab_socket_close(hub);
	if (fd >= 0)
		close(fd);
	return code;
}

/* Names that others have are found before anything is made. */
static int check_names(const struct lab_plan *plan)
{
	for (int i = LAB_HUB; i < (int)plan->n; i++) {
		char file[LAB_FILE_BYTES], path[PATH_MAX];

		lab_file(plan->name, i, file);
		snprintf(path, sizeof(path), LAB_FOLDER "/%s", file);
		if (access(path, F_OK) != 0)
			continue;
		cli_complain_as("lab",
			"the name %s is taken by a namespace that is not this lab's; "
			"choose another by --name",
			file);
		return CLI_USAGE;
	}
	return CLI_OK;
}

int lab_up(const struct lab_plan *plan)
{
	size_t n, ended;
	int code = check_names(plan);

	if (code != CLI_OK)
		return code;
	code = make_all(plan);
	if (code != CLI_OK)
		lab_down(plan->name, &n, &ended);
	return code;
}

/* ---- down ---- */

/* Devices go now, also when somebody keeps the namespace open. */
static void remove_device(const struct lab_space *space)
{
	struct nl_sock *socket = space->fd < 0 ? NULL : lab_socket(space->fd);

	if (socket)
		lab_link_delete(socket, LAB_INTERFACE);
	lab_socket_close(socket);
}

/* From here on it is no lab, whatever becomes of this process. */
static void begin_down(const struct lab_space *hub)
{
	struct lab_mark mark = hub->mark;

	mark.built = false;
	if (hub->fd >= 0)
		lab_space_mark(hub->fd, &mark);
}

int lab_down(const char *name, size_t *n, size_t *ended)
{
	struct lab lab;
	int code = lab_find(name, &lab);

	*n = *ended = 0;
	if (code == CLI_OK && lab_hub(&lab))
		begin_down(lab_hub(&lab));
	if (code == CLI_OK && !lab_end_processes(&lab, ended))
		code = CLI_FAILED;
	/* the hub last: as long as it is there the lab is not gone */
	for (size_t i = lab.n; code == CLI_OK && i-- > 0;) {
		remove_device(&lab.spaces[i]);
		if (lab_space_remove(&lab.spaces[i]))
			++*n;
		else
			code = CLI_ENVIRONMENT;
	}
	lab_free(&lab);
	return code;
}
