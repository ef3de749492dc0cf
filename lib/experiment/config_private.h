/* What the files of the configuration share. */
#ifndef PSGD_CONFIG_PRIVATE_H
#define PSGD_CONFIG_PRIVATE_H

#include <psgd/cost.h>

#include "experiment/config_schema.h"
#include "experiment/config_tree.h"

/* Of a list of ranks, as the rank control of libpsgd takes it with dense beside. */
#define PSGD__MOST_CANDIDATES 63

/*
 * The strict pass: walks the document beside the schema, checks every key and scalar, and gives a
 * YAML text in which libcyaml has nothing left to misread. *out is freed by free().
 */
psgd_status psgd__config_strict(struct psgd__doc *doc, char **out, size_t *out_bytes);

/* Fails at a key, with its place when the file or an override has it. */
#define REFUSE(doc, path, ...) psgd__doc_fail(doc, psgd__doc_find(doc, path), path, __VA_ARGS__)

/* True when the file or an override has a value for this key, other than null. */
bool psgd__config_given(struct psgd__doc *doc, const char *path);

/* Defaults that depend on other keys. `name`: of a run that has none. */
psgd_status psgd__config_derive(
	struct psgd__doc *doc, struct psgd_config *config, const char *name);

/* What one key cannot tell alone. */
psgd_status psgd__config_check(struct psgd__doc *doc, const struct psgd_config *config);

/* Parts of it. */
psgd_status psgd__config_check_ranks(struct psgd__doc *doc, const struct psgd_config *config);
psgd_status psgd__config_check_control(struct psgd__doc *doc, const struct psgd_config *config);
psgd_status psgd__config_increasing(
	struct psgd__doc *doc, const char *path, const unsigned *values, unsigned n);

/* What is accepted but does nothing, a line each; freed by free(). */
psgd_status psgd__config_notices(const struct psgd_config *config, char **out);

/* A document as text, ended by a zero that *out_bytes does not count. Freed by free(). */
psgd_status psgd__config_dump(yaml_document_t *tree, char **out, size_t *out_bytes);

/* Adds a scalar: plain, or in double quotes where a reader could take it for something else. */
int psgd__config_add_plain(yaml_document_t *tree, const char *text);
int psgd__config_add_text(yaml_document_t *tree, const char *text);

/* How rank_control and the older keys that it succeeds are understood together. */
enum psgd_cap_kind psgd__config_cap(const struct psgd_config *config);
enum psgd_choice_kind psgd__config_choice(const struct psgd_config *config);
unsigned psgd__config_fixed_rank(const struct psgd_config *config);
/* Room for PSGD__MOST_CANDIDATES and dense; gives how many there are. */
size_t psgd__config_candidates(const struct psgd_config *config, uint32_t *out);
bool psgd__config_stages_choose(const struct psgd_config *config);

/* What a recorded run did, for PSGD_CHOICE_REPLAY. */
struct psgd__replay {
	struct psgd_replay_entry *entries;
	size_t n, capacity;
	uint32_t *ranks; /* n rows of n_tensors; NULL: all tensors had one rank at a time */
	size_t n_tensors, ranks_capacity;
};

/* On success ended by psgd__replay_free. */
psgd_status psgd__config_replay(
	const char *path, struct psgd__replay *out, char *error, size_t error_bytes);
void psgd__replay_free(struct psgd__replay *replay);

/* psgd_config_controller, with what was measured of the network; prior may be NULL. */
psgd_status psgd__config_controller(const struct psgd_config *config,
	const struct psgd_cost_link *prior, struct psgd_controller *out, char *error,
	size_t error_bytes);

/* Who limits the network; what auto means in a worker is model. */
enum psgd__link_method {
	PSGD__LINK_MODEL,
	PSGD__LINK_TC,
	PSGD__LINK_TC_MODEL, /* rates by the kernel; delay, jitter and losses in the process */
};
enum psgd__link_method psgd__config_method(const struct psgd_config_network *net);
/* Is there a limit in it that acts at any time, be it enabled or not? */
bool psgd__config_limited(const struct psgd_config_network *net);

/*
 * The links of psgd_config_limits, psgd_config_link and psgd_config_kernel_link, after the first n
 * changes of network_limits.schedule. False: there is none, whatever n is; *out is undefined then.
 */
bool psgd__config_limits_after(const struct psgd_config *config, unsigned n, struct psgd_link *out);
bool psgd__config_link_after(const struct psgd_config *config, unsigned n, struct psgd_link *out);
bool psgd__config_kernel_link_after(
	const struct psgd_config *config, unsigned n, struct psgd_link *out);

#endif
