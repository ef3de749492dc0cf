/* SGD by PyTorch's rules. SPDX-License-Identifier: MIT */
#include "optim.h"

void optim_step(const struct psgd_config_training *training, double rate, float *restrict params,
	const float *restrict grads, float *restrict buffer, size_t n)
{
	float lr = (float)rate, momentum = (float)training->momentum;
	float decay = (float)training->weight_decay;

	if (training->nesterov) {
		for (size_t i = 0; i < n; i++) {
			float g = grads[i] + decay * params[i];
			float b = momentum * buffer[i] + g;

			buffer[i] = b;
			params[i] -= lr * (g + momentum * b);
		}
		return;
	}
	for (size_t i = 0; i < n; i++) {
		float b = momentum * buffer[i] + (grads[i] + decay * params[i]);

		buffer[i] = b;
		params[i] -= lr * b;
	}
}

psgd_status optim_net(
	struct net *net, const struct psgd_config_training *training, double rate, float *buffer)
{
	const struct nn_sgd sgd = {.rate = (float)rate,
		.momentum = (float)training->momentum,
		.decay = (float)training->weight_decay,
		.nesterov = training->nesterov};
	psgd_status status = PSGD_OK;

	nn_range(net->nn, "optimizer");
	if (net->nn->device)
		status = net->nn->device->sgd(
			net->nn, &sgd, net->params, net->grads, buffer, net->n_params, &net->error);
	else
		optim_step(training, rate, net->params, net->grads, buffer, net->n_params);
	nn_range_end(net->nn);
	return status;
}
