/* Softmax and cross-entropy. SPDX-License-Identifier: MIT */
#ifndef IMAGE_LOSS_H
#define IMAGE_LOSS_H

#include <stddef.h>
#include <stdint.h>

struct loss {
	double sum; /* over the samples */
	size_t correct;
	size_t samples;
};

/*
 * Adds n samples with `classes` scores each to *loss. diff: gets the gradient of the mean loss of
 * these n; NULL: not wanted. May be scores.
 */
void loss_add(struct loss *loss, const float *scores, const uint16_t *labels, size_t n,
	size_t classes, float *diff);

#endif
