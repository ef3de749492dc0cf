/* Qdiscs, classes and filters: made, changed and removed. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/tc_act/tc_mirred.h>
#include <netinet/in.h>
#include <string.h>

#include "base/base.h"
#include "shape/tc_module_impl.h"

#define NEW (NLM_F_CREATE | NLM_F_EXCL)
#define MAX_KEYS 2

typedef unsigned __int128 wide;

static const struct psgd__tc_part htb = {"htb", "sch_htb", "any limit"},
				  netem = {"netem", "sch_netem",
					  "latency_ms, jitter_ms and loss_pct"},
				  fifo = {"bfifo", "sch_fifo", "any limit"},
				  ingress = {"ingress qdisc", "sch_ingress", "ingress_mbps"},
				  u32 = {"u32", "cls_u32",
					  "ports without a limit and ingress_mbps"},
				  mirred = {"mirred", "act_mirred", "ingress_mbps"};

static uint32_t class_of(uint32_t minor)
{
	return PSGD__TC_ROOT_HANDLE | minor;
}

/* A message about something on a device; NULL when there is no memory. */
static struct nl_msg *request(int type, int flags, const struct psgd__tc_device *device,
	uint32_t parent, uint32_t handle, uint32_t info, const char *kind)
{
	struct tcmsg head = {
		.tcm_family = AF_UNSPEC,
		.tcm_ifindex = (int)device->index,
		.tcm_handle = handle,
		.tcm_parent = parent,
		.tcm_info = info,
	};
	struct nl_msg *message = nlmsg_alloc_simple(type, flags);

	if (message && (nlmsg_append(message, &head, sizeof(head), NLMSG_ALIGNTO) ||
			       (kind && nla_put_string(message, TCA_KIND, kind)))) {
		nlmsg_free(message);
		return NULL;
	}
	return message;
}

/* NULL: there is no message, or no room in it. */
static struct nlattr *options_begin(struct nl_msg *message)
{
	return message ? nla_nest_start(message, TCA_OPTIONS) : NULL;
}

/* The message to be sent; if one of its attributes did not fit, none. */
static struct nl_msg *options_end(struct nl_msg *message, struct nlattr *options, int failed)
{
	if (message && !failed) {
		nla_nest_end(message, options);
		return message;
	}
	nlmsg_free(message);
	return NULL;
}

static psgd_status add_root(struct psgd__tc_net *net, const struct psgd__tc_device *device)
{
	const struct tc_htb_glob options = {
		.version = TC_HTB_PROTOVER, .rate2quantum = 10, .defcls = PSGD__TC_SHAPED};
	struct nl_msg *message =
		request(RTM_NEWQDISC, NEW, device, TC_H_ROOT, PSGD__TC_ROOT_HANDLE, 0, htb.kind);
	struct nlattr *nest = options_begin(message);
	int failed = !nest || nla_put(message, TCA_HTB_INIT, sizeof(options), &options);

	message = options_end(message, nest, failed);
	return psgd__tc_send(net, message, &htb, "set the root qdisc of", device->name);
}

/* What a burst takes at a rate, in ticks; the plan is within 32 bits of them. */
static uint32_t ticks_of(uint64_t bytes, uint64_t rate_bps)
{
	return (uint32_t)((wide)bytes * 8 * PSGD__TC_NS_PER_S / rate_bps / PSGD__TC_TICK_NS);
}

static psgd_status set_class(struct psgd__tc_net *net, int flags,
	const struct psgd__tc_device *device, uint32_t minor, uint64_t rate_bps, uint64_t burst)
{
	const uint64_t rate = rate_bps / 8;
	const uint32_t low = rate < UINT32_MAX ? (uint32_t)rate : UINT32_MAX;
	/* With the link layer said, the kernel does not ask for a table to guess it from. */
	const struct tc_ratespec spec = {.linklayer = TC_LINKLAYER_ETHERNET, .rate = low};
	const struct tc_htb_opt options = {
		.rate = spec,
		.ceil = spec,
		.buffer = ticks_of(burst, rate_bps),
		.cbuffer = ticks_of(burst, rate_bps),
		.quantum = PSGD__TC_QUANTUM,
	};
	struct nl_msg *message = request(
		RTM_NEWTCLASS, flags, device, PSGD__TC_ROOT_HANDLE, class_of(minor), 0, htb.kind);
	struct nlattr *nest = options_begin(message);
	int failed = !nest || nla_put(message, TCA_HTB_PARMS, sizeof(options), &options) ||
		     nla_put(message, TCA_HTB_RATE64, sizeof(rate), &rate) ||
		     nla_put(message, TCA_HTB_CEIL64, sizeof(rate), &rate);

	message = options_end(message, nest, failed);
	return psgd__tc_send(net, message, NULL, "set a class of", device->name);
}

static psgd_status set_fifo(struct psgd__tc_net *net, int flags,
	const struct psgd__tc_device *device, uint32_t minor, uint32_t handle, uint64_t bytes)
{
	const struct tc_fifo_qopt options = {.limit = (uint32_t)bytes};
	struct nl_msg *message =
		request(RTM_NEWQDISC, flags, device, class_of(minor), handle << 16, 0, fifo.kind);

	if (message && nla_put(message, TCA_OPTIONS, sizeof(options), &options)) {
		nlmsg_free(message);
		message = NULL;
	}
	return psgd__tc_send(net, message, flags ? &fifo : NULL, "set a fifo of", device->name);
}

/* In nanoseconds, which the kernel takes beside its ticks. */
static int put_ns(struct nl_msg *message, int type, int64_t ns)
{
	return nla_put(message, type, sizeof(ns), &ns);
}

static psgd_status set_netem(struct psgd__tc_net *net, int flags,
	const struct psgd__tc_device *device, const struct psgd__tc_netem *n)
{
	const struct tc_netem_qopt options = {
		.limit = n->packets,
		.loss = (uint32_t)(((uint64_t)n->loss_ppm * UINT32_MAX + 500000) / 1000000),
	};
	struct nl_msg *message = request(RTM_NEWQDISC, flags, device, class_of(PSGD__TC_SHAPED),
		PSGD__TC_SHAPED_LEAF << 16, 0, netem.kind);
	struct nlattr *nest = options_begin(message);
	/* The struct stands first in the options, and attributes follow it. */
	int failed = !nest ||
		     nlmsg_append(message, (void *)&options, sizeof(options), NLMSG_ALIGNTO) ||
		     put_ns(message, TCA_NETEM_LATENCY64, n->delay_ns) ||
		     put_ns(message, TCA_NETEM_JITTER64, n->jitter_ns);

	message = options_end(message, nest, failed);
	return psgd__tc_send(net, message, flags ? &netem : NULL, "set the delay of", device->name);
}

static psgd_status set_leaf(struct psgd__tc_net *net, int flags,
	const struct psgd__tc_device *device, const struct psgd__tc_netem *n,
	const struct psgd__tc_side *side)
{
	if (!side->fifo_bytes)
		return set_netem(net, flags, device, n);
	return set_fifo(
		net, flags, device, PSGD__TC_SHAPED, PSGD__TC_SHAPED_LEAF, side->fifo_bytes);
}

struct u32_keys {
	unsigned char n;
	struct tc_u32_key keys[MAX_KEYS];
};

/* Bytes from `offset` of the network header on, a multiple of 4. */
static void add_key(struct u32_keys *keys, int offset, uint32_t value, uint32_t mask)
{
	keys->keys[keys->n++] =
		(struct tc_u32_key){.val = htonl(value), .mask = htonl(mask), .off = offset};
}

/* What matches all of them is as the filter says, and no other one is asked. */
static int put_keys(struct nl_msg *message, const struct u32_keys *keys)
{
	const struct tc_u32_sel head = {.flags = TC_U32_TERMINAL, .nkeys = keys->n};
	const size_t bytes = keys->n * sizeof(keys->keys[0]);
	char selector[sizeof(head) + sizeof(keys->keys)];

	memcpy(selector, &head, sizeof(head));
	memcpy(selector + sizeof(head), keys->keys, bytes);
	return nla_put(message, TCA_U32_SEL, (int)(sizeof(head) + bytes), selector);
}

/* Ports stand behind the header of IP, which is taken to be without options. */
static psgd_status add_port(struct psgd__tc_net *net, const struct psgd__tc_device *device,
	bool ipv6, bool source, uint16_t port)
{
	const uint32_t to = class_of(PSGD__TC_UNSHAPED);
	const uint32_t prio = ipv6 ? PSGD__TC_PRIO_IPV6 : PSGD__TC_PRIO_IPV4;
	struct u32_keys keys = {0};
	struct nl_msg *message = request(RTM_NEWTFILTER, NEW, device, PSGD__TC_ROOT_HANDLE, 0,
		prio << 16 | htons(ipv6 ? ETH_P_IPV6 : ETH_P_IP), u32.kind);
	struct nlattr *nest = options_begin(message);
	int failed;

	if (ipv6)
		add_key(&keys, 4, (uint32_t)IPPROTO_TCP << 8, 0xff00);
	else
		add_key(&keys, 8, (uint32_t)IPPROTO_TCP << 16, 0xff0000);
	add_key(&keys, ipv6 ? 40 : 20, source ? (uint32_t)port << 16 : port,
		source ? 0xffff0000u : 0xffffu);
	failed = !nest || nla_put_u32(message, TCA_U32_CLASSID, to) || put_keys(message, &keys);
	message = options_end(message, nest, failed);
	return psgd__tc_send(net, message, &u32, "set a filter of", device->name);
}

psgd_status psgd__tc_tree_add(struct psgd__tc_net *net, const struct psgd__tc_device *device,
	const struct psgd__tc_plan *plan, const struct psgd__tc_side *side)
{
	PSGD__TRY(add_root(net, device));
	PSGD__TRY(set_class(net, NEW, device, PSGD__TC_SHAPED, side->rate_bps, side->burst_bytes));
	PSGD__TRY(set_class(net, NEW, device, PSGD__TC_UNSHAPED, PSGD__TC_NO_LIMIT_BPS,
		plan->free_burst_bytes));
	PSGD__TRY(set_leaf(net, NEW, device, &plan->netem, side));
	PSGD__TRY(set_fifo(net, NEW, device, PSGD__TC_UNSHAPED, PSGD__TC_UNSHAPED_LEAF,
		PSGD__TC_NO_LIMIT_FIFO));
	for (size_t i = 0; i < plan->n_ports; i++) {
		for (int ipv6 = 0; ipv6 < 2; ipv6++) {
			PSGD__TRY(add_port(net, device, ipv6, true, plan->ports[i]));
			PSGD__TRY(add_port(net, device, ipv6, false, plan->ports[i]));
		}
	}
	return PSGD_OK;
}

psgd_status psgd__tc_tree_change(struct psgd__tc_net *net, const struct psgd__tc_device *device,
	const struct psgd__tc_netem *n, const struct psgd__tc_side *side)
{
	/* Without NLM_F_CREATE both are only changed, and keep what waits in them. */
	PSGD__TRY(set_class(net, 0, device, PSGD__TC_SHAPED, side->rate_bps, side->burst_bytes));
	return set_leaf(net, 0, device, n, side);
}

/* The one action: off to psgdN. */
static int put_redirect(struct nl_msg *message, uint32_t to_index)
{
	const struct tc_mirred options = {
		.action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = to_index};
	struct nlattr *actions = nla_nest_start(message, TCA_U32_ACT), *first, *nest;

	first = actions ? nla_nest_start(message, 1) : NULL;
	if (!first || nla_put_string(message, TCA_ACT_KIND, mirred.kind))
		return -1;
	nest = nla_nest_start(message, TCA_ACT_OPTIONS);
	if (!nest || nla_put(message, TCA_MIRRED_PARMS, sizeof(options), &options))
		return -1;
	nla_nest_end(message, nest);
	nla_nest_end(message, first);
	nla_nest_end(message, actions);
	return 0;
}

static psgd_status add_redirect_filter(
	struct psgd__tc_net *net, const struct psgd__tc_device *device, uint32_t to_index)
{
	const char *doing = "set the ingress filter of";
	struct u32_keys all = {0};
	struct nl_msg *message = request(RTM_NEWTFILTER, NEW, device, PSGD__TC_INGRESS_HANDLE, 0,
		PSGD__TC_PRIO_INGRESS << 16 | htons(ETH_P_ALL), u32.kind);
	struct nlattr *nest = options_begin(message);
	psgd_status status;
	int failed;

	add_key(&all, 0, 0, 0);
	failed = !nest || put_keys(message, &all) || put_redirect(message, to_index);
	message = options_end(message, nest, failed);
	status = psgd__tc_send(net, message, &u32, doing, device->name);
	/* Only its words say which of the two the kernel lacks. */
	if (status == PSGD_ERR_UNSUPPORTED && strstr(net->words, "action"))
		status = psgd__tc_refused(net, 0, &mirred, doing, device->name);
	return status;
}

psgd_status psgd__tc_redirect_add(
	struct psgd__tc_net *net, const struct psgd__tc_device *device, uint32_t to_index)
{
	psgd_status status = psgd__tc_send(net,
		request(RTM_NEWQDISC, NEW, device, TC_H_INGRESS, PSGD__TC_INGRESS_HANDLE, 0,
			"ingress"),
		&ingress, "set the ingress qdisc of", device->name);

	if (status)
		return status;
	status = add_redirect_filter(net, device, to_index);
	if (status) {
		net->told = true;
		psgd__tc_ingress_delete(net, device);
	}
	return status;
}

static psgd_status delete_qdisc(struct psgd__tc_net *net, const struct psgd__tc_device *device,
	uint32_t parent, uint32_t handle)
{
	psgd_status status =
		psgd__tc_send(net, request(RTM_DELQDISC, 0, device, parent, handle, 0, NULL), NULL,
			"delete a qdisc of", device->name);

	return net->error == ENOENT || net->error == ENODEV ? PSGD_OK : status;
}

psgd_status psgd__tc_root_delete(struct psgd__tc_net *net, const struct psgd__tc_device *device)
{
	return delete_qdisc(net, device, TC_H_ROOT, PSGD__TC_ROOT_HANDLE);
}

psgd_status psgd__tc_ingress_delete(struct psgd__tc_net *net, const struct psgd__tc_device *device)
{
	return delete_qdisc(net, device, TC_H_INGRESS, PSGD__TC_INGRESS_HANDLE);
}

psgd_status psgd__tc_right(struct psgd__tc_net *net, const struct psgd__tc_device *device)
{
	psgd_status status =
		psgd__tc_send(net, request(RTM_DELQDISC, 0, device, class_of(0xffff), 0, 0, NULL),
			NULL, "shape", device->name);

	return net->error == EPERM || net->error == EACCES ? status : PSGD_OK;
}
