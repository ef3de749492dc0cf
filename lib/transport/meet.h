/*
 * How the workers of a network meet: each tells the others whether it has failed, and what they
 * need to know of it. So either all go on, or all fail at once and know because of whom.
 */
#ifndef PSGD_TRANSPORT_MEET_H
#define PSGD_TRANSPORT_MEET_H

#include "base/base.h"

#include <psgd/transport.h>

#define PSGD__HELLO_TEXT 200

/* What a worker's block begins with. */
struct psgd__hello {
	uint32_t magic;
	int32_t status;
	char text[PSGD__HELLO_TEXT];
};

/* Whether a constructor's options can be right. */
bool psgd__meet_valid(const struct psgd_oob *oob, int64_t timeout_ns);

/*
 * Sends this worker's block with a hello put in front of it, gets everyone's, and fails if anybody
 * failed, this worker by `status` and its reason. A worker that fails before an exchange still
 * takes part in it, so that the others need not wait for their deadline. magic: of the transport
 * and its version.
 */
psgd_status psgd__meet(const struct psgd_oob *oob, uint32_t magic, char *mine, char *blocks,
	size_t block, psgd_status status, char *reason, size_t bytes);

/* Another worker's words: only printable ones, and an end. */
void psgd__meet_clean(char *text, size_t bytes);

#endif
