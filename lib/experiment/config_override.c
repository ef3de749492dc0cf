#include <string.h>

#include "experiment/config_tree.h"

/* Aliases can make little text large: what is copied is counted. */
#define MOST_DEPTH 8
#define MOST_NODES 200000

static psgd_status graft(
	struct psgd__doc *doc, yaml_document_t *from, int node, int depth, int *out);

static psgd_status graft_sequence(
	struct psgd__doc *doc, yaml_document_t *from, const yaml_node_t *at, int depth, int *out)
{
	*out = yaml_document_add_sequence(&doc->tree, at->tag, YAML_FLOW_SEQUENCE_STYLE);
	if (!*out)
		return PSGD_ERR_NOMEM;
	for (const int *i = at->data.sequence.items.start; i < at->data.sequence.items.top; i++) {
		int item;

		PSGD__TRY(graft(doc, from, *i, depth + 1, &item));
		if (!yaml_document_append_sequence_item(&doc->tree, *out, item))
			return PSGD_ERR_NOMEM;
	}
	return PSGD_OK;
}

static psgd_status graft_mapping(
	struct psgd__doc *doc, yaml_document_t *from, const yaml_node_t *at, int depth, int *out)
{
	*out = yaml_document_add_mapping(&doc->tree, at->tag, YAML_FLOW_MAPPING_STYLE);
	if (!*out)
		return PSGD_ERR_NOMEM;
	for (const yaml_node_pair_t *i = at->data.mapping.pairs.start;
		i < at->data.mapping.pairs.top; i++) {
		int key, value;

		PSGD__TRY(graft(doc, from, i->key, depth + 1, &key));
		PSGD__TRY(graft(doc, from, i->value, depth + 1, &value));
		if (!yaml_document_append_mapping_pair(&doc->tree, *out, key, value))
			return PSGD_ERR_NOMEM;
	}
	return PSGD_OK;
}

/* Copies a node of another document. CONFIG: nested too deeply, or too large. */
static psgd_status graft(
	struct psgd__doc *doc, yaml_document_t *from, int node, int depth, int *out)
{
	const yaml_node_t *at = yaml_document_get_node(from, node);

	if (depth > MOST_DEPTH || doc->tree.nodes.top - doc->tree.nodes.start > MOST_NODES)
		return PSGD_ERR_CONFIG;
	if (at->type == YAML_SEQUENCE_NODE)
		return graft_sequence(doc, from, at, depth, out);
	if (at->type == YAML_MAPPING_NODE)
		return graft_mapping(doc, from, at, depth, out);
	*out = yaml_document_add_scalar(&doc->tree, at->tag, at->data.scalar.value,
		(int)at->data.scalar.length, at->data.scalar.style);
	return *out ? PSGD_OK : PSGD_ERR_NOMEM;
}

psgd_status psgd__doc_value(
	struct psgd__doc *doc, const char *text, int *out, char *why, size_t why_bytes)
{
	yaml_document_t value;
	yaml_mark_t place;
	psgd_status status;

	PSGD__TRY(psgd__doc_load(text, strlen(text), &value, why, why_bytes, &place));
	if (yaml_document_get_root_node(&value)) {
		status = graft(doc, &value, 1, 0, out);
		if (status == PSGD_ERR_CONFIG)
			psgd__text(why, why_bytes, "the value is too large");
	} else {
		*out = yaml_document_add_scalar(
			&doc->tree, NULL, (const unsigned char *)"", 0, YAML_PLAIN_SCALAR_STYLE);
		status = *out ? PSGD_OK : PSGD_ERR_NOMEM;
	}
	yaml_document_delete(&value);
	return status;
}

static int add_text(struct psgd__doc *doc, const char *text, size_t n)
{
	return yaml_document_add_scalar(
		&doc->tree, NULL, (const unsigned char *)text, (int)n, YAML_PLAIN_SCALAR_STYLE);
}

/* Sets mapping[name] = value in place of what is there. */
static psgd_status set_pair(struct psgd__doc *doc, int mapping, const char *name, int value)
{
	int pair = psgd__doc_pair(doc, mapping, name);
	int key;

	if (pair >= 0) {
		psgd__doc_node(doc, mapping)->data.mapping.pairs.start[pair].value = value;
		return PSGD_OK;
	}
	key = add_text(doc, name, strlen(name));
	if (!key || !yaml_document_append_mapping_pair(&doc->tree, mapping, key, value))
		return PSGD_ERR_NOMEM;
	return PSGD_OK;
}

/* The mapping below `mapping` by this name; made when there is nothing. 0: something else. */
static psgd_status enter(struct psgd__doc *doc, int mapping, const char *name, int *out)
{
	int pair = psgd__doc_pair(doc, mapping, name);

	if (pair >= 0) {
		*out = psgd__doc_node(doc, mapping)->data.mapping.pairs.start[pair].value;
		if (psgd__doc_node(doc, *out)->type == YAML_MAPPING_NODE)
			return PSGD_OK;
		if (!psgd__doc_null(doc, *out)) {
			*out = 0;
			return PSGD_OK;
		}
	}
	*out = yaml_document_add_mapping(&doc->tree, NULL, YAML_BLOCK_MAPPING_STYLE);
	return *out ? set_pair(doc, mapping, name, *out) : PSGD_ERR_NOMEM;
}

static psgd_status bad_override(struct psgd__doc *doc, size_t k, const char *why)
{
	if (doc->error && doc->error_bytes) {
		psgd__text(doc->error, doc->error_bytes, "override '%.300s': %s", doc->overrides[k],
			why);
		psgd__one_line(doc->error);
	}
	return PSGD_ERR_CONFIG;
}

static psgd_status apply(struct psgd__doc *doc, size_t k)
{
	const char *text = doc->overrides[k], *equals = strchr(text, '=');
	char name[PSGD__PATH_BYTES], why[300];
	int mapping = 1, value;
	psgd_status status;

	if (!equals || equals == text)
		return bad_override(doc, k, "expected key=value");
	if ((size_t)(equals - text) >= sizeof(name))
		return bad_override(doc, k, "the key is too long");
	for (const char *at = text; at < equals; at++)
		if (*at <= ' ' || *at > '~')
			return bad_override(doc, k, "expected key=value with a key like a.b.c");
	for (const char *at = text;; at++) {
		size_t n = strcspn(at, ".=");

		if (!n)
			return bad_override(doc, k, "expected key=value with a key like a.b.c");
		psgd__text(name, sizeof(name), "%.*s", (int)n, at);
		at += n;
		if (*at == '=')
			break;
		PSGD__TRY(enter(doc, mapping, name, &mapping));
		if (!mapping) {
			psgd__text(
				why, sizeof(why), "%.*s is not a section", (int)(at - text), text);
			return bad_override(doc, k, why);
		}
	}
	status = psgd__doc_value(doc, equals + 1, &value, why, sizeof(why));
	if (status == PSGD_ERR_CONFIG)
		return bad_override(doc, k, why);
	PSGD__TRY(status);
	return set_pair(doc, mapping, name, value);
}

psgd_status psgd__doc_override(struct psgd__doc *doc)
{
	doc->first_node = psgd__calloc(doc->n_overrides, sizeof(*doc->first_node));
	if (!doc->first_node)
		return PSGD_ERR_NOMEM;
	for (size_t k = 0; k < doc->n_overrides; k++) {
		doc->first_node[k] = (int)(doc->tree.nodes.top - doc->tree.nodes.start) + 1;
		doc->n_applied = k + 1;
		PSGD__TRY(apply(doc, k));
	}
	return PSGD_OK;
}
