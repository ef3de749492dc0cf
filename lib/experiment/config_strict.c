#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "experiment/config_private.h"

/*
 * libcyaml 1.3.1 takes the leading digits of a number and calls it a success (3e2 is 3, 30O is
 * 30, 010 is 8), and any word but a few for true. Here every scalar must be wholly what its type
 * says; what libcyaml reads afterwards is a copy in its plainest spelling.
 */

#define MOST_TEXT 4096

struct pass {
	struct psgd__doc *doc;
	yaml_document_t out;
};

static psgd_status build(struct pass *pass, const cyaml_schema_value_t *schema, int node,
	const char *path, int *out);

static const cyaml_schema_field_t *field_of(const cyaml_schema_field_t *fields, const char *key)
{
	for (; fields->key; fields++)
		if (strcmp(fields->key, key) == 0)
			return fields;
	return NULL;
}

static void join(char *to, const char *path, const char *key)
{
	psgd__text(to, PSGD__PATH_BYTES, "%s%s%s", path, *path ? "." : "", key);
}

/* Nodes that carry a type of their own (!!float, !something) mean what this reader does not. */
static psgd_status check_tag(struct pass *pass, int node, const char *path)
{
	const yaml_node_t *at = psgd__doc_node(pass->doc, node);
	const char *usual = at->type == YAML_MAPPING_NODE    ? YAML_DEFAULT_MAPPING_TAG
			    : at->type == YAML_SEQUENCE_NODE ? YAML_DEFAULT_SEQUENCE_TAG
							     : YAML_DEFAULT_SCALAR_TAG;

	if (strcmp((const char *)at->tag, usual) != 0)
		return psgd__doc_fail(pass->doc, node, path, "tags are not supported, got '%.60s'",
			(const char *)at->tag);
	return PSGD_OK;
}

static psgd_status check_key(struct pass *pass, const cyaml_schema_field_t *fields, int mapping,
	int pair, const char *path)
{
	int node = psgd__doc_node(pass->doc, mapping)->data.mapping.pairs.start[pair].key;
	const yaml_node_t *at = psgd__doc_node(pass->doc, node);
	const char *key, *near;
	char child[PSGD__PATH_BYTES];
	int first;

	if (at->type != YAML_SCALAR_NODE ||
		strlen((const char *)at->data.scalar.value) != at->data.scalar.length)
		return psgd__doc_fail(pass->doc, node, path, "a key must be a word");
	key = (const char *)at->data.scalar.value;
	join(child, path, key);
	if (!field_of(fields, key)) {
		near = psgd__config_nearest(fields, key);
		return psgd__doc_fail(pass->doc, node, path, "unknown key '%.60s'%s%s%s", key,
			near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
	}
	first = psgd__doc_pair(pass->doc, mapping, key);
	if (first != pair) {
		first = psgd__doc_node(pass->doc, mapping)->data.mapping.pairs.start[first].key;
		return psgd__doc_fail(pass->doc, node, path,
			"duplicate key '%s', the first one is in line %zu", key,
			psgd__doc_node(pass->doc, first)->start_mark.line + 1);
	}
	return PSGD_OK;
}

/* What a number has to be, in words. */
static void number_words(const struct psgd__key *key, bool whole, char *to, size_t bytes)
{
	const char *noun = whole ? "a whole number" : "a number";

	if (key->max > 0 && !(key->flags & (PSGD__KEY_ABOVE | PSGD__KEY_BELOW)))
		psgd__text(to, bytes, "%s from %.15g to %.15g", noun, key->min, key->max);
	else if (key->max > 0)
		psgd__text(to, bytes, "%s %s %.15g and %s %.15g", noun,
			key->flags & PSGD__KEY_ABOVE ? "above" : "of at least", key->min,
			key->flags & PSGD__KEY_BELOW ? "below" : "at most", key->max);
	else
		psgd__text(to, bytes, "%s %s %.15g", noun,
			key->flags & PSGD__KEY_ABOVE ? "above" : "of at least", key->min);
}

static psgd_status out_of_range(
	struct pass *pass, const struct psgd__key *key, int node, const char *path, bool whole)
{
	char words[120], what[100];

	if (key->flags & (PSGD__KEY_RANK | PSGD__KEY_DENSE)) {
		const char *text = (const char *)psgd__doc_node(pass->doc, node)->data.scalar.value;

		if (*text == '-' || strspn(text, "0") == strlen(text))
			return psgd__doc_fail(pass->doc, node, path, "%s",
				key->flags & PSGD__KEY_DENSE
					? "expected a rank of at least 1, or dense"
					: "expected a rank of at least 1 (use "
					  "compression.enable_powerSGD: false for dense)");
	}
	number_words(key, whole, words, sizeof(words));
	return psgd__doc_fail(pass->doc, node, path, "expected %s, got %s", words,
		psgd__doc_what(pass->doc, node, what, sizeof(what)));
}

static psgd_status wrong_kind(struct pass *pass, int node, const char *path, const char *noun)
{
	char what[100];

	return psgd__doc_fail(pass->doc, node, path, "expected %s, got %s", noun,
		psgd__doc_what(pass->doc, node, what, sizeof(what)));
}

static psgd_status put(struct pass *pass, const char *text, int *out)
{
	*out = psgd__config_add_plain(&pass->out, text);
	return *out ? PSGD_OK : PSGD_ERR_NOMEM;
}

static psgd_status build_uint(struct pass *pass, const cyaml_schema_value_t *schema,
	const struct psgd__key *key, int node, const char *path, int *out)
{
	const yaml_node_t *at = psgd__doc_node(pass->doc, node);
	const char *text = (const char *)at->data.scalar.value;
	bool minus = *text == '-';
	const char *digits = text + minus;
	size_t n = strspn(digits, "0123456789");
	unsigned long long value;

	if (key->flags & PSGD__KEY_DENSE && strcmp(text, "dense") == 0)
		return put(pass, "0", out);
	if (at->data.scalar.style != YAML_PLAIN_SCALAR_STYLE || !n || digits[n] ||
		n + minus != at->data.scalar.length || (n > 1 && *digits == '0'))
		return wrong_kind(pass, node, path,
			key->flags & PSGD__KEY_DENSE ? "a whole number or dense"
						     : "a whole number");
	errno = 0;
	value = strtoull(digits, NULL, 10);
	if (errno == ERANGE || (schema->data_size < 8 && value >> (8 * schema->data_size)))
		return minus ? out_of_range(pass, key, node, path, true)
			     : wrong_kind(pass, node, path,
				       schema->data_size < 8 ? "a whole number below 4294967296"
							     : "a whole number below 2^64");
	if ((minus && value) || psgd__config_outside(key, (double)value))
		return out_of_range(pass, key, node, path, true);
	return put(pass, digits, out);
}

static psgd_status build_real(
	struct pass *pass, const struct psgd__key *key, int node, const char *path, int *out)
{
	const yaml_node_t *at = psgd__doc_node(pass->doc, node);
	const char *text = (const char *)at->data.scalar.value;
	double value;
	char *end;

	/* strtod also knows hexadecimal, infinities and leading space. */
	if (at->data.scalar.style != YAML_PLAIN_SCALAR_STYLE || !at->data.scalar.length ||
		strspn(text, "0123456789.eE+-") != at->data.scalar.length)
		return wrong_kind(pass, node, path, "a number");
	errno = 0;
	value = strtod(text, &end);
	if (*end || end == text)
		return wrong_kind(pass, node, path, "a number");
	if (errno == ERANGE)
		return wrong_kind(pass, node, path, "a number that a double can hold");
	if (psgd__config_outside(key, value))
		return out_of_range(pass, key, node, path, false);
	return put(pass, text, out);
}

static psgd_status build_bool(struct pass *pass, int node, const char *path, int *out)
{
	static const char *const words[] = {"true", "yes", "on", "false", "no", "off"};
	const yaml_node_t *at = psgd__doc_node(pass->doc, node);

	for (size_t i = 0; i < PSGD__COUNT(words); i++)
		if (at->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
			strcasecmp((const char *)at->data.scalar.value, words[i]) == 0 &&
			strlen(words[i]) == at->data.scalar.length)
			return put(pass, i < 3 ? "true" : "false", out);
	return wrong_kind(pass, node, path, "true or false");
}

static psgd_status build_text(
	struct pass *pass, const struct psgd__key *key, int node, const char *path, int *out)
{
	const yaml_node_t *at = psgd__doc_node(pass->doc, node);
	const char *text = (const char *)at->data.scalar.value;
	char what[100], noun[200];

	if (strlen(text) != at->data.scalar.length)
		return psgd__doc_fail(pass->doc, node, path, "a text may not hold a zero byte");
	if (!*text)
		return wrong_kind(pass, node, path, "a text that is not empty");
	if (at->data.scalar.length > MOST_TEXT)
		return psgd__doc_fail(
			pass->doc, node, path, "the text is longer than %d bytes", MOST_TEXT);
	if (key->flags & PSGD__KEY_FILENAME && (strchr(text, '/') || *text == '.'))
		return wrong_kind(pass, node, path,
			*text == '.' ? "a name that does not begin with '.'"
				     : "a name without '/'");
	if (key->flags & PSGD__KEY_FILENAME && at->data.scalar.length > PSGD__MOST_FILENAME)
		return psgd__doc_fail(pass->doc, node, path, "the name is longer than %d bytes",
			PSGD__MOST_FILENAME);
	if (key->words && !psgd__config_word(key->words, text)) {
		psgd__text(noun, sizeof(noun), strchr(key->words, ',') ? "one of %s" : "%s",
			key->words);
		return psgd__doc_fail(pass->doc, node, path, "expected %s, got %s", noun,
			psgd__doc_what(pass->doc, node, what, sizeof(what)));
	}
	*out = psgd__config_add_text(&pass->out, text);
	return *out ? PSGD_OK : PSGD_ERR_NOMEM;
}

static psgd_status build_list(
	struct pass *pass, const cyaml_schema_value_t *schema, int node, const char *path, int *out)
{
	ptrdiff_t n;
	char child[PSGD__PATH_BYTES];

	if (psgd__doc_node(pass->doc, node)->type != YAML_SEQUENCE_NODE)
		return wrong_kind(pass, node, path, "a list like [1, 2, 4]");
	*out = yaml_document_add_sequence(&pass->out, NULL, YAML_FLOW_SEQUENCE_STYLE);
	if (!*out)
		return PSGD_ERR_NOMEM;
	n = psgd__doc_node(pass->doc, node)->data.sequence.items.top -
	    psgd__doc_node(pass->doc, node)->data.sequence.items.start;
	for (ptrdiff_t i = 0; i < n; i++) {
		int item = psgd__doc_node(pass->doc, node)->data.sequence.items.start[i];

		psgd__text(child, sizeof(child), "%s[%td]", path, i);
		PSGD__TRY(build(pass, schema->sequence.entry, item, child, &item));
		if (!yaml_document_append_sequence_item(&pass->out, *out, item))
			return PSGD_ERR_NOMEM;
	}
	return PSGD_OK;
}

/* A number or boolean with a default of its own that says nothing is a mistake. */
static bool may_be_null(enum cyaml_type type, const struct psgd__key *key)
{
	if (type == CYAML_MAPPING || type == CYAML_SEQUENCE || type == CYAML_STRING)
		return true;
	return key && !key->preset && !(key->flags & PSGD__KEY_REQUIRED);
}

/*
 * The node of a field, its default where it is absent, or 0 where it has none. What is null is
 * absent, where that is allowed; else it stays, and is refused.
 */
static psgd_status value_of(struct pass *pass, const cyaml_schema_field_t *field, int mapping,
	const char *path, const char *child, int *out)
{
	const struct psgd__key *key = psgd__config_key(child);
	int pair = mapping ? psgd__doc_pair(pass->doc, mapping, field->key) : -1;
	char why[100];

	if (pair >= 0) {
		*out = psgd__doc_node(pass->doc, mapping)->data.mapping.pairs.start[pair].value;
		if (!may_be_null(field->value.type, key) || !psgd__doc_null(pass->doc, *out))
			return PSGD_OK;
	}
	*out = 0;
	if (key && key->flags & PSGD__KEY_REQUIRED)
		return psgd__doc_fail(
			pass->doc, mapping, path, "required key '%s' is missing", field->key);
	return key && key->preset ? psgd__doc_value(pass->doc, key->preset, out, why, sizeof(why))
				  : PSGD_OK;
}

/* An empty list is NULL in the struct; libcyaml would allocate nothing and point at it. */
static bool empty_list(const yaml_node_t *at)
{
	return at->type == YAML_SEQUENCE_NODE &&
	       at->data.sequence.items.top == at->data.sequence.items.start;
}

static psgd_status build_mapping(
	struct pass *pass, const cyaml_schema_field_t *fields, int node, const char *path, int *out)
{
	char child[PSGD__PATH_BYTES];
	ptrdiff_t n = 0;

	if (node && psgd__doc_node(pass->doc, node)->type != YAML_MAPPING_NODE)
		return wrong_kind(pass, node, path, "a mapping of keys");
	*out = yaml_document_add_mapping(&pass->out, NULL, YAML_BLOCK_MAPPING_STYLE);
	if (!*out)
		return PSGD_ERR_NOMEM;
	if (node)
		n = psgd__doc_node(pass->doc, node)->data.mapping.pairs.top -
		    psgd__doc_node(pass->doc, node)->data.mapping.pairs.start;
	for (ptrdiff_t i = 0; i < n; i++)
		PSGD__TRY(check_key(pass, fields, node, (int)i, path));
	for (; fields->key; fields++) {
		int name, value;

		join(child, path, fields->key);
		PSGD__TRY(value_of(pass, fields, node, path, child, &value));
		if (!value && fields->value.type != CYAML_MAPPING)
			continue;
		PSGD__TRY(build(pass, &fields->value, value, child, &value));
		if (empty_list(yaml_document_get_node(&pass->out, value)))
			continue;
		name = psgd__config_add_plain(&pass->out, fields->key);
		if (!name || !yaml_document_append_mapping_pair(&pass->out, *out, name, value))
			return PSGD_ERR_NOMEM;
	}
	return PSGD_OK;
}

/* node 0: a section that the file does not have, all defaults. */
static psgd_status build(
	struct pass *pass, const cyaml_schema_value_t *schema, int node, const char *path, int *out)
{
	const struct psgd__key *key = psgd__config_key(path);

	if (node)
		PSGD__TRY(check_tag(pass, node, path));
	if (schema->type == CYAML_MAPPING)
		return build_mapping(pass, schema->mapping.fields, node, path, out);
	if (!key)
		return PSGD_ERR_INTERNAL;
	if (schema->type == CYAML_SEQUENCE)
		return build_list(pass, schema, node, path, out);
	if (psgd__doc_node(pass->doc, node)->type != YAML_SCALAR_NODE)
		return wrong_kind(pass, node, path,
			schema->type == CYAML_STRING  ? "a text"
			: schema->type == CYAML_BOOL  ? "true or false"
			: schema->type == CYAML_FLOAT ? "a number"
						      : "a whole number");
	switch (schema->type) {
	case CYAML_UINT:
		return build_uint(pass, schema, key, node, path, out);
	case CYAML_FLOAT:
		return build_real(pass, key, node, path, out);
	case CYAML_BOOL:
		return build_bool(pass, node, path, out);
	case CYAML_STRING:
		return build_text(pass, key, node, path, out);
	default:
		return PSGD_ERR_INTERNAL;
	}
}

psgd_status psgd__config_strict(struct psgd__doc *doc, char **out, size_t *out_bytes)
{
	struct pass pass = {.doc = doc};
	psgd_status status;
	int root;

	if (!yaml_document_initialize(&pass.out, NULL, NULL, NULL, 1, 1))
		return PSGD_ERR_NOMEM;
	status = build(&pass, &psgd__config_schema, 1, "", &root);
	if (status < 0)
		yaml_document_delete(&pass.out);
	else
		status = psgd__config_dump(&pass.out, out, out_bytes);
	return status;
}
