/* The parts of `psgd batch`. SPDX-License-Identifier: MIT */
#ifndef CLI_BATCH_H
#define CLI_BATCH_H

#include "cli.h"

#define BATCH_MAX_ITEMS 4096
#define BATCH_HASH_BYTES 17
#define BATCH_STAMP_BYTES 96

/* ---- batch_grid.c ---- */

/* A key with the values that it takes, one after the other. */
struct batch_axis {
	char *key;
	struct cli_strings values;
	bool varies; /* written as [a,b] or 0:3, so that a name tells the value */
};

/*
 * "key=[a,b]", "key=0:3" (end excluded), or "key=value". On failure false, error is one line and
 * out is empty.
 */
bool batch_axis_parse(const char *text, struct batch_axis *out, char *error, size_t error_bytes);
void batch_axis_free(struct batch_axis *axis);

/* "_r4", "_seed0": what a value adds to a name; only characters that folders may have. */
void batch_suffix(const struct batch_axis *axis, const char *value, char *out, size_t bytes);

/* ---- batch_items.c ---- */

/* One experiment of a campaign. */
struct batch_item {
	char *file;		      /* its configuration */
	char *name;		      /* of its folder, if the configuration names none */
	char *save_dir;		      /* NULL: results/<date>/<name> */
	struct cli_strings overrides; /* for psgd run; without save_dir */
	char hash[BATCH_HASH_BYTES];  /* of what must be alike on all nodes */
	char events[BATCH_STAMP_BYTES], checkpoints[BATCH_STAMP_BYTES]; /* of batch_item_remember */
	int code;     /* of the last try in this campaign; -1: none */
	bool skipped; /* it was finished before */
};

struct batch_list {
	struct batch_item *items;
	size_t n;
};

void batch_item_free(struct batch_item *item);

/*
 * What is a list file, a folder, or a configuration; overrides hold for all items and may be
 * grids. Complains and returns an exit code; out is ended by batch_list_free in any case.
 */
int batch_list_read(const char *what, const struct cli_strings *overrides, struct batch_list *out);
void batch_list_free(struct batch_list *list);

/* The item of that index, name, or file (also a bare one); SIZE_MAX: none. */
size_t batch_list_find(const struct batch_list *list, const char *text);

/* ---- batch_expand.c ---- */

/* A configuration, and where it is named. */
struct batch_source {
	const char *file;
	char where[PATH_MAX + 32]; /* "list:3: ", or "" */
	struct batch_axis *axes;
	size_t n_axes;
};

/*
 * Adds the items of a configuration: every point of the grid that its own overrides and those for
 * all items make. Complains and returns an exit code.
 */
int batch_add(struct batch_list *list, struct batch_source *source, const struct cli_strings *own,
	const struct cli_strings *overrides);

/* ---- batch_table.c ---- */

/* The folder of an item of the campaign of that date. */
void batch_item_dir(const struct batch_item *item, const char *date, char *out, size_t bytes);

/* Today; with look, the last date under which an item of the list has a folder, if one has. */
void batch_date(const struct batch_list *list, bool look, char out[16]);

/* "new", "begun", "finished", "failed": what the folder says. */
void batch_item_state(const struct batch_item *item, const char *date, char *out, size_t bytes);

/* What is in the item's folder before this campaign's first try. */
void batch_item_remember(struct batch_item *item, const char *date);

/* Since then a run has begun there; it has taken the checkpoints for its own. */
bool batch_item_began(const struct batch_item *item, const char *date);
bool batch_item_saved(const struct batch_item *item, const char *date);

/* base 0: each run takes a free port. */
void batch_print_list(const struct batch_list *list, const char *date, uint32_t base);

/* The results of all items as text; freed by free(). */
char *batch_results(const struct batch_list *list, const char *date);

/* ---- batch_process.c ---- */

/*
 * Runs this program with those arguments and waits for it. Signals that ask this process to end
 * are handed on, and *signal is the first of them, else 0. Returns the exit code; a program that
 * was killed counts as failed.
 */
int batch_process(char **arguments, int *signal);

/* Nobody listens at this address; true also when that cannot be told. */
bool batch_port_is_free(const struct psgd_launch *launch, uint32_t port);

/* ---- batch_meet.c ---- */

/* One node of a campaign: worker 0's node leads. */
struct batch_node {
	struct psgd_launch launch; /* numbers of nodes, and the control port */
	const char *token_file;
	int64_t timeout_s;
	bool by_node; /* numbers of nodes are not those of workers */
	bool warned;  /* about the missing token */
};

/* What a node did last: SIZE_MAX when it has just come. */
struct batch_report {
	size_t item;
	int code, signal;
};

/*
 * What a meeting is for. decide() makes, on the leader, the message that all get out of what all
 * nodes report; it may be called again when a node is lost meanwhile. agree() says on every node
 * what is wrong with the message, or "".
 */
struct batch_step {
	json_t *(*decide)(void *user, const struct batch_report *all, uint32_t n);
	void (*agree)(void *user, const json_t *message, char *error, size_t bytes);
	void *user;
};

/*
 * All nodes call it at the same point of the campaign; who comes first waits. A node that is lost
 * in the middle is waited for again. Complains and returns an exit code; *message is to be
 * released by json_decref.
 */
int batch_meet(struct batch_node *node, const struct batch_report *own,
	const struct batch_step *step, json_t **message);

/* ---- batch_campaign.c ---- */

struct batch_campaign {
	struct batch_list list;
	const struct cli_place *place;
	struct psgd_launch *workers; /* of this node */
	size_t n_workers, start;
	char date[16];
	bool resume, keep_going, smoke, overwrite;
};

/* Runs the items in step with the other nodes. Complains and returns an exit code. */
int batch_campaign(struct batch_campaign *campaign);

#endif
