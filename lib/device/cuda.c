/* Opens the module psgd-cuda.so, which links CUDA so that the library does not. */
#include <string.h>

#include "base/module.h"
#include "device/cpu.h"
#include "device/cuda_module.h"

#define REASON_BYTES 512

/* The module's code stays mapped, so it is not kept open. */
static psgd_status load(
	const char *folder, const struct psgd__cuda_module **out, char *reason, size_t bytes)
{
	const struct psgd__module module = {"CUDA", "psgd-cuda.so", PSGD__CUDA_ENTRY_NAME};
	psgd__cuda_entry entry;
	void *library;

	PSGD__TRY(psgd__module_open(&module, folder, &library, &entry, reason, bytes));
	*out = entry();
	psgd__module_close(library);
	if (PSGD__HAS(*out, open))
		return PSGD_OK;
	psgd__text(reason, bytes, "the CUDA module is of another version");
	return PSGD_ERR_UNSUPPORTED;
}

static psgd_status end(psgd_status status, const char *reason, char *error, size_t bytes)
{
	if (status < 0)
		psgd__text(error, bytes, "%s", reason[0] ? reason : psgd_status_text(status));
	else
		psgd__text(error, bytes, "%s", "");
	return status;
}

psgd_status psgd_device_cuda(
	const struct psgd_device_cuda_options *options, struct psgd_device *out)
{
	const struct psgd__cuda_module *module;
	char reason[REASON_BYTES] = "";
	struct psgd_device_cuda_options o;
	struct psgd__cuda_setup setup = {.size = sizeof(setup), .leading = psgd__cpu_leading};
	psgd_status status;

	if (!out)
		return PSGD_ERR_INVALID;
	memset(out, 0, sizeof(*out));
	PSGD__TRY(psgd__copy_options(&o, sizeof(o), options));
	if (!o.alloc != !o.free)
		return end(PSGD_ERR_INVALID, "alloc and free go together", o.error, o.error_bytes);
	setup.alloc = o.alloc;
	setup.free = o.free;
	setup.alloc_user = o.alloc_user;
	setup.ordinal = o.ordinal;
	status = load(o.module_dir, &module, reason, sizeof(reason));
	if (!status)
		status = module->open(&setup, out, reason, sizeof(reason));
	return end(status, reason, o.error, o.error_bytes);
}

psgd_status psgd_cuda_info(uint32_t ordinal, const char *module_dir, struct psgd_cuda_device *out,
	uint32_t *count, char *error, size_t error_bytes)
{
	struct psgd_cuda_device found = {.size = sizeof(found)};
	const struct psgd__cuda_module *module;
	char reason[REASON_BYTES] = "";
	uint32_t n = 0;
	psgd_status status;

	if (!out || !psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	status = load(module_dir, &module, reason, sizeof(reason));
	if (!status)
		status = module->info(ordinal, &found, &n, reason, sizeof(reason));
	psgd__copy_report(out, &found, sizeof(found));
	if (count)
		*count = n;
	return end(status, reason, error, error_bytes);
}
