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
