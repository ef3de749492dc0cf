/* Shaping an interface by the kernel's traffic control. SPDX-License-Identifier: MIT */
#ifndef PSGD_TC_H
#define PSGD_TC_H

#include <psgd/shaper.h>

PSGD_BEGIN

/*
 * What psgd puts on an interface:
 * - a root qdisc htb with the handle 7073:, whose class :10 (the default) has the rate
 *   link.egress_bps and the stated burst, and whose class :20, for the unshaped ports, has none;
 * - under :10 netem, if the link has a delay, jitter or losses, else a fifo of bytes;
 * - a device psgdN of type ifb, N being the number of the interface; its alias says who owns this;
 * - with an ingress limit, the same classes on psgdN, and on the interface an ingress qdisc, whose
 *   one filter sends all that arrives through psgdN.
 * A root or ingress qdisc of anybody else's is never touched: that is STATE. The default qdisc of
 * the system is nobody's.
 *
 * A rate is of whole Ethernet frames, without preamble. The kernel passes a packet whole once its
 * class owes nothing, and with segmentation offload a packet is up to 64 KiB of frames: by so much
 * what follows a rest may be early, beside the burst; rates over longer times are exact. Jitter and
 * losses are netem's: of packets, too, and jitter lets them overtake each other.
 *
 * All of this is done by the module psgd-tc.so over netlink. Without it, or without the right to
 * (CAP_NET_ADMIN) or something of the kernel (htb, netem, ifb, u32, mirred): UNSUPPORTED, and the
 * text says which. Each function is for any thread, one at a time for an interface.
 */
#define PSGD_TC_HANDLE 0x7073

struct psgd_tc_options {
	size_t size;
	const char *interface_name; /* letters, digits and _.-+@ */
	/* TCP ports whose messages are not limited, from or to them: rendezvous and control. */
	const uint16_t *unshaped_ports;
	size_t n_unshaped_ports;
	const char *module_dir; /* where psgd-tc.so is; NULL: beside the library */
	uint32_t owner_pid;	/* whose end makes this an orphan; 0: nobody's, it stays */
	uint32_t reserved;	/* 0 */
	char *error;		/* why it failed, in words; may be NULL */
	size_t error_bytes;
};

/*
 * Could psgd_tc_apply do it? Tries all of it in a network namespace of its own (which needs
 * CAP_SYS_ADMIN, and is left out without), and looks at the interface: nothing is changed. The
 * interface comes first, then the kernel: with UNSUPPORTED, a second call for a link without delay,
 * jitter and losses tells whether netem is all that is missing. Errors: as psgd_tc_apply.
 */
PSGD_API psgd_status psgd_tc_check(
	const struct psgd_tc_options *options, const struct psgd_link *link);

/*
 * Puts the link on the interface; what psgd has there is replaced, unless its owner is another
 * process and alive, or of another pid namespace, where that cannot be told. What is replaced goes
 * only after the try of psgd_tc_check. On failure everything is as it was before; or, where limits
 * stood and putting the new ones failed half-way, as without psgd, and the text says so.
 * Errors: INVALID (options, no such owner, a link without rate, delay or loss, all frames lost),
 * UNSUPPORTED, IO (no such interface, netlink), STATE (somebody else's qdisc or owner), NOMEM.
 */
PSGD_API psgd_status psgd_tc_apply(
	const struct psgd_tc_options *options, const struct psgd_link *link);

/*
 * Another link where psgd_tc_apply has been, by whomever: rates, delay and losses change in place,
 * and what waits in queues stays there. Owner and ports stay, too. A delay, loss or ingress limit
 * can change but neither come nor go. Errors: as psgd_tc_apply, STATE also when nothing of psgd's
 * is there.
 */
PSGD_API psgd_status psgd_tc_change(
	const struct psgd_tc_options *options, const struct psgd_link *link);

enum psgd_tc_owner {
	PSGD_TC_NOBODY = 0, /* owner_pid 0: it stays until it is cleared */
	PSGD_TC_ALIVE = 1,
	PSGD_TC_GONE = 2,   /* an orphan */
	PSGD_TC_UNKNOWN = 3 /* of another pid namespace, or the mark is missing */
};

/* What is on one interface. */
struct psgd_tc_state {
	size_t size;
	char interface_name[16];     /* psgdN, when the interface itself is gone */
	struct psgd_link link;	     /* as the kernel has it; seed 0 */
	uint64_t tx_bytes, rx_bytes; /* of the interface, since it exists */
	uint64_t shaped_bytes;	     /* that class :10 let out */
	uint64_t shaped_drops;	     /* packets that did not fit, or that netem lost */
	uint32_t owner_pid;
	uint32_t owner;		      /* enum psgd_tc_owner */
	uint8_t shaped;		      /* psgd has been here; 0: only the counters are filled */
	uint8_t foreign, reserved[6]; /* somebody else's root or ingress qdisc */
};

/*
 * What is on options->interface_name; NULL: on every interface that psgd shapes. Fills up to n, all
 * of the size that the first has, and *found is how many there are. Needs no right. Errors:
 * INVALID, IO, UNSUPPORTED, NOMEM.
 */
PSGD_API psgd_status psgd_tc_show(const struct psgd_tc_options *options,
	struct psgd_tc_state *states, size_t n, size_t *found);

/*
 * Removes all that psgd put on options->interface_name; NULL: on every interface. `orphans`: not 0
 * keeps what has an owner that is alive, unknown or nobody. *n_cleared (may be NULL) interfaces
 * were cleared; to find nothing is no error. One that cannot be cleared keeps no other from it; the
 * first is told. Errors: INVALID, IO, UNSUPPORTED, NOMEM.
 */
PSGD_API psgd_status psgd_tc_clear(
	const struct psgd_tc_options *options, int orphans, size_t *n_cleared);

/*
 * The commands of tc and ip that do what psgd_tc_apply does, one a line, each line ended. Pure: no
 * module, no kernel, hence nobody's. `index` is the number of the interface, the N of psgdN. tc
 * counts delays in units of 64 ns.
 * Errors: INVALID (as psgd_tc_apply, and a text of more than `bytes` bytes).
 */
PSGD_API psgd_status psgd_tc_commands(const struct psgd_tc_options *options,
	const struct psgd_link *link, uint32_t index, char *text, size_t bytes);

/*
 * The interface through which `address` (IPv4 or IPv6, as numbers) is reached; of an own address,
 * the one that has it. name[16]. module_dir, error as in the options. Errors: INVALID (not an
 * address), IO (no route), UNSUPPORTED.
 */
PSGD_API psgd_status psgd_tc_interface_to(const char *address, const char *module_dir,
	char name[16], char *error, size_t error_bytes);

/*
 * The burst of class :10 at a rate: link.burst_bytes, or when that is 0 two full frames and what
 * the rate carries in 100 us, which the kernel's timer can be late. Pure.
 */
PSGD_API uint64_t psgd_tc_burst(const struct psgd_link *link, uint64_t rate_bps);

PSGD_END
#endif
