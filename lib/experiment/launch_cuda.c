#include <psgd/experiment/launch.h>

#include <stdlib.h>

#include <psgd/transport.h>

#include "base/base.h"

psgd_status psgd_launch_cuda(const struct psgd_launch *launch, const char *module_dir,
	struct psgd_cuda_device *out, char *error, size_t error_bytes)
{
	struct psgd_cuda_device info = PSGD_INIT(psgd_cuda_device);
	uint32_t count = 0, version = 0;
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	psgd_status status;

	psgd__text(error, error_bytes, "%s", "");
	if (!launch || !out || !psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	status = psgd_cuda_info(launch->local_rank, module_dir, &info, &count, error, error_bytes);
	/* What a launcher shows to one task only is that task's, from 0. */
	if (count > 0 && count < launch->local_size && visible && *visible)
		status = psgd_cuda_info(0, module_dir, &info, &count, error, error_bytes);
	/* Of all workers of a node alike, though only the last ones lack a device. */
	else if ((!status || status == PSGD_ERR_INVALID) && count < launch->local_size) {
		psgd__text(error, error_bytes, "this node has %u CUDA device%s for %u workers",
			count, count == 1 ? "" : "s", launch->local_size);
		status = PSGD_ERR_UNSUPPORTED;
	}
	if (!status && launch->n_workers > 1)
		status = psgd_nccl_info(module_dir, &version, error, error_bytes);
	psgd__copy_report(out, &info, sizeof(info));
	return status;
}
