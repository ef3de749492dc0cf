/* Drives a controller through a run as the engine does. */
#ifndef TESTS_CONTROL_DRIVE_H
#define TESTS_CONTROL_DRIVE_H

#include "scene.h"

#define MAX_STEPS 4000

/* A run as the engine drives it: decide is called when needs says so, and before step 0. */
struct run {
	uint64_t steps_per_epoch, n_steps;
	double (*rate)(uint64_t step, uint64_t epoch);
	double (*norm)(uint64_t step, uint64_t epoch); /* of the sum that ends there */
	uint32_t rank[MAX_STEPS + 1];		       /* in force in a step */
	const char *regime[MAX_STEPS + 1]; /* of the decision for it; NULL: there was none */
	double value[MAX_STEPS + 1];
	uint32_t decisions, norms, resets;
	uint64_t in_sum;
};

static inline double flat(uint64_t step, uint64_t epoch)
{
	(void)step, (void)epoch;
	return 0.1;
}

static inline void drive(struct psgd_controller *control, struct run *run)
{
	uint32_t ranks[1];
	struct psgd_observation seen = scene_first(ranks);
	struct psgd_decision d = scene_decide(control, &seen);

	ck_assert_uint_le(run->n_steps, MAX_STEPS);
	run->rank[0] = d.rank;
	run->regime[0] = d.regime;
	for (uint64_t i = 0; i < run->n_steps; i++) {
		uint64_t epoch = i / run->steps_per_epoch;
		bool end = i % run->steps_per_epoch == run->steps_per_epoch - 1;
		uint32_t needs = control->ops->needs(control->self, i, epoch, end);

		ck_assert_uint_eq(needs, control->ops->needs(control->self, i, epoch, end));
		run->rank[i + 1] = run->rank[i];
		run->in_sum += (needs & PSGD_NEED_GRAD_SUM) != 0;
		if (!(needs & PSGD_NEED_DECISION)) {
			ck_assert(!(needs & (PSGD_NEED_GRAD_NORM | PSGD_NEED_TIMING)));
			continue;
		}
		seen = PSGD_INIT(psgd_observation);
		ranks[0] = run->rank[i];
		seen.step = i;
		seen.epoch = epoch;
		seen.epoch_end = end;
		seen.learning_rate = (run->rate ? run->rate : flat)(i, epoch);
		seen.grad_sum_norm =
			needs & PSGD_NEED_GRAD_NORM ? run->norm(i, epoch) : (double)NAN;
		seen.grad_sum_steps = run->in_sum;
		seen.ranks = ranks;
		seen.n_tensors = 1;
		seen.n_workers = 2;
		d = scene_decide(control, &seen);
		run->rank[i + 1] = d.rank;
		run->regime[i + 1] = d.regime;
		run->value[i + 1] = d.value;
		run->decisions++;
		run->norms += (needs & PSGD_NEED_GRAD_NORM) != 0;
		run->resets += d.reset_grad_sum;
		if (d.reset_grad_sum)
			run->in_sum = 0;
	}
}

static inline struct psgd_rank_control_options choose(enum psgd_choice_kind kind)
{
	struct psgd_rank_control_options options = PSGD_INIT(psgd_rank_control_options);

	options.choice = kind;
	return options;
}

#endif
