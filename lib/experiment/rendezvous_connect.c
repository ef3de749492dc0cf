/* The side of all workers but 0. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "experiment/rendezvous_impl.h"

#define BACK_OFF_MIN_NS INT64_C(50000000)
#define BACK_OFF_MAX_NS INT64_C(1000000000)
#define CONNECT_NS INT64_C(5000000000)
#define HANDSHAKE_NS INT64_C(10000000000)

struct attempt {
	struct psgd_rendezvous *r;
	struct psgd__terms *terms;
	char last[160]; /* why the last attempt failed */
};

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int connect_error(int fd, const struct addrinfo *to, int64_t deadline_ns)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
	int error = 0, n;
	socklen_t bytes = sizeof(error);

	if (connect(fd, to->ai_addr, to->ai_addrlen) == 0)
		return 0;
	if (errno != EINPROGRESS && errno != EINTR)
		return errno;
	do {
		n = poll(&poll_fd, 1, psgd__poll_ms(deadline_ns));
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? errno : ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0)
		return errno;
	return error;
}

/*
 * With no listener at a port of the ephemeral range a socket can connect to itself, and would keep
 * worker 0 from listening there.
 */
static bool is_own_echo(int fd, struct sockaddr_storage *own)
{
	const struct linger reset = {.l_onoff = 1};
	struct sockaddr_storage other = {0};
	socklen_t own_bytes = sizeof(*own), other_bytes = sizeof(other);

	memset(own, 0, sizeof(*own));
	if (getsockname(fd, (struct sockaddr *)own, &own_bytes) != 0 ||
		getpeername(fd, (struct sockaddr *)&other, &other_bytes) != 0)
		return true;
	if (own_bytes != other_bytes || memcmp(own, &other, own_bytes) != 0)
		return false;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	return true;
}

/* A connected socket, or -1 with the reason in a->last. */
static int connect_to(struct attempt *a, const struct addrinfo *to)
{
	struct sockaddr_storage own;
	int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0) {
		psgd__text(a->last, sizeof(a->last), "%s", strerrordesc_np(errno));
		return -1;
	}
	error = connect_error(fd, to, earlier(a->terms->deadline_ns, psgd__now_ns() + CONNECT_NS));
	if (!error && is_own_echo(fd, &own))
		error = ECONNREFUSED;
	if (error) {
		psgd__text(a->last, sizeof(a->last), "%s", strerrordesc_np(error));
		close(fd);
		return -1;
	}
	psgd__socket_options(fd);
	psgd__address_text(&own, false, a->r->address, sizeof(a->r->address));
	return fd;
}

/* Worker 0 said no. */
static psgd_status refused(struct attempt *a, struct psgd__peer *peer)
{
	char text[PSGD__FAIL_TEXT_MAX];
	psgd_status status = psgd__fail_decode(peer->in.body, peer->in.length, text, sizeof(text));

	if (status == PSGD_ERR_AUTH)
		return psgd__rendezvous_fail(a->r, status, "worker 0 at %s refused this worker: %s",
			a->terms->where, text);
	return psgd__rendezvous_fail(a->r, status, "%s", text);
}

static psgd_status not_ours(struct attempt *a)
{
	psgd__text(a->last, sizeof(a->last), "what answers there is no worker 0 of a run");
	return PSGD_PENDING;
}

/* The next frame of the handshake: OK when it is of this type and length. */
static psgd_status expect(
	struct attempt *a, struct psgd__peer *peer, enum psgd__frame_type type, size_t length)
{
	psgd_status status;

	psgd__reader_clear(&peer->in);
	status = psgd__peer_await(
		peer, earlier(a->terms->deadline_ns, psgd__now_ns() + HANDSHAKE_NS));
	if (status == PSGD_ERR_NOMEM)
		return status;
	if (!status && peer->in.type == PSGD__FAIL)
		return refused(a, peer);
	if (status || peer->in.type != type || peer->in.length != length)
		return not_ours(a);
	return PSGD_OK;
}

/*
 * OK: joined. PENDING: try again later. A worker with a token takes no WELCOME without a proof:
 * a stranger at the address must not get its gradients.
 */
static psgd_status shake_hands(struct attempt *a, struct psgd__peer *peer)
{
	const struct psgd__token *token = a->terms->token;
	struct psgd__hello hello = {
		.protocol = PSGD__PROTOCOL,
		.version = psgd_version(),
		.n_workers = a->r->n_workers,
		.worker = a->r->worker,
		.has_token = token->bytes > 0,
	};
	int64_t deadline = psgd__now_ns() + HANDSHAKE_NS;
	uint8_t bytes[PSGD__HELLO_BYTES], nonce[PSGD__NONCE_BYTES], mac[PSGD__MAC_BYTES];
	psgd_status status;

	if (psgd__nonce(hello.nonce))
		return psgd__rendezvous_fail(a->r, PSGD_ERR_IO, "no random numbers");
	psgd__hello_encode(&hello, bytes);
	if (psgd__peer_send(peer, PSGD__HELLO, bytes, sizeof(bytes), deadline))
		return not_ours(a);
	if (token->bytes) {
		status = expect(a, peer, PSGD__CHALLENGE, sizeof(nonce));
		if (status)
			return status;
		memcpy(nonce, peer->in.body, sizeof(nonce));
		PSGD__TRY(psgd__token_mac(token, PSGD__ROLE_WORKER, nonce, bytes, mac));
		if (psgd__peer_send(peer, PSGD__PROOF, mac, sizeof(mac), deadline))
			return not_ours(a);
	}
	status = expect(a, peer, PSGD__WELCOME, sizeof(mac));
	if (status)
		return status;
	if (token->bytes) {
		PSGD__TRY(psgd__token_mac(token, PSGD__ROLE_MASTER, nonce, bytes, mac));
		if (!psgd__mac_equal(peer->in.body, mac))
			return psgd__rendezvous_fail(a->r, PSGD_ERR_AUTH,
				"worker 0 at %s does not have this worker's token",
				a->terms->where);
	}
	return PSGD_OK;
}

static psgd_status try_once(struct attempt *a, const struct addrinfo *list)
{
	struct psgd__peer *peer = &a->r->peers[0];

	for (const struct addrinfo *to = list; to; to = to->ai_next) {
		psgd_status status;

		peer->fd = connect_to(a, to);
		if (peer->fd < 0)
			continue;
		peer->in.limit = 4 + PSGD__FAIL_TEXT_MAX;
		status = shake_hands(a, peer);
		if (status != PSGD_PENDING)
			return status;
		psgd__peer_close(peer);
	}
	return PSGD_PENDING;
}

static psgd_status find_master(struct attempt *a, const struct addrinfo *list)
{
	int64_t back_off = BACK_OFF_MIN_NS;

	for (;;) {
		psgd_status status = try_once(a, list);
		int64_t now = psgd__now_ns();

		if (status != PSGD_PENDING)
			return status;
		if (now >= a->terms->deadline_ns)
			return psgd__rendezvous_fail(a->r, PSGD_ERR_TIMEOUT,
				"worker 0 of %u did not come to %s within %.10g s (the last try: "
				"%s)",
				a->r->n_workers, a->terms->where, psgd__seconds(a->r->timeout_ns),
				a->last);
		psgd__log_waiting(a->terms, "worker 0");
		poll(NULL, 0, psgd__poll_ms(earlier(a->terms->deadline_ns, now + back_off)));
		back_off = earlier(2 * back_off, BACK_OFF_MAX_NS);
	}
}

/* Joined: worker 0 says START when all have. */
static psgd_status await_start(struct attempt *a)
{
	struct psgd__peer *peer = &a->r->peers[0];
	psgd_status status;

	psgd__reader_clear(&peer->in);
	do {
		status = psgd__peer_await(
			peer, earlier(a->terms->deadline_ns, a->terms->next_log_ns));
		psgd__log_waiting(a->terms, "the other workers");
	} while (status == PSGD_ERR_TIMEOUT && psgd__now_ns() < a->terms->deadline_ns);
	if (status == PSGD_ERR_TIMEOUT)
		return psgd__rendezvous_fail(a->r, status,
			"not all of %u workers came to %s within %.10g s", a->r->n_workers,
			a->terms->where, psgd__seconds(a->r->timeout_ns));
	if (!status && peer->in.type == PSGD__FAIL)
		return refused(a, peer);
	if (status || peer->in.type != PSGD__START)
		return psgd__rendezvous_fail(a->r, PSGD_ERR_PEER_LOST,
			"worker 0 is gone: it left %s before all workers were there",
			a->terms->where);
	psgd__reader_clear(&peer->in);
	return PSGD_OK;
}

psgd_status psgd__rendezvous_connect(struct psgd_rendezvous *r, struct psgd__terms *terms)
{
	struct attempt a = {.r = r, .terms = terms};
	struct addrinfo *list;
	psgd_status status;

	PSGD__TRY(psgd__resolve(terms->launch, &list, r->text, sizeof(r->text)));
	status = find_master(&a, list);
	freeaddrinfo(list);
	return status ? status : await_start(&a);
}
