/* SGD and its learning rates, by PyTorch's rules. SPDX-License-Identifier: MIT */
#ifndef IMAGE_OPTIM_H
#define IMAGE_OPTIM_H

#include <stddef.h>

#include <psgd/experiment/config.h>

/*
 * The learning rate of an epoch; it is constant within one. In the first warmup_epochs it rises
 * linearly from warmup_start_lr to learning_rate, and the scheduler's own epochs count from there:
 * after 5 epochs of warm-up a milestone at 150 acts at epoch 155.
 */
double optim_learning_rate(const struct psgd_config_training *training, unsigned epoch);

/*
 * One step over n values, in one pass:
 *     g = grad + weight_decay * p;  buffer = momentum * buffer + g;
 *     p -= rate * (nesterov ? g + momentum * buffer : buffer)
 * The buffer begins as zeros. Every tensor decays, biases and batch norm too.
 */
void optim_step(const struct psgd_config_training *training, double rate, float *restrict params,
	const float *restrict grads, float *restrict buffer, size_t n);

#endif
