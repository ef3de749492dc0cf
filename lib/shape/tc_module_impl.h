/*
 * Between the files of the module psgd-tc.so. Sockets, messages, links and routes are libnl's.
 * Qdiscs, classes and filters are written here attribute by attribute: libnl's setters for them
 * count delays in microseconds and losses in percent, go through floating point, and turn times to
 * ticks by what /proc/net/psched said when the library was loaded, if it could be read at all. A
 * tick has been 64 ns in every kernel since 2.6.31.
 */
#ifndef PSGD_SHAPE_TC_MODULE_IMPL_H
#define PSGD_SHAPE_TC_MODULE_IMPL_H

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "shape/tc_module.h"

#define PSGD__TC_TICK_NS 64
#define PSGD__TC_NS_PER_S UINT64_C(1000000000)
#define PSGD__TC_INGRESS_HANDLE 0xffff0000u
#define PSGD__TC_ROOT_HANDLE ((uint32_t)PSGD_TC_HANDLE << 16)

/* A netlink socket, and what the kernel last said. */
struct psgd__tc_net {
	struct nl_sock *socket;
	int error;	 /* errno of the last refusal */
	char words[160]; /* the kernel's, "" if it had none */
	char *reason;	 /* the caller's */
	size_t bytes;
	bool told; /* the reason is there, and what goes wrong in undoing is not it */
};

/* A part of the kernel, for the day that it is missing. */
struct psgd__tc_part {
	const char *kind, *module, *needed_for;
};

void psgd__tc_say(struct psgd__tc_net *net, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

psgd_status psgd__tc_open(struct psgd__tc_net *net, char *reason, size_t bytes);
void psgd__tc_close(struct psgd__tc_net *net);

/* Sends and frees; NULL: there was no memory for it. `doing`: "set the root qdisc of". */
psgd_status psgd__tc_send(struct psgd__tc_net *net, struct nl_msg *message,
	const struct psgd__tc_part *part, const char *doing, const char *device);
/* The status of a refusal, put into words. `code`: a failure of libnl. */
psgd_status psgd__tc_refused(struct psgd__tc_net *net, int code, const struct psgd__tc_part *part,
	const char *doing, const char *device);

/* A device, as the functions below need it. */
struct psgd__tc_device {
	const char *name;
	uint32_t index;
};

/* Links. */
void psgd__tc_mark_name(uint32_t index, char name[PSGD__TC_NAME_BYTES]);
/* Adds psgdN with its alias, up. With `plain`, one that cannot take traffic does as well. */
psgd_status psgd__tc_mark_add(struct psgd__tc_net *net, uint32_t index, const char *alias,
	bool plain, uint32_t *mark_index);
psgd_status psgd__tc_link_delete(struct psgd__tc_net *net, const struct psgd__tc_device *device);
/* Name, indices, mark and counters. */
psgd_status psgd__tc_link_find(
	struct psgd__tc_net *net, const char *name, struct psgd__tc_found *found);
psgd_status psgd__tc_link_list(struct psgd__tc_net *net, struct psgd__tc_found **found, size_t *n);
psgd_status psgd__tc_link_to(struct psgd__tc_net *net, const void *address, size_t length,
	char name[PSGD__TC_NAME_BYTES]);

/* Qdiscs, classes, filters. */
psgd_status psgd__tc_tree_add(struct psgd__tc_net *net, const struct psgd__tc_device *device,
	const struct psgd__tc_plan *plan, const struct psgd__tc_side *side);
psgd_status psgd__tc_tree_change(struct psgd__tc_net *net, const struct psgd__tc_device *device,
	const struct psgd__tc_netem *netem, const struct psgd__tc_side *side);
psgd_status psgd__tc_redirect_add(
	struct psgd__tc_net *net, const struct psgd__tc_device *device, uint32_t to_index);
/* Nothing to delete is fine. */
psgd_status psgd__tc_root_delete(struct psgd__tc_net *net, const struct psgd__tc_device *device);
psgd_status psgd__tc_ingress_delete(struct psgd__tc_net *net, const struct psgd__tc_device *device);
/* Asks for the deletion of what does not exist, which only who may delete is told. */
psgd_status psgd__tc_right(struct psgd__tc_net *net, const struct psgd__tc_device *device);

/* What qdiscs, classes and filters are on the interface of `found` and its psgdN. */
psgd_status psgd__tc_tree_find(struct psgd__tc_net *net, struct psgd__tc_found *found);

#endif
