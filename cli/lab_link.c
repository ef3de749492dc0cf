/* The devices of a lab, by rtnetlink. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/msg.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/macvlan.h>
#include <netlink/route/link/veth.h>
#include <stdio.h>
#include <string.h>

#include "lab.h"

/* Linux's default. bbr, which some hosts have, loses a tenth when both directions are busy. */
#define CONGESTION "cubic"

struct nl_sock *lab_socket_here(void)
{
	struct nl_sock *socket = nl_socket_alloc();

	if (socket && nl_connect(socket, NETLINK_ROUTE) < 0) {
		nl_socket_free(socket);
		return NULL;
	}
	return socket;
}

struct nl_sock *lab_socket(int fd)
{
	struct nl_sock *socket;
	int home;

	if (!lab_enter(fd, &home))
		return NULL;
	socket = lab_socket_here();
	lab_leave(home);
	return socket;
}

void lab_socket_close(struct nl_sock *socket)
{
	nl_socket_free(socket);
}

const char *lab_link_error(int error)
{
	return nl_geterror(error);
}

static int index_of(struct nl_sock *socket, const char *name, int *index)
{
	struct rtnl_link *link = NULL;
	int error = rtnl_link_get_kernel(socket, 0, name, &link);

	if (error < 0)
		return error;
	*index = rtnl_link_get_ifindex(link);
	rtnl_link_put(link);
	return 0;
}

/* Makes a device, in the namespace of the socket unless it says otherwise; frees it. */
static int add(struct nl_sock *socket, struct rtnl_link *link)
{
	int error = rtnl_link_add(socket, link, NLM_F_CREATE | NLM_F_EXCL);

	rtnl_link_put(link);
	return error;
}

/* Changes what `changes` has; frees it. */
static int change(struct nl_sock *socket, const char *name, struct rtnl_link *changes)
{
	struct rtnl_link *link = NULL;
	int error = rtnl_link_get_kernel(socket, 0, name, &link);

	if (error == 0)
		error = rtnl_link_change(socket, link, changes, 0);
	rtnl_link_put(link);
	rtnl_link_put(changes);
	return error;
}

int lab_link_bridge(struct nl_sock *socket, const char *name)
{
	struct rtnl_link *link = rtnl_link_alloc();
	int error;

	if (!link)
		return -NLE_NOMEM;
	error = rtnl_link_set_type(link, "bridge");
	if (error < 0) {
		rtnl_link_put(link);
		return error;
	}
	rtnl_link_set_name(link, name);
	error = add(socket, link);
	return error == 0 ? lab_link_up(socket, name) : error;
}

int lab_link_up(struct nl_sock *socket, const char *name)
{
	struct rtnl_link *changes = rtnl_link_alloc();

	if (!changes)
		return -NLE_NOMEM;
	rtnl_link_set_flags(changes, IFF_UP);
	return change(socket, name, changes);
}

int lab_link_set_alias(struct nl_sock *socket, const char *name, const char *alias)
{
	struct rtnl_link *changes = rtnl_link_alloc();

	if (!changes)
		return -NLE_NOMEM;
	rtnl_link_set_ifalias(changes, alias);
	return change(socket, name, changes);
}

bool lab_link_alias(struct nl_sock *socket, const char *name, char *out, size_t bytes)
{
	struct rtnl_link *link = NULL;
	const char *alias = NULL;

	if (rtnl_link_get_kernel(socket, 0, name, &link) == 0)
		alias = rtnl_link_get_ifalias(link);
	if (alias)
		snprintf(out, bytes, "%s", alias);
	rtnl_link_put(link);
	return alias != NULL;
}

int lab_link_delete(struct nl_sock *socket, const char *name)
{
	struct rtnl_link *link = NULL;
	int error = rtnl_link_get_kernel(socket, 0, name, &link);

	if (error == 0)
		error = rtnl_link_delete(socket, link);
	rtnl_link_put(link);
	return error;
}

int lab_link_address(struct nl_sock *socket, const char *name, uint32_t address, uint32_t bits)
{
	const uint32_t wire = htonl(address);
	struct rtnl_addr *entry = rtnl_addr_alloc();
	struct nl_addr *local = nl_addr_build(AF_INET, &wire, sizeof(wire));
	int index, error = index_of(socket, name, &index);

	if (!entry || !local)
		error = -NLE_NOMEM;
	if (error == 0) {
		nl_addr_set_prefixlen(local, (int)bits);
		rtnl_addr_set_ifindex(entry, index);
		error = rtnl_addr_set_local(entry, local);
	}
	if (error == 0)
		error = rtnl_addr_add(socket, entry, 0);
	nl_addr_put(local);
	rtnl_addr_put(entry);
	return error;
}

static int route_message(struct nl_msg *message, uint32_t address, uint32_t bits, int index)
{
	const uint32_t mask = bits ? ~UINT32_C(0) << (32 - bits) : 0;
	const uint32_t to = htonl(address & mask), from = htonl(address);
	const struct rtmsg route = {
		.rtm_family = AF_INET,
		.rtm_dst_len = (unsigned char)bits,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_KERNEL,
		.rtm_scope = RT_SCOPE_LINK,
		.rtm_type = RTN_UNICAST,
	};
	struct nlattr *metrics;

	if (nlmsg_append(message, (void *)&route, sizeof(route), NLMSG_ALIGNTO) < 0 ||
		nla_put(message, RTA_DST, sizeof(to), &to) < 0 ||
		nla_put(message, RTA_PREFSRC, sizeof(from), &from) < 0 ||
		nla_put_u32(message, RTA_OIF, (uint32_t)index) < 0)
		return -NLE_NOMEM;
	metrics = nla_nest_start(message, RTA_METRICS);
	if (!metrics || nla_put_string(message, RTAX_CC_ALGO, CONGESTION) < 0)
		return -NLE_NOMEM;
	nla_nest_end(message, metrics);
	return 0;
}

int lab_link_route(struct nl_sock *socket, const char *name, uint32_t address, uint32_t bits)
{
	struct nl_msg *message = nlmsg_alloc_simple(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
	int index, error = index_of(socket, name, &index);

	if (!message)
		return -NLE_NOMEM;
	if (error == 0)
		error = route_message(message, address, bits, index);
	if (error < 0) {
		nlmsg_free(message);
		return error;
	}
	return nl_send_sync(socket, message);
}

/* master 0: none; fd -1: both ends are where the socket is. */
static int add_pair(struct nl_sock *socket, const char *name, int master, const char *other, int fd)
{
	struct rtnl_link *link = rtnl_link_veth_alloc(), *peer;

	if (!link)
		return -NLE_NOMEM;
	rtnl_link_set_name(link, name);
	if (master)
		rtnl_link_set_master(link, master);
	peer = rtnl_link_veth_get_peer(link);
	rtnl_link_set_name(peer, other);
	if (fd >= 0)
		rtnl_link_set_ns_fd(peer, fd);
	rtnl_link_put(peer);
	return add(socket, link);
}

int lab_link_pair(struct nl_sock *socket, const char *name, const char *other)
{
	int error = add_pair(socket, name, 0, other, -1);

	if (error == 0)
		error = lab_link_up(socket, name);
	return error == 0 ? lab_link_up(socket, other) : error;
}

int lab_link_veth(struct nl_sock *hub, const char *port, const char *bridge, int fd)
{
	int master, error = index_of(hub, bridge, &master);

	if (error == 0)
		error = add_pair(hub, port, master, LAB_INTERFACE, fd);
	return error == 0 ? lab_link_up(hub, port) : error;
}

int lab_link_macvlan(struct nl_sock *hub, const char *parent, int fd)
{
	struct rtnl_link *link;
	int lower, error = index_of(hub, parent, &lower);

	if (error < 0)
		return error;
	link = rtnl_link_macvlan_alloc();
	if (!link)
		return -NLE_NOMEM;
	rtnl_link_set_name(link, LAB_INTERFACE);
	rtnl_link_set_link(link, lower);
	rtnl_link_set_ns_fd(link, fd);
	error = rtnl_link_macvlan_set_mode(link, MACVLAN_MODE_BRIDGE);
	if (error < 0) {
		rtnl_link_put(link);
		return error;
	}
	return add(hub, link);
}
