/* The full mesh of connections behind psgd-gloo.so: made by addresses, watched, shut down. */
#ifndef PSGD_TRANSPORT_GLOO_MESH_H
#define PSGD_TRANSPORT_GLOO_MESH_H

#include <fcntl.h>
#include <gloo/context.h>
#include <gloo/transport/context.h>
#include <gloo/transport/tcp/address.h>
#include <gloo/transport/tcp/device.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/slice.h"
#include "transport/gloo_waits.h"
#include "transport/module.h"

namespace psgd_gloo
{

namespace tcp = gloo::transport::tcp;

/* How long the rest may stand still after a worker went, checked at least twice. */
constexpr int kPatienceMs = 1000;

class SignalsBlocked
{
      public:
	SignalsBlocked()
	{
		sigset_t all;
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old_);
	}
	~SignalsBlocked()
	{
		pthread_sigmask(SIG_SETMASK, &old_, nullptr);
	}
	SignalsBlocked(const SignalsBlocked &) = delete;
	SignalsBlocked &operator=(const SignalsBlocked &) = delete;

      private:
	sigset_t old_;
};

/* A descriptor, most often a second one of a socket of Gloo's. */
class Socket
{
      public:
	Socket() = default;
	explicit Socket(int fd) : fd_(fd)
	{
	}
	Socket(Socket &&other) noexcept : fd_(std::exchange(other.fd_, -1))
	{
	}
	Socket &operator=(Socket &&other) noexcept
	{
		std::swap(fd_, other.fd_);
		return *this;
	}
	~Socket()
	{
		if (fd_ >= 0)
			close(fd_);
	}

	/* Both sides read the end of the stream. */
	void shut() const
	{
		if (fd_ >= 0)
			shutdown(fd_, SHUT_RDWR);
	}

	bool is_ended() const
	{
		struct pollfd p = {fd_, POLLRDHUP, 0};
		return fd_ >= 0 && poll(&p, 1, 0) == 1;
	}

	/* A count that stands still when nothing moves in either direction. */
	uint64_t moved() const
	{
		struct tcp_info info = {};
		socklen_t length = sizeof(info);

		if (fd_ < 0 || getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &length))
			return 0;
		return info.tcpi_bytes_acked + info.tcpi_bytes_received;
	}

	int fd() const
	{
		return fd_;
	}

	std::string peer_name() const
	{
		return tcp::Address::fromPeerName(fd_).str();
	}

	/* The socket of this process that is bound to a local address and connected. */
	static Socket find(const std::string &local)
	{
		for (const auto &entry : std::filesystem::directory_iterator("/proc/self/fd")) {
			const int fd = static_cast<int>(
				std::strtol(entry.path().filename().c_str(), nullptr, 10));
			struct sockaddr_storage address;
			socklen_t length = sizeof(address);

			if (getpeername(fd, reinterpret_cast<sockaddr *>(&address), &length) ||
				(address.ss_family != AF_INET && address.ss_family != AF_INET6) ||
				tcp::Address::fromSockName(fd).str() != local)
				continue;
			/* A program that this one starts must not keep the connection alive. */
			fcntl(fd, F_SETFD, FD_CLOEXEC);
			const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
			if (copy < 0)
				break;
			return Socket(copy);
		}
		throw std::runtime_error("no socket at " + local);
	}

      private:
	int fd_ = -1;
};

/* A Gloo context whose pairs are connected by addresses from elsewhere, not by a store. */
class Mesh final : public gloo::Context
{
      public:
	Mesh(int worker, int n_workers, milliseconds timeout) : gloo::Context(worker, n_workers)
	{
		setTimeout(timeout);
		peers_.resize(static_cast<size_t>(n_workers));
	}

	~Mesh()
	{
		if (!watch_.joinable())
			return;
		const uint64_t one = 1;
		while (write(stop_.fd(), &one, sizeof(one)) < 0 && errno == EINTR)
			;
		watch_.join();
	}

	void listen(const tcp::attr &attr, psgd__gloo_address *mine)
	{
		/* Gloo's own thread is made here. */
		const uint64_t slice = psgd__slice_set(PSGD__SHORT_SLICE_NS);
		device_ = tcp::CreateDevice(attr);
		psgd__slice_set(slice);
		auto gloos = device_->createContext(rank, size);
		/* Gloo waits five times this long for a connection, and the same in a collective.
		 */
		gloos->setTimeout(std::max(getTimeout() / 5, milliseconds(1)));
		transportContext_ = std::make_shared<Transport>(waits_, gloos);
		for (int w = 0; w < size; w++) {
			if (w == rank)
				continue;
			const auto bytes = transportContext_->createPair(w)->address().bytes();
			if (bytes.size() > sizeof(mine[w].bytes))
				throw std::runtime_error("address too long");
			mine[w].length = static_cast<uint32_t>(bytes.size());
			std::memcpy(mine[w].bytes, bytes.data(), bytes.size());
		}
	}

	void connect(const psgd__gloo_address *theirs)
	{
		for (int w = 0; w < size; w++) {
			if (w == rank)
				continue;
			const std::vector<char> at(
				theirs[w].bytes, theirs[w].bytes + theirs[w].length);
			Peer &peer = peers_[static_cast<size_t>(w)];
			connecting_ = w;
			getPair(w)->connect(at);
			peer.socket = Socket::find(getPair(w)->address().str());
			/* Gloo knows a peer by either, as the connection came about. */
			peer.listens_at = tcp::Address(at).str();
			peer.comes_from = peer.socket.peer_name();
		}
		connecting_ = -1;
		if (size == 1)
			return;
		stop_ = Socket(eventfd(0, EFD_CLOEXEC));
		if (stop_.fd() < 0)
			throw std::runtime_error("no eventfd");
		const SignalsBlocked blocked;
		watch_ = std::thread(&Mesh::watch, this);
	}

	/* Ends what runs and what will, and lets the others notice. */
	void shut()
	{
		waits_.end();
		for (const Peer &peer : peers_)
			peer.socket.shut();
	}

	/* True when a connection ended before this worker ended any. */
	bool has_lost() const
	{
		return first_gone_ >= 0;
	}

	/* The worker that an exception is about, or -1. */
	int blamed(const std::string &text) const
	{
		int worker = connecting_;
		size_t longest = 0;
		if (first_gone_ >= 0)
			return first_gone_;
		for (size_t w = 0; w < peers_.size(); w++) {
			for (const std::string &name :
				{peers_[w].listens_at, peers_[w].comes_from}) {
				if (name.size() > longest && text.find(name) != text.npos) {
					worker = static_cast<int>(w);
					longest = name.size();
				}
			}
		}
		return worker;
	}

	/* All workers whose connection is gone, `first` in front: "worker 1, worker 2". */
	std::string lost(int first) const
	{
		std::string list = first < 0 ? "" : "worker " + std::to_string(first);
		/* Later ends are those of workers that left because of the first. */
		if (first >= 0 && first == first_gone_)
			return list;
		for (int w = 0; w < size; w++) {
			if (w == first || !peers_[static_cast<size_t>(w)].socket.is_ended())
				continue;
			list += (list.empty() ? "worker " : ", worker ") + std::to_string(w);
		}
		return list.empty() ? "a worker" : list;
	}

	/* Whom a wait that took too long was for. That one may be held up in its turn. */
	std::string awaited() const
	{
		if (size == 2)
			return "worker " + std::to_string(1 - rank);
		if (waits_.awaited < 0)
			return "a worker";
		return "worker " + std::to_string(waits_.awaited) + " or one that it waits for";
	}

      private:
	struct Peer {
		Socket socket;
		std::string listens_at, comes_from;
	};

	/*
	 * A wait for one worker does not end when another one goes, nor always when that one goes
	 * (see gloo_waits.h), though then the collective cannot go on. Nor can it be ended at once:
	 * a worker that has all it needs may leave while others still pass on the rest. So when one
	 * goes, the others may finish as long as anything moves.
	 */
	void watch()
	{
		std::vector<struct pollfd> polls;
		uint64_t before, now = 0;

		for (const Peer &peer : peers_)
			polls.push_back({peer.socket.fd(), POLLRDHUP, 0});
		polls.push_back({stop_.fd(), POLLIN, 0});
		while (poll(polls.data(), polls.size(), -1) < 0)
			;
		if (polls.back().revents)
			return;
		for (size_t w = 0; w < peers_.size() && first_gone_ < 0; w++) {
			if (polls[w].revents)
				first_gone_ = static_cast<int>(w);
		}
		do {
			before = now;
			if (poll(&polls.back(), 1, kPatienceMs) > 0)
				return;
			now = 0;
			for (const Peer &peer : peers_)
				now += peer.socket.moved();
		} while (now != before);
		shut();
	}

	Waits waits_;
	std::vector<Peer> peers_; /* by worker; this one's own stays empty */
	int connecting_ = -1;
	std::atomic<int> first_gone_{-1};
	Socket stop_; /* an eventfd */
	std::thread watch_;
};

} /* namespace psgd_gloo */

#endif
