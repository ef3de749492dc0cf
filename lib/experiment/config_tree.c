#include "experiment/config_tree.h"

#include <stdio.h>
#include <string.h>

/*
 * libyaml needs time quadratic in depth and in the number of anchors. A configuration is flat and
 * short; these are far above the largest sensible one.
 */
#define MOST_DEPTH 16
#define MOST_EVENTS 20000

void psgd__one_line(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

static const char *text_of(const yaml_node_t *node)
{
	return (const char *)node->data.scalar.value;
}

bool psgd__doc_null(struct psgd__doc *doc, int node)
{
	const yaml_node_t *at = psgd__doc_node(doc, node);
	const char *text;

	if (at->type != YAML_SCALAR_NODE || at->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	text = text_of(at);
	return !*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0 ||
	       strcmp(text, "Null") == 0 || strcmp(text, "NULL") == 0;
}

const char *psgd__doc_what(struct psgd__doc *doc, int node, char *to, size_t bytes)
{
	const yaml_node_t *at = psgd__doc_node(doc, node);

	if (at->type == YAML_MAPPING_NODE)
		psgd__text(to, bytes, "a mapping");
	else if (at->type == YAML_SEQUENCE_NODE)
		psgd__text(to, bytes, "a list");
	else if (psgd__doc_null(doc, node))
		psgd__text(to, bytes, "nothing");
	else
		psgd__text(to, bytes, "%s'%.60s'%s",
			at->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? "" : "the text ",
			text_of(at), at->data.scalar.length > 60 ? "..." : "");
	return to;
}

/* The override's place in the list, or -1 for the file. */
static ptrdiff_t origin(const struct psgd__doc *doc, int node)
{
	size_t k = doc->n_applied;

	while (k > 0 && node < doc->first_node[k - 1])
		k--;
	return (ptrdiff_t)k - 1;
}

/* An override that sets a.b.c need not hear again that its trouble is in a, a.b or a.b.c. */
static bool names_path(const char *override, const char *path)
{
	size_t n = strlen(path);

	return strncmp(override, path, n) == 0 && strchr("=.", override[n]) && override[n];
}

psgd_status psgd__doc_fail(
	struct psgd__doc *doc, int node, const char *path, const char *format, ...)
{
	ptrdiff_t k = node ? origin(doc, node) : -1;
	char where[1200], text[800];
	va_list args;

	va_start(args, format);
	psgd__vtext(text, sizeof(text), format, args);
	va_end(args);
	if (k >= 0) {
		psgd__text(where, sizeof(where), "override '%.300s': ", doc->overrides[k]);
		if (names_path(doc->overrides[k], path))
			path = "";
	} else if (node) {
		const yaml_mark_t *mark = &psgd__doc_node(doc, node)->start_mark;

		psgd__text(where, sizeof(where), "%.1000s:%zu:%zu: ", doc->path, mark->line + 1,
			mark->column + 1);
	} else {
		psgd__text(where, sizeof(where), "%.1000s: ", doc->path);
	}
	if (doc->error && doc->error_bytes) {
		psgd__text(doc->error, doc->error_bytes, "%s%s%s%s", where, path, *path ? ": " : "",
			text);
		psgd__one_line(doc->error);
	}
	return PSGD_ERR_CONFIG;
}

/* libyaml's reason. A mark of 0:0 with no text is what reader errors have. */
static psgd_status yaml_failed(const yaml_parser_t *parser, char *why, size_t bytes)
{
	if (parser->error == YAML_MEMORY_ERROR)
		return PSGD_ERR_NOMEM;
	psgd__text(why, bytes, "not valid YAML: %s%s%s",
		parser->problem ? parser->problem : "unknown problem", parser->context ? " " : "",
		parser->context ? parser->context : "");
	return PSGD_ERR_CONFIG;
}

/* Reads the events alone, so that a hostile text is given up early. */
static psgd_status check_size(
	const char *text, size_t bytes, char *why, size_t why_bytes, yaml_mark_t *place)
{
	yaml_parser_t parser;
	psgd_status status = PSGD_OK;
	int depth = 0, n = 0;
	bool end = false;

	if (!yaml_parser_initialize(&parser))
		return PSGD_ERR_NOMEM;
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
	while (status >= 0 && !end) {
		yaml_event_t event;

		if (!yaml_parser_parse(&parser, &event)) {
			status = yaml_failed(&parser, why, why_bytes);
			*place = parser.problem_mark;
			break;
		}
		depth += event.type == YAML_SEQUENCE_START_EVENT ||
			 event.type == YAML_MAPPING_START_EVENT;
		depth -= event.type == YAML_SEQUENCE_END_EVENT ||
			 event.type == YAML_MAPPING_END_EVENT;
		if (depth > MOST_DEPTH || ++n > MOST_EVENTS) {
			psgd__text(why, why_bytes, "too %s for a configuration",
				depth > MOST_DEPTH ? "deeply nested" : "many values");
			*place = event.start_mark;
			status = PSGD_ERR_CONFIG;
		}
		end = event.type == YAML_STREAM_END_EVENT;
		yaml_event_delete(&event);
	}
	yaml_parser_delete(&parser);
	return status;
}

psgd_status psgd__doc_load(const char *text, size_t bytes, yaml_document_t *out, char *why,
	size_t why_bytes, yaml_mark_t *place)
{
	yaml_document_t more;
	yaml_parser_t parser;
	psgd_status status = PSGD_OK;
	bool second;

	memset(place, 0, sizeof(*place));
	PSGD__TRY(check_size(text, bytes, why, why_bytes, place));
	if (!yaml_parser_initialize(&parser))
		return PSGD_ERR_NOMEM;
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
	if (!yaml_parser_load(&parser, out)) {
		status = yaml_failed(&parser, why, why_bytes);
		*place = parser.problem_mark;
		goto out_parser;
	}
	if (!yaml_document_get_root_node(out))
		goto out_parser;
	if (!yaml_parser_load(&parser, &more)) {
		status = yaml_failed(&parser, why, why_bytes);
		*place = parser.problem_mark;
		goto out_document;
	}
	second = yaml_document_get_root_node(&more) != NULL;
	if (second) {
		*place = yaml_document_get_root_node(&more)->start_mark;
		psgd__text(why, why_bytes, "expected one YAML document, got a second one");
		status = PSGD_ERR_CONFIG;
	}
	yaml_document_delete(&more);
out_document:
	if (status < 0)
		yaml_document_delete(out);
out_parser:
	yaml_parser_delete(&parser);
	return status;
}

psgd_status psgd__doc_parse(struct psgd__doc *doc, const char *text, size_t bytes)
{
	yaml_mark_t place;
	char why[300];
	psgd_status status;

	status = psgd__doc_load(text, bytes, &doc->tree, why, sizeof(why), &place);
	if (status < 0) {
		memset(&doc->tree, 0, sizeof(doc->tree));
		if (status == PSGD_ERR_CONFIG && doc->error && doc->error_bytes) {
			psgd__text(doc->error, doc->error_bytes, "%.1000s:%zu:%zu: %s", doc->path,
				place.line + 1, place.column + 1, why);
			psgd__one_line(doc->error);
		}
		return status;
	}
	if (!yaml_document_get_root_node(&doc->tree)) { /* an empty file has no keys */
		yaml_document_delete(&doc->tree);
		if (!yaml_document_initialize(&doc->tree, NULL, NULL, NULL, 1, 1) ||
			!yaml_document_add_mapping(&doc->tree, NULL, YAML_BLOCK_MAPPING_STYLE))
			return PSGD_ERR_NOMEM;
	}
	if (yaml_document_get_root_node(&doc->tree)->type != YAML_MAPPING_NODE) {
		char what[100];

		return psgd__doc_fail(doc, 1, "", "expected a mapping of keys, got %s",
			psgd__doc_what(doc, 1, what, sizeof(what)));
	}
	return PSGD_OK;
}

void psgd__doc_end(struct psgd__doc *doc)
{
	yaml_document_delete(&doc->tree);
	free(doc->first_node);
	doc->first_node = NULL;
}

int psgd__doc_pair(struct psgd__doc *doc, int mapping, const char *key)
{
	const yaml_node_t *at = psgd__doc_node(doc, mapping);
	const yaml_node_pair_t *pairs = at->data.mapping.pairs.start;
	ptrdiff_t n = at->data.mapping.pairs.top - pairs;

	for (int i = 0; i < n; i++) {
		const yaml_node_t *name = psgd__doc_node(doc, pairs[i].key);

		if (name->type == YAML_SCALAR_NODE && strcmp(text_of(name), key) == 0)
			return i;
	}
	return -1;
}

int psgd__doc_find(struct psgd__doc *doc, const char *path)
{
	int node = 1;

	while (*path) {
		const yaml_node_t *at = psgd__doc_node(doc, node);
		char name[PSGD__PATH_BYTES];
		size_t n = strcspn(path, ".[");
		int pair;

		if (*path == '[') {
			unsigned long i = strtoul(path + 1, NULL, 10);

			if (at->type != YAML_SEQUENCE_NODE ||
				i >= (size_t)(at->data.sequence.items.top -
					      at->data.sequence.items.start))
				return 0;
			node = at->data.sequence.items.start[i];
			path += strcspn(path, "]") + 1;
		} else {
			psgd__text(name, sizeof(name), "%.*s", (int)n, path);
			if (at->type != YAML_MAPPING_NODE)
				return 0;
			pair = psgd__doc_pair(doc, node, name);
			if (pair < 0)
				return 0;
			node = at->data.mapping.pairs.start[pair].value;
			path += n;
		}
		path += *path == '.';
	}
	return node;
}
