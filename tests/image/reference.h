/* A net in float64, by definition rather than by speed. */
#ifndef TESTS_IMAGE_REFERENCE_H
#define TESTS_IMAGE_REFERENCE_H

#include "examples/image/net.h"

/*
 * Output of `net` for `batch` images, from float64 parameters laid out as net->params. running:
 * statistics for inference, laid out as net->running; NULL: those of the batch. *out is freed by
 * the caller.
 */
double *reference_forward(const struct net *net, const double *params, const float *images,
	size_t batch, const float *running);

#endif
