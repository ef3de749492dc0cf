/* Softmax and cross-entropy. SPDX-License-Identifier: MIT */
#include "loss.h"

#include <math.h>

void loss_add(struct loss *loss, const float *scores, const uint16_t *labels, size_t n,
	size_t classes, float *diff)
{
	float share = 1.0f / (float)n;

	for (size_t i = 0; i < n; i++) {
		const float *row = scores + i * classes;
		size_t best = 0, label = labels[i];
		double total = 0.0, largest;

		for (size_t j = 1; j < classes; j++)
			best = row[j] > row[best] ? j : best;
		largest = row[best];
		for (size_t j = 0; j < classes; j++)
			total += exp(row[j] - largest);
		loss->sum += log(total) + largest - row[label];
		loss->correct += best == label;
		for (size_t j = 0; diff && j < classes; j++) {
			double p = exp(row[j] - largest) / total - (j == label);

			diff[i * classes + j] = (float)p * share;
		}
	}
	loss->samples += n;
}
