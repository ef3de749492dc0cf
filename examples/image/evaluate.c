/* Evaluation on the test split, shared by the workers. SPDX-License-Identifier: MIT */
#include "trainer.h"

#include <string.h>

/* Fewer of large images: a batch's values are memory. */
static size_t evaluation_batch(const struct nn_shape *image)
{
	size_t most = EVALUATION_PIXELS / (size_t)(image->h * image->w);

	return most < 1 ? 1 : most > EVALUATION_BATCH ? EVALUATION_BATCH : most;
}

static psgd_status evaluate_range(
	struct trainer *trainer, size_t begin, size_t end, struct loss *loss)
{
	struct net *net = &trainer->net;
	size_t batch = evaluation_batch(&net->in);

	while (begin < end) {
		size_t n = end - begin < batch ? end - begin : batch;
		struct net_plan *plan = net_prepare(net, (int64_t)n, false);
		psgd_status status;

		if (!plan)
			return image_fail(trainer->error, PSGD_ERR_NOMEM, "%s", net->error.text);
		for (size_t i = 0; i < n; i++)
			trainer->indices[i] = (uint32_t)(begin + i);
		data_gather(&trainer->data, &trainer->data.test, trainer->indices, NULL, n,
			plan->input, trainer->labels);
		status = net_forward(net, plan, trainer->worker0_running);
		if (status)
			return image_fail(trainer->error, status, "%s", net->error.text);
		loss_add(loss, plan->output, trainer->labels, n, trainer->config->model.num_classes,
			NULL);
		begin += n;
	}
	return PSGD_OK;
}

psgd_status evaluate(struct trainer *trainer, struct evaluation *out)
{
	size_t count = trainer->data.test.count, worker = trainer->launch->worker;
	size_t n_workers = trainer->launch->n_workers, bytes;
	struct loss loss = {0};
	double sums[4];
	psgd_status status = PSGD_OK;

	bytes = trainer->net.n_running * sizeof(float);
	memcpy(trainer->worker0_running, trainer->net.running, bytes);
	if (bytes > 0)
		status = psgd_session_broadcast(
			trainer->session, trainer->worker0_running, bytes, 0);
	if (status)
		return trainer_fail(trainer, status, "broadcast of batch norm statistics");
	status = evaluate_range(
		trainer, count * worker / n_workers, count * (worker + 1) / n_workers, &loss);
	if (status)
		return status;
	sums[0] = (double)loss.correct;
	sums[1] = (double)loss.samples;
	sums[2] = trainer->epoch_loss.sum;
	sums[3] = (double)trainer->epoch_loss.samples;
	status = psgd_session_sum(trainer->session, sums, 4);
	if (status)
		return trainer_fail(trainer, status, "sum of the evaluation");
	out->accuracy = 100.0 * sums[0] / sums[1];
	out->train_loss = sums[2] / sums[3];
	return PSGD_OK;
}
