/* CUDA and NCCL of a run's workers. SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <psgd/experiment/stack.h>

#include "net_limits.h"
#include "run.h"

int cli_check_cuda(const struct cli_job *job)
{
	bool named = strcmp(job->config->device, "cuda") == 0;
	char error[512] = "";
	uint32_t first = 0;

	if (!named && strcmp(job->config->communication.transport, "nccl") != 0)
		return CLI_OK;
	for (size_t i = 0; i < job->n_workers; i++) {
		struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
		psgd_status status = psgd_launch_cuda(
			&job->workers[i], cli_module_dir(), &info, error, sizeof(error));

		/* Workers of one process see the same devices. */
		if (status == PSGD_OK && i > 0 && info.ordinal == first)
			snprintf(error, sizeof(error),
				"CUDA_VISIBLE_DEVICES shows too few devices for %zu workers",
				job->n_workers);
		else if (status == PSGD_OK && i == 0)
			first = info.ordinal;
		if (status == PSGD_OK && !*error)
			continue;
		cli_complain("%s: %s", named ? "device: cuda" : "communication.transport: nccl",
			*error ? error : psgd_status_text(status));
		return CLI_ENVIRONMENT;
	}
	return CLI_OK;
}

/* A variable of NCCL's that the user has set stays as it is. */
static void add_unset(struct cli_strings *out, const char *name, const char *value)
{
	if (!getenv(name))
		cli_strings_add(out, "%s=%s", name, value);
}

void cli_nccl_settings(const struct cli_job *job, struct cli_strings *out)
{
	const struct psgd_config_communication *c = &job->config->communication;
	const char *interface = c->interface;
	char name[64];

	if (job->workers[0].n_workers == 1 || strcmp(job->config->device, "cpu") == 0 ||
		strcmp(c->transport, "gloo") == 0)
		return;
	add_unset(out, "NCCL_DEBUG", "WARN");
	if (!interface && job->limits->by_kernel)
		interface = job->limits->interface;
	if (interface) {
		snprintf(name, sizeof(name), "=%s", interface);
		add_unset(out, "NCCL_SOCKET_IFNAME", name);
	}
	if (!job->limits->by_kernel)
		return;
	add_unset(out, "NCCL_IB_DISABLE", "1");
	add_unset(out, "NCCL_NET", "Socket");
	snprintf(name, sizeof(name), "psgd-%u", job->workers[0].worker);
	add_unset(out, "NCCL_HOSTID", name);
	if (job->n_workers > 1)
		return;
	add_unset(out, "NCCL_P2P_DISABLE", "1");
	add_unset(out, "NCCL_SHM_DISABLE", "1");
}
