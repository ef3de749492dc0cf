/* The models that the trainer knows. SPDX-License-Identifier: MIT */
#ifndef IMAGE_MODELS_H
#define IMAGE_MODELS_H

#include "net.h"

/*
 * Builds model `name` ("mlp", "cnn") for images of shape `in`. nn NULL: shapes only.
 * The net is ended by net_free, also on failure. Errors: CONFIG, NOMEM.
 */
psgd_status model_build(struct net *net, struct nn *nn, const char *name, const struct nn_shape *in,
	unsigned classes, uint64_t seed, struct image_error *error);

#endif
