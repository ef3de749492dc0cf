/* SGD and its learning rates, by PyTorch's rules. SPDX-License-Identifier: MIT */
#include "optim.h"

#include <math.h>
#include <string.h>

static double scheduled(const struct psgd_config_training *training, unsigned epoch)
{
	unsigned drops = 0, period;

	if (strcmp(training->scheduler, "step") == 0)
		drops = training->step_size ? epoch / training->step_size : 0;
	if (strcmp(training->scheduler, "multistep") == 0)
		for (unsigned i = 0; i < training->milestones_count; i++)
			drops += epoch >= training->milestones[i];
	if (strcmp(training->scheduler, "cosine") == 0) {
		period = training->T_max ? training->T_max : training->epochs;
		return training->learning_rate * 0.5 * (1.0 + cos(M_PI * epoch / period));
	}
	return training->learning_rate * pow(training->gamma, drops);
}

double optim_learning_rate(const struct psgd_config_training *training, unsigned epoch)
{
	double from = training->warmup_start_lr, to = training->learning_rate;

	if (epoch < training->warmup_epochs)
		return from + (to - from) * epoch / training->warmup_epochs;
	return scheduled(training, epoch - training->warmup_epochs);
}

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
