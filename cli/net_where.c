/* The interface that leads to the other nodes of a run. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "net_limits.h"

static bool is_loopback_address(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;

		return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	}
	return address->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(
		       &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

/* The first address of a host, as numbers. */
static bool numeric_address(const char *host, char *out, size_t bytes, bool *loopback)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	bool found;

	if (getaddrinfo(host, NULL, &hints, &list) != 0)
		return false;
	*loopback = is_loopback_address(list->ai_addr);
	found = getnameinfo(list->ai_addr, list->ai_addrlen, out, (socklen_t)bytes, NULL, 0,
			NI_NUMERICHOST) == 0;
	freeaddrinfo(list);
	return found;
}

static bool is_loopback_interface(const char *name)
{
	struct ifaddrs *list = NULL;
	bool loopback = false;

	if (getifaddrs(&list) != 0)
		return false;
	for (const struct ifaddrs *a = list; a && !loopback; a = a->ifa_next)
		loopback = (a->ifa_flags & IFF_LOOPBACK) && strcmp(a->ifa_name, name) == 0;
	freeifaddrs(list);
	return loopback;
}

/* The interface that the configuration names; NULL: none. */
static const char *named_interface(const struct psgd_config *config)
{
	if (strcmp(config->network_limits.interface, "auto") != 0)
		return config->network_limits.interface;
	return config->communication.interface;
}

/* By which word the user has named an interface. */
static const char *key_of(
	const struct psgd_config *config, const char *interface, const char *ifname)
{
	if (strcmp(config->network_limits.interface, interface) == 0)
		return "network_limits.interface";
	return ifname ? "--ifname" : "communication.interface";
}

int cli_check_interface(const struct psgd_config *config, const char *ifname)
{
	const char *used = config->communication.interface;

	return !used || cli_tc_interface_exists(key_of(config, used, ifname), used) ? CLI_OK
										    : CLI_USAGE;
}

psgd_status cli_limits_interface(const struct psgd_config *config, const char *ifname,
	const struct psgd_launch *launch, char name[16], const char **unfit, char *error,
	size_t bytes)
{
	const char *named = named_interface(config);
	char address[NI_MAXHOST], found[16] = "";
	bool loopback = false;
	psgd_status status = PSGD_OK;

	*name = '\0';
	if (named && !if_nametoindex(named)) {
		snprintf(error, bytes, "%s: there is no network interface '%s' here",
			key_of(config, named, ifname), named);
		return PSGD_ERR_CONFIG;
	}
	if (named) {
		snprintf(found, sizeof(found), "%s", named);
	} else if (!numeric_address(launch->master_addr, address, sizeof(address), &loopback)) {
		snprintf(error, bytes, "%s: no such host", launch->master_addr);
		return PSGD_ERR_UNSUPPORTED;
	} else if (!loopback) {
		const char *module_dir = cli_tc_options(NULL, error, bytes).module_dir;

		status = psgd_tc_interface_to(address, module_dir, found, error, bytes);
	}
	if (status == PSGD_OK && (loopback || is_loopback_interface(found)))
		*unfit = "the loopback leads to no other node";
	else if (status == PSGD_OK)
		snprintf(name, sizeof(found), "%s", found);
	return status;
}
