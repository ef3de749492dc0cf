/*
 * A trainer that does not exist: buckets with a cost at each rank, a link, and the observation
 * that the engine would make of a step. Written from the headers, not from the library's code.
 */
#ifndef TESTS_CONTROL_SCENE_H
#define TESTS_CONTROL_SCENE_H

#include <math.h>
#include <string.h>

#include <psgd/cost.h>
#include <psgd/rank_control.h>

#define SCENE_BUCKETS 8

struct scene {
	int64_t rows[SCENE_BUCKETS], columns[SCENE_BUCKETS]; /* of a bucket's only matrix */
	int64_t bias[SCENE_BUCKETS];			     /* dense values beside it */
	size_t n_buckets;
	int64_t compute_ns;
	double codec_base, codec_slope; /* ns per value, and per value and rank, of each pass */
	double delay_ns, ns_per_byte;	/* of the link */
	uint32_t rank;			/* in force; 0: dense */
	uint64_t state;			/* of the random numbers */
	double noise;			/* relative, of every measured time */
	double outliers;		/* share of messages that come late */
	double bad_steps;		/* share of steps in which all messages come late */

	struct psgd_message_time messages[2 * SCENE_BUCKETS];
	struct psgd_bucket_time buckets[SCENE_BUCKETS];
};

static inline double scene_random(struct scene *s)
{
	s->state ^= s->state << 13;
	s->state ^= s->state >> 7;
	s->state ^= s->state << 17;
	return (double)(s->state >> 11) / 9007199254740992.0;
}

static inline struct scene scene_new(uint64_t seed)
{
	struct scene s = {.n_buckets = 4,
		.compute_ns = 100000000,
		.codec_base = 1.0,
		.codec_slope = 0.2,
		.rank = 1,
		.state = seed * 0x9e3779b97f4a7c15u + 1};

	for (size_t b = 0; b < SCENE_BUCKETS; b++) {
		s.rows[b] = 512 >> (b % 3);
		s.columns[b] = 1024;
		s.bias[b] = s.rows[b];
	}
	for (int i = 0; i < 8; i++)
		scene_random(&s);
	return s;
}

static inline void scene_link(struct scene *s, double mbit, double delay_ns)
{
	struct psgd_link link = PSGD_INIT(psgd_link);
	struct psgd_cost_link cost = PSGD_INIT(psgd_cost_link);

	link.egress_bps = (uint64_t)(mbit * 1e6);
	link.delay_ns = (int64_t)delay_ns;
	psgd_cost_link_of(&link, 2, &cost);
	s->delay_ns = cost.delay_ns;
	s->ns_per_byte = cost.ns_per_byte;
}

static inline psgd_status scene_plan(void *user, size_t b, uint32_t rank, struct psgd_plan *out)
{
	const struct scene *s = user;

	if (b >= s->n_buckets)
		return PSGD_ERR_INVALID;
	out->raw_bytes = 4 * (uint64_t)(s->rows[b] * s->columns[b] + s->bias[b]);
	out->n_rounds = rank ? 2 : 1;
	out->n_compressed = rank != 0;
	out->round[0].count = s->bias[b] + (rank ? s->rows[b] * rank : s->rows[b] * s->columns[b]);
	out->round[1].count = rank ? s->columns[b] * rank : 0;
	return PSGD_OK;
}

/* What a step really takes at a rank. */
static inline struct psgd_cost scene_truth(const struct scene *s, uint32_t rank)
{
	struct psgd_plan plan[SCENE_BUCKETS];
	struct psgd_cost_bucket bucket[SCENE_BUCKETS];
	struct psgd_cost_link link = PSGD_INIT(psgd_cost_link);
	struct psgd_cost cost = PSGD_INIT(psgd_cost);
	struct scene copy = *s;

	link.delay_ns = s->delay_ns;
	link.ns_per_byte = s->ns_per_byte;
	for (size_t b = 0; b < s->n_buckets; b++) {
		double values = (double)(s->rows[b] * s->columns[b]);
		double pass = values * (rank ? s->codec_base + s->codec_slope * rank : 0.3);

		plan[b] = PSGD_INIT(psgd_plan);
		scene_plan(&copy, b, rank, &plan[b]);
		bucket[b] = (struct psgd_cost_bucket){
			.plan = &plan[b],
			.ready_ns = s->compute_ns * (int64_t)(b + 1) / (int64_t)s->n_buckets,
			.encode_ns = (int64_t)pass,
			.decode_ns = (int64_t)(2 * pass),
		};
	}
	psgd_cost_predict(bucket, s->n_buckets, s->compute_ns, &link, &cost);
	return cost;
}

static inline double scene_share(const struct scene *s, uint32_t rank)
{
	struct psgd_cost cost = scene_truth(s, rank == PSGD_RANK_DENSE ? 0 : rank);

	return (double)cost.exposed_ns / (double)cost.step_ns;
}

static inline int64_t scene_jitter(struct scene *s, double ns)
{
	/* Of three uniform numbers: bell-shaped, with a standard deviation of 1. */
	double bell = 2.0 * (scene_random(s) + scene_random(s) + scene_random(s) - 1.5);

	return (int64_t)(ns * fmax(0.1, 1.0 + s->noise * bell));
}

/* The observation of one step at the rank in force. ranks[1] is the caller's memory. */
static inline struct psgd_observation scene_observe(struct scene *s, uint64_t step, uint32_t *ranks)
{
	struct psgd_observation seen = PSGD_INIT(psgd_observation);
	struct psgd_cost cost = scene_truth(s, s->rank);
	bool bad = scene_random(s) < s->bad_steps;
	/* A slow step is slow as a whole; its parts differ less among themselves. */
	double compute = (double)scene_jitter(s, (double)s->compute_ns);

	for (size_t b = 0; b < s->n_buckets; b++) {
		struct psgd_plan plan = PSGD_INIT(psgd_plan);
		double values = (double)(s->rows[b] * s->columns[b]);
		double pass = values * (s->rank ? s->codec_base + s->codec_slope * s->rank : 0.3);

		scene_plan(s, b, s->rank, &plan);
		for (uint32_t i = 0; i < plan.n_rounds; i++) {
			uint64_t bytes = 4 * (uint64_t)plan.round[i].count;
			double ns = s->delay_ns + s->ns_per_byte * (double)bytes;

			if (bad || scene_random(s) < s->outliers)
				ns *= 2.0 + 20.0 * scene_random(s);
			s->messages[seen.n_messages++] = (struct psgd_message_time){
				.bytes = bytes,
				.ns = scene_jitter(s, ns),
				.bucket = (uint32_t)b,
				.round = i,
			};
		}
		s->buckets[b] = (struct psgd_bucket_time){
			(int64_t)(compute * (double)(b + 1) / (double)s->n_buckets *
				  (1.0 + 0.2 * s->noise * (scene_random(s) - 0.5))),
			scene_jitter(s, pass), scene_jitter(s, 2 * pass)};
	}
	ranks[0] = s->rank;
	seen.step = step;
	seen.learning_rate = 0.1;
	seen.grad_sum_norm = NAN;
	seen.step_ns = cost.step_ns;
	seen.exposed_ns = cost.exposed_ns;
	seen.wire_ns = cost.wire_ns;
	seen.compute_ns = (int64_t)compute;
	seen.messages = s->messages;
	seen.buckets = s->buckets;
	seen.n_buckets = s->n_buckets;
	seen.ranks = ranks;
	seen.n_tensors = 1;
	seen.plan = scene_plan;
	seen.plan_user = s;
	seen.n_workers = 2;
	return seen;
}

/* The observation before the first step. */
static inline struct psgd_observation scene_first(uint32_t *ranks)
{
	struct psgd_observation seen = PSGD_INIT(psgd_observation);

	ranks[0] = 0;
	seen.step = UINT64_MAX;
	seen.first = 1;
	seen.grad_sum_norm = NAN;
	seen.ranks = ranks;
	seen.n_tensors = 1;
	seen.n_workers = 2;
	return seen;
}

static inline struct psgd_controller scene_control(const struct psgd_rank_control_options *options)
{
	struct psgd_controller control;
	char error[256];

	ck_assert_msg(
		psgd_controller_rank_control(options, error, sizeof(error), &control) == PSGD_OK,
		"%s", error);
	return control;
}

static inline struct psgd_decision scene_decide(
	struct psgd_controller *control, const struct psgd_observation *seen)
{
	struct psgd_decision out = PSGD_INIT(psgd_decision);
	uint32_t ranks[4] = {77, 77, 77, 77};

	ck_assert_int_eq(control->ops->decide(control->self, seen, ranks, &out), PSGD_OK);
	for (size_t i = 0; i < seen->n_tensors; i++)
		ck_assert_uint_eq(ranks[i], out.rank);
	ck_assert_uint_eq(ranks[seen->n_tensors], 77);
	ck_assert_ptr_nonnull(out.regime);
	return out;
}

#endif
