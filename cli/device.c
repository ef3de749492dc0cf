/* CUDA devices for commands that compute. SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "cli.h"

const char *cli_cuda_version(char to[16], uint32_t version)
{
	snprintf(to, 16, "%u.%u", version / 1000 % 1000, version % 1000 / 10);
	return to;
}

psgd_status cli_open_cuda(uint32_t ordinal, struct psgd_device *out, char *name, size_t bytes)
{
	struct psgd_device_cuda_options options = PSGD_INIT(psgd_device_cuda_options);
	struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
	char error[512] = "";
	uint32_t count = 0;
	psgd_status status;

	options.ordinal = ordinal;
	options.module_dir = cli_module_dir();
	options.error = error;
	options.error_bytes = sizeof(error);
	status = psgd_cuda_info(ordinal, options.module_dir, &info, &count, error, sizeof(error));
	if (status == PSGD_OK)
		status = psgd_device_cuda(&options, out);
	if (status == PSGD_OK)
		snprintf(name, bytes, "cuda %u: %s (%u.%u)", ordinal, info.name, info.major,
			info.minor);
	else
		snprintf(name, bytes, "%s", *error ? error : psgd_status_text(status));
	return status;
}
