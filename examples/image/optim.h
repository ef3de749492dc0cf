/* SGD by PyTorch's rules. SPDX-License-Identifier: MIT */
#ifndef IMAGE_OPTIM_H
#define IMAGE_OPTIM_H

#include "net.h"

#include <psgd/experiment/config.h>

/*
 * One step over n values, in one pass:
 *     g = grad + weight_decay * p;  buffer = momentum * buffer + g;
 *     p -= rate * (nesterov ? g + momentum * buffer : buffer)
 * The buffer begins as zeros. Every tensor decays, biases and batch norm too.
 */
void optim_step(const struct psgd_config_training *training, double rate, float *restrict params,
	const float *restrict grads, float *restrict buffer, size_t n);

/* That step of all parameters of a net, wherever they are; so is the buffer. */
psgd_status optim_net(
	struct net *net, const struct psgd_config_training *training, double rate, float *buffer);

#endif
