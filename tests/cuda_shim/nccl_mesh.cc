#include "nccl_mesh.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace shim_nccl
{

namespace
{

constexpr int kPatienceMs = 1;

/* What a worker says on a new connection. */
struct Hello {
	int32_t rank, n, device;
};

/* A name that only the kernel knows: it begins with a zero byte. */
socklen_t address_of(const std::string &name, int rank, sockaddr_un *out)
{
	const std::string text = name + "." + std::to_string(rank);

	std::memset(out, 0, sizeof(*out));
	out->sun_family = AF_UNIX;
	std::memcpy(out->sun_path + 1, text.c_str(), text.size());
	return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
}

int listen_as(const std::string &name, int rank)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	sockaddr_un address;
	const socklen_t length = address_of(name, rank, &address);

	if (fd >= 0 &&
		(bind(fd, reinterpret_cast<sockaddr *>(&address), length) || listen(fd, 64))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* -1: it does not listen yet. */
int connect_to(const std::string &name, int rank)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	sockaddr_un address;
	const socklen_t length = address_of(name, rank, &address);

	if (fd >= 0 && connect(fd, reinterpret_cast<sockaddr *>(&address), length)) {
		close(fd);
		return -1;
	}
	return fd;
}

Flow went(ssize_t moved, size_t *at, size_t bytes)
{
	if (moved > 0) {
		*at += static_cast<size_t>(moved);
		return *at == bytes ? Flow::done : Flow::blocked;
	}
	return moved < 0 && (errno == EAGAIN || errno == EINTR) ? Flow::blocked : Flow::lost;
}

Flow send_some(int fd, const char *data, size_t bytes, size_t *at)
{
	return went(::send(fd, data + *at, bytes - *at, MSG_NOSIGNAL), at, bytes);
}

Flow receive_some(int fd, char *data, size_t bytes, size_t *at)
{
	return went(::recv(fd, data + *at, bytes - *at, 0), at, bytes);
}

/* Repeats `step` until it has done its part. */
template <typename Step> bool insist(int fd, short events, const std::atomic<bool> &stop, Step step)
{
	while (!stop) {
		const Flow flow = step();
		pollfd waiting = {fd, events, 0};

		if (flow != Flow::blocked)
			return flow == Flow::done;
		poll(&waiting, fd < 0 ? 0 : 1, kPatienceMs);
	}
	return false;
}

bool greet(int fd, const Hello &mine, Hello *theirs, const std::atomic<bool> &stop)
{
	size_t sent = 0, got = 0;

	return insist(fd, POLLOUT, stop, [&] {
		return send_some(fd, reinterpret_cast<const char *>(&mine), sizeof(mine), &sent);
	}) && insist(fd, POLLIN, stop, [&] {
		return receive_some(fd, reinterpret_cast<char *>(theirs), sizeof(*theirs), &got);
	});
}

} /* namespace */

void Mesh::hang_up()
{
	for (int &fd : sockets_) {
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
}

/* Each listens under its own number, connects to those below, and hears from those above. */
bool Mesh::connect(const std::string &name, int device, const std::atomic<bool> &stop,
	std::vector<int> &devices)
{
	const Hello mine = {rank, n, device};
	const int listening = listen_as(name, rank);
	bool good = listening >= 0;

	devices.assign(static_cast<size_t>(n), device);
	for (int i = 0; i < n - 1 && good; i++) {
		Hello theirs = {-1, 0, 0};
		int fd = -1;

		good = insist(i < rank ? -1 : listening, POLLIN, stop, [&] {
			fd = i < rank ? connect_to(name, i)
				      : accept4(listening, nullptr, nullptr,
						SOCK_CLOEXEC | SOCK_NONBLOCK);
			return fd < 0 ? Flow::blocked : Flow::done;
		});
		good = good && greet(fd, mine, &theirs, stop) && theirs.n == n &&
		       theirs.rank >= 0 && theirs.rank < n && theirs.rank != rank &&
		       sockets_[static_cast<size_t>(theirs.rank)] < 0;
		if (good) {
			sockets_[static_cast<size_t>(theirs.rank)] = fd;
			devices[static_cast<size_t>(theirs.rank)] = theirs.device;
		} else if (fd >= 0) {
			close(fd);
		}
	}
	if (listening >= 0)
		close(listening);
	return good;
}

Flow Mesh::send(int to, const char *data, size_t bytes, size_t *at)
{
	if (*at == bytes)
		return Flow::done;
	return send_some(sockets_[static_cast<size_t>(to)], data, bytes, at);
}

Flow Mesh::receive(int from, char *data, size_t bytes, size_t *at)
{
	if (*at == bytes)
		return Flow::done;
	return receive_some(sockets_[static_cast<size_t>(from)], data, bytes, at);
}

void Mesh::say_goodbye()
{
	const char word = 0;

	for (int fd : sockets_) {
		if (fd >= 0)
			(void)!::send(fd, &word, sizeof(word), MSG_NOSIGNAL);
	}
}

bool Mesh::has_vanished(int peer) const
{
	char next;

	return recv(sockets_[static_cast<size_t>(peer)], &next, sizeof(next), MSG_PEEK) == 0;
}

} /* namespace shim_nccl */
