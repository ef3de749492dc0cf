/*
 * Workers whose kernels differ, in plain C, AVX2 and AVX-512, hold bit-equal parameters after every
 * step, through changes of the rank. Where the CPU lacks one of them the next best runs.
 */
#include <string.h>

#include "grads.h"
#include "support/suite.h"

#define STEPS 50
#define EVERY 10
#define CPUS 3

static const uint32_t without[CPUS] = {PSGD_CPU_FEATURES, PSGD_CPU_AVX512, 0};

struct run {
	uint64_t hash[CPUS][STEPS];
	float first_loss[CPUS], last_loss[CPUS];
};

/* Gradient of half the squared distance to a target of the worker's own, with noise. */
static float distances(
	const struct grads *params, const struct grads *targets, struct grads *g, struct rng *rng)
{
	double loss = 0.0;

	for (int i = 0; i < TENSORS; i++) {
		for (int64_t k = 0; k < psgd_tensor_count(&grads_tensors[i]); k++) {
			float d = params->data[i][k] - targets->data[i][k];

			loss += 0.5 * (double)d * (double)d;
			g->data[i][k] = d + 0.1f * rng_float(rng);
		}
	}
	return (float)loss;
}

static void descend(struct grads *params, struct grads *momentum, const struct grads *g)
{
	for (int i = 0; i < TENSORS; i++) {
		for (int64_t k = 0; k < psgd_tensor_count(&grads_tensors[i]); k++) {
			momentum->data[i][k] = 0.8f * momentum->data[i][k] + g->data[i][k];
			params->data[i][k] -= 0.02f * momentum->data[i][k];
		}
	}
}

static psgd_status set_rank(struct member *me, int step)
{
	static const uint32_t of_phase[STEPS / EVERY] = {4, 1, 8, 0, 2};
	uint32_t ranks[TENSORS];

	for (int i = 0; i < TENSORS; i++)
		ranks[i] = of_phase[step / EVERY];
	return psgd_session_set_ranks(me->session, ranks, TENSORS);
}

static psgd_status train(struct member *me, void *user)
{
	struct grads params, momentum, targets, g;
	struct rng rng = {1000 + (uint64_t)me->worker};
	struct run *run = user;
	psgd_status status = PSGD_OK;

	grads_init(&params);
	grads_init(&momentum);
	grads_init(&targets);
	grads_init(&g);
	grads_fill(&targets, me->worker);
	for (int step = 0; step < STEPS && status >= 0; step++) {
		struct psgd_step_info info = PSGD_INIT(psgd_step_info);
		struct psgd_report report = PSGD_INIT(psgd_report);
		float loss = distances(&params, &targets, &g, &rng);

		*(step ? &run->last_loss[me->worker] : &run->first_loss[me->worker]) = loss;
		info.param_hash = grads_hash(&params) | 1;
		if (step % EVERY == 0)
			status = set_rank(me, step);
		if (status >= 0)
			status = grads_step(me, &g, &info, &report);
		descend(&params, &momentum, &g);
		run->hash[me->worker][step] = grads_hash(&params);
	}
	grads_free(&g);
	grads_free(&targets);
	grads_free(&momentum);
	grads_free(&params);
	return status;
}

START_TEST(parameters_are_bit_equal)
{
	struct psgd_powersgd_options powersgd = PSGD_INIT(psgd_powersgd_options);
	struct psgd_session_options session = PSGD_INIT(psgd_session_options);
	struct team_options o = grads_team(&powersgd);
	struct run run = {0};
	struct team team;

	powersgd.min_ratio = 1.0;
	session.check_every = 1;
	o.session = &session;
	o.without = without;
	team_run(&team, CPUS, &o, train, &run);
	for (uint32_t w = 0; w < CPUS; w++) {
		ck_assert_msg(team.members[w].status == PSGD_OK, "worker %u: %s", w,
			team.members[w].error);
		ck_assert_mem_eq(run.hash[w], run.hash[0], sizeof(run.hash[0]));
		/* It is a run that goes somewhere. */
		ck_assert_float_lt(run.last_loss[w], run.first_loss[w] * 0.9f);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("cpus");
	TCase *c = tcase_create("cpus");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, parameters_are_bit_equal);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
