/* Rendezvous: how workers find each other. SPDX-License-Identifier: MIT */
#ifndef PSGD_EXPERIMENT_RENDEZVOUS_H
#define PSGD_EXPERIMENT_RENDEZVOUS_H

#include <psgd/experiment/launch.h>
#include <psgd/transport.h>

PSGD_BEGIN

typedef struct psgd_rendezvous psgd_rendezvous;

struct psgd_rendezvous_options {
	size_t size;
	const struct psgd_launch *launch;
	const char *token_file; /* shared secret; NULL: none. Must not be readable by others */
	int64_t timeout_ns;	/* until all workers are there, and of every exchange; 0: 300 s */
	psgd_log_fn log;	/* "waiting for worker 1 ...", warnings */
	void *log_user;
	char *error;
	size_t error_bytes;
};

/*
 * Worker 0 listens on launch->master_addr:master_port, that address only; the others connect,
 * before or after. With a token both sides prove that they have it (HMAC-SHA256 over fresh
 * nonces). Frames are bounded; everything has a deadline.
 * On success *out is ended by psgd_rendezvous_close. Errors, with text naming address, worker and
 * deadline: INVALID, CONFIG (the token file cannot be read, is open to others, too short or too
 * long), IO (port in use, address not ours), TIMEOUT (who is missing), AUTH (the tokens differ),
 * MISMATCH (world sizes or library versions differ, a worker number twice), PEER_LOST, NOMEM.
 */
PSGD_API psgd_status psgd_rendezvous_open(
	const struct psgd_rendezvous_options *options, psgd_rendezvous **out);

/* Byte all-gather over the rendezvous; valid until close. One thread. */
PSGD_API struct psgd_oob psgd_rendezvous_oob(psgd_rendezvous *rendezvous);

/* The own address by which the other workers reach this process; lives until close. */
PSGD_API const char *psgd_rendezvous_address(const psgd_rendezvous *rendezvous);

/*
 * Sends worker 0's bytes to all; *out (at most 16 MiB, freed by free()) is the same everywhere.
 * text, bytes: read on worker 0 only. Errors as open.
 */
PSGD_API psgd_status psgd_rendezvous_share(psgd_rendezvous *rendezvous, const void *bytes,
	size_t n_bytes, void **out, size_t *out_bytes);

/* Copies the text of the last failure. */
PSGD_API void psgd_rendezvous_error(const psgd_rendezvous *rendezvous, char *text, size_t bytes);

PSGD_API void psgd_rendezvous_close(psgd_rendezvous **rendezvous); /* NULL is fine */

PSGD_END
#endif
