/* Interfaces, psgdN, and the way to an address. */
#include <errno.h>
#include <inttypes.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <string.h>

#include <netlink/cache.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/route.h>

#include "shape/tc_module_impl.h"

#define MARK_TYPE "ifb"
#define PLAIN_TYPE "dummy"

static const struct psgd__tc_part ifb = {"ifb device", "ifb", "ingress_mbps"};

void psgd__tc_mark_name(uint32_t index, char name[PSGD__TC_NAME_BYTES])
{
	snprintf(name, PSGD__TC_NAME_BYTES, "psgd%" PRIu32, index);
}

/* Is this a psgdN, and of which interface? */
static bool is_mark(struct rtnl_link *link, uint32_t *index)
{
	const char *name = rtnl_link_get_name(link), *type = rtnl_link_get_type(link);
	char again[PSGD__TC_NAME_BYTES];

	if (!name || !type || (strcmp(type, MARK_TYPE) && strcmp(type, PLAIN_TYPE)) ||
		sscanf(name, "psgd%" SCNu32, index) != 1 || !*index)
		return false;
	psgd__tc_mark_name(*index, again);
	return !strcmp(name, again);
}

static psgd_status add_device(
	struct psgd__tc_net *net, const char *name, const char *type, const char *doing)
{
	struct rtnl_link *link = rtnl_link_alloc();
	struct nl_msg *message = NULL;

	if (link && !rtnl_link_set_type(link, type)) {
		rtnl_link_set_name(link, name);
		if (rtnl_link_build_add_request(link, NLM_F_CREATE | NLM_F_EXCL, &message))
			message = NULL;
	}
	rtnl_link_put(link);
	return psgd__tc_send(net, message, &ifb, doing, name);
}

static psgd_status set_up(
	struct psgd__tc_net *net, uint32_t index, const char *name, const char *alias)
{
	struct ifinfomsg info = {
		.ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	struct nl_msg *message = nlmsg_alloc_simple(RTM_SETLINK, 0);

	if (message && (nlmsg_append(message, &info, sizeof(info), NLMSG_ALIGNTO) ||
			       nla_put_string(message, IFLA_IFALIAS, alias))) {
		nlmsg_free(message);
		message = NULL;
	}
	return psgd__tc_send(net, message, NULL, "set up", name);
}

psgd_status psgd__tc_mark_add(struct psgd__tc_net *net, uint32_t index, const char *alias,
	bool plain, uint32_t *mark_index)
{
	struct psgd__tc_device mark;
	char name[PSGD__TC_NAME_BYTES];
	psgd_status status;

	psgd__tc_mark_name(index, name);
	status = add_device(net, name, MARK_TYPE, "add the device");
	/* As a mark alone, any device will do. */
	if (status == PSGD_ERR_UNSUPPORTED && net->error == EOPNOTSUPP && plain)
		status = add_device(net, name, PLAIN_TYPE, "add the device");
	if (status)
		return status;
	*mark_index = if_nametoindex(name);
	status = set_up(net, *mark_index, name, alias);
	if (!status)
		return PSGD_OK;
	mark = (struct psgd__tc_device){name, *mark_index};
	net->told = true;
	if (*mark_index)
		psgd__tc_link_delete(net, &mark);
	*mark_index = 0;
	return status;
}

psgd_status psgd__tc_link_delete(struct psgd__tc_net *net, const struct psgd__tc_device *device)
{
	struct rtnl_link *link = rtnl_link_alloc();
	struct nl_msg *message = NULL;
	psgd_status status;

	if (link) {
		rtnl_link_set_ifindex(link, (int)device->index);
		if (rtnl_link_build_delete_request(link, &message))
			message = NULL;
	}
	rtnl_link_put(link);
	status = psgd__tc_send(net, message, NULL, "delete", device->name);
	return net->error == ENODEV ? PSGD_OK : status;
}

static void fill_mark(struct psgd__tc_found *found, struct rtnl_link *link)
{
	const char *alias = rtnl_link_get_ifalias(link);

	found->mark_index = (uint32_t)rtnl_link_get_ifindex(link);
	snprintf(found->mark, sizeof(found->mark), "%s", alias ? alias : "");
}

static void fill_interface(struct psgd__tc_found *found, struct rtnl_link *link)
{
	found->index = (uint32_t)rtnl_link_get_ifindex(link);
	snprintf(found->name, sizeof(found->name), "%s", rtnl_link_get_name(link));
	found->tx_bytes = rtnl_link_get_stat(link, RTNL_LINK_TX_BYTES);
	found->rx_bytes = rtnl_link_get_stat(link, RTNL_LINK_RX_BYTES);
}

/* By index, or by name when that is 0; *link is NULL when there is none. */
static psgd_status get_link(
	struct psgd__tc_net *net, uint32_t index, const char *name, struct rtnl_link **link)
{
	int code;

	net->error = 0;
	net->words[0] = '\0';
	*link = NULL;
	code = rtnl_link_get_kernel(net->socket, (int)index, index ? NULL : name, link);
	/* libnl answers for its own request here: no errno. */
	if (code >= 0 || code == -NLE_NODEV || code == -NLE_OBJ_NOTFOUND)
		return PSGD_OK;
	*link = NULL;
	return psgd__tc_refused(net, code, NULL, "look at", name);
}

psgd_status psgd__tc_link_find(
	struct psgd__tc_net *net, const char *name, struct psgd__tc_found *found)
{
	struct rtnl_link *link, *other = NULL;
	char mark[PSGD__TC_NAME_BYTES];
	uint32_t index;
	psgd_status status = get_link(net, 0, name, &link);

	if (status)
		return status;
	if (!link) {
		psgd__tc_say(net, "no network interface named %s", name);
		return PSGD_ERR_IO;
	}
	*found = (struct psgd__tc_found){.size = sizeof(*found)};
	if (is_mark(link, &index)) { /* what is meant is its interface, if that is still there */
		fill_mark(found, link);
		found->index = index;
		status = get_link(net, index, name, &other);
		if (other)
			fill_interface(found, other);
	} else {
		fill_interface(found, link);
		psgd__tc_mark_name(found->index, mark);
		status = get_link(net, 0, mark, &other);
		if (other && is_mark(other, &index))
			fill_mark(found, other);
	}
	rtnl_link_put(other);
	rtnl_link_put(link);
	return status;
}

/* One entry for each interface, and for each psgdN whose interface is gone. */
static size_t fill_list(struct nl_cache *cache, struct psgd__tc_found *list)
{
	char mark[PSGD__TC_NAME_BYTES];
	size_t n = 0;

	for (struct nl_object *at = nl_cache_get_first(cache); at; at = nl_cache_get_next(at)) {
		struct rtnl_link *link = (struct rtnl_link *)at, *other;
		struct psgd__tc_found *found = &list[n];
		uint32_t index;

		*found = (struct psgd__tc_found){.size = sizeof(*found)};
		if (is_mark(link, &index)) {
			other = rtnl_link_get(cache, (int)index);
			if (!other) {
				found->index = index;
				fill_mark(found, link);
				n++;
			}
		} else {
			fill_interface(found, link);
			psgd__tc_mark_name(found->index, mark);
			other = rtnl_link_get_by_name(cache, mark);
			if (other && is_mark(other, &index))
				fill_mark(found, other);
			n++;
		}
		rtnl_link_put(other);
	}
	return n;
}

psgd_status psgd__tc_link_list(struct psgd__tc_net *net, struct psgd__tc_found **found, size_t *n)
{
	struct nl_cache *cache = NULL;
	int code;

	net->error = 0;
	net->words[0] = '\0';
	code = rtnl_link_alloc_cache(net->socket, AF_UNSPEC, &cache);
	if (code < 0)
		return psgd__tc_refused(net, code, NULL, "list", "the interfaces");
	*found = calloc((size_t)nl_cache_nitems(cache) + 1, sizeof(**found));
	if (*found)
		*n = fill_list(cache, *found);
	nl_cache_free(cache);
	return *found ? PSGD_OK : PSGD_ERR_NOMEM;
}

/* The interface that has an address; 0: none. */
static uint32_t holder_of(struct psgd__tc_net *net, struct nl_addr *address)
{
	struct nl_cache *cache = NULL;
	uint32_t index = 0;

	if (rtnl_addr_alloc_cache(net->socket, &cache) < 0)
		return 0;
	for (struct nl_object *at = nl_cache_get_first(cache); at && !index;
		at = nl_cache_get_next(at)) {
		struct rtnl_addr *one = (struct rtnl_addr *)at;
		struct nl_addr *local = rtnl_addr_get_local(one);

		/* All of nl_addr_cmp but the length of the prefix. */
		if (local && nl_addr_get_family(local) == nl_addr_get_family(address) &&
			nl_addr_get_len(local) == nl_addr_get_len(address) &&
			!memcmp(nl_addr_get_binary_addr(local), nl_addr_get_binary_addr(address),
				nl_addr_get_len(address)))
			index = (uint32_t)rtnl_addr_get_ifindex(one);
	}
	nl_cache_free(cache);
	return index;
}

psgd_status psgd__tc_link_to(
	struct psgd__tc_net *net, const void *bytes, size_t length, char name[PSGD__TC_NAME_BYTES])
{
	struct nl_addr *address = nl_addr_build(length == 4 ? AF_INET : AF_INET6, bytes, length);
	struct rtnl_route *route = NULL;
	char text[INET6_ADDRSTRLEN], found[IF_NAMESIZE];
	uint32_t index = 0;
	int code;

	if (!address)
		return PSGD_ERR_NOMEM;
	nl_addr2str(address, text, sizeof(text));
	net->error = 0;
	net->words[0] = '\0';
	code = rtnl_route_lookup(net->socket, address, &route);
	if (code >= 0 && rtnl_route_get_type(route) == RTN_LOCAL)
		index = holder_of(net, address);
	if (code >= 0 && !index && rtnl_route_get_nnexthops(route) > 0)
		index = (uint32_t)rtnl_route_nh_get_ifindex(rtnl_route_nexthop_n(route, 0));
	rtnl_route_put(route);
	nl_addr_put(address);
	if (code < 0 || !index || !if_indextoname(index, found)) {
		psgd__tc_say(net, "no route to %s%s%s", text, net->error ? ": " : "",
			net->error ? strerror(net->error) : "");
		return PSGD_ERR_IO;
	}
	snprintf(name, PSGD__TC_NAME_BYTES, "%s", found);
	return PSGD_OK;
}
