/* What is put on streams: kernels, copies, fills, host functions. */
#include <cstring>

#include "block.h"
#include "streams.h"

using namespace shim;

static cudaError_t put(cudaStream_t stream, std::function<void()> work)
{
	return shim_enqueue(stream, std::move(work)) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

/* Kernels */

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value)
{
	if (cudaError_t error = enter())
		return report(error);
	if (!func || value < 0)
		return report(cudaErrorInvalidValue);
	if (attr == cudaFuncAttributeMaxDynamicSharedMemorySize) {
		Streams &s = streams();
		std::lock_guard<std::mutex> lock(s.mutex);

		if (value > SHIM_MAX_SHARED)
			return report(cudaErrorInvalidValue);
		s.shared_limits[func] = static_cast<size_t>(value);
	}
	return cudaSuccess;
}

static cudaError_t check_launch(
	Streams &s, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream)
{
	auto found = find_stream(s, stream);
	auto limit = s.shared_limits.find(kernel);
	uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;

	if (!found || found->device != current_device())
		return cudaErrorInvalidResourceHandle;
	if (!threads || threads > SHIM_MAX_THREADS || block.z > 64 || !grid.x || !grid.y ||
		!grid.z || grid.x > 2147483647 || grid.y > 65535 || grid.z > 65535)
		return cudaErrorInvalidConfiguration;
	if (shared > (limit == s.shared_limits.end() ? kSharedPerBlock : limit->second))
		return cudaErrorInvalidValue;
	return cudaSuccess;
}

void shim_check_argument(const char *name, const void *pointer)
{
	if (pointer && place_of(pointer, 1) == Place::pageable)
		die("kernel %s gets %p, which is no memory of a device", name, pointer);
}

void shim_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared,
	cudaStream_t stream, std::function<void()> body)
{
	Streams &s = streams();
	cudaError_t error = enter(cudaErrorLaunchFailure);
	uint64_t seed;

	shim_tally(SHIM_KERNELS);
	{
		std::lock_guard<std::mutex> lock(s.mutex);

		if (!error)
			error = check_launch(s, kernel, grid, block, shared, stream);
		seed = settings().seed * 1000003 + ++s.launches;
	}
	if (!error)
		error = put(stream, [=] {
			struct shim_kernel run = {name, grid, block, shared,
				static_cast<enum shim_order>(settings().order.load()), seed,
				[](void *user) {
					(*static_cast<const std::function<void()> *>(user))();
				},
				const_cast<std::function<void()> *>(&body)};

			shim_run_kernel(&run);
		});
	report(error);
}

/* Copies */

struct Rows {
	size_t pitch, width, height;

	size_t bytes() const
	{
		return (height - 1) * pitch + width;
	}
};

static bool fits(Place to, Place from, enum cudaMemcpyKind kind)
{
	bool to_device = to == Place::device, from_device = from == Place::device;

	switch (kind) {
	case cudaMemcpyHostToHost:
		return !to_device && !from_device;
	case cudaMemcpyHostToDevice:
		return to_device && !from_device;
	case cudaMemcpyDeviceToHost:
		return !to_device && from_device;
	case cudaMemcpyDeviceToDevice:
		return to_device && from_device;
	case cudaMemcpyDefault:
		return true;
	}
	return false;
}

static void copy_rows(char *to, size_t to_pitch, const char *from, Rows rows)
{
	for (size_t row = 0; row < rows.height; row++)
		std::memmove(to + row * to_pitch, from + row * rows.pitch, rows.width);
}

static void copy_now(void *to, Place to_place, size_t to_bytes, size_t to_pitch, const void *from,
	Place from_place, Rows rows)
{
	if (to_place == Place::device)
		shim_need_device(to, to_bytes, "destination of a copy");
	if (from_place == Place::device)
		shim_need_device(from, rows.bytes(), "source of a copy");
	if ((to_place == Place::pinned && !shim_is_pinned(to, to_bytes)) ||
		(from_place == Place::pinned && !shim_is_pinned(from, rows.bytes())))
		die("pinned memory of a copy was freed before the copy");
	copy_rows(static_cast<char *>(to), to_pitch, static_cast<const char *>(from), rows);
}

/*
 * Pageable memory: what is copied from it is read before the call returns, what is copied to it is
 * there when it returns. Both count as a wait, since CUDA may wait.
 */
static cudaError_t copy(void *to, size_t to_pitch, const void *from, Rows rows,
	enum cudaMemcpyKind kind, cudaStream_t stream)
{
	if (!rows.width || !rows.height)
		return cudaSuccess;
	if (!to || !from)
		return cudaErrorInvalidValue;
	if (rows.height > 1 && (rows.width > rows.pitch || rows.width > to_pitch))
		return cudaErrorInvalidPitchValue;

	size_t to_bytes = Rows{to_pitch, rows.width, rows.height}.bytes();
	Place to_place = place_of(to, to_bytes), from_place = place_of(from, rows.bytes());
	std::function<void()> work;

	if (to_place == Place::bad || from_place == Place::bad)
		return cudaErrorInvalidValue;
	if (!fits(to_place, from_place, kind))
		return cudaErrorInvalidMemcpyDirection;
	shim_tally(SHIM_COPIES);
	if (to_place == Place::pageable || from_place == Place::pageable)
		shim_tally(SHIM_SYNCS);
	if (from_place == Place::pageable && to_place == Place::device) {
		auto begin = static_cast<const char *>(from);
		auto staged = std::make_shared<std::vector<char>>(rows.width * rows.height);

		copy_rows(staged->data(), rows.width, begin, rows);
		Rows packed = {rows.width, rows.width, rows.height};

		return put(stream, [=] {
			copy_now(to, to_place, to_bytes, to_pitch, staged->data(), from_place,
				packed);
		});
	}
	cudaError_t error = put(stream,
		[=] { copy_now(to, to_place, to_bytes, to_pitch, from, from_place, rows); });

	if (!error && (to_place == Place::pageable || from_place == Place::pageable))
		shim_wait(stream);
	return error;
}

cudaError_t cudaMemcpyAsync(
	void *dst, const void *src, size_t count, enum cudaMemcpyKind kind, cudaStream_t stream)
{
	if (cudaError_t error = enter())
		return report(error);
	return report(copy(dst, count, src, {count, count, 1}, kind, stream));
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch,
	size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t stream)
{
	if (cudaError_t error = enter())
		return report(error);
	return report(copy(dst, dpitch, src, {spitch, width, height}, kind, stream));
}

cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream)
{
	if (cudaError_t error = enter())
		return report(error);
	if (!count)
		return cudaSuccess;

	Place place = place_of(devPtr, count);

	if (place != Place::device && place != Place::pinned)
		return report(cudaErrorInvalidValue);
	shim_tally(SHIM_FILLS);
	return report(put(stream, [=] {
		if (place == Place::device)
			shim_need_device(devPtr, count, "cudaMemsetAsync");
		std::memset(devPtr, value, count);
	}));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *userData)
{
	if (cudaError_t error = enter())
		return report(error);
	if (!fn)
		return report(cudaErrorInvalidValue);

	Streams &s = streams();
	std::lock_guard<std::mutex> lock(s.mutex);
	auto found = find_stream(s, stream);

	if (!found)
		return report(cudaErrorInvalidResourceHandle);
	shim_tally(SHIM_CALLS_BACK);
	auto run = [fn, userData] {
		fn(userData);
		return true;
	};

	add(s, found, {0, run, {}, true, true, {}});
	return cudaSuccess;
}
