/* One optimizer step. SPDX-License-Identifier: MIT */
#include "step.h"

#include <inttypes.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "ahead.h"
#include "optim.h"

#define MAX_NONFINITE_STEPS 10

/* Of as many values as there are parameters. */
static psgd_status hash_values(struct trainer *t, float *values, uint64_t *out)
{
	size_t n = t->net.n_params;
	float *view;
	psgd_status status = nn_view(t->nn, values, n, &view, t->error);

	if (status)
		return status;
	*out = XXH3_64bits(view, n * sizeof(float));
	return nn_view_end(t->nn, view, values, n, false, t->error);
}

psgd_status step_params_hash(struct trainer *t, uint64_t *out)
{
	psgd_status status = hash_values(t, t->net.params, out);

	if (!status && *out == 0)
		*out = 1;
	return status;
}

psgd_status step_state_hash(struct trainer *t, uint64_t *out)
{
	uint64_t parts[] = {0, 0, t->iteration, t->epoch, t->batch};
	psgd_status status = step_params_hash(t, &parts[0]);

	if (!status)
		status = hash_values(t, t->momentum, &parts[1]);
	*out = XXH3_64bits(parts, sizeof(parts));
	return status;
}

/*
 * Forward, loss, backward; of the step's last batch buckets leave while backward goes on. The next
 * batch, if there is one, is made while a device computes.
 */
static psgd_status compute(
	struct trainer *t, uint64_t epoch, size_t i, bool more, struct loss *loss)
{
	psgd_status status = ahead_take(t, epoch, i);

	if (status)
		return status;
	t->net.error.text[0] = 0;
	status = net_forward(&t->net, t->plan, NULL);
	if (!status && more) {
		status = ahead_load(t, epoch, i + 1);
		if (status)
			return status;
	}
	if (!status)
		status = net_output(&t->net, t->plan);
	if (!status) {
		loss_add(loss, t->plan->output, t->ahead.labels, t->loader.sampler.batch,
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
		status = compute(t, step->epoch, step->first + i,
			i + 1 < step->n_batches || step->more, loss);
	return status;
}

/*
 * Gradients that are not finite, which all workers see alike, are left out; when no others come
 * the parameters are lost already.
 */
static psgd_status update(struct trainer *t, double rate, const struct psgd_report *report)
{
	if (!report->n_nonfinite) {
		psgd_status status = optim_net(&t->net, &t->config->training, rate, t->momentum);

		t->nonfinite_steps = 0;
		return status ? image_fail(t->error, status, "%s", t->net.error.text) : PSGD_OK;
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
		status = step_params_hash(t, &info.param_hash);
	if (status)
		return status;
	status = psgd_session_finish_step(t->session, &info, report);
	if (status)
		return trainer_fail(t, status, "step");
	return update(t, step->learning_rate, report);
}
