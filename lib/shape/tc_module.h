/*
 * Between the library and psgd-tc.so. The module imports nothing from the library, knows nothing of
 * owners, and decides nothing: what shall be on an interface is a plan, worked out by the library.
 */
#ifndef PSGD_SHAPE_TC_MODULE_H
#define PSGD_SHAPE_TC_MODULE_H

#include <psgd/tc.h>

/* The one exported function; the number changes with the structs here. */
#define PSGD__TC_ENTRY psgd_tc_module_1
#define PSGD__TC_ENTRY_NAME "psgd_tc_module_1"

/* Handles, of an interface and of its psgdN alike. Classes and leaves are below PSGD_TC_HANDLE. */
#define PSGD__TC_SHAPED 0x10u
#define PSGD__TC_UNSHAPED 0x20u
#define PSGD__TC_SHAPED_LEAF 0x7074u
#define PSGD__TC_UNSHAPED_LEAF 0x7075u
/* Preferences of filters. The last one says whose an ingress qdisc is. */
#define PSGD__TC_PRIO_IPV4 1u
#define PSGD__TC_PRIO_IPV6 2u
#define PSGD__TC_PRIO_INGRESS 0x7073u

#define PSGD__TC_NAME_BYTES 16
#define PSGD__TC_MARK_BYTES 256

/* Of a class that has no limit: more than any network card, and a burst that it never uses up. */
#define PSGD__TC_NO_LIMIT_BPS UINT64_C(1000000000000)
#define PSGD__TC_NO_LIMIT_FIFO (16u << 20)
/* Of both classes, which never share: a packet at most, as segmentation offload makes them. */
#define PSGD__TC_QUANTUM 65536u

/* The class :10 of one root qdisc. */
struct psgd__tc_side {
	uint64_t rate_bps; /* 0: there is no such qdisc */
	uint64_t burst_bytes;
	uint64_t fifo_bytes; /* of the fifo under it; 0: netem is there */
};

struct psgd__tc_netem {
	int64_t delay_ns;
	int64_t jitter_ns;
	uint32_t loss_ppm;
	uint32_t packets; /* that it holds; 0: there is none */
};

/* What shall be on an interface. `in` has a rate: an ingress limit. */
struct psgd__tc_plan {
	size_t size;
	struct psgd__tc_side out, in;
	struct psgd__tc_netem netem; /* under `out` */
	uint64_t free_burst_bytes;   /* of the class without a limit */
	const uint16_t *ports;
	size_t n_ports;
	const char *mark;
};

/* What is there. */
struct psgd__tc_found {
	size_t size;
	char name[PSGD__TC_NAME_BYTES]; /* "": the interface is gone, and left its psgdN */
	uint32_t index;			/* of the interface */
	uint32_t mark_index;		/* of psgdN; 0: there is none */
	char mark[PSGD__TC_MARK_BYTES]; /* the alias of psgdN, "" if it has none */
	char other[64];			/* somebody else's qdisc, in words */
	struct psgd__tc_side out, in;
	struct psgd__tc_netem netem;
	uint64_t tx_bytes, rx_bytes, shaped_bytes, shaped_drops;
	uint8_t root, ingress; /* psgd's */
	uint8_t foreign;       /* somebody else's root or ingress qdisc */
	uint8_t reserved[5];
};

/*
 * All act in the network namespace of the calling thread. Failures leave a text in reason. What is
 * missing in the kernel, or the right to, is UNSUPPORTED; what came in between is STATE.
 */
struct psgd__tc_module {
	size_t size;
	/* One interface. IO: there is none of this name. */
	psgd_status (*look)(
		const char *name, struct psgd__tc_found *found, char *reason, size_t bytes);
	/* All that psgd shapes. The caller frees *found by `release`. */
	psgd_status (*list)(struct psgd__tc_found **found, size_t *n, char *reason, size_t bytes);
	void (*release)(struct psgd__tc_found *found);
	/* Is this process allowed to change an interface? Changes nothing. */
	psgd_status (*may)(const struct psgd__tc_found *at, char *reason, size_t bytes);
	/* On an interface without anything of psgd's: all or nothing. */
	psgd_status (*apply)(const struct psgd__tc_found *at, const struct psgd__tc_plan *plan,
		char *reason, size_t bytes);
	/* Rates, fifos and netem that are there, all or none; no other part of the plan. */
	psgd_status (*change)(const struct psgd__tc_found *at, const struct psgd__tc_plan *plan,
		char *reason, size_t bytes);
	psgd_status (*clear)(const struct psgd__tc_found *at, char *reason, size_t bytes);
	/* The interface that leads to an address of `length` bytes, 4 or 16, or that has it. */
	psgd_status (*route)(const void *address, size_t length, char name[PSGD__TC_NAME_BYTES],
		char *reason, size_t bytes);
};

typedef const struct psgd__tc_module *(*psgd__tc_entry)(void);

#endif
