/* After the handshake: gather and share, as a star around worker 0. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "experiment/rendezvous_impl.h"

#define DEFAULT_TIMEOUT_NS INT64_C(300000000000)
#define MAX_TIMEOUT_NS (INT64_MAX / 4)
#define LOG_EVERY_NS INT64_C(5000000000)

psgd_status psgd__rendezvous_fail(
	struct psgd_rendezvous *r, psgd_status status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	psgd__vtext(r->text, sizeof(r->text), format, args);
	va_end(args);
	r->status = status;
	return status;
}

void psgd__log(const struct psgd__terms *terms, enum psgd_log_level level, const char *format, ...)
{
	char line[512];
	va_list args;

	if (!terms->log)
		return;
	va_start(args, format);
	psgd__vtext(line, sizeof(line), format, args);
	va_end(args);
	terms->log(terms->log_user, level, line);
}

double psgd__seconds(int64_t ns)
{
	return (double)ns / 1e9;
}

void psgd__log_waiting(struct psgd__terms *terms, const char *who)
{
	int64_t now = psgd__now_ns();

	if (now < terms->next_log_ns)
		return;
	while (terms->next_log_ns <= now)
		terms->next_log_ns += LOG_EVERY_NS;
	psgd__log(terms, PSGD_LOG_INFO, "waiting for %s at %s (%lld of %.10g s)", who, terms->where,
		(long long)((now - terms->start_ns) / 1000000000),
		psgd__seconds(terms->deadline_ns - terms->start_ns));
}

static psgd_status check_launch(const struct psgd_launch *launch, char *error, size_t error_bytes)
{
	if (!launch || launch->n_workers < 1 || launch->n_workers > PSGD__MAX_WORKERS ||
		launch->worker >= launch->n_workers) {
		psgd__text(error, error_bytes, "worker %u of %u is out of range",
			launch ? launch->worker : 0, launch ? launch->n_workers : 0);
		return PSGD_ERR_INVALID;
	}
	if (!memchr(launch->master_addr, 0, sizeof(launch->master_addr)) ||
		(launch->n_workers > 1 && (!launch->master_addr[0] || !launch->master_port))) {
		psgd__text(error, error_bytes, "no master address and port");
		return PSGD_ERR_INVALID;
	}
	return PSGD_OK;
}

static psgd_status create(
	const struct psgd_launch *launch, int64_t timeout_ns, struct psgd_rendezvous **out)
{
	struct psgd_rendezvous *r = psgd__calloc(1, sizeof(*r));

	if (!r)
		return PSGD_ERR_NOMEM;
	r->worker = launch->worker;
	r->n_workers = launch->n_workers;
	r->n_peers = launch->worker ? 1 : launch->n_workers;
	r->peers = psgd__calloc(r->n_peers, sizeof(*r->peers));
	if (!r->peers) {
		free(r);
		return PSGD_ERR_NOMEM;
	}
	for (size_t p = 0; p < r->n_peers; p++)
		r->peers[p].fd = -1;
	r->timeout_ns = timeout_ns <= 0 ? DEFAULT_TIMEOUT_NS : timeout_ns;
	if (r->timeout_ns > MAX_TIMEOUT_NS)
		r->timeout_ns = MAX_TIMEOUT_NS;
	*out = r;
	return PSGD_OK;
}

static psgd_status meet(struct psgd_rendezvous *r, const struct psgd_rendezvous_options *options)
{
	const struct psgd_launch *launch = options->launch;
	struct psgd__token token = {0};
	struct psgd__terms terms = {.launch = launch,
		.token = &token,
		.log = options->log,
		.log_user = options->log_user};
	psgd_status status;

	if (options->token_file)
		PSGD__TRY(psgd__token_read(options->token_file, &token, r->text, sizeof(r->text)));
	psgd__text(terms.where, sizeof(terms.where),
		strchr(launch->master_addr, ':') ? "[%s]:%u" : "%s:%u", launch->master_addr,
		launch->master_port);
	terms.start_ns = psgd__now_ns();
	terms.deadline_ns = terms.start_ns + r->timeout_ns;
	terms.next_log_ns = terms.start_ns + LOG_EVERY_NS;
	status = r->worker ? psgd__rendezvous_connect(r, &terms)
			   : psgd__rendezvous_listen(r, &terms);
	psgd__token_clear(&token);
	return status;
}

psgd_status psgd_rendezvous_open(
	const struct psgd_rendezvous_options *options, psgd_rendezvous **out)
{
	struct psgd_rendezvous_options own;
	struct psgd_rendezvous *r;
	psgd_status status;

	if (!out || !options)
		return PSGD_ERR_INVALID;
	*out = NULL;
	PSGD__TRY(psgd__copy_options(&own, sizeof(own), options));
	psgd__text(own.error, own.error_bytes, "%s", "");
	PSGD__TRY(check_launch(own.launch, own.error, own.error_bytes));
	status = create(own.launch, own.timeout_ns, &r);
	if (status) {
		psgd__text(own.error, own.error_bytes, "%s", psgd_status_text(status));
		return status;
	}
	if (r->n_workers == 1)
		psgd__text(r->address, sizeof(r->address), "127.0.0.1");
	else
		status = meet(r, &own);
	if (status) {
		psgd__text(own.error, own.error_bytes, "%s",
			r->text[0] ? r->text : psgd_status_text(status));
		psgd_rendezvous_close(&r);
		return status;
	}
	for (size_t p = 0; p < r->n_peers; p++)
		r->peers[p].in.limit = 4 + PSGD__FAIL_TEXT_MAX;
	*out = r;
	return PSGD_OK;
}

/* Worker 0 tells the others, so that all name the one who is missing. */
static psgd_status fail_all(struct psgd_rendezvous *r)
{
	if (!r->worker) {
		for (size_t p = 1; p < r->n_peers; p++)
			psgd__peer_fail(&r->peers[p], r->status, r->text);
	}
	return r->status;
}

static psgd_status fail_peer(struct psgd_rendezvous *r, uint32_t worker, psgd_status status)
{
	switch ((int)status) {
	case PSGD_ERR_TIMEOUT:
		return psgd__rendezvous_fail(r, status, "worker %u did not answer within %.10g s",
			worker, psgd__seconds(r->timeout_ns));
	case PSGD_ERR_MISMATCH:
		return psgd__rendezvous_fail(
			r, status, "worker %u is at another point of the program", worker);
	case PSGD_ERR_NOMEM:
		return psgd__rendezvous_fail(r, status, "out of memory");
	default:
		return psgd__rendezvous_fail(r, PSGD_ERR_PEER_LOST, "worker %u is gone", worker);
	}
}

/* A frame has come from a peer: is it the expected one? FAIL takes its place at any time. */
static psgd_status check_frame(struct psgd_rendezvous *r, uint32_t worker,
	const struct psgd__reader *in, enum psgd__frame_type type, size_t length)
{
	if (in->type == PSGD__FAIL) {
		char text[sizeof(r->text)];
		psgd_status status = psgd__fail_decode(in->body, in->length, text, sizeof(text));

		return psgd__rendezvous_fail(r, status, "%s", text);
	}
	if (in->type != type)
		return fail_peer(r, worker, PSGD_ERR_MISMATCH);
	if (length != SIZE_MAX && in->length != length)
		return psgd__rendezvous_fail(r, PSGD_ERR_MISMATCH,
			"worker %u sends %zu bytes where worker %u has %zu", worker, in->length,
			r->worker, length);
	return PSGD_OK;
}

/* Reads what has come from worker w; *done when its block is in place. */
static psgd_status read_block(
	struct psgd_rendezvous *r, uint32_t w, uint8_t *recv, size_t bytes, bool *done)
{
	struct psgd__peer *peer = &r->peers[w];
	psgd_status status = psgd__peer_read(peer);

	*done = false;
	if (status == PSGD_PENDING)
		return PSGD_OK;
	if (status)
		return fail_peer(r, w, status);
	PSGD__TRY(check_frame(r, w, &peer->in, PSGD__BLOCK, bytes));
	if (bytes)
		memcpy(recv + w * bytes, peer->in.body, bytes);
	psgd__reader_clear(&peer->in);
	*done = true;
	return PSGD_OK;
}

static uint32_t first_missing(const struct pollfd *fds)
{
	uint32_t w = 1;

	while (fds[w].fd < 0)
		w++;
	return w;
}

/* All others at once: a dead worker is noticed while a slow one is waited for. */
static psgd_status collect(struct psgd_rendezvous *r, uint8_t *recv, size_t bytes,
	struct pollfd *fds, int64_t deadline_ns)
{
	uint32_t missing = r->n_workers - 1;

	fds[0].fd = -1;
	for (uint32_t w = 1; w < r->n_workers; w++) {
		r->peers[w].in.limit = PSGD__BLOCK_MAX;
		fds[w] = (struct pollfd){.fd = r->peers[w].fd, .events = POLLIN};
	}
	while (missing) {
		int n = poll(fds, r->n_workers, psgd__poll_ms(deadline_ns));

		if (n < 0 && errno != EINTR)
			return psgd__rendezvous_fail(
				r, PSGD_ERR_IO, "poll: %s", strerrordesc_np(errno));
		if (n == 0 && !psgd__poll_ms(deadline_ns))
			return fail_peer(r, first_missing(fds), PSGD_ERR_TIMEOUT);
		for (uint32_t w = 1; n > 0 && w < r->n_workers; w++) {
			bool done;

			if (fds[w].fd < 0 || !fds[w].revents)
				continue;
			PSGD__TRY(read_block(r, w, recv, bytes, &done));
			if (done) {
				fds[w].fd = -1;
				missing--;
			}
		}
	}
	return PSGD_OK;
}

static psgd_status send_all(struct psgd_rendezvous *r, enum psgd__frame_type type, const void *body,
	size_t bytes, int64_t deadline_ns)
{
	for (uint32_t w = 1; w < r->n_workers; w++) {
		psgd_status status = psgd__peer_send(&r->peers[w], type, body, bytes, deadline_ns);

		if (status)
			return fail_peer(r, w, status);
	}
	return PSGD_OK;
}

static psgd_status gather_master(
	struct psgd_rendezvous *r, uint8_t *recv, size_t bytes, int64_t deadline_ns)
{
	struct pollfd *fds = psgd__calloc(r->n_workers, sizeof(*fds));
	psgd_status status;

	if (!fds)
		return fail_peer(r, 0, PSGD_ERR_NOMEM);
	status = collect(r, recv, bytes, fds, deadline_ns);
	free(fds);
	if (!status)
		status = send_all(r, PSGD__BLOCKS, recv, bytes * r->n_workers, deadline_ns);
	return status;
}

/* Worker 0's frame, or why there is none. A FAIL may wait behind a broken connection. */
static psgd_status from_master(struct psgd_rendezvous *r, enum psgd__frame_type type, size_t limit,
	size_t length, int64_t deadline_ns)
{
	struct psgd__peer *peer = &r->peers[0];
	psgd_status status;

	peer->in.limit = limit > 4 + PSGD__FAIL_TEXT_MAX ? limit : 4 + PSGD__FAIL_TEXT_MAX;
	status = psgd__peer_await(peer, deadline_ns);
	if (status)
		return fail_peer(r, 0, status);
	return check_frame(r, 0, &peer->in, type, length);
}

static psgd_status gather_other(struct psgd_rendezvous *r, const void *send, uint8_t *recv,
	size_t bytes, int64_t deadline_ns)
{
	struct psgd__peer *peer = &r->peers[0];
	psgd_status status = psgd__peer_send(peer, PSGD__BLOCK, send, bytes, deadline_ns);
	size_t all = bytes * r->n_workers;

	if (status && status != PSGD_ERR_PEER_LOST)
		return fail_peer(r, 0, status);
	PSGD__TRY(from_master(r, PSGD__BLOCKS, all, all, deadline_ns));
	if (all)
		memcpy(recv, peer->in.body, all);
	psgd__reader_clear(&peer->in);
	return PSGD_OK;
}

static psgd_status allgather(void *self, const void *send, void *recv, size_t bytes)
{
	struct psgd_rendezvous *r = self;
	int64_t deadline = psgd__now_ns() + r->timeout_ns;
	psgd_status status = PSGD_OK;

	if (r->status)
		return r->status;
	if (bytes > PSGD__BLOCK_MAX || (bytes && (!send || !recv))) {
		psgd__rendezvous_fail(r, PSGD_ERR_INVALID,
			"a gather takes at most %zu bytes a worker, not %zu", PSGD__BLOCK_MAX,
			bytes);
		return fail_all(r);
	}
	if (bytes)
		memmove((uint8_t *)recv + r->worker * bytes, send, bytes);
	if (r->n_workers == 1)
		return PSGD_OK;
	status = r->worker ? gather_other(r, send, recv, bytes, deadline)
			   : gather_master(r, recv, bytes, deadline);
	return status ? fail_all(r) : PSGD_OK;
}

struct psgd_oob psgd_rendezvous_oob(psgd_rendezvous *rendezvous)
{
	return (struct psgd_oob){
		.allgather = allgather,
		.self = rendezvous,
		.worker = rendezvous->worker,
		.n_workers = rendezvous->n_workers,
	};
}

const char *psgd_rendezvous_address(const psgd_rendezvous *rendezvous)
{
	return rendezvous->address;
}

static psgd_status share_master(struct psgd_rendezvous *r, const void *bytes, size_t n_bytes,
	void **out, int64_t deadline_ns)
{
	void *copy = psgd__calloc(n_bytes, 1);
	psgd_status status;

	if (!copy)
		return fail_peer(r, 0, PSGD_ERR_NOMEM);
	if (n_bytes)
		memcpy(copy, bytes, n_bytes);
	status = send_all(r, PSGD__SHARE, copy, n_bytes, deadline_ns);
	if (status)
		free(copy);
	else
		*out = copy;
	return status;
}

psgd_status psgd_rendezvous_share(
	psgd_rendezvous *r, const void *bytes, size_t n_bytes, void **out, size_t *out_bytes)
{
	int64_t deadline = r ? psgd__now_ns() + r->timeout_ns : 0;
	psgd_status status;

	if (!r || !out || !out_bytes)
		return PSGD_ERR_INVALID;
	*out = NULL;
	*out_bytes = 0;
	if (r->status)
		return r->status;
	if (!r->worker && (n_bytes > PSGD__SHARE_MAX || (n_bytes && !bytes)))
		status = psgd__rendezvous_fail(r, PSGD_ERR_INVALID,
			"at most %zu bytes can be shared, not %zu", PSGD__SHARE_MAX, n_bytes);
	else if (!r->worker)
		status = share_master(r, bytes, n_bytes, out, deadline);
	else
		status = from_master(r, PSGD__SHARE, PSGD__SHARE_MAX, SIZE_MAX, deadline);
	if (status)
		return fail_all(r);
	if (!r->worker) {
		*out_bytes = n_bytes;
		return PSGD_OK;
	}
	/* The reader's body becomes the caller's. */
	*out = r->peers[0].in.body;
	*out_bytes = r->peers[0].in.length;
	r->peers[0].in.body = NULL;
	psgd__reader_clear(&r->peers[0].in);
	return PSGD_OK;
}

void psgd_rendezvous_error(const psgd_rendezvous *rendezvous, char *text, size_t bytes)
{
	psgd__text(text, bytes, "%s", rendezvous ? rendezvous->text : "");
}

void psgd_rendezvous_close(psgd_rendezvous **rendezvous)
{
	struct psgd_rendezvous *r;

	if (!rendezvous || !*rendezvous)
		return;
	r = *rendezvous;
	*rendezvous = NULL;
	for (size_t p = 0; p < r->n_peers; p++)
		psgd__peer_close(&r->peers[p]);
	free(r->peers);
	free(r);
}
