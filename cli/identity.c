/* Which workers this process supervises. SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <psgd/experiment/stack.h>

#include "cli.h"

#define MAX_WORKERS 4096

/* HOST:PORT, [V6]:PORT or HOST. */
static bool parse_endpoint(const char *text, char *host, size_t host_bytes, int64_t *port)
{
	const char *begin = text, *end, *rest;

	if (*text == '[') {
		begin = text + 1;
		end = strchr(begin, ']');
		if (!end)
			return false;
		rest = end + 1;
	} else {
		end = strchr(text, ':');
		if (!end)
			end = text + strlen(text);
		rest = end;
	}
	if (end == begin || (size_t)(end - begin) >= host_bytes)
		return false;
	memcpy(host, begin, (size_t)(end - begin));
	host[end - begin] = '\0';
	if (*rest == '\0')
		return true;
	return *rest == ':' && cli_parse_number(rest + 1, 1, 65535, port);
}

/* A port that was free a moment ago; the rendezvous reports it if that has changed. */
static uint16_t free_loopback_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint16_t port = 0;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, bytes) == 0 &&
		getsockname(fd, (struct sockaddr *)&address, &bytes) == 0)
		port = ntohs(address.sin_port);
	if (fd >= 0)
		close(fd);
	return port;
}

static psgd_status refuse(char *error, size_t bytes, const char *text)
{
	snprintf(error, bytes, "%s", text);
	return PSGD_ERR_CONFIG;
}

/* Two ways to say the same thing are refused before either is believed. */
static psgd_status check_flags(const struct cli_identity *flags, char *error, size_t bytes)
{
	bool single = flags->rank >= 0 || flags->world_size >= 0 || flags->local_rank >= 0;
	bool address = flags->master_addr || flags->master_port >= 0;
	bool nodes = flags->nnodes >= 0 || flags->node_rank >= 0;

	if (flags->rdzv_endpoint && address)
		return refuse(error, bytes,
			"--rdzv-endpoint says the same as --master-addr and --master-port: give "
			"one");
	if (flags->standalone && (nodes || single || address || flags->rdzv_endpoint))
		return refuse(error, bytes,
			"--standalone is one node with an address of its own: of the identity "
			"flags "
			"it takes only --nproc-per-node");
	if (single && (nodes || flags->nproc_per_node >= 0))
		return refuse(error, bytes,
			"--rank, --world-size and --local-rank name one worker; --nnodes, "
			"--node-rank "
			"and --nproc-per-node name a node's workers: give one kind");
	if (flags->nnodes > 1 && flags->node_rank < 0)
		return refuse(error, bytes, "--nnodes needs --node-rank");
	if (flags->node_rank >= 0 && flags->nnodes < 0)
		return refuse(error, bytes, "--node-rank needs --nnodes");
	if (flags->nnodes >= 0 && flags->node_rank >= flags->nnodes) {
		snprintf(error, bytes, "--node-rank %lld: nodes are 0 to %lld (--nnodes %lld)",
			(long long)flags->node_rank, (long long)flags->nnodes - 1,
			(long long)flags->nnodes);
		return PSGD_ERR_CONFIG;
	}
	return PSGD_OK;
}

static psgd_status standalone(
	uint32_t count, struct psgd_launch *out, char *error, size_t error_bytes)
{
	uint16_t port = free_loopback_port();

	if (!port) {
		snprintf(error, error_bytes, "--standalone: no free port on 127.0.0.1");
		return PSGD_ERR_IO;
	}
	for (uint32_t i = 0; i < count; i++) {
		out[i] = PSGD_INIT(psgd_launch);
		out[i].worker = out[i].local_rank = i;
		out[i].n_workers = out[i].local_size = count;
		out[i].master_port = port;
		snprintf(out[i].master_addr, sizeof(out[i].master_addr), "127.0.0.1");
		snprintf(out[i].source, sizeof(out[i].source), "standalone");
	}
	return PSGD_OK;
}

/* As many workers as the node has, or the single one that flags or launcher name. */
static psgd_status resolve(const struct cli_identity *flags, const char *host, int64_t port,
	uint32_t count, struct psgd_launch *out, char *error, size_t error_bytes)
{
	bool node = flags->nnodes >= 0 || flags->nproc_per_node >= 0;
	int64_t nnodes = flags->nnodes >= 0 ? flags->nnodes : 1;
	int64_t node_rank = flags->node_rank >= 0 ? flags->node_rank : 0;

	for (uint32_t i = 0; i < count; i++) {
		struct psgd_launch_flags each = PSGD_INIT(psgd_launch_flags);
		psgd_status status;

		each.rank = node ? node_rank * count + i : flags->rank;
		each.world_size = node ? nnodes * count : flags->world_size;
		each.local_rank = node ? (int64_t)i : flags->local_rank;
		each.local_size = node ? (int64_t)count : -1;
		each.master_port = port;
		each.master_addr = host;
		out[i] = PSGD_INIT(psgd_launch);
		status = psgd_launch_resolve(&each, &out[i], error, error_bytes);
		if (status != PSGD_OK)
			return status;
	}
	return PSGD_OK;
}

psgd_status cli_identify(const struct cli_identity *flags, struct psgd_launch **out, size_t *n,
	char *error, size_t error_bytes)
{
	char host[256];
	const char *address = flags->master_addr;
	int64_t port = flags->master_port;
	uint32_t count = flags->nproc_per_node > 0 ? (uint32_t)flags->nproc_per_node : 1;
	struct psgd_launch *list;
	psgd_status status = check_flags(flags, error, error_bytes);

	*out = NULL;
	*n = 0;
	if (status != PSGD_OK)
		return status;
	if (flags->rdzv_endpoint) {
		if (!parse_endpoint(flags->rdzv_endpoint, host, sizeof(host), &port)) {
			snprintf(error, error_bytes, "--rdzv-endpoint: '%s' is not HOST:PORT",
				flags->rdzv_endpoint);
			return PSGD_ERR_CONFIG;
		}
		address = host;
	}
	if (flags->nnodes > 0 && flags->nnodes * (int64_t)count > MAX_WORKERS)
		return refuse(error, error_bytes,
			"--nnodes times --nproc-per-node: more than 4096 workers");
	list = calloc(count, sizeof(*list));
	if (!list)
		return PSGD_ERR_NOMEM;
	status = flags->standalone ? standalone(count, list, error, error_bytes)
				   : resolve(flags, address, port, count, list, error, error_bytes);
	if (status != PSGD_OK) {
		free(list);
		return status;
	}
	*out = list;
	*n = count;
	return PSGD_OK;
}

int cli_find_workers(const struct cli_identity *flags, struct psgd_launch **out, size_t *n)
{
	char error[CLI_ERROR_BYTES] = "";
	psgd_status status = cli_identify(flags, out, n, error, sizeof(error));

	if (status == PSGD_OK)
		return CLI_OK;
	cli_complain("%s", *error ? error : psgd_status_text(status));
	return psgd_exit_code(status);
}

void cli_print_workers(const struct psgd_launch *workers, size_t n)
{
	const struct psgd_launch *first = &workers[0];
	const char *v6 = strchr(first->master_addr, ':');

	if (n == 1)
		printf("worker %u", first->worker);
	else
		printf("workers %u to %u", first->worker, workers[n - 1].worker);
	printf(" of %u (%s), %s%s%s:%u\n", first->n_workers, first->source, v6 ? "[" : "",
		first->master_addr, v6 ? "]" : "", first->master_port);
}
