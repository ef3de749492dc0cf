/* A full-duplex link by two token buckets. Integer time: no drift, whatever the length of a run. */
#include "base/base.h"
#include "base/philox.h"

#include <psgd/shaper.h>

typedef unsigned __int128 wide;

#define DEFAULT_BURST_BYTES 3028
#define NS_PER_S 1000000000

/* Tokens are bits * 10^9, of which bps arrive each nanosecond: every sum is exact. */
struct bucket {
	uint64_t bps; /* 0: no limit */
	wide depth;
	wide tokens; /* at the time `at_ns` */
	int64_t at_ns;
};

struct model {
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

static void bucket_init(struct bucket *b, uint64_t bps, uint64_t burst)
{
	b->bps = bps;
	b->depth = tokens_of(burst ? burst : DEFAULT_BURST_BYTES);
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

/* Uniform in delay +- jitter, a function of (seed, message, step) alone. */
static wide step_delay(const struct model *m, uint64_t message, uint32_t step)
{
	uint32_t counter[4] = {(uint32_t)message, (uint32_t)(message >> 32), step, 0};
	uint32_t word[4];
	uint64_t low = (uint64_t)(m->link.delay_ns - m->link.jitter_ns);
	wide span = (wide)m->link.jitter_ns * 2 + 1;

	if (!m->link.jitter_ns)
		return low;
	psgd__philox(m->link.seed, counter, word);
	return low + ((((wide)word[1] << 32 | word[0]) * span) >> 64);
}

static int64_t model_admit(void *self, const struct psgd_message *message, int64_t start_ns)
{
	struct model *m = self;
	int64_t now = start_ns > m->through_ns ? start_ns : m->through_ns;

	for (uint32_t step = 0; step < message->steps; step++) {
		int64_t sent = bucket_pass(&m->out, message->bytes, now);
		int64_t received = bucket_pass(&m->in, message->bytes, now);

		now = add_ns(sent > received ? sent : received, step_delay(m, m->n_messages, step));
	}
	m->n_messages++;
	m->through_ns = now;
	return now;
}

static void model_destroy(void *self)
{
	free(self);
}

static const struct psgd_shaper_ops model_ops = {
	.size = sizeof(struct psgd_shaper_ops),
	.name = "model",
	.admit = model_admit,
	.destroy = model_destroy,
};

psgd_status psgd_shaper_model(const struct psgd_link *link, struct psgd_shaper *out)
{
	struct psgd_link l;
	struct model *m;

	if (!out)
		return PSGD_ERR_INVALID;
	*out = (struct psgd_shaper){0};
	PSGD__TRY(psgd__copy_options(&l, sizeof(l), link));
	if (l.delay_ns < 0 || l.jitter_ns < 0 || l.jitter_ns > l.delay_ns)
		return PSGD_ERR_INVALID;
	m = psgd__calloc(1, sizeof(*m));
	if (!m)
		return PSGD_ERR_NOMEM;
	m->link = l;
	m->through_ns = INT64_MIN;
	bucket_init(&m->out, l.egress_bps, l.burst_bytes);
	bucket_init(&m->in, l.ingress_bps, l.burst_bytes);
	out->ops = &model_ops;
	out->self = m;
	return PSGD_OK;
}

void psgd_shaper_destroy(struct psgd_shaper *shaper)
{
	if (!shaper)
		return;
	if (shaper->ops && PSGD__HAS(shaper->ops, destroy))
		shaper->ops->destroy(shaper->self);
	*shaper = (struct psgd_shaper){0};
}
