#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "experiment/rendezvous_impl.h"

psgd_status psgd__resolve(
	const struct psgd_launch *launch, struct addrinfo **out, char *error, size_t error_bytes)
{
	const struct addrinfo hints = {
		.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct sockaddr_storage first = {0};
	char port[8];
	int rc;

	snprintf(port, sizeof(port), "%u", launch->master_port);
	*out = NULL;
	rc = getaddrinfo(launch->master_addr, port, &hints, out);
	if (rc) {
		psgd__text(error, error_bytes, "cannot find the master address \"%s\": %s",
			launch->master_addr,
			rc == EAI_SYSTEM ? strerrordesc_np(errno) : gai_strerror(rc));
		return PSGD_ERR_IO;
	}
	memcpy(&first, (*out)->ai_addr, (*out)->ai_addrlen);
	if (psgd__is_wildcard(&first)) {
		psgd__text(error, error_bytes,
			"the master address %s stands for every address; give the one that the "
			"workers use",
			launch->master_addr);
		freeaddrinfo(*out);
		*out = NULL;
		return PSGD_ERR_INVALID;
	}
	return PSGD_OK;
}

/* An IPv4 address, in network order, also when it is written as an IPv6 one. */
static bool as_ipv4(const struct sockaddr_storage *address, uint32_t *out)
{
	const struct sockaddr_in *in4 = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;

	if (address->ss_family == AF_INET) {
		*out = in4->sin_addr.s_addr;
		return true;
	}
	if (address->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
		return false;
	memcpy(out, in6->sin6_addr.s6_addr + 12, sizeof(*out));
	return true;
}

bool psgd__is_loopback(const struct sockaddr_storage *address)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
	uint32_t ipv4;

	if (as_ipv4(address, &ipv4))
		return ntohl(ipv4) >> 24 == 127;
	return address->ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

bool psgd__is_wildcard(const struct sockaddr_storage *address)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
	uint32_t ipv4;

	if (as_ipv4(address, &ipv4))
		return ipv4 == 0;
	return address->ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
}

void psgd__address_text(
	const struct sockaddr_storage *address, bool with_port, char *out, size_t bytes)
{
	socklen_t length = address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
							  : sizeof(struct sockaddr_in);
	char host[PSGD__ADDR_TEXT - 10], port[8];

	if (getnameinfo((const struct sockaddr *)address, length, host, sizeof(host), port,
		    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV)) {
		psgd__text(out, bytes, "unknown");
		return;
	}
	if (!with_port)
		psgd__text(out, bytes, "%s", host);
	else
		psgd__text(out, bytes, address->ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host,
			port);
}

int psgd__poll_ms(int64_t deadline_ns)
{
	int64_t left = deadline_ns - psgd__now_ns();

	if (left <= 0)
		return 0;
	left = (left + 999999) / 1000000;
	return left > INT_MAX ? INT_MAX : (int)left;
}

void psgd__socket_options(int fd)
{
	const int on = 1;

	/* Both only make things better; a socket that refuses them still works. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

void psgd__peer_close(struct psgd__peer *peer)
{
	if (peer->fd >= 0)
		close(peer->fd);
	peer->fd = -1;
	psgd__reader_clear(&peer->in);
}

psgd_status psgd__peer_read(struct psgd__peer *peer)
{
	uint8_t *to;

	for (;;) {
		size_t want = psgd__reader_want(&peer->in, &to);
		ssize_t n = recv(peer->fd, to, want, 0);
		psgd_status status;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return PSGD_PENDING;
		if (n <= 0)
			return PSGD_ERR_PEER_LOST;
		status = psgd__reader_got(&peer->in, (size_t)n);
		if (status != PSGD_PENDING)
			return status;
	}
}

/* OK: ready, or closed. */
static psgd_status wait_for(int fd, short events, int64_t deadline_ns)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};

	for (;;) {
		int ms = psgd__poll_ms(deadline_ns);
		int n = poll(&poll_fd, 1, ms);

		if (n > 0)
			return PSGD_OK;
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return PSGD_ERR_IO;
		if (n == 0 && !psgd__poll_ms(deadline_ns))
			return PSGD_ERR_TIMEOUT;
	}
}

psgd_status psgd__peer_await(struct psgd__peer *peer, int64_t deadline_ns)
{
	for (;;) {
		psgd_status status = psgd__peer_read(peer);

		if (status != PSGD_PENDING)
			return status;
		PSGD__TRY(wait_for(peer->fd, POLLIN, deadline_ns));
	}
}

static psgd_status send_all(int fd, const uint8_t *bytes, size_t n, int flags, int64_t deadline_ns)
{
	while (n) {
		ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL | flags);

		if (sent >= 0) {
			bytes += sent;
			n -= (size_t)sent;
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			PSGD__TRY(wait_for(fd, POLLOUT, deadline_ns));
		} else if (errno != EINTR) {
			return PSGD_ERR_PEER_LOST;
		}
	}
	return PSGD_OK;
}

psgd_status psgd__peer_send(struct psgd__peer *peer, enum psgd__frame_type type, const void *body,
	size_t length, int64_t deadline_ns)
{
	uint8_t header[PSGD__FRAME_HEADER];

	psgd__frame_header(header, type, length);
	PSGD__TRY(send_all(peer->fd, header, sizeof(header), length ? MSG_MORE : 0, deadline_ns));
	return send_all(peer->fd, body, length, 0, deadline_ns);
}

void psgd__peer_fail(struct psgd__peer *peer, psgd_status status, const char *text)
{
	uint8_t body[4 + PSGD__FAIL_TEXT_MAX];
	size_t length = psgd__fail_encode(status, text, body);

	if (peer->fd >= 0)
		psgd__peer_send(peer, PSGD__FAIL, body, length, psgd__now_ns());
}
