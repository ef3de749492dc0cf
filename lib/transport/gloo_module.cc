/*
 * psgd-gloo.so: ring all-reduce, ring all-gather and binomial-tree broadcast by Gloo over TCP.
 *
 * What it relies on in Gloo, and has to work around:
 * - A message goes out only after the receiver asked for its slot, and Gloo's own thread ends the
 *   process when a message is longer than what was asked for. So the slot is made of everything
 *   workers can disagree on; then such collectives never meet, and time out.
 * - When a connection fails, not every wait for it ends: see gloo_waits.h.
 * - Gloo does not show its sockets, so they are looked up, to be watched and shut down.
 * - Gloo writes to sockets without MSG_NOSIGNAL: its thread is made with all signals blocked.
 * - The timeout is one of each wait, so it begins anew with each segment that arrives.
 *
 * Gloo adds, and sent_bytes leaves out, three headers of 48 bytes per segment and direction (two
 * announcements, one before the data): 192 bytes for each segment sent and received.
 */
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/broadcast.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "transport/gloo_mesh.h"
#include "transport/module.h"
#include "transport/tree.h"

namespace
{

using namespace psgd_gloo;

/* Gloo cannot wait longer than this without overflow of its clock. */
constexpr int64_t kLongestMs = 100 * 3600 * 1000LL;

constexpr milliseconds kHeadStart(50);

struct Module {
	std::shared_ptr<Mesh> mesh;
};

void say(char *to, size_t bytes, const std::string &text)
{
	if (to && bytes)
		std::snprintf(to, bytes, "%s", text.c_str());
}

bool has(const std::string &text, const char *part)
{
	return text.find(part) != std::string::npos;
}

bool is_about_loss(const std::string &text)
{
	return has(text, "losed by peer") || has(text, "eset by peer") ||
	       has(text, "Socket closed") || has(text, "roken pipe") || has(text, "refused");
}

/* Gloo's texts begin with the line of its source, in brackets. */
std::string plain(const std::string &text)
{
	size_t end = text.compare(0, 1, "[") == 0 ? text.find("] ") : std::string::npos;
	return end == std::string::npos ? text : text.substr(end + 2);
}

/* Call in a catch block. */
psgd_status explain(const Mesh *mesh, char *reason, size_t bytes)
{
	try {
		throw;
	} catch (const std::bad_alloc &) {
		say(reason, bytes, "out of memory");
		return PSGD_ERR_NOMEM;
	} catch (const std::exception &e) {
		const std::string text = plain(e.what());
		const int worker = mesh ? mesh->blamed(text) : -1;
		if (mesh && (has(text, "imed out") || has(text, "imeout"))) {
			const std::string who =
				worker < 0 ? mesh->awaited() : "worker " + std::to_string(worker);
			say(reason, bytes, "no answer from " + who + ": " + text);
			return PSGD_ERR_TIMEOUT;
		}
		if (mesh && (mesh->has_lost() || is_about_loss(text))) {
			say(reason, bytes, "lost " + mesh->lost(worker) + ": " + text);
			return PSGD_ERR_PEER_LOST;
		}
		say(reason, bytes,
			worker < 0 ? text : "worker " + std::to_string(worker) + ": " + text);
		return PSGD_ERR_TRANSPORT;
	} catch (...) {
		say(reason, bytes, "unknown exception");
		return PSGD_ERR_TRANSPORT;
	}
}

template <typename T> void add(void *to, const void *a, const void *b, size_t n)
{
	T *sum = static_cast<T *>(to);
	const T *x = static_cast<const T *>(a), *y = static_cast<const T *>(b);

	for (size_t i = 0; i < n; i++)
		sum[i] = x[i] + y[i];
}

uint32_t tag_of(const psgd_collective &c)
{
	const uint64_t parts[] = {c.tag, c.kind, c.dtype, static_cast<uint64_t>(c.count),
		c.kind == PSGD_BROADCAST ? c.root : 0};
	uint64_t hash = 0xcbf29ce484222325;

	for (uint64_t part : parts) {
		hash = (hash ^ part) * 0x9e3779b97f4a7c15;
		hash ^= hash >> 29;
	}
	return static_cast<uint32_t>(hash >> 32);
}

/* The ring cuts into 2 segments or more per worker, of at most 1 MiB; the last may be short. */
uint64_t ring_bytes(uint64_t worker, uint64_t n, uint64_t total, uint64_t each)
{
	if (n == 1)
		return 0;
	const uint64_t most = gloo::detail::AllreduceOptionsImpl::kMaxSegmentSize;
	uint64_t segments = std::max(total / most + (total % most != 0), 2 * n);
	segments += (n - segments % n) % n;
	uint64_t segment = total / segments + (total % segments != 0);
	segment += (each - segment % each) % each;
	const uint64_t chunk = segment * (segments / n);
	auto chunk_bytes = [=](uint64_t i) {
		return i * chunk >= total ? 0 : std::min(chunk, total - i * chunk);
	};
	/* Each phase passes on all chunks but one. */
	return 2 * total - chunk_bytes(worker) - chunk_bytes((worker + n - 1) % n);
}

template <typename T>
uint64_t allreduce(const std::shared_ptr<Mesh> &mesh, const psgd_collective &c)
{
	gloo::AllreduceOptions options(mesh);

	options.setOutput(static_cast<T *>(c.data), static_cast<size_t>(c.count));
	options.setReduceFunction(add<T>);
	options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);
	options.setTag(tag_of(c));
	gloo::allreduce(options);
	return ring_bytes(static_cast<uint64_t>(mesh->rank), static_cast<uint64_t>(mesh->size),
		static_cast<uint64_t>(c.count) * sizeof(T), sizeof(T));
}

template <typename T>
uint64_t broadcast(const std::shared_ptr<Mesh> &mesh, const psgd_collective &c)
{
	gloo::BroadcastOptions options(mesh);

	options.setOutput(static_cast<T *>(c.data), static_cast<size_t>(c.count));
	options.setRoot(static_cast<int>(c.root));
	options.setTag(tag_of(c));
	gloo::broadcast(options);
	return psgd__tree_children(static_cast<uint64_t>(mesh->rank), c.root,
		       static_cast<uint64_t>(mesh->size)) *
	       static_cast<uint64_t>(c.count) * sizeof(T);
}

/* In place, as there is no input: Gloo cuts each block in two, and passes all but one of them on.
 */
template <typename T>
uint64_t allgather(const std::shared_ptr<Mesh> &mesh, const psgd_collective &c)
{
	gloo::AllgatherOptions options(mesh);
	const uint64_t n = static_cast<uint64_t>(mesh->size),
		       count = static_cast<uint64_t>(c.count);

	options.setOutput(static_cast<T *>(c.data), n * count);
	options.setTag(tag_of(c));
	gloo::allgather(options);
	return (n - 1) * count * sizeof(T);
}

template <typename T> uint64_t copy(const std::shared_ptr<Mesh> &mesh, const psgd_collective &c)
{
	return c.kind == PSGD_ALLGATHER ? allgather<T>(mesh, c) : broadcast<T>(mesh, c);
}

uint64_t run(const std::shared_ptr<Mesh> &mesh, const psgd_collective &c)
{
	if (c.kind == PSGD_ALLREDUCE_SUM)
		return c.dtype == PSGD_F64 ? allreduce<double>(mesh, c) : allreduce<float>(mesh, c);
	switch (c.dtype) {
	case PSGD_F64:
		return copy<double>(mesh, c);
	case PSGD_F32:
		return copy<float>(mesh, c);
	default:
		return copy<uint8_t>(mesh, c);
	}
}

psgd_status module_run(void *self, const psgd_collective *collective, uint64_t *sent_bytes,
	char *reason, size_t bytes) noexcept
{
	Module *m = static_cast<Module *>(self);

	try {
		*sent_bytes = run(m->mesh, *collective);
		return PSGD_OK;
	} catch (...) {
		const psgd_status status = explain(m->mesh.get(), reason, bytes);
		/* So that the others see who failed before they see this one leave for it. */
		if (m->mesh->size > 2)
			std::this_thread::sleep_for(kHeadStart);
		return status;
	}
}

void module_interrupt(void *self) noexcept
{
	static_cast<Module *>(self)->mesh->shut();
}

void module_close(void *self) noexcept
{
	delete static_cast<Module *>(self);
}

/* Gloo takes the result of a failed look-up for an address. */
void check_name(const std::string &name)
{
	struct addrinfo hints = {}, *found = nullptr;

	hints.ai_socktype = SOCK_STREAM;
	const int failed = getaddrinfo(name.c_str(), nullptr, &hints, &found);
	if (failed)
		throw std::runtime_error("address " + name + ": " + gai_strerror(failed));
	freeaddrinfo(found);
}

milliseconds timeout_of(int64_t ns)
{
	return milliseconds(std::min(std::max(ns / 1000000, INT64_C(1)), kLongestMs));
}

psgd_status module_open(const psgd__gloo_setup *setup, void **self, psgd__gloo_address *mine,
	char *reason, size_t bytes) noexcept
{
	*self = nullptr;
	try {
		std::unique_ptr<Module> m(new Module);
		tcp::attr attr;
		if (setup->interface_name) {
			attr.iface = setup->interface_name;
		} else {
			attr.hostname = setup->address ? setup->address : "127.0.0.1";
			check_name(attr.hostname);
		}
		m->mesh = std::make_shared<Mesh>(static_cast<int>(setup->worker),
			static_cast<int>(setup->n_workers), timeout_of(setup->timeout_ns));
		SignalsBlocked blocked;
		m->mesh->listen(attr, mine);
		*self = m.release();
		return PSGD_OK;
	} catch (...) {
		return explain(nullptr, reason, bytes);
	}
}

psgd_status module_connect(
	void *self, const psgd__gloo_address *theirs, char *reason, size_t bytes) noexcept
{
	Module *m = static_cast<Module *>(self);

	try {
		m->mesh->connect(theirs);
		return PSGD_OK;
	} catch (...) {
		return explain(m->mesh.get(), reason, bytes);
	}
}

const psgd__gloo_module module = {
	sizeof(psgd__gloo_module),
	module_open,
	module_connect,
	module_run,
	module_interrupt,
	module_close,
};

} /* namespace */

extern "C" __attribute__((visibility("default"))) const psgd__gloo_module *PSGD__GLOO_ENTRY(void);

const psgd__gloo_module *PSGD__GLOO_ENTRY(void)
{
	return &module;
}
