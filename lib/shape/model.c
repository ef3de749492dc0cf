/* A full-duplex link by two token buckets. Integer time: no drift, whatever the length of a run. */
#include <pthread.h>

#include "base/base.h"
#include "base/philox.h"
#include "shape/link.h"

typedef unsigned __int128 wide;

#define NS_PER_S 1000000000
#define MAX_FRAMES 1048576 /* drawn one by one; of more, the same share is lost */
#define MAX_FLIGHTS 1000   /* of one step: then the link has mercy */
#define LOSS_KEY UINT64_C(0x6c6f7373)

/* Tokens are bits * 10^9, of which bps arrive each nanosecond: every sum is exact. */
struct bucket {
	uint64_t bps; /* 0: no limit */
	wide depth;
	wide tokens; /* at the time `at_ns` */
	int64_t at_ns;
};

struct model {
	pthread_mutex_t lock; /* set_link comes from another thread */
	struct psgd_link link;
	struct bucket out, in;
	int64_t through_ns; /* all earlier messages are through */
	uint64_t n_messages;
};

static wide tokens_of(uint64_t bytes)
{
	return (wide)bytes * 8 * NS_PER_S;
}

static int64_t add_ns(int64_t a, wide b)
{
	__int128 room = (__int128)INT64_MAX - a;

	return b > (wide)room ? INT64_MAX : (int64_t)(a + (__int128)b);
}

/* What has gathered stays, as far as there is room for it. */
static void bucket_set(struct bucket *b, uint64_t bps, uint64_t burst)
{
	b->bps = bps;
	b->depth = tokens_of(burst ? burst : PSGD__FULL_FRAMES_BYTES);
	if (b->tokens > b->depth)
		b->tokens = b->depth;
}

/* When the last of `bytes`, ready at start_ns, has passed. */
static int64_t bucket_pass(struct bucket *b, uint64_t bytes, int64_t start_ns)
{
	wide need = tokens_of(bytes), wait;

	if (!b->bps)
		return start_ns;
	if (start_ns > b->at_ns) {
		wide idle = (wide)((__int128)start_ns - b->at_ns);

		b->tokens += (idle < INT64_MAX ? idle : INT64_MAX) * b->bps;
		if (b->tokens > b->depth)
			b->tokens = b->depth;
	}
	if (need <= b->tokens) {
		b->tokens -= need;
		b->at_ns = start_ns;
		return start_ns;
	}
	need -= b->tokens;
	wait = need / b->bps + (need % b->bps != 0);
	b->tokens = wait * b->bps - need;
	b->at_ns = add_ns(start_ns, wait);
	return b->at_ns;
}

/* A trip over the link: there with a flight, and back with the news of what it lost. */
struct trip {
	uint64_t message;
	uint32_t step, number;
};

/* Uniform in delay +- jitter, a function of (seed, trip) alone. */
static wide trip_delay(const struct model *m, const struct trip *trip)
{
	uint32_t counter[4] = {
		(uint32_t)trip->message, (uint32_t)(trip->message >> 32), trip->step, trip->number};
	uint32_t word[4];
	uint64_t low = (uint64_t)(m->link.delay_ns - m->link.jitter_ns);
	wide span = (wide)m->link.jitter_ns * 2 + 1;

	if (!m->link.jitter_ns)
		return low;
	psgd__philox(m->link.seed, counter, word);
	return low + ((((wide)word[1] << 32 | word[0]) * span) >> 64);
}

/* How many of n frames are lost, a function of (seed, trip) alone. */
static uint64_t n_lost(const struct model *m, const struct trip *trip, uint64_t n)
{
	uint64_t drawn = n < MAX_FRAMES ? n : MAX_FRAMES, lost = 0;
	/* A key for each trip, so that the counter is free for the frames. */
	uint32_t of_trip[4] = {
		(uint32_t)trip->message, (uint32_t)(trip->message >> 32), trip->step, trip->number};
	uint32_t key[4];

	psgd__philox(m->link.seed ^ LOSS_KEY, of_trip, key);
	for (uint64_t i = 0; i < drawn; i += 4) {
		uint32_t counter[4] = {(uint32_t)(i / 4), key[2], key[3], 0}, word[4];

		psgd__philox((uint64_t)key[1] << 32 | key[0], counter, word);
		for (uint64_t k = 0; k < 4 && i + k < drawn; k++)
			lost += (uint64_t)word[k] * PSGD__PPM < (uint64_t)m->link.loss_ppm << 32;
	}
	return n > drawn ? (uint64_t)((wide)lost * n / drawn) : lost;
}

/* One step of a message, ready at `now`: flights, until no frame is missing. */
static int64_t send_step(struct model *m, struct trip trip, uint64_t bytes, int64_t now)
{
	for (int flight = 0;; flight++) {
		int64_t sent = bucket_pass(&m->out, bytes, now);
		int64_t received = bucket_pass(&m->in, bytes, now);
		uint64_t frames = bytes / PSGD__FRAME_BYTES + (bytes % PSGD__FRAME_BYTES != 0),
			 lost = 0;

		now = add_ns(sent > received ? sent : received, trip_delay(m, &trip));
		if (m->link.loss_ppm && flight < MAX_FLIGHTS)
			lost = n_lost(m, &trip, frames);
		if (!lost)
			return now;
		bytes = lost < frames ? lost * PSGD__FRAME_BYTES : bytes;
		trip.number++;
		now = add_ns(now, trip_delay(m, &trip));
		trip.number++;
	}
}

static int64_t model_admit(void *self, const struct psgd_message *message, int64_t start_ns)
{
	struct model *m = self;
	int64_t now;

	pthread_mutex_lock(&m->lock);
	now = start_ns > m->through_ns ? start_ns : m->through_ns;
	for (uint32_t step = 0; step < message->steps; step++)
		now = send_step(m, (struct trip){m->n_messages, step, 0}, message->bytes, now);
	m->n_messages++;
	m->through_ns = now;
	pthread_mutex_unlock(&m->lock);
	return now;
}

psgd_status psgd__link_check(struct psgd_link *out, const struct psgd_link *in)
{
	PSGD__TRY(psgd__copy_options(out, sizeof(*out), in));
	if (out->reserved || out->delay_ns < 0 || out->jitter_ns < 0 ||
		out->jitter_ns > out->delay_ns || out->loss_ppm >= PSGD__PPM)
		return PSGD_ERR_INVALID;
	return PSGD_OK;
}

static psgd_status model_set_link(void *self, const struct psgd_link *link)
{
	struct model *m = self;
	struct psgd_link l;

	PSGD__TRY(psgd__link_check(&l, link));
	pthread_mutex_lock(&m->lock);
	m->link = l;
	bucket_set(&m->out, l.egress_bps, l.burst_bytes);
	bucket_set(&m->in, l.ingress_bps, l.burst_bytes);
	pthread_mutex_unlock(&m->lock);
	return PSGD_OK;
}

static void model_destroy(void *self)
{
	struct model *m = self;

	pthread_mutex_destroy(&m->lock);
	free(m);
}

static const struct psgd_shaper_ops model_ops = {
	.size = sizeof(struct psgd_shaper_ops),
	.name = "model",
	.admit = model_admit,
	.destroy = model_destroy,
	.set_link = model_set_link,
};

psgd_status psgd_shaper_model(const struct psgd_link *link, struct psgd_shaper *out)
{
	struct psgd_link l;
	struct model *m;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = (struct psgd_shaper){0};
	PSGD__TRY(psgd__link_check(&l, link));
	m = psgd__calloc(1, sizeof(*m));
	if (!m)
		return PSGD_ERR_NOMEM;
	pthread_mutex_init(&m->lock, NULL); /* cannot fail without attributes on Linux */
	m->link = l;
	m->through_ns = INT64_MIN;
	m->out.tokens = m->in.tokens = ~(wide)0; /* full, whatever the depth */
	bucket_set(&m->out, l.egress_bps, l.burst_bytes);
	bucket_set(&m->in, l.ingress_bps, l.burst_bytes);
	out->ops = &model_ops;
	out->self = m;
	return PSGD_OK;
}

psgd_status psgd_shaper_set_link(struct psgd_shaper *shaper, const struct psgd_link *link)
{
	if (!shaper || !shaper->ops)
		return PSGD_ERR_INVALID;
	if (!PSGD__HAS(shaper->ops, set_link))
		return PSGD_ERR_UNSUPPORTED;
	return shaper->ops->set_link(shaper->self, link);
}

void psgd_shaper_destroy(struct psgd_shaper *shaper)
{
	if (!shaper)
		return;
	if (shaper->ops && PSGD__HAS(shaper->ops, destroy))
		shaper->ops->destroy(shaper->self);
	*shaper = (struct psgd_shaper){0};
}
