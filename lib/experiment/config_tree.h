/* A YAML document that knows where each node came from: the file, or an override. */
#ifndef PSGD_CONFIG_TREE_H
#define PSGD_CONFIG_TREE_H

#include <yaml.h>

#include "base/base.h"

#define PSGD__PATH_BYTES 256

struct psgd__doc {
	yaml_document_t tree;
	const char *path; /* of the file */
	const char *const *overrides;
	int *first_node; /* per override: nodes from this number on are its own */
	size_t n_overrides, n_applied;
	char *error; /* one line, written by psgd__doc_fail */
	size_t error_bytes;
};

/* Reads the file's text. Ended by psgd__doc_end, also when it fails. */
psgd_status psgd__doc_parse(struct psgd__doc *doc, const char *text, size_t bytes);

/* Applies all overrides, "a.b.c=value", in order. */
psgd_status psgd__doc_override(struct psgd__doc *doc);

void psgd__doc_end(struct psgd__doc *doc);

/*
 * Reads one document and no more; *place is where it went wrong. *out has no root when the text is
 * empty, and is nothing to delete when this fails. Errors: CONFIG with a reason in `why`, NOMEM.
 */
psgd_status psgd__doc_load(const char *text, size_t bytes, yaml_document_t *out, char *why,
	size_t why_bytes, yaml_mark_t *place);

/* Adds a YAML value, hung up nowhere yet. Errors: CONFIG with a reason in `why`, NOMEM. */
psgd_status psgd__doc_value(
	struct psgd__doc *doc, const char *text, int *out, char *why, size_t why_bytes);

/* The pair's index of a key in a mapping, or -1. */
int psgd__doc_pair(struct psgd__doc *doc, int mapping, const char *key);

/* The node of "a.b[2].c", or 0 when the document has none. */
int psgd__doc_find(struct psgd__doc *doc, const char *path);

/*
 * Writes "FILE:LINE:COL: path: text", or "override 'a.b=c': text", and returns CONFIG. node may
 * be 0: then "FILE: path: text". path may be "".
 */
psgd_status psgd__doc_fail(struct psgd__doc *doc, int node, const char *path, const char *format,
	...) __attribute__((format(printf, 4, 5)));

static inline yaml_node_t *psgd__doc_node(struct psgd__doc *doc, int node)
{
	return yaml_document_get_node(&doc->tree, node);
}

/* An unquoted scalar without a value: nothing, ~ or null. */
bool psgd__doc_null(struct psgd__doc *doc, int node);

/* What a node is, in words, for "got ...": "'30O'", "the text '3'", "a list", "nothing". */
const char *psgd__doc_what(struct psgd__doc *doc, int node, char *to, size_t bytes);

/* Control characters become '?': an error is one line whatever the file holds. */
void psgd__one_line(char *text);

#endif
