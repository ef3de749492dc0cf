/* The module psgd-cuda.so: what devices there are, and opening one. */
#include "device/cuda_module.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "device/cuda_module_impl.h"

#ifndef PSGD__CUDA_LOWEST
#define PSGD__CUDA_LOWEST                                                                          \
	75 /* the oldest compute capability that there are kernels for, times 10 */
#endif

/* Versions, as far as they are known: neither call needs a driver. */
static void versions(struct psgd_cuda_device *out)
{
	int driver = 0, runtime = 0;

	if (cudaDriverGetVersion(&driver) != cudaSuccess || driver < 0)
		driver = 0;
	if (cudaRuntimeGetVersion(&runtime) != cudaSuccess || runtime < 0)
		runtime = 0;
	out->driver = (uint32_t)driver;
	out->runtime = (uint32_t)runtime;
}

static psgd_status no_device(
	cudaError_t error, const struct psgd_cuda_device *info, char *reason, size_t bytes)
{
	const unsigned major = info->runtime / 1000, minor = info->runtime % 1000 / 10;

	cudaGetLastError();
	if (error == cudaErrorInsufficientDriver && !info->driver)
		snprintf(reason, bytes, "no CUDA driver");
	else if (error == cudaErrorInsufficientDriver)
		snprintf(reason, bytes, "the CUDA driver (%u.%u) is too old for CUDA %u.%u",
			info->driver / 1000, info->driver % 1000 / 10, major, minor);
	else if (error == cudaErrorNoDevice || error == cudaSuccess)
		snprintf(reason, bytes, "no CUDA device");
	else
		snprintf(reason, bytes, "cudaGetDeviceCount: %s", cudaGetErrorString(error));
	return PSGD_ERR_UNSUPPORTED;
}

static psgd_status info(
	uint32_t ordinal, struct psgd_cuda_device *out, uint32_t *count, char *reason, size_t bytes)
{
	struct cudaDeviceProp prop;
	cudaError_t error;
	int n = 0;

	*count = 0;
	versions(out);
	/* The only call to probe with: others answer without a driver. */
	error = cudaGetDeviceCount(&n);
	if (error != cudaSuccess || n < 1)
		return no_device(error, out, reason, bytes);
	*count = (uint32_t)n;
	if (ordinal >= *count) {
		snprintf(reason, bytes, "no CUDA device %u: there %s %d", ordinal,
			n == 1 ? "is" : "are", n);
		return PSGD_ERR_INVALID;
	}
	error = cudaGetDeviceProperties(&prop, (int)ordinal);
	if (error != cudaSuccess) {
		cudaGetLastError();
		snprintf(reason, bytes, "CUDA device %u: %s", ordinal, cudaGetErrorString(error));
		return PSGD_ERR_UNSUPPORTED;
	}
	out->ordinal = ordinal;
	snprintf(out->bus, sizeof(out->bus), "%04x:%02x:%02x", (unsigned)prop.pciDomainID,
		(unsigned)prop.pciBusID, (unsigned)prop.pciDeviceID);
	out->memory_bytes = prop.totalGlobalMem;
	out->major = (uint32_t)prop.major;
	out->minor = (uint32_t)prop.minor;
	snprintf(out->name, sizeof(out->name), "%.*s", (int)sizeof(out->name) - 1, prop.name);
	return PSGD_OK;
}

/* The device is made current once, so that what cannot be used is found here and not in a step. */
static psgd_status try_device(struct psgd__cuda *d)
{
	void *memory;
	int before;
	psgd_status status = psgd__cuda_enter(d, &before);

	if (status < 0)
		return status;
	status = psgd__cuda_alloc(d, 1, &memory);
	if (status >= 0)
		psgd__cuda_free(d, memory, 1);
	psgd__cuda_leave(d, before);
	return status;
}

static psgd_status open_device(
	const struct psgd__cuda_setup *setup, struct psgd_device *out, char *reason, size_t bytes)
{
	struct psgd_cuda_device found = {.size = sizeof(found)};
	struct psgd__cuda *d;
	psgd_status status;
	uint32_t count;

	PSGD__TRY(info(setup->ordinal, &found, &count, reason, bytes));
	if (found.major * 10 + found.minor < PSGD__CUDA_LOWEST) {
		snprintf(reason, bytes,
			"%s has compute capability %u.%u; this build is for %d.%d and later",
			found.name, found.major, found.minor, PSGD__CUDA_LOWEST / 10,
			PSGD__CUDA_LOWEST % 10);
		return PSGD_ERR_UNSUPPORTED;
	}
	d = calloc(1, sizeof(*d));
	if (!d) {
		snprintf(reason, bytes, "out of memory");
		return PSGD_ERR_NOMEM;
	}
	d->setup = *setup;
	snprintf(d->variant, sizeof(d->variant), "sm_%u%u", found.major, found.minor);
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->text_lock, NULL);
	psgd__cuda_find_contexts(d);
	status = try_device(d);
	if (status < 0) {
		psgd__cuda_ops.error(d, reason, bytes);
		psgd__cuda_ops.destroy(d);
		return status;
	}
	*out = (struct psgd_device){&psgd__cuda_ops, d};
	return PSGD_OK;
}

static const struct psgd__cuda_module module = {
	.size = sizeof(module),
	.info = info,
	.open = open_device,
};

const struct psgd__cuda_module *PSGD__CUDA_ENTRY(void);

__attribute__((visibility("default"))) const struct psgd__cuda_module *PSGD__CUDA_ENTRY(void)
{
	return &module;
}
