/* Settings, counters, errors, and which devices there are. */
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "state.h"

namespace shim
{

thread_local bool in_host_function;

namespace
{

thread_local cudaError_t last_error;
thread_local int device;
thread_local bool has_context;

long long number(const char *name, long long otherwise)
{
	const char *text = std::getenv(name);

	return text && *text ? std::atoll(text) : otherwise;
}

void take_environment(Settings &s)
{
	const char *order = std::getenv("CUDA_SHIM_ORDER");
	std::string text = order ? order : "forward";
	size_t colon = text.find(':');
	std::string kind = text.substr(0, colon);

	s.devices = static_cast<int>(number("CUDA_SHIM_DEVICES", 1));
	s.first = static_cast<int>(number("CUDA_VISIBLE_DEVICES", 0));
	s.lazy = number("CUDA_SHIM_LAZY", 0) != 0;
	s.fail_at = static_cast<uint64_t>(number("CUDA_SHIM_FAIL", 0));
	s.lose_at = static_cast<uint64_t>(number("CUDA_SHIM_LOSE", 0));
	s.memory = static_cast<size_t>(number("CUDA_SHIM_MEMORY", 0));
	s.seed = colon == std::string::npos ? 1 : std::strtoull(&text[colon + 1], nullptr, 10);
	s.order = kind == "reverse" ? SHIM_REVERSE : kind == "random" ? SHIM_RANDOM : SHIM_FORWARD;
}

} // namespace

Settings &settings()
{
	/* Never destroyed: threads may outlive it. */
	static Settings *s = [] {
		auto *made = new Settings();

		take_environment(*made);
		return made;
	}();

	return *s;
}

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	std::fputs("cuda shim: ", stderr);
	std::vfprintf(stderr, format, args);
	std::fputc('\n', stderr);
	va_end(args);
	std::abort();
}

cudaError_t report(cudaError_t error)
{
	if (error != cudaSuccess)
		last_error = error;
	return error;
}

cudaError_t enter(cudaError_t injected)
{
	bool fails = shim_fails();

	if (in_host_function)
		return cudaErrorNotPermitted;
	if (cudaError_t error = shim_no_device())
		return error;
	if (shim_lost())
		return cudaErrorIllegalAddress;
	return fails ? injected : cudaSuccess;
}

int current_device()
{
	has_context = true;
	settings().contexts |= 1u << device;
	return device;
}

/* cuCtxGetCurrent, cuCtxSetCurrent: a context is the number of its device, from 1 on. */
static int get_context(void **context)
{
	*context = reinterpret_cast<void *>(has_context ? static_cast<intptr_t>(device) + 1 : 0);
	return 0;
}

static int set_context(void *context)
{
	has_context = context != nullptr;
	device = has_context ? static_cast<int>(reinterpret_cast<intptr_t>(context)) - 1 : 0;
	return 0;
}

} // namespace shim

using shim::enter;
using shim::report;
using shim::settings;

bool shim_fails()
{
	uint64_t call = ++settings().calls;

	return call == settings().fail_at || shim_lost();
}

bool shim_lost()
{
	uint64_t at = settings().lose_at;

	return at && settings().calls >= at;
}

cudaError_t shim_no_device()
{
	int devices = settings().devices;

	return devices < 0    ? cudaErrorInsufficientDriver
	       : devices == 0 ? cudaErrorNoDevice
			      : cudaSuccess;
}

int shim_device()
{
	return shim::current_device();
}

void shim_tally(enum shim_counter counter, uint64_t n)
{
	settings().counters[counter] += n;
}

void shim_own(int change)
{
	settings().owned += change;
}

void shim_reset(void)
{
	auto &s = settings();

	shim::drain();
	shim::take_environment(s);
	s.calls = 0;
	s.contexts = 0;
	for (auto &counter : s.counters)
		counter = 0;
	shim::wake();
}

int shim_place(int device)
{
	return settings().first + device;
}

void shim_devices(int n)
{
	settings().devices = std::min(n, shim::kMaxDevices);
}

void shim_order(enum shim_order order, uint64_t seed)
{
	settings().order = order;
	settings().seed = seed;
}

void shim_lazy(bool lazy)
{
	settings().lazy = lazy;
	shim::wake();
}

void shim_fail(uint64_t nth)
{
	settings().calls = 0;
	settings().fail_at = nth;
}

void shim_lose(uint64_t nth)
{
	settings().calls = 0;
	settings().lose_at = nth;
}

uint64_t shim_calls(void)
{
	return settings().calls;
}

uint64_t shim_count(enum shim_counter counter)
{
	return settings().counters[counter];
}

size_t shim_leaks(void)
{
	long owned = settings().owned;

	return owned > 0 ? static_cast<size_t>(owned) : 0;
}

unsigned shim_contexts(void)
{
	return settings().contexts;
}

void shim_memory_limit(size_t bytes)
{
	settings().memory = bytes;
}

/* Devices */

/* For what a device that is lost does not disturb. */
static cudaError_t enter_anyway()
{
	cudaError_t error = enter();

	return error == cudaErrorIllegalAddress ? cudaSuccess : error;
}

static cudaError_t check_device(int device)
{
	if (cudaError_t error = enter_anyway())
		return error;
	return device < 0 || device >= settings().devices ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
	if (cudaError_t error = enter())
		return report(error);
	*count = settings().devices;
	return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
	if (cudaError_t error = check_device(device))
		return report(error);
	shim::device = device;
	(void)shim::current_device();
	return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
	if (cudaError_t error = enter_anyway())
		return report(error);
	*device = shim::device;
	return cudaSuccess;
}

/* As an A100 has it, but for its size. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
	if (cudaError_t error = check_device(device))
		return report(error);
	std::memset(prop, 0, sizeof(*prop));
	std::snprintf(prop->name, sizeof(prop->name), "CUDA on a CPU");
	prop->totalGlobalMem = settings().memory ? settings().memory.load() : (size_t)4 << 30;
	prop->sharedMemPerBlock = shim::kSharedPerBlock;
	prop->regsPerBlock = 65536;
	prop->warpSize = 32;
	prop->maxThreadsPerBlock = 1024;
	prop->maxThreadsDim[0] = prop->maxThreadsDim[1] = 1024;
	prop->maxThreadsDim[2] = 64;
	prop->maxGridSize[0] = 2147483647;
	prop->maxGridSize[1] = prop->maxGridSize[2] = 65535;
	prop->major = 8;
	prop->multiProcessorCount = shim::kMultiprocessors;
	prop->pciBusID = shim_place(device) + 1;
	prop->asyncEngineCount = 2;
	prop->memoryBusWidth = 5120;
	prop->l2CacheSize = 40 << 20;
	prop->maxThreadsPerMultiProcessor = 2048;
	prop->sharedMemPerMultiprocessor = 164 << 10;
	prop->sharedMemPerBlockOptin = 163 << 10;
	return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
	if (cudaError_t error = check_device(device))
		return report(error);
	switch (attr) {
	case cudaDevAttrMaxThreadsPerBlock:
		*value = 1024;
		break;
	case cudaDevAttrMaxGridDimX:
		*value = 2147483647;
		break;
	case cudaDevAttrMaxGridDimY:
	case cudaDevAttrMaxGridDimZ:
		*value = 65535;
		break;
	case cudaDevAttrMaxSharedMemoryPerBlock:
		*value = shim::kSharedPerBlock;
		break;
	case cudaDevAttrWarpSize:
		*value = 32;
		break;
	case cudaDevAttrMultiProcessorCount:
		*value = shim::kMultiprocessors;
		break;
	case cudaDevAttrComputeMode:
		*value = 0;
		break;
	case cudaDevAttrMemoryClockRate:
		*value = 1215000;
		break;
	case cudaDevAttrGlobalMemoryBusWidth:
		*value = 5120;
		break;
	case cudaDevAttrL2CacheSize:
		*value = 40 << 20;
		break;
	case cudaDevAttrMaxThreadsPerMultiProcessor:
		*value = 2048;
		break;
	case cudaDevAttrComputeCapabilityMajor:
		*value = 8;
		break;
	case cudaDevAttrComputeCapabilityMinor:
		*value = 0;
		break;
	case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
		*value = 164 << 10;
		break;
	case cudaDevAttrMaxSharedMemoryPerBlockOptin:
		*value = 163 << 10;
		break;
	case cudaDevAttrMaxBlocksPerMultiprocessor:
		*value = 32;
		break;
	default:
		return report(cudaErrorInvalidValue);
	}
	return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *pciBusId, int len, int device)
{
	if (cudaError_t error = check_device(device))
		return report(error);
	if (len < 13)
		return report(cudaErrorInvalidValue);
	std::snprintf(pciBusId, static_cast<size_t>(len), "0000:%02X:00.0", shim_place(device) + 1);
	return cudaSuccess;
}

/* These two answer without a driver too. */
cudaError_t cudaDriverGetVersion(int *driverVersion)
{
	if (shim_fails())
		return report(cudaErrorUnknown);
	*driverVersion = settings().devices < 0 ? 0 : CUDART_VERSION;
	return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *runtimeVersion)
{
	if (shim_fails())
		return report(cudaErrorUnknown);
	*runtimeVersion = CUDART_VERSION;
	return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **funcPtr, unsigned int,
	unsigned long long flags, enum cudaDriverEntryPointQueryResult *driverStatus)
{
	const std::string name = symbol ? symbol : "";
	void *found = name == "cuCtxGetCurrent"	  ? reinterpret_cast<void *>(shim::get_context)
		      : name == "cuCtxSetCurrent" ? reinterpret_cast<void *>(shim::set_context)
						  : nullptr;

	if (cudaError_t error = enter())
		return report(error);
	if (!funcPtr || flags != cudaEnableDefault)
		return report(cudaErrorInvalidValue);
	*funcPtr = found;
	if (driverStatus)
		*driverStatus =
			found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
	return cudaSuccess;
}

/* Errors */

cudaError_t cudaGetLastError(void)
{
	cudaError_t error = shim::last_error;

	shim::last_error = cudaSuccess;
	return error;
}

cudaError_t cudaPeekAtLastError(void)
{
	return shim::last_error;
}

static const struct {
	cudaError_t error;
	const char *name, *text;
} texts[] = {
	{cudaSuccess, "cudaSuccess", "no error"},
	{cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
	{cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
	{cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
	{cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
		"invalid configuration argument"},
	{cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
	{cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
		"invalid copy direction for memcpy"},
	{cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
		"CUDA driver version is insufficient for CUDA runtime version"},
	{cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
	{cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
	{cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
		"invalid resource handle"},
	{cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
	{cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
		"an illegal memory access was encountered"},
	{cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
		"too many resources requested for launch"},
	{cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
	{cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
	{cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
	{cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error)
{
	for (const auto &entry : texts)
		if (entry.error == error)
			return entry.name;
	return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
	for (const auto &entry : texts)
		if (entry.error == error)
			return entry.text;
	return "unrecognized error code";
}
