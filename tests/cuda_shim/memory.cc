/*
 * Memory of devices, and pinned memory of the host. A piece of device memory can be touched only
 * while some work runs, begins and ends at pages that nothing may touch, and holds NaN at first.
 * Freed addresses are not used again for a long time.
 */
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include <sys/mman.h>
#include <unistd.h>

#include "state.h"

namespace shim
{
namespace
{

constexpr size_t kAlign = 256; /* as CUDA's */
constexpr size_t kKeptFreed = 4096;
constexpr unsigned char kPoison = 0xff;

struct Piece {
	size_t bytes;
	char *map;
	size_t map_bytes;
	int device; /* -1: the host's */
};

struct Freed {
	char *map;
	size_t map_bytes;
};

struct Memory {
	std::mutex mutex;
	std::map<uintptr_t, Piece> pieces; /* by address */
	std::deque<Freed> freed;
	size_t used[kMaxDevices] = {};
	unsigned accesses = 0;
	struct sigaction before = {};
};

Memory &memory();

size_t page_size()
{
	static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));

	return size;
}

size_t limit()
{
	size_t set = settings().memory;

	return set ? set : static_cast<size_t>(4) << 30;
}

/* All of a piece but its guards. */
void protect(const Piece &piece, int how)
{
	size_t page = page_size();

	if (mprotect(piece.map + page, piece.map_bytes - 2 * page, how))
		die("mprotect of device memory failed");
}

/* Says whose fault it was, then lets it happen again with what was there before. */
void on_fault(int, siginfo_t *info, void *)
{
	Memory &m = memory();
	char *at = static_cast<char *>(info->si_addr);
	const char *what = nullptr;
	char line[160];

	sigaction(SIGSEGV, &m.before, nullptr);
	if (!m.mutex.try_lock())
		return;
	for (const auto &[address, piece] : m.pieces) {
		if (at < piece.map || at >= piece.map + piece.map_bytes)
			continue;
		char *base = reinterpret_cast<char *>(address);

		what = at < base || at >= base + piece.bytes
			       ? "beyond a piece of memory"
			       : "device memory, touched by host code";
	}
	for (const Freed &gone : m.freed)
		if (at >= gone.map && at < gone.map + gone.map_bytes)
			what = "memory that was freed";
	m.mutex.unlock();
	if (what) {
		int length = std::snprintf(line, sizeof(line), "cuda shim: fault at %p: %s\n",
			static_cast<void *>(at), what);

		if (write(STDERR_FILENO, line, static_cast<size_t>(length)) < 0)
			return;
	}
}

Memory &memory()
{
	static Memory *m = [] {
		auto *made = new Memory();
		struct sigaction action = {};

		action.sa_sigaction = on_fault;
		action.sa_flags = SA_SIGINFO;
		sigaction(SIGSEGV, &action, &made->before);
		return made;
	}();

	return *m;
}

/* The piece that memory lies in; NULL: none. With the mutex. */
const std::pair<const uintptr_t, Piece> *find(Memory &m, const void *where)
{
	auto at = reinterpret_cast<uintptr_t>(where);
	auto next = m.pieces.upper_bound(at);

	if (next == m.pieces.begin())
		return nullptr;
	--next;
	return at - next->first < next->second.bytes ? &*next : nullptr;
}

cudaError_t allocate(void **out, size_t bytes, int device)
{
	Memory &m = memory();
	size_t page = page_size(), whole = (bytes + kAlign - 1) / kAlign * kAlign;
	size_t pages = (whole + page - 1) / page * page;
	std::lock_guard<std::mutex> lock(m.mutex);

	if (whole < bytes || pages < whole)
		return cudaErrorMemoryAllocation;
	if (device >= 0 && (bytes > limit() || m.used[device] > limit() - bytes))
		return cudaErrorMemoryAllocation;
	void *map = mmap(nullptr, pages + 2 * page, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return cudaErrorMemoryAllocation;

	Piece piece = {bytes, static_cast<char *>(map), pages + 2 * page, device};
	char *base = piece.map + page + pages - whole;

	protect(piece, PROT_READ | PROT_WRITE);
	std::memset(piece.map + page, kPoison, pages);
	if (device >= 0) {
		m.used[device] += bytes;
		if (!m.accesses)
			protect(piece, PROT_NONE);
	}
	m.pieces.emplace(reinterpret_cast<uintptr_t>(base), piece);
	shim_own(1);
	shim_tally(SHIM_ALLOCATIONS);
	*out = base;
	return cudaSuccess;
}

/* What lies between a piece and its guards is as it was. */
void check_edges(const char *base, const Piece &piece)
{
	const char *begin = piece.map + page_size();
	const char *end = piece.map + piece.map_bytes - page_size();

	for (const char *c = begin; c < base; c++)
		if (static_cast<unsigned char>(*c) != kPoison)
			die("written %zd bytes before a piece of memory of %zu bytes", base - c,
				piece.bytes);
	for (const char *c = base + piece.bytes; c < end; c++)
		if (static_cast<unsigned char>(*c) != kPoison)
			die("written %zd bytes after a piece of memory of %zu bytes",
				c - base - static_cast<ptrdiff_t>(piece.bytes) + 1, piece.bytes);
}

cudaError_t release(void *where, bool host, int *device)
{
	Memory &m = memory();
	std::lock_guard<std::mutex> lock(m.mutex);
	auto found = m.pieces.find(reinterpret_cast<uintptr_t>(where));

	if (found == m.pieces.end() || (found->second.device < 0) != host)
		return cudaErrorInvalidValue;
	Piece piece = found->second;

	*device = host ? current_device() : piece.device;
	if (!host && !m.accesses)
		protect(piece, PROT_READ);
	check_edges(static_cast<char *>(where), piece);
	if (!host)
		m.used[piece.device] -= piece.bytes;
	m.pieces.erase(found);
	if (mmap(piece.map, piece.map_bytes, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		die("freed memory could not be kept");
	m.freed.push_back({piece.map, piece.map_bytes});
	if (m.freed.size() > kKeptFreed) {
		munmap(m.freed.front().map, m.freed.front().map_bytes);
		m.freed.pop_front();
	}
	shim_own(-1);
	return cudaSuccess;
}

} // namespace

Place place_of(const void *where, size_t bytes)
{
	Memory &m = memory();
	std::lock_guard<std::mutex> lock(m.mutex);
	auto *found = find(m, where);

	if (!found)
		return Place::pageable;
	if (bytes > found->second.bytes - (reinterpret_cast<uintptr_t>(where) - found->first))
		return Place::bad;
	return found->second.device < 0 ? Place::pinned : Place::device;
}

} // namespace shim

using shim::enter;
using shim::memory;
using shim::Place;
using shim::report;

shim_access::shim_access()
{
	auto &m = memory();
	std::lock_guard<std::mutex> lock(m.mutex);

	if (m.accesses++)
		return;
	for (const auto &[address, piece] : m.pieces)
		if (piece.device >= 0)
			shim::protect(piece, PROT_READ | PROT_WRITE);
}

shim_access::~shim_access()
{
	auto &m = memory();
	std::lock_guard<std::mutex> lock(m.mutex);

	if (--m.accesses)
		return;
	for (const auto &[address, piece] : m.pieces)
		if (piece.device >= 0)
			shim::protect(piece, PROT_NONE);
}

bool shim_is_device(const void *where, size_t bytes)
{
	return shim::place_of(where, bytes) == Place::device;
}

bool shim_is_pinned(const void *where, size_t bytes)
{
	return shim::place_of(where, bytes) == Place::pinned;
}

void shim_need_device(const void *where, size_t bytes, const char *what)
{
	if (bytes && !shim_is_device(where, bytes))
		shim::die("%s: %zu bytes at %p are not device memory, or no longer", what, bytes,
			where);
}

static cudaError_t allocate(void **out, size_t bytes, int device)
{
	if (cudaError_t error = enter(cudaErrorMemoryAllocation))
		return report(error);
	if (!out)
		return report(cudaErrorInvalidValue);
	*out = nullptr;
	return bytes ? report(shim::allocate(out, bytes, device)) : cudaSuccess;
}

/*
 * A failure on demand is that of earlier work: it is freed all the same. As with CUDA, all that is
 * on the device's streams is waited for, but here after the memory is gone.
 */
static cudaError_t release(void *where, bool host)
{
	cudaError_t error = enter(), own = cudaSuccess;

	if (where && error != cudaErrorNotPermitted) {
		int device = shim::current_device();

		shim_tally(SHIM_SYNCS);
		own = shim::release(where, host, &device);
		shim::drain(device);
	}
	return report(error ? error : own);
}

cudaError_t cudaMalloc(void **devPtr, size_t size)
{
	return allocate(devPtr, size, shim::current_device());
}

cudaError_t cudaFree(void *devPtr)
{
	return release(devPtr, false);
}

cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int)
{
	return allocate(pHost, size, -1);
}

cudaError_t cudaFreeHost(void *ptr)
{
	return release(ptr, true);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
	if (cudaError_t error = enter())
		return report(error);
	auto &m = memory();
	std::lock_guard<std::mutex> lock(m.mutex);
	size_t used = m.used[shim::current_device()];

	*total = shim::limit();
	*free = used < *total ? *total - used : 0;
	return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *ptr)
{
	if (cudaError_t error = enter())
		return report(error);
	auto &m = memory();
	std::lock_guard<std::mutex> lock(m.mutex);
	auto *found = shim::find(m, ptr);
	void *plain = const_cast<void *>(ptr);

	if (!found)
		*attributes = {cudaMemoryTypeUnregistered, -1, nullptr, plain};
	else if (found->second.device < 0)
		*attributes = {cudaMemoryTypeHost, shim::current_device(), plain, plain};
	else
		*attributes = {cudaMemoryTypeDevice, found->second.device, plain, nullptr};
	return cudaSuccess;
}
