/* Worker 0's side: gathers the others, whoever else knocks at the port. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "experiment/rendezvous_impl.h"

#define MAX_CANDIDATES 64
#define MAX_REFUSALS_LOGGED 20 /* a scanner must not fill the disk */
#define HANDSHAKE_NS INT64_C(10000000000)

/* A connection that has not yet shown who it is. */
struct candidate {
	struct psgd__peer peer;
	int64_t deadline_ns;
	bool challenged;
	struct psgd__hello hello;
	uint8_t hello_bytes[PSGD__HELLO_BYTES];
	uint8_t nonce[PSGD__NONCE_BYTES];
};

struct gathering {
	struct psgd_rendezvous *r;
	struct psgd__terms *terms;
	int listener;
	uint32_t n_joined;
	size_t n_candidates;
	struct candidate candidate[MAX_CANDIDATES];
	uint64_t n_refused;
	char last_refusal[160];
};

static int listen_at(const struct addrinfo *address)
{
	const int on = 1;
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
		bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, 256) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* A name may stand for an address of each family; the first that is ours will do. */
static psgd_status open_listener(struct gathering *g)
{
	struct psgd_rendezvous *r = g->r;
	struct sockaddr_storage own = {0};
	socklen_t own_bytes = sizeof(own);
	struct addrinfo *list, *address;

	PSGD__TRY(psgd__resolve(g->terms->launch, &list, r->text, sizeof(r->text)));
	for (address = list; address; address = address->ai_next) {
		g->listener = listen_at(address);
		if (g->listener >= 0 || (errno != EADDRNOTAVAIL && errno != EAFNOSUPPORT))
			break;
	}
	freeaddrinfo(list);
	if (g->listener < 0)
		return psgd__rendezvous_fail(r, PSGD_ERR_IO, "cannot listen on %s: %s%s",
			g->terms->where, strerrordesc_np(errno),
			errno == EADDRNOTAVAIL ? " (it is no address of this machine)" : "");
	if (getsockname(g->listener, (struct sockaddr *)&own, &own_bytes) != 0)
		return psgd__rendezvous_fail(
			r, PSGD_ERR_IO, "getsockname: %s", strerrordesc_np(errno));
	psgd__address_text(&own, false, r->address, sizeof(r->address));
	if (!g->terms->token->bytes && !psgd__is_loopback(&own))
		psgd__log(g->terms, PSGD_LOG_WARN,
			"no token file: whoever reaches %s can join this run", g->terms->where);
	return PSGD_OK;
}

static void drop(struct gathering *g, size_t c)
{
	psgd__peer_close(&g->candidate[c].peer);
	g->candidate[c] = g->candidate[--g->n_candidates];
}

/* Not one of ours, or not shown to be: it must not end the rendezvous. */
static void refuse(struct gathering *g, size_t c, psgd_status status, const char *why)
{
	struct psgd__peer *peer = &g->candidate[c].peer;

	g->n_refused++;
	psgd__text(g->last_refusal, sizeof(g->last_refusal), "%s, from %s", why, peer->from);
	if (g->n_refused <= MAX_REFUSALS_LOGGED)
		psgd__log(g->terms, PSGD_LOG_WARN, "refused a connection from %s: %s", peer->from,
			why);
	if (status)
		psgd__peer_fail(peer, status, why);
	drop(g, c);
}

static void accept_one(struct gathering *g)
{
	struct sockaddr_storage from = {0};
	socklen_t from_bytes = sizeof(from);
	struct candidate *new;
	int fd = accept4(
		g->listener, (struct sockaddr *)&from, &from_bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		/* Out of descriptors: the listener stays readable, so do not spin on it. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			poll(NULL, 0, 20);
		return;
	}
	if (g->n_candidates == MAX_CANDIDATES)
		refuse(g, 0, PSGD_OK, "too many connections wait");
	psgd__socket_options(fd);
	new = &g->candidate[g->n_candidates++];
	memset(new, 0, sizeof(*new));
	new->peer.fd = fd;
	new->peer.in.limit = PSGD__FAIL_TEXT_MAX;
	new->deadline_ns = psgd__now_ns() + HANDSHAKE_NS;
	psgd__address_text(&from, true, new->peer.from, sizeof(new->peer.from));
}

/* Ends the rendezvous: the newcomer and all who wait are told the same. */
static psgd_status mismatch(struct gathering *g, size_t c)
{
	psgd__peer_fail(&g->candidate[c].peer, PSGD_ERR_MISMATCH, g->r->text);
	return PSGD_ERR_MISMATCH;
}

static psgd_status join(struct gathering *g, size_t c)
{
	struct candidate *who = &g->candidate[c];
	struct psgd_rendezvous *r = g->r;
	uint8_t mac[PSGD__MAC_BYTES] = {0};
	psgd_status status = PSGD_OK;

	if (g->terms->token->bytes)
		PSGD__TRY(psgd__token_mac(
			g->terms->token, PSGD__ROLE_MASTER, who->nonce, who->hello_bytes, mac));
	status = psgd__peer_send(
		&who->peer, PSGD__WELCOME, mac, sizeof(mac), psgd__now_ns() + HANDSHAKE_NS);
	if (status) {
		drop(g, c);
		return PSGD_OK;
	}
	psgd__reader_clear(&who->peer.in);
	r->peers[who->hello.worker] = who->peer;
	g->n_joined++;
	psgd__log(g->terms, PSGD_LOG_DEBUG, "worker %u came from %s", who->hello.worker,
		who->peer.from);
	g->candidate[c] = g->candidate[--g->n_candidates];
	return PSGD_OK;
}

/* The candidate is who it says: does it fit in? */
static psgd_status judge(struct gathering *g, size_t c)
{
	const struct candidate *who = &g->candidate[c];
	const struct psgd__hello *hello = &who->hello;
	struct psgd_rendezvous *r = g->r;
	uint32_t own = psgd_version(), other = hello->version;

	if (other != own) {
		psgd__rendezvous_fail(r, PSGD_ERR_MISMATCH,
			"worker %u has libpsgd %u.%u.%u, worker 0 has %u.%u.%u", hello->worker,
			other / 10000, other / 100 % 100, other % 100, own / 10000, own / 100 % 100,
			own % 100);
		return mismatch(g, c);
	}
	if (hello->n_workers != r->n_workers) {
		psgd__rendezvous_fail(r, PSGD_ERR_MISMATCH,
			"worker %u has a world size of %u, worker 0 has %u", hello->worker,
			hello->n_workers, r->n_workers);
		return mismatch(g, c);
	}
	if (hello->worker == 0 || hello->worker >= r->n_workers) {
		psgd__rendezvous_fail(r, PSGD_ERR_MISMATCH,
			hello->worker ? "worker number %u, from %s, is out of range"
				      : "worker number %u came twice, the second from %s",
			hello->worker, who->peer.from);
		return mismatch(g, c);
	}
	if (r->peers[hello->worker].fd >= 0) {
		psgd__rendezvous_fail(r, PSGD_ERR_MISMATCH,
			"worker number %u came twice, from %s and from %s", hello->worker,
			r->peers[hello->worker].from, who->peer.from);
		return mismatch(g, c);
	}
	return join(g, c);
}

static psgd_status take_hello(struct gathering *g, size_t c)
{
	struct candidate *who = &g->candidate[c];
	struct psgd__reader *in = &who->peer.in;
	bool token = g->terms->token->bytes > 0;

	if (in->type != PSGD__HELLO || psgd__hello_decode(in->body, in->length, &who->hello)) {
		refuse(g, c, PSGD_ERR_MISMATCH, "it speaks another protocol");
		return PSGD_OK;
	}
	if (who->hello.has_token != token) {
		refuse(g, c, PSGD_ERR_AUTH,
			token ? "worker 0 asks for a token, the other has none"
			      : "worker 0 has no token, the other has one");
		return PSGD_OK;
	}
	memcpy(who->hello_bytes, in->body, PSGD__HELLO_BYTES);
	if (!token)
		return judge(g, c);
	psgd__reader_clear(in);
	who->challenged = true;
	if (psgd__nonce(who->nonce))
		return psgd__rendezvous_fail(g->r, PSGD_ERR_IO, "no random numbers");
	if (psgd__peer_send(&who->peer, PSGD__CHALLENGE, who->nonce, sizeof(who->nonce),
		    psgd__now_ns() + HANDSHAKE_NS))
		drop(g, c);
	return PSGD_OK;
}

static psgd_status take_proof(struct gathering *g, size_t c)
{
	struct candidate *who = &g->candidate[c];
	const struct psgd__reader *in = &who->peer.in;
	uint8_t mac[PSGD__MAC_BYTES];

	PSGD__TRY(psgd__token_mac(
		g->terms->token, PSGD__ROLE_WORKER, who->nonce, who->hello_bytes, mac));
	if (in->type != PSGD__PROOF || in->length != sizeof(mac) ||
		!psgd__mac_equal(in->body, mac)) {
		refuse(g, c, PSGD_ERR_AUTH, "its token is not worker 0's");
		return PSGD_OK;
	}
	return judge(g, c);
}

static psgd_status serve(struct gathering *g, size_t c)
{
	struct candidate *who = &g->candidate[c];
	psgd_status status = psgd__peer_read(&who->peer);

	switch ((int)status) {
	case PSGD_PENDING:
		return PSGD_OK;
	case PSGD_OK:
		return who->challenged ? take_proof(g, c) : take_hello(g, c);
	case PSGD_ERR_MISMATCH:
		refuse(g, c, PSGD_OK, "it speaks another protocol");
		return PSGD_OK;
	case PSGD_ERR_NOMEM:
		return status;
	default:
		refuse(g, c, PSGD_OK, "it closed the connection");
		return PSGD_OK;
	}
}

/* A worker that has joined says nothing until all are there: anything else is its end. */
static void check_joined(struct gathering *g, uint32_t worker)
{
	struct psgd__peer *peer = &g->r->peers[worker];

	if (psgd__peer_read(peer) == PSGD_PENDING && peer->in.have == 0)
		return;
	psgd__log(g->terms, PSGD_LOG_WARN, "worker %u left before all were there", worker);
	psgd__peer_close(peer);
	g->n_joined--;
}

static size_t fill_poll(const struct gathering *g, struct pollfd *fds)
{
	size_t n = 0;

	fds[n++] = (struct pollfd){.fd = g->listener, .events = POLLIN};
	for (size_t c = 0; c < g->n_candidates; c++)
		fds[n++] = (struct pollfd){.fd = g->candidate[c].peer.fd, .events = POLLIN};
	for (uint32_t w = 1; w < g->r->n_workers; w++)
		fds[n++] = (struct pollfd){.fd = g->r->peers[w].fd, .events = POLLIN};
	return n;
}

static psgd_status handle_poll(struct gathering *g, const struct pollfd *fds, size_t n_candidates)
{
	for (uint32_t w = 1; w < g->r->n_workers; w++) {
		if (fds[n_candidates + w].revents)
			check_joined(g, w);
	}
	/* From the last, because drop() moves the last one into the gap. */
	for (size_t c = n_candidates; c-- > 0;) {
		if (fds[1 + c].revents)
			PSGD__TRY(serve(g, c));
		else if (psgd__now_ns() >= g->candidate[c].deadline_ns)
			refuse(g, c, PSGD_OK, "it said nothing for 10 s");
	}
	if (fds[0].revents)
		accept_one(g);
	return PSGD_OK;
}

/* "worker 1", "workers 1, 3 and 2 more": who is missing. */
static void missing_text(const struct gathering *g, char *out, size_t bytes)
{
	uint32_t n_missing = g->r->n_workers - 1 - g->n_joined, shown = 0;
	size_t used = (size_t)snprintf(out, bytes, n_missing == 1 ? "worker" : "workers");

	for (uint32_t w = 1; w < g->r->n_workers && shown < 8 && used < bytes; w++) {
		if (g->r->peers[w].fd < 0)
			used += (size_t)snprintf(
				out + used, bytes - used, "%s%u", shown++ ? ", " : " ", w);
	}
	if (shown < n_missing && used < bytes)
		snprintf(out + used, bytes - used, " and %u more", n_missing - shown);
}

static psgd_status fail_missing(struct gathering *g)
{
	char who[128];

	missing_text(g, who, sizeof(who));
	if (!g->n_refused)
		return psgd__rendezvous_fail(g->r, PSGD_ERR_TIMEOUT,
			"%s of %u did not come to %s within %.10g s", who, g->r->n_workers,
			g->terms->where, psgd__seconds(g->r->timeout_ns));
	return psgd__rendezvous_fail(g->r, PSGD_ERR_TIMEOUT,
		"%s of %u did not come to %s within %.10g s (connections refused: %llu; the last: "
		"%s)",
		who, g->r->n_workers, g->terms->where, psgd__seconds(g->r->timeout_ns),
		(unsigned long long)g->n_refused, g->last_refusal);
}

static psgd_status gather_all(struct gathering *g, struct pollfd *fds)
{
	while (g->n_joined + 1 < g->r->n_workers) {
		size_t n_candidates = g->n_candidates;
		int64_t now = psgd__now_ns(), until = g->terms->deadline_ns;
		char who[128];

		if (now >= g->terms->deadline_ns)
			return fail_missing(g);
		if (g->terms->next_log_ns < until)
			until = g->terms->next_log_ns;
		for (size_t c = 0; c < n_candidates; c++)
			if (g->candidate[c].deadline_ns < until)
				until = g->candidate[c].deadline_ns;
		if (poll(fds, fill_poll(g, fds), psgd__poll_ms(until)) < 0) {
			if (errno == EINTR)
				continue;
			return psgd__rendezvous_fail(
				g->r, PSGD_ERR_IO, "poll: %s", strerrordesc_np(errno));
		}
		PSGD__TRY(handle_poll(g, fds, n_candidates));
		missing_text(g, who, sizeof(who));
		psgd__log_waiting(g->terms, who);
	}
	return PSGD_OK;
}

static psgd_status start_all(struct gathering *g)
{
	for (uint32_t w = 1; w < g->r->n_workers; w++) {
		if (psgd__peer_send(
			    &g->r->peers[w], PSGD__START, NULL, 0, psgd__now_ns() + HANDSHAKE_NS))
			return psgd__rendezvous_fail(
				g->r, PSGD_ERR_PEER_LOST, "worker %u is gone", w);
	}
	return PSGD_OK;
}

psgd_status psgd__rendezvous_listen(struct psgd_rendezvous *r, struct psgd__terms *terms)
{
	struct gathering *g = psgd__calloc(1, sizeof(*g));
	struct pollfd *fds = psgd__calloc(1 + MAX_CANDIDATES + r->n_workers, sizeof(*fds));
	psgd_status status = PSGD_ERR_NOMEM;

	if (!g || !fds)
		goto out;
	*g = (struct gathering){.r = r, .terms = terms, .listener = -1};
	status = open_listener(g);
	if (!status)
		status = gather_all(g, fds);
	if (!status)
		status = start_all(g);
	while (g->n_candidates)
		drop(g, 0);
	if (g->listener >= 0)
		close(g->listener);
	for (uint32_t w = 1; status && w < r->n_workers; w++)
		psgd__peer_fail(&r->peers[w], status, r->text);
out:
	free(fds);
	free(g);
	return status;
}
