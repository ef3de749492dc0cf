#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "experiment/c_locale.h"
#include "experiment/config_private.h"

/*
 * libcyaml saves a double with six digits; so the struct is walked here, beside the same schema.
 */

struct text {
	char *bytes;
	size_t n, capacity;
	bool failed;
};

static int append(void *user, unsigned char *bytes, size_t n)
{
	struct text *to = user;

	if (psgd__grow(&to->bytes, &to->capacity, to->n + n + 1, 1) < 0) {
		to->failed = true;
		return 0;
	}
	memcpy(to->bytes + to->n, bytes, n);
	to->n += n;
	to->bytes[to->n] = '\0';
	return 1;
}

psgd_status psgd__config_dump(yaml_document_t *tree, char **out, size_t *out_bytes)
{
	struct text text = {0};
	yaml_emitter_t emitter;
	bool ok;

	if (!yaml_emitter_initialize(&emitter)) {
		yaml_document_delete(tree);
		return PSGD_ERR_NOMEM;
	}
	yaml_emitter_set_output(&emitter, append, &text);
	yaml_emitter_set_width(&emitter, -1);
	yaml_emitter_set_unicode(&emitter, 1);
	ok = yaml_emitter_open(&emitter);
	ok = yaml_emitter_dump(&emitter, tree) && ok; /* deletes the document in any case */
	ok = ok && yaml_emitter_close(&emitter) && text.bytes;
	yaml_emitter_delete(&emitter);
	if (!ok) {
		free(text.bytes);
		return PSGD_ERR_NOMEM;
	}
	*out = text.bytes;
	*out_bytes = text.n;
	return PSGD_OK;
}

static int add_scalar(yaml_document_t *tree, const char *text, yaml_scalar_style_t style)
{
	return yaml_document_add_scalar(
		tree, NULL, (const unsigned char *)text, (int)strlen(text), style);
}

int psgd__config_add_plain(yaml_document_t *tree, const char *text)
{
	return add_scalar(tree, text, YAML_PLAIN_SCALAR_STYLE);
}

int psgd__config_add_text(yaml_document_t *tree, const char *text)
{
	static const char *const words = "null, true, false, yes, no, on, off, y, n";
	bool plain = isalpha((unsigned char)*text) || *text == '/';
	char lower[8] = "";

	for (const char *at = text; *at && plain; at++)
		plain = isascii((unsigned char)*at) &&
			(isalnum((unsigned char)*at) || strchr("._/-", *at));
	for (size_t i = 0; i < sizeof(lower) - 1 && text[i]; i++)
		lower[i] = (char)tolower((unsigned char)text[i]);
	if (plain && !psgd__config_word(words, lower))
		return psgd__config_add_plain(tree, text);
	return add_scalar(tree, text, YAML_DOUBLE_QUOTED_SCALAR_STYLE);
}

/* The shortest digits that read back as the same double, in a form that YAML 1.1 calls a float. */
static int add_real(yaml_document_t *tree, double value)
{
	char digits[40], text[48];
	char *exponent;

	for (int precision = 15; precision <= 17; precision++) {
		snprintf(digits, sizeof(digits), "%.*g", precision, value);
		if (strtod(digits, NULL) == value)
			break;
	}
	exponent = strchr(digits, 'e');
	if (strchr(digits, '.'))
		snprintf(text, sizeof(text), "%s", digits);
	else if (exponent)
		snprintf(
			text, sizeof(text), "%.*s.0%s", (int)(exponent - digits), digits, exponent);
	else
		snprintf(text, sizeof(text), "%s.0", digits);
	return psgd__config_add_plain(tree, text);
}

static uint64_t read_uint(const char *data, size_t size)
{
	uint64_t wide;
	uint32_t narrow;

	if (size == sizeof(wide)) {
		memcpy(&wide, data, sizeof(wide));
		return wide;
	}
	memcpy(&narrow, data, sizeof(narrow));
	return narrow;
}

/* A zero that the key does not allow stands for a number that the file does not have. */
static bool not_given(const struct psgd__key *key, double value)
{
	return !(value > 0) && key && psgd__config_outside(key, value);
}

static int add_uint(yaml_document_t *tree, const cyaml_schema_value_t *schema, const char *data,
	const char *path)
{
	uint64_t value = read_uint(data, schema->data_size);
	const struct psgd__key *key = psgd__config_key(path);
	char text[32];

	if (!value && key && key->flags & PSGD__KEY_DENSE)
		return psgd__config_add_plain(tree, "dense");
	if (not_given(key, (double)value))
		return psgd__config_add_plain(tree, "null");
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return psgd__config_add_plain(tree, text);
}

static int add_fields(yaml_document_t *tree, const cyaml_schema_field_t *fields, const char *data,
	const char *path, yaml_mapping_style_t style);

static int add_string(yaml_document_t *tree, const char *data)
{
	const char *text;

	memcpy(&text, data, sizeof(text));
	return text ? psgd__config_add_text(tree, text) : psgd__config_add_plain(tree, "null");
}

static int add_list(yaml_document_t *tree, const cyaml_schema_field_t *field, const char *base,
	const char *path)
{
	const cyaml_schema_value_t *entry = field->value.sequence.entry;
	uint64_t n = read_uint(base + field->count_offset, field->count_size);
	int list = yaml_document_add_sequence(tree, NULL, YAML_FLOW_SEQUENCE_STYLE);
	const struct psgd__key *key = psgd__config_key(path);
	char child[PSGD__PATH_BYTES];
	const char *data;

	/* A list with a default is written as the empty one, any other as an absent one. */
	if (!n && key && !key->preset)
		return psgd__config_add_plain(tree, "null");
	memcpy(&data, base + field->data_offset, sizeof(data));
	psgd__text(child, sizeof(child), "%s[]", path);
	for (uint64_t i = 0; list && i < n; i++, data += entry->data_size) {
		int item = entry->type == CYAML_MAPPING
				   ? add_fields(tree, entry->mapping.fields, data, child,
					     YAML_FLOW_MAPPING_STYLE)
				   : add_uint(tree, entry, data, child);

		if (!item || !yaml_document_append_sequence_item(tree, list, item))
			return 0;
	}
	return list;
}

static int add_field(yaml_document_t *tree, const cyaml_schema_field_t *field, const char *base,
	const char *path)
{
	const char *data = base + field->data_offset;
	double real;

	switch (field->value.type) {
	case CYAML_MAPPING:
		return add_fields(
			tree, field->value.mapping.fields, data, path, YAML_BLOCK_MAPPING_STYLE);
	case CYAML_SEQUENCE:
		return add_list(tree, field, base, path);
	case CYAML_STRING:
		return add_string(tree, data);
	case CYAML_BOOL:
		return psgd__config_add_plain(tree, *(const bool *)data ? "true" : "false");
	case CYAML_FLOAT:
		memcpy(&real, data, sizeof(real));
		if (not_given(psgd__config_key(path), real))
			return psgd__config_add_plain(tree, "null");
		return add_real(tree, real);
	default:
		return add_uint(tree, &field->value, data, path);
	}
}

/* All of these return the node, or 0 when memory is out. */
static int add_fields(yaml_document_t *tree, const cyaml_schema_field_t *fields, const char *data,
	const char *path, yaml_mapping_style_t style)
{
	int mapping = yaml_document_add_mapping(tree, NULL, style);
	char child[PSGD__PATH_BYTES];

	for (; mapping && fields->key; fields++) {
		int name = psgd__config_add_plain(tree, fields->key), value;

		psgd__text(child, sizeof(child), "%s%s%s", path, *path ? "." : "", fields->key);
		value = add_field(tree, fields, data, child);
		if (!name || !value ||
			!yaml_document_append_mapping_pair(tree, mapping, name, value))
			return 0;
	}
	return mapping;
}

psgd_status psgd_config_yaml(const struct psgd_config *config, char **out)
{
	struct psgd__c_locale locale;
	yaml_document_t tree;
	psgd_status status;
	size_t bytes;

	if (!config || !out)
		return PSGD_ERR_INVALID;
	*out = NULL;
	PSGD__TRY(psgd__c_locale_enter(&locale));
	status = yaml_document_initialize(&tree, NULL, NULL, NULL, 1, 1) ? PSGD_OK : PSGD_ERR_NOMEM;
	if (status < 0)
		goto out_locale;
	if (add_fields(&tree, psgd__config_schema.mapping.fields, (const char *)config, "",
		    YAML_BLOCK_MAPPING_STYLE)) {
		status = psgd__config_dump(&tree, out, &bytes);
	} else {
		yaml_document_delete(&tree);
		status = PSGD_ERR_NOMEM;
	}
out_locale:
	psgd__c_locale_leave(&locale);
	return status;
}
