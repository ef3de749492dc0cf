/* What is on an interface: dumps of qdiscs, classes and filters. */
#include <linux/gen_stats.h>
#include <linux/pkt_sched.h>
#include <string.h>

#include "base/base.h"
#include "shape/tc_module_impl.h"

#define TRIES 8 /* of a dump that changes while it is read */

typedef unsigned __int128 wide;

/* One object of a dump. Attributes are looked for as they are needed. */
struct object {
	const struct tcmsg *head;
	struct nlattr *attributes;
	int length;
	const char *kind;
};

static struct nlattr *attribute(const struct object *o, int type)
{
	return nla_find(o->attributes, o->length, type);
}

static struct nlattr *within(struct nlattr *nest, int type)
{
	return nest ? nla_find(nla_data(nest), nla_len(nest), type) : NULL;
}

/* False when the attribute is missing or too short. */
static bool take(struct nlattr *from, void *to, size_t bytes)
{
	if (!from || (size_t)nla_len(from) < bytes)
		return false;
	memcpy(to, nla_data(from), bytes);
	return true;
}

struct dump {
	void (*see)(struct dump *dump, const struct object *object);
	struct psgd__tc_found *found;
	char ingress[16]; /* the kind of the ingress qdisc, "" when there is none */
};

static int on_object(struct nl_msg *message, void *user)
{
	struct nlmsghdr *header = nlmsg_hdr(message);
	struct dump *dump = user;
	struct object o = {0};
	struct nlattr *kind;

	if (!nlmsg_valid_hdr(header, sizeof(struct tcmsg)))
		return NL_SKIP;
	o.head = nlmsg_data(header);
	o.attributes = nlmsg_attrdata(header, sizeof(struct tcmsg));
	o.length = nlmsg_attrlen(header, sizeof(struct tcmsg));
	kind = attribute(&o, TCA_KIND);
	o.kind = kind ? nla_get_string(kind) : "";
	dump->see(dump, &o);
	return NL_OK;
}

/* All objects of a type. What `see` finds in a dump that is begun again, it finds again. */
static psgd_status dump_all(
	struct psgd__tc_net *net, int type, uint32_t index, uint32_t parent, struct dump *dump)
{
	struct tcmsg head = {
		.tcm_family = AF_UNSPEC, .tcm_ifindex = (int)index, .tcm_parent = parent};
	int code = 0;

	nl_socket_modify_cb(net->socket, NL_CB_VALID, NL_CB_CUSTOM, on_object, dump);
	for (int i = 0; i < TRIES; i++) {
		net->error = 0;
		net->words[0] = '\0';
		code = nl_send_simple(net->socket, type, NLM_F_DUMP, &head, sizeof(head));
		if (code >= 0)
			code = nl_recvmsgs_default(net->socket);
		if (code != -NLE_DUMP_INTR)
			break;
	}
	nl_socket_modify_cb(net->socket, NL_CB_VALID, NL_CB_DEFAULT, NULL, NULL);
	return code < 0 ? psgd__tc_refused(net, code, NULL, "look at", dump->found->name) : PSGD_OK;
}

/* Nearest, so that a burst is read as it was said, as far as ticks can tell. */
static uint64_t bytes_of(uint32_t ticks, uint64_t rate_bps)
{
	const wide unit = (wide)PSGD__TC_NS_PER_S * 8;

	return (uint64_t)(((wide)ticks * PSGD__TC_TICK_NS * rate_bps + unit / 2) / unit);
}

static void see_netem(struct psgd__tc_netem *netem, struct nlattr *options)
{
	struct tc_netem_qopt q;
	struct nlattr *rest;
	int length;

	if (!take(options, &q, sizeof(q)))
		return;
	/* Attributes follow the struct, whose length is a multiple of their alignment. */
	rest = (struct nlattr *)(void *)((char *)nla_data(options) + sizeof(q));
	length = nla_len(options) - (int)sizeof(q);
	netem->packets = q.limit;
	netem->loss_ppm = (uint32_t)(((uint64_t)q.loss * 1000000 + UINT32_MAX / 2) / UINT32_MAX);
	if (!take(nla_find(rest, length, TCA_NETEM_LATENCY64), &netem->delay_ns,
		    sizeof(netem->delay_ns)))
		netem->delay_ns = (int64_t)q.latency * PSGD__TC_TICK_NS;
	if (!take(nla_find(rest, length, TCA_NETEM_JITTER64), &netem->jitter_ns,
		    sizeof(netem->jitter_ns)))
		netem->jitter_ns = (int64_t)q.jitter * PSGD__TC_TICK_NS;
}

static void see_leaf(
	struct psgd__tc_found *found, struct psgd__tc_side *side, const struct object *o)
{
	struct nlattr *options = attribute(o, TCA_OPTIONS);
	struct tc_fifo_qopt fifo;

	if (!strcmp(o->kind, "netem"))
		see_netem(&found->netem, options);
	else if (!strcmp(o->kind, "bfifo") && take(options, &fifo, sizeof(fifo)))
		side->fifo_bytes = fifo.limit;
}

static void is_foreign(struct psgd__tc_found *found, const char *kind, uint32_t handle)
{
	found->foreign = 1;
	snprintf(found->other, sizeof(found->other), "%.32s %x:", kind, handle >> 16);
}

static void see_qdisc(struct dump *dump, const struct object *o)
{
	struct psgd__tc_found *found = dump->found;
	const uint32_t index = (uint32_t)o->head->tcm_ifindex, handle = o->head->tcm_handle;
	const uint32_t parent = o->head->tcm_parent;
	const bool here = index == found->index, there = index == found->mark_index;
	const bool root = parent == TC_H_ROOT && TC_H_MAJ(handle);

	if (!here && !there)
		return;
	if (parent == (PSGD__TC_ROOT_HANDLE | PSGD__TC_SHAPED))
		see_leaf(found, here ? &found->out : &found->in, o);
	if (!here)
		return;
	if (handle == PSGD__TC_INGRESS_HANDLE)
		snprintf(dump->ingress, sizeof(dump->ingress), "%s", o->kind);
	else if (root && handle == PSGD__TC_ROOT_HANDLE && !strcmp(o->kind, "htb"))
		found->root = 1;
	else if (root)
		is_foreign(found, o->kind, handle);
}

static void see_side(struct psgd__tc_side *side, const struct object *o)
{
	struct nlattr *options = attribute(o, TCA_OPTIONS);
	struct tc_htb_opt htb;
	uint64_t rate;

	if (!take(within(options, TCA_HTB_PARMS), &htb, sizeof(htb)))
		return;
	if (!take(within(options, TCA_HTB_RATE64), &rate, sizeof(rate)))
		rate = htb.rate.rate;
	side->rate_bps = rate * 8;
	side->burst_bytes = bytes_of(htb.buffer, side->rate_bps);
}

static void see_class(struct dump *dump, const struct object *o)
{
	struct psgd__tc_found *found = dump->found;
	struct nlattr *counters = attribute(o, TCA_STATS2);
	struct gnet_stats_queue queue;
	uint64_t bytes;

	if (o->head->tcm_handle != (PSGD__TC_ROOT_HANDLE | PSGD__TC_SHAPED))
		return;
	if ((uint32_t)o->head->tcm_ifindex == found->mark_index) {
		see_side(&found->in, o);
		return;
	}
	see_side(&found->out, o);
	/* The bytes stand first, and the rest has had several lengths. */
	if (take(within(counters, TCA_STATS_BASIC), &bytes, sizeof(bytes)))
		found->shaped_bytes = bytes;
	if (take(within(counters, TCA_STATS_QUEUE), &queue, sizeof(queue)))
		found->shaped_drops = queue.drops;
}

static void see_filter(struct dump *dump, const struct object *o)
{
	if (TC_H_MAJ(o->head->tcm_info) == PSGD__TC_PRIO_INGRESS << 16 && !strcmp(o->kind, "u32"))
		dump->found->ingress = 1;
}

psgd_status psgd__tc_tree_find(struct psgd__tc_net *net, struct psgd__tc_found *found)
{
	struct dump qdiscs = {see_qdisc, found, ""}, classes = {see_class, found, ""},
		    filters = {see_filter, found, ""};

	PSGD__TRY(dump_all(net, RTM_GETQDISC, 0, 0, &qdiscs));
	if (found->root)
		PSGD__TRY(dump_all(net, RTM_GETTCLASS, found->index, 0, &classes));
	if (found->mark_index)
		PSGD__TRY(dump_all(net, RTM_GETTCLASS, found->mark_index, 0, &classes));
	if (!strcmp(qdiscs.ingress, "ingress"))
		PSGD__TRY(dump_all(
			net, RTM_GETTFILTER, found->index, PSGD__TC_INGRESS_HANDLE, &filters));
	if (qdiscs.ingress[0] && !found->ingress)
		is_foreign(found, qdiscs.ingress, PSGD__TC_INGRESS_HANDLE);
	return PSGD_OK;
}
