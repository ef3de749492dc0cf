/*
 * The rendezvous, room-private: frames, sockets with deadlines, token, the two sides of the
 * handshake.
 *
 *	other worker			worker 0
 *	HELLO  who I am, nonce	->
 *				<-	CHALLENGE  nonce		(with a token)
 *	PROOF  HMAC		->					(with a token)
 *				<-	WELCOME  HMAC			or FAIL  status, text
 *				<-	START  all are there		or FAIL
 *
 * The other worker proves first, so that a stranger learns nothing made from the token. The
 * handshake decides who is at the end of a connection; what follows is neither signed nor
 * encrypted.
 */
#ifndef PSGD_EXPERIMENT_RENDEZVOUS_IMPL_H
#define PSGD_EXPERIMENT_RENDEZVOUS_IMPL_H

#include <psgd/experiment/rendezvous.h>

#include "base/base.h"

#define PSGD__MAX_WORKERS 4096
#define PSGD__PROTOCOL 1
#define PSGD__NONCE_BYTES 32
#define PSGD__MAC_BYTES 32
#define PSGD__HELLO_BYTES (5 * 4 + PSGD__NONCE_BYTES)
#define PSGD__TOKEN_MIN 16
#define PSGD__TOKEN_MAX 4096
#define PSGD__BLOCK_MAX ((size_t)64 << 10) /* one worker's part of a gather */
#define PSGD__SHARE_MAX ((size_t)16 << 20)
#define PSGD__FAIL_TEXT_MAX 1024

/* --- frames: pure --- */

#define PSGD__FRAME_HEADER 12

enum psgd__frame_type {
	PSGD__HELLO = 1,
	PSGD__CHALLENGE,
	PSGD__PROOF,
	PSGD__WELCOME,
	PSGD__START,
	PSGD__FAIL,
	PSGD__BLOCK,  /* a worker's part of a gather */
	PSGD__BLOCKS, /* all parts */
	PSGD__SHARE,
	PSGD__FRAME_TYPES
};

/* Takes a frame from a stream, in pieces of any size. Zeros, with a limit, are a new reader. */
struct psgd__reader {
	size_t limit; /* longest body that is accepted */
	size_t have;  /* bytes of header and body so far */
	uint8_t header[PSGD__FRAME_HEADER];
	enum psgd__frame_type type;
	size_t length;
	uint8_t *body; /* the reader's; NULL until the header is there */
};

void psgd__frame_header(uint8_t out[PSGD__FRAME_HEADER], enum psgd__frame_type type, size_t length);
/* Where the next bytes go, and how many at most; 0 when the frame is whole. */
size_t psgd__reader_want(struct psgd__reader *reader, uint8_t **to);
/* n bytes are there: OK (whole), PENDING, MISMATCH (no frame of ours), NOMEM. */
psgd_status psgd__reader_got(struct psgd__reader *reader, size_t n);
void psgd__reader_clear(struct psgd__reader *reader); /* ready for the next frame */

struct psgd__hello {
	uint32_t protocol, version, n_workers, worker, has_token;
	uint8_t nonce[PSGD__NONCE_BYTES];
};

void psgd__hello_encode(const struct psgd__hello *hello, uint8_t out[PSGD__HELLO_BYTES]);
psgd_status psgd__hello_decode(const uint8_t *body, size_t length, struct psgd__hello *out);

/* Encodes into out, which holds 4 + PSGD__FAIL_TEXT_MAX bytes; returns the length. */
size_t psgd__fail_encode(psgd_status status, const char *text, uint8_t *out);
/* Only a known failure, and printable text, come out, whatever the peer sent. */
psgd_status psgd__fail_decode(const uint8_t *body, size_t length, char *text, size_t text_bytes);

/* --- token --- */

struct psgd__token {
	size_t bytes; /* 0: no token */
	uint8_t data[PSGD__TOKEN_MAX];
};

psgd_status psgd__token_read(
	const char *path, struct psgd__token *out, char *error, size_t error_bytes);
void psgd__token_clear(struct psgd__token *token);

enum psgd__role { PSGD__ROLE_WORKER, PSGD__ROLE_MASTER };

/* HMAC-SHA256 over the role, worker 0's nonce and the whole HELLO. */
psgd_status psgd__token_mac(const struct psgd__token *token, enum psgd__role role,
	const uint8_t nonce[PSGD__NONCE_BYTES], const uint8_t hello[PSGD__HELLO_BYTES],
	uint8_t out[PSGD__MAC_BYTES]);
bool psgd__mac_equal(const uint8_t a[PSGD__MAC_BYTES], const uint8_t b[PSGD__MAC_BYTES]);
psgd_status psgd__nonce(uint8_t out[PSGD__NONCE_BYTES]);

/* --- sockets; all are nonblocking --- */

struct addrinfo;
struct sockaddr_storage;

#define PSGD__ADDR_TEXT 80

struct psgd__peer {
	int fd; /* -1: none */
	struct psgd__reader in;
	char from[PSGD__ADDR_TEXT];
};

psgd_status psgd__resolve(
	const struct psgd_launch *launch, struct addrinfo **out, char *error, size_t error_bytes);
bool psgd__is_loopback(const struct sockaddr_storage *address);
bool psgd__is_wildcard(const struct sockaddr_storage *address);
/* "10.0.0.1:29500", "[::1]:29500"; without the port when with_port is false. */
void psgd__address_text(
	const struct sockaddr_storage *address, bool with_port, char *out, size_t bytes);
/* Milliseconds for poll until the deadline, rounded up. */
int psgd__poll_ms(int64_t deadline_ns);
void psgd__socket_options(int fd);
void psgd__peer_close(struct psgd__peer *peer);
/* OK: a whole frame is in peer->in. PENDING, PEER_LOST, MISMATCH, NOMEM. Does not wait. */
psgd_status psgd__peer_read(struct psgd__peer *peer);
/* As psgd__peer_read, but waits: TIMEOUT. */
psgd_status psgd__peer_await(struct psgd__peer *peer, int64_t deadline_ns);
/* Waits for room: OK, PEER_LOST, TIMEOUT. */
psgd_status psgd__peer_send(struct psgd__peer *peer, enum psgd__frame_type type, const void *body,
	size_t length, int64_t deadline_ns);
/* As far as it goes without waiting. */
void psgd__peer_fail(struct psgd__peer *peer, psgd_status status, const char *text);

/* --- the rendezvous --- */

struct psgd_rendezvous {
	uint32_t worker, n_workers;
	int64_t timeout_ns;
	struct psgd__peer *peers; /* worker 0: one a worker, its own unused; others: worker 0 */
	size_t n_peers;
	char address[PSGD__ADDR_TEXT];
	psgd_status status; /* sticks */
	char text[PSGD__FAIL_TEXT_MAX];
};

/* What one handshake goes by. */
struct psgd__terms {
	const struct psgd_launch *launch;
	const struct psgd__token *token;
	int64_t start_ns, deadline_ns, next_log_ns;
	char where[300]; /* master_addr:master_port */
	psgd_log_fn log;
	void *log_user;
};

/* Writes the text of a failure and returns its status. */
psgd_status psgd__rendezvous_fail(struct psgd_rendezvous *r, psgd_status status, const char *format,
	...) __attribute__((format(printf, 3, 4)));
void psgd__log(const struct psgd__terms *terms, enum psgd_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Every 5 s: "waiting for WHO at ADDR:PORT (30 of 300 s)". */
void psgd__log_waiting(struct psgd__terms *terms, const char *who);
double psgd__seconds(int64_t ns);

/* Fill r->peers and r->address, or fail. */
psgd_status psgd__rendezvous_listen(struct psgd_rendezvous *r, struct psgd__terms *terms);
psgd_status psgd__rendezvous_connect(struct psgd_rendezvous *r, struct psgd__terms *terms);

#endif
