/* The parts of `psgd lab`. SPDX-License-Identifier: MIT */
#ifndef CLI_LAB_H
#define CLI_LAB_H

#include <netinet/in.h>

#include <psgd/shaper.h>

#include "cli.h"

#define LAB_FOLDER "/run/netns" /* where `ip netns` has its namespaces */
#define LAB_NAME_BYTES 33
#define LAB_FILE_BYTES 48 /* NAME12, NAME-hub */
#define LAB_MAX_NODES 64
#define LAB_HUB (-1)
#define LAB_INTERFACE "eth0"
#define LAB_PORT 29500 /* of the rendezvous of a run; not limited */

/* A lab that is to be. */
struct lab_plan {
	const char *name;
	uint32_t n;
	uint32_t range, bits; /* 10.77.0.0/24, in host order */
	bool macvlan;
	bool kept;    /* until it is taken down; false: for one run */
	bool limited; /* by link, on each node */
	struct psgd_link link;
};

/*
 * What says that a namespace is a lab's: the alias of its lo, set before anybody can see the
 * namespace. A file that no namespace is mounted on yet is known by its name and mode.
 */
struct lab_mark {
	char name[LAB_NAME_BYTES]; /* of the lab */
	int number;		   /* of the node; LAB_HUB */
	uint32_t n;		   /* of a hub: nodes of the lab */
	bool kept, built;	   /* of a hub */
};

struct lab_space {
	char file[LAB_FILE_BYTES]; /* in LAB_FOLDER; the name of the node */
	struct lab_mark mark;
	int fd; /* of the namespace; -1: nothing is mounted there */
	dev_t device;
	ino_t inode;
};

/* Labs with their namespaces, by name and number; a hub comes before its nodes. */
struct lab {
	struct lab_space *spaces;
	size_t n;
};

/* ---- lab_lock.c ---- */

/* What all of this needs. Complains and returns an exit code. */
int lab_check_rights(void);

/*
 * One process makes or removes labs. `make' makes LAB_FOLDER as `ip netns' does; without it there
 * is nothing to lock. Complains and returns an exit code; *lock is to be closed, -1: it is not.
 */
int lab_lock(bool make, int *lock);

/* Under the lock: a lab that was begun, or of a run, by a process that is gone. */
bool lab_is_left_over(const struct lab *lab);

/* A run takes the lab for itself, as long as its hub is open; false: another has it. */
bool lab_hold(const struct lab_space *hub);

/* ---- lab_space.c ---- */

/* The lab of that name, or all of them; without any it is empty. Complains; freed by lab_free. */
int lab_find(const char *name, struct lab *out);
void lab_free(struct lab *lab);

/* The hub of the first lab, NULL if it has none; and a node by the name of its file. */
const struct lab_space *lab_hub(const struct lab *lab);
const struct lab_space *lab_node(const struct lab *lab, const char *file);

/* How many of the namespaces are nodes. */
uint32_t lab_count_nodes(const struct lab *lab);

/* "lab0" and "lab-hub". */
void lab_file(const char *name, int number, char out[LAB_FILE_BYTES]);

/* A namespace with lo up and the mark. Complains and returns an exit code; *fd is its file. */
int lab_space_make(const struct lab_mark *mark, int *fd);
bool lab_space_remove(const struct lab_space *space);

/* Another mark for a namespace that is open. */
bool lab_space_mark(int fd, const struct lab_mark *mark);

/* Into a namespace and back: *home is how. */
bool lab_enter(int fd, int *home);
void lab_leave(int home);

/* Address and prefix of eth0 in a namespace; false: it has none. */
bool lab_address(const struct lab_space *space, struct in_addr *out, unsigned *bits);

/* ---- lab_link.c: devices, by a socket of the namespace they are in ---- */

struct nl_sock;

/* Of the namespace that this process is in; NULL: none. Freed by lab_socket_close. */
struct nl_sock *lab_socket_here(void);
struct nl_sock *lab_socket(int fd);
void lab_socket_close(struct nl_sock *socket);

/* 0, or a number for lab_link_error. */
int lab_link_bridge(struct nl_sock *socket, const char *name);
int lab_link_pair(struct nl_sock *socket, const char *name, const char *other);
int lab_link_up(struct nl_sock *socket, const char *name);
int lab_link_delete(struct nl_sock *socket, const char *name);
int lab_link_address(struct nl_sock *socket, const char *name, uint32_t address, uint32_t bits);
/* TCP to the address's neighbours by one congestion control, whatever the host's is. */
int lab_link_route(struct nl_sock *socket, const char *name, uint32_t address, uint32_t bits);

/* eth0 of a namespace, and its other end at a bridge, or its parent, where the socket is. */
int lab_link_veth(struct nl_sock *hub, const char *port, const char *bridge, int fd);
int lab_link_macvlan(struct nl_sock *hub, const char *parent, int fd);

int lab_link_set_alias(struct nl_sock *socket, const char *name, const char *alias);
bool lab_link_alias(struct nl_sock *socket, const char *name, char *out, size_t bytes);

const char *lab_link_error(int error);

/* ---- lab_process.c ---- */

typedef void (*lab_visit)(void *user, const struct lab_space *space, pid_t pid);

/* The processes in the namespaces of a lab, without this one. */
void lab_processes(const struct lab *lab, lab_visit visit, void *user);

/* Ends all of them; false: some are still there. *n: how many there were. */
bool lab_end_processes(const struct lab *lab, size_t *n);

/* Becomes the command in a namespace; comes back with an exit code, having complained. */
int lab_become(const struct lab_space *space, char **command);

/* ---- lab_up.c ---- */

/* Under the lock. They complain and return an exit code; what up does not finish it removes. */
int lab_up(const struct lab_plan *plan);

/* *n namespaces removed, *ended processes ended; also what is left of a lab. */
int lab_down(const char *name, size_t *n, size_t *ended);

/* ---- lab_status.c ---- */

int lab_status(const char *name, bool json);

#endif
