/* Shapers: what link a worker has, or pretends to have. SPDX-License-Identifier: MIT */
#ifndef PSGD_SHAPER_H
#define PSGD_SHAPER_H

#include <psgd/types.h>

PSGD_BEGIN

/* A link as one worker sees it. 0 = no limit, no delay. */
struct psgd_link {
	size_t size;
	uint64_t egress_bps;  /* bits per second that leave */
	uint64_t ingress_bps; /* bits per second that arrive */
	int64_t delay_ns;     /* one way, charged once per message of a collective's algorithm */
	int64_t jitter_ns;    /* each delay is uniform in delay_ns +- jitter_ns, at least 0 */
	uint64_t burst_bytes; /* depth of the token bucket; 0: 3028, two full Ethernet frames */
	uint64_t seed;	      /* of the jitter and the losses; equal on all workers */
	uint32_t loss_ppm;    /* of 10^6 frames so many are lost, and sent again; below 10^6 */
	uint32_t reserved;    /* 0 */
};

/* One collective as a link sees it: `steps` dependent messages of `bytes` bytes, both ways. */
struct psgd_message {
	size_t size;
	uint32_t steps;
	uint32_t reserved; /* 0 */
	uint64_t bytes;	   /* sent, and received, by a worker in each step */
};

struct psgd_shaper_ops {
	size_t size;
	const char *name;
	/*
	 * In-process model: a message that is ready at start_ns, and behind all earlier ones,
	 * is through at the returned time, at least start_ns. Advances the model. One thread.
	 */
	int64_t (*admit)(void *self, const struct psgd_message *message, int64_t start_ns);
	void (*destroy)(void *self);
	/* The link that messages admitted later meet; beside `admit`, from any thread. */
	psgd_status (*set_link)(void *self, const struct psgd_link *link);
};

struct psgd_shaper {
	const struct psgd_shaper_ops *ops;
	void *self;
};

/*
 * A full-duplex link by a token bucket for each direction. Pure: time is an argument.
 *
 * Losses: each step travels in frames of 1500 bytes, of which each may be lost, by chance but the
 * same for the same seed. The sender hears of all losses of a flight together, one delay after the
 * flight has arrived, as by duplicate acknowledgements, and sends the lost frames again, of which
 * some may be lost again: a flight with losses costs a round trip and the frames' time on the wire.
 * There is no congestion control: the rate stays what it is.
 *
 * On success *out is the caller's; on failure zeroed. Errors: INVALID (negative delay or jitter,
 * jitter above delay, all frames lost, reserved not 0), NOMEM. Any thread.
 */
PSGD_API psgd_status psgd_shaper_model(const struct psgd_link *link, struct psgd_shaper *out);

/*
 * Another link from now on: messages that were admitted before keep their times, later ones queue
 * behind them. Any thread, beside a transport that uses the shaper; on every worker between the
 * same two messages, or their times differ. Errors: INVALID (as psgd_shaper_model), UNSUPPORTED (a
 * shaper whose link cannot change).
 */
PSGD_API psgd_status psgd_shaper_set_link(struct psgd_shaper *shaper, const struct psgd_link *link);

/* Ends a shaper and zeroes it. NULL and zeros are fine. */
PSGD_API void psgd_shaper_destroy(struct psgd_shaper *shaper);

PSGD_END
#endif
