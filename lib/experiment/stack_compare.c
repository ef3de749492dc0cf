#include <stdio.h>
#include <string.h>

#include <yaml.h>

#include "experiment/stack_impl.h"

/* Far more than a configuration has; an alias may say a thing many times. */
#define MAX_DEPTH 32
#define MAX_ENTRIES 4096
#define MAX_COST (1u << 20) /* of all values: 1 each, and 1 for every 64 bytes */

/* "section.key" and its value as one line of text. */
struct entry {
	char *key, *value;
};

struct entries {
	struct entry *list;
	size_t n, capacity, cost;
};

/* Keys that may differ; one that ends in a dot is a whole section. */
static const char *const places[] = {"dataset.root", "dataset.loader_threads",
	"dataset.prefetch_batches", "threads", "communication.interface", "name", "save_dir",
	"results_csv", "benchmark_save_dir", "rank_control.replay", "network_limits.interface",
	"model.weights", "compression.calibration.save_dir", "compression.calibration.csv_name",
	NULL};
/* What a run that goes on may have otherwise, beside places: how long it goes, its network, its
 * device. */
static const char *const resumed[] = {"training.epochs", "training.max_iterations", "checkpoint.",
	"communication.", "network_limits.", "device", "allow_mixed", NULL};
/* What does not make a finished run unfinished. */
static const char *const finished[] = {
	"checkpoint.", "communication.", "network_limits.", "device", "allow_mixed", NULL};

/* Which keys are left out, and how a row reads. */
struct rules {
	const char *const *free_keys, *first_has, *own_has;
};

static bool is_in(const char *const *keys, const char *key)
{
	for (; keys && *keys; keys++) {
		size_t n = strlen(*keys);

		if ((*keys)[n - 1] == '.' ? strncmp(key, *keys, n) == 0 : strcmp(key, *keys) == 0)
			return true;
	}
	return false;
}

static psgd_status spend(struct entries *all, const yaml_node_t *node, int depth)
{
	if (!node || depth > MAX_DEPTH)
		return PSGD_ERR_CONFIG;
	all->cost++;
	if (node->type == YAML_SCALAR_NODE)
		all->cost += node->data.scalar.length / 64;
	return all->cost > MAX_COST ? PSGD_ERR_CONFIG : PSGD_OK;
}

/* A value that is no mapping of its own, as flow YAML would have it. CONFIG: there is no end. */
static psgd_status print_value(
	FILE *out, struct entries *all, yaml_document_t *document, int index, int depth)
{
	const yaml_node_t *node = yaml_document_get_node(document, index);

	PSGD__TRY(spend(all, node, depth));
	switch (node->type) {
	case YAML_SCALAR_NODE:
		fprintf(out, "%s", (const char *)node->data.scalar.value);
		break;
	case YAML_SEQUENCE_NODE:
		fputc('[', out);
		for (yaml_node_item_t *item = node->data.sequence.items.start;
			item < node->data.sequence.items.top; item++) {
			fputs(item > node->data.sequence.items.start ? ", " : "", out);
			PSGD__TRY(print_value(out, all, document, *item, depth + 1));
		}
		fputc(']', out);
		break;
	case YAML_MAPPING_NODE:
		fputc('{', out);
		for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
			pair < node->data.mapping.pairs.top; pair++) {
			fputs(pair > node->data.mapping.pairs.start ? ", " : "", out);
			PSGD__TRY(print_value(out, all, document, pair->key, depth + 1));
			fputs(": ", out);
			PSGD__TRY(print_value(out, all, document, pair->value, depth + 1));
		}
		fputc('}', out);
		break;
	default:
		break;
	}
	return PSGD_OK;
}

static psgd_status value_text(
	struct entries *all, yaml_document_t *document, int index, char **text)
{
	size_t n = 0;
	FILE *out = open_memstream(text, &n);
	psgd_status status;

	if (!out)
		return PSGD_ERR_NOMEM;
	status = print_value(out, all, document, index, 0);
	if (fclose(out) != 0 && !status)
		status = PSGD_ERR_NOMEM;
	if (status) {
		free(*text);
		*text = NULL;
	}
	return status;
}

static psgd_status add_entry(
	struct entries *all, const char *key, yaml_document_t *document, int index)
{
	char *copy, *value = NULL;

	if (all->n >= MAX_ENTRIES)
		return PSGD_ERR_CONFIG;
	PSGD__TRY(psgd__grow(&all->list, &all->capacity, all->n + 1, sizeof(*all->list)));
	PSGD__TRY(value_text(all, document, index, &value));
	copy = psgd__strdup(key);
	if (!copy) {
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

	PSGD__TRY(spend(all, node, depth));
	if (node->type != YAML_MAPPING_NODE)
		return depth ? add_entry(all, path, document, index) : PSGD_ERR_CONFIG;
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
	FILE *out, const struct rules *rules, const char *key, const char *first, const char *own)
{
	if (is_in(places, key) || is_in(rules->free_keys, key) ||
		(first && own && strcmp(first, own) == 0))
		return;
	fprintf(out, "%s%s: %s %s, %s %s", ftell(out) ? "\n" : "", key, rules->first_has,
		first ? first : "no such key", rules->own_has, own ? own : "no such key");
}

static psgd_status compare(
	const char *first, const char *own, const struct rules *rules, char **table)
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
		print_row(out, rules, a.list[i].key, a.list[i].value, find(&b, a.list[i].key));
	for (size_t i = 0; i < b.n; i++) {
		if (!find(&a, b.list[i].key))
			print_row(out, rules, b.list[i].key, NULL, b.list[i].value);
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

psgd_status psgd__compare_yaml(
	const char *first, const char *own, uint32_t own_worker, char **table)
{
	char own_has[40];
	struct rules rules = {NULL, "worker 0 has", own_has};

	snprintf(own_has, sizeof(own_has), "worker %u has", own_worker);
	return compare(first, own, &rules, table);
}

psgd_status psgd__compare_resumed(const char *before, const char *now, char **table)
{
	static const struct rules rules = {resumed, "it has", "this run has"};

	return compare(before, now, &rules, table);
}

psgd_status psgd__compare_finished(const char *before, const char *now, char **table)
{
	static const struct rules rules = {finished, "it has", "this run has"};

	return compare(before, now, &rules, table);
}
