/* Evaluation on the test split, shared by the workers. SPDX-License-Identifier: MIT */
#include "trainer.h"

static psgd_status evaluate_part(struct trainer *trainer, struct loss *loss)
{
	struct net *net = &trainer->net;
	size_t n, n_good;

	for (size_t i = 0; (n = loader_test_size(&trainer->loader, i)) > 0; i++) {
		struct net_plan *plan = net_prepare(net, (int64_t)n, false);
		psgd_status status;

		if (!plan)
			return image_fail(trainer->error, net->unprepared, "%s", net->error.text);
		status = loader_test(
			&trainer->loader, i, plan->input, trainer->labels, &n_good, trainer->error);
		if (status)
			return status;
		status = net_forward(net, plan, trainer->worker0_running);
		if (!status)
			status = net_output(net, plan);
		if (status)
			return image_fail(trainer->error, status, "%s", net->error.text);
		loss_add(loss, plan->output, trainer->labels, n_good,
			trainer->config->model.num_classes, NULL);
	}
	return PSGD_OK;
}

psgd_status evaluate(struct trainer *trainer, struct evaluation *out)
{
	size_t n = trainer->net.n_running;
	struct loss loss = {0};
	double sums[5];
	psgd_status status = nn_copy(
		trainer->nn, trainer->worker0_running, trainer->net.running, n, trainer->error);

	if (!status)
		status = trainer_share(
			trainer, trainer->worker0_running, n, "broadcast of batch norm statistics");
	if (status)
		return status;
	status = evaluate_part(trainer, &loss);
	if (status)
		return status;
	sums[0] = (double)loss.correct;
	sums[1] = (double)loss.samples;
	sums[2] = trainer->sums.loss.sum;
	sums[3] = (double)trainer->sums.loss.samples;
	sums[4] = (double)trainer->loader.skipped;
	trainer->loader.skipped = 0;
	status = psgd_session_sum(trainer->session, sums, 5);
	if (status)
		return trainer_fail(trainer, status, "sum of the evaluation");
	if (sums[1] < 1.0)
		return image_fail(trainer->error, PSGD_ERR_CONFIG,
			"no image of the test split can be decoded");
	out->skipped = (uint64_t)sums[4];
	out->accuracy = 100.0 * sums[0] / sums[1];
	out->train_loss = sums[2] / sums[3];
	return PSGD_OK;
}
