#include <stdio.h>
#include <string.h>

#include <yaml.h>

#include "experiment/stack_impl.h"

#define MAX_DEPTH 32

/* "section.key" and its value as one line of text. */
struct entry {
	char *key, *value;
};

struct entries {
	struct entry *list;
	size_t n, capacity;
};

static const char *const free_keys[] = {"dataset.root", "threads", "communication.interface",
	"name", "save_dir", "results_csv", "benchmark_save_dir", "rank_control.replay"};

static bool is_free(const char *key)
{
	for (size_t i = 0; i < PSGD__COUNT(free_keys); i++) {
		if (strcmp(key, free_keys[i]) == 0)
			return true;
	}
	return false;
}

/* A value that is no mapping of its own, as flow YAML would have it. */
static void print_value(FILE *out, yaml_document_t *document, int index, int depth)
{
	const yaml_node_t *node = yaml_document_get_node(document, index);

	if (!node || depth > MAX_DEPTH)
		return;
	switch (node->type) {
	case YAML_SCALAR_NODE:
		fprintf(out, "%s", (const char *)node->data.scalar.value);
		break;
	case YAML_SEQUENCE_NODE:
		fputc('[', out);
		for (yaml_node_item_t *item = node->data.sequence.items.start;
			item < node->data.sequence.items.top; item++) {
			fputs(item > node->data.sequence.items.start ? ", " : "", out);
			print_value(out, document, *item, depth + 1);
		}
		fputc(']', out);
		break;
	case YAML_MAPPING_NODE:
		fputc('{', out);
		for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
			pair < node->data.mapping.pairs.top; pair++) {
			fputs(pair > node->data.mapping.pairs.start ? ", " : "", out);
			print_value(out, document, pair->key, depth + 1);
			fputs(": ", out);
			print_value(out, document, pair->value, depth + 1);
		}
		fputc('}', out);
		break;
	default:
		break;
	}
}

static char *value_text(yaml_document_t *document, int index)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);

	if (!out)
		return NULL;
	print_value(out, document, index, 0);
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static psgd_status add_entry(struct entries *all, const char *key, char *value)
{
	psgd_status status = psgd__grow(&all->list, &all->capacity, all->n + 1, sizeof(*all->list));
	char *copy = psgd__strdup(key);

	if (status || !copy || !value) {
		free(copy);
		free(value);
		return PSGD_ERR_NOMEM;
	}
	all->list[all->n++] = (struct entry){copy, value};
	return PSGD_OK;
}

static psgd_status flatten(
	struct entries *all, yaml_document_t *document, int index, const char *path, int depth)
{
	const yaml_node_t *node = yaml_document_get_node(document, index);

	if (!node || depth > MAX_DEPTH)
		return PSGD_ERR_CONFIG;
	if (node->type != YAML_MAPPING_NODE)
		return depth ? add_entry(all, path, value_text(document, index)) : PSGD_ERR_CONFIG;
	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
		pair < node->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = yaml_document_get_node(document, pair->key);
		char name[256];
		int n;

		if (!key || key->type != YAML_SCALAR_NODE)
			return PSGD_ERR_CONFIG;
		n = snprintf(name, sizeof(name), "%s%s%s", path, depth ? "." : "",
			(const char *)key->data.scalar.value);
		if (n < 0 || (size_t)n >= sizeof(name))
			return PSGD_ERR_CONFIG;
		PSGD__TRY(flatten(all, document, pair->value, name, depth + 1));
	}
	return PSGD_OK;
}

static psgd_status read_entries(const char *yaml, struct entries *all)
{
	psgd_status status = PSGD_ERR_CONFIG;
	yaml_document_t document;
	yaml_parser_t parser;

	if (!yaml_parser_initialize(&parser))
		return PSGD_ERR_NOMEM;
	yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, strlen(yaml));
	if (yaml_parser_load(&parser, &document)) {
		const yaml_node_t *root = yaml_document_get_root_node(&document);

		if (root)
			status = flatten(all, &document, 1, "", 0);
		yaml_document_delete(&document);
	} else if (parser.error == YAML_MEMORY_ERROR) {
		status = PSGD_ERR_NOMEM;
	}
	yaml_parser_delete(&parser);
	return status;
}

static void free_entries(struct entries *all)
{
	for (size_t i = 0; i < all->n; i++) {
		free(all->list[i].key);
		free(all->list[i].value);
	}
	free(all->list);
}

static const char *find(const struct entries *all, const char *key)
{
	for (size_t i = 0; i < all->n; i++) {
		if (strcmp(all->list[i].key, key) == 0)
			return all->list[i].value;
	}
	return NULL;
}

static void print_row(
	FILE *out, const char *key, const char *first, const char *own, uint32_t own_worker)
{
	if (is_free(key) || (first && own && strcmp(first, own) == 0))
		return;
	fprintf(out, "%s%s: worker 0 has %s, worker %u has %s", ftell(out) ? "\n" : "", key,
		first ? first : "no such key", own_worker, own ? own : "no such key");
}

psgd_status psgd__compare_yaml(
	const char *first, const char *own, uint32_t own_worker, char **table)
{
	struct entries a = {0}, b = {0};
	psgd_status status = read_entries(first, &a);
	size_t n = 0;
	FILE *out;

	*table = NULL;
	if (!status)
		status = read_entries(own, &b);
	if (status)
		goto out;
	status = PSGD_ERR_NOMEM;
	out = open_memstream(table, &n);
	if (!out)
		goto out;
	for (size_t i = 0; i < a.n; i++)
		print_row(out, a.list[i].key, a.list[i].value, find(&b, a.list[i].key), own_worker);
	for (size_t i = 0; i < b.n; i++) {
		if (!find(&a, b.list[i].key))
			print_row(out, b.list[i].key, NULL, b.list[i].value, own_worker);
	}
	if (fclose(out) == 0 && *table)
		status = PSGD_OK;
out:
	free_entries(&a);
	free_entries(&b);
	if (status) {
		free(*table);
		*table = NULL;
	}
	return status;
}
