/*
 * Exchanges: the same engine for trainers with collectives of their own (MPI, NCCL, libtorch).
 * A session without a transport does no I/O; it hands out the collectives to run.
 * SPDX-License-Identifier: MIT
 */
#ifndef PSGD_EXCHANGE_H
#define PSGD_EXCHANGE_H

#include <psgd/session.h>

PSGD_BEGIN

typedef struct psgd_exchange psgd_exchange;

/*
 * Begins the exchange of a bucket, as psgd_session_submit does, in a session without a transport.
 * *out belongs to the session and is given back by psgd_exchange_end.
 * Errors as psgd_session_submit; STATE if the session has a transport.
 */
PSGD_API psgd_status psgd_exchange_begin(psgd_session *session, const struct psgd_bucket *bucket,
	psgd_stream ready, psgd_exchange **out);

/*
 * Ends the step: all its bucket exchanges must be done. The exchange that begins here carries the
 * decision on the next ranks; it must be done before a bucket of the next step can go on.
 * *report may be NULL; its times cover the calls of psgd_exchange_next, and the wire is unknown.
 */
PSGD_API psgd_status psgd_exchange_begin_finish(psgd_session *session,
	const struct psgd_step_info *info, struct psgd_report *report, psgd_exchange **out);

/*
 * Goes on as far as possible. WANT_COLLECTIVE: run *out on out->data in place, as transport.h says
 * for its kind (its notify is NULL), then call again. Which kinds come: all-reduces of F64 always;
 * the compressor's rounds, which are all-reduces of F32 in ours, and may be all-gathers in others;
 * broadcasts of U8 with a controller.
 * PENDING: not its turn, an earlier exchange must be advanced first; or an asynchronous device is
 * not through with it: call again, and meanwhile advance others. OK: done.
 * On an asynchronous device the messages of rounds are its memory, ready in the order of
 * out->stream, and what is in that order before the next call is in time; all others are the
 * host's memory. A failure is the session's too; gradients may be in use until psgd_exchange_end.
 */
PSGD_API psgd_status psgd_exchange_next(psgd_exchange *exchange, struct psgd_collective *out);

/*
 * Gives an exchange back and sets it to NULL, before the session is closed; one that is not done
 * fails the session.
 */
PSGD_API void psgd_exchange_end(psgd_exchange **exchange);

PSGD_END
#endif
