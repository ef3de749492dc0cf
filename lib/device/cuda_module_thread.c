/*
 * Which device is current in a thread. To set one gives the thread the device's context, and makes
 * that where there is none; so a thread that had no context must not be given one of the device
 * that it had by default: half a gigabyte of it, for each process of a machine. It has none again
 * then, and the runtime decides, as before, on what it is to work when it says nothing.
 */
#include <string.h>

#include "base/base.h"
#include "device/cuda_module_impl.h"

#define NO_CONTEXT (-1)
#define SINCE 4000 /* the CUDA of both functions */

/* Of the driver, whose header two functions are not worth. */
static bool find(const char *name, void *out, size_t bytes)
{
	enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
	void *place = NULL;
	cudaError_t error;

#if CUDART_VERSION >= 12050
	error = cudaGetDriverEntryPointByVersion(name, &place, SINCE, cudaEnableDefault, &found);
#else
	error = cudaGetDriverEntryPoint(name, &place, cudaEnableDefault, &found);
#endif
	if (error != cudaSuccess)
		cudaGetLastError();
	memcpy(out, &place, bytes);
	return error == cudaSuccess && found == cudaDriverEntryPointSuccess && place;
}

void psgd__cuda_find_contexts(struct psgd__cuda *d)
{
	if (!find("cuCtxGetCurrent", &d->get_context, sizeof(d->get_context)) ||
		!find("cuCtxSetCurrent", &d->set_context, sizeof(d->set_context)))
		d->get_context = NULL;
}

psgd_status psgd__cuda_enter(struct psgd__cuda *d, int *before)
{
	void *context = NULL;

	PSGD__TRY(psgd__cuda_status(d, cudaGetDevice(before), "cudaGetDevice"));
	if (*before == (int)d->setup.ordinal)
		return PSGD_OK;
	if (d->get_context && !d->get_context(&context) && !context)
		*before = NO_CONTEXT;
	return psgd__cuda_status(d, cudaSetDevice((int)d->setup.ordinal), "cudaSetDevice");
}

void psgd__cuda_leave(struct psgd__cuda *d, int before)
{
	if (before == NO_CONTEXT)
		(void)d->set_context(NULL);
	else if (before != (int)d->setup.ordinal && cudaSetDevice(before) != cudaSuccess)
		cudaGetLastError();
}
