/* The models that the trainer knows. SPDX-License-Identifier: MIT */
#ifndef IMAGE_MODELS_H
#define IMAGE_MODELS_H

#include "net.h"

#include <psgd/experiment/config.h>

/*
 * Builds the model of a configuration for images of shape `in`. nn NULL: shapes only.
 * The net is ended by net_free, also on failure. Errors: CONFIG, NOMEM.
 */
psgd_status model_build(struct net *net, struct nn *nn, const struct psgd_config_model *config,
	const struct nn_shape *in, uint64_t seed, struct image_error *error);

#endif
