#include "base/base.h"

#include <math.h>

#include <psgd/cost.h>
#include <psgd/shaper.h>

psgd_status psgd_cost_link_of(
	const struct psgd_link *link, uint32_t n_workers, struct psgd_cost_link *out)
{
	struct psgd_link in;
	struct psgd_cost_link cost = PSGD_INIT(psgd_cost_link);
	uint64_t rate;
	double steps;

	if (!link || !out || !psgd__report_fits(out) || !n_workers)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&in, sizeof(in), link));
	if (in.delay_ns < 0 || in.loss_ppm >= 1000000)
		return PSGD_ERR_INVALID;
	rate = in.egress_bps;
	if (in.ingress_bps && (!rate || in.ingress_bps < rate))
		rate = in.ingress_bps;
	/* A ring all-reduce: each step sends 1/n of the bytes and waits for its neighbour's. */
	steps = 2.0 * (double)(n_workers - 1);
	cost.n_workers = n_workers;
	cost.delay_ns = steps * (double)in.delay_ns;
	if (rate)
		cost.ns_per_byte = steps / (double)n_workers * 8e9 / (double)rate;
	/* What is lost is sent again. */
	cost.ns_per_byte /= 1.0 - in.loss_ppm * 1e-6;
	psgd__copy_report(out, &cost, sizeof(cost));
	return PSGD_OK;
}

static bool link_is_good(const struct psgd_cost_link *link)
{
	return isfinite(link->delay_ns) && isfinite(link->ns_per_byte) && link->ns_per_byte >= 0;
}

psgd_status psgd_cost_round(
	const struct psgd_cost_link *link, const struct psgd_payload *payload, double *out)
{
	struct psgd_cost_link in;
	double bytes = (double)psgd_payload_bytes(payload);

	if (!link || !payload || !out || (bytes == 0 && payload->count != 0))
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&in, sizeof(in), link));
	if (!link_is_good(&in))
		return PSGD_ERR_INVALID;
	*out = 0;
	switch (payload->kind) {
	case 0:
	case PSGD_ALLREDUCE_SUM:
		if (bytes > 0)
			*out = fmax(0, in.delay_ns + in.ns_per_byte * bytes);
		return PSGD_OK;
	case PSGD_ALLGATHER:
		if (!in.n_workers)
			return PSGD_ERR_INVALID;
		if (bytes > 0)
			*out = fmax(0, in.delay_ns + in.ns_per_byte * bytes * in.n_workers) / 2;
		return PSGD_OK;
	default:
		return PSGD_ERR_INVALID;
	}
}

/* Of a bucket: its message of `round` waits for the thread, can go, or is on its way. */
enum lane_state { WITH_THREAD, CAN_GO, ON_WIRE, DONE };

struct lane {
	struct psgd_plan plan;
	enum lane_state state;
	uint32_t round;
	double at; /* CAN_GO: since then. ON_WIRE: through then */
	double wire_ns[PSGD_MAX_ROUNDS];
};

/* Times are doubles: whole nanoseconds are exact in them for a hundred days. */
struct walk {
	const struct psgd_cost_bucket *buckets;
	struct lane *lanes;
	size_t n;
	struct psgd_cost_link link;
	double thread_free, wire_free, wire_busy;
	uint64_t payload_bytes;
	size_t to_encode, to_post, to_take; /* the first bucket that is not through with it */
};

static psgd_status take_bucket(
	const struct psgd_cost_bucket *bucket, const struct psgd_cost_link *link, struct lane *lane)
{
	if (!bucket->plan || bucket->ready_ns < 0 || bucket->encode_ns < 0 || bucket->decode_ns < 0)
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&lane->plan, sizeof(lane->plan), bucket->plan));
	if (lane->plan.n_rounds < 1 || lane->plan.n_rounds > PSGD_MAX_ROUNDS)
		return PSGD_ERR_INVALID;
	for (uint32_t i = 0; i < lane->plan.n_rounds; i++)
		PSGD__TRY(psgd_cost_round(link, &lane->plan.round[i], &lane->wire_ns[i]));
	return PSGD_OK;
}

/* The thread has just run up to `round`; runs whose message is empty follow at once. */
static void hand_over(struct walk *w, size_t b, uint32_t round)
{
	struct lane *lane = &w->lanes[b];

	while (round < lane->plan.n_rounds && !lane->plan.round[round].count) {
		round++;
		w->thread_free += (double)w->buckets[b].decode_ns / lane->plan.n_rounds;
	}
	lane->round = round;
	lane->state = round < lane->plan.n_rounds ? CAN_GO : DONE;
	lane->at = w->thread_free;
}

static bool is_last_message(const struct lane *lane)
{
	for (uint32_t i = lane->round + 1; i < lane->plan.n_rounds; i++) {
		if (lane->plan.round[i].count)
			return false;
	}
	return true;
}

/* Puts on the wire what can go, in order; a message that waits holds all later ones back. */
static void post(struct walk *w)
{
	while (w->to_post < w->n) {
		struct lane *lane = &w->lanes[w->to_post];
		double time;

		if (lane->state == DONE) {
			w->to_post++;
			continue;
		}
		if (lane->state != CAN_GO)
			return;
		time = lane->wire_ns[lane->round];
		w->wire_free = fmax(w->wire_free, lane->at) + time;
		w->wire_busy += time;
		w->payload_bytes += psgd_payload_bytes(&lane->plan.round[lane->round]);
		lane->state = ON_WIRE;
		lane->at = w->wire_free;
		if (!is_last_message(lane))
			return;
		w->to_post++;
	}
}

/* The thread's next piece of work: what can begin first; a message that came goes before. */
static void work(struct walk *w)
{
	double take = INFINITY, encode = INFINITY;
	struct lane *lane = &w->lanes[w->to_take];
	size_t b;

	if (lane->state == ON_WIRE)
		take = fmax(w->thread_free, lane->at);
	if (w->to_encode < w->n)
		encode = fmax(w->thread_free, (double)w->buckets[w->to_encode].ready_ns);
	if (take <= encode) {
		b = w->to_take;
		w->thread_free = take + (double)w->buckets[b].decode_ns / lane->plan.n_rounds;
		hand_over(w, b, lane->round + 1);
	} else {
		b = w->to_encode++;
		w->thread_free = encode + (double)w->buckets[b].encode_ns;
		hand_over(w, b, 0);
	}
	while (w->to_take < w->n && w->lanes[w->to_take].state == DONE)
		w->to_take++;
}

static int64_t whole(double ns)
{
	return ns < 9.2e18 ? (int64_t)(ns + 0.5) : INT64_MAX;
}

psgd_status psgd_cost_predict(const struct psgd_cost_bucket *buckets, size_t n_buckets,
	int64_t compute_ns, const struct psgd_cost_link *link, struct psgd_cost *out)
{
	struct walk w = {.buckets = buckets, .n = n_buckets};
	struct psgd_cost cost = PSGD_INIT(psgd_cost);
	psgd_status status = PSGD_OK;

	if (!buckets || !n_buckets || compute_ns < 0 || !link || !out || !psgd__report_fits(out))
		return PSGD_ERR_INVALID;
	PSGD__TRY(psgd__copy_options(&w.link, sizeof(w.link), link));
	if (!link_is_good(&w.link))
		return PSGD_ERR_INVALID;
	w.lanes = psgd__calloc(n_buckets, sizeof(*w.lanes));
	if (!w.lanes)
		return PSGD_ERR_NOMEM;
	for (size_t b = 0; b < n_buckets; b++) {
		status = take_bucket(&buckets[b], &w.link, &w.lanes[b]);
		if (status < 0)
			goto out;
	}
	while (w.to_take < n_buckets) {
		work(&w);
		post(&w);
	}
	cost.exposed_ns = whole(fmax(0.0, w.thread_free - (double)compute_ns));
	if (__builtin_add_overflow(compute_ns, cost.exposed_ns, &cost.step_ns))
		cost.step_ns = INT64_MAX;
	cost.wire_ns = whole(w.wire_busy);
	cost.payload_bytes = w.payload_bytes;
	psgd__copy_report(out, &cost, sizeof(cost));
out:
	free(w.lanes);
	return status;
}
