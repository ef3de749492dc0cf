/*
 * The live cap: the largest candidate whose predicted exposed share of a step is small enough.
 *
 * The prediction walks the cost model over the fitted link, with medians over the last steps of
 * everything else, so that one odd step moves nothing. Down goes at once, as far as it must; where
 * the share is little above the limit, only if it stays there, since noise does not. Up goes one
 * candidate at a time: after `dwell_steps` without a move, and if the share has been clear of the
 * limit for as many decisions in a row. A step up that had to be taken back soon doubles the wait,
 * because then the model is wrong about that candidate. It begins at the middle one of the
 * compressed candidates, from which both ends are near; a prior of the link lets it go from there
 * to where the model says at once. When the run is no longer young it looks at some steps only:
 * that is soon enough for a link that changes, and the messages of a decision take time from the
 * threads that train.
 */
#include "control/control.h"

#include <math.h>
#include <string.h>

#define YOUNG 64      /* steps that are all looked at; */
#define LOOK_EVERY 4  /* later, one in so many */
#define HISTORY 48    /* steps that medians are over */
#define SETTLED 3     /* steps at a rank before its encode and decode times are believed */
#define CLEAR 0.85    /* of the limit: low enough to go up */
#define FAR_CLEAR 0.6 /* of the limit: such a decision counts for FAR_COUNTS */
#define FAR_COUNTS 4
#define OVER 1.15	/* of the limit: too much to wait and see */
#define PERSISTS 16	/* decisions in a row, or else it is noise */
#define SOON 4		/* dwells within which a step down takes a step up back */
#define MAX_PATIENCE 16 /* dwells at most between two steps up */
#define MAX_DWELL (UINT64_MAX / (SOON * MAX_PATIENCE))
#define MOST_NS 1e18 /* that are a time */

/* Work of encoding and decoding at rank r, until it has been measured: 1 + r / 8; dense: */
#define DENSE_WORK 0.3

struct codec_times {
	double encode, decode;
};

/* Per bucket; the history is a ring over steps. */
struct bucket_profile {
	double lead[HISTORY]; /* ready so long before the end of compute: steadier than ready */
	struct codec_times codec[HISTORY]; /* at the rank of the steps */
	double lead_median;
	struct codec_times settled; /* medians at settled_rank */
};

/* All that later decisions depend on, but for the profiles. */
struct state {
	struct psgd__link_fit fit;
	double compute[HISTORY];
	size_t n_buckets;
	size_t n_steps, n_codec;     /* ever seen with these buckets, with this rank */
	uint32_t rank, settled_rank; /* of what was sent; the largest in force when it is mixed */
	struct codec_times settled;  /* over all buckets */
	struct codec_times known[PSGD__MAX_CANDIDATES]; /* the same at each candidate; 0: never */

	size_t at; /* the cap */
	uint64_t observed;
	uint64_t moved_step, up_step; /* the last move, step up */
	uint8_t has_moved, has_gone_up, placed;
	uint8_t mixed; /* what is sent is no one rank's: it says nothing of a candidate */
	uint8_t reserved[4];
	uint32_t clear, over; /* decisions in a row below CLEAR, above the limit */
	uint32_t patience, reserved32;
};

struct cap_live {
	double max_exposed;
	uint64_t dwell_steps, warmup_steps;
	struct psgd__candidates candidates;
	struct state s;
	struct bucket_profile *profile;
	struct psgd_cost_bucket *cost; /* of one prediction, as the plans */
	struct psgd_plan *plan;
	size_t capacity[3];
};

static uint32_t live_needs(const void *self, uint64_t step, bool decision)
{
	(void)self;
	return decision || step < YOUNG || step % LOOK_EVERY == 0
		       ? PSGD_NEED_DECISION | PSGD_NEED_TIMING
		       : 0;
}

static uint32_t rank_in_force(const struct psgd_observation *seen)
{
	uint32_t rank = 0;

	for (size_t i = 0; i < seen->n_tensors; i++) {
		if (seen->ranks[i] > rank)
			rank = seen->ranks[i];
	}
	return psgd__comparable(rank);
}

/* *sends: whether all buckets of the step were sent as they would be at a rank. */
static psgd_status sent_at(const struct psgd_observation *seen, uint32_t rank, bool *sends)
{
	uint64_t planned = 0, sent = 0;

	for (size_t b = 0; b < seen->n_buckets; b++) {
		struct psgd_plan plan = PSGD_INIT(psgd_plan);

		PSGD__TRY(seen->plan(seen->plan_user, b, psgd__public(rank), &plan));
		for (uint32_t i = 0; i < plan.n_rounds; i++)
			planned += psgd_payload_bytes(&plan.round[i]) *
				   (plan.round[i].kind == PSGD_ALLGATHER ? seen->n_workers : 1);
	}
	for (size_t i = 0; i < seen->n_messages; i++)
		sent += seen->messages[i].bytes;
	*sends = planned == sent;
	return PSGD_OK;
}

/*
 * The rank that the step's times are of: a start phase sends dense whatever is in force, and ranks
 * that differ between tensors send what no one rank does.
 */
static psgd_status rank_of(const struct psgd_observation *seen, uint32_t *rank, bool *mixed)
{
	bool sends;

	*rank = rank_in_force(seen);
	PSGD__TRY(sent_at(seen, *rank, &sends));
	*mixed = !sends;
	if (sends)
		return PSGD_OK;
	PSGD__TRY(sent_at(seen, PSGD_RANK_DENSE, &sends));
	if (sends) {
		*rank = PSGD_RANK_DENSE;
		*mixed = false;
	}
	return PSGD_OK;
}

static double median(const double *ring, size_t stride, size_t ever)
{
	size_t n = ever < HISTORY ? ever : HISTORY;
	double values[HISTORY];

	for (size_t i = 0; i < n; i++)
		values[i] = ring[i * stride];
	return psgd__nth(values, n, n / 2);
}

static double not_negative(int64_t ns)
{
	return ns > 0 ? (double)ns : 0.0;
}

static psgd_status fit_buckets(struct cap_live *live, size_t n)
{
	PSGD__TRY(psgd__grow(&live->profile, &live->capacity[0], n, sizeof(*live->profile)));
	PSGD__TRY(psgd__grow(&live->cost, &live->capacity[1], n, sizeof(*live->cost)));
	PSGD__TRY(psgd__grow(&live->plan, &live->capacity[2], n, sizeof(*live->plan)));
	if (n == live->s.n_buckets)
		return PSGD_OK;
	live->s.n_buckets = n;
	live->s.n_steps = 0;
	live->s.n_codec = 0;
	live->s.settled_rank = 0;
	return PSGD_OK;
}

static void settle(struct cap_live *live)
{
	const size_t stride = sizeof(struct codec_times) / sizeof(double);

	live->s.settled_rank = live->s.rank;
	live->s.settled = (struct codec_times){0};
	for (size_t b = 0; b < live->s.n_buckets; b++) {
		struct bucket_profile *p = &live->profile[b];

		p->settled.encode = median(&p->codec[0].encode, stride, live->s.n_codec);
		p->settled.decode = median(&p->codec[0].decode, stride, live->s.n_codec);
		live->s.settled.encode += p->settled.encode;
		live->s.settled.decode += p->settled.decode;
	}
	for (size_t i = 0; i < live->candidates.n && !live->s.mixed; i++) {
		if (live->candidates.rank[i] == live->s.rank)
			live->s.known[i] = live->s.settled;
	}
}

/* Takes in a step. *changed: the link has, and not only the messages. */
static psgd_status observe(
	struct cap_live *live, const struct psgd_observation *seen, bool *changed)
{
	uint32_t rank;
	bool mixed;

	PSGD__TRY(rank_of(seen, &rank, &mixed));
	*changed = psgd__link_fit_add(&live->s.fit, seen->messages, seen->n_messages);
	if (rank != live->s.rank || mixed != live->s.mixed) {
		live->s.rank = rank;
		live->s.mixed = mixed;
		live->s.n_codec = 0;
	}
	live->s.compute[live->s.n_steps % HISTORY] = not_negative(seen->compute_ns);
	for (size_t b = 0; b < live->s.n_buckets; b++) {
		struct bucket_profile *p = &live->profile[b];
		struct codec_times *codec = &p->codec[live->s.n_codec % HISTORY];

		p->lead[live->s.n_steps % HISTORY] =
			not_negative(seen->compute_ns) - not_negative(seen->buckets[b].ready_ns);
		codec->encode = not_negative(seen->buckets[b].encode_ns);
		codec->decode = not_negative(seen->buckets[b].decode_ns);
		p->lead_median = median(p->lead, 1, live->s.n_steps + 1);
	}
	live->s.n_steps++;
	live->s.n_codec++;
	if (live->s.n_codec >= SETTLED || !live->s.settled_rank)
		settle(live);
	live->s.observed++;
	*changed = *changed && live->s.n_codec > PSGD__FIT_STEPS;
	return PSGD_OK;
}

static double work_at(uint32_t rank)
{
	return rank == PSGD_RANK_DENSE ? DENSE_WORK : 1.0 + rank / 8.0;
}

/* How much longer than now encoding or decoding would take at a candidate. */
static double scale(double known, double now, uint32_t rank, uint32_t rank_now)
{
	if (known > 0.0 && now > 0.0)
		return known / now;
	return work_at(rank) / work_at(rank_now);
}

/* The predicted exposed share of a step at a candidate. */
static psgd_status share_at(
	struct cap_live *live, const struct psgd_observation *seen, size_t candidate, double *share)
{
	uint32_t rank = live->candidates.rank[candidate], now = live->s.settled_rank;
	const struct codec_times *known = &live->s.known[candidate];
	double encode = scale(known->encode, live->s.settled.encode, rank, now);
	double decode = scale(known->decode, live->s.settled.decode, rank, now);
	struct psgd_cost_link link = PSGD_INIT(psgd_cost_link);
	struct psgd_cost cost = PSGD_INIT(psgd_cost);
	double compute = median(live->s.compute, 1, live->s.n_steps);

	link.delay_ns = live->s.fit.delay_ns;
	link.ns_per_byte = live->s.fit.ns_per_byte;
	link.n_workers = seen->n_workers;
	for (size_t b = 0; b < live->s.n_buckets; b++) {
		const struct bucket_profile *p = &live->profile[b];

		live->plan[b] = PSGD_INIT(psgd_plan);
		PSGD__TRY(seen->plan(seen->plan_user, b, psgd__public(rank), &live->plan[b]));
		live->cost[b] = (struct psgd_cost_bucket){
			.plan = &live->plan[b],
			.ready_ns = (int64_t)fmax(0.0, compute - p->lead_median),
			.encode_ns = (int64_t)fmin(p->settled.encode * encode, MOST_NS),
			.decode_ns = (int64_t)fmin(p->settled.decode * decode, MOST_NS),
		};
	}
	PSGD__TRY(psgd_cost_predict(live->cost, live->s.n_buckets, (int64_t)compute, &link, &cost));
	*share = cost.step_ns ? (double)cost.exposed_ns / (double)cost.step_ns : 0.0;
	return PSGD_OK;
}

static void move(struct cap_live *live, uint64_t step, size_t to)
{
	bool up = to > live->s.at;

	if (up) {
		live->s.up_step = step;
	} else {
		bool taken_back =
			live->s.has_gone_up &&
			step - live->s.up_step <= SOON * live->s.patience * live->dwell_steps;

		live->s.patience = taken_back ? 2 * live->s.patience : 1;
		if (live->s.patience > MAX_PATIENCE)
			live->s.patience = MAX_PATIENCE;
	}
	live->s.has_gone_up = up;
	live->s.has_moved = true;
	live->s.moved_step = step;
	live->s.clear = live->s.over = 0;
	live->s.at = to;
}

static psgd_status go_down(struct cap_live *live, const struct psgd_observation *seen, double share,
	struct psgd__cap_verdict *out)
{
	size_t to = live->s.at;

	out->value = out->predicted_exposed = share;
	out->regime = "link_hold";
	live->s.clear = 0;
	if (share <= OVER * live->max_exposed && ++live->s.over < PERSISTS)
		return PSGD_OK;
	while (to > 0 && share > live->max_exposed)
		PSGD__TRY(share_at(live, seen, --to, &share));
	out->predicted_exposed = share;
	out->moved = to != live->s.at;
	if (!out->moved)
		return PSGD_OK;
	out->regime = "link_down";
	move(live, seen->step, to);
	return PSGD_OK;
}

/* The first move with a prior: to the largest candidate that fits, as far as it is. */
static psgd_status place(
	struct cap_live *live, const struct psgd_observation *seen, struct psgd__cap_verdict *out)
{
	double share, limit;
	size_t to = live->candidates.n;

	do {
		to--;
		limit = to > live->s.at ? CLEAR * live->max_exposed : live->max_exposed;
		PSGD__TRY(share_at(live, seen, to, &share));
	} while (to > 0 && share > limit);
	out->value = out->predicted_exposed = share;
	out->threshold = limit;
	out->moved = to != live->s.at;
	out->regime = "link_prior";
	live->s.placed = true;
	if (out->moved)
		move(live, seen->step, to);
	return PSGD_OK;
}

/* To the next candidate that fits: where encoding is slow, that can be dense. */
static psgd_status go_up(struct cap_live *live, const struct psgd_observation *seen, double share,
	struct psgd__cap_verdict *out)
{
	double limit = CLEAR * live->max_exposed, far = FAR_CLEAR * live->max_exposed;
	double above = INFINITY;
	size_t to = live->s.at;
	bool rested = !live->s.has_moved ||
		      seen->step - live->s.moved_step >= live->s.patience * live->dwell_steps;

	out->value = out->predicted_exposed = share;
	live->s.over = 0;
	while (to + 1 < live->candidates.n && above > limit)
		PSGD__TRY(share_at(live, seen, ++to, &above));
	if (above > limit)
		live->s.clear = 0;
	else if (live->s.clear < PERSISTS)
		live->s.clear += above > far ? 1 : FAR_COUNTS;
	if (live->s.clear < PERSISTS || !rested)
		return PSGD_OK;
	out->value = out->predicted_exposed = above;
	out->threshold = limit;
	out->moved = true;
	out->regime = "link_up";
	move(live, seen->step, to);
	return PSGD_OK;
}

/* The link as it is known after enough steps: where to be under it. */
static psgd_status follow(
	struct cap_live *live, const struct psgd_observation *seen, struct psgd__cap_verdict *out)
{
	double share;

	if (!live->s.placed)
		return place(live, seen, out);
	out->threshold = live->max_exposed;
	PSGD__TRY(share_at(live, seen, live->s.at, &share));
	return share > live->max_exposed ? go_down(live, seen, share, out)
					 : go_up(live, seen, share, out);
}

static psgd_status live_decide(
	void *self, const struct psgd_observation *seen, struct psgd__cap_verdict *out)
{
	struct cap_live *live = self;
	psgd_status status = PSGD_OK;
	bool changed;

	out->regime = "link_hold";
	/* A step in which nothing was exchanged says nothing. */
	if (!seen->first && seen->n_buckets && seen->n_messages) {
		PSGD__TRY(fit_buckets(live, seen->n_buckets));
		PSGD__TRY(observe(live, seen, &changed));
		if (changed)
			live->s.patience = 1;
		if (live->s.fit.n_steps && live->s.observed >= live->warmup_steps)
			status = follow(live, seen, out);
	}
	if (live->s.fit.n_steps || live->s.fit.known) {
		out->delay_ns = live->s.fit.delay_ns;
		out->ns_per_byte = live->s.fit.ns_per_byte;
	}
	out->rank = live->candidates.rank[live->s.at];
	return status;
}

static void live_destroy(void *self)
{
	struct cap_live *live = self;

	free(live->profile);
	free(live->cost);
	free(live->plan);
	free(live);
}

/* Times are nanoseconds that 64 bits hold, from `least` on; what else is no time. */
static bool are_times(const double *times, size_t n, double least)
{
	for (size_t i = 0; i < n; i++) {
		if (!(times[i] >= least && times[i] < MOST_NS))
			return false;
	}
	return true;
}

static bool possible(const void *self, const void *data, size_t n)
{
	const struct cap_live *live = self;
	const struct state *s = data;

	(void)n;
	return s->at < live->candidates.n && s->patience >= 1 && s->patience <= MAX_PATIENCE &&
	       s->n_steps < SIZE_MAX / 2 && s->n_codec < SIZE_MAX / 2 &&
	       are_times(s->compute, HISTORY, 0.0) && are_times(&s->settled.encode, 2, 0.0) &&
	       are_times(&s->known[0].encode, 2 * PSGD__MAX_CANDIDATES, 0.0) &&
	       psgd__link_fit_possible(&s->fit);
}

static bool profiles_possible(const void *self, const void *data, size_t n)
{
	const struct bucket_profile *profile = data;

	(void)self;
	for (size_t b = 0; b < n; b++) {
		const struct bucket_profile *p = &profile[b];

		/* A bucket may be ready after the end of compute, as workers differ. */
		if (!are_times(p->lead, HISTORY, -MOST_NS) ||
			!are_times(&p->lead_median, 1, -MOST_NS) ||
			!are_times(&p->codec[0].encode, 2 * HISTORY, 0.0) ||
			!are_times(&p->settled.encode, 2, 0.0))
			return false;
	}
	return true;
}

static size_t live_pieces(void *self, struct psgd__state_piece *pieces)
{
	struct cap_live *live = self;

	pieces[0] = (struct psgd__state_piece){
		"control/live", &live->s, sizeof(live->s), NULL, possible};
	pieces[1] = (struct psgd__state_piece){"control/live/buckets", &live->profile,
		sizeof(*live->profile), &live->capacity[0], profiles_possible};
	return 2;
}

static const struct psgd__cap_ops live_ops = {live_needs, live_decide, live_destroy, live_pieces};

static psgd_status check_prior(double value, const char *name, const struct psgd__refusal *refusal)
{
	if (value >= 0.0 && value < 1e18)
		return PSGD_OK;
	return psgd__refuse(refusal, "%s is %g; it must be at least 0", name, value);
}

psgd_status psgd__cap_live(const struct psgd_live_options *options,
	const struct psgd__candidates *candidates, const struct psgd__refusal *refusal,
	struct psgd__cap *out)
{
	struct psgd_live_options in;
	struct cap_live *live;
	size_t n = candidates->n;
	bool prior;

	PSGD__TRY(psgd__take_options(&in, sizeof(in), options, "live", refusal));
	PSGD__TRY(psgd__check_share(&in.max_exposed, "live.max_exposed", refusal));
	PSGD__TRY(check_prior(in.prior_delay_ns, "live.prior_delay_ns", refusal));
	PSGD__TRY(check_prior(in.prior_ns_per_byte, "live.prior_ns_per_byte", refusal));
	live = psgd__calloc(1, sizeof(*live));
	if (!live)
		return PSGD_ERR_NOMEM;
	live->max_exposed = in.max_exposed;
	live->dwell_steps = in.dwell_steps ? in.dwell_steps : 50;
	if (live->dwell_steps > MAX_DWELL)
		live->dwell_steps = MAX_DWELL;
	prior = in.prior_delay_ns > 0.0 || in.prior_ns_per_byte > 0.0;
	live->warmup_steps = in.warmup_steps ? in.warmup_steps : prior ? SETTLED : 5;
	live->candidates = *candidates;
	if (n > 1 && candidates->rank[n - 1] == PSGD_RANK_DENSE)
		n--;
	live->s.at = (n - 1) / 2;
	live->s.patience = 1;
	live->s.placed = !prior;
	if (prior)
		psgd__link_fit_prior(&live->s.fit, in.prior_delay_ns, in.prior_ns_per_byte);
	*out = (struct psgd__cap){&live_ops, live};
	return PSGD_OK;
}
