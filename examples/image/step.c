/* One optimizer step. SPDX-License-Identifier: MIT */
#include "step.h"

#include <inttypes.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "optim.h"

#define MAX_NONFINITE_STEPS 10

uint64_t step_params_hash(const struct net *net)
{
	uint64_t hash = XXH3_64bits(net->params, net->n_params * sizeof(float));

	return hash ? hash : 1;
}

uint64_t step_state_hash(const struct trainer *t)
{
	const uint64_t parts[] = {step_params_hash(&t->net),
		XXH3_64bits(t->momentum, t->net.n_params * sizeof(float)), t->iteration, t->epoch,
		t->batch};

	return XXH3_64bits(parts, sizeof(parts));
}

/* Forward, loss, backward; of the step's last batch buckets leave while backward goes on. */
static psgd_status compute(struct trainer *t, uint64_t epoch, size_t i, struct loss *loss)
{
	psgd_status status =
		loader_train(&t->loader, epoch, i, t->plan->input, t->labels, t->error);

	if (status)
		return status;
	t->net.error.text[0] = 0;
	status = net_forward(&t->net, t->plan, NULL);
	if (!status) {
		loss_add(loss, t->plan->output, t->labels, t->loader.sampler.batch,
			t->config->model.num_classes, t->plan->diff_start);
		status = net_backward(&t->net, t->plan, accumulate_on_grads, &t->accumulate);
	}
	if (status && t->net.error.text[0])
		return image_fail(t->error, status, "%s", t->net.error.text);
	return status ? trainer_fail(t, status, "exchange") : PSGD_OK;
}

static psgd_status compute_all(struct trainer *t, const struct step *step, struct loss *loss)
{
	psgd_status status = PSGD_OK;

	accumulate_begin(&t->accumulate, step->n_batches);
	buckets_begin(&t->buckets);
	for (size_t i = 0; !status && i < step->n_batches; i++)
		status = compute(t, step->epoch, step->first + i, loss);
	return status;
}

/*
 * Gradients that are not finite, which all workers see alike, are left out; when no others come
 * the parameters are lost already.
 */
static psgd_status update(struct trainer *t, double rate, const struct psgd_report *report)
{
	if (!report->n_nonfinite) {
		t->nonfinite_steps = 0;
		optim_step(&t->config->training, rate, t->net.params, t->net.grads, t->momentum,
			t->net.n_params);
		return PSGD_OK;
	}
	if (++t->nonfinite_steps < MAX_NONFINITE_STEPS)
		return PSGD_OK;
	return image_fail(t->error, PSGD_ERR_FAILED,
		"gradients were not finite in %u iterations in a row, the last is %" PRIu64
		"; try a lower training.learning_rate",
		t->nonfinite_steps, t->iteration);
}

psgd_status step_run(
	struct trainer *t, const struct step *step, struct loss *loss, struct psgd_report *report)
{
	struct psgd_step_info info = PSGD_INIT(psgd_step_info);
	unsigned check_every = t->config->communication.check_every;
	psgd_status status = compute_all(t, step, loss);

	if (status)
		return status;
	info.epoch = step->epoch;
	info.learning_rate = step->learning_rate;
	info.epoch_end = step->epoch_end;
	/* The optimizer has not run yet: these are the parameters that the step began with. */
	if (check_every && !step->trial && t->iteration % check_every == 0)
		info.param_hash = step_params_hash(&t->net);
	status = psgd_session_finish_step(t->session, &info, report);
	if (status)
		return trainer_fail(t, status, "step");
	return update(t, step->learning_rate, report);
}
