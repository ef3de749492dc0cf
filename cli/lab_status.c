/* What is in the labs of this machine. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab.h"
#include "net_limits.h"

/* ---- gathering: a JSON object for each lab, and in it for each node ---- */

static void add_address(json_t *node, const struct lab_space *space)
{
	char text[INET_ADDRSTRLEN];
	struct in_addr address;
	unsigned bits;

	if (lab_address(space, &address, &bits) && inet_ntop(AF_INET, &address, text, sizeof(text)))
		json_object_set_new(node, "address", json_sprintf("%s/%u", text, bits));
	else
		json_object_set_new(node, "address", json_null());
}

static void add_link(json_t *node, const struct psgd_tc_state *state)
{
	const struct psgd_link *link = &state->link;

	json_object_set_new(node, "shaped", json_boolean(state->shaped));
	json_object_set_new(node, "tx_bytes", json_integer((json_int_t)state->tx_bytes));
	json_object_set_new(node, "rx_bytes", json_integer((json_int_t)state->rx_bytes));
	if (!state->shaped)
		return;
	/* as in a configuration: 0 is no limit */
	json_object_set_new(node, "egress_mbps", json_real((double)link->egress_bps / 1e6));
	json_object_set_new(node, "ingress_mbps", json_real((double)link->ingress_bps / 1e6));
	json_object_set_new(node, "latency_ms", json_real((double)link->delay_ns / 1e6));
}

static void add_shaping(json_t *node, const struct lab_space *space)
{
	char error[CLI_LIMITS_ERROR_BYTES] = "";
	struct psgd_tc_options options = cli_tc_options(LAB_INTERFACE, error, sizeof(error));
	struct psgd_tc_state state = PSGD_INIT(psgd_tc_state);
	size_t found = 0;
	psgd_status status;
	int home;

	if (!lab_enter(space->fd, &home))
		return;
	status = psgd_tc_show(&options, &state, 1, &found);
	lab_leave(home);
	if (status == PSGD_OK && found == 1)
		add_link(node, &state);
	else
		json_object_set_new(
			node, "unknown", json_string(*error ? error : psgd_status_text(status)));
}

struct gathering {
	const struct lab *lab;
	json_t **nodes; /* as the lab's spaces; NULL for a hub */
};

static void add_process(void *user, const struct lab_space *space, pid_t pid)
{
	const struct gathering *g = user;
	json_t *node = g->nodes[space - g->lab->spaces];
	char path[64], name[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return;
	if (fgets(name, sizeof(name), file))
		name[strcspn(name, "\n")] = '\0';
	fclose(file);
	if (node)
		json_array_append_new(json_object_get(node, "processes"),
			json_pack("{s:i, s:s}", "pid", (int)pid, "name", name));
}

/* The spaces of one lab from `first` on; *next is where another begins. */
static json_t *describe(const struct lab *lab, size_t first, size_t *next, json_t **of_space)
{
	const struct lab_mark *mark = &lab->spaces[first].mark;
	bool hub = mark->number == LAB_HUB;
	json_t *nodes = json_array(), *out;
	size_t i = first + hub;

	for (; i < lab->n && strcmp(lab->spaces[i].mark.name, mark->name) == 0; i++) {
		const struct lab_space *space = &lab->spaces[i];
		json_t *node;

		if (space->fd < 0)
			continue;
		node = json_pack("{s:s}", "name", space->file);
		add_address(node, space);
		add_shaping(node, space);
		json_object_set_new(node, "processes", json_array());
		of_space[i] = node;
		json_array_append_new(nodes, node);
	}
	*next = i;
	out = json_pack("{s:s, s:i, s:b, s:b}", "name", mark->name, "n", hub ? (int)mark->n : 0,
		"complete", hub && mark->built && json_array_size(nodes) == mark->n, "for_a_run",
		hub && !mark->kept);
	json_object_set_new(out, "nodes", nodes);
	return out;
}

static json_t *gather(const struct lab *lab)
{
	json_t *labs = json_array(), **nodes = calloc(lab->n + 1, sizeof(*nodes));
	struct gathering gathering = {lab, nodes};

	if (!nodes) {
		json_decref(labs);
		return NULL;
	}
	for (size_t i = 0; i < lab->n;)
		json_array_append_new(labs, describe(lab, i, &i, nodes));
	lab_processes(lab, add_process, &gathering);
	free(nodes);
	return json_pack("{s:o}", "labs", labs);
}

/* ---- for people ---- */

static double number_of(const json_t *node, const char *key)
{
	return json_number_value(json_object_get(node, key));
}

static void print_node(const json_t *node)
{
	const char *address = json_string_value(json_object_get(node, "address"));
	const char *unknown = json_string_value(json_object_get(node, "unknown"));
	const json_t *processes = json_object_get(node, "processes"), *process;
	struct psgd_link link = PSGD_INIT(psgd_link);
	char limits[128];
	size_t i;

	link.egress_bps = (uint64_t)(number_of(node, "egress_mbps") * 1e6 + 0.5);
	link.ingress_bps = (uint64_t)(number_of(node, "ingress_mbps") * 1e6 + 0.5);
	link.delay_ns = (int64_t)(number_of(node, "latency_ms") * 1e6 + 0.5);
	cli_link_text(limits, sizeof(limits), &link);
	printf("  %-10s %-18s %s\n", json_string_value(json_object_get(node, "name")),
		address ? address : "no address",
		unknown						? unknown
		: json_is_true(json_object_get(node, "shaped")) ? limits
								: "not limited");
	json_array_foreach(processes, i, process)
	{
		printf("  %-10s %lld %s\n", "",
			(long long)json_integer_value(json_object_get(process, "pid")),
			json_string_value(json_object_get(process, "name")));
	}
}

static void print_all(const json_t *labs)
{
	const json_t *lab, *node;
	size_t i, k;

	if (json_array_size(labs) == 0)
		printf("no lab is up\n");
	json_array_foreach(labs, i, lab)
	{
		const json_t *nodes = json_object_get(lab, "nodes");
		size_t n = json_array_size(nodes);
		const char *name = json_string_value(json_object_get(lab, "name"));

		printf("%s: %zu node%s%s\n", name, n, cli_plural((long long)n),
			json_is_true(json_object_get(lab, "for_a_run")) ? ", for one run" : "");
		if (!json_is_true(json_object_get(lab, "complete")))
			printf("  not complete: psgd lab down --name %s removes it\n", name);
		json_array_foreach(nodes, k, node)
		{
			print_node(node);
		}
	}
}

int lab_status(const char *name, bool json)
{
	struct lab lab;
	json_t *root = NULL;
	int code = lab_find(name, &lab);

	if (code == CLI_OK) {
		root = gather(&lab);
		code = root ? CLI_OK : CLI_FAILED;
	}
	if (root && json) {
		json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
		printf("\n");
	} else if (root) {
		print_all(json_object_get(root, "labs"));
	}
	json_decref(root);
	lab_free(&lab);
	return code;
}
